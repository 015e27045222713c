//! What is asked of the store about revocations, and what is written to it.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use redis::{Pipeline, RedisResult, Value, pipe};

use super::clock::Time;
use super::message::{self, CHANNEL, FIELD, Key, LOG, LOG_LENGTH, Lift, Message, PATTERN};
use crate::filter::auth::revocation::{Revocation, Revocations, Target};
use crate::metrics::{RedisCommand, RedisError, RevocationMetrics};
use crate::store::{Failure, Store};

/// Keys that a step of a scan looks at, about.
const SCAN_STEP: usize = 1000;
/// Revocations that are written at a time.
const WRITE_STEP: usize = 200;
/// Messages that are read at a time.
const LOG_STEP: usize = 1000;

/// One list and one store.
pub(super) struct Exchange {
    pub list: Arc<Revocations>,
    pub store: Arc<Store>,
    pub metrics: Arc<RevocationMetrics>,
}

/// An entry of the stream: its id, and its fields with their values.
type Entry = (String, Vec<String>);

/// A stream by its name, with some of its entries.
type Stream = (String, Vec<Entry>);

/// An answer of `SCAN`: where to go on, and keys.
type Step = (u64, Vec<Vec<u8>>);

impl Exchange {
    /// Writes a revocation down, and tells the others.
    pub async fn push(&self, revocation: &Revocation, now: Time) -> Result<(), Failure> {
        let Some(mut commands) = write(revocation, now, false) else {
            return Ok(());
        };
        tell(&mut commands, revocation);
        self.store
            .query::<()>(RedisCommand::Revoke, &commands)
            .await?;
        self.metrics.pushed(1);
        Ok(())
    }

    /// Takes a revocation back, and tells the others. Says whether there was one in the store. It is
    /// remembered as long as the revocation would have been.
    pub async fn lift(&self, lift: &Lift, life: u64) -> Result<bool, Failure> {
        let text = Message::Lift(lift.clone()).write();
        let mut commands = pipe();
        commands.cmd("DEL").arg(message::revoked(&lift.target));
        let tombstone = message::lifted(&lift.target);
        let mark = commands.cmd("SET").arg(tombstone).arg(lift.at);
        mark.arg("EX").arg(life.max(1)).ignore();
        publish(&mut commands, &text);
        let (deleted,): (u64,) = self.store.query(RedisCommand::Revoke, &commands).await?;
        Ok(deleted > 0)
    }

    /// Applies what another instance told.
    pub fn apply(&self, text: &[u8], now: Time) {
        match Message::read(text) {
            Some(Message::Revoke(revocation)) => self.learn(vec![revocation], now),
            Some(Message::Lift(lift)) => {
                if self.list.lift(&lift.target, lift.at) {
                    self.metrics.received(1);
                }
            }
            None => {
                let what = "a message about revocations is not understood";
                self.store.failed(&Failure::new(RedisError::Protocol, what));
            }
        }
    }

    fn learn(&self, revocations: Vec<Revocation>, now: Time) {
        let had_room = self.list.cut_off().is_none();
        self.metrics
            .received(self.list.learn(revocations, now.seconds()));
        if had_room && self.list.cut_off().is_some() {
            log::error!(
                "auth error: the list of revocations is full; until it is not, every token issued \
                 before now counts as revoked"
            );
        }
    }

    /// The end of the stream: what comes after is to be read.
    pub async fn log_end(&self) -> Result<String, Failure> {
        let mut commands = pipe();
        let last = commands.cmd("XREVRANGE").arg(LOG).arg("+").arg("-");
        last.arg("COUNT").arg(1);
        let (entries,): (Vec<Entry>,) = self.store.query(RedisCommand::Sync, &commands).await?;
        let last = entries.into_iter().next();
        Ok(last.map_or_else(|| "0-0".to_owned(), |(id, _)| id))
    }

    /// Applies what the stream has after `last`, and says where it ends.
    pub async fn catch_up(&self, mut last: String) -> Result<String, Failure> {
        loop {
            let mut commands = pipe();
            let read = commands.cmd("XREAD").arg("COUNT").arg(LOG_STEP);
            read.arg("STREAMS").arg(LOG).arg(&last);
            let (streams,): (Option<Vec<Stream>>,) =
                self.store.query(RedisCommand::Sync, &commands).await?;
            let entries = streams
                .into_iter()
                .flatten()
                .flat_map(|(_, entries)| entries);
            let mut count = 0;
            for (id, fields) in entries {
                // A field and its value; there is one.
                if let Some(text) = fields.get(1) {
                    self.apply(text.as_bytes(), Time::now());
                }
                last = id;
                count += 1;
            }
            if count < LOG_STEP {
                return Ok(last);
            }
        }
    }

