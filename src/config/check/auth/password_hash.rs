//! Checks hashes of passwords: their kind, and that a check of one cannot take the machine.
//!
//! bcrypt and Argon2 (RFC 9106) are accepted. What is told never shows a hash.

use argon2::{Algorithm, Params, PasswordHash, Version};
use base64::Engine;

use crate::config::problem::Invalid;

const EXPECTED: &str = "bcrypt (`$2b$…`), as `htpasswd -B` or `gateway hash-password` make it, or \
                        Argon2 (`$argon2id$…`)";

/// bcrypt's own least cost, and one that takes about a second.
const COSTS: std::ops::RangeInclusive<u32> = 4..=14;

/// What one check of Argon2 may take: more than the defaults of every common tool, the largest of
/// which is 100 MiB.
const MAX_MEMORY_KIB: u32 = 128 * 1024;

/// Memory times passes, which is what a check takes of a core: about a second.
const MAX_WORK_KIB: u64 = 1024 * 1024;

const MAX_LANES: u32 = 16;

/// RFC 9106 section 3.1.
const MIN_SALT: usize = 8;

/// Whether it is a hash that can be checked against.
pub(super) fn password_hash(text: &str) -> Result<(), Invalid> {
    if text.starts_with("$2") {
        return bcrypt(text);
    }
    if text.starts_with("$argon2") {
        return argon2(text);
    }
    let kind = match text {
        "" => "is empty",
        _ if text.starts_with("$apr1$") || text.starts_with("$1$") => "is MD5",
        _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => "is SHA-1",
        _ if text.starts_with("$5$") || text.starts_with("$6$") => "is SHA-2 of crypt",
        _ if text.starts_with("$y$") || text.starts_with("$7$") => "is yescrypt or scrypt",
        _ if is_crypt(text) => "is DES of crypt",
        _ => "is of no kind that is known",
    };
    Err(Invalid::new(kind, EXPECTED))
}

fn is_crypt(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    text.len() == 13 && text.bytes().all(fits)
}

