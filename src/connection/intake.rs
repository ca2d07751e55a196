//! What a peer sends: bytes to frames, frames to messages, messages to the session and the log.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::Transport;
use super::pump::{Desk, Held, Pump};
use super::spans;
use super::witness::{self, End};
use crate::auth::AuthError;
use crate::eventlog::{Kind, Record, Topic};
use crate::protocol::close::CloseReason;
use crate::protocol::message::{DeviceMessage, GatewayMessage, Report, ReportKind};
use crate::protocol::{CodecLimits, read_frame};
use crate::session::device::{Room, Step};
use crate::socket::decoder::{Decoder, DecoderConfig, Event};
use crate::socket::encoder;
use crate::telemetry::metrics::{ReceivedType, SentType};
use crate::telemetry::traces::{self, Span, TraceContext, TraceText};

/// Reads in one turn, so that one fast sender does not keep a thread.
const READS_A_TURN: usize = 4;
/// Pongs that wait to be written at most; a ping above is not answered, as RFC 6455 (5.5.3) allows.
const PONGS_A_TURN: u64 = 50;

/// Where a frame's messages found no room.
struct Stopped {
    /// The first that found none.
    next: usize,
    /// Not before this moment on the monotonic clock, where it is the rate; else 0.
    until_ms: u64,
}

impl<S: Transport> Pump<S> {
    /// Whether the socket is read: not while something that was read waits, nor while the peer does not read us.
    pub(super) fn is_reading(&self) -> bool {
        self.is_working() && self.held.is_none() && self.unsent.is_none()
    }

    /// Tries again what found no room, and goes on behind it.
    pub(super) fn take_held(&mut self, desk: &mut Desk) {
        if !self.is_working() {
            return;
        }
        let room = self.session.has_half_room(&self.node.limits);
        let Some(mut held) = self.held.take_if(|held| room && desk.now.mono_ms >= held.until_ms) else { return };
        if std::mem::take(&mut held.until_ms) != 0
            && let Some(reply) = self.session.rate(None)
        {
            self.put(&reply, desk);
        }
        if let Some((frame, next)) = held.frame.take()
            && let Some(stopped) = self.frame(&frame, next, desk)
        {
            held.frame = Some((frame, stopped.next));
            held.until_ms = stopped.until_ms;
            self.held = Some(held);
            return;
        }
        if !self.is_closing() {
            self.decode(&mut held.rest, desk);
        }
    }

