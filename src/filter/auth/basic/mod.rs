//! User names and passwords (RFC 7617).
//!
//! A check of a password takes tens to hundreds of milliseconds of a core, so it is done on threads
//! of its own ([`Passwords`]), and a good one is remembered for a while. A name that nobody has costs
//! the same check as one that somebody has.

mod checks;
mod login;
mod pool;
mod remembered;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;
use http::header;

use self::checks::Check;
pub use self::checks::Passwords;
use self::login::Login;
use super::credential::{self, Shown};
use super::identity::{Known, words};
use crate::config::Secret;
use crate::config::model::{self, CredentialSource};
use crate::metrics::AuthError;

/// The users of a scheme.
pub struct Basic {
    /// Where name and password are: the one place that the standard has.
    pub sources: Vec<CredentialSource>,
    users: HashMap<Box<str>, User, RandomState>,
    /// The hashes, for names that nobody has.
    hashes: Vec<Secret>,
    /// Chooses among them, so that a name that nobody has always costs the same.
    choice: RandomState,
}

struct User {
    hash: Secret,
    known: Arc<Known>,
}

impl Basic {
    /// Of these users.
    pub fn new(config: &model::Basic) -> Self {
        let user = |user: &model::BasicUser| {
            let known = Known {
                subject: (*user.name).into(),
                scopes: words(&user.scopes),
                roles: words(&user.roles),
                expires: None,
            };
            let hash = user.hash.clone();
            let known = Arc::new(known);
            ((*user.name).into(), User { hash, known })
        };
        Self {
            sources: vec![CredentialSource::Header {
                name: header::AUTHORIZATION,
                scheme: Some("Basic".to_owned()),
            }],
            users: config.users.iter().map(user).collect(),
            hashes: config.users.iter().map(|user| user.hash.clone()).collect(),
            choice: RandomState::default(),
        }
    }

    fn hash_for_nobody(&self, name: &str) -> Option<&Secret> {
        use std::hash::BuildHasher;
        let place = self.choice.hash_one(name) % self.hashes.len().max(1) as u64;
        self.hashes.get(place as usize)
    }
}

/// Who shows name and password, and the place of their scheme; `None`: nobody did.
pub async fn judge(
    schemes: &[Arc<Basic>],
    passwords: &Passwords,
    shown: Shown<'_>,
    now: SystemTime,
) -> Result<Option<(usize, Arc<Known>)>, AuthError> {
    let Some(first) = schemes.first() else {
        return Ok(None);
    };
    let Some(text) = credential::find(shown.headers, &first.sources)? else {
        return Ok(None);
    };
    let login = Login::parse(text)?;
    let mut is_known = false;
    for (place, scheme) in schemes.iter().enumerate() {
        let Some(user) = scheme.users.get(login.name()) else {
            continue;
        };
        is_known = true;
        if passwords.check(&Check::of(&user.hash, &login), now).await? {
            return Ok(Some((place, Arc::clone(&user.known))));
        }
    }
    let mut hashes = schemes.iter();
    let hash = hashes.find_map(|scheme| scheme.hash_for_nobody(login.name()));
    if let (false, Some(hash)) = (is_known, hash) {
        // Whatever comes of it: nobody has this name.
        passwords.check(&Check::in_vain(hash, &login), now).await?;
    }
    Err(AuthError::WrongPassword)
}
