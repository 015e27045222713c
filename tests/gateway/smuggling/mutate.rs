//! Good requests with others hidden in them, and random changes to them.

use fastrand::Rng;

/// Bytes that mean something to one reader or another.
const BYTES: &[u8] = b"\r\n\t :;,0159aAfFx+-_\"/\0\x0b\x0c\x7f\x80\xff";
/// Lines that change where a request ends, or seem to.
const LINES: [&[u8]; 14] = [
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:7\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b" folded\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"X: y\n",
    b"\r\n",
    b"0\r\n\r\n",
];

/// The bytes of one connection; each request in them carries the case's number.
pub fn case(random: &mut Rng, number: usize) -> Vec<u8> {
    let mark = format!("Host: a\r\nX-Case: {number}\r\n");
    let hidden = format!("GET /hidden HTTP/1.1\r\n{mark}\r\n");
    let length = hidden.len();
    let after = format!("GET /after HTTP/1.1\r\n{mark}\r\n");
    let first = match random.usize(0..6) {
        0 => format!("POST /one HTTP/1.1\r\n{mark}Content-Length: {length}\r\n\r\n{hidden}"),
        1 => format!(
            "POST /one HTTP/1.1\r\n{mark}Transfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{hidden}\r\n0\r\n\r\n"
        ),
        2 => format!(
            "PUT /one HTTP/1.1\r\n{mark}Transfer-Encoding: chunked\r\n\r\n\
             3;x=y\r\nabc\r\n{length:X}\r\n{hidden}\r\n000\r\nX-Sum: 1\r\n\r\n"
        ),
        3 => format!("GET /one HTTP/1.1\r\n{mark}Accept: */*\r\n\r\n{hidden}"),
        4 => {
            format!("POST http://a/one HTTP/1.1\r\n{mark}Content-Length: {length}\r\n\r\n{hidden}")
        }
        _ => format!(
            "POST /one HTTP/1.0\r\n{mark}Connection: keep-alive\r\nContent-Length: {length}\r\n\
             \r\n{hidden}"
        ),
    };
    let mut bytes = [first, after].concat().into_bytes();
    for _ in 0..random.usize(0..4) {
        change(random, &mut bytes);
    }
    bytes
}

fn change(random: &mut Rng, bytes: &mut Vec<u8>) {
    let at = random.usize(0..bytes.len());
    let byte = BYTES[random.usize(0..BYTES.len())];
    match random.u8(0..6) {
        0 => drop(bytes.remove(at)),
        1 => bytes.insert(at, byte),
        2 => bytes[at] = byte,
        3 | 4 => {
            // At the beginning of a line, where it does most.
            let newline = bytes[at..].iter().position(|byte| *byte == b'\n');
            let place = newline.map_or(at, |newline| at + newline + 1);
            let line = LINES[random.usize(0..LINES.len())];
            bytes.splice(place..place, line.iter().copied());
        }
        _ => {
            let end = bytes.len().min(at + random.usize(1..20));
            bytes.drain(at..end);
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
    }
}
