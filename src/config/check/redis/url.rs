//! Takes the URL of a single server apart.

use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::config::model::{Login, Node};
use crate::config::problem::Invalid;
use crate::config::scalar::Secret;

const EXPECTED: &str =
    "`redis://` or `rediss://`, perhaps `USER:PASSWORD@`, a host, perhaps `:PORT` and `/DATABASE`";

/// What a URL says.
#[derive(Debug)]
pub(super) struct Place {
    pub node: Node,
    pub login: Login,
    pub encrypted: bool,
}

/// Reads a URL. What is wrong with it is told without a word of it.
pub(super) fn place(url: &str) -> Result<Place, Invalid> {
    let refused = |what: &str| Invalid::new(what.to_owned(), EXPECTED);
    let (encrypted, rest) = match url.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        _ => return Err(refused("is no URL of Redis")),
    };
    if rest.contains(['?', '#']) {
        let what = "has a query or a fragment, or an unescaped `?` or `#` in its password,";
        return Err(refused(what));
    }
    // The connection is made here and not by the crate, so its own TLS plays no part.
    let read = format!("redis://{rest}").as_str().into_connection_info();
    let read = read.map_err(|_| refused("is no URL of Redis"))?;
    let ConnectionAddr::Tcp(host, port) = read.addr() else {
        return Err(refused("is no URL of Redis"));
    };
    let settings = read.redis_settings();
    let (user, password) = (settings.username(), settings.password());
    if user.is_some() && password.is_none() {
        return Err(refused("has a user without a password"));
    }
    if host.is_empty() || *port == 0 || settings.db() < 0 {
        return Err(refused(
            "has no host, no port or no database that there can be",
        ));
    }
    Ok(Place {
        node: Node {
            host: host.as_str().into(),
            port: *port,
        },
        login: Login {
            user: user.map(str::to_owned),
            password: password.map(|text| Secret::from(text.to_owned())),
            database: settings.db(),
        },
        encrypted,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let read = place("rediss://us%20er:p%40ss@cache.internal:6380/3").unwrap();
        assert_eq!(
            (&*read.node.host, read.node.port, read.encrypted),
            ("cache.internal", 6380, true)
        );
        assert_eq!(read.login.user.as_deref(), Some("us er"));
        assert_eq!(read.login.password.as_ref().unwrap().reveal(), "p@ss");
        assert_eq!(read.login.database, 3);
        let read = place("redis://:secret@[::1]").unwrap();
        assert_eq!(
            (&*read.node.host, read.node.port, read.encrypted),
            ("::1", 6379, false)
        );
        assert_eq!((read.login.user, read.login.database), (None, 0));
    }

    #[test]
    fn what_is_wrong_with_one_is_told_without_showing_it() {
        for wrong in [
            "",
            "hunter2",
            "http://hunter2@cache",
            "redis://",
            "redis://hunter2@cache/x",
            "redis://user:hunter2@cache?protocol=resp3",
            "redis://user:hunter2@cache/-1",
            "redis://user:hunter2#@cache",
            "redis://user:hunter2@0.0.0.0",
            "redis://user:hunter2@cache:0",
            "redis://hunter2@cache",
            "unix:///hunter2",
        ] {
            let refusal = place(wrong).unwrap_err().to_string();
            assert!(!refusal.contains("hunter2"), "{wrong}: {refusal}");
        }
    }
}
