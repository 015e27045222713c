//! JSON as headers, claims and key sets are read: an object, no member twice, nested to a bound.
//!
//! RFC 7515 section 4, RFC 7519 section 4 and RFC 7517 section 4 leave a reader the choice between
//! refusing a repeated member and taking the last. Two readers of one token that choose differently
//! would see different tokens, so we refuse.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Deepest nesting. Claims of common identity providers have four levels.
const MAX_DEPTH: usize = 32;

/// The members of an object, with nothing around it but space.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    // Checked once as a whole, the text need not be checked string by string.
    let text = std::str::from_utf8(bytes).ok()?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { below: MAX_DEPTH }
        .deserialize(&mut deserializer)
        .ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Reads a value with so many levels below it.
#[derive(Clone, Copy)]
struct Strict {
    below: usize,
}

impl Strict {
    /// The claims of a token are more than what is in them; a table that grows is a table made anew.
    fn expected_members(self) -> usize {
        if self.below == MAX_DEPTH { 16 } else { 1 }
    }

    fn inner<E: Error>(self) -> Result<Self, E> {
        let below = self.below.checked_sub(1);
        let below = below.ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { below })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::with_capacity(self.expected_members());
        while let Some(name) = members.next_key::<String>()? {
            match object.entry(name) {
                Entry::Occupied(_) => return Err(A::Error::custom("a member twice")),
                Entry::Vacant(slot) => {
                    slot.insert(members.next_value_seed(inner)?);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_read_as_it_is() {
        let text =
            br#" {"a":[1,-2,1.5,true,null,"\u00e9"],"b":{"a":{}},"c":18446744073709551615} "#;
        let expected = json!({
            "a": [1, -2, 1.5, true, null, "é"], "b": { "a": {} }, "c": u64::MAX,
        });
        assert_eq!(object(text).map(Value::Object), Some(expected));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{"a":1}"#,
            r#"{"a":1,}"#,
            r#"{'a':1}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            r#"{"a":01}"#,
            r#"{"a":+1}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\u{0}\"}",
            "\u{feff}{}",
            "[]",
            "1",
            "null",
            "",
            "{",
            "{\"a\":1}\0",
            "/**/{}",
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth: usize| {
            let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            object(text.as_bytes()).is_some()
        };
        assert!(nested(MAX_DEPTH - 1));
        assert!(!nested(MAX_DEPTH));
        assert!(!nested(100_000));
    }
}
