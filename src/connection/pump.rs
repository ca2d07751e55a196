//! The turns of one connection.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Node, TICK_MS};
use crate::auth::{AuthError, KeyRef, Verified};
use crate::eventlog::{AppendError, Flow, Record, Topic};
use crate::id::{Boot, Epoch};
use crate::mailbox::{Letter, Signal};
use crate::protocol::close::CloseReason;
use crate::protocol::message::{GatewayMessage, RefusalCode, Report, ReportKind};
use crate::protocol::{CodecLimits, Encoding, read_frame, write_message};
use crate::receipts::Seat;
use crate::session::Now;
use crate::session::device::{Due, Room, Session, Step};
use crate::socket::decoder::{Decoder, DecoderConfig, Event};
use crate::socket::deflate::Negotiated;
use crate::socket::encoder;

const SCRATCH_BYTES: usize = 32 * 1024;
/// Reads in one turn, so that one fast sender does not keep a thread.
const READS_A_TURN: usize = 4;
/// How long a peer may take to answer a close.
const LINGER_MS: u64 = 2_000;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The gateway closed it.
    Gateway(CloseReason),
    /// The device closed it, with this code (1005: none).
    Device(u16),
    /// The transport ended without a close.
    Lost,
}

struct Scratch {
    read: Box<[u8]>,
    out: Vec<u8>,
    message: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        out: Vec::with_capacity(SCRATCH_BYTES),
        message: Vec::with_capacity(1_024),
    });
}

/// Where the connection stands in the node.
pub(super) struct Place {
    pub(super) seat: Seat,
    pub(super) boot: Boot,
    pub(super) epoch: Epoch,
    pub(super) signed_by: Option<KeyRef>,
}

/// What was agreed about bytes.
pub(super) struct Wire {
    pub(super) encoding: Encoding,
    pub(super) deflate: Option<Negotiated>,
    pub(super) close_drop: bool,
    /// Received and not yet decoded.
    pub(super) early: Vec<u8>,
}

/// A frame whose later messages found no room.
struct Parked {
    frame: Box<[u8]>,
    next: usize,
}

type Verifying = Pin<Box<dyn Future<Output = Result<Verified, AuthError>> + Send>>;

enum State {
    Open,
    /// Reads no more; closes when all is settled.
    Stopping,
    /// The last frame is written or on its way; waits for the peer's end.
    Closing {
        end: End,
        until_ms: u64,
        sent: bool,
    },
}

/// One connection.
pub(super) struct Pump<S> {
    stream: S,
    node: Arc<Node>,
    session: Session,
    place: Place,
    wire: Wire,
    decoder: Decoder,
    parked: Option<Box<Parked>>,
    parked_bytes: u32,
    /// What the socket has not taken yet, and since when it has taken nothing.
    unsent: Vec<u8>,
    unsent_since_ms: u64,
    verifying: Option<Box<(Option<String>, Verifying)>>,
    /// Not before this moment may the next update be taken; 0 for at once.
    held_until_ms: u64,
    state: State,
}

/// Whether a message's way ended here or its frame has to wait.
enum Handled {
    Done,
    Wait,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    pub(super) fn new(stream: S, node: Arc<Node>, session: Session, place: Place, wire: Wire) -> Self {
        Self {
            stream,
            node,
            session,
            place,
            wire,
            decoder: Decoder::new(),
            parked: None,
            parked_bytes: 0,
            unsent: Vec::new(),
            unsent_since_ms: 0,
            verifying: None,
            held_until_ms: 0,
            state: State::Open,
        }
    }

