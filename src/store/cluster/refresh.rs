//! Asking who has which slot: now and then, and at once when there is a reason.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::topology::Topology;
use super::{Cluster, GUEST_LIFE, View};
use crate::config::model::Node;
use crate::metrics::RedisError as Kind;
use crate::store::access::Access;
use crate::store::failure::Failure;
use crate::store::keyed::send;
use crate::store::pool::Pool;

/// Between two questions when all is well.
const CALM: Duration = Duration::from_secs(5);
/// Between two questions while servers or slots are missing.
const UNREST: Duration = Duration::from_millis(250);
/// Between two questions in any case.
const LEAST: Duration = Duration::from_millis(50);
/// Servers that are asked over the connections there are, before others are dialled.
const ASKED_FIRST: usize = 3;
/// Servers that are dialled at a time.
const MAX_DIALLED: usize = 32;

/// What one server says.
struct Seen {
    topology: Topology,
    /// Whether it is in touch with most of the others.
    is_well: bool,
    /// The latest change that it knows of.
    epoch: u64,
}

/// What some said of whom none can be believed.
struct Heard {
    /// The latest change that is known already.
    known: u64,
    best: Option<Seen>,
    last: Failure,
}

impl Heard {
    fn new(known: u64) -> Self {
        Self {
            known,
            best: None,
            last: Failure::new(Kind::Connect, "no server can be asked"),
        }
    }

    /// Gives it back if it can be believed.
    fn consider(&mut self, seen: Result<Seen, Failure>) -> Option<Seen> {
        match seen {
            Ok(seen) if seen.is_well && seen.epoch >= self.known => return Some(seen),
            Ok(seen) => {
                let rank = |one: &Seen| (one.is_well, one.epoch);
                let best = self.best.as_ref();
                if best.is_none_or(|best| rank(&seen) > rank(best)) {
                    self.best = Some(seen);
                }
            }
            Err(failure) => self.last = failure,
        }
        None
    }
}

impl Cluster {
    /// Keeps the view true, for ever.
    pub async fn keep_view(self: Arc<Self>) {
        loop {
            let is_calm = match self.look().await {
                Ok(seen) => {
                    self.install(seen);
                    self.is_whole()
                }
                Err(failure) => {
                    let address = self.context.report.address();
                    self.context.failed(&address, &failure);
                    false
                }
            };
            self.rounds.send_modify(|count| *count += 1);
            sleep(LEAST).await;
            tokio::select! {
                () = sleep(if is_calm { CALM } else { UNREST }) => {}
                () = self.context.doubt.notified() => {}
            }
        }
    }

    fn is_whole(&self) -> bool {
        let view = self.view.load();
        let all_up = view.members.iter().all(|one| one.pool.usable() > 0);
        view.unserved() == 0 && all_up
    }

    /// Asks one server after another until one can be believed. Otherwise the one counts that is
    /// likeliest to know.
    async fn look(&self) -> Result<Seen, Failure> {
        let within = self.context.settings.command_timeout;
        let mut heard = Heard::new(self.epoch.load(Relaxed));
        let mut asked = BTreeSet::new();
        for (node, pool) in self.connected() {
            let answers = send(&pool, &questions(), within).await;
            let seen = answers.and_then(|answers| read(answers, &node));
            if let Some(seen) = heard.consider(seen) {
                return Ok(seen);
            }
            asked.insert(node);
        }
        let mut dials = JoinSet::new();
        for node in self.known().difference(&asked).take(MAX_DIALLED) {
            dials.spawn(dial(Arc::clone(&self.access), node.clone(), within));
        }
        while let Some(seen) = dials.join_next().await {
            let ended = |_| Err(Failure::new(Kind::Other, "asking a server ended early"));
            if let Some(seen) = heard.consider(seen.unwrap_or_else(ended)) {
                return Ok(seen);
            }
        }
        heard.best.ok_or(heard.last)
    }

    /// Some servers that there are connections to, in an order of chance.
    fn connected(&self) -> Vec<(Node, Arc<Pool>)> {
        let view = self.view.load();
        let masters = view.topology.masters.iter().cloned();
        let pools = view.members.iter().map(|member| Arc::clone(&member.pool));
        let mut all: Vec<_> = masters.zip(pools).collect();
        all.retain(|(_, pool)| pool.usable() > 0);
        fastrand::shuffle(&mut all);
        all.truncate(ASKED_FIRST);
        all
    }

