//! `GATEWAY_*` variables that override single values: the key's path in upper case, joined by `_`.
//!
//! The schema says which keys exist, so a key that the file leaves out can be set as well. Other
//! variables of that prefix are not errors: Kubernetes makes some for every service.

use std::sync::Arc;

use serde_json::Value;

use super::env::Env;
use super::problem::Origin;
use super::schema::{Kind, alternatives};
use super::tree::{Content, Node, Scalar};

const PREFIX: &str = "GATEWAY_";

/// Names the file; not a key in it.
const FILE_VARIABLE: &str = "GATEWAY_CONFIG";

/// A variable with a name of its own, and the key that it overrides.
const MAINTENANCE_VARIABLE: &str = "MAINTENANCE_MODE";
const MAINTENANCE_KEY: [&str; 2] = ["maintenance", "enabled"];

/// Puts the overrides into the tree; the answer is a warning for each variable that is none.
pub(super) fn apply(root: &mut Node, schema: &Value, env: &dyn Env) -> Vec<String> {
    // Set but empty is how many tools leave a variable out.
    if let Some(value) = env
        .var(MAINTENANCE_VARIABLE)
        .filter(|value| !value.is_empty())
    {
        let path = MAINTENANCE_KEY.map(|key| Step::Key(key.to_owned()));
        set(root, &path, MAINTENANCE_VARIABLE, &value);
    }
    let mut waiting = env.vars(PREFIX);
    waiting.retain(|(name, _)| name != FILE_VARIABLE);
    loop {
        let before = waiting.len();
        // An item of a list can be added only behind the others, whatever the order of the names.
        waiting.retain(
            |(name, value)| match find(Some(root), schema, &name[PREFIX.len()..]) {
                Some(path) => {
                    set(root, &path, name, value);
                    false
                }
                None => true,
            },
        );
        if waiting.len() == before {
            break;
        }
    }
    let warn =
        |(name, _)| format!("the variable {name} is no key of the configuration and is ignored");
    waiting.into_iter().map(warn).collect()
}

enum Step {
    Key(String),
    Item(usize),
}

/// The path that a name without its prefix stands for, if it is that of a single value.
fn find(node: Option<&Node>, schema: &Value, name: &str) -> Option<Vec<Step>> {
    alternatives(schema).iter().find_map(|schema| {
        match (Kind::of(schema), node.map(|n| &n.content)) {
            (Kind::Keys(keys), None | Some(Content::Map(_))) => {
                keys.iter().find_map(|(key, schema)| {
                    below(node.and_then(|node| node.get(key)), schema, key, name)
                })
            }
            (Kind::Map(schema), Some(Content::Map(entries))) => entries
                .iter()
                .find_map(|(key, node)| below(Some(node), schema, key, name)),
            (Kind::List(schema), None) => item(&[], schema, name),
            (Kind::List(schema), Some(Content::List(items))) => item(items, schema, name),
            _ => None,
        }
    })
}

fn below(node: Option<&Node>, schema: &Value, key: &str, name: &str) -> Option<Vec<Step>> {
    let rest = name.strip_prefix(&spelled(key))?;
    after(node, schema, Step::Key(key.to_owned()), rest)
}

fn item(items: &[Node], schema: &Value, name: &str) -> Option<Vec<Step>> {
    let digits = name
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(name.len());
    let index: usize = name[..digits].parse().ok()?;
    if index > items.len() {
        return None;
    }
    after(items.get(index), schema, Step::Item(index), &name[digits..])
}

fn after(node: Option<&Node>, schema: &Value, step: Step, rest: &str) -> Option<Vec<Step>> {
    if rest.is_empty() {
        let single = alternatives(schema)
            .iter()
            .any(|schema| matches!(Kind::of(schema), Kind::Scalar));
        return single.then(|| vec![step]);
    }
    let mut path = find(node, schema, rest.strip_prefix('_')?)?;
    path.insert(0, step);
    Some(path)
}

fn spelled(key: &str) -> String {
    let spell = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    key.chars().map(spell).collect()
}

