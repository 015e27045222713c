//! Whether a password belongs to a hash: remembered, or checked off the workers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::login::Login;
use super::pool::{Job, Pool, Verify};
use super::remembered::{Mark, Remembered};
use crate::config::Secret;
use crate::metrics::{AuthError, AuthMetrics};

/// How long a client waits for its turn and the check.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
pub struct Check<'a> {
    hash: &'a Secret,
    login: &'a Login,
    /// Nobody has this name, so that no answer is a good one.
    in_vain: bool,
}

impl<'a> Check<'a> {
    /// Whether the password is that of a user with this hash.
    pub fn of(hash: &'a Secret, login: &'a Login) -> Self {
        let in_vain = false;
        Self {
            hash,
            login,
            in_vain,
        }
    }

    /// As much work as that, for nothing.
    pub fn in_vain(hash: &'a Secret, login: &'a Login) -> Self {
        let in_vain = true;
        Self {
            hash,
            login,
            in_vain,
        }
    }
}

/// Checks passwords, and remembers good ones. It outlives generations.
pub struct Passwords {
    /// Of this process. Without one nothing can be told apart, and nobody is let in.
    key: Option<hmac::Key>,
    remembered: Arc<Remembered>,
    pool: Pool,
    metrics: Arc<AuthMetrics>,
}

impl Passwords {
    /// Remembers at most that many.
    pub fn new(entries: usize, metrics: Arc<AuthMetrics>) -> Self {
        Self::with(Arc::new(is_right), entries, metrics)
    }

    fn with(verify: Verify, entries: usize, metrics: Arc<AuthMetrics>) -> Self {
        let remembered = Arc::new(Remembered::new(entries));
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            pool: Pool::new(verify, Arc::clone(&remembered)),
            remembered,
            metrics,
        }
    }

    /// Whether the password is right. Waits for a check unless the answer is remembered.
    pub async fn check(&self, check: &Check<'_>, now: SystemTime) -> Result<bool, AuthError> {
        let key = self.key.as_ref().ok_or(AuthError::ProviderUnavailable)?;
        let mark = mark(key, check);
        let is_remembered = self.remembered.has(&mark, now);
        self.metrics.looked_up(is_remembered);
        if is_remembered {
            return Ok(true);
        }
        let job = || Job {
            mark,
            hash: check.hash.clone(),
            password: check.login.password().to_owned(),
            remember: (!check.in_vain).then_some(now),
        };
        let Some(mut answer) = self.pool.enlist(&mark, job) else {
            return Err(AuthError::Overloaded);
        };
        match tokio::time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => Ok(*answer == Some(true)),
            // It broke off.
            Ok(Err(_)) => Err(AuthError::ProviderUnavailable),
            Err(_) => Err(AuthError::Overloaded),
        }
    }
}

