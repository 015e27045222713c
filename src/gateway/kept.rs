//! What is kept of a request's body, so that another attempt can send it again.

use bytes::{Bytes, BytesMut};

/// What was read of the body so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: BytesMut,
    /// A body that is larger is not kept, and its request not repeated.
    most: usize,
    truncated: bool,
}

impl Kept {
    /// Nothing yet, and so much at most.
    pub fn up_to(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// A further piece was read.
    pub fn push(&mut self, piece: &Bytes) {
        if self.truncated {
            return;
        }
        if self.bytes.len() + piece.len() <= self.most {
            self.bytes.extend_from_slice(piece);
        } else {
            self.truncated = true;
            self.bytes = BytesMut::new();
        }
    }

    /// Whether all that was read is here, and is no more than this.
    pub fn is_whole(&self, most: usize) -> bool {
        !self.truncated && self.bytes.len() <= most
    }

    /// All of it, once it is of no other use.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
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
        let mut kept = Kept::up_to(1000);
        assert!(kept.replay().is_empty());
        kept.push(&Bytes::from(vec![1; 999]));
        kept.push(&Bytes::from_static(b"2"));
        assert_eq!(kept.replay().len(), 1000);
        assert!(kept.is_whole(1000) && !kept.is_whole(999));
        kept.push(&Bytes::from_static(b"3"));
        assert!(!kept.is_whole(1000) && kept.replay().is_empty());
        kept.push(&Bytes::from_static(b"4"));
        assert!(kept.replay().is_empty());
    }
}
