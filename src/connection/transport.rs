//! What a connection runs on: bytes both ways, and a way to learn that the other end is gone without reading.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use crate::socket::listener::Stream;

/// A stream a connection can be served on.
///
/// A wrapper (TLS, a prefix to be replayed) answers with the error of what it wraps.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The error that ended the stream, where it has ended with one: a reset, or the time-out of TCP keep-alive or of
    /// data that nobody acknowledged. An orderly end is none: what was sent before it still waits to be read.
    ///
    /// Asked twice a second while the connection is not read, since nothing else would tell: readiness is cached once
    /// bytes wait, so the task of a stream that is not read is not woken by its end.
    fn broken(&self) -> Option<io::Error>;
}

impl Transport for TcpStream {
    fn broken(&self) -> Option<io::Error> {
        match self.take_error() {
            Ok(error) => error,
            Err(error) => Some(error),
        }
    }
}

impl Transport for Stream {
    fn broken(&self) -> Option<io::Error> {
        self.tcp().broken()
    }
}

/// A pipe within the process does not break.
impl Transport for DuplexStream {
    fn broken(&self) -> Option<io::Error> {
        None
    }
}
