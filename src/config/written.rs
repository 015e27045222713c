//! A configuration as it was written, defaults filled in, as a tree that can be compared.
//!
//! What has a name or an address is found by it, so that a moved item is no change. Values that
//! came from elsewhere, and secrets, are marked: nothing that is made from the tree shows them.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The paths of values that are not shown.
    hidden: Arc<BTreeSet<String>>,
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
    Keys(BTreeMap<String, Branch>),
}

impl Written {
    pub(super) fn new(file: File, config: &Config, tree: &Node, schema: &Value) -> Self {
        let mut hidden = BTreeSet::new();
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
            keys.insert(
                "upstreams".into(),
                self.branch("upstreams", &self.file.upstreams),
            );
            keys.insert("routes".into(), self.branch("routes", &self.file.routes));
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
        let keys = [
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
        ];
        let keys = keys.map(|(key, branch)| (key.to_owned(), branch));
        Branch::Keys(keys.into())
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
                let convert = |(key, value)| {
                    let below = self.convert(value, &format!("{at}.{key}"));
                    (key, below)
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
                Value::String(address) => serde_json::json!({ "address": address, "weight": 1 }),
                other => other,
            };
            let name = match at {
                "routes" => self.routes.get(index).map(|name| name.to_string()),
                _ => item["address"].as_str().map(str::to_owned),
            };
            let name = name.unwrap_or_else(|| index.to_string());
            let mut free = name.clone();
            let mut count = 1;
            while named.contains_key(&free) {
                count += 1;
                free = format!("{name}#{count}");
            }
            named.insert(free, self.convert(item, &format!("{at}[{index}]")));
        }
        Branch::Keys(named)
    }

    /// Whether this path, or anything below it, is not shown.
    fn hides(&self, at: &str) -> bool {
        let below = |separator: char| {
            let prefix = format!("{at}{separator}");
            let mut from = self.hidden.range(prefix.clone()..);
            from.next().is_some_and(|path| path.starts_with(&prefix))
        };
        self.hidden.contains(at) || below('.') || below('[')
    }
}

/// Lists whose items are found by name or address.
fn is_named(at: &str) -> bool {
    let of_upstream = at.strip_prefix("upstreams.");
    matches!(at, "listeners" | "routes")
        || of_upstream.is_some_and(|rest| rest.ends_with(".backends"))
}

/// The paths of what came from elsewhere and of what is secret wherever it comes from.
fn collect_hidden(node: &Node, schema: &Value, at: &Path<'_>, hidden: &mut BTreeSet<String>) {
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
                hidden.insert(at.to_string());
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
