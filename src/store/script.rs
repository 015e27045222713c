//! Scripts that the server runs: by their digest, and by their text where the server does not know it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs};

use super::{Answer, Failure, Keyed, Store};
use crate::metrics::RedisCommand;

/// Room for what scripts are told, in most cases.
const ARGUMENTS: usize = 20;
const BYTES: usize = 200;

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

    fn command<A: ToRedisArgs>(&self, call: &Call<'_, A>, as_text: bool) -> Keyed {
        let (name, script) = match as_text {
            true => ("EVAL", self.text),
            false => ("EVALSHA", &*self.digest),
        };
        let mut command = Cmd::with_capacity(ARGUMENTS, script.len() + call.key.len() + BYTES);
        command.arg(name).arg(script);
        command.arg(1).arg(call.key).arg(&call.arguments);
        Keyed::new(call.key, command)
    }
}

impl Store {
    /// Runs a script once for each call, all of them together. Each has an answer or a failure of its own.
    pub async fn run<T: FromRedisValue, A: ToRedisArgs>(
        &self,
        command: RedisCommand,
        script: &Script,
        calls: &[Call<'_, A>],
    ) -> Vec<Result<T, Failure>> {
        let within = self.command_timeout();
        let commands = calls.iter().map(|call| script.command(call, false));
        let mut answers = self.each(command, commands.collect(), within).await;
        // The first text makes the digest known to one server; a Cluster has several.
        for only_first in [true, false] {
            let unknown: Vec<usize> = unknown(&answers).collect();
            if unknown.is_empty() {
                break;
            }
            let asked = unknown.iter().filter_map(|index| calls.get(*index));
            let commands = asked.enumerate().map(|(index, call)| {
                let as_text = !only_first || index == 0;
                script.command(call, as_text)
            });
            let again = self.each(command, commands.collect(), within).await;
            for (index, answer) in unknown.into_iter().zip(again) {
                if let Some(place) = answers.get_mut(index) {
                    *place = answer;
                }
            }
        }
        let understood = |value| {
            T::from_redis_value(value).map_err(|error| Failure::from(RedisError::from(error)))
        };
        let answers = answers.into_iter();
        answers.map(|answer| answer.and_then(understood)).collect()
    }
}

/// Calls whose server does not know the script.
fn unknown(answers: &[Answer]) -> impl Iterator<Item = usize> {
    let is_unknown = |answer: &Answer| {
        let failure = answer.as_ref().err();
        failure.is_some_and(|failure| failure.has_code("NOSCRIPT"))
    };
    let answers = answers.iter().enumerate();
    answers.filter_map(move |(index, answer)| is_unknown(answer).then_some(index))
}