    /// Puts the greeting first in line, and a pause behind it where the node has one.
    pub(super) fn welcome(&mut self, session: &str, heartbeat_s: u64, token_expires_at: Option<i64>) {
        let now = self.node.now();
        let key = self.session.key().clone();
        let mut welcome = super::welcome(&key, session, self.place.epoch.0, heartbeat_s, &self.node.limits, now);
        welcome.token_expires_at = token_expires_at;
        let mut message = Vec::new();
        let mut out = Vec::new();
        self.put(&GatewayMessage::Welcome(welcome), &mut message, &mut out);
        if let Some(pause) = self.session.flow(self.node.flow() == Flow::Paused, None) {
            self.put(&pause, &mut message, &mut out);
        }
        self.unsent = out;
        self.unsent_since_ms = now.mono_ms;
    }

    /// One turn.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        SCRATCH.with_borrow_mut(|scratch| self.turn(cx, scratch))
    }

    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<End> {
        let Scratch { read, out, message } = scratch;
        out.clear();
        let now = self.node.now();
        self.place.seat.mailbox().register(cx.waker());
        let again = if matches!(self.state, State::Closing { .. }) {
            false
        } else {
            self.take_mail(now, message, out);
            self.take_verdict(cx, now, message, out);
            self.take_time(now, message, out);
            self.take_parked(now, message, out);
            self.read(cx, read, now, message, out)
        };
        if matches!(self.state, State::Stopping) && self.place.seat.mailbox().outstanding() == 0 {
            self.close(CloseReason::Restart, now, message, out);
        }
        if self.write(cx, out, now).is_err() {
            return Poll::Ready(self.ended());
        }
        if let Poll::Ready(end) = self.linger(cx, read, now) {
            return Poll::Ready(end);
        }
        if again {
            cx.waker().wake_by_ref();
        }
        self.set_due(now);
        Poll::Pending
    }

    fn ended(&self) -> End {
        match self.state {
            State::Closing { end, .. } => end,
            _ => End::Lost,
        }
    }

    // ---- what the node left -------------------------------------------------------------------------------------

    fn take_mail(&mut self, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        let settled = self.place.seat.mailbox().take_settled();
        if settled.ended != 0 {
            let (encoding, deflate) = (self.wire.encoding, self.wire.deflate);
            self.session.settled(settled, |reply| put(encoding, deflate, &reply, message, out));
        }
        let signals = self.place.seat.mailbox().take_signals();
        if signals.has(Signal::Flow)
            && let Some(reply) = self.session.flow(self.node.flow() == Flow::Paused, None)
        {
            self.put(&reply, message, out);
        }
        if signals.has(Signal::Keys) && self.place.signed_by.as_ref().is_some_and(KeyRef::is_revoked) {
            self.close(CloseReason::TokenRevoked, now, message, out);
        }
        if signals.has(Signal::Stop) && matches!(self.state, State::Open) {
            self.state = State::Stopping;
        }
        if let Some(Letter::Close(reason)) = self.place.seat.mailbox().take_letter() {
            self.close(reason, now, message, out);
        }
    }

    fn take_verdict(&mut self, cx: &mut Context<'_>, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        let Some(verifying) = &mut self.verifying else { return };
        let Poll::Ready(verdict) = verifying.1.as_mut().poll(cx) else { return };
        let id = verifying.0.take();
        self.verifying = None;
        let leeway_ms = self.node.auth.as_ref().map_or(0, |auth| auth.leeway_ms());
        let verdict = match verdict {
            Ok(verified) if verified.identity.key() == self.session.key() => {
                self.place.signed_by = Some(verified.key);
                Ok((verified.expires_at_ms, leeway_ms))
            }
            Ok(_) => Err(RefusalCode::Forbidden),
            Err(_) => Err(RefusalCode::InvalidToken),
        };
        let step = self.session.verified(id.map(Cow::Owned), verdict, &self.node.limits, now);
        self.reply(step, now, message, out);
    }

    fn take_time(&mut self, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        if !self.is_reading() {
            self.session.not_reading(now);
        }
        let assembly = self.node.limits.assembly_timeout_ms;
        if self.decoder.assembling_since().is_some_and(|since| now.mono_ms.saturating_sub(since) > assembly) {
            self.close(CloseReason::PolicyViolation, now, message, out);
        }
        let patience = self.node.limits.slow_reader_timeout_ms;
        if !self.unsent.is_empty() && now.mono_ms.saturating_sub(self.unsent_since_ms) > patience {
            self.close(CloseReason::SlowConsumer, now, message, out);
        }
        while let Some(due) = self.session.due(now) {
            match due {
                Due::Ping => encoder::ping(out, &[]),
                Due::Send(reply) => self.put(&reply, message, out),
                Due::Close(reason) => return self.close(reason, now, message, out),
            }
        }
    }

    fn set_due(&self, now: Now) {
        let mut due = self.session.due_ms(now);
        if let State::Closing { until_ms, .. } = self.state {
            due = until_ms;
        }
        if self.held_until_ms != 0 || self.parked.is_some() || !self.unsent.is_empty() {
            due = due.min(now.mono_ms + TICK_MS);
        }
        if let Some(since) = self.decoder.assembling_since() {
            due = due.min(since + self.node.limits.assembly_timeout_ms + 1);
        }
        let tick = u32::try_from(due.div_ceil(TICK_MS)).unwrap_or(u32::MAX - 1);
        self.place.seat.mailbox().set_due(tick);
    }

    // ---- what the device sends ----------------------------------------------------------------------------------

    /// Whether the socket is read: not while something that was read waits, nor while the device does not read us.
    fn is_reading(&self) -> bool {
        matches!(self.state, State::Open)
            && self.parked.is_none()
            && self.wire.early.is_empty()
            && self.unsent.is_empty()
    }

    fn take_parked(&mut self, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Open) || now.mono_ms < self.held_until_ms {
            return;
        }
        if self.held_until_ms != 0 {
            self.held_until_ms = 0;
            if let Some(reply) = self.session.rate(None) {
                self.put(&reply, message, out);
            }
        }
        if let Some(parked) = self.parked.take() {
            self.unpark();
            if matches!(self.frame(&parked.frame, parked.next, now, message, out), Handled::Wait) {
                return;
            }
        }
        if !self.wire.early.is_empty() {
            let mut early = std::mem::take(&mut self.wire.early);
            self.unpark();
            self.decode(&mut early, now, message, out);
        }
    }

    /// Returns whether there may be more to read.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        now: Now,
        message: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        for _ in 0..READS_A_TURN {
            if !self.is_reading() {
                return false;
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    if let Some(rtt) = self.session.heard(now) {
                        self.node.metrics.ping_rtt.observe(rtt as f64 / 1_000.0);
                    }
                    let filled = buffer.filled().len();
                    if let Some(bytes) = scratch.get_mut(..filled) {
                        self.decode(bytes, now, message, out);
                    }
                }
                Poll::Ready(_) => {
                    self.state = State::Closing { end: End::Lost, until_ms: 0, sent: true };
                    return false;
                }
            }
        }
        true
    }

    fn decode(&mut self, mut input: &mut [u8], now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        let limits = &self.node.limits;
        let config = DecoderConfig {
            message_bytes: limits.message_bytes,
            fragments: limits.fragments,
            deflate: self.wire.deflate.is_some(),
        };
        // The decoder lends what it holds to its event: apart from the connection while one is looked at.
        let mut decoder = std::mem::take(&mut self.decoder);
        loop {
            if !matches!(self.state, State::Open) || self.parked.is_some() {
                self.park_bytes(input, now, message, out);
                break;
            }
            let (consumed, event) = match decoder.decode(&config, input, now.mono_ms) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    self.close(violation.close, now, message, out);
                    break;
                }
            };
            let Some(event) = event else { break };
            self.event(event, now, message, out);
            input = input.get_mut(consumed..).unwrap_or_default();
        }
        self.decoder = decoder;
    }

    fn event(&mut self, event: Event<'_>, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        match event {
            Event::Message { text, payload } if text == self.wire.encoding.is_text() => {
                if payload.is_empty() {
                    self.control(now, message, out);
                }
                if matches!(self.state, State::Open) {
                    let _ = self.frame(payload, 0, now, message, out);
                }
            }
            Event::Message { .. } => self.close(CloseReason::UnsupportedData, now, message, out),
            Event::Ping(payload) => {
                encoder::pong(out, payload);
                self.control(now, message, out);
            }
            Event::Pong(_) => self.control(now, message, out),
            Event::Close(reason) => {
                let code = reason.map_or(1005, |(code, _)| code);
                if reason.is_some() {
                    encoder::close(out, code, "");
                } else {
                    encoder::close(out, CloseReason::Normal.code(), "");
                }
                self.finish(End::Device(code), now);
            }
        }
    }

    fn control(&mut self, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        if let Some(reason) = self.session.control_frame(&self.node.limits, now) {
            self.close(reason, now, message, out);
        }
    }

    /// Handles a frame's messages from `skip` on; parks the frame where one finds no room.
    fn frame(&mut self, frame: &[u8], skip: usize, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) -> Handled {
        let limits =
            CodecLimits { message_bytes: self.node.limits.message_bytes, batch_items: self.node.limits.batch_items };
        let mut stopped_at = None;
        read_frame(self.wire.encoding, frame, limits, skip, &mut |place, item| {
            let step = self.session.message(item, &self.node.limits, now);
            match step {
                Step::Append(report) => {
                    if matches!(self.append(&report, now, message, out), Handled::Wait) {
                        stopped_at = Some(place);
                    }
                }
                step => self.reply(step, now, message, out),
            }
            stopped_at.is_none() && matches!(self.state, State::Open)
        });
        let Some(next) = stopped_at else { return Handled::Done };
        if self.park(frame.len(), now, message, out) {
            self.parked = Some(Box::new(Parked { frame: frame.into(), next }));
        }
        Handled::Wait
    }

    fn append(&mut self, report: &Report<'_>, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) -> Handled {
        let bytes = report.json.len();
        match self.session.room(bytes, &self.node.limits, now) {
            Room::Yes => {}
            Room::Full => return Handled::Wait,
            Room::After(ms) => {
                self.held_until_ms = now.mono_ms + ms;
                if let Some(reply) = self.session.rate(Some(ms)) {
                    self.put(&reply, message, out);
                }
                return Handled::Wait;
            }
        }
        let Some(ticket) = self.place.seat.ticket(self.session.window().next(), bytes) else { return Handled::Wait };
        let record = Record {
            topic: match report.kind {
                ReportKind::Update => Topic::Telemetry,
                ReportKind::Status => Topic::Status,
            },
            key: self.session.key(),
            boot: &self.place.boot,
            seq: report.seq,
            timestamp_ms: report.timestamp_ms,
            received_ms: now.unix_ms,
            epoch: self.place.epoch,
            traceparent: if self.node.trust_traceparent { report.traceparent.as_deref() } else { None },
            value: &report.json,
        };
        match self.node.log.append(&record, ticket) {
            Ok(()) => {
                self.session.taken(report.seq, bytes);
                Handled::Done
            }
            Err(AppendError::Full | AppendError::Closed) => {
                self.place.seat.give_back(bytes);
                Handled::Wait
            }
        }
    }

    fn reply(&mut self, step: Step<'_>, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        match step {
            Step::Reply(reply) => self.put(&reply, message, out),
            Step::Last(reply, reason) => {
                self.put(&reply, message, out);
                self.close(reason, now, message, out);
            }
            Step::Verify { token, id } => {
                let (id, token) = (id.map(Cow::into_owned), token.into_owned());
                let auth = self.node.auth.clone();
                let unix_ms = now.unix_ms;
                let verdict: Verifying = Box::pin(async move {
                    match auth {
                        Some(auth) => auth.verify(&token, unix_ms).await,
                        None => Err(AuthError::KeysUnavailable { retry_after_s: 60 }),
                    }
                });
                self.verifying = Some(Box::new((id, verdict)));
                self.place.seat.mailbox().wake();
            }
            Step::Append(_) | Step::Nothing => {}
        }
    }

    /// Counts bytes that wait here; closes where the node holds too many.
    fn park(&mut self, bytes: usize, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        self.parked_bytes += bytes as u32;
        if self.place.seat.park(bytes) {
            return true;
        }
        self.node.metrics.shed.inc();
        self.close(CloseReason::Overloaded, now, message, out);
        false
    }

    fn park_bytes(&mut self, input: &[u8], now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        if !input.is_empty() && matches!(self.state, State::Open) && self.park(input.len(), now, message, out) {
            self.wire.early.extend_from_slice(input);
        }
    }

    fn unpark(&mut self) {
        self.place.seat.unpark(self.parked_bytes as usize);
        self.parked_bytes = 0;
        // What is still here is counted again.
        let rest = self.wire.early.len();
        if rest != 0 {
            self.parked_bytes = rest as u32;
            let _ = self.place.seat.park(rest);
        }
    }

    // ---- what goes out ------------------------------------------------------------------------------------------

    fn put(&self, reply: &GatewayMessage<'_>, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        put(self.wire.encoding, self.wire.deflate, reply, message, out);
    }

    /// Says why, and closes; the first reason stands.
    fn close(&mut self, reason: CloseReason, now: Now, message: &mut Vec<u8>, out: &mut Vec<u8>) {
        if matches!(self.state, State::Closing { .. }) {
            return;
        }
        let error = GatewayMessage::Error { code: reason.text(), message: reason.text().into(), retry_after_ms: None };
        self.put(&error, message, out);
        if !(self.wire.close_drop && reason.comes_back()) {
            encoder::close(out, reason.code(), reason.text());
        }
        self.finish(End::Gateway(reason), now);
    }

    fn finish(&mut self, end: End, now: Now) {
        self.parked = None;
        self.wire.early = Vec::new();
        self.unpark();
        self.state = State::Closing { end, until_ms: now.mono_ms + LINGER_MS, sent: false };
    }

    fn write(&mut self, cx: &mut Context<'_>, out: &[u8], now: Now) -> Result<(), ()> {
        let mut fresh = out;
        if self.unsent.is_empty() {
            while !fresh.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, fresh) {
                    Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                    Poll::Ready(Ok(written)) => fresh = fresh.get(written..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
            self.unsent_since_ms = now.mono_ms;
            self.unsent.extend_from_slice(fresh);
        } else {
            self.unsent.extend_from_slice(fresh);
            let mut sent = 0;
            while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0) | Err(_)) => return Err(()),
                    Poll::Ready(Ok(written)) => sent += written,
                    Poll::Pending => break,
                }
            }
            if sent != 0 {
                self.unsent.drain(..sent);
                self.unsent_since_ms = now.mono_ms;
            }
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
                // Reading had stopped for it.
                cx.waker().wake_by_ref();
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(()),
            _ if self.unsent.len() > self.node.limits.write_buffer_bytes => Err(()),
            _ => Ok(()),
        }
    }

    /// After the last frame: shut down our side, then wait a little for the peer's, so that the frame is not lost to a
    /// reset.
    fn linger(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], now: Now) -> Poll<End> {
        let State::Closing { end, until_ms, sent } = &mut self.state else { return Poll::Pending };
        if now.mono_ms >= *until_ms {
            return Poll::Ready(*end);
        }
        if !self.unsent.is_empty() {
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
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(*end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Pump<S> {
    fn drop(&mut self) {
        self.place.seat.unpark(self.parked_bytes as usize);
    }
}

fn put(
    encoding: Encoding,
    deflate: Option<Negotiated>,
    reply: &GatewayMessage<'_>,
    message: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    message.clear();
    write_message(encoding, reply, message);
    encoder::message(out, encoding.is_text(), message, deflate);
}
