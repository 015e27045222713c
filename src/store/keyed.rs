//! Commands with the key that says where they go, and the answer of each.

use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value};
use tokio::time::timeout;

use super::failure::Failure;
use super::pool::Pool;
use super::slot::slot;
use crate::metrics::RedisError as Kind;

/// What a command is answered.
pub type Answer = Result<Value, Failure>;

/// A command, and the key that says which server of a Cluster has it.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub(super) slot: u16,
    pub(super) command: Cmd,
}

impl Keyed {
    /// The key is the one that the command names. Of a command that names none it says where that
    /// goes, so that it goes with others.
    pub fn new(key: impl AsRef<[u8]>, command: Cmd) -> Self {
        let slot = slot(key.as_ref());
        Self { slot, command }
    }
}

/// Sends commands over one connection, and waits for their answers.
pub(super) async fn exchange(pool: &Pool, commands: Vec<Keyed>, within: Duration) -> Vec<Answer> {
    let count = commands.len();
    let mut pipeline = Pipeline::with_capacity(count);
    pipeline.ignore_errors();
    for one in commands {
        pipeline.add_command(one.command);
    }
    match send(pool, &pipeline, within).await {
        Ok(answers) if answers.len() == count => answers
            .into_iter()
            .map(|answer| answer.map_err(Failure::from))
            .collect(),
        Ok(_) => {
            let failure = Failure::new(Kind::Protocol, "another number of answers");
            vec![Err(failure); count]
        }
        Err(failure) => vec![Err(failure); count],
    }
}

/// Sends a pipeline that ignores errors. The outer failure: none was answered.
pub(super) async fn send(
    pool: &Pool,
    commands: &Pipeline,
    within: Duration,
) -> Result<Vec<RedisResult<Value>>, Failure> {
    let Some(mut taken) = pool.take() else {
        return Err(Failure::new(Kind::Connect, "no connection"));
    };
    let answers = commands.query_async::<Vec<RedisResult<Value>>>(&mut taken.connection);
    let answers = match timeout(within, answers).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(Failure::from(error)),
        Err(_) => Err(Failure::new(Kind::Timeout, "no answer in time")),
    };
    match &answers {
        // After a failover the server that was written to is a replica.
        Ok(answers) if answers.iter().any(is_from_a_replica) => taken.give_up_all(),
        Ok(_) => {}
        Err(failure) if failure.kind == Kind::Protocol => taken.give_up(),
        Err(_) => {}
    }
    answers
}

fn is_from_a_replica(answer: &RedisResult<Value>) -> bool {
    let kind = answer.as_ref().err().map(redis::RedisError::kind);
    kind == Some(ErrorKind::Server(ServerErrorKind::ReadOnly))
}
