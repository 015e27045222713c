//! Answers whose an API key is from Redis: `apikey:` and the SHA-256 of the key in hexadecimal digits.
//!
//! The value is JSON, as an entry of the configuration: `{"name": …, "scopes": […], "roles": […],
//! "expires": …, "enabled": …}`, of which `name` alone is needed.

use std::sync::Arc;

use redis::Value;
use serde::Deserialize;

use crate::config::expiry;
use crate::filter::auth::shared_keys::{Answer, Question, SharedKeys, Unanswered};
use crate::filter::auth::{Known, words};
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Failure, Keyed, Store};

/// How many questions are put at once.
const AT_ONCE: usize = 64;

/// The largest record; a name and some scopes have a few hundred bytes.
const MAX_RECORD_BYTES: usize = 16 * 1024;

/// What is kept of a key. Keys of the record that mean nothing here are passed over.
#[derive(Deserialize)]
struct Record {
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    expires: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

/// Answers on the thread of the store from now on.
pub fn start(keys: &SharedKeys, store: &Arc<Store>) {
    if let Some(questions) = keys.questions() {
        // The store ends its work when it is dropped, which the work must not hinder.
        let weak = Arc::downgrade(store);
        store.spawn(async move {
            let mut questions = questions;
            let mut asked = Vec::with_capacity(AT_ONCE);
            while questions.recv_many(&mut asked, AT_ONCE).await > 0 {
                let Some(store) = weak.upgrade() else { return };
                answer(&store, std::mem::take(&mut asked)).await;
            }
        });
    }
}

async fn answer(store: &Store, asked: Vec<Question>) {
    let commands = asked.iter().map(command).collect();
    let within = store.command_timeout();
    let records = store.each(RedisCommand::ApiKey, commands, within).await;
    for (question, record) in asked.into_iter().zip(records) {
        let record = record.map_err(|_| Unanswered);
        question.answer(record.and_then(|record| read(store, &record)));
    }
}

fn command(question: &Question) -> Keyed {
    let digits = question.hash.iter().map(|byte| format!("{byte:02x}"));
    let key = format!("apikey:{}", digits.collect::<String>());
    let mut get = redis::cmd("GET");
    get.arg(&key);
    Keyed::new(&key, get)
}

/// Whose a key is. A record that cannot be read is nobody's word: the key may have been taken back.
fn read(store: &Store, record: &Value) -> Answer {
    let known = match record {
        Value::Nil => return Ok(None),
        Value::BulkString(record) => known(record),
        _ => None,
    };
    if known.is_none() {
        let what = "the record of an API key cannot be read";
        store.failed(&Failure::new(RedisError::Protocol, what));
    }
    known.ok_or(Unanswered)
}

/// The outer `None`: it cannot be read.
fn known(record: &[u8]) -> Option<Option<Arc<Known>>> {
    let fits = record.len() <= MAX_RECORD_BYTES;
    let record: Record = serde_json::from_slice(record).ok().filter(|_| fits)?;
    let expires = match &record.expires {
        Some(text) => Some(expiry(text).ok()?),
        None => None,
    };
    let has_name = !record.name.is_empty() && !record.name.chars().any(char::is_control);
    let known = Known {
        subject: record.name.into(),
        scopes: words(&record.scopes),
        roles: words(&record.roles),
        expires,
    };
    has_name.then(|| record.enabled.then(|| Arc::new(known)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    #[test]
    fn a_record_says_whose_a_key_is() {
        let full = br#"{"name":"acme","scopes":["a"],"roles":["b"],"expires":"2030-01-31","x":1}"#;
        let found = known(full).unwrap().unwrap();
        assert_eq!(&*found.subject, "acme");
        assert_eq!(
            (&*found.scopes, &*found.roles),
            (&["a".into()][..], &["b".into()][..])
        );
        assert_eq!(found.expires, expiry("2030-01-31").ok());
        assert!(known(br#"{"name":"acme"}"#).unwrap().is_some());
        assert!(
            known(br#"{"name":"acme","enabled":false}"#)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_is_nobodys_word() {
        for record in [
            &b""[..],
            b"acme",
            b"{}",
            b"[]",
            br#"{"name":""}"#,
            br#"{"name":"a\nb"}"#,
            br#"{"name":"a","expires":"soon"}"#,
            br#"{"name":"a","scopes":"a b"}"#,
            br#"{"name":"a","enabled":"no"}"#,
        ] {
            assert!(
                known(record).is_none(),
                "{}",
                String::from_utf8_lossy(record)
            );
        }
        let long = format!(
            "{{\"name\":\"a\",\"x\":\"{}\"}}",
            "x".repeat(MAX_RECORD_BYTES)
        );
        assert!(known(long.as_bytes()).is_none());
    }
}
