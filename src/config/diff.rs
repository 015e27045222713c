//! What a change of the configuration means: what is added, removed and altered, and whether a
//! reload is enough for it.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::written::{Branch, Name};

/// Longest part of a value that is printed.
const SHOWN_CHARS: usize = 120;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The keys and names that lead to it.
    path: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Added,
    Removed,
    /// Before and after; a value that must not be shown is `None`.
    Altered(Option<String>, Option<String>),
}

/// All changes between two configurations, in order of their keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff(Vec<Change>);

impl Diff {
    /// From one tree to another.
    pub fn between(old: &Branch, new: &Branch) -> Self {
        let mut changes = Vec::new();
        compare(old, new, &mut Vec::new(), &mut changes);
        Self(changes)
    }

    /// The keys whose change takes effect only in another process: an upgrade or a restart.
    pub fn upgrade_needed(&self) -> Vec<String> {
        let needed = self.0.iter().filter(|change| change.needs_upgrade());
        let keys: BTreeSet<String> = needed.map(|change| spell(&change.path)).collect();
        keys.into_iter().collect()
    }
}

impl Change {
    /// Whether a running process cannot take the change over. The one place that knows.
    fn needs_upgrade(&self) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["server", key, ..] => !matches!(*key, "watch" | "zone"),
            ["listeners", _] | ["listeners", _, "name", ..] => true,
            ["admin", key, ..] => *key != "token",
            ["access_log" | "metrics", ..] | ["log", "format"] => true,
            _ => false,
        }
    }
}

fn compare(old: &Branch, new: &Branch, path: &mut Vec<String>, changes: &mut Vec<Change>) {
    match (old, new) {
        (Branch::Keys(old), Branch::Keys(new)) => {
            let keys: BTreeSet<&Name> = old.keys().chain(new.keys()).collect();
            for key in keys {
                // What one side hides, the other does not tell either.
                let sides = [old, new].map(|side| side.get_key_value(key));
                let mut names = sides.into_iter().flatten().map(|(name, _)| name);
                let hidden = names.find(|name| name.is_hidden());
                path.push(hidden.unwrap_or(key).shown().to_owned());
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => compare(old, new, path, changes),
                    (old, new) => one_sided(old, new, path, changes),
                }
                path.pop();
            }
        }
        (old, new) if values(old) != values(new) => {
            changes.push(altered(Some(old), Some(new), path));
        }
        _ => {}
    }
}

/// What is on one side alone: an item that came or went, or a key that has a value now or had one.
fn one_sided(
    old: Option<&Branch>,
    new: Option<&Branch>,
    path: &[String],
    changes: &mut Vec<Change>,
) {
    let is_item = matches!(old.or(new), Some(Branch::Keys(_)));
    let kind = if old.is_some() {
        Kind::Removed
    } else {
        Kind::Added
    };
    changes.push(if is_item {
        let path = path.to_vec();
        Change { path, kind }
    } else {
        altered(old, new, path)
    });
}

fn altered(old: Option<&Branch>, new: Option<&Branch>, path: &[String]) -> Change {
    let path = path.to_vec();
    let kind = Kind::Altered(shown(old), shown(new));
    Change { path, kind }
}

/// The tree without its marks: where a value came from is no difference.
fn values(branch: &Branch) -> Value {
    match branch {
        Branch::Leaf { value, .. } => value.clone(),
        Branch::Keys(keys) => {
            let pairs = keys.iter();
            let pairs = pairs.map(|(key, below)| (key.shown().to_owned(), values(below)));
            Value::Object(pairs.collect())
        }
    }
}

fn hides(branch: &Branch) -> bool {
    match branch {
        Branch::Leaf { hidden, .. } => *hidden,
        Branch::Keys(keys) => keys.values().any(hides),
    }
}

