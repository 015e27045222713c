//! The buffers between requests and the output, and the thread that empties them.
//!
//! Threads append to buffers of their own, so that a lock is contended only in the moment in which
//! the writer exchanges a buffer for an empty one. While lines come, the writer works in beats;
//! when none come, it sleeps until the next one wakes it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::metrics::Counter;

use super::clock::Clock;
use super::output::Output;

/// More than there are worker threads on most machines; further threads share.
const SHARDS: usize = 16;

/// How long lines may wait so that one write takes many of them.
const BEAT: Duration = Duration::from_millis(20);

/// Waiting bytes that are worth a write before the beat ends.
const LARGE_BATCH: usize = 256 << 10;

/// What an emptied buffer keeps of its memory.
const KEPT_CAPACITY: usize = 256 << 10;

/// What requests and the writer share.
pub(super) struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    limit: usize,
    // Bytes in the buffers and in the writer's hands.
    waiting: AtomicUsize,
    asleep: AtomicBool,
    reopen: AtomicBool,
    end: AtomicBool,
    written: (Mutex<()>, Condvar),
    dropped: Counter,
}

#[derive(Default)]
struct Shard {
    lines: Vec<u8>,
    clock: Clock,
}

impl Shared {
    /// Empty buffers that hold at most `limit` bytes together.
    pub fn new(limit: usize, dropped: Counter) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            limit,
            waiting: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            end: AtomicBool::new(false),
            written: (Mutex::new(()), Condvar::new()),
            dropped,
        }
    }

    /// Appends what `line` writes, or drops it. Says whether the writer is to be woken.
    pub fn append(&self, line: impl FnOnce(&mut Vec<u8>, &mut Clock)) -> bool {
        if self.waiting.load(SeqCst) >= self.limit {
            self.dropped.inc();
            return false;
        }
        let mut guard = lock(&self.shards[shard_of_thread()]);
        let shard = &mut *guard;
        let start = shard.lines.len();
        line(&mut shard.lines, &mut shard.clock);
        let added = shard.lines.len() - start;
        let before = self.waiting.fetch_add(added, SeqCst);
        if before + added > self.limit {
            shard.lines.truncate(start);
            self.waiting.fetch_sub(added, SeqCst);
            self.dropped.inc();
            return false;
        }
        drop(guard);
        let large = before < LARGE_BATCH && before + added >= LARGE_BATCH;
        large || (self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst))
    }

    /// Asks the writer to open its file again.
    pub fn ask_to_reopen(&self) {
        self.reopen.store(true, SeqCst);
    }

    /// Asks the writer to write what is left and to end.
    pub fn ask_to_end(&self) {
        self.end.store(true, SeqCst);
    }

    /// Waits until nothing waits for the writer, or the time is over; the first is true.
    pub fn wait_until_written(&self, at_most: Duration, writer: &thread::Thread) -> bool {
        let deadline = Instant::now() + at_most;
        let (mutex, signal) = &self.written;
        let mut guard = lock(mutex);
        while self.waiting.load(SeqCst) > 0 || self.reopen.load(SeqCst) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            writer.unpark();
            let woken = signal.wait_timeout(guard, left);
            guard = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The writer's life.
    pub fn run(&self, mut output: Output) {
        let mut batch = Vec::new();
        loop {
            if self.reopen.swap(false, SeqCst) {
                output.reopen();
            }
            let ending = self.end.load(SeqCst);
            self.write_waiting(&mut output, &mut batch);
            if ending {
                return;
            }
            thread::park_timeout(BEAT);
            if self.waiting.load(SeqCst) == 0 {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        self.asleep.store(true, SeqCst);
        // What was asked for before the flag could be seen must not be slept over. A later request
        // sees the flag, and its wake-up is kept for a thread that is about to park.
        let asked = self.waiting.load(SeqCst) > 0 || self.end.load(SeqCst);
        if !asked && !self.reopen.load(SeqCst) {
            thread::park();
        }
        self.asleep.store(false, SeqCst);
    }

    fn write_waiting(&self, output: &mut Output, batch: &mut Vec<u8>) {
        for shard in &self.shards {
            std::mem::swap(&mut lock(shard).lines, batch);
            if batch.is_empty() {
                continue;
            }
            self.dropped.inc_by(output.write(batch));
            self.waiting.fetch_sub(batch.len(), SeqCst);
            batch.clear();
            batch.shrink_to(KEPT_CAPACITY);
        }
        let _guard = lock(&self.written.0);
        self.written.1.notify_all();
    }
}

/// A panic while a buffer was locked can leave half a line, which is no reason to stop logging.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads take the shards in turn and keep theirs.
fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, SeqCst) % SHARDS);
        }
        own.get()
    })
}
