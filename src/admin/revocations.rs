//! Calls about revocations: what they say, and what they are answered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::percent::decode;
use crate::background::revocations::{Revoker, Time};
use crate::filter::auth::revocation::{MAX_NAME, Revocation, Target, Terms};

/// How long a revocation is kept that does not say until when.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The year 9999, the last that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// The body of a call that revokes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    jti: Option<String>,
    subject: Option<String>,
    token: Option<String>,
    issued_before: Option<Moment>,
    expires_at: Option<Moment>,
    expires_in: Option<Span>,
}

/// A moment: seconds since 1970, or as RFC 3339 writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Moment {
    Seconds(u64),
    Text(String),
}

/// A length of time: seconds, or with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Span {
    Seconds(u64),
    Text(String),
}

/// What of a token's claims matters here. Nobody has verified them.
#[derive(Debug, Deserialize)]
struct Claims {
    jti: Option<String>,
    exp: Option<f64>,
}

/// What is wrong with a call, in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfit(pub &'static str);

/// What a body asks for.
pub(super) fn understand(body: &[u8], now: Time) -> Result<Revocation, Unfit> {
    let body: Body = serde_json::from_slice(body).map_err(|_| {
        Unfit(
            "Expected JSON with one of jti, subject and token; with expires_at or expires_in; for a \
             subject with issued_before.",
        )
    })?;
    let ends = ends(&body, now)?;
    if body.issued_before.is_some() && body.subject.is_none() {
        return Err(Unfit("Only a subject has issued_before."));
    }
    let (target, issued_before, until) = match (body.jti, body.subject, body.token) {
        (Some(jti), None, None) => (Target::Token(jti.into()), 0, ends),
        (None, Some(subject), None) => {
            let before = match body.issued_before {
                Some(moment) => moment.read()?,
                // A token that is issued within this second may have been issued before.
                None => now.seconds() + 1,
            };
            (Target::Subject(subject.into()), before, ends)
        }
        (None, None, Some(token)) => {
            let (jti, expires) = of_token(&token)?;
            (Target::Token(jti.into()), 0, ends.or(expires))
        }
        _ => return Err(Unfit("Expected exactly one of jti, subject and token.")),
    };
    let until = until.unwrap_or(now.seconds() + KEPT.as_secs());
    if until <= now.seconds() {
        return Err(Unfit("It has expired already: there is nothing to revoke."));
    }
    Ok(Revocation {
        target: fit(target)?,
        terms: Terms {
            issued_before,
            until: Some(until),
            at: now.0,
        },
    })
}

fn fit(target: Target) -> Result<Target, Unfit> {
    if target.name().is_empty() || target.name().len() > MAX_NAME {
        return Err(Unfit(
            "The id or subject is empty, or longer than 1024 bytes.",
        ));
    }
    Ok(target)
}

fn ends(body: &Body, now: Time) -> Result<Option<u64>, Unfit> {
    match (&body.expires_at, &body.expires_in) {
        (None, None) => Ok(None),
        (Some(moment), None) => moment.read().map(Some),
        (None, Some(span)) => {
            let until = now.seconds().saturating_add(span.read()?);
            Ok(Some(until.min(LAST_SECOND)))
        }
        (Some(_), Some(_)) => Err(Unfit("Expected expires_at or expires_in, not both.")),
    }
}

impl Moment {
    fn read(&self) -> Result<u64, Unfit> {
        let seconds = match self {
            Self::Seconds(seconds) => Some(*seconds),
            Self::Text(text) => humantime::parse_rfc3339_weak(text)
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
        };
        let seconds = seconds.filter(|seconds| *seconds <= LAST_SECOND);
        seconds.ok_or(Unfit(
            "Expected a time as seconds since 1970, or such as 2030-01-31T12:00:00Z.",
        ))
    }
}

impl Span {
    fn read(&self) -> Result<u64, Unfit> {
        match self {
            Self::Seconds(seconds) => Ok(*seconds),
            Self::Text(text) => {
                let span = humantime::parse_duration(text);
                let span = span.map_err(|_| Unfit("Expected expires_in such as 15m, or seconds."));
                // A part of a second is a whole one: rather a little too long than too short.
                span.map(|span| span.as_secs() + u64::from(span.subsec_nanos() > 0))
            }
        }
    }
}