    /// Returns whether there may be more to read.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], desk: &mut Desk) -> bool {
        for _ in 0..READS_A_TURN {
            if !self.is_reading() {
                return false;
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.session.heard(desk.now);
                    let filled = buffer.filled().len();
                    if let Some(bytes) = scratch.get_mut(..filled) {
                        self.decode(bytes, desk);
                    }
                }
                Poll::Ready(Ok(())) => {
                    self.finish(End::Device(1006), "the stream ended without a close frame", 0, desk);
                    return false;
                }
                Poll::Ready(Err(_)) => {
                    self.finish(End::Lost, "the transport broke", 0, desk);
                    return false;
                }
            }
        }
        true
    }

    /// Decodes `input` up to its end, or to where something has to wait: the rest is then held.
    fn decode(&mut self, mut input: &mut [u8], desk: &mut Desk) {
        let limits = &self.node.limits;
        let config = DecoderConfig {
            message_bytes: limits.message_bytes,
            fragments: limits.fragments,
            deflate: self.wire.deflate.is_some(),
        };
        // The decoder lends what it holds to its event: apart from the connection while one is looked at.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new());
        while !self.is_closing() {
            if let Some(held) = &mut self.held {
                held.rest.extend_from_slice(input);
                // Nothing to read, so this only takes back what the last event was lent.
                input = &mut [];
            }
            match decoder.decode(&config, input, desk.now.mono_ms) {
                Ok((consumed, Some(event))) => {
                    self.event(event, desk);
                    input = input.get_mut(consumed..).unwrap_or_default();
                }
                Ok((_, None)) => break,
                Err(violation) => self.close_because(violation.close, violation.what, desk),
            }
        }
        if !self.is_closing() {
            self.decoder = decoder;
        }
    }

    fn event(&mut self, event: Event<'_>, desk: &mut Desk) {
        match event {
            Event::Message { text, payload } if text == self.wire.encoding.is_text() => {
                if payload.is_empty() {
                    self.control(desk);
                }
                if !self.is_closing()
                    && let Some(Stopped { next, until_ms }) = self.frame(payload, 0, desk)
                {
                    let frame = Some((payload.into(), next));
                    self.held = Some(Box::new(Held { frame, until_ms, rest: Vec::new() }));
                }
            }
            Event::Message { .. } => self.close(CloseReason::UnsupportedData, desk),
            Event::Ping(payload) => {
                desk.tally.received(ReceivedType::WsPing, payload.len());
                if desk.tally.sent_of(SentType::WsPong) < PONGS_A_TURN {
                    self.put_control(SentType::WsPong, payload, desk);
                }
                self.control(desk);
            }
            Event::Pong(payload) => {
                desk.tally.received(ReceivedType::WsPong, payload.len());
                if let Some(rtt_ms) = self.session.pong(desk.now) {
                    self.node.metrics.ping_rtt.observe(rtt_ms as f64 / 1_000.0);
                }
                self.place.mailbox().answered();
                self.control(desk);
            }
            Event::Close(reason) => {
                let length = reason.map_or(0, |(_, text)| 2 + text.len());
                desk.tally.received(ReceivedType::WsClose, length);
                let (code, answer) = match reason {
                    Some((code, _)) => (code, code),
                    None => (1005, CloseReason::Normal.code()),
                };
                desk.tally.sent(SentType::WsClose, 2);
                encoder::close(&mut desk.out, answer, "");
                self.finish(End::Device(code), "the peer closed", super::outgoing::LINGER_MS, desk);
            }
        }
    }

    fn control(&mut self, desk: &mut Desk) {
        if let Some(reason) = self.session.control_frame(&self.node.limits, desk.now) {
            self.close_because(reason, "a flood of control frames", desk);
        }
    }

    /// Handles a frame's messages from `skip` on, to the last or to the first that finds no room.
    fn frame(&mut self, frame: &[u8], skip: usize, desk: &mut Desk) -> Option<Stopped> {
        let limits =
            CodecLimits { message_bytes: self.node.limits.message_bytes, batch_items: self.node.limits.batch_items };
        let mut stopped = None;
        let traced = self.is_traced();
        read_frame(self.wire.encoding, frame, limits, skip, &mut |place, item| {
            let kind = witness::received_type(&item);
            let span = match &item {
                Ok(DeviceMessage::Report(report)) => spans::begin(&self.node, &self.place, report, traced),
                _ => None,
            };
            let context = span.as_ref().map(Span::context);
            if traced {
                traces::enter(context, || witness::traced_message(&self.place, kind, &item, frame.len()));
            }
            match self.session.message(item, &self.place.key, &self.node.limits, desk.now) {
                Step::Append(report) => match self.append(&report, span, desk) {
                    Ok(()) => {}
                    Err(until_ms) => stopped = Some(Stopped { next: place, until_ms }),
                },
                step => {
                    traces::enter(context, || self.act(step, desk));
                    if let Some(mut span) = span {
                        span.fail("refused");
                    }
                }
            }
            if stopped.is_none() {
                // A frame's bytes count with its first message, so that they count once.
                desk.tally.received(kind, if place == 0 { frame.len() } else { 0 });
            }
            stopped.is_none() && !self.is_closing()
        });
        stopped
    }

    /// Gives an update to the log. `Err`: it found no room, and not before this moment will it (0: something settled may
    /// make some).
    fn append(&mut self, report: &Report<'_>, span: Option<Span>, desk: &mut Desk) -> Result<(), u64> {
        let done = self.append_within(report, span.as_ref().map(|span| span.context().text()), desk);
        match (span, done) {
            (Some(span), Ok(number)) => self.node.spans.keep(self.place.mailbox(), number, span),
            // It comes again.
            (Some(span), Err(_)) => span.discard(),
            (None, _) => {}
        }
        done.map(drop)
    }

    /// Gives its number in the window.
    fn append_within(&mut self, report: &Report<'_>, own: Option<TraceText>, desk: &mut Desk) -> Result<u32, u64> {
        let bytes = report.json.len();
        match self.session.room(bytes, &self.node.limits, desk.now) {
            Room::Yes => {}
            Room::Full => return Err(0),
            Room::After(ms) => {
                if let Some(reply) = self.session.rate(Some(ms)) {
                    self.put(&reply, desk);
                }
                return Err(desk.now.mono_ms + ms);
            }
        }
        let number = self.session.window().next();
        let brought = report.traceparent.as_deref().filter(|_| self.node.trust_traceparent);
        let record = Record {
            topic: match report.kind {
                ReportKind::Update => Topic::Telemetry,
                ReportKind::Status => Topic::Status,
            },
            key: &self.place.key,
            boot: self.place.boot(),
            seq: report.seq,
            timestamp_ms: report.timestamp_ms,
            received_ms: desk.now.unix_ms,
            epoch: self.place.epoch(),
            kind: Kind::Report,
            traceparent: own
                .as_ref()
                .map(TraceText::as_str)
                .or(brought.filter(|text| TraceContext::parse(text).is_some())),
            value: &report.json,
        };
        if !self.place.seat.append(number, &record, &*self.node.log) {
            return Err(0);
        }
        self.session.taken(report.seq, bytes, &self.node.limits, desk.now);
        Ok(number)
    }

    /// Does what the session asks for, but for appending.
    pub(super) fn act(&mut self, step: Step<'_>, desk: &mut Desk) {
        match step {
            Step::Append(_) => {}
            Step::Order(command) => self.order(command, desk),
            Step::Reply(reply) => self.put(&reply, desk),
            Step::Refuse { message, line } => self.refuse(&message, line, desk),
            Step::Last(message, reason) => {
                self.refuse(&message, true, desk);
                self.close(reason, desk);
            }
            Step::Close(reason) => self.close(reason, desk),
            Step::Guess { line } => witness::guessed(&self.node, &self.place, line, true, desk.now),
            Step::Answer(ack) => self.answer(&ack, desk),
            Step::Verify { token, id } => self.verify(token.into_owned(), id, desk),
        }
    }

    fn refuse(&mut self, message: &GatewayMessage<'_>, line: bool, desk: &mut Desk) {
        if let GatewayMessage::Refused { code, seq, .. } = message {
            witness::refused(&self.node, &self.place, *code, *seq, line, desk.now);
        }
        self.put(message, desk);
    }

    /// Begins to verify a token; a later turn takes the verdict.
    fn verify(&mut self, token: String, id: Option<Cow<'_, str>>, desk: &Desk) {
        let (auth, unix_ms) = (self.node.auth.clone(), desk.now.unix_ms);
        let verdict = Box::pin(async move {
            match auth {
                Some(auth) => auth.verify(&token, unix_ms).await,
                None => Err(AuthError::KeysUnavailable { retry_after_s: 60 }),
            }
        });
        self.verifying = Some(Box::new((id.map(Cow::into_owned), verdict)));
        self.place.mailbox().wake();
    }
}
