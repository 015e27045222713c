//! Scripts that the server runs: by their digest, and by their text where the server does not know it.
//!
//! One run does for many keys what it does for one. Each key has a line of words for the script, and a line of the
//! answer: many values of their own would cost more to write and to read than all else that is done with them.

use std::sync::atomic::Ordering::Relaxed;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{Cmd, from_redis_value};

use super::{Answer, Connected, Failure, Keyed, Store, none_configured};
use crate::metrics::{RedisCommand, RedisError as Kind};

/// Keys of one run at most: it occupies the server for half a millisecond or so, which others wait.
const KEYS: usize = 64;

/// Room for what a script is told of one key, in most cases.
const BYTES: usize = 200;

/// A script that treats each of its keys by itself.
pub struct Script {
    text: &'static str,
    digest: String,
}

/// What a script is told of a key.
pub struct Call<'a, L> {
    /// The key that it reads and writes.
    pub key: &'a str,
    /// What else it is told.
    pub line: L,
}

/// Words of one line, each with a space behind it.
#[derive(Default)]
pub struct Line(Vec<u8>);

/// What can be told a script.
pub trait Told {
    /// Adds its words.
    fn tell(&self, line: &mut Line);
}

impl Line {
    /// Adds a word, which has no space in it.
    pub fn word(&mut self, word: &str) {
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b' ');
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.word(itoa::Buffer::new().format(number));
    }
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

    /// For keys that one server has, of which there is at least one.
    fn command<L: Told>(&self, calls: &[Call<'_, L>], as_text: bool) -> Keyed {
        let (name, script) = match as_text {
            true => ("EVAL", self.text),
            false => ("EVALSHA", &*self.digest),
        };
        let room = script.len() + calls.len() * BYTES;
        let mut command = Cmd::with_capacity(3 + 2 * calls.len(), room);
        command.arg(name).arg(script).arg(calls.len());
        for call in calls {
            command.arg(call.key);
        }
        let mut line = Line::default();
        for call in calls {
            line.0.clear();
            call.line.tell(&mut line);
            command.arg(&line.0);
        }
        Keyed::new(calls.first().map_or("", |call| call.key), command)
    }
}

impl Store {
    /// Runs a script for each call, all of them together. Each has an answer, which `read` finds in a line, or a
    /// failure.
    pub async fn run<L: Told, T>(
        &self,
        command: RedisCommand,
        script: &Script,
        calls: &[Call<'_, L>],
        read: impl Fn(&str) -> Option<T>,
    ) -> Vec<Result<T, Failure>> {
        let Some(connected) = self.connected.load_full() else {
            return lines(Err(none_configured()), calls.len(), &read);
        };
        let at_once = match connected.has_slots.load(Relaxed) {
            true => 1,
            false => KEYS,
        };
        let runs: Vec<_> = calls.chunks(at_once).collect();
        let answers = self.answers(&connected, command, script, &runs).await;
        let mut all = Vec::with_capacity(calls.len());
        for (calls, answer) in runs.into_iter().zip(answers) {
            if !has_code(&answer, "CROSSSLOT") {
                all.extend(lines(answer, calls.len(), &read));
                continue;
            }
            // A server that has all slots of a Cluster. It has done nothing.
            connected.has_slots.store(true, Relaxed);
            let runs: Vec<_> = calls.chunks(1).collect();
            let answers = self.answers(&connected, command, script, &runs).await;
            let answers = answers.into_iter();
            all.extend(answers.flat_map(|answer| lines(answer, 1, &read)));
        }
        all
    }

    /// What each run is answered, by servers that have been told the script.
    async fn answers<L: Told>(
        &self,
        connected: &Connected,
        command: RedisCommand,
        script: &Script,
        runs: &[&[Call<'_, L>]],
    ) -> Vec<Answer> {
        let within = connected.context.settings.command_timeout;
        let commands = runs.iter().map(|calls| script.command(calls, false));
        let commands = commands.collect();
        let mut answers = self.each_of(connected, command, commands, within).await;
        // The first text makes the digest known to one server; a Cluster has several.
        for only_first in [true, false] {
            let places = 0..answers.len();
            let unknown: Vec<_> = places
                .filter(|index| has_code(&answers[*index], "NOSCRIPT"))
                .collect();
            if unknown.is_empty() {
                break;
            }
            let commands = unknown.iter().enumerate().map(|(turn, index)| {
                let as_text = !only_first || turn == 0;
                script.command(runs[*index], as_text)
            });
            let commands = commands.collect();
            let again = self.each_of(connected, command, commands, within).await;
            for (index, answer) in unknown.into_iter().zip(again) {
                answers[index] = answer;
            }
        }
        answers
    }
}

fn has_code(answer: &Answer, code: &str) -> bool {
    let failure = answer.as_ref().err();
    failure.is_some_and(|failure| failure.has_code(code))
}

/// What a run says of each of so many keys.
fn lines<T>(
    answer: Answer,
    count: usize,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<Result<T, Failure>> {
    let unread = || Failure::new(Kind::Protocol, "an answer is not understood");
    let text = answer.and_then(|value| from_redis_value::<String>(value).map_err(|_| unread()));
    match text {
        Ok(text) => {
            let mut lines = text.split('\n');
            let read = |_| lines.next().and_then(&read).ok_or_else(unread);
            (0..count).map(read).collect()
        }
        Err(failure) => (0..count).map(|_| Err(failure.clone())).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use redis::Value;

    use super::*;

    struct Numbers(&'static [u64]);

    impl Told for Numbers {
        fn tell(&self, line: &mut Line) {
            line.word("take");
            self.0.iter().for_each(|number| line.number(*number));
        }
    }

    fn text(text: &str) -> Answer {
        Ok(Value::BulkString(text.as_bytes().to_vec()))
    }

    fn number(line: &str) -> Option<u64> {
        line.parse().ok()
    }

    #[test]
    fn a_run_names_its_keys_and_tells_a_line_of_each() {
        let script = Script::new("return 1");
        let calls = [("a", &[1, 20][..]), ("b", &[]), ("c", &[3])];
        let calls = calls.map(|(key, numbers)| Call {
            key,
            line: Numbers(numbers),
        });
        let packed = script.command(&calls, true).command.get_packed_command();
        let packed = String::from_utf8(packed).unwrap();
        let words: Vec<&str> = packed.split("\r\n").skip(2).step_by(2).collect();
        let lines = ["take 1 20 ", "take ", "take 3 "];
        assert_eq!(words[..6], ["EVAL", "return 1", "3", "a", "b", "c"]);
        assert_eq!(words[6..], lines);
        // As `printf 'return 1' | sha1sum` says.
        let packed = script.command(&calls, false).command.get_packed_command();
        let packed = String::from_utf8(packed).unwrap();
        assert!(packed.contains("\r\ne0e1f9fabfc9d4800c877a703b823ac0578ff8db\r\n"));
    }

    #[test]
    fn each_key_has_its_line_or_a_failure() {
        let read = lines(text("1\n22\n3"), 3, number);
        assert_eq!(read, [Ok(1), Ok(22), Ok(3)]);
        let unread = || Err(Failure::new(Kind::Protocol, "an answer is not understood"));
        assert_eq!(lines(text("1\nx"), 3, number), [Ok(1), unread(), unread()]);
        assert_eq!(lines(Ok(Value::Nil), 2, number), [unread(), unread()]);
        let failure = || Failure::new(Kind::Io, "the connection was closed");
        let failed = lines(Err(failure()), 2, number);
        assert_eq!(failed, [Err(failure()), Err(failure())]);
    }
}