fn shown(branch: Option<&Branch>) -> Option<String> {
    let Some(branch) = branch else {
        return Some("(none)".to_owned());
    };
    if hides(branch) {
        return None;
    }
    let text = match values(branch) {
        Value::String(text) if is_plain(&text) => text,
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN_CHARS {
        return Some(text);
    }
    let short: String = text.chars().take(SHOWN_CHARS).collect();
    Some(short + "…")
}

/// Whether a text can stand on a line without quotes.
fn is_plain(text: &str) -> bool {
    let ordinary = |c: char| !c.is_control() && c != '"';
    !text.is_empty() && text.trim() == text && text.chars().all(ordinary)
}

/// A path as messages have it: names of items in brackets.
fn spell(path: &[String]) -> String {
    match path {
        [list, name, rest @ ..] if is_list(list) => below(format!("{list}[{name}]"), rest),
        [first, rest @ ..] => below(first.clone(), rest),
        [] => String::new(),
    }
}

fn below(first: String, rest: &[String]) -> String {
    match rest {
        [key, name, rest @ ..] if key == "backends" => {
            below(format!("{first}.backends[{name}]"), rest)
        }
        [key, rest @ ..] => below(format!("{first}.{key}"), rest),
        [] => first,
    }
}

fn is_list(key: &str) -> bool {
    matches!(key, "routes" | "upstreams" | "listeners")
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = spell(&self.path);
        match &self.kind {
            Kind::Added => write!(f, "+ {path}"),
            Kind::Removed => write!(f, "- {path}"),
            Kind::Altered(Some(old), Some(new)) => write!(f, "~ {path}: {old} → {new}"),
            Kind::Altered(..) => write!(f, "~ {path}: changed"),
        }
    }
}

