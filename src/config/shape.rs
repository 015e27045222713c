//! Holds a tree against the schema: unknown keys, wrong types, missing keys and bad single values.
//!
//! What does not fit is reported and left out, so that the rest can be read and checked in the
//! same run.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};

use super::problem::{Invalid, Problem, quote, suggestion};
use super::scalar;
use super::schema::{Kind, alternatives, choices, holds_secret};
use super::tree::{Content, Node, Path, Scalar};
use super::units;

/// What is left of a tree when everything that does not fit its schema is taken out.
pub(super) struct Fitted {
    /// The values, typed as the schema has them; a refused item of a list is `null`.
    pub value: Value,
    /// What did not fit.
    pub problems: Vec<Problem>,
    /// The paths at which something is missing because it was refused.
    pub damaged: BTreeSet<String>,
}

/// Fits a tree to a schema.
pub(super) fn fit(root: &Node, schema: &Value) -> Fitted {
    let mut fitter = Fitter {
        problems: Vec::new(),
        damaged: BTreeSet::new(),
    };
    let value = fitter
        .node(root, schema, &Path::Root)
        .unwrap_or_else(|| Value::Object(Map::new()));
    Fitted {
        value,
        problems: fitter.problems,
        damaged: fitter.damaged,
    }
}

struct Fitter {
    problems: Vec<Problem>,
    damaged: BTreeSet<String>,
}

impl Fitter {
    fn refuse(&mut self, node: &Node, at: &Path<'_>, what: String) {
        let key = at.to_string();
        self.damaged.insert(key.clone());
        self.problems.push(Problem {
            origin: node.origin.clone(),
            key,
            what,
        });
    }

    fn node(&mut self, node: &Node, schema: &Value, at: &Path<'_>) -> Option<Value> {
        if matches!(node.content, Content::Refused) {
            self.damaged.insert(at.to_string());
            return None;
        }
        if matches!(&node.content, Content::Scalar(scalar) if scalar.is_null()) {
            self.refuse(
                node,
                at,
                format!("has no value, expected {}", expected(schema)),
            );
            return None;
        }
        for schema in alternatives(schema) {
            match (&node.content, Kind::of(schema)) {
                (Content::Map(entries), Kind::Keys(keys)) => {
                    return self.keys(node, entries, keys, schema, at);
                }
                (Content::Map(entries), Kind::Map(inner)) => {
                    return Some(self.map(entries, inner, at));
                }
                (Content::List(items), Kind::List(inner)) => {
                    return Some(self.list(items, inner, at));
                }
                (Content::Scalar(scalar), Kind::Scalar) => {
                    return self.scalar(node, scalar, schema, at);
                }
                _ => {}
            }
        }
        let found = match &node.content {
            Content::Map(_) => "is a mapping".to_owned(),
            Content::List(_) => "is a list".to_owned(),
            Content::Scalar(_) if holds_secret(schema) => "is a single value".to_owned(),
            Content::Scalar(scalar) => {
                format!(
                    "{} is a single value",
                    quote(node.shown().unwrap_or(&scalar.text))
                )
            }
            Content::Refused => "is of no use".to_owned(),
        };
        self.refuse(node, at, format!("{found}, expected {}", expected(schema)));
        None
    }

    fn keys(
        &mut self,
        node: &Node,
        entries: &[(String, Node)],
        keys: &Map<String, Value>,
        schema: &Value,
        at: &Path<'_>,
    ) -> Option<Value> {
        let mut fitted = Map::new();
        for (key, value) in entries {
            let at = at.key(key);
            match keys.get(key) {
                Some(schema) => {
                    if let Some(value) = self.node(value, schema, &at) {
                        fitted.insert(key.clone(), value);
                    }
                }
                None => self.refuse(value, &at, unknown(key, keys)),
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        let mut whole = true;
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            whole &= fitted.contains_key(key);
            if node.get(key).is_none() {
                let expected = expected(&keys[key]);
                self.refuse(
                    node,
                    &at.key(key),
                    format!("is missing, expected {expected}"),
                );
            }
        }
        whole.then_some(Value::Object(fitted))
    }

    fn map(&mut self, entries: &[(String, Node)], inner: &Value, at: &Path<'_>) -> Value {
        let mut fitted = Map::new();
        for (key, value) in entries {
            if let Some(value) = self.node(value, inner, &at.key(key)) {
                fitted.insert(key.clone(), value);
            }
        }
        Value::Object(fitted)
    }

    fn list(&mut self, items: &[Node], inner: &Value, at: &Path<'_>) -> Value {
        let fit = |(index, item)| {
            self.node(item, inner, &at.item(index))
                .unwrap_or(Value::Null)
        };
        items.iter().enumerate().map(fit).collect()
    }

    fn scalar(
        &mut self,
        node: &Node,
        scalar: &Scalar,
        schema: &Value,
        at: &Path<'_>,
    ) -> Option<Value> {
        match typed(&scalar.text, schema) {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.refuse(node, at, node.refusal(&invalid));
                None
            }
        }
    }
}