    /// Every server that was heard of.
    fn known(&self) -> BTreeSet<Node> {
        let view = self.view.load();
        let topology = &view.topology;
        let heard = topology.masters.iter().chain(&topology.replicas);
        self.seeds.iter().chain(heard).cloned().collect()
    }

    /// Goes by what a server says from now on. Connections to those that stay are kept.
    fn install(&self, seen: Seen) {
        self.epoch.store(seen.epoch, Relaxed);
        let before = self.view.load();
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        guests.retain(|guest| now.duration_since(guest.used) < GUEST_LIFE);
        if before.topology == seen.topology {
            return;
        }
        let member = |node: &Node| {
            let guest = || guests.iter().find(|guest| guest.node == *node);
            let kept = before.member(node);
            kept.or_else(|| Some(Arc::clone(&guest()?.member)))
                .unwrap_or_else(|| self.member(node))
        };
        let members = seen.topology.masters.iter().map(member).collect();
        guests.retain(|guest| !seen.topology.masters.contains(&guest.node));
        let others = before.topology.masters != seen.topology.masters;
        let view = View {
            topology: seen.topology,
            members,
        };
        if others {
            self.context.report.masters(&view.topology.masters);
        }
        self.view.store(Arc::new(view));
        if others {
            self.context.renewed();
        }
    }
}

fn questions() -> Pipeline {
    let mut questions = redis::pipe();
    questions.cmd("CLUSTER").arg("INFO");
    questions.cmd("CLUSTER").arg("SLOTS");
    questions.ignore_errors();
    questions
}

async fn dial(access: Arc<Access>, node: Node, within: Duration) -> Result<Seen, Failure> {
    let mut opened = access.open(&node).await?;
    read(opened.ask_all(&questions(), within).await?, &node)
}

/// A server that has no Cluster refuses with a code that says nothing.
fn explained(error: RedisError) -> Failure {
    let failure = Failure::from(error);
    if failure.has_code("ERR") {
        return Failure::new(Kind::Cluster, "it is no part of a Cluster");
    }
    failure
}

fn read(answers: Vec<RedisResult<Value>>, asked: &Node) -> Result<Seen, Failure> {
    let mut answers = answers.into_iter();
    let mut next = || match answers.next() {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(explained(error)),
        None => Err(Failure::new(Kind::Protocol, "too few answers")),
    };
    let info: String = redis::from_redis_value(next()?).map_err(|_| {
        Failure::new(
            Kind::Protocol,
            "an answer to CLUSTER INFO is not understood",
        )
    })?;
    let topology = Topology::read(&next()?, asked)?;
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    let field = |wanted| {
        lines
            .clone()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.trim())
    };
    Ok(Seen {
        topology,
        is_well: field("cluster_state") == Some("ok"),
        epoch: field("cluster_current_epoch")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn seen(info: &str) -> Result<Seen, Failure> {
        let asked = Node {
            host: "a".into(),
            port: 1,
        };
        let answers = vec![Ok(Value::BulkString(info.into())), Ok(Value::Array(vec![]))];
        read(answers, &asked)
    }

    #[test]
    fn a_server_says_how_much_it_knows() {
        let read = seen("cluster_state:ok\r\ncluster_current_epoch:6\r\n").unwrap();
        assert_eq!((read.is_well, read.epoch), (true, 6));
        let read = seen("cluster_state:fail\r\n").unwrap();
        assert_eq!((read.is_well, read.epoch), (false, 0));
    }

    #[test]
    fn who_is_cut_off_or_behind_is_believed_last() {
        let say = |state: &str, epoch: u64| {
            seen(&format!(
                "cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n"
            ))
        };
        let mut heard = Heard::new(6);
        assert!(heard.consider(say("fail", 9)).is_none());
        assert!(heard.consider(say("ok", 5)).is_none());
        assert!(heard.consider(say("fail", 10)).is_none());
        assert_eq!(heard.best.as_ref().map(|best| best.epoch), Some(5));
        assert!(heard.consider(say("ok", 6)).is_some());
    }
}
