//! The sentinels of a master: each is asked every second which server that is.
//!
//! They are asked ahead of time and not by each connection, so that connections to a master that was
//! replaced are given up although it goes on answering. Where sentinels disagree, the one counts that
//! knows of the later failover: the number of failovers (`config-epoch`) only grows. A sentinel that
//! cannot be reached says nothing; when none can, the last that was known stays. So it does when those
//! that can be reached know of fewer failovers than were heard of, unless they are most of all
//! sentinels: then somebody has set them up anew, and counts from the beginning.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::access::{Access, Opened};
use super::context::Context;
use super::failure::Failure;
use crate::config::model::{Node, Sentinel};
use crate::metrics::RedisError as Kind;

/// Between two questions to a sentinel, and two attempts to reach one.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two questions when somebody doubts the last answer.
const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// What the sentinels say.
pub(super) struct Sentinels {
    name: Arc<str>,
    nodes: Vec<Node>,
    heard: Mutex<Heard>,
    master: watch::Sender<Option<Node>>,
    doubts: watch::Sender<u64>,
    deadline: Duration,
}

/// What they have said.
struct Heard {
    /// What each said last, as long as it can be reached.
    answers: Vec<Option<Answer>>,
    /// The most failovers that were believed.
    epoch: u64,
}

/// What one of them says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    master: Node,
    /// How many failovers it knows of.
    epoch: u64,
}

impl Sentinels {
    /// Starts to ask them. That ends when the tasks do.
    pub fn start(
        settings: &Sentinel,
        context: &Arc<Context>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Self>, Failure> {
        let deadline = context.settings.connect_timeout;
        let access = Access::new(&settings.login, settings.tls.as_ref(), deadline)?;
        let access = Arc::new(access);
        let sentinels = Arc::new(Self {
            name: Arc::clone(&settings.master),
            nodes: settings.nodes.clone(),
            heard: Mutex::new(Heard::of(settings.nodes.len())),
            master: watch::Sender::new(None),
            doubts: watch::Sender::new(0),
            deadline,
        });
        for index in 0..sentinels.nodes.len() {
            let (access, context) = (Arc::clone(&access), Arc::clone(context));
            tasks.spawn(Arc::clone(&sentinels).follow(index, access, context));
        }
        Ok(sentinels)
    }

    /// The master, when it is known.
    pub fn master(&self) -> Option<Node> {
        self.master.borrow().clone()
    }

    /// Each sentinel, and the master that it names; `None` when it cannot be reached.
    pub fn views(&self) -> Vec<(Node, Option<Node>)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = heard.answers.iter();
        let masters = answers.map(|answer| Some(answer.as_ref()?.master.clone()));
        self.nodes.iter().cloned().zip(masters).collect()
    }

    /// The master, waiting for the first answer at a start.
    pub async fn find(&self) -> Result<Node, Failure> {
        let mut master = self.master.subscribe();
        let found = timeout(self.deadline, master.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(Result::ok);
        let found = found.and_then(|found| found.clone());
        found.ok_or_else(|| Failure::new(Kind::Connect, "no sentinel names a master"))
    }

    /// Waits until another server is the master.
    pub async fn replaced(&self, node: &Node) {
        let mut master = self.master.subscribe();
        let other = |master: &Option<Node>| master.as_ref().is_some_and(|now| now != node);
        if master.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The master does not answer, or is none: they are asked at once.
    pub fn doubt(&self) {
        self.doubts.send_modify(|count| *count += 1);
    }

    async fn follow(self: Arc<Self>, index: usize, access: Arc<Access>, context: Arc<Context>) {
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let address = node.to_string();
        loop {
            let failure = match access.open(node).await {
                Ok(opened) => self.listen_to(index, opened, &context).await,
                Err(failure) => failure,
            };
            self.say(index, None, &context);
            context.failed(&address, &failure);
            sleep(PAUSE).await;
        }
    }

    /// Asks one as long as it answers, and says why it does no longer.
    async fn listen_to(&self, index: usize, mut opened: Opened, context: &Context) -> Failure {
        let mut doubts = self.doubts.subscribe();
        let mut question = redis::cmd("SENTINEL");
        question.arg("MASTER").arg(&*self.name);
        let within = context.settings.command_timeout;
        loop {
            match opened.ask(&question, within).await.and_then(read) {
                Ok(answer) => self.say(index, Some(answer), context),
                Err(failure) if failure.has_code("ERR") => {
                    let what = "no sentinel, or one that does not know the master";
                    return Failure::new(Kind::Other, what);
                }
                Err(failure) => return failure,
            }
            sleep(SHORT_PAUSE).await;
            tokio::select! {
                () = sleep(PAUSE) => {}
                _ = doubts.changed() => {}
                () = &mut opened.driver => {
                    return Failure::new(Kind::Io, "the connection was closed");
                }
            }
        }
    }

    fn say(&self, index: usize, answer: Option<Answer>, context: &Context) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = heard.say(index, answer) else {
            return;
        };
        let is_news = self.master.send_if_modified(|master| {
            let is_news = master.as_ref() != Some(&latest.master);
            if is_news {
                *master = Some(latest.master.clone());
            }
            is_news
        });
        if is_news {
            context.report.master(&self.name, &latest.master);
        }
    }
}

impl Heard {
    /// Nothing yet, of so many sentinels.
    fn of(count: usize) -> Self {
        Self {
            answers: vec![None; count],
            epoch: 0,
        }
    }

