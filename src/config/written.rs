//! A configuration as it was written, defaults filled in, as a tree that can be compared.
//!
//! What has a name or an address is found by it, so that a moved item is no change. Values that
//! came from elsewhere, and secrets, are marked: nothing that is made from the tree shows them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::file::{File, Listener};
use super::model::Config;
use super::schema::{Kind, alternatives};
use super::tree::{Content, Node, Path};

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    file: Arc<File>,
    /// The names of the routes, in the order of the file.
    routes: Arc<[Arc<str>]>,
    /// The paths of values that are not shown, and what was written there.
    hidden: Arc<BTreeMap<String, Arc<str>>>,
}

/// A key, or what an item is called.
#[derive(Clone, Debug)]
pub struct Name {
    /// What tells it from others.
    text: String,
    /// What is shown of it, when the text came from elsewhere.
    shown: Option<String>,
}

impl Name {
    /// What may be shown.
    pub fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.text)
    }

    /// Whether the text must not be shown.
    pub fn is_hidden(&self) -> bool {
        self.shown.is_some()
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        let shown = None;
        Self { text, shown }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

/// A tree of keys and values. Names stand in the place of the numbers of items.
#[derive(Clone, Debug, PartialEq)]
pub enum Branch {
    /// A value, or a list of values.
    Leaf {
        /// The value.
        value: Value,
        /// Whether it must not be shown.
        hidden: bool,
    },
    /// What is below, by key or name.
    Keys(BTreeMap<Name, Branch>),
}

impl Written {
    pub(super) fn new(file: File, config: &Config, tree: &Node, schema: &Value) -> Self {
        let mut hidden = BTreeMap::new();
        collect_hidden(tree, schema, &Path::Root, &mut hidden);
        let names = config.routes.iter().map(|route| Arc::clone(&route.name));
        Self {
            file: Arc::new(file),
            routes: names.collect(),
            hidden: Arc::new(hidden),
        }
    }

    /// Everything.
    pub fn whole(&self) -> Branch {
        let mut whole = self.without_traffic();
        if let Branch::Keys(keys) = &mut whole {
            let upstreams = self.branch("upstreams", &self.file.upstreams);
            keys.insert("upstreams".to_owned().into(), upstreams);
            let routes = self.branch("routes", &self.file.routes);
            keys.insert("routes".to_owned().into(), routes);
        }
        whole
    }

    /// Everything but routes and upstreams, of which there can be very many: what a process keeps
    /// to know how it was started.
    pub fn without_traffic(&self) -> Branch {
        let file = &self.file;
        let single = [Listener::default()];
        let listeners = match &file.listeners {
            Some(list) => self.branch("listeners", list),
            None => self.branch("listeners", &single),
        };
        let mut keys = vec![
            ("server", self.branch("server", &file.server)),
            ("listeners", listeners),
            ("admin", self.branch("admin", &file.admin)),
            (
                "trusted_proxies",
                self.branch("trusted_proxies", &file.trusted_proxies),
            ),
            ("limits", self.branch("limits", &file.limits)),
            ("shutdown", self.branch("shutdown", &file.shutdown)),
            ("maintenance", self.branch("maintenance", &file.maintenance)),
            ("log", self.branch("log", &file.log)),
            ("access_log", self.branch("access_log", &file.access_log)),
            ("metrics", self.branch("metrics", &file.metrics)),
            ("auth", self.branch("auth", &file.auth)),
            ("ratelimit", self.branch("ratelimit", &file.ratelimit)),
        ];
        if let Some(redis) = &file.redis {
            keys.push(("redis", self.branch("redis", redis)));
        }
        if let Some(cors) = &file.cors {
            keys.push(("cors", self.branch("cors", cors)));
        }
        if let Some(lists) = &file.ip_access {
            keys.push(("ip_access", self.branch("ip_access", lists)));
        }
        let keys = keys.into_iter();
        let keys = keys.map(|(key, branch)| (key.to_owned().into(), branch));
        Branch::Keys(keys.collect())
    }

    /// A hash of all that was written, references resolved. It holds for this process alone.
    pub fn hash(&self) -> u64 {
        let mut hasher = Hashing(super::check::Fnv1a::default());
        // What serde derived for these types does not fail, and neither does the hash.
        let _ = serde_json::to_writer(&mut hasher, &*self.file);
        hasher.0.finish()
    }

    fn branch(&self, key: &str, part: &impl Serialize) -> Branch {
        // As above: it does not fail.
        let value = serde_json::to_value(part).unwrap_or(Value::Null);
        self.convert(value, key)
    }

    fn convert(&self, value: Value, at: &str) -> Branch {
        match value {
            Value::Object(keys) => {
                let keys = keys.into_iter().filter(|(_, value)| !value.is_null());
                let convert = |(key, value): (String, Value)| {
                    let below = self.convert(value, &format!("{at}.{key}"));
                    (key.into(), below)
                };
                Branch::Keys(keys.map(convert).collect())
            }
            Value::Array(items) if is_named(at) => self.by_name(items, at),
            value => Branch::Leaf {
                hidden: self.hides(at),
                value,
            },
        }
    }

    /// Items by what they are called; the second of a name has its number behind it.
    fn by_name(&self, items: Vec<Value>, at: &str) -> Branch {
        let mut named = BTreeMap::new();
        for (index, item) in items.into_iter().enumerate() {
            let item = match item {
                Value::String(address) => {
                    serde_json::json!({ "address": address, "weight": 1, "priority": 0 })
                }
                other => other,
            };
            let name = match at {
                "routes" => self.routes.get(index).map(|name| name.to_string()),
                _ => item["address"].as_str().map(str::to_owned),
            };
            let mut name = Name::from(name.unwrap_or_else(|| index.to_string()));
            name.shown = self.shown_name(at, index);
            let plain = name.clone();
            let mut count = 1;
            while named.contains_key(&name) {
                count += 1;
                name.text = format!("{}#{count}", plain.text);
                name.shown = plain.shown.as_ref().map(|shown| format!("{shown}#{count}"));
            }
            named.insert(name, self.convert(item, &format!("{at}[{index}]")));
        }
        Branch::Keys(named)
    }

    /// What is shown of an item's name, when that came from elsewhere.
    fn shown_name(&self, at: &str, index: usize) -> Option<String> {
        let item = format!("{at}[{index}]");
        let written = |path: &str| self.hidden.get(path).map(|text| text.to_string());
        if at != "routes" {
            return written(&format!("{item}.address")).or_else(|| written(&item));
        }
        let route = self.file.routes.0.get(index)?.as_ref()?;
        if route.name.is_some() {
            return written(&format!("{item}.name"));
        }
        // One without a name is called by what it matches, or else by where it leads.
        let matcher = &route.matcher;
        let has_list = !matcher.hosts.is_empty() || !matcher.paths.is_empty();
        let has_one = matcher.host.is_some() || matcher.path.is_some();
        let keys: &[&str] = if has_list || has_one || matcher.path_regex.is_some() {
            &[
                "match.host",
                "match.hosts",
                "match.path",
                "match.paths",
                "match.path_regex",
            ]
        } else {
            &["upstream"]
        };
        let is_hidden = keys.iter().any(|key| self.hides(&format!("{item}.{key}")));
        is_hidden.then(|| index.to_string())
    }

    /// Whether this path, or anything above or below it, is not shown.
    fn hides(&self, at: &str) -> bool {
        let below = |separator: char| {
            let prefix = format!("{at}{separator}");
            let mut from = self.hidden.range(prefix.clone()..);
            from.next()
                .is_some_and(|(path, _)| path.starts_with(&prefix))
        };
        // A value may be a short form, whose long one has keys below.
        let above = || {
            at.match_indices(['.', '['])
                .any(|(end, _)| self.hidden.contains_key(&at[..end]))
        };
        self.hidden.contains_key(at) || below('.') || below('[') || above()
    }
}

/// Lists whose items are found by name or address.
fn is_named(at: &str) -> bool {
    let of_upstream = at.strip_prefix("upstreams.");
    matches!(at, "listeners" | "routes")
        || of_upstream.is_some_and(|rest| rest.ends_with(".backends"))
}

/// The paths of what came from elsewhere and of what is secret wherever it comes from, and what may be
/// shown in its place.
fn collect_hidden(
    node: &Node,
    schema: &Value,
    at: &Path<'_>,
    hidden: &mut BTreeMap<String, Arc<str>>,
) {
    for schema in alternatives(schema) {
        match (&node.content, Kind::of(schema)) {
            (Content::Map(entries), Kind::Keys(keys)) => {
                for (key, node) in entries {
                    if let Some(schema) = keys.get(key) {
                        collect_hidden(node, schema, &at.key(key), hidden);
                    }
                }
            }
            (Content::Map(entries), Kind::Map(schema)) => {
                for (key, node) in entries {
                    collect_hidden(node, schema, &at.key(key), hidden);
                }
            }
            (Content::List(items), Kind::List(schema)) => {
                for (index, node) in items.iter().enumerate() {
                    collect_hidden(node, schema, &at.item(index), hidden);
                }
            }
            (Content::Scalar(scalar), Kind::Scalar)
                if scalar.shown.is_some() || schema["format"] == "secret" =>
            {
                let shown = scalar.shown.clone().unwrap_or_else(|| "***".into());
                hidden.insert(at.to_string(), shown);
            }
            _ => {}
        }
    }
}

struct Hashing(super::check::Fnv1a);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
