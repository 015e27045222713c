//! The sentinels of a master: each is asked every second which server that is.
//!
//! They are asked ahead of time and not by each connection, so that connections to a master that was
//! replaced are given up although it goes on answering. Where sentinels disagree, the one counts that
//! knows of the later failover: the number of failovers (`config-epoch`) only grows. A sentinel that
//! cannot be reached says nothing; when none can, the last that was known stays.

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
    /// What each said last, as long as it can be reached.
    answers: Mutex<Vec<Option<Answer>>>,
    master: watch::Sender<Option<Node>>,
    doubts: watch::Sender<u64>,
    deadline: Duration,
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
            answers: Mutex::new(vec![None; settings.nodes.len()]),
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
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let masters = answers
            .iter()
            .map(|answer| Some(answer.as_ref()?.master.clone()));
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
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = answers.get_mut(index) {
            *place = answer;
        }
        let Some(latest) = latest(&answers) else {
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

/// The answer of who knows of the latest failover.
fn latest(answers: &[Option<Answer>]) -> Option<&Answer> {
    // Among equals the first, so that a tie does not go back and forth.
    let answers = answers.iter().flatten().rev();
    answers.max_by_key(|answer| answer.epoch)
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

    fn answer(host: &str, epoch: u64) -> Option<Answer> {
        let master = Node {
            host: host.into(),
            port: 6379,
        };
        Some(Answer { master, epoch })
    }

    #[test]
    fn who_knows_of_the_latest_failover_is_right() {
        let of = |answers: &[Option<Answer>]| {
            latest(answers).map(|answer| answer.master.host.to_string())
        };
        assert_eq!(of(&[None, None]), None);
        assert_eq!(of(&[None, answer("a", 3)]).unwrap(), "a");
        let late = [answer("a", 3), answer("b", 4), answer("a", 3)];
        assert_eq!(of(&late).unwrap(), "b");
        assert_eq!(of(&[answer("a", 3), answer("b", 3)]).unwrap(), "a");
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
