//! The PROXY protocol, versions 1 and 2: who a load balancer says its client is.
//!
//! Written to HAProxy's specification of it. The header is read to the byte: what follows belongs
//! to TLS or HTTP. Stricter than the text demands where it leaves a choice: protocols without an
//! address of TCP are refused rather than taken for the balancer's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a header of version 1 begins with.
const V1_BEGIN: &[u8] = b"PROXY ";
/// The longest header of version 1, its line end included.
const V1_BYTES: usize = 107;
/// What a header of version 2 begins with.
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of a header of version 2.
const V2_FIXED_BYTES: usize = 16;
/// The largest header of version 2: addresses, and the extensions that balancers send.
const V2_BYTES: usize = 4 * 1024;
/// The extension with a checksum over the header.
const CRC32C: u8 = 0x03;
/// What is asked of the socket at once: more than almost every header has.
const PIECE_BYTES: usize = 256;

/// Whom a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client of the peer.
    Client(SocketAddr),
    /// The peer itself: a health check of its own, or a client that it cannot name.
    Peer,
}

/// What the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header that goes on.
    Incomplete,
    /// A header of so many bytes.
    Header {
        /// Its bytes.
        length: usize,
        /// What it says.
        source: Source,
    },
}

/// What came is no header of the PROXY protocol, or a broken one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(pub &'static str);

/// Why a connection has no header to go on with.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The peer left before its first byte, as balancers do to see whether a port is open.
    #[error("closed without a byte")]
    Silent,
    /// It left, or the socket failed, inside the header.
    #[error("closed inside the PROXY header")]
    Cut,
    /// It took too long.
    #[error("no PROXY header in time")]
    TimedOut,
    /// It said something else.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Reads the header, and no byte behind it, until the deadline.
pub async fn read(tcp: &mut TcpStream, deadline: Instant) -> Result<Source, Failed> {
    let reading = read_header(tcp);
    match tokio::time::timeout_at(deadline.into(), reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failed::TimedOut),
    }
}

async fn read_header(tcp: &mut TcpStream) -> Result<Source, Failed> {
    // On the heap, so that the connection's task is no larger for it afterwards.
    let mut header = Vec::with_capacity(PIECE_BYTES);
    loop {
        let begin = header.len();
        header.resize(begin + PIECE_BYTES, 0);
        let seen = tcp.peek(&mut header[begin..]).await;
        let seen = seen.map_err(|error| lost(&error, begin))?;
        if seen == 0 {
            return Err(if begin == 0 {
                Failed::Silent
            } else {
                Failed::Cut
            });
        }
        header.truncate(begin + seen);
        // All of an incomplete header is the header's; of a complete one, so much.
        let (end, source) = match parse(&header)? {
            Parsed::Incomplete => (header.len(), None),
            Parsed::Header { length, source } => (length, Some(source)),
        };
        header.truncate(end);
        let taken = tcp.read_exact(&mut header[begin..]).await;
        taken.map_err(|error| lost(&error, begin))?;
        if let Some(source) = source {
            return Ok(source);
        }
    }
}

fn lost(error: &io::Error, begin: usize) -> Failed {
    log::debug!("PROXY header: {error}");
    if begin == 0 {
        Failed::Silent
    } else {
        Failed::Cut
    }
}

/// Looks at the beginning of a connection.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins(bytes, V2_BEGIN) {
        version_2(bytes)
    } else if begins(bytes, V1_BEGIN) {
        version_1(bytes)
    } else {
        Err(Malformed("no signature"))
    }
}

/// Whether `bytes` is a beginning of `signature`, or goes on behind it.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

fn version_1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let within = &bytes[..bytes.len().min(V1_BYTES)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', within) else {
        return if bytes.len() < V1_BYTES {
            Ok(Parsed::Incomplete)
        } else {
            Err(Malformed("line too long"))
        };
    };
    match (within[end], within.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if bytes.len() < V1_BYTES => return Ok(Parsed::Incomplete),
        _ => return Err(Malformed("line ending")),
    }
    let line = within.get(V1_BEGIN.len()..end).unwrap_or_default();
    Ok(Parsed::Header {
        length: end + 2,
        source: line_source(line)?,
    })
}

/// What stands behind `PROXY ` in a line.
fn line_source(line: &[u8]) -> Result<Source, Malformed> {
    // Whatever follows UNKNOWN is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Source::Peer);
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed("not ASCII"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(Malformed("not five words"));
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        _ => None,
    };
    let (Some(ip), Some(_)) = (address(source), address(destination)) else {
        return Err(Malformed("address"));
    };
    let (Some(port), Some(_)) = (decimal_port(source_port), decimal_port(destination_port)) else {
        return Err(Malformed("port"));
    };
    Ok(Source::Client(SocketAddr::new(ip, port)))
}

/// Digits alone, without a leading zero.
fn decimal_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

fn version_2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(fixed) = bytes.get(..V2_FIXED_BYTES) else {
        return Ok(Parsed::Incomplete);
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0x0f);
    if version != 2 {
        return Err(Malformed("version"));
    }
    if command > 1 {
        return Err(Malformed("command"));
    }
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_BYTES {
        return Err(Malformed("header too large"));
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::Incomplete);
    };
    let source = if command == 0 {
        // LOCAL: whatever stands there is to be ignored.
        Source::Peer
    } else {
        announced(header)?
    };
    Ok(Parsed::Header { length, source })
}

/// What a whole header with the command PROXY says.
fn announced(header: &[u8]) -> Result<Source, Malformed> {
    let block = &header[V2_FIXED_BYTES..];
    let short = Malformed("addresses cut short");
    let (source, addresses) = match header[13] {
        0x00 => (Source::Peer, 0),
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] =
                *block.first_chunk::<12>().ok_or(short)?;
            let ip = Ipv4Addr::new(a, b, c, d);
            let port = u16::from_be_bytes([high, low]);
            (Source::Client(SocketAddr::new(ip.into(), port)), 12)
        }
        0x21 => {
            let addresses = block.first_chunk::<36>().ok_or(short)?;
            let ip = addresses.first_chunk::<16>().ok_or(short)?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            let ip = IpAddr::from(Ipv6Addr::from(*ip));
            (Source::Client(SocketAddr::new(ip, port)), 36)
        }
        _ => return Err(Malformed("address family")),
    };
    extensions(header, V2_FIXED_BYTES + addresses)?;
    Ok(source)
}

/// Walks over the extensions, and checks the checksum if there is one.
fn extensions(header: &[u8], begin: usize) -> Result<(), Malformed> {
    let mut at = begin;
    while at < header.len() {
        let Some([kind, high, low]) = header[at..].first_chunk::<3>() else {
            return Err(Malformed("extension cut short"));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(value) = header.get(at + 3..at + 3 + length) else {
            return Err(Malformed("extension cut short"));
        };
        if *kind == CRC32C {
            let stated = value.try_into().map(u32::from_be_bytes);
            let place = at + 3..at + 3 + length;
            if stated.ok() != Some(crc32c(header, &place)) {
                return Err(Malformed("checksum"));
            }
        }
        at += 3 + length;
    }
    Ok(())
}

/// CRC-32C (RFC 9260 appendix A) of the header with zeros in the place of the checksum.
fn crc32c(header: &[u8], checksum: &std::ops::Range<usize>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0u32;
    for (at, byte) in header.iter().enumerate() {
        crc ^= u32::from(if checksum.contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            let odd = crc & 1 == 1;
            crc >>= 1;
            if odd {
                crc ^= POLYNOMIAL;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests;
