//! Makes API keys and hashes of them and of passwords. What is secret is read from standard input.

use std::io::Read;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;

/// Nobody types or makes a longer one.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

/// 43 of 62 characters are 256 bits.
const KEY_CHARACTERS: usize = 43;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// bcrypt looks at no more of a password.
const MAX_PASSWORD_BYTES: usize = 71;

/// What to make.
#[derive(clap::Args)]
pub struct Keygen {
    /// What the key begins with, so that it is recognised where it should not be.
    #[arg(long, default_value = "gw_", value_parser = prefix)]
    prefix: String,
    /// Whom the key belongs to.
    #[arg(long, default_value = "client", value_parser = name)]
    name: String,
    /// Read a key from standard input and print its hash.
    #[arg(long, conflicts_with_all = ["prefix", "name"])]
    hash: bool,
}

/// How to hash.
#[derive(clap::Args)]
pub struct HashPassword {
    /// The cost of bcrypt: each step doubles the work of a check.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=14))]
    cost: u32,
}

impl Keygen {
    /// What is printed.
    pub fn run(&self) -> Result<String, String> {
        if self.hash {
            let key = input().map_err(|error| format!("keygen: {error}"))?;
            return hash_of_input(&key).map_err(|error| format!("keygen: {error}"));
        }
        let key = key(&self.prefix).map_err(|error| format!("keygen: {error}"))?;
        let hash = hash(&key);
        Ok(format!(
            "key: {key}\n\n\
             The key is shown this once. The entry for `keys` or the file of keys:\n\n\
             - name: {}\n  hash: {hash}\n",
            quoted(&self.name)
        ))
    }
}

impl HashPassword {
    /// What is printed.
    pub fn run(&self) -> Result<String, String> {
        let hash = input().and_then(|password| self.hash(&password));
        hash.map_err(|error| format!("hash-password: {error}"))
    }

    fn hash(&self, password: &str) -> Result<String, String> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(format!(
                "the password is too long, expected at most {MAX_PASSWORD_BYTES} bytes"
            ));
        }
        if password.chars().any(char::is_control) {
            return Err("the password has control characters, which RFC 7617 forbids".to_owned());
        }
        let hash = bcrypt::non_truncating_hash(password, self.cost);
        let hash = hash.map_err(|_| "there is no randomness".to_owned())?;
        Ok(format!("{hash}\n"))
    }
}

/// A fresh key, each character as likely as any other.
fn key(prefix: &str) -> Result<String, String> {
    let mut key = prefix.to_owned();
    let end = prefix.len() + KEY_CHARACTERS;
    let mut bytes = [0u8; 64];
    while key.len() < end {
        rand::fill(&mut bytes).map_err(|_| "there is no randomness".to_owned())?;
        // 248 is the largest multiple of 62 in a byte: others would favour some characters.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let characters = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        key.extend(characters.take(end - key.len()));
    }
    Ok(key)
}

fn hash(key: &str) -> String {
    let digest = digest(&SHA256, key.as_bytes());
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}

fn hash_of_input(key: &str) -> Result<String, String> {
    // What a header cannot carry would never be found.
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the key has characters that a header cannot carry".to_owned());
    }
    Ok(format!("{}\n", hash(key)))
}

/// A secret from standard input, without the end of its line.
fn input() -> Result<String, String> {
    let mut text = String::new();
    let mut bounded = std::io::stdin().lock().take(MAX_INPUT_BYTES);
    let read = bounded.read_to_string(&mut text);
    read.map_err(|error| format!("standard input cannot be read: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err("standard input is empty, expected the secret".to_owned());
    }
    Ok(text.to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.len() <= 32 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("expected at most 32 letters, digits, `_`, `-` and `.`".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let is_short = (1..=256).contains(&text.chars().count());
    if is_short && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 256 characters without control characters".to_owned())
}

/// A name as YAML takes it for a text whatever is in it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_have_256_bits_of_every_character() {
        let keys: BTreeSet<String> = (0..200).map(|_| key("gw_").unwrap()).collect();
        assert_eq!(keys.len(), 200);
        let mut seen = BTreeSet::new();
        for key in &keys {
            let random = key.strip_prefix("gw_").unwrap();
            assert_eq!(random.len(), KEY_CHARACTERS);
            assert!(random.bytes().all(|byte| ALPHABET.contains(&byte)));
            seen.extend(random.bytes());
        }
        assert_eq!(seen.len(), ALPHABET.len());
    }

    #[test]
    fn a_hash_is_that_of_the_standard() {
        // FIPS 180-4, the example for "abc".
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), abc);
        assert!(hash_of_input("with space").is_err());
    }

    #[test]
    fn names_stand_in_yaml() {
        for (name, text) in [
            ("partner-1", "partner-1"),
            ("1", "'1'"),
            ("it's: one", "'it''s: one'"),
        ] {
            assert_eq!(quoted(name), text);
        }
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_refused() {
        let hasher = HashPassword { cost: 4 };
        assert!(hasher.hash(&"x".repeat(72)).is_err());
        assert!(hasher.hash("a\tb").is_err());
        let hash = hasher.hash(&"x".repeat(71)).unwrap();
        assert!(bcrypt::verify("x".repeat(71), hash.trim()).unwrap());
    }
}
