//! Claims of tokens, held against what a route asks for.

use serde_json::Value;

use crate::config::model::{ClaimCondition, ClaimMatch};

/// Whether a condition holds for a claim that is there or not. `path_param` is the value of the path
/// parameter that it names.
pub fn holds(condition: &ClaimCondition, claim: Option<&Value>, path_param: Option<&str>) -> bool {
    match &condition.is {
        ClaimMatch::Present => claim.is_some(),
        ClaimMatch::Absent => claim.is_none(),
        ClaimMatch::OneOf(texts) => {
            claim.is_some_and(|claim| texts.iter().any(|text| equals(claim, text)))
        }
        ClaimMatch::PathParam(_) => matches!(
            (claim, path_param),
            (Some(claim), Some(text)) if !text.is_empty() && equals(claim, text)
        ),
        ClaimMatch::Contains(item) => match claim {
            Some(Value::Array(items)) => items.iter().any(|one| equals(one, item)),
            Some(Value::String(text)) => text.split(' ').any(|word| word == item),
            _ => false,
        },
    }
}

/// Whether a single value is this text, as it would be written.
fn equals(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Bool(value) => text == if *value { "true" } else { "false" },
        Value::Number(value) => value.to_string() == text,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meets(is: ClaimMatch, claim: Option<Value>, param: Option<&str>) -> bool {
        let claim_name = "c".to_owned();
        let condition = ClaimCondition {
            claim: claim_name,
            is,
        };
        holds(&condition, claim.as_ref(), param)
    }

    fn one_of(texts: &[&str]) -> ClaimMatch {
        ClaimMatch::OneOf(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn single_values_are_compared_as_they_are_written() {
        for (value, text) in [(json!("x"), "x"), (json!(true), "true"), (json!(7), "7")] {
            assert!(meets(one_of(&["other", text]), Some(value), None), "{text}");
        }
        for value in [json!("X"), json!(null), json!(["x"]), json!({ "x": 1 })] {
            assert!(!meets(one_of(&["x", "", "null"]), Some(value), None));
        }
        assert!(!meets(one_of(&["x"]), None, None));
    }

    #[test]
    fn lists_and_words_contain_whole_items() {
        let contains = || ClaimMatch::Contains("staff".to_owned());
        assert!(meets(contains(), Some(json!(["a", "staff"])), None));
        assert!(meets(contains(), Some(json!("a staff b")), None));
        for value in [
            json!("staffing"),
            json!(["staffing"]),
            json!({ "staff": 1 }),
        ] {
            assert!(!meets(contains(), Some(value), None));
        }
    }

    #[test]
    fn a_path_parameter_that_is_not_there_equals_nothing() {
        let param = || ClaimMatch::PathParam("tenant".to_owned());
        assert!(meets(param(), Some(json!("blue")), Some("blue")));
        assert!(!meets(param(), Some(json!("blue")), Some("red")));
        assert!(!meets(param(), Some(json!("")), Some("")));
        assert!(!meets(param(), None, None));
        assert!(!meets(param(), None, Some("blue")));
    }

    #[test]
    fn presence_is_asked_for_either_way() {
        assert!(meets(ClaimMatch::Present, Some(json!(null)), None));
        assert!(!meets(ClaimMatch::Present, None, None));
        assert!(meets(ClaimMatch::Absent, None, None));
        assert!(!meets(ClaimMatch::Absent, Some(json!(1)), None));
    }
}