/// `$2b$12$`, 22 characters of salt and 31 of hash.
fn bcrypt(text: &str) -> Result<(), Invalid> {
    let damaged = || Invalid::new("is a damaged bcrypt hash", EXPECTED);
    let rest = ["$2a$", "$2b$", "$2y$"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    let (cost, rest) = rest
        .and_then(|rest| rest.split_once('$'))
        .ok_or_else(damaged)?;
    let is_number = cost.len() == 2 && cost.bytes().all(|digit| digit.is_ascii_digit());
    let cost: u32 = cost
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(damaged)?;
    let decodes = |part: &str| bcrypt::BASE_64.decode(part).is_ok();
    let is_whole = rest.is_ascii() && rest.len() == 53;
    if !is_whole || !decodes(&rest[..22]) || !decodes(&rest[22..]) {
        return Err(damaged());
    }
    if !COSTS.contains(&cost) {
        let (least, most) = (COSTS.start(), COSTS.end());
        let expected = format!("from {least} to {most}");
        return Err(Invalid::new(format!("has a cost of {cost}"), expected));
    }
    Ok(())
}

fn argon2(text: &str) -> Result<(), Invalid> {
    let damaged = || Invalid::new("is a damaged Argon2 hash", EXPECTED);
    let hash = PasswordHash::new(text).map_err(|_| damaged())?;
    let params = Params::try_from(&hash).map_err(|_| damaged())?;
    let is_whole = Algorithm::try_from(hash.algorithm).is_ok()
        && hash
            .version
            .is_none_or(|one| Version::try_from(one).is_ok())
        && hash.salt.is_some_and(|salt| {
            let mut bytes = [0; 64];
            salt.decode_b64(&mut bytes)
                .is_ok_and(|salt| salt.len() >= MIN_SALT)
        })
        && hash.hash.is_some_and(|hash| hash.len() >= 16);
    if !is_whole {
        return Err(damaged());
    }
    let (memory, passes) = (params.m_cost(), params.t_cost());
    let work = u64::from(memory) * u64::from(passes);
    if memory > MAX_MEMORY_KIB || work > MAX_WORK_KIB || params.p_cost() > MAX_LANES {
        let expected = format!(
            "at most m={MAX_MEMORY_KIB}, m times t at most {MAX_WORK_KIB}, and p={MAX_LANES}"
        );
        return Err(Invalid::new("takes too much memory or time", expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    const SALT_AND_HASH: &str = "L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    fn refusal(text: &str) -> String {
        let refused = password_hash(text).unwrap_err().to_string();
        // Nothing of it may be shown.
        assert!(!text.is_empty() && !refused.contains(text), "{refused}");
        assert!(!refused.contains("L6Bc"), "{refused}");
        refused
    }

    #[test]
    fn bcrypt_is_accepted_within_its_costs() {
        for (prefix, cost) in [("2a", "04"), ("2b", "12"), ("2y", "14")] {
            let text = format!("${prefix}${cost}${SALT_AND_HASH}");
            assert_eq!(password_hash(&text), Ok(()), "{text}");
        }
        for cost in ["03", "15", "31", "99"] {
            let refused = refusal(&format!("$2b${cost}${SALT_AND_HASH}"));
            assert!(refused.contains("from 4 to 14"), "{refused}");
        }
        for text in [
            "$2b$12$".to_owned(),
            "$2b$12".to_owned(),
            format!("$2x$12${SALT_AND_HASH}"),
            format!("$2b$+9${SALT_AND_HASH}"),
            format!("$2b$9${SALT_AND_HASH}"),
            format!("$2b$12${}", &SALT_AND_HASH[1..]),
            format!("$2b$12$*{}", &SALT_AND_HASH[1..]),
            format!("$2b$12${SALT_AND_HASH}A"),
            format!("$2b$12${}", "é".repeat(26) + "a"),
        ] {
            assert!(refusal(&text).contains("damaged bcrypt"), "{text}");
        }
    }

    #[test]
    fn argon2_is_accepted_within_bounds() {
        let text = |kind: &str, params: &str| {
            format!(
                "${kind}$v=19${params}$c29tZXNhbHRzb21l$\
                 iOdGjbqCqlEQkZ2Wm6Jk4RGCqzqBq8b6SsVYJ1ONvzk"
            )
        };
        for good in [
            text("argon2id", "m=65536,t=3,p=4"),
            text("argon2id", "m=102400,t=2,p=8"),
            text("argon2i", "m=4096,t=3,p=1"),
            text("argon2d", "m=19456,t=2,p=1"),
        ] {
            assert_eq!(password_hash(&good), Ok(()), "{good}");
        }
        for large in [
            "m=2097152,t=1,p=4",
            "m=65536,t=4000,p=1",
            "m=65536,t=1,p=400",
        ] {
            let refused = refusal(&text("argon2id", large));
            assert!(refused.contains("too much"), "{large}: {refused}");
        }
        for damaged in [
            text("argon2x", "m=4096,t=3,p=1"),
            text("argon2id", "m=1,t=3,p=1"),
            "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHRzb21l".to_owned(),
            "$argon2id$v=19$".to_owned(),
        ] {
            assert!(refusal(&damaged).contains("damaged Argon2"), "{damaged}");
        }
    }

    #[test]
    fn weak_kinds_are_named() {
        for (text, kind) in [
            ("$apr1$salt$0123456789abcdefghijkl", "MD5"),
            ("$1$salt$0123456789abcdefghijkl", "MD5"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
            ("$6$salt$hash", "SHA-2"),
            ("$y$j9T$salt$hash", "yescrypt"),
            ("rqXexS6ZhobKA", "DES"),
            ("correct horse", "no kind"),
        ] {
            let refused = refusal(text);
            assert!(refused.contains(kind), "{refused}");
            assert!(refused.contains("htpasswd -B"), "{refused}");
        }
        assert!(password_hash("").is_err());
    }
}