/// The id of a token and when it ends. It need not be a good one: an operator says that it is bad.
fn of_token(token: &str) -> Result<(String, Option<u64>), Unfit> {
    let unfit =
        Unfit("The token is none: expected three parts of base64url, the second of them JSON.");
    let mut parts = token.trim().split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unfit);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| unfit)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| unfit)?;
    let jti = claims.jti.filter(|jti| !jti.is_empty());
    let jti = jti.ok_or(Unfit(
        "The token has no jti, by which it could be told: revoke its subject.",
    ))?;
    let expires = match claims.exp {
        // A fraction is a whole second; what lies beyond the calendar ends with it.
        Some(exp) if exp >= 0.0 => Some((exp.ceil() as u64).min(LAST_SECOND)),
        Some(_) => Some(0),
        None => None,
    };
    Ok((jti, expires))
}

/// The id or subject that a call takes back: `/revocations/{jti}`, or `?subject=`.
pub(super) fn named(path: &str, query: Option<&str>) -> Option<Target> {
    let jti = path.strip_prefix("/revocations/").unwrap_or_default();
    let mut asked = query.unwrap_or_default().split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        match name {
            "jti" => Some(Target::Token(decode(value)?.into())),
            "subject" => Some(Target::Subject(decode(value)?.into())),
            _ => None,
        }
    });
    let target = match (jti, asked.next(), asked.next()) {
        ("", Some(target), None) => target,
        (jti, None, None) if !jti.is_empty() => Target::Token(decode(jti)?.into()),
        _ => return None,
    };
    fit(target).ok()
}

/// What there is, without the ids; what is asked for by name, with whether it is revoked.
pub(super) fn show(revoker: &Revoker, asked: Option<&Target>, now: Time) -> Value {
    let list = revoker.list();
    let Some(target) = asked else {
        return summary(revoker);
    };
    let over = |terms: &Terms| terms.until.is_some_and(|until| until <= now.seconds());
    let terms = list.get(target).filter(|terms| !over(terms));
    let Some(terms) = terms else {
        let (kind, name) = spelled(target);
        return json!({ kind: name, "revoked": false });
    };
    let mut shown = of_terms(target, &terms);
    shown["revoked"] = true.into();
    shown
}

/// How many there are, and how the list is kept up to date.
pub(super) fn summary(revoker: &Revoker) -> Value {
    let list = revoker.list();
    let counts = list.counts();
    let cut_off = list.cut_off();
    json!({
        "tokens": counts.tokens,
        "subjects": counts.subjects,
        "shared": revoker.is_shared(),
        "in_sync": revoker.is_in_sync(),
        "cut_off": cut_off.map(|cut_off| time(cut_off.issued_before)),
    })
}

/// A revocation as answers show it.
pub(super) fn of_terms(target: &Target, terms: &Terms) -> Value {
    let (kind, name) = spelled(target);
    let mut shown = json!({ kind: name, "expires_at": terms.until.map(time) });
    if let Target::Subject(_) = target {
        shown["issued_before"] = time(terms.issued_before).into();
    }
    shown
}

fn spelled(target: &Target) -> (&'static str, &str) {
    match target {
        Target::Token(jti) => ("jti", jti),
        Target::Subject(subject) => ("subject", subject),
    }
}

