//! What a token claims (RFC 7519 section 4) and whether a provider's settings accept it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::{ProviderSettings, TokenError};

type Claims = Map<String, Value>;

/// A time as tokens tell it, in milliseconds since 1970. Times further off than can be told are as
/// far off as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NumericDate(i64);

impl NumericDate {
    /// Before every time.
    pub const MIN: Self = Self(i64::MIN);
    /// After every time.
    pub const MAX: Self = Self(i64::MAX);

    /// Milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, downwards.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// RFC 7519 section 2: a JSON number, fractions allowed.
    fn read(value: &Value) -> Option<Self> {
        let number = value.as_number()?;
        if let Some(seconds) = number.as_i64() {
            return Some(Self(seconds.saturating_mul(1000)));
        }
        // Conversion of a float saturates. JSON has no NaN.
        number
            .as_f64()
            .map(|seconds| Self((seconds * 1000.0).floor() as i64))
    }
}

impl From<SystemTime> for NumericDate {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(millis(since)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The values of `typ` that are accepted, without regard to case and with or without
/// `application/` (RFC 7515 section 4.1.9). Naming them keeps tokens for other purposes out
/// (RFC 8725 section 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTypes {
    /// The accepted values.
    pub accepted: Vec<String>,
    /// Whether `typ` may be absent.
    pub absent: bool,
}

impl Default for TokenTypes {
    /// A token that says it is one, an access token (RFC 9068), or one that says nothing.
    fn default() -> Self {
        Self {
            accepted: vec!["JWT".into(), "at+jwt".into()],
            absent: true,
        }
    }
}

impl TokenTypes {
    fn accept(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ.map(media_type) else {
            return self.absent;
        };
        let same = |accepted: &String| media_type(accepted).eq_ignore_ascii_case(typ);
        self.accepted.iter().any(same)
    }
}

/// A media type without `application/`, which may be left out where no other slash is.
pub(super) fn media_type(text: &str) -> &str {
    match text.split_once('/') {
        Some((kind, rest)) if kind.eq_ignore_ascii_case("application") && !rest.contains('/') => {
            rest
        }
        _ => text,
    }
}

/// Between which times a token is good, skew included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// From here on.
    pub from: NumericDate,
    /// Until before this.
    pub until: NumericDate,
}

impl Validity {
    pub fn check(self, now: NumericDate) -> Result<(), TokenError> {
        if now >= self.until {
            return Err(TokenError::Expired);
        }
        if now < self.from {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// Whether a provider accepts claims that it has signed.
pub(super) fn check(
    claims: &Claims,
    typ: Option<&str>,
    settings: &ProviderSettings,
    now: NumericDate,
) -> Result<Validity, TokenError> {
    if !settings.types.accept(typ) {
        return Err(TokenError::WrongType);
    }
    let validity = validity(claims, settings)?;
    validity.check(now)?;
    audience(claims, &settings.audiences)?;
    for required in &settings.required_claims {
        if claims.get(required).is_none_or(Value::is_null) {
            return Err(TokenError::MissingClaim(Cow::Owned(required.clone())));
        }
    }
    Ok(validity)
}

fn validity(claims: &Claims, settings: &ProviderSettings) -> Result<Validity, TokenError> {
    let skew = settings.clock_skew;
    let expiry = date(claims, "exp")?;
    if expiry.is_none() && settings.require_expiry {
        return Err(TokenError::MissingClaim(Cow::Borrowed("exp")));
    }
    // A token from the future is refused like one that is not valid yet: its issuer's clock is wrong,
    // or somebody else's is.
    let begin = date(claims, "nbf")?.max(date(claims, "iat")?);
    Ok(Validity {
        from: begin.map_or(NumericDate::MIN, |begin| begin.minus(skew)),
        until: expiry.map_or(NumericDate::MAX, |expiry| expiry.plus(skew)),
    })
}

/// A time among the claims.
pub(super) fn date(claims: &Claims, name: &'static str) -> Result<Option<NumericDate>, TokenError> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    match NumericDate::read(value) {
        Some(date) => Ok(Some(date)),
        None => Err(TokenError::Malformed("a time is not a number")),
    }
}

/// A string among the claims.
pub(super) fn text<'c>(
    claims: &'c Claims,
    name: &'static str,
) -> Result<Option<&'c str>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Malformed("a name is not a string")),
    }
}

/// RFC 7519 section 4.1.3: a string, or an array of strings.
fn audience(claims: &Claims, expected: &[String]) -> Result<(), TokenError> {
    let malformed = TokenError::Malformed("`aud` is neither a string nor strings");
    let found = match claims.get("aud") {
        None if expected.is_empty() => return Ok(()),
        None => return Err(TokenError::MissingClaim(Cow::Borrowed("aud"))),
        Some(Value::String(one)) => expected.contains(one),
        Some(Value::Array(several)) => {
            if !several.iter().all(Value::is_string) {
                return Err(malformed);
            }
            let is_expected = |one: &Value| {
                expected
                    .iter()
                    .any(|wanted| Some(&**wanted) == one.as_str())
            };
            several.iter().any(is_expected)
        }
        Some(_) => return Err(malformed),
    };
    if found || expected.is_empty() {
        Ok(())
    } else {
        Err(TokenError::WrongAudience)
    }
}

/// What a token permits: the words of `scope` (RFC 8693 section 4.2) and of `scp`, which some
/// issuers write instead, as an array or as words.
pub(super) fn scopes(claims: &Claims) -> Box<[Box<str>]> {
    let mut found: Vec<Box<str>> = Vec::new();
    let mut add = |text: &str| {
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if !found.iter().any(|known| **known == *word) {
                found.push(word.into());
            }
        }
    };
    for value in ["scope", "scp"]
        .into_iter()
        .filter_map(|name| claims.get(name))
    {
        match value {
            Value::String(words) => add(words),
            Value::Array(list) => list.iter().filter_map(Value::as_str).for_each(&mut add),
            _ => {}
        }
    }
    found.into()
}

/// The roles at the provider's place for them: strings, or one string.
pub(super) fn roles(claims: &Claims, settings: &ProviderSettings) -> Box<[Box<str>]> {
    match settings.roles_claim.find(claims) {
        Some(Value::String(role)) => Box::new([role.as_str().into()]),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect(),
        _ => Box::default(),
    }
}
