//! Checks users and their passwords, those of the configuration and those of an `htpasswd` file.

use std::collections::HashMap;
use std::sync::Arc;

use super::keys::name;
use super::password_hash::password_hash;
use super::texts;
use crate::config::check::Checker;
use crate::config::file;
use crate::config::model::{Basic, BasicUser};
use crate::config::problem::{Invalid, Origin, Problem, quote};
use crate::config::scalar::Secret;
use crate::config::tree::Path;

/// Largest file with users: more than 100 000 of them.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The users that are sound, and where each name was written.
#[derive(Default)]
struct Found {
    users: Vec<BasicUser>,
    places: HashMap<Arc<str>, String>,
}

impl Found {
    /// Adds a user, unless there is one of this name.
    fn add(&mut self, user: BasicUser, place: String) -> Result<(), Invalid> {
        if let Some(first) = self.places.get(&user.name) {
            let what = format!(
                "{} is the name of another user ({first}) too",
                quote(&user.name)
            );
            return Err(Invalid::new(what, "it once"));
        }
        self.places.insert(Arc::clone(&user.name), place);
        self.users.push(user);
        Ok(())
    }
}

impl Checker<'_> {
    pub(super) fn basic(&mut self, written: &file::Basic, at: &Path<'_>) -> Option<Basic> {
        let list = at.key("users");
        let mut found = Found::default();
        for (index, user) in written.users.iter() {
            self.user(user, &list.item(index), &mut found);
        }
        if let Some(file) = &written.file {
            self.users_of_file(file, &at.key("file"), &mut found);
        }
        if written.users.is_empty() && written.file.is_none() && self.is_whole(at) {
            self.refuse(at, "has no user, expected `users` or `file`");
            return None;
        }
        Some(Basic { users: found.users })
    }

    fn user(&mut self, written: &file::BasicUser, at: &Path<'_>, found: &mut Found) {
        let name_at = at.key("name");
        let name = self.accept(&name_at, user_name(&written.name));
        let hash = self.accept(&at.key("hash"), password_hash(written.hash.reveal()));
        if let (Some(name), Some(())) = (name, hash) {
            let user = BasicUser {
                name,
                hash: written.hash.clone(),
                scopes: texts(&written.scopes),
                roles: texts(&written.roles),
            };
            let added = found.add(user, self.place(at));
            self.accept(&name_at, added);
        }
    }

    fn users_of_file(&mut self, file: &str, at: &Path<'_>, found: &mut Found) {
        let expected = "a file such as `htpasswd -B` writes";
        let read = self.read_at_most(MAX_FILE_BYTES, file, expected);
        let Some(bytes) = self.accept(at, read) else {
            return;
        };
        let Some(text) = self.text_of_file(file, &bytes, at) else {
            return;
        };
        let name = self.name_of_file(file, at);
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let added = match user(line) {
                Ok(None) => continue,
                Ok(Some(user)) => found.add(user, format!("{name}:{number}")),
                Err(invalid) => Err(invalid),
            };
            if let Err(invalid) = added {
                self.problems.push(Problem {
                    origin: Origin::File(Arc::clone(&name), number),
                    key: String::new(),
                    what: invalid.to_string(),
                });
            }
        }
    }
}

/// A line of an `htpasswd` file: `name:hash`, and a comment behind another colon. `None`: it says
/// nothing.
fn user(line: &str) -> Result<Option<BasicUser>, Invalid> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let Some((name, rest)) = line.split_once(':') else {
        return Err(Invalid::new("has no colon", "`name:hash`"));
    };
    let name = user_name(name)?;
    let hash = rest.split(':').next().unwrap_or_default();
    password_hash(hash).map_err(|invalid| Invalid {
        detail: format!("{}: the hash {}", quote(&name), invalid.detail),
        ..invalid
    })?;
    Ok(Some(BasicUser {
        name,
        hash: Secret::from(hash.to_owned()),
        scopes: Vec::new(),
        roles: Vec::new(),
    }))
}

/// RFC 7617 section 2: a colon would end the name.
fn user_name(text: &str) -> Result<Arc<str>, Invalid> {
    if text.contains(':') {
        let detail = format!("{} has a colon", quote(text));
        return Err(Invalid::new(detail, "a name without one"));
    }
    name(text)
}
