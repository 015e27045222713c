//! Asks the running gateway whether it is alive.

use std::io;
use std::time::Duration;

use super::place::Place;
use super::wire::Message;

/// Asks, and returns where in its life the gateway is. An error is no proof that it is dead: it may
/// have no socket, or be of a version that does not know the question.
pub fn ask(place: &Place, within: Duration) -> io::Result<String> {
    let (_, mut link) = place.connect()?;
    link.send(&Message::Alive)?;
    match link.receive(within)? {
        Some((Message::Life { state }, _)) => Ok(state),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