fn set(node: &mut Node, path: &[Step], name: &str, value: &str) {
    let origin = Origin::Variable(Arc::from(name));
    let Some((step, rest)) = path.split_first() else {
        let shown = Some(Arc::from(format!("${name}")));
        let scalar = Scalar {
            text: Arc::from(value),
            plain: false,
            shown,
        };
        *node = Node {
            origin,
            content: Content::Scalar(scalar),
        };
        return;
    };
    let content = match rest.first() {
        Some(Step::Item(_)) => Content::List(Vec::new()),
        _ => Content::Map(Vec::new()),
    };
    let fresh = Node { origin, content };
    match (step, &mut node.content) {
        (Step::Key(key), Content::Map(entries)) => {
            let place = entries
                .iter()
                .position(|(k, _)| k == key)
                .unwrap_or(entries.len());
            if place == entries.len() {
                entries.push((key.clone(), fresh));
            }
            set(&mut entries[place].1, rest, name, value);
        }
        (Step::Item(index), Content::List(items)) => {
            if *index == items.len() {
                items.push(fresh);
            }
            set(&mut items[*index], rest, name, value);
        }
        // `find` only goes through nodes of the kind that the step needs.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::super::env::FixedEnv;
    use super::super::schema::schema;
    use super::super::tree::Path;
    use super::super::yaml;
    use super::*;

    fn applied(text: &str, vars: &[(&str, &str)]) -> (Node, Vec<String>) {
        let (mut root, _) = yaml::parse(text).unwrap();
        let env = vars.iter().fold(FixedEnv::default(), |env, (name, value)| {
            env.with_var(name, value)
        });
        let warnings = apply(&mut root, schema(), &env);
        (root, warnings)
    }

    fn text(node: &Node) -> &str {
        match &node.content {
            Content::Scalar(scalar) => &scalar.text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_can_be_replaced_or_added() {
        let (root, warnings) = applied(
            "log: { level: warn }\nupstreams: { user-service: {} }\n",
            &[
                ("GATEWAY_LOG_LEVEL", "debug"),
                ("GATEWAY_LIMITS_REQUEST_HEADER_TIMEOUT", "3s"),
                ("GATEWAY_UPSTREAMS_USER_SERVICE_BALANCE", "round_robin"),
                ("GATEWAY_CONFIG", "elsewhere.yaml"),
            ],
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        let level = root.get("log").unwrap().get("level").unwrap();
        assert_eq!(text(level), "debug");
        assert_eq!(level.origin, Origin::Variable("GATEWAY_LOG_LEVEL".into()));
        let timeout = root
            .get("limits")
            .unwrap()
            .get("request_header_timeout")
            .unwrap();
        assert_eq!(text(timeout), "3s");
        let service = root.get("upstreams").unwrap().get("user-service").unwrap();
        assert_eq!(text(service.get("balance").unwrap()), "round_robin");
    }

    #[test]
    fn items_go_by_index_and_can_be_added_behind_the_others() {
        let (root, warnings) = applied(
            "listeners: [{ address: 127.0.0.1:1 }]\n",
            &[
                ("GATEWAY_LISTENERS_0_NAME", "front"),
                ("GATEWAY_LISTENERS_1_ADDRESS", "127.0.0.1:2"),
                ("GATEWAY_ROUTES_0_UPSTREAM", "http://127.0.0.1:3000"),
                ("GATEWAY_LISTENERS_9_ADDRESS", "127.0.0.1:9"),
            ],
        );
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("GATEWAY_LISTENERS_9_ADDRESS"));
        let listeners = Path::Root.key("listeners");
        let second = listeners.item(1);
        assert_eq!(
            text(root.at(&second.key("address")).unwrap()),
            "127.0.0.1:2"
        );
        assert_eq!(
            text(root.at(&listeners.item(0).key("name")).unwrap()),
            "front"
        );
    }

    #[test]
    fn maintenance_has_a_variable_of_its_own() {
        let key = Path::Root.key("maintenance");
        for file in ["", "maintenance: { enabled: false }\n", "routes: []\n"] {
            let (root, warnings) = applied(file, &[("MAINTENANCE_MODE", "true")]);
            assert!(warnings.is_empty());
            assert_eq!(text(root.at(&key.key("enabled")).unwrap()), "true");
        }
        let (root, _) = applied("routes: []\n", &[("MAINTENANCE_MODE", "")]);
        assert!(root.at(&key).is_none());
    }

    #[test]
    fn what_is_no_single_value_is_a_warning() {
        let (_, warnings) = applied(
            "",
            &[
                ("GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
                ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
                ("GATEWAY_LOG", "x"),
                ("GATEWAY_UPSTREAMS_NONE_BALANCE", "round_robin"),
            ],
        );
        assert_eq!(warnings.len(), 4);
    }
}
