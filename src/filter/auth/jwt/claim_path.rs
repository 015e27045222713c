//! Where a claim is in a token: a name, or names joined by dots.

use serde_json::{Map, Value};

/// Where a claim is: `roles`, `realm_access.roles`, or a name with dots of its own, such as
/// `https://example.com/roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Box<str>);

impl ClaimPath {
    /// A path as it is written.
    pub fn new(path: impl Into<Box<str>>) -> Self {
        Self(path.into())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the claims have there. A member whose name is the whole rest of the path goes before
    /// nested ones, and of those the one with the longest name.
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        find(claims, &self.0)
    }
}

/// What the claims have at a path that is written so; see [`ClaimPath::find`].
pub fn find<'c>(object: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let inner = object.get(&path[..dot])?.as_object()?;
        find(inner, &path[dot + 1..])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(claims: &Value, path: &str) -> Option<Value> {
        let claims = claims.as_object().cloned().unwrap_or_default();
        ClaimPath::new(path).find(&claims).cloned()
    }

    #[test]
    fn names_nested_names_and_names_with_dots() {
        let claims = json!({
            "roles": 1,
            "realm_access": { "roles": 2 },
            "https://example.com/roles": 3,
            "resource_access": { "my.client": { "roles": 4 } },
            "a": { "b": 5 }, "a.b": 6,
        });
        for (path, expected) in [
            ("roles", json!(1)),
            ("realm_access.roles", json!(2)),
            ("https://example.com/roles", json!(3)),
            ("resource_access.my.client.roles", json!(4)),
            ("a.b", json!(6)),
        ] {
            assert_eq!(found(&claims, path), Some(expected), "{path}");
        }
        for path in [
            "",
            ".",
            "realm_access",
            "roles.x",
            "nothing",
            "a.b.c",
            "realm_access.",
        ] {
            let expected = (path == "realm_access").then(|| json!({ "roles": 2 }));
            assert_eq!(found(&claims, path), expected, "{path}");
        }
    }
}
