//! What a backend does after it has read the header of a request.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::wait::DEADLINE;

/// A door that a test opens, so that a backend goes on exactly when the test says so.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open, or until the deadline.
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(open, DEADLINE, |open| !*open));
    }
}

/// One thing that a backend does.
#[derive(Clone)]
pub enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes one by one with pauses.
    Drip(Vec<u8>, Duration),
    /// Sends this many bytes of filling.
    Fill(u64),
    /// Sends these bytes again and again, until the other side closes or 64 MiB have been sent.
    Endless(Vec<u8>),
    /// Waits for the test.
    Wait(Gate),
    /// Pauses.
    Delay(Duration),
    /// Reads and says nothing until the other side closes.
    Hold,
    /// Closes in good order.
    Close,
    /// Resets the connection.
    Reset,
}

/// What a backend does, in order. When the last step leaves the connection open, the next request
/// is read from it.
#[derive(Clone, Default)]
pub struct Script(pub Vec<Step>);

impl Script {
    /// Does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the body and answers 200 with this text.
    pub fn answer(text: &str) -> Self {
        Self::new().read_body().send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ))
    }

    fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Goes on with another script.
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// See [`Step::ReadBody`].
    pub fn read_body(self) -> Self {
        self.then(Step::ReadBody)
    }

    /// See [`Step::Send`].
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    /// See [`Step::Drip`].
    pub fn drip(self, bytes: impl Into<Vec<u8>>, pause: Duration) -> Self {
        self.then(Step::Drip(bytes.into(), pause))
    }

    /// See [`Step::Fill`].
    pub fn fill(self, bytes: u64) -> Self {
        self.then(Step::Fill(bytes))
    }

    /// See [`Step::Endless`].
    pub fn endless(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Endless(bytes.into()))
    }

    /// See [`Step::Wait`].
    pub fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    /// See [`Step::Delay`].
    pub fn delay(self, pause: Duration) -> Self {
        self.then(Step::Delay(pause))
    }

    /// See [`Step::Hold`].
    pub fn hold(self) -> Self {
        self.then(Step::Hold)
    }

    /// See [`Step::Close`].
    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    /// See [`Step::Reset`].
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }
}
