//! `gateway upgrade`: asks the running gateway for a successor, and says how that went.

use std::io;
use std::time::{Duration, Instant};

use super::place::Place;
use super::wire::Message;

/// While a gateway hands over, nobody answers for a moment.
const HANDING_OVER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// What the running gateway allows beyond the time a successor has: to end one that is late.
const ALLOWANCE: Duration = Duration::from_secs(30);

/// Asks, and passes on what is said. The error is why there is no successor.
pub fn run(place: &Place, timeout: Duration, say: impl Fn(&str)) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match ask(place, timeout, &say) {
            Ok(Answer::Done(pid)) => {
                say(&format!("process {pid} serves; the old one drains"));
                return Ok(());
            }
            Ok(Answer::Refused(reason)) => return Err(format!("upgrade: {reason}")),
            Ok(Answer::Again) if begun.elapsed() < HANDING_OVER => std::thread::sleep(PAUSE),
            Ok(Answer::Again) => return Err("upgrade: the gateway is ending".to_owned()),
            Err(error) => return Err(format!("upgrade: no running gateway answers: {error}")),
        }
    }
}

enum Answer {
    Done(i32),
    Refused(String),
    Again,
}

fn ask(place: &Place, timeout: Duration, say: &impl Fn(&str)) -> io::Result<Answer> {
    let (_, mut link) = place.connect()?;
    link.send(&Message::Upgrade)?;
    let mut has_begun = false;
    loop {
        match link.receive(timeout + ALLOWANCE)? {
            Some((Message::Progress { text }, _)) => {
                has_begun = true;
                say(&text);
            }
            Some((Message::Done { pid }, _)) => return Ok(Answer::Done(pid)),
            Some((Message::Refused { reason }, _)) => return Ok(Answer::Refused(reason)),
            Some((Message::Again, _)) => return Ok(Answer::Again),
            // It ended before it heard the question.
            None if !has_begun => return Ok(Answer::Again),
            None => {
                let reason = "the gateway ended in the middle of the upgrade".to_owned();
                return Ok(Answer::Refused(reason));
            }
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