    /// One says something, or cannot be reached. Gives the answer of who knows of the latest failover, if it can be
    /// believed.
    fn say(&mut self, index: usize, answer: Option<Answer>) -> Option<&Answer> {
        if let Some(place) = self.answers.get_mut(index) {
            *place = answer;
        }
        let reached = self.answers.iter().flatten();
        let are_most = reached.clone().count() * 2 > self.answers.len();
        // Among equals the first, so that a tie does not go back and forth.
        let latest = reached.rev().max_by_key(|answer| answer.epoch)?;
        if latest.epoch < self.epoch && !are_most {
            return None;
        }
        self.epoch = latest.epoch;
        Some(latest)
    }
}

/// Reads what a sentinel says of a master: names and their values.
fn read(fields: HashMap<String, String>) -> Result<Answer, Failure> {
    let field = |name: &str| fields.get(name).map(String::as_str);
    let host = field("ip").filter(|host| !host.is_empty());
    let port = field("port").and_then(|port| port.parse().ok());
    let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok());
    match (host, port, epoch) {
        (Some(host), Some(port), Some(epoch)) => Ok(Answer {
            master: Node {
                host: host.into(),
                port,
            },
            epoch,
        }),
        _ => Err(Failure::new(Kind::Protocol, "a master without an address")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    /// Whom they name at last, after each of these answers.
    fn named(heard: &mut Heard, answers: &[(usize, Option<Answer>)]) -> String {
        let mut last = String::new();
        for (index, answer) in answers {
            if let Some(believed) = heard.say(*index, answer.clone()) {
                last = believed.master.host.to_string();
            }
        }
        last
    }

    fn answer(host: &str, epoch: u64) -> Option<Answer> {
        let master = Node {
            host: host.into(),
            port: 6379,
        };
        Some(Answer { master, epoch })
    }

    #[test]
    fn who_knows_of_the_latest_failover_is_right() {
        let of = |answers: &[(usize, Option<Answer>)]| named(&mut Heard::of(3), answers);
        assert_eq!(of(&[(0, None), (1, None)]), "");
        assert_eq!(of(&[(0, None), (1, answer("a", 3))]), "a");
        let late = [
            (0, answer("a", 3)),
            (1, answer("b", 4)),
            (2, answer("a", 3)),
        ];
        assert_eq!(of(&late), "b");
        assert_eq!(of(&[(1, answer("b", 3)), (0, answer("a", 3))]), "a");
    }

    #[test]
    fn a_sentinel_that_was_cut_off_does_not_undo_a_failover() {
        let mut heard = Heard::of(3);
        let all = [
            (0, answer("b", 4)),
            (1, answer("b", 4)),
            (2, answer("a", 3)),
        ];
        assert_eq!(named(&mut heard, &all), "b");
        assert_eq!(named(&mut heard, &[(0, None)]), "b");
        let nobody_else = [(1, None), (2, answer("a", 3))];
        assert_eq!(named(&mut heard, &nobody_else), "");
        assert_eq!(named(&mut heard, &[(2, answer("c", 5))]), "c");
        // Of two, none alone is most.
        let mut heard = Heard::of(2);
        let both = [(0, answer("b", 4)), (1, answer("a", 3)), (0, None)];
        assert_eq!(named(&mut heard, &both), "b");
    }

    #[test]
    fn sentinels_that_count_from_the_beginning_are_believed_when_they_are_most() {
        let mut heard = Heard::of(3);
        let all = [0, 1, 2].map(|index| (index, answer("a", 7)));
        assert_eq!(named(&mut heard, &all), "a");
        assert_eq!(named(&mut heard, &[(0, None), (1, None), (2, None)]), "a");
        assert_eq!(named(&mut heard, &[(0, answer("b", 0))]), "");
        assert_eq!(named(&mut heard, &[(1, answer("b", 0))]), "b");
        // From then on, their count is the one that counts.
        assert_eq!(named(&mut heard, &[(1, None), (0, answer("c", 1))]), "c");
    }

    #[test]
    fn an_answer_has_an_address_and_a_count() {
        let fields = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            read(pairs.iter().map(pair).collect())
        };
        let all = [
            ("ip", "10.0.0.1"),
            ("port", "6380"),
            ("config-epoch", "7"),
            ("flags", "master"),
        ];
        let read = fields(&all).unwrap();
        assert_eq!(
            (read.master.to_string(), read.epoch),
            ("10.0.0.1:6380".to_owned(), 7)
        );
        for left_out in 0..3 {
            let mut some = all.to_vec();
            some.remove(left_out);
            assert!(fields(&some).is_err(), "{some:?}");
        }
    }
}
