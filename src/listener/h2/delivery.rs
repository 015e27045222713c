//! Whether a client still takes what the system holds for it, once nothing more is to be said.
//!
//! A socket that is closed too early takes the end of a response with it: the client's next frame
//! finds nobody, and the system throws away what it had not sent. So a connection at its end is looked
//! at, and stays as long as bytes of it arrive.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use pingora_core::protocols::l4::ext::get_tcp_info;

/// How long until it is looked at again.
const PAUSE: Duration = Duration::from_millis(500);

/// What the system knows of the bytes it was given.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    /// There are some that the client has not confirmed.
    waits: bool,
    /// Those that it has.
    confirmed: u64,
}

/// The end of one connection.
#[derive(Debug)]
pub struct Delivery {
    /// Stays open for as long as the connection that owns this.
    socket: RawFd,
    confirmed: u64,
    /// Since when no further byte was confirmed.
    since: Option<Instant>,
    next: Option<Instant>,
}

impl Delivery {
    /// Of the connection with this socket.
    pub fn of(socket: RawFd) -> Self {
        Self {
            socket,
            confirmed: 0,
            since: None,
            next: None,
        }
    }

    /// This deadline, or later when there is no need to look yet.
    pub fn defer(&self, deadline: Instant) -> Instant {
        self.next.map_or(deadline, |next| deadline.max(next))
    }

    /// Whether to wait on, because bytes are under way and some arrived within `patience`. A system
    /// that cannot say gets no further time.
    pub fn goes_on(&mut self, now: Instant, patience: Duration) -> bool {
        let Ok(info) = get_tcp_info(self.socket) else {
            return false;
        };
        let backlog = Backlog {
            waits: info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0,
            confirmed: info.tcpi_bytes_acked,
        };
        self.judge(backlog, now, patience)
    }

    fn judge(&mut self, backlog: Backlog, now: Instant, patience: Duration) -> bool {
        if !backlog.waits {
            return false;
        }
        let since = match self.since {
            Some(since) if backlog.confirmed <= self.confirmed => since,
            _ => now,
        };
        (self.confirmed, self.since) = (backlog.confirmed, Some(since));
        self.next = Some(now + PAUSE);
        now < since + patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backlog(confirmed: u64) -> Backlog {
        Backlog {
            waits: true,
            confirmed,
        }
    }

    #[test]
    fn goes_on_while_bytes_arrive() {
        let start = Instant::now();
        let mut delivery = Delivery::of(-1);
        for second in 0..1000 {
            let now = start + second * SECOND;
            assert!(delivery.judge(backlog(u64::from(second / 9)), now, 10 * SECOND));
            assert_eq!(delivery.defer(start), now + PAUSE);
        }
        let end = Backlog {
            waits: false,
            confirmed: 1000,
        };
        assert!(!delivery.judge(end, start, 10 * SECOND));
    }

    #[test]
    fn ends_when_nothing_arrives_any_more() {
        let start = Instant::now();
        let mut delivery = Delivery::of(-1);
        assert!(delivery.judge(backlog(7), start, 10 * SECOND));
        assert!(delivery.judge(backlog(7), start + 9 * SECOND, 10 * SECOND));
        assert!(!delivery.judge(backlog(7), start + 10 * SECOND, 10 * SECOND));
    }

    #[test]
    fn a_socket_that_says_nothing_is_not_waited_for() {
        let mut delivery = Delivery::of(-1);
        assert!(!delivery.goes_on(Instant::now(), SECOND));
    }
}
