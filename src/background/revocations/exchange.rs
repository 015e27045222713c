//! What is asked of the store about revocations, and what is written to it.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use redis::{Cmd, FromRedisValue, Value, cmd};

use super::clock::Time;
use super::message::{self, CHANNEL, FIELD, Key, LOG, LOG_LENGTH, Lift, Message, PATTERN};
use crate::filter::auth::revocation::{Revocation, Revocations, Target};
use crate::metrics::{RedisCommand, RedisError, RevocationMetrics};
use crate::store::{Failure, Keyed, Shard, Store};

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
        let Some(write) = write(revocation, now, false) else {
            return Ok(());
        };
        let steps = vec![vec![write, forget_lift(revocation)], tell(revocation)];
        self.store.in_turn(RedisCommand::Revoke, steps).await?;
        self.metrics.pushed(1);
        Ok(())
    }

    /// Takes a revocation back, and tells the others. Says whether there was one in the store. It is
    /// remembered as long as the revocation would have been.
    pub async fn lift(&self, lift: &Lift, life: u64) -> Result<bool, Failure> {
        let text = Message::Lift(lift.clone()).write();
        let mut mark = cmd("SET");
        let tombstone = message::lifted(&lift.target);
        mark.arg(&tombstone).arg(lift.at).arg("EX").arg(life.max(1));
        let steps = vec![
            vec![one("DEL", message::revoked(&lift.target))],
            vec![Keyed::new(tombstone, mark)],
            publish(&text),
        ];
        let answers = self.store.in_turn(RedisCommand::Revoke, steps).await?;
        Ok(matches!(answers.first(), Some(Value::Int(1..))))
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
        let mut last = cmd("XREVRANGE");
        last.arg(LOG).arg("+").arg("-").arg("COUNT").arg(1);
        let entries: Vec<Entry> = self.read_log(last).await?;
        let last = entries.into_iter().next();
        Ok(last.map_or_else(|| "0-0".to_owned(), |(id, _)| id))
    }

    async fn read_log<T: FromRedisValue>(&self, question: Cmd) -> Result<T, Failure> {
        let steps = vec![vec![Keyed::new(LOG, question)]];
        let answers = self.store.in_turn(RedisCommand::Sync, steps).await?;
        value(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    /// Applies what the stream has after `last`, and says where it ends.
    pub async fn catch_up(&self, mut last: String) -> Result<String, Failure> {
        loop {
            let mut read = cmd("XREAD");
            read.arg("COUNT").arg(LOG_STEP);
            read.arg("STREAMS").arg(LOG).arg(&last);
            let streams: Option<Vec<Stream>> = self.read_log(read).await?;
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
        let shards = self.store.shards().await?;
        for shard in &shards.all {
            let see = |target: &Target| {
                seen.insert(hasher.hash_one(target));
            };
            self.scan(shard, see).await?;
        }
        if !self.store.are_current(&shards) {
            let what = "keys moved to other servers while they were looked at";
            return Err(Failure::new(RedisError::Cluster, what));
        }
        let now = Time::now();
        let mut missing = self.list.all(now.seconds());
        missing.retain(|revocation| !seen.contains(&hasher.hash_one(&revocation.target)));
        self.write_missing(&missing).await
    }

    /// Learns every key that one server has.
    async fn scan(&self, shard: &Shard, mut see: impl FnMut(&Target)) -> Result<(), Failure> {
        let mut cursor = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(PATTERN);
            scan.arg("COUNT").arg(SCAN_STEP);
            let step: Step = self.store.ask(RedisCommand::Sync, shard, scan).await?;
            let keys: Vec<Key> = step.1.iter().filter_map(|key| Key::read(key)).collect();
            let (mut unknown, mut lifted) = (Vec::new(), Vec::new());
            for key in keys {
                match key {
                    Key::Revoked(target) => {
                        see(&target);
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
                return Ok(());
            }
        }
    }

    /// Learns what keys say whose names are known.
    async fn fetch(&self, targets: Vec<Target>) -> Result<(), Failure> {
        if targets.is_empty() {
            return Ok(());
        }
        let both = |target: &Target| {
            let key = message::revoked(target);
            [one("GET", key.clone()), one("PTTL", key)]
        };
        let commands = targets.iter().flat_map(both).collect();
        let within = self.store.command_timeout();
        let answers = self.store.each(RedisCommand::Sync, commands, within).await;
        let now = Time::now();
        let mut found = Vec::new();
        for (target, answers) in targets.into_iter().zip(answers.chunks(2)) {
            let [text, life] = answers else { continue };
            let text: Option<String> = match text {
                Ok(text) => value(text.clone()).unwrap_or_default(),
                // A hand may have made the key something that cannot be read so; it revokes all the same.
                Err(failure) if failure.has_code("WRONGTYPE") => None,
                Err(failure) => return Err(failure.clone()),
            };
            let life: i64 = value(life.clone()?)?;
            // What is gone since has ended.
            const GONE: i64 = -2;
            if life != GONE {
                found.push(message::read(target, text.as_deref(), life, now.0));
            }
        }
        self.learn(found, now);
        Ok(())
    }

    /// Forgets what was taken back since it was learned.
    async fn take_back(&self, targets: Vec<Target>) -> Result<(), Failure> {
        if targets.is_empty() {
            return Ok(());
        }
        let both = |target: &Target| {
            let (lifted, revoked) = (message::lifted(target), message::revoked(target));
            [one("GET", lifted), one("EXISTS", revoked)]
        };
        let commands = targets.iter().flat_map(both).collect();
        let answers = self
            .store
            .in_turn(RedisCommand::Sync, vec![commands])
            .await?;
        let answers: Vec<Option<u64>> = value(Value::Array(answers))?;
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
            let write = |revocation| Some((revocation, write(revocation, now, true)?));
            let (revocations, commands): (Vec<_>, Vec<_>) = some.iter().filter_map(write).unzip();
            if commands.is_empty() {
                continue;
            }
            let within = self.store.command_timeout();
            let answers = self.store.each(RedisCommand::Sync, commands, within).await;
            // What another instance has written meanwhile, it has told, too.
            let mine = revocations.iter().zip(&answers);
            let mine =
                mine.filter(|(_, answer)| answer.as_ref().is_ok_and(|set| *set != Value::Nil));
            let mine: Vec<_> = mine.map(|(revocation, _)| *revocation).collect();
            if !mine.is_empty() {
                let forget = mine
                    .iter()
                    .map(|revocation| forget_lift(revocation))
                    .collect();
                let tell = mine
                    .iter()
                    .flat_map(|revocation| tell(revocation))
                    .collect();
                let steps = vec![forget, tell];
                self.store.in_turn(RedisCommand::Sync, steps).await?;
                self.metrics.pushed(mine.len());
            }
            // Where one server of several is away, the others have got theirs.
            answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Ok(())
    }
}

/// The command that writes a revocation, perhaps only where there is none. `None`: it is over.
fn write(revocation: &Revocation, now: Time, only_new: bool) -> Option<Keyed> {
    let life = match revocation.terms.until {
        Some(until) => Some(
            until
                .saturating_mul(1000)
                .checked_sub(now.0)
                .filter(|ms| *ms > 0)?,
        ),
        None => None,
    };
    let key = message::revoked(&revocation.target);
    let mut set = cmd("SET");
    set.arg(&key).arg(message::value(revocation));
    if only_new {
        set.arg("NX");
    }
    if let Some(life) = life {
        set.arg("PX").arg(life);
    }
    Some(Keyed::new(key, set))
}

/// The command that ends what an earlier lift says. Whether it comes before or after the key is
/// written makes no difference: a lift holds for what was revoked before it.
fn forget_lift(revocation: &Revocation) -> Keyed {
    one("DEL", message::lifted(&revocation.target))
}

/// The commands that tell the others of a revocation, when its key is written.
fn tell(revocation: &Revocation) -> Vec<Keyed> {
    publish(&Message::Revoke(revocation.clone()).write())
}

fn publish(text: &str) -> Vec<Keyed> {
    let mut log = cmd("XADD");
    log.arg(LOG).arg("MAXLEN").arg("~").arg(LOG_LENGTH);
    log.arg("*").arg(FIELD).arg(text);
    let mut message = cmd("PUBLISH");
    message.arg(CHANNEL).arg(text);
    // The message goes where the stream is, and so after it.
    vec![Keyed::new(LOG, log), Keyed::new(LOG, message)]
}

/// A command whose one argument is a key.
fn one(name: &str, key: String) -> Keyed {
    let mut command = cmd(name);
    command.arg(&key);
    Keyed::new(key, command)
}

fn value<T: FromRedisValue>(value: Value) -> Result<T, Failure> {
    redis::from_redis_value(value)
        .map_err(|_| Failure::new(RedisError::Protocol, "an answer is not understood"))
}
