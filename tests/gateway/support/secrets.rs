//! Every token, key and secret that a test uses; none may be in what a gateway writes.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// Shorter ones could be words.
const SHORTEST: usize = 16;

static SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers a secret. Of a token the signature is enough: the rest may be another's, too.
pub fn remember(secret: &str) {
    let part = secret.rsplit('.').next().unwrap_or_default();
    if part.len() >= SHORTEST {
        SECRETS.lock().unwrap().insert(part.to_owned());
    }
}

/// Remembers the credential in a header field, if it has one.
pub fn remember_field(field: &str) {
    let (name, value) = field.split_once(':').unwrap_or_default();
    let credentials = ["authorization", "x-api-key", "x-token", "cookie"];
    if credentials.contains(&name.to_ascii_lowercase().as_str()) {
        value.split([' ', ';', '=']).for_each(remember);
    }
}

/// Fails when one of them is in a line.
pub fn assert_none_in(lines: &[String]) {
    let secrets = SECRETS.lock().unwrap().clone();
    // The demo prints requests to try, with a token of its own.
    let written = lines
        .iter()
        .filter(|line| !line.trim_start().starts_with("curl "));
    for line in written {
        let found = secrets.iter().find(|secret| line.contains(secret.as_str()));
        assert!(found.is_none(), "a secret was written: {line}");
    }
}
