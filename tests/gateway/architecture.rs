//! What may import what. The table is the one of ARCHITECTURE.md; this test holds `src/` to it.

use std::path::{Path, PathBuf};

/// Each module and the modules of the crate that it may name. What is not listed here, sits above
/// these and may name anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("lifecycle", &[]),
    ("request_id", &[]),
    ("grpc", &[]),
    ("notify", &[]),
    ("message", &[]),
    ("upgrade", &["notify"]),
    ("supervise", &["notify", "upgrade"]),
    ("drain", &["config", "lifecycle", "notify", "upgrade"]),
    ("reply", &["lifecycle", "grpc", "message", "metrics"]),
    ("tls", &["config", "metrics"]),
    ("store", &["config", "metrics"]),
    ("overload", &["config", "metrics"]),
    ("filter", &["config", "message", "metrics", "reply", "tls"]),
    ("upstream", &["config", "filter", "metrics", "reply", "tls"]),
    (
        "route",
        &["config", "metrics", "filter", "upstream", "reply", "tls"],
    ),
    (
        "snapshot",
        &["config", "filter", "metrics", "upstream", "route", "reply"],
    ),
    (
        "context",
        &[
            "snapshot",
            "config",
            "filter",
            "metrics",
            "upstream",
            "route",
            "reply",
            "lifecycle",
            "request_id",
            "tls",
        ],
    ),
    (
        "forward",
        &["listener", "message", "metrics", "tls", "upstream"],
    ),
    ("access_log", &["context", "reply", "config", "metrics"]),
];

/// Where Pingora's sessions may be named: on the way to backends, in probes, and in the two small servers
/// of our own.
const SESSION: &[&str] = &["forward", "background", "admin", "demo"];

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// The lines that are code, without the tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .filter(|line| !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(
        found.len() > 5,
        "{} files in {}",
        found.len(),
        root.display()
    );
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(root).expect("below src");
            let first = inside.components().next().expect("a name");
            let module = Path::new(first.as_os_str()).file_stem().expect("a name");
            found.push(Source {
                module: module.to_string_lossy().into_owned(),
                text: std::fs::read_to_string(&path).expect("a source file"),
                path,
            });
        }
    }
}

/// The modules of the crate that a line names: after `crate::`, single or in braces.
fn named_modules(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    };
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let own = line[..at].chars().next_back();
        let part_of_a_word = own.is_some_and(|before| before.is_alphanumeric() || before == '_');
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            _ if part_of_a_word => {}
            Some(list) => {
                assert!(list.contains('}'), "one import a line: {line}");
                names.extend(list.split(',').map(word));
            }
            None => names.push(word(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == source.module) else {
            continue;
        };
        for line in source.code() {
            for name in named_modules(line) {
                if name != source.module && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}: {}", source.path.display(), line.trim()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that the table forbids:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn pingoras_sessions_are_named_where_they_are_used() {
    let mut wrong = Vec::new();
    for source in sources() {
        if SESSION.contains(&source.module.as_str()) {
            continue;
        }
        let names_it = |line: &&str| {
            line.split(|character: char| !(character.is_alphanumeric() || character == '_'))
                .any(|word| word == "Session" || word == "HttpSession" || word == "ServerSession")
        };
        let lines = source
            .code()
            .filter(names_it)
            .map(|line| line.trim().to_owned());
        wrong.extend(lines.map(|line| format!("{}: {line}", source.path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn imports_are_found_in_every_form() {
    assert_eq!(
        named_modules("use crate::config::model::Route;"),
        ["config"]
    );
    assert_eq!(
        named_modules("use crate::{reply, route::Router};"),
        ["reply", "route"]
    );
    assert_eq!(
        named_modules("pub(crate) fn a(b: crate::filter::C) {}"),
        ["filter"]
    );
    assert!(named_modules("use subcrate::config;").is_empty());
}
