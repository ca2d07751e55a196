//! A request's head, read before hyper sees the connection: bounded, and strict where hyper forgives.
//!
//! [`HeadScanner`] is without I/O. What was read is handed to hyper by a [`Replay`]; what was refused is answered here.
//! Only the first request of a connection passes here, so hyper must not keep connections alive behind it.

mod scanner;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::upgrade::Problem;
use crate::limits::Limits;

pub use scanner::{HeadError, HeadScanner};

/// Bytes read at once.
const CHUNK_BYTES: usize = 2 * 1024;
/// What a client may still send after it was refused.
const LINGER_BYTES: usize = 64 * 1024;
/// How long it has to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadFailure {
    /// It is one that is not taken: to be answered.
    #[error(transparent)]
    Bad(#[from] HeadError),
    /// The client left, or the transport failed.
    #[error("the client left before its request was complete: {0}")]
    Gone(#[from] io::Error),
}

/// Reads a head, `early` being what was received already. Returns it with whatever came behind it, at most a few KiB.
/// Takes as long as the client does: the deadline is the caller's.
///
/// # Errors
/// [`HeadFailure`].
pub async fn read<S>(stream: &mut S, limits: &Limits, early: &[u8]) -> Result<Vec<u8>, HeadFailure>
where
    S: AsyncRead + Unpin,
{
    let mut scanner = HeadScanner::new(limits);
    let mut complete = scanner.feed(early)?;
    let mut chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
    while !complete {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        complete = scanner.feed(chunk.get(..count).unwrap_or_default())?;
    }
    Ok(scanner.into_bytes())
}

/// Answers with `problem` and closes, so that the client gets the answer and not a reset: within a second, after at most
/// 64 KiB of what it still sends. What goes wrong on the way is of no interest.
pub async fn refuse<S>(stream: &mut S, problem: &Problem)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = answer(problem);
    let told = async {
        stream.write_all(&answer).await?;
        stream.flush().await
    };
    if matches!(tokio::time::timeout(LINGER, told).await, Ok(Ok(()))) {
        linger(stream).await;
    }
}

/// Ends our side, then reads on for at most a second and 64 KiB: closing a socket with something unread in it resets the
/// connection, and a reset overtakes what was said last.
pub async fn linger<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let discard = async {
        stream.shutdown().await?;
        let mut chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            match stream.read(&mut chunk).await? {
                0 => break,
                count => discarded += count,
            }
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, discard).await;
}

/// The answer as it is on the wire.
fn answer(problem: &Problem) -> Vec<u8> {
    let (parts, body) = problem.response().into_parts();
    let body = body.collect().now_or_never().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let reason = parts.status.canonical_reason().unwrap_or("Error");
    let mut answer = format!("HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\n", parts.status.as_u16(), body.len());
    for (name, value) in &parts.headers {
        answer.push_str(name.as_str());
        answer.push_str(": ");
        answer.push_str(value.to_str().unwrap_or_default());
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(&body);
    answer
}

/// A stream some bytes of which were read already: they are read again first.
#[derive(Debug)]
pub struct Replay<S> {
    inner: S,
    first: Vec<u8>,
    at: usize,
}

impl<S> Replay<S> {
    /// `first`, then what `inner` has.
    pub const fn new(inner: S, first: Vec<u8>) -> Self {
        Self { inner, first, at: 0 }
    }

    /// The stream, and what has not been read again yet.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.first.drain(..self.at);
        (self.inner, self.first)
    }

    /// The stream.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.first.get(this.at..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        this.at += count;
        if this.at == this.first.len() {
            (this.first, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"GET /v1/device HTTP/1.1\r\nHost: gateway\r\n\r\n";

    #[tokio::test]
    async fn what_was_read_is_read_again_first_and_what_came_behind_is_kept() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(&[REQUEST, b"frames"].concat()).await.unwrap();
        let bytes = read(&mut server, &Limits::default(), b"").await.unwrap();
        assert_eq!(bytes, [REQUEST, b"frames"].concat());
        let mut replay = Replay::new(server, bytes);
        let mut again = vec![0; REQUEST.len()];
        replay.read_exact(&mut again).await.unwrap();
        assert_eq!(again, REQUEST);
        client.write_all(b"more").await.unwrap();
        let (mut server, leftover) = replay.into_parts();
        assert_eq!(leftover, b"frames");
        let mut more = [0; 4];
        server.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    }

    #[tokio::test]
    async fn a_refusal_is_a_problem_document_and_the_end_of_the_connection() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(b"GET / HTTP/1.1\r\n\r\nmore that nobody reads").await.unwrap();
        let HeadFailure::Bad(error) = read(&mut server, &Limits::default(), b"").await.unwrap_err() else {
            panic!("the client is still there")
        };
        assert_eq!(error, HeadError::HostMissing);
        let refused = tokio::spawn(async move { refuse(&mut server, &error.problem()).await });
        let mut answer = vec![0; 4096];
        let count = client.read(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer[..count].to_vec()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/problem+json"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], 400);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        drop(client);
        refused.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_leaves_in_the_middle_is_no_bad_request() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        client.write_all(&REQUEST[..20]).await.unwrap();
        drop(client);
        assert!(matches!(read(&mut server, &Limits::default(), b"").await, Err(HeadFailure::Gone(_))));
    }
}
