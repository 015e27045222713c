//! Checks lists of networks, those of the configuration and those of files.

use std::sync::Arc;

use ipnet::IpNet;

use super::Checker;
use crate::config::file::{self, Texts};
use crate::config::model::IpAccess;
use crate::config::problem::{Origin, Problem};
use crate::config::scalar::{List, Network};
use crate::config::tree::Path;
use crate::config::units;

/// Largest file with networks: more than 500 000 of them.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The most bad lines of one file that are told one by one: beyond that it is another kind of file.
const MAX_PROBLEMS: usize = 1000;

const LISTS: [&str; 4] = ["allow", "allow_file", "deny", "deny_file"];

impl Checker<'_> {
    /// The lists; `None` when nothing was written.
    pub(super) fn ip_access(
        &mut self,
        written: Option<&file::IpAccess>,
        at: &Path<'_>,
    ) -> Option<IpAccess> {
        let written = written?;
        let lists = LISTS.map(|key| at.key(key));
        if self.is_whole(at) && !lists.iter().any(|list| self.is_written(list)) {
            let what = "has no list, expected `allow`, `deny`, `allow_file` or `deny_file`";
            self.refuse(at, what);
        }
        let [allow, allow_file, deny, deny_file] = lists;
        let is_closed = self.is_written(&allow) || self.is_written(&allow_file);
        let mut allowed = self.networks(&written.allow, &allow);
        allowed.extend(self.networks_of_files(&written.allow_file, &allow_file));
        let mut denied = self.networks(&written.deny, &deny);
        denied.extend(self.networks_of_files(&written.deny_file, &deny_file));
        if is_closed && allowed.is_empty() && self.problems.is_empty() {
            let what = "allows nobody: every request is refused";
            self.warnings.push(format!("{at}: {what}"));
        }
        Some(IpAccess {
            allow: is_closed.then_some(allowed),
            deny: denied,
        })
    }

    fn networks(&mut self, written: &List<Network>, at: &Path<'_>) -> Vec<IpNet> {
        self.refuse_empty(written.is_empty(), at);
        written.iter().map(|(_, network)| network.0).collect()
    }

    /// An empty list would mean everybody to one reader and nobody to another.
    fn refuse_empty(&mut self, is_empty: bool, at: &Path<'_>) {
        if is_empty && self.is_written(at) && self.is_whole(at) {
            self.refuse(at, "is empty, expected at least one, or the key left out");
        }
    }

    fn networks_of_files(&mut self, written: &Texts, at: &Path<'_>) -> Vec<IpNet> {
        let mut found = Vec::new();
        match written {
            Texts::One(file) => self.networks_of_file(file, at, &mut found),
            Texts::Many(files) => {
                self.refuse_empty(files.is_empty(), at);
                for (index, file) in files.iter() {
                    self.networks_of_file(file, &at.item(index), &mut found);
                }
            }
        }
        found
    }

    fn networks_of_file(&mut self, file: &str, at: &Path<'_>, found: &mut Vec<IpNet>) {
        let expected = "a file with one network or address a line";
        let read = self.read_at_most(MAX_FILE_BYTES, file, expected);
        let Some(bytes) = self.accept(at, read) else {
            return;
        };
        let Some(text) = self.text_of_file(file, &bytes, at) else {
            return;
        };
        let name = self.name_of_file(file, at);
        let mut bad = 0;
        for (index, line) in text.lines().enumerate() {
            let Some(entry) = entry(line) else { continue };
            let invalid = match units::network(entry) {
                Ok(network) => {
                    found.push(network);
                    continue;
                }
                Err(invalid) => invalid,
            };
            bad += 1;
            if bad <= MAX_PROBLEMS {
                self.problems.push(Problem {
                    origin: Origin::File(Arc::clone(&name), index + 1),
                    key: String::new(),
                    what: invalid.to_string(),
                });
            }
        }
        if bad > MAX_PROBLEMS {
            let further = bad - MAX_PROBLEMS;
            self.refuse(at, format!("has {further} more bad lines, {expected}"));
        }
    }
}

/// What a line says, without its comment; `None`: nothing. Published lists write comments behind `#`
/// or `;`.
fn entry(line: &str) -> Option<&str> {
    let line = line.trim_start_matches('\u{feff}');
    let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
    (!entry.is_empty()).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::entry;

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        for (line, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            (" 192.0.2.1\t# the printer", Some("192.0.2.1")),
            ("192.0.2.0/24 ; SBL1", Some("192.0.2.0/24")),
            ("\u{feff}::1", Some("::1")),
            ("# nobody", None),
            ("; nobody", None),
            ("   ", None),
            ("", None),
        ] {
            assert_eq!(entry(line), expected, "{line:?}");
        }
    }
}
