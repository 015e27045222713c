//! HTTP/2 towards clients: one loop a connection, one task a request.
//!
//! The `h2` crate keeps the protocol's state. What it leaves open is here: deadlines, floods, how many
//! requests of a connection run at once, and how a connection ends.

mod body;
mod delivery;
mod frames;
mod gate;
mod meter;
mod metered;
pub mod preface;
mod refuse;
mod response;
mod running;
mod serve;
mod stream;
mod timer;

pub use serve::serve;
pub use stream::Stream;

use std::time::Duration;

use h2::server::Builder;
use http::{HeaderName, header};

use crate::config::model::Limits;

/// Requests that a connection may have open, and that may run for it, whatever it resets.
pub const STREAMS: u32 = 100;
/// Bytes of body that a client may send ahead of the backend, in one request.
const STREAM_WINDOW: u32 = 64 * 1024;
/// And in all requests of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The largest frame that is read.
const FRAME: u32 = 16 * 1024;
/// Response bytes that wait in a stream before the backend is read more slowly.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that the client resets before anybody has looked at them, at one time.
const UNSEEN_RESETS: usize = 50;
/// Streams that the library itself resets because the client broke a rule, in a connection's life.
/// [`meter`] bounds how many a second.
const ERROR_RESETS: usize = 1024;
/// For how long, and of how many streams, frames are expected behind a reset.
const RESET_MEMORY: (Duration, usize) = (Duration::from_secs(5), 50);

/// Fields that have no meaning in HTTP/2 (RFC 9113 section 8.2.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What the library is told.
fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(header_list_size(limits))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .reset_stream_duration(RESET_MEMORY.0)
        .max_concurrent_reset_streams(RESET_MEMORY.1);
    builder
}

/// The bound within which the library collects a header. The gate has a lower one, so that what is
/// only a little too large gets a proper answer; beyond this one it is a bare 431.
fn header_list_size(limits: &Limits) -> u32 {
    // The specification counts 32 bytes more for each field (RFC 9113 section 6.5.2).
    let size = 2 * limits.request_header_bytes + 32 * limits.request_header_fields;
    u32::try_from(size).unwrap_or(u32::MAX)
}
