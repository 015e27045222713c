//! A probe by gRPC: `grpc.health.v1.Health/Check`.
//!
//! The protocol is the one of <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>. Its two
//! messages have one field each: the request a string (the service), the response an enumeration
//! (its state).

use http::Method;
use http::header::{CONTENT_TYPE, TE};
use pingora_core::protocols::http::client::HttpSession;

use super::Unwell;
use super::http::{final_status, request};
use crate::config::model::GrpcQuestion;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
/// The code of what a server does not have.
const UNIMPLEMENTED: u16 = 12;
/// The answer has a handful of bytes.
const LONGEST_ANSWER: usize = 4096;

/// Makes the call and judges its answer.
pub(super) async fn ask(
    session: &mut HttpSession,
    asked: &GrpcQuestion,
    scheme: &str,
    host: &str,
) -> Result<(), Unwell> {
    if session.as_http2().is_none() {
        return Err(Unwell::Other("HTTP/2 is not spoken".to_owned()));
    }
    let mut head = request(&Method::POST, PATH, true, scheme, host)?;
    head.insert_header(CONTENT_TYPE, "application/grpc")?;
    head.insert_header(TE, "trailers")?;
    session.write_request_header(Box::new(head)).await?;
    let message = question(&asked.service);
    session.write_request_body(message.into(), true).await?;
    let status = final_status(session).await?;
    if status != 200 {
        return Err(Unwell::Status(status));
    }
    let body = body(session).await?;
    match code(session).await? {
        0 => judge(&body),
        UNIMPLEMENTED if asked.accept_unimplemented => Ok(()),
        code => Err(Unwell::Call(code)),
    }
}

async fn body(session: &mut HttpSession) -> Result<Vec<u8>, Unwell> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST_ANSWER {
            return Err(Unwell::Garbled("length"));
        }
    }
    Ok(body)
}

/// The call's code: in the trailers, or in the head of a response that has nothing else.
async fn code(session: &mut HttpSession) -> Result<u16, Unwell> {
    let trailers = match session {
        HttpSession::H2(http2) => http2.read_trailers().await?,
        _ => None,
    };
    let head = session.response_header().map(|head| &head.headers);
    let written = trailers.as_ref().and_then(|all| all.get("grpc-status"));
    let written = written.or_else(|| head?.get("grpc-status"));
    let code = written.and_then(|value| value.to_str().ok()?.parse().ok());
    code.ok_or(Unwell::Garbled("grpc-status"))
}

fn judge(body: &[u8]) -> Result<(), Unwell> {
    match state(body) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(Unwell::NotServing(other)),
        None => Err(Unwell::Garbled("message")),
    }
}

/// The question, as one message of a call: a byte for compression, the length, the fields.
fn question(service: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    if !service.is_empty() {
        // Field 1, a string.
        fields.push(1 << 3 | 2);
        write_varint(&mut fields, service.len() as u64);
        fields.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0];
    // The configuration has at most 255 bytes for it.
    message.extend_from_slice(&u32::try_from(fields.len()).unwrap_or(0).to_be_bytes());
    message.append(&mut fields);
    message
}

/// The state in an answer; `None` for what is none. A field that is not there has its default, 0.
fn state(message: &[u8]) -> Option<u64> {
    let (compressed, rest) = message.split_first()?;
    let (length, mut fields) = rest.split_first_chunk::<4>()?;
    if *compressed != 0 || u32::from_be_bytes(*length) as usize != fields.len() {
        return None;
    }
    let mut state = 0;
    while !fields.is_empty() {
        let tag = read_varint(&mut fields)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => state = read_varint(&mut fields)?,
            // Fields that later versions may add.
            (_, 0) => drop(read_varint(&mut fields)?),
            (_, 1) => fields = fields.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            (_, 5) => fields = fields.get(4..)?,
            _ => return None,
        }
    }
    Some(state)
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(fields: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = fields.split_first()?;
        *fields = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_message_with_one_string() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"s".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn the_state_is_found_beside_unknown_fields() {
        let message = |fields: &[u8]| {
            let mut message = vec![0, 0, 0, 0, fields.len() as u8];
            message.extend_from_slice(fields);
            message
        };
        assert_eq!(state(&message(&[])), Some(0), "UNKNOWN is not written");
        assert_eq!(state(&message(&[8, 1])), Some(SERVING));
        assert_eq!(state(&message(&[8, 2])), Some(2));
        let others = [
            0x12, 2, 7, 7, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4, 8, 1,
        ];
        assert_eq!(state(&message(&others)), Some(SERVING));
    }

    #[test]
    fn what_is_cut_off_or_something_else_has_no_state() {
        let bad: [&[u8]; 8] = [
            &[],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 1, 8, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[
                0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
            ],
        ];
        for message in bad {
            assert_eq!(state(message), None, "{message:?}");
        }
        assert_eq!(judge(&[0, 0, 0, 0, 2, 8, 2]), Err(Unwell::NotServing(2)));
        assert_eq!(judge(&[]), Err(Unwell::Garbled("message")));
    }
}
