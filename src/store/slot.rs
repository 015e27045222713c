//! Which slot of a Cluster a key is in, as the Cluster specification of Redis has it.

/// How many there are.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: CRC-16 of it, or of what stands in its first pair of braces, so that keys can be
/// kept together.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) & 0x3fff
}

/// What of a key counts.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let rest = key.get(open + 1..).unwrap_or_default();
    match memchr::memchr(b'}', rest) {
        // Nothing between them is no tag.
        None | Some(0) => key,
        Some(close) => rest.get(..close).unwrap_or_default(),
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, beginning with 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let index = usize::from((crc >> 8) ^ u16::from(*byte)) & 0xff;
        (crc << 8) ^ TABLE.get(index).copied().unwrap_or_default()
    })
}

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC-16/XMODEM, which the specification names.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` says.
        assert_eq!(slot(b""), 0);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"revocations:log"), 8_989);
    }

    #[test]
    fn only_the_first_tag_counts() {
        let whole = |key: &[u8]| crc16(key) & 0x3fff;
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{{bar}}zap"), whole(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), whole(b"bar"));
        assert_eq!(slot(b"foo{}{bar}"), whole(b"foo{}{bar}"));
        assert_eq!(slot(b"foo{bar"), whole(b"foo{bar"));
        assert_eq!(slot(b"}foo{bar}"), whole(b"bar"));
    }
}
