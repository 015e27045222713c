//! What the processes say to each other: a length, a message as JSON, and descriptors beside it.
//!
//! Unknown fields are passed over, so that versions of the gateway understand each other.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::Named;

/// Descriptors in one message. The kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 64;
/// Far more than there is ever to say; long lists of revoked tokens are the longest.
const MAX_BYTES: usize = 64 << 20;
/// How long the other side may take to read what is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// To the running gateway: start your successor.
    Upgrade,
    /// To the running gateway: I am your successor, give me your sockets.
    Take {
        /// The running gateway has started it, and need not be asked to drain.
        spawned: bool,
    },
    /// From the running gateway: these, with a descriptor each.
    Sockets {
        /// What they are.
        sockets: Vec<Named>,
        /// Another such message follows.
        more: bool,
        /// What is worth keeping beside the sockets.
        #[serde(default)]
        state: serde_json::Value,
    },
    /// From the successor: I serve.
    Ready {
        /// It has taken the socket that successors ask through.
        keeps_control: bool,
    },
    /// From the successor: I cannot serve.
    Failed {
        /// Why.
        reason: String,
    },
    /// To the successor: I drain, all is yours.
    Go {
        /// What is worth keeping beside the sockets, as it is now and stays.
        #[serde(default)]
        state: serde_json::Value,
    },
    /// What happens, for whoever asked for an upgrade.
    Progress {
        /// A sentence.
        text: String,
    },
    /// The upgrade is done.
    Done {
        /// The successor's process.
        pid: i32,
    },
    /// The running gateway goes on as before.
    Refused {
        /// Why.
        reason: String,
    },
    /// It has handed over just now: ask its successor, through the same socket.
    Again,
    /// To the running gateway: are you alive?
    Alive,
    /// From the running gateway: yes.
    Life {
        /// Where in its life it is, as its status names it.
        state: String,
    },
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// Over this stream, in blocking mode.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self(stream))
    }

    /// Says something.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Says something and passes duplicates of these descriptors, of which there are at most
    /// [`MAX_DESCRIPTORS`].
    pub fn send_with(
        &mut self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let fits = descriptors.len() <= MAX_DESCRIPTORS;
        let pushed = descriptors.is_empty()
            || fits && beside.push(SendAncillaryMessage::ScmRights(descriptors));
        if !pushed {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = sendmsg(
            &self.0,
            &[IoSlice::new(&bytes)],
            &mut beside,
            SendFlags::NOSIGNAL,
        )?;
        self.0.write_all(&bytes[sent..])
    }

    /// Waits for a message, at most so long. `None` is the end of the conversation; an error of
    /// kind `WouldBlock` means that nothing came.
    pub fn receive(&mut self, within: Duration) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        // Zero would mean no timeout at all.
        let within = within.max(Duration::from_millis(1));
        self.0.set_read_timeout(Some(within))?;
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut length)],
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        self.0.read_exact(&mut length[received.bytes..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let message = serde_json::from_slice(&body)?;
        Ok(Some((message, descriptors)))
    }

    /// Who is at the other end, if it is somebody who may be there: this user, or root.
    pub fn peer(&self) -> io::Result<i32> {
        let peer = rustix::net::sockopt::socket_peercred(self.0.as_fd())?;
        let allowed = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
        let refused = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the other side belongs to another user",
        );
        allowed
            .then_some(peer.pid.as_raw_nonzero().get())
            .ok_or(refused)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::super::Kind;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn pair() -> (Link, Link) {
        let (one, other) = UnixStream::pair().unwrap();
        (Link::new(one).unwrap(), Link::new(other).unwrap())
    }

    #[test]
    fn a_descriptor_goes_with_its_message() {
        let (mut one, mut other) = pair();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        let message = || Message::Sockets {
            sockets: vec![Named {
                kind: Kind::Listener,
                address: Some(address),
            }],
            more: false,
            state: serde_json::json!({ "generation": 3 }),
        };
        one.send(&Message::Upgrade).unwrap();
        one.send_with(&message(), &[socket.as_fd()]).unwrap();
        drop(one);
        let (first, none) = other.receive(SOON).unwrap().unwrap();
        assert_eq!((first, none.len()), (Message::Upgrade, 0));
        let (second, mut passed) = other.receive(SOON).unwrap().unwrap();
        assert_eq!((second, passed.len()), (message(), 1));
        let received = TcpListener::from(passed.remove(0));
        assert_eq!(received.local_addr().unwrap(), address);
        assert!(other.receive(SOON).unwrap().is_none(), "the end");
    }

    #[test]
    fn many_descriptors_go_at_once() {
        let (mut one, mut other) = pair();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let many = vec![socket.as_fd(); MAX_DESCRIPTORS];
        one.send_with(&Message::Again, &many).unwrap();
        assert_eq!(
            other.receive(SOON).unwrap().unwrap().1.len(),
            MAX_DESCRIPTORS
        );
        let too_many = vec![socket.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(one.send_with(&Message::Again, &too_many).is_err());
    }

    #[test]
    fn nonsense_and_silence_are_errors() {
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x02{]",
            b"\0\0",
            b"\0\0\0\x09{}",
        ] {
            let (mut one, mut other) = pair();
            one.0.write_all(bytes).unwrap();
            drop(one);
            assert!(other.receive(SOON).is_err(), "{bytes:?}");
        }
        let (_one, mut other) = pair();
        let silence = other.receive(Duration::from_millis(1)).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_go_without_state_is_understood() {
        let read: Message = serde_json::from_str("{\"type\":\"go\"}").unwrap();
        let state = serde_json::Value::Null;
        assert_eq!(read, Message::Go { state });
    }

    #[test]
    fn the_other_side_is_known() {
        let (one, _other) = pair();
        assert_eq!(one.peer().unwrap() as u32, std::process::id());
    }
}
