//! The JSON Schema of a configuration file, generated from the types in `file`.

use std::sync::OnceLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::file::{ApiKey, Backend, File};
use super::scalar::List;

/// The schema. Beside the usual words it has `x-min` and `x-max` for values with units.
pub fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| titled::<File>("Gateway configuration"))
}

/// The schema of a file with API keys.
pub(super) fn keys_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| titled::<List<ApiKey>>("API keys"))
}

/// The schema of a file with a list of backends.
pub(super) fn backends_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| titled::<List<Backend>>("Backends"))
}

fn titled<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let generator = settings.into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    if let Value::Object(object) = &mut schema {
        tidy(object);
        object.insert("title".into(), title.into());
    }
    schema
}

/// Takes away what says nothing to an operator: `null`, which is never written, the defaults of
/// mappings, which are those of their keys, the width of integers, and descriptions that only point from a type to its key.
fn tidy(schema: &mut Map<String, Value>) {
    if schema
        .get("default")
        .is_some_and(|default| default.is_null() || default.is_object())
    {
        schema.shift_remove("default");
    }
    if schema
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|f| f.starts_with("uint"))
    {
        schema.shift_remove("format");
    }
    tidy_type(schema);
    tidy_alternatives(schema);
    tidy_description(schema);
    for word in [
        "properties",
        "items",
        "additionalProperties",
        "anyOf",
        "oneOf",
    ] {
        match (word, schema.get_mut(word)) {
            ("properties", Some(Value::Object(properties))) => {
                properties
                    .values_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(tidy);
            }
            (_, Some(Value::Object(inner))) => tidy(inner),
            (_, Some(Value::Array(inner))) => {
                inner
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(tidy);
            }
            _ => {}
        }
    }
}

fn tidy_type(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".into(), one);
        }
    }
}

fn tidy_alternatives(schema: &mut Map<String, Value>) {
    let Some(Value::Array(alternatives)) = schema.get_mut("anyOf") else {
        return;
    };
    alternatives.retain(|alternative| alternative.get("type").is_none_or(|kind| kind != "null"));
    if alternatives.len() == 1
        && let Some(Value::Object(only)) = alternatives.pop()
    {
        schema.shift_remove("anyOf");
        for (word, value) in only {
            schema.entry(word).or_insert(value);
        }
        tidy_alternatives(schema);
    }
}

fn tidy_description(schema: &mut Map<String, Value>) {
    let Some(Value::String(text)) = schema.get("description") else {
        return;
    };
    if text.starts_with("See [`") {
        schema.shift_remove("description");
    } else {
        let text = text.replace('\n', " ");
        schema.insert("description".into(), text.into());
    }
}

/// The schemas of which a value must meet one: itself, unless it lists alternatives.
pub(super) fn alternatives(schema: &Value) -> &[Value] {
    match schema.get("anyOf") {
        Some(Value::Array(alternatives)) => alternatives,
        _ => std::slice::from_ref(schema),
    }
}

/// What a schema that lists no alternatives describes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    /// A mapping with these keys and no others.
    Keys(&'a Map<String, Value>),
    /// A mapping from any text to values of this schema.
    Map(&'a Value),
    /// A list of values of this schema.
    List(&'a Value),
    /// A single value.
    Scalar,
}

impl<'a> Kind<'a> {
    /// The kind of a schema.
    pub fn of(schema: &'a Value) -> Self {
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => Self::List(&schema["items"]),
            Some("object") => match schema.get("properties") {
                Some(Value::Object(keys)) => Self::Keys(keys),
                _ => Self::Map(&schema["additionalProperties"]),
            },
            _ => Self::Scalar,
        }
    }
}

/// Whether a value of this schema is a secret, or has one directly in it or in a list of its own, so
/// that a single value in its place may be meant for one.
pub(super) fn holds_secret(schema: &Value) -> bool {
    let is_near = |schema: &Value| matches!(Kind::of(schema), Kind::Scalar | Kind::List(_));
    alternatives(schema)
        .iter()
        .any(|schema| match Kind::of(schema) {
            Kind::Keys(keys) => keys.values().any(|key| {
                let mut near = alternatives(key).iter().filter(|one| is_near(one));
                near.any(holds_secret)
            }),
            Kind::List(inner) => holds_secret(inner),
            Kind::Map(_) => false,
            Kind::Scalar => schema["format"] == "secret",
        })
}

/// The texts that an enumeration allows.
pub(super) fn choices(schema: &Value) -> Option<Vec<&str>> {
    if let Some(Value::Array(choices)) = schema.get("enum") {
        return Some(choices.iter().filter_map(Value::as_str).collect());
    }
    let Some(Value::Array(choices)) = schema.get("oneOf") else {
        return None;
    };
    Some(
        choices
            .iter()
            .filter_map(|choice| choice.get("const")?.as_str())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(schema: &Value, visit: &mut impl FnMut(&Value)) {
        visit(schema);
        for schema in alternatives(schema) {
            match Kind::of(schema) {
                Kind::Keys(keys) => keys.values().for_each(|schema| walk(schema, visit)),
                Kind::Map(inner) | Kind::List(inner) => walk(inner, visit),
                Kind::Scalar => visit(schema),
            }
        }
    }

    #[test]
    fn every_key_is_described_and_nothing_may_be_null() {
        walk(schema(), &mut |schema| {
            assert!(!schema.to_string().contains("\"null\""), "{schema}");
            assert!(!schema.to_string().contains("$ref"), "{schema}");
            for alternative in alternatives(schema) {
                if let Kind::Keys(keys) = Kind::of(alternative) {
                    for (key, schema) in keys {
                        assert!(
                            schema.get("description").is_some(),
                            "{key} has no description"
                        );
                    }
                    assert_eq!(
                        alternative.get("additionalProperties"),
                        Some(&Value::Bool(false))
                    );
                }
            }
        });
    }

    #[test]
    fn at_most_one_alternative_is_of_each_kind() {
        walk(schema(), &mut |schema| {
            let count = |kind: fn(Kind<'_>) -> bool| {
                alternatives(schema)
                    .iter()
                    .filter(|schema| kind(Kind::of(schema)))
                    .count()
            };
            assert!(count(|kind| matches!(kind, Kind::Scalar)) <= 1, "{schema}");
            assert!(count(|kind| matches!(kind, Kind::List(_))) <= 1, "{schema}");
            assert!(
                count(|kind| matches!(kind, Kind::Keys(_) | Kind::Map(_))) <= 1,
                "{schema}"
            );
        });
    }
}