/// Lengths come first, so that no two logins are written alike.
fn mark(key: &hmac::Key, check: &Check<'_>) -> Mark {
    let mut context = hmac::Context::with_key(key);
    context.update(&[u8::from(check.in_vain)]);
    let Check { hash, login, .. } = check;
    for part in [hash.reveal(), login.name(), login.password()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut mark = Mark::default();
    // HMAC-SHA-256 has 32 bytes.
    for (to, from) in mark.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    mark
}

/// The check itself, as the kind of the hash has it. The configuration has checked its form.
fn is_right(hash: &str, password: &str) -> bool {
    if hash.starts_with("$argon2") {
        let parsed = PasswordHash::new(hash);
        return parsed.is_ok_and(|hash| {
            let verified = Argon2::default().verify_password(password.as_bytes(), &hash);
            verified.is_ok()
        });
    }
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Condvar, Mutex};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::pool::{MAX_THREADS, MAX_WAITING};
    use super::*;

    fn login(text: &str) -> Login {
        Login::parse(&STANDARD.encode(text)).unwrap()
    }

    fn hash(text: &str) -> Secret {
        text.to_owned().into()
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// Finds `right` right, counts, and can be held.
    #[derive(Default)]
    struct Fake {
        count: AtomicUsize,
        held: Mutex<bool>,
        released: Condvar,
    }

    impl Fake {
        fn passwords(self: &Arc<Self>) -> Arc<Passwords> {
            let fake = Arc::clone(self);
            let verify = move |_: &str, password: &str| {
                let mut held = fake.held.lock().unwrap();
                fake.count.fetch_add(1, SeqCst);
                while *held {
                    held = fake.released.wait(held).unwrap();
                }
                drop(held);
                assert_ne!(password, "panic");
                password == "right"
            };
            Arc::new(Passwords::with(Arc::new(verify), 100, Arc::default()))
        }

        fn hold(&self, held: bool) {
            *self.held.lock().unwrap() = held;
            self.released.notify_all();
        }

        fn count(&self) -> usize {
            self.count.load(SeqCst)
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        runtime.block_on(future)
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// As a task of its own.
    fn ask(
        passwords: &Arc<Passwords>,
        text: &str,
    ) -> tokio::task::JoinHandle<Result<bool, AuthError>> {
        let (passwords, login) = (Arc::clone(passwords), login(text));
        tokio::task::spawn_local(async move {
            let hash = hash("h");
            passwords.check(&Check::of(&hash, &login), NOW).await
        })
    }

    fn locally<T>(future: impl Future<Output = T>) -> T {
        run(tokio::task::LocalSet::new().run_until(future))
    }

    #[test]
    fn a_good_password_is_checked_once_and_a_wrong_one_every_time() {
        let fake = Arc::new(Fake::default());
        let passwords = fake.passwords();
        let check = |hash_text: &str, text: &str, now| {
            let (hash, login) = (hash(hash_text), login(text));
            run(passwords.check(&Check::of(&hash, &login), now))
        };
        assert_eq!(check("h", "a:right", NOW), Ok(true));
        assert_eq!(check("h", "a:right", NOW), Ok(true));
        assert_eq!(fake.count(), 1);
        for count in 2..4 {
            assert_eq!(check("h", "a:wrong", NOW), Ok(false));
            assert_eq!(fake.count(), count);
        }
        // Another name, another hash, a later time.
        assert_eq!(check("h", "b:right", NOW), Ok(true));
        assert_eq!(check("other", "a:right", NOW), Ok(true));
        assert_eq!(
            check("h", "a:right", NOW + Duration::from_secs(300)),
            Ok(true)
        );
        assert_eq!(fake.count(), 6);
    }

    #[test]
    fn what_is_checked_in_vain_is_never_remembered() {
        let fake = Arc::new(Fake::default());
        let passwords = fake.passwords();
        for count in 1..3 {
            let (hash, login) = (hash("h"), login("a:right"));
            run(passwords.check(&Check::in_vain(&hash, &login), NOW)).unwrap();
            assert_eq!(fake.count(), count);
        }
        let (hash, login) = (hash("h"), login("a:right"));
        run(passwords.check(&Check::of(&hash, &login), NOW)).unwrap();
        assert_eq!(fake.count(), 3);
    }

    #[test]
    fn a_burst_of_one_login_costs_one_check() {
        let fake = Arc::new(Fake::default());
        let passwords = fake.passwords();
        locally(async {
            fake.hold(true);
            let burst: Vec<_> = (0..50).map(|_| ask(&passwords, "a:wrong")).collect();
            until(|| fake.count() == 1).await;
            tokio::task::yield_now().await;
            fake.hold(false);
            for one in burst {
                assert_eq!(one.await.unwrap(), Ok(false));
            }
        });
        assert_eq!(fake.count(), 1);
    }

    #[test]
    fn what_waits_is_bounded_and_what_nobody_waits_for_is_dropped() {
        let fake = Arc::new(Fake::default());
        let passwords = fake.passwords();
        locally(async {
            fake.hold(true);
            let threads = *MAX_THREADS;
            let running: Vec<_> = (0..threads)
                .map(|n| ask(&passwords, &format!("r{n}:right")))
                .collect();
            until(|| fake.count() >= 1).await;
            until(|| passwords.pool.waiting() == 0).await;
            let waiting: Vec<_> = (0..MAX_WAITING)
                .map(|n| ask(&passwords, &format!("w{n}:right")))
                .collect();
            until(|| passwords.pool.waiting() == MAX_WAITING).await;
            let refused = ask(&passwords, "late:right").await.unwrap();
            assert_eq!(refused, Err(AuthError::Overloaded));
            // Their clients go away.
            for one in &waiting[1..] {
                one.abort();
            }
            for one in waiting.into_iter().skip(1) {
                assert!(one.await.unwrap_err().is_cancelled());
            }
            fake.hold(false);
            for one in running {
                assert_eq!(one.await.unwrap(), Ok(true));
            }
            assert_eq!(ask(&passwords, "late:right").await.unwrap(), Ok(true));
            assert!(fake.count() <= threads + 2, "{}", fake.count());
        });
    }

    #[test]
    fn a_check_that_breaks_off_lets_nobody_in_and_others_go_on() {
        let fake = Arc::new(Fake::default());
        let passwords = fake.passwords();
        locally(async {
            for _ in 0..10 {
                let broken = ask(&passwords, "a:panic").await.unwrap();
                assert_eq!(broken, Err(AuthError::ProviderUnavailable));
            }
            assert_eq!(ask(&passwords, "a:right").await.unwrap(), Ok(true));
        });
    }

    #[test]
    fn hashes_of_common_tools_are_understood() {
        for (hash, password) in [
            // `htpasswd -nbB -C 4 a s3cret` of Apache 2.4.
            (
                "$2y$04$y5rgwdoNfR3xRgCgcnSW1eySTeX3GPQltVb2Lq3a5vcbak2rgY0Uq",
                "s3cret",
            ),
            (&*bcrypt::hash("s3cret", 4).unwrap(), "s3cret"),
            // The test suite of the reference implementation of Argon2.
            (
                "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
                 nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
                "password",
            ),
        ] {
            assert!(is_right(hash, password), "{hash}");
            for wrong in ["", "s3cre", "s3crets", "S3cret", "passwor", "Password"] {
                assert!(!is_right(hash, wrong), "{hash}");
            }
        }
        for damaged in ["", "$2b$04$x", "$argon2id$x"] {
            assert!(!is_right(damaged, "s3cret"));
        }
    }
}
