//! The end of a WebSocket: where its frames begin and end (RFC 6455 section 5.2), and a Close frame
//! to both sides at such a place when the process ends.
//!
//! The frames themselves pass through unread. Only what is needed to find their ends is looked at.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora_core::server::ShutdownWatch;

/// The longest header of a frame: two bytes, eight of length, four of masking key.
const MAX_HEADER: usize = 14;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;

/// A Close frame with code 1001, going away (RFC 6455 section 7.4.1), as a server sends it.
pub const CLOSE_TO_CLIENT: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
/// The same as a client sends it: masked, here with a key of zeros, which changes nothing. The key
/// protects caches from what scripts choose to send; nobody chose these bytes.
pub const CLOSE_TO_BACKEND: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// The last byte of the code 1008, policy violation: what was begun with a token that holds no longer.
const POLICY: u8 = 0xf0;

/// Follows one direction's frames.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    header: [u8; MAX_HEADER],
    /// Bytes of the header so far.
    gathered: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// A Close frame has gone by.
    closed: bool,
}

impl Frames {
    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.gathered == 0 && self.left == 0
    }

    /// Whether this side has said goodbye.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Moves on over all of `bytes`.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Moves on to the end of the current frame, if it is in `bytes`. Says how far that is.
    pub fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.is_between() {
            at += self.step(&bytes[at..]);
        }
        at
    }

    /// Takes a byte of a header, or as much of a payload as there is.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = bytes
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= taken as u64;
            return taken;
        }
        let Some(byte) = bytes.first() else { return 0 };
        self.header[self.gathered] = *byte;
        self.gathered += 1;
        if let Some(length) = self.payload() {
            self.closed |= self.header[0] & OPCODE == CLOSE;
            (self.gathered, self.left) = (0, length);
        }
        1
    }

    /// The length of the payload, once the header is whole.
    fn payload(&self) -> Option<u64> {
        let header = &self.header[..self.gathered];
        let second = *header.get(1)?;
        let extended = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if second & MASKED == 0 { 0 } else { 4 };
        if header.len() < 2 + extended + key {
            return None;
        }
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Some(match extended {
            0 => u64::from(second & !MASKED),
            _ => number(&header[2..2 + extended]),
        })
    }
}

/// One direction of a tunnel.
#[derive(Clone, Debug, Default)]
struct Side {
    frames: Frames,
    told: bool,
}

impl Side {
    /// How many of these bytes may be passed on. Behind our own Close frame it is none, and they are
    /// only looked at.
    fn admit(&mut self, bytes: &[u8], is_due: bool) -> Admitted {
        if self.told {
            self.frames.pass(bytes);
            return Admitted::Discard;
        }
        if is_due && !self.frames.is_closed() {
            return Admitted::Pass(self.frames.finish(bytes));
        }
        self.frames.pass(bytes);
        Admitted::Pass(bytes.len())
    }

    /// Whether the other end is to be told now. Then it counts as told.
    fn tell(&mut self) -> bool {
        // It may have said goodbye by itself.
        let now = !self.told && self.frames.is_between() && !self.frames.is_closed();
        self.told |= now;
        now
    }
}

/// What is to be done with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// So many of them are passed on; the rest has to wait for the Close frame, which comes first.
    Pass(usize),
    /// They are thrown away: the other end was told that nothing follows.
    Discard,
}

/// A WebSocket, from the answer to its handshake on.
pub struct Tunnel {
    ending: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    has_ended: bool,
    /// It ends because whoever began it may not go on.
    broken_off: bool,
    from_client: Side,
    to_client: Side,
}

impl Tunnel {
    /// A tunnel that is closed when `ending` turns true.
    pub fn new(ending: &ShutdownWatch) -> Self {
        let mut ending = ending.clone();
        Self {
            ending: Box::pin(async move {
                // Without a sender nobody can announce an end.
                if ending.wait_for(|ending| *ending).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }),
            has_ended: false,
            broken_off: false,
            from_client: Side::default(),
            to_client: Side::default(),
        }
    }

    /// Whether both sides are to be told to close. Wakes the task when that comes.
    pub fn poll_ending(&mut self, context: &mut Context<'_>) -> bool {
        self.has_ended = self.has_ended || self.ending.as_mut().poll(context) == Poll::Ready(());
        self.has_ended
    }

    /// Ends it at once, because whoever began it may not go on.
    pub fn break_off(&mut self) {
        if !self.has_ended {
            (self.has_ended, self.broken_off) = (true, true);
        }
    }

    /// The Close frame for the backend, if it is due and all before it was passed on.
    pub fn tell_backend(&mut self) -> Option<[u8; 8]> {
        let mut frame = CLOSE_TO_BACKEND;
        if self.broken_off {
            frame[7] = POLICY;
        }
        (self.has_ended && self.from_client.tell()).then_some(frame)
    }

