//! What is kept of a request's body, so that another attempt can send it again.

use bytes::{Bytes, BytesMut};

/// A body that is larger is not kept, and its request not repeated.
const KEPT_BYTES: usize = 64 * 1024;

/// What was read of the body so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: BytesMut,
    truncated: bool,
}

impl Kept {
    /// A further piece was read.
    pub fn push(&mut self, piece: &Bytes) {
        if self.truncated {
            return;
        }
        if self.bytes.len() + piece.len() <= KEPT_BYTES {
            self.bytes.extend_from_slice(piece);
        } else {
            self.truncated = true;
            self.bytes = BytesMut::new();
        }
    }

    /// Whether there was more than is kept.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// What the next attempt begins with.
    pub fn replay(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_kept_as_a_whole_or_not_at_all() {
        let mut kept = Kept::default();
        assert!(kept.replay().is_empty());
        kept.push(&Bytes::from(vec![1; KEPT_BYTES - 1]));
        kept.push(&Bytes::from_static(b"2"));
        assert_eq!(kept.replay().len(), KEPT_BYTES);
        kept.push(&Bytes::from_static(b"3"));
        assert!(kept.is_truncated() && kept.replay().is_empty());
        kept.push(&Bytes::from_static(b"4"));
        assert!(kept.replay().is_empty());
    }
}
