//! The bytes of a client's connection, plain or through TLS.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::wire::Carrier;

/// What a read of a header takes from the socket at once.
pub const READ_BYTES: usize = 4 * 1024;

/// A client's connection as a stream of bytes.
#[derive(Debug)]
pub enum Transport {
    /// As they come.
    Plain(TcpStream),
    /// Through TLS, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether the peer learns of an orderly end in a way of its own.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The descriptor.
    pub fn id(&self) -> i32 {
        self.tcp().as_raw_fd()
    }
}

impl Carrier for Transport {
    /// Reads once; `into` gets no room before there are bytes for it.
    fn poll_fill(
        &mut self,
        into: &mut BytesMut,
        room: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => {
                ready!(tcp.poll_read_ready(context))?;
                into.reserve(room);
                let mut read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(tcp, into));
                read.as_mut().poll(context)
            }
            Self::Tls(tls) if room > READ_BYTES => {
                into.reserve(room);
                let mut read = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(tls, into));
                read.as_mut().poll(context)
            }
            Self::Tls(tls) => {
                // Bytes may wait in the session while the socket has none, so that it has to be asked.
                let mut space = [0; READ_BYTES];
                let mut buffer = ReadBuf::new(&mut space);
                ready!(Pin::new(tls).poll_read(context, &mut buffer))?;
                into.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(buffer.filled().len()))
            }
        }
    }

    fn holds_back(&self) -> bool {
        self.is_tls()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
