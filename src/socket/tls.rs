//! TLS that holds nothing while it is quiet: rustls' unbuffered connection between a socket and its reader.
//!
//! Records are received into and sent from buffers of the thread. On the heap are only: a record that has not come
//! whole, plaintext its reader had no room for, and ciphertext the socket did not take. [`CertReloader`] has the
//! configuration, which follows its files.

mod reload;
mod settings;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::linger;

pub use reload::{CertReloader, Reload, Watched, watch};
pub use settings::{TlsFiles, TlsFilesError, not_after};

/// A record's type, version and length.
const RECORD_HEADER: usize = 5;
/// The thread's buffer for what is received: an unfinished record (at most 16 KiB and some) and what comes behind it.
const INPUT_BYTES: usize = 48 * 1024;
/// Plaintext sealed at once.
const SEAL_BYTES: usize = 32 * 1024;
/// The same with what records of 512 bytes, the smallest, add to it.
const OUTPUT_BYTES: usize = SEAL_BYTES + SEAL_BYTES / 8;
/// The least that is asked of the socket: a reader with less room gets the rest from the heap.
const READ_BYTES: usize = 4 * 1024;
/// Bytes of a handshake that may wait for more: a client's certificates are the largest of it.
const HANDSHAKE_BYTES: usize = 32 * 1024;
/// Records without data looked at in one turn, so that a peer cannot keep a thread.
const READS_A_TURN: usize = 4;
/// The record type of an alert, and the description that says goodbye.
const ALERT: u8 = 21;
const CLOSE_NOTIFY: u8 = 0;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer left, or the transport failed.
    #[error("the connection ended: {0}")]
    Gone(#[from] io::Error),
    /// What the peer offered or sent is not taken; it has been sent an alert that says so.
    #[error("{0}")]
    Refused(#[from] rustls::Error),
    /// The peer said goodbye in the middle.
    #[error("the client ended the handshake (close_notify)")]
    Goodbye,
    /// More handshake than anybody needs.
    #[error("a handshake message is larger than {HANDSHAKE_BYTES} bytes")]
    TooLarge,
}

struct Scratch {
    input: Box<[u8]>,
    output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; INPUT_BYTES].into_boxed_slice(),
        output: vec![0; OUTPUT_BYTES],
    });
}

/// What could not be finished.
#[derive(Debug, Default)]
struct Held {
    /// Received and not whole; after a turn of rustls never more than one record and the pieces of one handshake message.
    tail: Vec<u8>,
    /// Opened, and not yet read from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Sealed, and not yet taken by the socket from `unsent_at` on.
    unsent: Vec<u8>,
    unsent_at: usize,
}

/// Where the two directions stand.
#[derive(Debug, Default)]
struct Ends {
    /// The peer sent its last record.
    received: bool,
    /// We sent ours.
    sent: bool,
    /// Something came that was no TLS of this connection.
    failed: bool,
}

/// The server's side of a TLS connection over `S`.
///
/// A write is accepted whole or in part as soon as it is sealed; what the socket does not take of it is sent by the next
/// write or flush, so a writer that has nothing more must flush.
pub struct TlsStream<S> {
    io: S,
    conn: UnbufferedServerConnection,
    held: Option<Box<Held>>,
    ends: Ends,
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("ends", &self.ends).field("held_bytes", &self.held_bytes()).finish()
    }
}

/// Answers a TLS handshake on `io`, `early` being what was received already. Takes as long as the peer does: the deadline
/// is the caller's. A peer that is refused is sent the alert that says why, and given a second to read it.
///
/// # Errors
/// [`TlsError`]; the connection is closed.
pub async fn accept<S>(io: S, config: Arc<ServerConfig>, early: Vec<u8>) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let conn = UnbufferedServerConnection::new(config)?;
    let mut stream = TlsStream { io, conn, held: None, ends: Ends::default() };
    stream.held().tail = early;
    let done = poll_fn(|cx| stream.poll_handshake(cx)).await;
    match done {
        Ok(()) => Ok(stream),
        Err(error) => {
            if let TlsError::Refused(_) = error
                && poll_fn(|cx| stream.poll_send(cx)).await.is_ok()
            {
                linger(&mut stream.io).await;
            }
            Err(error)
        }
    }
}

impl<S> TlsStream<S> {
    /// What is underneath. Not for reading and writing.
    pub const fn get_ref(&self) -> &S {
        &self.io
    }

    /// The client's certificates, its own first; none where it had none or was not asked.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.conn.peer_certificates()
    }

    /// Bytes on the heap for what could not be finished; 0 while quiet. The session's keys are not counted.
    pub fn held_bytes(&self) -> usize {
        let bytes = |held: &Held| held.tail.capacity() + held.plain.capacity() + held.unsent.capacity();
        self.held.as_deref().map_or(0, |held| size_of::<Held>() + bytes(held))
    }

    fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }

    /// Gives back what is not needed any more.
    fn let_go(&mut self) {
        let Some(held) = &mut self.held else { return };
        if held.plain_at == held.plain.len() {
            (held.plain, held.plain_at) = (Vec::new(), 0);
        }
        if held.unsent_at == held.unsent.len() {
            (held.unsent, held.unsent_at) = (Vec::new(), 0);
        }
        if held.tail.is_empty() && held.plain.is_empty() && held.unsent.is_empty() {
            self.held = None;
        }
    }
}