    /// Learns every key there is, and writes those that are missing.
    pub async fn resync(&self) -> Result<(), Failure> {
        let hasher = RandomState::default();
        let mut seen = HashSet::new();
        let mut cursor = 0;
        loop {
            let mut commands = pipe();
            let scan = commands.cmd("SCAN").arg(cursor).arg("MATCH").arg(PATTERN);
            scan.arg("COUNT").arg(SCAN_STEP);
            let (step,): (Step,) = self.store.query(RedisCommand::Sync, &commands).await?;
            let keys: Vec<Key> = step.1.iter().filter_map(|key| Key::read(key)).collect();
            let (mut unknown, mut lifted) = (Vec::new(), Vec::new());
            for key in keys {
                match key {
                    Key::Revoked(target) => {
                        seen.insert(hasher.hash_one(&target));
                        if self.list.get(&target).is_none() {
                            unknown.push(target);
                        }
                    }
                    Key::Lifted(target) if self.list.get(&target).is_some() => lifted.push(target),
                    Key::Lifted(_) => {}
                }
            }
            self.fetch(unknown).await?;
            self.take_back(lifted).await?;
            cursor = step.0;
            if cursor == 0 {
                break;
            }
        }
        let now = Time::now();
        let mut missing = self.list.all(now.seconds());
        missing.retain(|revocation| !seen.contains(&hasher.hash_one(&revocation.target)));
        self.write_missing(&missing).await
    }

    /// Learns what keys say whose names are known.
    async fn fetch(&self, targets: Vec<Target>) -> Result<(), Failure> {
        if targets.is_empty() {
            return Ok(());
        }
        let mut commands = pipe();
        // A hand may have made the key something that cannot be read so; it revokes all the same.
        commands.ignore_errors();
        for target in &targets {
            let key = message::revoked(target);
            commands.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
        }
        let answers: Vec<RedisResult<Value>> =
            self.store.query(RedisCommand::Sync, &commands).await?;
        let now = Time::now();
        let read = |(target, answers): (Target, &[RedisResult<Value>])| {
            let [value, life] = answers else { return None };
            let life: i64 = redis::from_redis_value(life.as_ref().ok()?.clone()).ok()?;
            let value = value.as_ref().ok().cloned();
            let value: Option<String> = value.and_then(|value| redis::from_redis_value(value).ok());
            // What is gone since has ended.
            const GONE: i64 = -2;
            (life != GONE).then(|| message::read(target, value.as_deref(), life, now.0))
        };
        let found = targets.into_iter().zip(answers.chunks(2)).filter_map(read);
        self.learn(found.collect(), now);
        Ok(())
    }

    /// Forgets what was taken back since it was learned.
    async fn take_back(&self, targets: Vec<Target>) -> Result<(), Failure> {
        if targets.is_empty() {
            return Ok(());
        }
        let mut commands = pipe();
        for target in &targets {
            commands.cmd("GET").arg(message::lifted(target));
            commands.cmd("EXISTS").arg(message::revoked(target));
        }
        let answers: Vec<Option<u64>> = self.store.query(RedisCommand::Sync, &commands).await?;
        for (target, answers) in targets.iter().zip(answers.chunks(2)) {
            // A key that is there again says that it is revoked.
            if let [Some(at), Some(0)] = answers {
                self.list.lift(target, *at);
            }
        }
        Ok(())
    }

    /// Writes what the store should have and has not: it was revoked while there was no connection,
    /// or the store has lost it.
    async fn write_missing(&self, missing: &[Revocation]) -> Result<(), Failure> {
        for some in missing.chunks(WRITE_STEP) {
            let now = Time::now();
            let (mut commands, mut written) = (pipe(), Vec::new());
            for revocation in some {
                if let Some(write) = write(revocation, now, true) {
                    write.cmd_iter().for_each(|command| {
                        commands.add_command(command.clone());
                    });
                    written.push(revocation);
                }
            }
            if written.is_empty() {
                continue;
            }
            let answers: Vec<Option<String>> =
                self.store.query(RedisCommand::Sync, &commands).await?;
            // What another instance has written meanwhile, it has told, too.
            let mut commands = pipe();
            let mine = written
                .iter()
                .zip(&answers)
                .filter(|(_, set)| set.is_some());
            let mut count = 0;
            for (revocation, _) in mine {
                tell(&mut commands, revocation);
                count += 1;
            }
            if count > 0 {
                self.store
                    .query::<()>(RedisCommand::Sync, &commands)
                    .await?;
                self.metrics.pushed(count);
            }
        }
        Ok(())
    }
}

/// The command that writes a revocation, perhaps only where there is none. `None`: it is over.
fn write(revocation: &Revocation, now: Time, only_new: bool) -> Option<Pipeline> {
    let life = match revocation.terms.until {
        Some(until) => Some(
            until
                .saturating_mul(1000)
                .checked_sub(now.0)
                .filter(|ms| *ms > 0)?,
        ),
        None => None,
    };
    let mut commands = pipe();
    let key = message::revoked(&revocation.target);
    let set = commands.cmd("SET").arg(key).arg(message::value(revocation));
    if only_new {
        set.arg("NX");
    }
    if let Some(life) = life {
        set.arg("PX").arg(life);
    }
    if !only_new {
        set.ignore();
    }
    Some(commands)
}

/// The commands that tell the others of a revocation.
fn tell(commands: &mut Pipeline, revocation: &Revocation) {
    let lifted = message::lifted(&revocation.target);
    commands.cmd("DEL").arg(lifted).ignore();
    publish(commands, &Message::Revoke(revocation.clone()).write());
}

fn publish(commands: &mut Pipeline, text: &str) {
    let log = commands.cmd("XADD").arg(LOG).arg("MAXLEN").arg("~");
    log.arg(LOG_LENGTH).arg("*").arg(FIELD).arg(text).ignore();
    commands.cmd("PUBLISH").arg(CHANNEL).arg(text).ignore();
}
