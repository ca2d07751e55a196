//! What goes to a peer: messages to frames, one write a turn, and the close.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::ReadBuf;

use super::pump::{Desk, Pump, State, Unsent, Wire, tick};
use super::witness::{self, End};
use super::{Node, Transport};
use crate::protocol::close::{Advice, CloseReason};
use crate::protocol::message::GatewayMessage;
use crate::protocol::write_message;
use crate::socket::encoder;
use crate::telemetry::metrics::SentType;

/// How long a peer may take to answer a close.
pub(super) const LINGER_MS: u64 = 2_000;
/// Reads that are made to get at the peer's end behind what it had sent: 8 MiB, more than a TCP connection holds.
pub(super) const LINGER_READS: u16 = 256;
/// The same in one turn.
const READS_A_TURN: usize = 4;

impl Wire {
    /// Puts a message's frame in line.
    pub(super) fn put(self, node: &Node, message: &GatewayMessage<'_>, desk: &mut Desk) {
        desk.message.clear();
        write_message(self.encoding, message, &mut desk.message);
        encoder::message(&mut desk.out, self.encoding.is_text(), &desk.message, self.deflate);
        desk.tally.sent(witness::sent_type(message), desk.message.len());
        witness::answered(node, message);
    }
}

impl<S: Transport> Pump<S> {
    pub(super) fn put(&self, message: &GatewayMessage<'_>, desk: &mut Desk) {
        self.wire.put(&self.node, message, desk);
        if self.is_traced() {
            witness::traced_answer(&self.place, message, desk.message.len());
        }
    }

    /// Whether what comes and goes is to be in the log: one bit where it is not.
    pub(super) fn is_traced(&self) -> bool {
        let mailbox = self.place.mailbox();
        mailbox.is_traced() && self.node.traces.is_on(mailbox, Instant::now())
    }

    /// Puts a ping or a pong in line.
    pub(super) fn put_control(&self, kind: SentType, payload: &[u8], desk: &mut Desk) {
        desk.tally.sent(kind, payload.len());
        match kind {
            SentType::WsPing => encoder::ping(&mut desk.out, payload),
            _ => encoder::pong(&mut desk.out, payload),
        }
    }

    /// Says why, and closes; the first reason stands.
    pub(super) fn close(&mut self, reason: CloseReason, desk: &mut Desk) {
        self.close_because(reason, witness::words(reason), desk);
    }

    /// Closes with words that tell more than the reason alone.
    pub(super) fn close_because(&mut self, reason: CloseReason, why: &'static str, desk: &mut Desk) {
        if self.is_closing() {
            return;
        }
        // Who does not read will not read this either.
        if reason == CloseReason::SlowConsumer {
            return self.finish(End::Gateway(reason), why, 0, desk);
        }
        let waits = reason.advice() == Advice::ReconnectAfterHint;
        let retry_after_ms = waits.then(|| self.node.retry_after_ms(u64::MAX));
        let error = GatewayMessage::Error { code: reason.text(), message: why.into(), retry_after_ms };
        self.put(&error, desk);
        if !(self.wire.close_drop && reason.comes_back()) {
            desk.tally.sent(SentType::WsClose, 2 + reason.text().len());
            encoder::close(&mut desk.out, reason.code(), reason.text());
        }
        self.finish(End::Gateway(reason), why, LINGER_MS, desk);
    }

    /// Writes what is in line. `Err`: how the connection ends, since nothing more can be written.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Result<(), (End, &'static str)> {
        const BROKE: (End, &str) = (End::Lost, "the transport broke");
        if let Some(mut unsent) = self.unsent.take() {
            unsent.bytes.extend_from_slice(&desk.out);
            let sent = self.write_some(cx, unsent.rest()).map_err(|()| BROKE)?;
            unsent.forget(sent, desk.now.mono_ms);
            if unsent.rest().is_empty() {
                // Reading had stopped for it.
                cx.waker().wake_by_ref();
            } else {
                self.unsent = Some(unsent);
            }
        } else if !desk.out.is_empty() {
            let sent = self.write_some(cx, &desk.out).map_err(|()| BROKE)?;
            if let Some(rest) = desk.out.get(sent..).filter(|rest| !rest.is_empty()) {
                let bytes = rest.to_vec();
                self.unsent = Some(Box::new(Unsent { bytes, sent: 0, since_ms: desk.now.mono_ms }));
            }
        }
        if let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx) {
            return Err(BROKE);
        }
        match &self.unsent {
            Some(unsent) if unsent.rest().len() > self.node.limits.write_buffer_bytes => {
                Err((End::Gateway(CloseReason::SlowConsumer), witness::words(CloseReason::SlowConsumer)))
            }
            _ => Ok(()),
        }
    }

    /// Writes as much of `bytes` as the socket takes; returns how much that is.
    fn write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, ()> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                Poll::Ready(Ok(written)) => sent += written,
                Poll::Pending => break,
            }
        }
        Ok(sent)
    }

    /// After the last frame: shuts down our side, then waits a little for the peer's end, so that the frame is not lost
    /// to a reset.
    pub(super) fn linger(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], desk: &Desk) -> Poll<End> {
        let State::Closing { end, until, sent, reads } = &mut self.state else { return Poll::Pending };
        if tick(desk.now.mono_ms) >= *until {
            return Poll::Ready(*end);
        }
        if self.unsent.is_some() {
            return Poll::Pending;
        }
        if !*sent {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(*end);
            }
            *sent = true;
        }
        for _ in 0..READS_A_TURN {
            let mut buffer = ReadBuf::new(scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && *reads > 0 => *reads -= 1,
                _ => return Poll::Ready(*end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Unsent {
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// `more` of it is gone. What is gone is given back when it is the larger part, so that each byte moves about once.
    fn forget(&mut self, more: usize, now_ms: u64) {
        if more == 0 {
            return;
        }
        self.sent += more;
        self.since_ms = now_ms;
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