fn time(seconds: u64) -> String {
    let since = Duration::from_secs(seconds.min(LAST_SECOND));
    let time: SystemTime = UNIX_EPOCH + since;
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    const NOW: Time = Time(1_700_000_000_250);

    fn ask(body: &str) -> Result<Revocation, Unfit> {
        understand(body.as_bytes(), NOW)
    }

    fn until(body: &str) -> u64 {
        ask(body).unwrap().terms.until.unwrap()
    }

    fn token(claims: &str) -> String {
        format!(
            "{{\"token\": \"e30.{}.c2ln\"}}",
            URL_SAFE_NO_PAD.encode(claims)
        )
    }

    #[test]
    fn every_way_to_say_what_is_revoked_is_understood() {
        let by_id = ask("{\"jti\": \"a\"}").unwrap();
        assert_eq!(by_id.target, Target::Token("a".into()));
        assert_eq!(by_id.terms.until, Some(1_700_000_000 + KEPT.as_secs()));
        assert_eq!(until("{\"jti\": \"a\", \"expires_in\": 60}"), 1_700_000_060);
        assert_eq!(
            until("{\"jti\": \"a\", \"expires_in\": \"1m 30s\"}"),
            1_700_000_090
        );
        assert_eq!(
            until("{\"jti\": \"a\", \"expires_in\": \"10ms\"}"),
            1_700_000_001
        );
        assert_eq!(
            until("{\"jti\": \"a\", \"expires_at\": 1700000007}"),
            1_700_000_007
        );
        let text = "{\"jti\": \"a\", \"expires_at\": \"2030-01-01T00:00:00Z\"}";
        assert_eq!(until(text), 1_893_456_000);
        let by_subject = ask("{\"subject\": \"s\"}").unwrap();
        assert_eq!(by_subject.target, Target::Subject("s".into()));
        assert_eq!(by_subject.terms.issued_before, 1_700_000_001);
        let before = ask("{\"subject\": \"s\", \"issued_before\": 1600000000}").unwrap();
        assert_eq!(before.terms.issued_before, 1_600_000_000);
        let by_token = ask(&token("{\"jti\":\"t\",\"exp\":1700000009.5,\"x\":[]}")).unwrap();
        assert_eq!(by_token.target, Target::Token("t".into()));
        assert_eq!(by_token.terms.until, Some(1_700_000_010));
    }

    #[test]
    fn what_is_unclear_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            "{\"jti\": \"\"}",
            "{\"jti\": 1}",
            "{\"jti\": \"a\", \"subject\": \"b\"}",
            "{\"jti\": \"a\", \"issued_before\": 1}",
            "{\"jti\": \"a\", \"expires_in\": 0}",
            "{\"jti\": \"a\", \"expires_in\": -1}",
            "{\"jti\": \"a\", \"expires_in\": \"soon\"}",
            "{\"jti\": \"a\", \"expires_in\": 1, \"expires_at\": 1900000000}",
            "{\"jti\": \"a\", \"expires_at\": 1700000000}",
            "{\"jti\": \"a\", \"expires_at\": 18446744073709551615}",
            "{\"jti\": \"a\", \"expires\": 1}",
            "{\"token\": \"a.b\"}",
            "{\"token\": \"a.b.c\"}",
            "{\"token\": \"a.e30.c.d\"}",
        ] {
            assert!(ask(body).is_err(), "{body}");
        }
        for claims in [
            "{}",
            "{\"jti\":\"\"}",
            "{\"jti\":7}",
            "{\"jti\":\"t\",\"exp\":1699999999}",
            "{\"jti\":\"t\",\"exp\":-1}",
        ] {
            assert!(ask(&token(claims)).is_err(), "{claims}");
        }
        let long = format!("{{\"jti\": \"{}\"}}", "x".repeat(MAX_NAME + 1));
        assert!(ask(&long).is_err());
    }

    #[test]
    fn names_are_taken_from_path_or_query() {
        let token = |jti: &str| Some(Target::Token(jti.into()));
        assert_eq!(named("/revocations/a%2fb%20c", None), token("a/b c"));
        assert_eq!(named("/revocations", Some("jti=a")), token("a"));
        let subject = Some(Target::Subject("a+b".into()));
        assert_eq!(named("/revocations", Some("subject=a%2Bb")), subject);
        for (path, query) in [
            ("/revocations", None),
            ("/revocations/", None),
            ("/revocations/a", Some("jti=b")),
            ("/revocations", Some("jti=a&subject=b")),
            ("/revocations", Some("jti=%")),
            ("/revocations/%ff", None),
        ] {
            assert_eq!(named(path, query), None, "{path} {query:?}");
        }
    }
}