fn unknown(key: &str, keys: &Map<String, Value>) -> String {
    let near = suggestion(key, keys.keys().map(String::as_str));
    if near.is_empty() {
        let known: Vec<_> = keys.keys().map(|key| format!("`{key}`")).collect();
        return format!("unknown key, expected one of {}", known.join(", "));
    }
    format!("unknown key, {near}")
}

/// The text as the type that the schema wants; quotes in the file decide nothing.
fn typed(text: &str, schema: &Value) -> Result<Value, Invalid> {
    let refuse = |what: &str| Invalid::new(format!("{} {what}", quote(text)), expected(schema));
    if let Some(choices) = choices(schema) {
        if choices.contains(&text) {
            return Ok(text.into());
        }
        let near = suggestion(text, choices);
        let near = if near.is_empty() {
            near
        } else {
            format!(", {near}")
        };
        return Err(refuse(&format!("is none of the choices{near}")));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && let Some(result) = scalar::check(format, text)
    {
        result?;
        bounds(format, text, schema)?;
        return Ok(text.into());
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => text
            .parse()
            .map(Value::Bool)
            .map_err(|_| refuse("is neither true nor false")),
        Some("integer") => {
            let number: i64 = text.parse().map_err(|_| refuse("is not a whole number"))?;
            let bound = |word: &str| schema.get(word).and_then(Value::as_i64);
            let low = bound("minimum").is_some_and(|minimum| number < minimum);
            if low || bound("maximum").is_some_and(|maximum| number > maximum) {
                return Err(refuse("is out of range"));
            }
            Ok(Value::Number(Number::from(number)))
        }
        _ => Ok(text.into()),
    }
}

/// Checks `x-min` and `x-max`. A duration without a least value must at least be one.
fn bounds(format: &str, text: &str, schema: &Value) -> Result<(), Invalid> {
    let bound = |word: &str| schema.get(word).and_then(Value::as_str);
    let outside = match format {
        "duration-with-unit" => outside(
            text,
            bound("x-min").unwrap_or("1ms"),
            bound("x-max"),
            units::duration,
        ),
        "size" => outside(
            text,
            bound("x-min").unwrap_or("0"),
            bound("x-max"),
            units::size,
        ),
        _ => false,
    };
    if outside {
        return Err(Invalid::new(
            format!("{} is out of range", quote(text)),
            expected(schema),
        ));
    }
    Ok(())
}

fn outside<T: PartialOrd>(
    text: &str,
    min: &str,
    max: Option<&str>,
    parse: fn(&str) -> Result<T, Invalid>,
) -> bool {
    let (Ok(value), Ok(min)) = (parse(text), parse(min)) else {
        return false;
    };
    value < min || max.is_some_and(|max| parse(max).is_ok_and(|max| value > max))
}

/// What a schema expects, in words.
pub(super) fn expected(schema: &Value) -> String {
    let words: Vec<_> = alternatives(schema).iter().map(expected_of).collect();
    words.join(" or ")
}

fn expected_of(schema: &Value) -> String {
    match Kind::of(schema) {
        Kind::Keys(_) | Kind::Map(_) => return "a mapping".into(),
        Kind::List(_) => return "a list".into(),
        Kind::Scalar => {}
    }
    if let Some(choices) = choices(schema) {
        let choices: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
        return choices.join(", ");
    }
    let format = schema.get("format").and_then(Value::as_str);
    if let Some(words) = format.and_then(scalar::expected) {
        let bounded = |word: &str| schema.get(word).and_then(Value::as_str);
        return match (bounded("x-min"), bounded("x-max")) {
            (Some(min), Some(max)) => format!("{words}, from `{min}` to `{max}`"),
            (Some(min), None) => format!("{words}, at least `{min}`"),
            (None, Some(max)) => format!("{words}, more than 0 and at most `{max}`"),
            (None, None) if format == Some("duration-with-unit") => format!("{words}, more than 0"),
            (None, None) => words.into(),
        };
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => "`true` or `false`".into(),
        Some("integer") => match (schema.get("minimum"), schema.get("maximum")) {
            (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
            _ => "a whole number".into(),
        },
        _ => "a text".into(),
    }
}
