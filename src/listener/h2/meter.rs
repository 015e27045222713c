//! How many frames of which kind an HTTP/2 client may send before its connection is ended.
//!
//! Each of these frames is allowed, costs the sender next to nothing, and makes the receiver work
//! (RFC 9113 section 10.5). Every kind has a bucket of tokens: so many at once, so many a second on
//! top. What is legitimately caused by what the gateway sends (a WINDOW_UPDATE for data, a PING that
//! measures it) is given back with that data.
//!
//! | frames | at once | a second | why so many |
//! |---|---|---|---|
//! | RST_STREAM | 300 | 30 | a browser that leaves three pages at once, each with 100 streams |
//! | resets the client provokes | 100 | 10 | an honest client provokes none; one may run into the stream limit |
//! | PING | 100 | 10 | keep-alive needs one in seconds; one more for each DATA frame sent |
//! | SETTINGS | 30 | 1 | one at the beginning, one acknowledgement, a change now and then |
//! | PRIORITY | 500 | 50 | browsers send one or two with a request |
//! | frames with nothing in them | 100 | 10 | nobody needs them |
//! | WINDOW_UPDATE | 1000 | 100 | four more for each DATA frame sent: two for it, as many for uploads |
//! | unknown types | 100 | 10 | clients send one now and then to keep servers tolerant |

use std::time::{Duration, Instant};

use super::frames::{Frame, Kind, Scanner};
use crate::metrics::ConnectionClose;

/// Tokens that come back with time.
#[derive(Debug)]
struct Bucket {
    left: u32,
    capacity: u32,
    per_second: u32,
    filled: Instant,
}

impl Bucket {
    fn new(capacity: u32, per_second: u32, now: Instant) -> Self {
        Self {
            left: capacity,
            capacity,
            per_second,
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Adds what was earned since the last time, in whole tokens.
    fn refill(&mut self, now: Instant) {
        let millis = now.duration_since(self.filled).as_millis();
        let earned = millis * u128::from(self.per_second) / 1000;
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= self.capacity - self.left {
            // Time that would earn more than there is room for is lost.
            (self.left, self.filled) = (self.capacity, now);
        } else if earned > 0 {
            self.left += earned;
            let spent = u64::from(earned) * 1000 / u64::from(self.per_second);
            self.filled += Duration::from_millis(spent);
        }
    }

    fn give(&mut self, tokens: u32) {
        self.left = (self.left + tokens).min(self.capacity);
    }
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct Meter {
    received: Scanner,
    sent: Scanner,
    resets: Bucket,
    provoked: Bucket,
    pings: Bucket,
    settings: Bucket,
    priorities: Bucket,
    empty: Bucket,
    updates: Bucket,
    unknown: Bucket,
    /// DATA frames sent.
    data_frames: u64,
    /// The error code of the last GOAWAY sent.
    goaway: Option<u32>,
}

impl Meter {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Self {
        let bucket = |capacity, per_second| Bucket::new(capacity, per_second, now);
        Self {
            received: Scanner::of_client(),
            sent: Scanner::of_server(),
            resets: bucket(300, 30),
            provoked: bucket(100, 10),
            pings: bucket(100, 10),
            settings: bucket(30, 1),
            priorities: bucket(500, 50),
            empty: bucket(100, 10),
            updates: bucket(1000, 100),
            unknown: bucket(100, 10),
            data_frames: 0,
            goaway: None,
        }
    }

    /// Whether the client has begun a header block and not completed it.
    pub fn in_header_block(&self) -> bool {
        self.received.in_header_block()
    }

    /// How many DATA frames were begun towards the client.
    pub fn data_frames(&self) -> u64 {
        self.data_frames
    }

    /// The error code that the client was sent away with, if it was.
    pub fn goaway(&self) -> Option<u32> {
        self.goaway
    }

    /// Counts what the client sent. `Some`: it is too much, and why.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) -> Option<ConnectionClose> {
        let mut scanner = std::mem::replace(&mut self.received, Scanner::of_client());
        let mut excess = None;
        scanner.feed(bytes, |frame| {
            if excess.is_none() {
                excess = self.judge(&frame, now);
            }
        });
        self.received = scanner;
        excess
    }

    fn judge(&mut self, frame: &Frame, now: Instant) -> Option<ConnectionClose> {
        let (bucket, reason) = match frame.kind {
            Kind::Reset => (&mut self.resets, ConnectionClose::ResetFlood),
            Kind::Ping => (&mut self.pings, ConnectionClose::PingFlood),
            Kind::Settings => (&mut self.settings, ConnectionClose::SettingsFlood),
            Kind::Priority => (&mut self.priorities, ConnectionClose::PriorityFlood),
            Kind::WindowUpdate => (&mut self.updates, ConnectionClose::WindowUpdateFlood),
            Kind::Other | Kind::GoAway => (&mut self.unknown, ConnectionClose::UnknownFrameFlood),
            Kind::Data if frame.is_empty() && !frame.ends_stream() => {
                (&mut self.empty, ConnectionClose::EmptyFrameFlood)
            }
            Kind::Headers | Kind::Continuation if frame.is_empty() => {
                (&mut self.empty, ConnectionClose::EmptyFrameFlood)
            }
            Kind::Data | Kind::Headers | Kind::Continuation => return None,
        };
        (!bucket.take(now)).then_some(reason)
    }

    /// Counts what was sent to the client. `Some`: it provoked too much, and what.
    pub fn send(&mut self, bytes: &[u8], now: Instant) -> Option<ConnectionClose> {
        let (mut provoked, mut excess) = (0u32, false);
        let (pings, updates, goaway) = (&mut self.pings, &mut self.updates, &mut self.goaway);
        let data_frames = &mut self.data_frames;
        self.sent.feed(bytes, |frame| match frame.kind {
            Kind::Data => {
                *data_frames += 1;
                pings.give(1);
                updates.give(4);
            }
            Kind::GoAway => *goaway = Some(frame.error_code()),
            Kind::Reset if is_provoked(frame.error_code()) => provoked += 1,
            _ => {}
        });
        for _ in 0..provoked {
            excess |= !self.provoked.take(now);
        }
        excess.then_some(ConnectionClose::ProvokedResetFlood)
    }
}

/// Whether a reset says that the client broke a rule: PROTOCOL_ERROR, FLOW_CONTROL_ERROR,
/// STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, COMPRESSION_ERROR.
fn is_provoked(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | 7 | 9)
}

#[cfg(test)]
mod tests {
    use super::super::frames::PREFACE;
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    /// How many of these frames are taken at once, and why no more.
    fn taken(bytes: &[u8]) -> (usize, Option<ConnectionClose>) {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert_eq!(meter.receive(PREFACE, now), None);
        for count in 0..5000 {
            if let Some(reason) = meter.receive(bytes, now) {
                return (count, Some(reason));
            }
        }
        (5000, None)
    }

