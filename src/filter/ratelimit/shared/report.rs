//! What the log is told of outages: when one begins and when it is over, at most so often.

use std::time::{Duration, Instant};

use super::health::Change;

/// Between the beginnings of two outages that are told.
const PAUSE: Duration = Duration::from_secs(10);

/// What was told.
#[derive(Debug, Default)]
pub struct Report {
    spoke: Option<Instant>,
    left_out: u64,
    /// The end of what was begun to tell is told, too.
    is_open: bool,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Something is wrong.
    Error(String),
    /// It is over.
    Info(String),
}

impl Report {
    /// What to write of a change.
    pub fn line(&mut self, change: Change, now: Instant) -> Option<Line> {
        match change {
            Change::Down(why) => {
                if self.spoke.is_some_and(|spoke| now < spoke + PAUSE) {
                    self.left_out += 1;
                    return None;
                }
                self.spoke = Some(now);
                self.is_open = true;
                let before = match std::mem::take(&mut self.left_out) {
                    0 => String::new(),
                    count => format!(" ({count} further outages before)"),
                };
                let why = why.as_str();
                Some(Line::Error(format!(
                    "ratelimit error: redis does not answer ({why}), the failure modes decide{before}"
                )))
            }
            Change::Up(outage) => {
                let is_open = std::mem::take(&mut self.is_open);
                let seconds = outage.as_secs_f64();
                is_open.then(|| {
                    Line::Info(format!(
                        "ratelimit: redis answers again, after {seconds:.1} s"
                    ))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RedisError;

    #[test]
    fn outages_are_told_now_and_then_and_their_ends_with_them() {
        let mut report = Report::default();
        let now = Instant::now();
        let down = Change::Down(RedisError::Timeout);
        let up = Change::Up(Duration::from_millis(1540));
        let first = report.line(down, now);
        let text = "ratelimit error: redis does not answer (timeout), the failure modes decide";
        assert_eq!(first, Some(Line::Error(text.to_owned())));
        let over = "ratelimit: redis answers again, after 1.5 s".to_owned();
        assert_eq!(report.line(up, now), Some(Line::Info(over)));
        assert_eq!(report.line(down, now + PAUSE / 2), None);
        assert_eq!(report.line(up, now + PAUSE / 2), None);
        let later = report.line(down, now + PAUSE);
        let text = format!("{text} (1 further outages before)");
        assert_eq!(later, Some(Line::Error(text)));
    }
}
