//! Sending commands where their slots are, and on to where they went.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Pipeline, RedisResult, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Cluster;
use super::redirect::{Redirect, redirect};
use crate::config::model::Node;
use crate::metrics::RedisError as Kind;
use crate::store::failure::Failure;
use crate::store::keyed::{Answer, Keyed, send};
use crate::store::member::Member;

/// How often a command is sent in all.
const ATTEMPTS: usize = 6;
/// Before a command is sent again that nobody could take.
const PAUSE: Duration = Duration::from_millis(20);

/// A command without an answer yet.
struct Open {
    /// Its place among the answers.
    index: usize,
    command: Keyed,
    way: Way,
    /// Why the last attempt failed.
    refused: Option<Failure>,
}

/// Where a command goes.
#[derive(Clone, PartialEq, Eq)]
enum Way {
    /// To who has its slot.
    Owner,
    /// To this server.
    At(Node),
    /// To this server, which takes it only when it is told that it was sent.
    Asking(Node),
}

/// Commands that go to the same server.
struct Group {
    member: Arc<Member>,
    way: Way,
    open: Vec<Open>,
}

impl Cluster {
    /// Sends each command to the server that has its slot, and waits for the answers.
    pub async fn each(&self, commands: Vec<Keyed>, within: Duration) -> Vec<Answer> {
        let deadline = Instant::now() + within;
        let mut answers: Vec<Option<Answer>> = commands.iter().map(|_| None).collect();
        let open = |(index, command)| Open {
            index,
            command,
            way: Way::Owner,
            refused: None,
        };
        let mut left: Vec<Open> = commands.into_iter().enumerate().map(open).collect();
        for attempt in 1..=ATTEMPTS {
            let groups = self.group(left, &mut answers);
            let sent = groups.into_iter().map(|group| group.send(deadline));
            let sent = join_all(sent).await;
            left = self.sort(sent, &mut answers);
            if left.is_empty() || attempt == ATTEMPTS || Instant::now() >= deadline {
                break;
            }
            if left.iter().any(|open| open.way == Way::Owner) {
                sleep_until(deadline.min(Instant::now() + PAUSE)).await;
            }
        }
        for open in left {
            put(
                &mut answers,
                open.index,
                open.refused.map_or_else(unanswered, Err),
            );
        }
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(unanswered))
            .collect()
    }

    /// By server. Commands that have none are answered.
    fn group(&self, open: Vec<Open>, answers: &mut [Option<Answer>]) -> Vec<Group> {
        let view = self.view.load();
        let mut groups: Vec<Group> = Vec::new();
        for one in open {
            let member = match &one.way {
                Way::Owner => {
                    let owner = view.topology.owner(one.command.slot);
                    owner.and_then(|index| view.members.get(index)).cloned()
                }
                Way::At(node) | Way::Asking(node) => self.named(node),
            };
            let Some(member) = member else {
                self.context.doubt.notify_one();
                let what = "no server is known that has the slot";
                put(answers, one.index, Err(Failure::new(Kind::Cluster, what)));
                continue;
            };
            let same =
                |group: &&mut Group| Arc::ptr_eq(&group.member, &member) && group.way == one.way;
            match groups.iter_mut().find(same) {
                Some(group) => group.open.push(one),
                None => groups.push(Group {
                    member,
                    way: one.way.clone(),
                    open: vec![one],
                }),
            }
        }
        groups
    }

    /// Keeps the answers, and gives back what has to be sent again.
    fn sort(&self, sent: Vec<Sent>, answers: &mut [Option<Answer>]) -> Vec<Open> {
        let mut left = Vec::new();
        let mut has_doubt = false;
        for Sent { group, came } in sent {
            match came {
                Ok(came) => {
                    let asked = group.member.pool.dialer.node();
                    for (open, answer) in group.open.into_iter().zip(came) {
                        left.extend(settle(open, answer, asked.as_ref(), answers));
                    }
                }
                Err(failure) => {
                    // A failover may be why.
                    has_doubt = true;
                    for open in group.open {
                        put(answers, open.index, Err(failure.clone()));
                    }
                }
            }
        }
        has_doubt |= left.iter().any(|open| !matches!(open.way, Way::Asking(_)));
        if has_doubt {
            self.context.doubt.notify_one();
        }
        left
    }
}

/// Keeps an answer, unless it says that the command is to be sent again.
fn settle(
    mut open: Open,
    answer: RedisResult<Value>,
    asked: Option<&Node>,
    answers: &mut [Option<Answer>],
) -> Option<Open> {
    let error = match answer {
        Ok(value) => {
            put(answers, open.index, Ok(value));
            return None;
        }
        Err(error) => error,
    };
    let next = asked.and_then(|asked| redirect(&error, asked));
    let failure = Failure::from(error);
    let Some(next) = next else {
        put(answers, open.index, Err(failure));
        return None;
    };
    open.refused = Some(failure);
    open.way = match next {
        Redirect::Moved(node) => Way::At(node),
        Redirect::Ask(node) => Way::Asking(node),
        Redirect::Wait => Way::Owner,
    };
    Some(open)
}

/// A group, and what came back.
struct Sent {
    group: Group,
    came: Result<Vec<RedisResult<Value>>, Failure>,
}

impl Group {
    async fn send(self, deadline: Instant) -> Sent {
        let is_asking = matches!(self.way, Way::Asking(_));
        let mut pipeline = Pipeline::with_capacity(self.open.len());
        pipeline.ignore_errors();
        for open in &self.open {
            if is_asking {
                pipeline.cmd("ASKING").ignore();
            }
            pipeline.add_command(open.command.command.clone());
        }
        let pool = &self.member.pool;
        if self.way != Way::Owner {
            // It may be a server that nobody was sent to before.
            drop(timeout_at(deadline, pool.watch().wait_for(|is_there| *is_there)).await);
        }
        let within = deadline.saturating_duration_since(Instant::now());
        let came = send(pool, &pipeline, within).await;
        let came = came.and_then(|came| {
            let fits = came.len() == self.open.len();
            fits.then_some(came)
                .ok_or_else(|| Failure::new(Kind::Protocol, "another number of answers"))
        });
        Sent { group: self, came }
    }
}

fn put(answers: &mut [Option<Answer>], index: usize, answer: Answer) {
    if let Some(place) = answers.get_mut(index) {
        *place = Some(answer);
    }
}

fn unanswered() -> Answer {
    Err(Failure::new(Kind::Other, "nobody was asked"))
}
