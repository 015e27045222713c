//! Whether whoever began something with a token may go on with it: a WebSocket, a stream.
//!
//! Asked once when it begins, and again whenever something was revoked. Between revocations it costs
//! nothing but memory: some hundred bytes, and a timer where the end of the token counts.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::revocation::{Bearer, Revocations, seconds};

/// Why something begun with a token has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The token has expired.
    Expired,
    /// It was revoked, or its subject was.
    Revoked,
}

/// What something goes on with: the tokens that were shown for it.
pub struct Watch {
    list: Arc<Revocations>,
    changes: watch::Receiver<u64>,
    tokens: Vec<Held>,
    expires: Option<Instant>,
}

/// A token, as far as it matters here.
struct Held {
    jti: Option<Box<str>>,
    subject: Option<Box<str>>,
    issued_at: Option<u64>,
}

impl Watch {
    /// Over tokens that say this of themselves. `expires` is given where their end counts.
    pub fn new<'a>(
        list: &Arc<Revocations>,
        tokens: impl IntoIterator<Item = Bearer<'a>>,
        expires: Option<Instant>,
    ) -> Self {
        Self {
            // Before the first look, so that nothing can come between the two.
            changes: list.subscribe(),
            list: Arc::clone(list),
            tokens: tokens.into_iter().map(Held::from).collect(),
            expires,
        }
    }

    /// Waits until it may not go on.
    pub async fn ended(&mut self) -> Why {
        let expires = self.expires;
        let expiry = async move {
            match expires {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.revoked() => Why::Revoked,
            () = expiry => Why::Expired,
        }
    }

    async fn revoked(&mut self) {
        loop {
            let now = seconds(SystemTime::now());
            let is_revoked = |token: &Held| self.list.is_revoked(token.bearer(), now);
            if self.tokens.iter().any(is_revoked) {
                return;
            }
            if self.changes.changed().await.is_err() {
                // The list lives as long as this does.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl From<Bearer<'_>> for Held {
    fn from(token: Bearer<'_>) -> Self {
        Self {
            jti: token.jti.map(Box::from),
            subject: token.subject.map(Box::from),
            issued_at: token.issued_at,
        }
    }
}

impl Held {
    fn bearer(&self) -> Bearer<'_> {
        Bearer {
            jti: self.jti.as_deref(),
            subject: self.subject.as_deref(),
            issued_at: self.issued_at,
        }
    }
}

impl std::fmt::Debug for Watch {
    /// Without whose it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::revocation::{Revocation, Target, Terms};
    use super::*;

    fn revocation(target: Target) -> Revocation {
        let terms = Terms {
            issued_before: 1000,
            until: None,
            at: 0,
        };
        Revocation { target, terms }
    }

    fn watch(list: &Arc<Revocations>, expires: Option<Instant>) -> Watch {
        let token = Bearer {
            jti: Some("a"),
            subject: Some("alice"),
            issued_at: Some(999),
        };
        Watch::new(list, [token], expires)
    }

    async fn goes_on(watch: &mut Watch) -> bool {
        let ended = tokio::time::timeout(Duration::from_millis(1), watch.ended());
        ended.await.is_err()
    }

    #[tokio::test]
    async fn it_goes_on_until_its_own_token_is_revoked() {
        let list = Arc::<Revocations>::default();
        let mut open = watch(&list, None);
        assert!(goes_on(&mut open).await);
        assert!(list.add(revocation(Target::Token("b".into()))).is_ok());
        list.announce();
        assert!(goes_on(&mut open).await, "of another token");
        assert!(list.add(revocation(Target::Token("a".into()))).is_ok());
        list.announce();
        assert_eq!(open.ended().await, Why::Revoked);
    }

    #[tokio::test]
    async fn it_ends_with_its_subject_and_when_it_was_revoked_before_it_began() {
        let list = Arc::<Revocations>::default();
        let target = Target::Subject("alice".into());
        assert!(list.add(revocation(target)).is_ok());
        assert_eq!(watch(&list, None).ended().await, Why::Revoked);
        let later = Bearer {
            issued_at: Some(1000),
            subject: Some("alice"),
            jti: None,
        };
        assert!(goes_on(&mut Watch::new(&list, [later], None)).await);
    }

    #[tokio::test]
    async fn it_ends_with_its_token_where_that_counts() {
        let list = Arc::<Revocations>::default();
        let now = Instant::now();
        let mut open = watch(&list, Some(now + Duration::from_secs(3600)));
        assert!(goes_on(&mut open).await);
        assert_eq!(watch(&list, Some(now)).ended().await, Why::Expired);
    }
}