    /// The Close frame for the client, in the same way.
    pub fn tell_client(&mut self) -> Option<[u8; 4]> {
        let mut frame = CLOSE_TO_CLIENT;
        if self.broken_off {
            frame[3] = POLICY;
        }
        (self.has_ended && self.to_client.tell()).then_some(frame)
    }

    /// What becomes of these bytes of the client.
    pub fn from_client(&mut self, bytes: &[u8]) -> Admitted {
        self.from_client.admit(bytes, self.has_ended)
    }

    /// What becomes of these bytes of the backend.
    pub fn to_client(&mut self, bytes: &[u8]) -> Admitted {
        self.to_client.admit(bytes, self.has_ended)
    }

    /// The process is ending and both sides have said goodbye, so that the connection can be closed.
    pub fn is_over(&self) -> bool {
        self.has_ended && self.from_client.frames.is_closed() && self.to_client.frames.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        let mask = if masked { MASKED } else { 0 };
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xaa; if masked { 4 } else { 0 }]);
        bytes.extend(vec![0x88; length]);
        bytes
    }

    #[test]
    fn finds_the_ends_of_frames_however_they_are_cut() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 65_535, 65_536] {
                let bytes = frame(2, length, masked);
                for cut in [1, 2, 3, 7, 14, bytes.len()] {
                    let mut frames = Frames::default();
                    for piece in bytes.chunks(cut) {
                        frames.pass(piece);
                    }
                    assert!(frames.is_between() && !frames.is_closed(), "{length} {cut}");
                }
                let mut frames = Frames::default();
                frames.pass(&bytes[..1]);
                assert!(!frames.is_between());
                let rest = [&bytes[1..], b"next"].concat();
                assert_eq!(frames.finish(&rest), bytes.len() - 1);
            }
        }
    }

    #[test]
    fn sees_a_goodbye() {
        for bytes in [&CLOSE_TO_CLIENT[..], &CLOSE_TO_BACKEND[..]] {
            let mut frames = Frames::default();
            frames.pass(bytes);
            assert!(frames.is_between() && frames.is_closed());
        }
    }

    fn ended(tunnel: &mut Tunnel) -> bool {
        tunnel.poll_ending(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn tells_each_side_at_the_end_of_its_frame() {
        let (end, ending) = watch::channel(false);
        let mut tunnel = Tunnel::new(&ending);
        let message = frame(1, 10, false);
        assert_eq!(tunnel.to_client(&message), Admitted::Pass(12));
        assert_eq!(tunnel.to_client(&message[..4]), Admitted::Pass(4));
        assert!(!ended(&mut tunnel));
        assert_eq!(tunnel.tell_backend(), None);
        end.send_replace(true);
        assert!(ended(&mut tunnel));
        assert_eq!(tunnel.tell_client(), None, "inside a frame");
        assert_eq!(tunnel.tell_backend(), Some(CLOSE_TO_BACKEND));
        assert_eq!(tunnel.tell_backend(), None, "once");
        let rest = [&message[4..], &message[..]].concat();
        assert_eq!(tunnel.to_client(&rest), Admitted::Pass(8));
        assert_eq!(tunnel.tell_client(), Some(CLOSE_TO_CLIENT));
        assert_eq!(tunnel.to_client(&message), Admitted::Discard);
        assert!(!tunnel.is_over());
        assert_eq!(tunnel.to_client(&CLOSE_TO_CLIENT), Admitted::Discard);
        assert_eq!(tunnel.from_client(&CLOSE_TO_BACKEND), Admitted::Discard);
        assert!(tunnel.is_over());
    }

    #[test]
    fn who_may_not_go_on_is_told_that_it_is_a_matter_of_policy() {
        let (_end, ending) = watch::channel(false);
        let mut tunnel = Tunnel::new(&ending);
        tunnel.break_off();
        // RFC 6455 section 7.4.1
        let code = 1008u16.to_be_bytes();
        let told = tunnel.tell_client().map(|frame| [frame[2], frame[3]]);
        assert_eq!(told, Some(code));
        let told = tunnel.tell_backend().map(|frame| [frame[6], frame[7]]);
        assert_eq!(told, Some(code));
    }

    #[test]
    fn who_has_said_goodbye_is_not_told() {
        let (_end, ending) = watch::channel(true);
        let mut tunnel = Tunnel::new(&ending);
        assert_eq!(tunnel.to_client(&CLOSE_TO_CLIENT), Admitted::Pass(4));
        assert!(ended(&mut tunnel));
        assert_eq!(tunnel.tell_client(), None);
        assert!(tunnel.tell_backend().is_some());
    }
}
