//! The threads that check passwords: few, behind the workers, with a short queue.
//!
//! The same login is checked once, however many clients wait for it. What nobody waits for any longer
//! is not checked. When the queue is full, a client is told so at once.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::remembered::{Mark, Remembered};
use crate::config::Secret;

/// How many checks may wait. At 100 ms each and two threads, the last one waits for three seconds.
pub const MAX_WAITING: usize = 64;

/// Half of the cores, at least two and at most four: a check may take 128 MiB.
pub static MAX_THREADS: LazyLock<usize> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(2, 4)
});

/// How far the threads stand behind the workers when cores are scarce.
const NICE: i32 = 10;

/// Whether a password is that of a hash.
pub type Verify = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// `None` while there is no answer.
pub type Answer = watch::Receiver<Option<bool>>;

/// A check.
pub struct Job {
    /// What stands for the login.
    pub mark: Mark,
    /// The hash.
    pub hash: Secret,
    /// The password.
    pub password: String,
    /// Since when a good answer is good; `None`: it is not to be remembered.
    pub remember: Option<SystemTime>,
}

/// The threads. They are started when there is something to check, and end with this.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    verify: Verify,
    remembered: Arc<Remembered>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Who is to be told of each check that waits or is under way.
    asked: HashMap<Mark, watch::Sender<Option<bool>>, RandomState>,
    threads: usize,
    idle: usize,
    ended: bool,
}

impl Pool {
    /// Checks with this, and has good ones remembered there.
    pub fn new(verify: Verify, remembered: Arc<Remembered>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
                verify,
                remembered,
            }),
        }
    }

    /// Has a check done, or waits for the one that is asked for already. `None`: too much waits.
    pub fn enlist(&self, mark: &Mark, job: impl FnOnce() -> Job) -> Option<Answer> {
        let mut state = self.shared.lock();
        if let Some(asked) = state.asked.get(mark) {
            return Some(asked.subscribe());
        }
        if state.waiting.len() >= MAX_WAITING {
            state.forget_abandoned();
        }
        let has_thread = state.idle > state.waiting.len() || self.start_thread(&mut state);
        if !has_thread || state.waiting.len() >= MAX_WAITING {
            return None;
        }
        let (sender, answer) = watch::channel(None);
        state.asked.insert(*mark, sender);
        state.waiting.push_back(job());
        drop(state);
        self.shared.work.notify_one();
        Some(answer)
    }

    /// Starts another thread if there may be one. Whether there is any.
    fn start_thread(&self, state: &mut State) -> bool {
        if state.threads < *MAX_THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("passwords".to_owned());
            match thread.spawn(move || shared.run()) {
                Ok(_) => state.threads += 1,
                Err(error) => log::warn!("no thread to check passwords: {error}"),
            }
        }
        state.threads > 0
    }

    /// How many checks wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        // Without it, checks take more from the workers, and that is all.
        let _ = rustix::process::nice(NICE);
        while let Some(job) = self.next() {
            let verify = || (self.verify)(job.hash.reveal(), &job.password);
            let good = catch_unwind(AssertUnwindSafe(verify)).ok();
            if let (Some(true), Some(now)) = (good, job.remember) {
                self.remembered.put(job.mark, now);
            }
            let asked = self.lock().asked.remove(&job.mark);
            if let (Some(asked), Some(good)) = (asked, good) {
                asked.send_replace(Some(good));
            }
        }
    }

    /// The next check that somebody waits for; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                if state.is_abandoned(&job) {
                    state.asked.remove(&job.mark);
                    continue;
                }
                return Some(job);
            }
            state.idle += 1;
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes out what nobody waits for any longer.
    fn forget_abandoned(&mut self) {
        for job in std::mem::take(&mut self.waiting) {
            if self.is_abandoned(&job) {
                self.asked.remove(&job.mark);
            } else {
                self.waiting.push_back(job);
            }
        }
    }

    fn is_abandoned(&self, job: &Job) -> bool {
        let asked = self.asked.get(&job.mark);
        asked.is_none_or(|asked| asked.receiver_count() == 0)
    }
}