impl fmt::Display for Diff {
    /// One line a change, and the verdict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.0 {
            writeln!(f, "{change}")?;
        }
        let upgrade = self.upgrade_needed();
        if self.0.is_empty() {
            writeln!(f, "no change")
        } else if upgrade.is_empty() {
            writeln!(f, "a reload is enough")
        } else {
            writeln!(f, "an upgrade is needed: {}", upgrade.join(", "))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::path::Path;

    use super::super::{FixedEnv, parse};
    use super::*;

    fn diff_in(old: &str, new: &str, env: &FixedEnv) -> String {
        let tree = |text: &str| {
            let loaded = parse(text, "test", Path::new("."), env);
            loaded.unwrap_or_else(|e| panic!("{e}")).written.whole()
        };
        Diff::between(&tree(old), &tree(new)).to_string()
    }

    fn diff(old: &str, new: &str) -> String {
        let env = FixedEnv::default()
            .with_var("ONE", "first-secret")
            .with_var("TWO", "second-secret");
        diff_in(old, new, &env)
    }

    const ROUTE: &str = "routes: [{ name: a, upstream: u }]\n";
    const UPSTREAM: &str = "upstreams: { u: { backends: ['127.0.0.1:1'] } }\n";

    #[test]
    fn every_key_at_the_top_is_compared() {
        let text = format!(
            "{ROUTE}{UPSTREAM}redis: {{ url: 'redis://cache' }}\n\
             cors: {{ allow_origins: ['*'] }}\nip_access: {{ deny: [192.0.2.0/24] }}"
        );
        let loaded = parse(&text, "test", Path::new("."), &FixedEnv::default());
        let tree = loaded.unwrap_or_else(|e| panic!("{e}")).written.whole();
        let Branch::Keys(compared) = tree else {
            panic!("a single value")
        };
        let schema = crate::config::schema();
        for key in schema["properties"].as_object().into_iter().flatten() {
            assert!(compared.contains_key(&key.0.clone().into()), "{}", key.0);
        }
    }

    #[test]
    fn what_is_written_otherwise_and_means_the_same_is_no_change() {
        let old =
            "routes: [{ name: a, match: { path: /a }, respond: {} }, { name: b, respond: {} }]";
        let new = "# a word\nlimits: { uri_size: 8192 }\nserver: {}\n\
                   routes: [{ name: b, respond: {} }, { name: a, match: { path: /a }, respond: { status: 200 } }]";
        assert_eq!(diff(old, new), "no change\n");
    }

    #[test]
    fn routes_upstreams_and_backends_go_by_name() {
        let old = "upstreams: { u: { backends: ['127.0.0.1:1', '127.0.0.1:2'] } }\n\
                   routes: [{ name: a, upstream: u }, { name: b, match: { path: /b }, upstream: u }]";
        let new = "upstreams:\n  u: { backends: [{ address: '127.0.0.1:2', weight: 3 }, '127.0.0.1:1'] }\n  \
                   w: { backends: ['127.0.0.1:3'] }\n\
                   routes: [{ name: c, match: { path: /b }, upstream: w }, { name: a, upstream: w }]";
        assert_eq!(
            diff(old, new),
            "~ routes[a].upstream: u → w\n- routes[b]\n+ routes[c]\n\
             ~ upstreams[u].backends[127.0.0.1:2].weight: 1 → 3\n+ upstreams[w]\n\
             a reload is enough\n"
        );
    }

    #[test]
    fn what_the_process_is_made_of_needs_an_upgrade() {
        let old = format!("{UPSTREAM}{ROUTE}");
        let new = format!(
            "server: {{ threads: 3, watch: false }}\nlog: {{ level: debug, format: json }}\n\
             listeners: [{{ address: '127.0.0.1:9' }}]\naccess_log: {{ enabled: false }}\n\
             limits: {{ max_connections: 7 }}\n{old}"
        );
        let text = diff(&old, &new);
        let expected = "an upgrade is needed: access_log.enabled, listeners[0.0.0.0:8080], \
                        listeners[127.0.0.1:9], log.format, server.threads\n";
        assert!(text.ends_with(expected), "{text}");
        for line in [
            "~ server.threads: (none) → 3",
            "~ server.watch: true → false",
            "~ log.level: info → debug",
            "~ limits.max_connections: 50000 → 7",
            "- listeners[0.0.0.0:8080]",
            "+ listeners[127.0.0.1:9]",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn items_are_called_as_they_were_written() {
        let env = |host: &str| FixedEnv::default().with_var("HOSTX", host);
        let backends = |one: &str| {
            format!("upstreams: {{ u: {{ backends: [{one}, '127.0.0.1:1'] }} }}\n{ROUTE}")
        };
        let alone = format!("{UPSTREAM}{ROUTE}");
        let text = diff_in(&alone, &backends("'${HOSTX}:3000'"), &env("10.77.0.9"));
        let expected = "+ upstreams[u].backends[${HOSTX}:3000]\na reload is enough\n";
        assert_eq!(text, expected);
        let old = backends("'${HOSTX}:3000'");
        let new = backends("{ address: '${HOSTX}:3000', weight: 7 }");
        let text = diff_in(&old, &new, &env("10.77.0.9"));
        let expected = "~ upstreams[u].backends[${HOSTX}:3000].weight: changed\n";
        assert!(text.starts_with(expected), "{text}");
        // Where the address came from is no difference.
        let same = diff_in(&old, &backends("'10.77.0.9:3000'"), &env("10.77.0.9"));
        assert_eq!(same, "no change\n");
    }

    #[test]
    fn listeners_and_routes_are_called_as_they_were_written_too() {
        let env = FixedEnv::default()
            .with_var("ADDRESS", "10.77.0.9")
            .with_var("HOSTX", "hidden.test")
            .with_var("NAME", "secretive");
        let old = "listeners: [{ address: '127.0.0.1:1' }]\nroutes: [{ name: a, respond: {} }]";
        let new = "listeners: [{ address: '${ADDRESS}:80' }]\n\
                   routes: [{ match: { host: '${HOSTX}' }, respond: {} }, \
                   { name: '${NAME}', match: { path: /b }, respond: {} }, \
                   { match: { path: /c }, upstream: 'http://${ADDRESS}:3000' }]";
        let text = diff_in(old, new, &env);
        for line in [
            "+ listeners[${ADDRESS}:80]\n",
            "+ routes[0]\n",
            "+ routes[${NAME}]\n",
            "+ routes[/c]\n",
            "an upgrade is needed: listeners[${ADDRESS}:80], listeners[127.0.0.1:1]\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        for hidden in ["10.77", "hidden.test", "secretive"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }

    #[test]
    fn secrets_and_what_came_from_elsewhere_are_never_shown() {
        let with = |token: &str, body: &str| {
            format!(
                "admin: {{ token: {token} }}\nroutes: [{{ name: a, respond: {{ body: '{body}' }} }}]"
            )
        };
        let text = diff(&with("plain-one", "${ONE}"), &with("plain-two", "${TWO}"));
        assert_eq!(
            text,
            "~ admin.token: changed\n~ routes[a].respond.body: changed\na reload is enough\n"
        );
        let same = diff(&with("first-secret", "x"), &with("'${ONE}'", "x"));
        assert_eq!(same, "no change\n");
    }
}
