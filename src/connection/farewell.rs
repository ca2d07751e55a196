//! A refusal in frames, for a browser: it completed the handshake only to be told why it may not stay.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::protocol::close::CloseReason;
use crate::protocol::message::GatewayMessage;
use crate::protocol::{Encoding, write_message};
use crate::socket::deflate::Negotiated;
use crate::socket::encoder;

/// How long the peer may take to answer the close.
const LINGER: Duration = Duration::from_secs(2);
/// How much of what it still sends is read meanwhile, in bytes.
const LINGER_BYTES: u64 = 64 * 1024;

/// What somebody is told who may not stay.
#[derive(Debug, Clone)]
pub struct Farewell {
    /// How messages are written.
    pub encoding: Encoding,
    /// Whether they are compressed.
    pub deflate: Option<Negotiated>,
    /// The `error`'s code.
    pub code: &'static str,
    /// The `error`'s text.
    pub message: &'static str,
    /// After how many milliseconds it may be worth trying again.
    pub retry_after_ms: Option<u64>,
    /// The close.
    pub reason: CloseReason,
}

/// Sends `error` and the close, and waits a little for the peer's, so that they are not lost to a reset.
pub async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, farewell: Farewell) {
    let Farewell { encoding, deflate, code, message, retry_after_ms, reason } = farewell;
    let (mut body, mut out) = (Vec::new(), Vec::new());
    write_message(encoding, &GatewayMessage::Error { code, message: message.into(), retry_after_ms }, &mut body);
    encoder::message(&mut out, encoding.is_text(), &body, deflate);
    encoder::close(&mut out, reason.code(), reason.text());
    let end = async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it was read or not: there is nothing more to be done for this peer.
    let _ = tokio::time::timeout(LINGER, end).await;
}
