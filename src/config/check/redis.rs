//! Checks what is written about the shared store. Nothing is connected to, and no name resolved.

use std::sync::Arc;

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::Checker;
use super::upstream::Encryption;
use crate::config::file;
use crate::config::model::{Login, Redis, UpstreamTls};
use crate::config::problem::Invalid;
use crate::config::scalar::Secret;
use crate::config::tree::Path;

const EXPECTED: &str =
    "`redis://` or `rediss://`, perhaps `USER:PASSWORD@`, a host, perhaps `:PORT` and `/DATABASE`";

/// What a URL says.
#[derive(Debug)]
struct Place {
    host: String,
    port: u16,
    login: Login,
    encrypted: bool,
}

impl Checker<'_> {
    /// Checks `redis`. The outer `None`: it is not sound.
    pub(super) fn redis(&mut self, written: Option<&file::Redis>) -> Option<Option<Redis>> {
        let root = Path::Root;
        let at = root.key("redis");
        let Some(written) = written else {
            return Some(None);
        };
        let place = self.accept(&at.key("url"), place(written.url.reveal()));
        let tls = match &place {
            Some(place) => self.redis_tls(written, place, &at),
            None => None,
        };
        let (place, tls) = (place?, tls?);
        Some(Some(Redis {
            host: Arc::from(place.host),
            port: place.port,
            login: place.login,
            tls,
            pool_size: written.pool_size as usize,
            connect_timeout: written.connect_timeout.0,
            command_timeout: written.command_timeout.0,
        }))
    }

    fn redis_tls(
        &mut self,
        written: &file::Redis,
        place: &Place,
        at: &Path<'_>,
    ) -> Option<Option<UpstreamTls>> {
        if !place.encrypted {
            let keys = [
                ("ca", &written.ca),
                ("client_cert", &written.client_cert),
                ("client_key", &written.client_key),
            ];
            let mut is_sound = true;
            for (key, _) in keys.iter().filter(|(_, value)| value.is_some()) {
                self.refuse(&at.key(key), "needs a `url` that begins with `rediss://`");
                is_sound = false;
            }
            return is_sound.then_some(None);
        }
        // Of the name nothing may be shown: it is a part of the URL.
        let named = self.server_name_of_redis(&place.host, at);
        let tls = file::Tls {
            ca: written.ca.clone(),
            client_cert: written.client_cert.clone(),
            client_key: written.client_key.clone(),
            ..file::Tls::default()
        };
        let tls = self.encryption(Some(&tls), at)?;
        named.then_some(tls)
    }

    fn server_name_of_redis(&mut self, host: &str, at: &Path<'_>) -> bool {
        let before = self.problems.len();
        let named = self.server_name(Encryption::OwnName, host, &at.key("url"));
        if named.is_none() {
            self.problems.truncate(before);
            let what = "its host is no name that a certificate can have";
            self.refuse(&at.key("url"), what);
        }
        named.is_some()
    }
}

/// Reads a URL. What is wrong with it is told without a word of it.
fn place(url: &str) -> Result<Place, Invalid> {
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
        host: host.clone(),
        port: *port,
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
            (&*read.host, read.port, read.encrypted),
            ("cache.internal", 6380, true)
        );
        assert_eq!(read.login.user.as_deref(), Some("us er"));
        assert_eq!(read.login.password.as_ref().unwrap().reveal(), "p@ss");
        assert_eq!(read.login.database, 3);
        let read = place("redis://:secret@[::1]").unwrap();
        assert_eq!(
            (&*read.host, read.port, read.encrypted),
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
