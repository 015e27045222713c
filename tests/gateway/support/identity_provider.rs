//! An identity provider that publishes its keys, and misbehaves on request.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::origin::{Origin, Request};
use super::script::Script;
use super::tokens::{Signer, key_set};

/// How it answers.
#[derive(Clone)]
pub enum Answer {
    /// With these keys and further header lines.
    Keys(String, String),
    /// As the script says.
    Script(Script),
}

/// An identity provider.
pub struct IdentityProvider {
    origin: Origin,
    answer: Arc<Mutex<Answer>>,
}

impl IdentityProvider {
    /// Publishes these keys.
    pub fn with(keys: &[&Signer]) -> Self {
        let answer = Arc::new(Mutex::new(Answer::Keys(
            key_set(keys).to_string(),
            String::new(),
        )));
        let own = Arc::clone(&answer);
        let origin = Origin::answering(move |request| script(&own.lock().unwrap(), request));
        Self { origin, answer }
    }

    /// Publishes these keys through TLS.
    pub fn over_tls(keys: &[&Signer], tls: Arc<ServerConfig>) -> Self {
        let answer = Arc::new(Mutex::new(Answer::Keys(
            key_set(keys).to_string(),
            String::new(),
        )));
        let body = key_set(keys).to_string();
        let origin = Origin::conversation(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&tls)).expect("TLS");
            let mut stream = StreamOwned::new(connection, stream);
            let mut head = Vec::new();
            let mut byte = [0];
            // A client that does not like the certificate leaves.
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.extend(byte);
            }
            if head.is_empty() {
                return;
            }
            drop(stream.write_all(&response(&body, "")));
            stream.conn.send_close_notify();
            drop(stream.flush());
        });
        Self { origin, answer }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// Publishes these keys from now on.
    pub fn rotate(&self, keys: &[&Signer]) {
        self.rotate_with(keys, "");
    }

    /// The same, with further header lines, each with its line end.
    pub fn rotate_with(&self, keys: &[&Signer], headers: &str) {
        self.set(Answer::Keys(key_set(keys).to_string(), headers.to_owned()));
    }

    /// Does this from now on.
    pub fn play(&self, script: Script) {
        self.set(Answer::Script(script));
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How often keys were asked for.
    pub fn fetches(&self) -> usize {
        match self.origin.requests() {
            0 => self.origin.connections(),
            requests => requests,
        }
    }

    /// Every request.
    pub fn seen(&self) -> Vec<Request> {
        self.origin.seen()
    }

    /// Vanishes.
    pub fn stop(&mut self) {
        self.origin.stop();
    }

    /// Comes back.
    pub fn restart(&mut self) {
        self.origin.restart();
    }
}

fn script(answer: &Answer, request: &Request) -> Script {
    match answer {
        Answer::Script(script) => script.clone(),
        Answer::Keys(body, headers) => {
            // The keys are their own validator, or as good as that.
            let etag = format!(
                "\"{:x}\"",
                body.bytes().fold(7_u64, |sum, byte| {
                    sum.wrapping_mul(31).wrapping_add(byte.into())
                })
            );
            let headers = format!("ETag: {etag}\r\n{headers}");
            if request.header("if-none-match") == Some(&etag) {
                let head = format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n");
                return Script::new().send(head);
            }
            Script::new().send(response(body, &headers))
        }
    }
}

fn response(body: &str, headers: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