/// Why rustls looks no further.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// It needs more of what the peer sends.
    More,
    /// The peer sent its last record.
    End,
}

/// Has rustls look at what was received until it needs more: opened data goes to `deliver`, records to send to `out`.
/// Returns how many bytes of `input` are done with. On an error `out` has the alert for the peer.
fn drive(
    conn: &mut UnbufferedServerConnection,
    input: &mut [u8],
    out: &mut Vec<u8>,
    mut deliver: impl FnMut(&[u8]),
) -> (usize, Result<Stop, rustls::Error>) {
    let mut done = 0;
    loop {
        let rest = input.get_mut(done..).unwrap_or_default();
        let UnbufferedStatus { mut discard, state } = conn.process_tls_records(rest);
        let stop = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    deliver(record.payload);
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, out);
                None
            }
            // It is sent from `out`, which keeps the order.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => Some(Ok(Stop::More)),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Ok(Stop::End)),
            Ok(_) => Some(Err(rustls::Error::General("early data, which was not offered".into()))),
            Err(error) => Some(Err(error)),
        };
        done += discard;
        if let Some(stop) = stop {
            if stop.is_err() {
                take_alert(conn, out);
            }
            return (done, stop);
        }
    }
}

/// Has rustls write the alert of an error. It must not look at the input again, or it would meet the error again.
fn take_alert(conn: &mut UnbufferedServerConnection, out: &mut Vec<u8>) {
    while conn.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = conn.process_tls_records(&mut []).state else { return };
        encode(&mut data, out);
    }
}

fn encode(data: &mut EncodeTlsData<'_, rustls::server::ServerConnectionData>, out: &mut Vec<u8>) {
    let at = out.len();
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        out.resize(at + needed.required_size, 0);
        let written = out.get_mut(at..).and_then(|place| data.encode(place).ok());
        out.truncate(at + written.unwrap_or(0));
    }
}

/// How long the record at the front is, header included, where that is known.
fn record_bytes(received: &[u8]) -> Option<usize> {
    let &[high, low] = received.get(RECORD_HEADER - 2..RECORD_HEADER)? else { return None };
    Some(RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])))
}