    #[test]
    fn each_kind_has_its_bound() {
        for (kind, flags, payload, bound, reason) in [
            (3, 0, &[0u8, 0, 0, 8][..], 300, ConnectionClose::ResetFlood),
            (6, 0, &[0; 8], 100, ConnectionClose::PingFlood),
            (4, 0, &[], 30, ConnectionClose::SettingsFlood),
            (2, 0, &[0; 5], 500, ConnectionClose::PriorityFlood),
            (0x10, 0, &[0; 5], 500, ConnectionClose::PriorityFlood),
            (0, 0, &[], 100, ConnectionClose::EmptyFrameFlood),
            (0, 8, &[1, 0], 100, ConnectionClose::EmptyFrameFlood),
            (1, 0, &[], 100, ConnectionClose::EmptyFrameFlood),
            (9, 0, &[], 100, ConnectionClose::EmptyFrameFlood),
            (
                8,
                0,
                &[0, 0, 0, 1],
                1000,
                ConnectionClose::WindowUpdateFlood,
            ),
            (0x55, 0, &[1], 100, ConnectionClose::UnknownFrameFlood),
        ] {
            assert_eq!(taken(&frame(kind, flags, payload)), (bound, Some(reason)));
        }
    }

    #[test]
    fn requests_and_their_bodies_are_not_counted() {
        assert_eq!(taken(&frame(1, 0x5, &[0x82; 20])).1, None);
        assert_eq!(taken(&frame(0, 0, b"body")).1, None);
        assert_eq!(taken(&frame(0, 1, b"")).1, None);
    }

    #[test]
    fn time_gives_tokens_back() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let ping = frame(6, 0, &[0; 8]);
        meter.receive(PREFACE, start);
        for second in 0..1000 {
            // Ten at a time, once a second, for as long as it likes.
            let now = start + Duration::from_secs(second);
            for _ in 0..10 {
                assert_eq!(meter.receive(&ping, now), None, "second {second}");
            }
        }
    }

    #[test]
    fn a_pause_earns_no_second_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 10, start);
        let later = start + Duration::from_secs(3600);
        let taken = |bucket: &mut Bucket, now| (0..500).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, later), 100);
        assert_eq!(taken(&mut bucket, later), 0);
        // Parts of a token are not lost, however often somebody asks.
        let asked = (1..=100).map(|step| later + step * Duration::from_millis(30));
        let given: usize = asked.map(|now| taken(&mut bucket, now)).sum();
        assert_eq!(given, 30);
        assert_eq!(taken(&mut bucket, later + Duration::from_millis(3050)), 0);
        assert_eq!(taken(&mut bucket, later + Duration::from_millis(3100)), 1);
    }

    #[test]
    fn data_sent_explains_pings_and_updates() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.receive(PREFACE, now);
        for _ in 0..5000 {
            assert_eq!(meter.send(&frame(0, 0, b"answer"), now), None);
            assert_eq!(meter.receive(&frame(6, 0, &[0; 8]), now), None);
            for _ in 0..2 {
                assert_eq!(meter.receive(&frame(8, 0, &[0; 4]), now), None);
            }
        }
    }

    #[test]
    fn resets_that_the_client_provokes_are_counted() {
        let now = Instant::now();
        let reset = |code: u32| frame(3, 0, &code.to_be_bytes());
        let mut meter = Meter::new(now);
        for _ in 0..500 {
            // NO_ERROR, INTERNAL_ERROR and CANCEL are the gateway's own.
            for code in [0, 2, 8] {
                assert_eq!(meter.send(&reset(code), now), None);
            }
        }
        for _ in 0..100 {
            assert_eq!(meter.send(&reset(5), now), None);
        }
        assert_eq!(meter.goaway(), None);
        meter.send(&frame(7, 0, &[0, 0, 0, 9, 0, 0, 0, 11]), now);
        assert_eq!(meter.goaway(), Some(11));
        let excess = Some(ConnectionClose::ProvokedResetFlood);
        assert_eq!(meter.send(&reset(1), now), excess);
    }
}
