//! Scripts that the server runs: by their digest, and by their text where the server does not know it.

use std::time::Instant;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, ToRedisArgs};
use tokio::time::timeout;

use super::{Failure, Pool, Store};
use crate::metrics::{RedisCommand, RedisError as Kind};

/// A script that has one key, so that it can run on any node of a cluster.
pub struct Script {
    text: &'static str,
    digest: String,
}

/// One run of a script.
pub struct Call<'a, A> {
    /// The key that it reads and writes.
    pub key: &'a str,
    /// What else it is told.
    pub arguments: A,
}

impl Script {
    /// Of this text.
    pub fn new(text: &'static str) -> Self {
        // SHA-1 is how Redis names scripts; nothing rests on its strength.
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        let digest = digits.collect();
        Self { text, digest }
    }

    fn add<A: ToRedisArgs>(&self, commands: &mut Pipeline, call: &Call<'_, A>, as_text: bool) {
        let command = match as_text {
            true => commands.cmd("EVAL").arg(self.text),
            false => commands.cmd("EVALSHA").arg(&self.digest),
        };
        command.arg(1).arg(call.key).arg(&call.arguments);
    }
}

impl Store {
    /// Runs a script once for each call, all of them in one pipeline. Each has an answer or a failure of
    /// its own; the outer one is that of all.
    pub async fn run<T: FromRedisValue, A: ToRedisArgs>(
        &self,
        command: RedisCommand,
        script: &Script,
        calls: &[Call<'_, A>],
    ) -> Result<Vec<Result<T, Failure>>, Failure> {
        let asked = Instant::now();
        let answers = self.run_all(script, calls).await;
        match &answers {
            Ok(answers) => {
                self.metrics.answered(command, asked.elapsed());
                for answer in answers {
                    if let Err(failure) = answer {
                        self.failed(failure);
                    }
                }
            }
            Err(failure) => self.failed(failure),
        }
        answers
    }

    async fn run_all<T: FromRedisValue, A: ToRedisArgs>(
        &self,
        script: &Script,
        calls: &[Call<'_, A>],
    ) -> Result<Vec<Result<T, Failure>>, Failure> {
        let mut commands = Pipeline::with_capacity(calls.len());
        for call in calls {
            script.add(&mut commands, call, false);
        }
        let mut answers = self.ask_each::<T>(&mut commands).await?;
        // The first text makes the digest known to one server; a cluster has several.
        for only_first in [true, false] {
            let unknown: Vec<usize> = unknown(&answers).collect();
            if unknown.is_empty() {
                break;
            }
            commands.clear();
            let mut as_text = true;
            for call in unknown.iter().filter_map(|index| calls.get(*index)) {
                script.add(&mut commands, call, as_text);
                as_text &= !only_first;
            }
            let again = self.ask_each::<T>(&mut commands).await?;
            for (index, answer) in unknown.into_iter().zip(again) {
                if let Some(place) = answers.get_mut(index) {
                    *place = answer;
                }
            }
        }
        let answers = answers.into_iter();
        Ok(answers
            .map(|answer| answer.map_err(Failure::from))
            .collect())
    }

    /// Sends commands each of which may fail by itself.
    async fn ask_each<T: FromRedisValue>(
        &self,
        commands: &mut Pipeline,
    ) -> Result<Vec<Result<T, RedisError>>, Failure> {
        let Some(connected) = self.connected.load_full() else {
            return Err(Failure::new(Kind::Connect, "none is configured"));
        };
        let count = commands.len();
        let answers: Vec<_> = ask_each(&connected.pool, commands.ignore_errors()).await?;
        if answers.len() != count {
            return Err(Failure::new(
                Kind::Protocol,
                "not as many answers as questions",
            ));
        }
        Ok(answers)
    }
}

async fn ask_each<T: FromRedisValue>(
    pool: &Pool,
    commands: &Pipeline,
) -> Result<Vec<Result<T, RedisError>>, Failure> {
    let Some(mut taken) = pool.take() else {
        return Err(Failure::new(Kind::Connect, "no connection"));
    };
    let answers = commands.query_async::<Vec<Result<T, RedisError>>>(&mut taken.connection);
    let answers = match timeout(pool.settings.command_timeout, answers).await {
        Ok(answers) => answers.map_err(Failure::from),
        Err(_) => Err(Failure::new(Kind::Timeout, "no answer in time")),
    };
    let is_spoilt = match &answers {
        Ok(answers) => answers.iter().any(|answer| is_read_only(answer.as_ref())),
        Err(failure) => failure.spoils_connection(),
    };
    if is_spoilt {
        taken.give_up();
    }
    answers
}

/// Calls whose server does not know the script.
fn unknown<T>(answers: &[Result<T, RedisError>]) -> impl Iterator<Item = usize> {
    let is_unknown = |answer: &Result<T, RedisError>| {
        let kind = answer.as_ref().err().map(RedisError::kind);
        kind == Some(ErrorKind::Server(ServerErrorKind::NoScript))
    };
    let answers = answers.iter().enumerate();
    answers.filter_map(move |(index, answer)| is_unknown(answer).then_some(index))
}

fn is_read_only<T>(answer: Result<&T, &RedisError>) -> bool {
    let kind = answer.err().map(RedisError::kind);
    kind == Some(ErrorKind::Server(ServerErrorKind::ReadOnly))
}