/// Whether one of the records is a goodbye that is not encrypted: rustls ignores it, as it does every warning before
/// TLS 1.3.
fn says_goodbye(mut received: &[u8]) -> bool {
    loop {
        if matches!(received, [ALERT, _, _, 0, 2, _, CLOSE_NOTIFY, ..]) {
            return true;
        }
        match record_bytes(received).and_then(|bytes| received.get(bytes..)) {
            Some(rest) => received = rest,
            None => return false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        loop {
            self.look()?;
            ready!(self.poll_send(cx))?;
            if !self.conn.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let received = SCRATCH.with_borrow_mut(|scratch| {
                let room = scratch.input.get_mut(..READ_BYTES).unwrap_or_default();
                let mut into = ReadBuf::new(room);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
                self.held().tail.extend_from_slice(into.filled());
                Poll::Ready(io::Result::Ok(into.filled().len()))
            });
            if ready!(received)? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// Has rustls look at what came of the handshake.
    fn look(&mut self) -> Result<(), TlsError> {
        let held = self.held.get_or_insert_default();
        if says_goodbye(&held.tail) {
            return Err(TlsError::Goodbye);
        }
        let Held { tail, plain, unsent, .. } = &mut **held;
        let (done, stop) = drive(&mut self.conn, tail, unsent, |data| plain.extend_from_slice(data));
        tail.drain(..done);
        if tail.is_empty() {
            *tail = Vec::new();
        }
        let too_large = tail.len() > HANDSHAKE_BYTES;
        self.let_go();
        match stop? {
            Stop::End if self.conn.is_handshaking() => Err(TlsError::Goodbye),
            Stop::End => {
                self.ends.received = true;
                Ok(())
            }
            Stop::More if too_large => Err(TlsError::TooLarge),
            Stop::More => Ok(()),
        }
    }

    /// Gives the reader what was opened before. Returns whether there was any.
    fn give_plain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(held) = &mut self.held else { return false };
        let rest = held.plain.get(held.plain_at..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        held.plain_at += count;
        self.let_go();
        true
    }

    /// Receives once and opens what is whole. Whether it brought the reader anything shows in `buf`.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tail: &[u8] = self.held.as_ref().map_or(&[], |held| &held.tail);
        let kept = tail.len();
        // As much ciphertext as the reader has room for: what it opens to is shorter and fits.
        let want = buf.remaining().max(READ_BYTES).max(record_bytes(tail).unwrap_or(0));
        let end = want.max(kept + RECORD_HEADER).min(scratch.input.len());
        let Some(room) = scratch.input.get_mut(kept..end).filter(|room| !room.is_empty()) else {
            self.ends.failed = true;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TlsError::TooLarge)));
        };
        let mut into = ReadBuf::new(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        let fresh = into.filled().len();
        if fresh == 0 {
            // Without a close_notify somebody else may have cut the stream.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if let (Some(held), Some(front)) = (&mut self.held, scratch.input.get_mut(..kept)) {
            front.copy_from_slice(&held.tail);
            held.tail.clear();
        }
        let received = scratch.input.get_mut(..kept + fresh).unwrap_or_default();
        let opened = if record_bytes(received).is_some_and(|bytes| bytes <= received.len()) {
            self.open(received, buf)
        } else {
            Ok(0)
        };
        if let Some(rest) = opened.as_ref().ok().and_then(|done| received.get(*done..))
            && !rest.is_empty()
            && !self.ends.received
        {
            self.held().tail.extend_from_slice(rest);
        }
        // An alert or an answer to a key update; what the socket does not take goes with the next flush.
        let _ = self.poll_send(cx)?;
        Poll::Ready(opened.map(|_| ()))
    }

    /// Opens what is whole in `received`. Returns how much of it is done with.
    fn open(&mut self, received: &mut [u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let (held, mut out) = (&mut self.held, Vec::new());
        let (done, stop) = drive(&mut self.conn, received, &mut out, |data| {
            let (fits, rest) = data.split_at(data.len().min(buf.remaining()));
            buf.put_slice(fits);
            if !rest.is_empty() {
                held.get_or_insert_default().plain.extend_from_slice(rest);
            }
        });
        if !out.is_empty() {
            held.get_or_insert_default().unsent.append(&mut out);
        }
        match stop {
            Ok(stop) => {
                self.ends.received |= stop == Stop::End;
                Ok(done)
            }
            Err(error) => {
                self.ends.failed = true;
                tracing::debug!(%error, "a TLS connection broke");
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Sends what the socket did not take before.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.held {
            let Some(rest) = held.unsent.get(held.unsent_at..).filter(|rest| !rest.is_empty()) else { break };
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => held.unsent_at += written,
            }
        }
        self.let_go();
        Poll::Ready(Ok(()))
    }

    /// Seals by `seal` and writes; what the socket does not take is held.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        seal: impl Fn(&mut WriteTraffic<'_, rustls::server::ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|Scratch { output, .. }| {
            let sealed = self.seal(output, seal)?;
            let mut rest = output.get(..sealed).unwrap_or_default();
            while !rest.is_empty() {
                match Pin::new(&mut self.io).poll_write(cx, rest)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Pending => {
                        self.held().unsent.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Ok(())
        })
    }

    /// Has rustls seal into `output`, after whatever it has to send of its own. Returns how many bytes it came to.
    fn seal(
        &mut self,
        output: &mut Vec<u8>,
        seal: impl Fn(&mut WriteTraffic<'_, rustls::server::ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::BrokenPipe, what.to_owned());
        // Pieces of a handshake message stay where rustls has seen them, so it is shown them again.
        let mut none = Vec::new();
        let mut at = 0;
        loop {
            let tail = self.held.as_mut().map_or(&mut none, |held| &mut held.tail);
            let UnbufferedStatus { discard, state } = self.conn.process_tls_records(tail);
            let mut sealed = None;
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => loop {
                    match seal(&mut traffic, output.get_mut(at..).unwrap_or_default()) {
                        Ok(bytes) => break sealed = Some(at + bytes),
                        Err(EncryptError::InsufficientSize(needed)) => output.resize(at + needed.required_size, 0),
                        Err(EncryptError::EncryptExhausted) => return Err(broken("the session's keys are used up")),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let mut own = Vec::new();
                    encode(&mut data, &mut own);
                    output.resize(output.len().max(at + own.len()), 0);
                    if let Some(place) = output.get_mut(at..at + own.len()) {
                        place.copy_from_slice(&own);
                    }
                    at += own.len();
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ends.received = true,
                Ok(_) => return Err(broken("the TLS session is over")),
                Err(error) => {
                    self.ends.failed = true;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
            if let Some(held) = self.held.as_mut().filter(|_| discard > 0) {
                held.tail.drain(..discard);
            }
            if let Some(sealed) = sealed {
                return Ok(sealed);
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || this.give_plain(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        for _ in 0..READS_A_TURN {
            if this.ends.received {
                return Poll::Ready(Ok(()));
            }
            if this.ends.failed {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let received = ready!(SCRATCH.with_borrow_mut(|scratch| this.poll_receive(cx, scratch, buf)));
            if buf.filled().len() > before {
                // An error behind the data is met again by the next read.
                return Poll::Ready(Ok(()));
            }
            received?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.ends.sent || this.ends.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = buf.get(..buf.len().min(SEAL_BYTES)).unwrap_or_default();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send(cx, |traffic, output| traffic.encrypt(data, output))?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if !this.ends.sent && !this.ends.failed {
            this.ends.sent = true;
            this.send(cx, |traffic, output| traffic.queue_close_notify(output))?;
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
