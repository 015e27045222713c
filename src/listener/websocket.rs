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

/// Where the answer to the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// So many bytes of its status line, or of the empty line behind its header, have been seen.
    Head { status: usize, end: usize },
    /// The handshake was accepted; what follows are frames.
    Accepted,
    /// It was not.
    Refused,
}

const HEAD: Answer = Answer::Head { status: 0, end: 0 };
/// Bytes of a status line before the status.
const STATUS_AT: usize = "HTTP/1.1 ".len();
const EMPTY_LINE: &[u8] = b"\r\n\r\n";

/// A connection that may be a WebSocket, from the request on.
pub struct Tunnel {
    ending: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    has_ended: bool,
    answer: Answer,
    status: [u8; 3],
    /// What the client has sent to the backend.
    from_client: Frames,
    /// What the backend has sent to the client.
    to_client: Frames,
    client_told: bool,
    backend_told: bool,
    /// It ends because whoever began it may not go on.
    broken_off: bool,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

/// What is to be done with bytes from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToClient {
    /// So many of them are passed on.
    Pass(usize),
    /// They are thrown away: the client was told that nothing follows.
    Discard,
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
            answer: HEAD,
            status: [0; 3],
            from_client: Frames::default(),
            to_client: Frames::default(),
            client_told: false,
            backend_told: false,
            broken_off: false,
        }
    }

    /// Whether both sides are to be told to close. Wakes the task when that comes.
    pub fn poll_ending(&mut self, context: &mut Context<'_>) -> bool {
        self.has_ended = self.has_ended || self.ending.as_mut().poll(context) == Poll::Ready(());
        self.is_due()
    }

    /// Ends it at once, because whoever began it may not go on.
    pub fn break_off(&mut self) {
        if !self.has_ended {
            (self.has_ended, self.broken_off) = (true, true);
        }
    }

    /// The frame that tells the client.
    pub fn close_to_client(&self) -> [u8; 4] {
        let mut frame = CLOSE_TO_CLIENT;
        if self.broken_off {
            frame[3] = POLICY;
        }
        frame
    }

    /// The frame that tells the backend.
    pub fn close_to_backend(&self) -> [u8; 8] {
        let mut frame = CLOSE_TO_BACKEND;
        if self.broken_off {
            frame[7] = POLICY;
        }
        frame
    }

    /// Whether the client is to be told now.
    pub fn client_is_due(&self) -> bool {
        // The backend may have said goodbye by itself.
        !self.client_told && self.to_client.is_between() && !self.to_client.is_closed()
    }

    /// The client was told.
    pub fn told_client(&mut self) {
        self.client_told = true;
    }

    /// Whether the backend can be told now. Then it counts as told.
    pub fn tell_backend(&mut self) -> bool {
        let now =
            !self.backend_told && self.from_client.is_between() && !self.from_client.is_closed();
        self.backend_told |= now;
        now
    }

    /// Whether what the client sends is not passed on any more.
    pub fn discards_requests(&self) -> bool {
        self.backend_told
    }

    /// Whether the handshake was accepted, so that what the client sends are frames.
    pub fn is_accepted(&self) -> bool {
        self.answer == Answer::Accepted
    }

    /// Both sides have said goodbye, so that the connection can be closed.
    pub fn is_over(&self) -> bool {
        self.from_client.is_closed() && self.to_client.is_closed()
    }

    /// How many of these bytes of the client may be passed on; the rest is to be kept.
    pub fn from_client(&mut self, bytes: &[u8]) -> usize {
        if self.is_due() && !self.backend_told && !self.from_client.is_closed() {
            return self.from_client.finish(bytes);
        }
        self.from_client.pass(bytes);
        bytes.len()
    }

    /// How many of these bytes of the backend may be passed on now.
    pub fn to_client(&self, bytes: &[u8]) -> ToClient {
        if self.client_told {
            return ToClient::Discard;
        }
        ToClient::Pass(if self.is_due() && !self.to_client.is_closed() {
            self.to_client.clone().finish(bytes)
        } else {
            bytes.len()
        })
    }

    /// These bytes of the backend went to the client, or were thrown away.
    pub fn sent(&mut self, bytes: &[u8]) {
        let head = self.answered(bytes);
        if self.answer == Answer::Accepted {
            self.to_client.pass(&bytes[head..]);
        }
    }

    fn is_due(&self) -> bool {
        self.has_ended && self.answer == Answer::Accepted
    }

    /// Moves on over the answer to the handshake; says how many of the bytes are its own.
    fn answered(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            let Answer::Head { status, end } = &mut self.answer else {
                return at;
            };
            if let Some(digit) = status
                .checked_sub(STATUS_AT)
                .and_then(|at| self.status.get_mut(at))
            {
                *digit = *byte;
            }
            *status += 1;
            *end = match EMPTY_LINE.get(*end) {
                Some(wanted) if wanted == byte => *end + 1,
                _ => usize::from(*byte == b'\r'),
            };
            if *end == EMPTY_LINE.len() {
                self.answer = match &self.status {
                    b"101" => Answer::Accepted,
                    // An interim answer; the other is still to come.
                    [b'1', ..] => HEAD,
                    _ => Answer::Refused,
                };
            }
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

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
        tunnel.sent(ANSWER);
        let message = frame(1, 10, false);
        assert_eq!(tunnel.to_client(&message), ToClient::Pass(12));
        tunnel.sent(&message[..4]);
        assert!(!ended(&mut tunnel));
        end.send_replace(true);
        assert!(ended(&mut tunnel));
        assert!(!tunnel.client_is_due(), "inside a frame");
        assert!(tunnel.tell_backend() && !tunnel.tell_backend(), "once");
        let rest = [&message[4..], &message[..]].concat();
        assert_eq!(tunnel.to_client(&rest), ToClient::Pass(8));
        tunnel.sent(&rest[..8]);
        assert!(tunnel.client_is_due());
        tunnel.told_client();
        assert_eq!(tunnel.to_client(&message), ToClient::Discard);
        tunnel.sent(&message);
        assert!(!tunnel.is_over());
        tunnel.sent(&CLOSE_TO_CLIENT);
        assert_eq!(tunnel.from_client(&CLOSE_TO_BACKEND), 8);
        assert!(tunnel.is_over());
    }

    #[test]
    fn who_may_not_go_on_is_told_that_it_is_a_matter_of_policy() {
        let (_end, ending) = watch::channel(false);
        let mut tunnel = Tunnel::new(&ending);
        tunnel.sent(ANSWER);
        assert_eq!(tunnel.close_to_client(), CLOSE_TO_CLIENT);
        tunnel.break_off();
        assert!(ended(&mut tunnel) && tunnel.client_is_due());
        // RFC 6455 section 7.4.1
        let code = u16::from_be_bytes([tunnel.close_to_client()[2], tunnel.close_to_client()[3]]);
        assert_eq!(code, 1008);
        assert_eq!(
            tunnel.close_to_backend()[6..],
            tunnel.close_to_client()[2..]
        );
    }

    #[test]
    fn only_an_accepted_handshake_has_frames() {
        let (_end, ending) = watch::channel(true);
        let mut tunnel = Tunnel::new(&ending);
        assert!(!ended(&mut tunnel), "no answer yet");
        tunnel.sent(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        assert_eq!(tunnel.answer, HEAD);
        tunnel.sent(b"HTTP/1.1 403 Forbidden\r\n\r\n");
        assert_eq!(tunnel.answer, Answer::Refused);
        assert!(!ended(&mut tunnel));
        for cut in [1, 5, ANSWER.len()] {
            let mut tunnel = Tunnel::new(&ending);
            for piece in ANSWER.chunks(cut) {
                tunnel.sent(piece);
            }
            assert!(ended(&mut tunnel));
        }
    }
}
