//! The turns of one connection: what it is made of, and what the node and time ask of it.
//!
//! What a connection holds is in [`Pump`], and its size is asserted below: a quiet one holds no buffer. What a turn needs
//! is on the thread's [`Desk`].

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::berth::{self, Comer, Greeting};
use super::departure::Departure;
use super::witness::{self, End};
use super::{Entry, Node, TICK_MS, Transport};
use crate::auth::{AuthError, Identity, KeyRef, Verified};
use crate::eventlog::Flow;
use crate::id::{Boot, DeviceKey, Epoch, SessionId};
use crate::mailbox::{Mailbox, Signal};
use crate::protocol::Encoding;
use crate::protocol::close::CloseReason;
use crate::protocol::message::{GatewayMessage, PauseReason, Welcome};
use crate::receipts::Seat;
use crate::revocations::Denial;
use crate::session::Now;
use crate::session::device::{Due, Session, Verdict};
use crate::socket::decoder::Decoder;
use crate::socket::deflate::Negotiated;
use crate::telemetry::metrics::{ConnectionState, PeerKind, SentType, ShedReason, Tally};

/// What is read at once, and what the thread's buffers shrink to.
pub(super) const SCRATCH_BYTES: usize = 32 * 1024;

/// What a turn works with and leaves behind empty: one a thread.
pub(super) struct Desk {
    pub(super) now: Now,
    /// Frames to be written at the end of the turn.
    pub(super) out: Vec<u8>,
    /// Room to write one message in.
    pub(super) message: Vec<u8>,
    pub(super) tally: Tally,
}

struct Scratch {
    read: Box<[u8]>,
    desk: Desk,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        desk: Desk {
            now: Now::default(),
            out: Vec::with_capacity(SCRATCH_BYTES),
            message: Vec::with_capacity(1_024),
            tally: Tally::new(),
        },
    });
}

/// Where the connection stands in the node.
pub(super) struct Place {
    pub(super) seat: Seat,
    pub(super) key: DeviceKey,
    pub(super) signed_by: Option<KeyRef>,
}

impl Place {
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        self.seat.mailbox()
    }

    pub(super) fn id(&self) -> SessionId {
        self.mailbox().session()
    }

    pub(super) fn boot(&self) -> &Boot {
        self.mailbox().boot()
    }

    /// Its epoch in the roster; 0 of an application, which is in no roster since nobody takes its place.
    pub(super) fn epoch(&self) -> Epoch {
        self.mailbox().epoch()
    }
}

/// What was agreed about bytes.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    pub(super) encoding: Encoding,
    pub(super) deflate: Option<Negotiated>,
    pub(super) close_drop: bool,
}

/// What was received and could not be taken yet.
#[derive(Default)]
pub(super) struct Held {
    /// A frame whose messages found no room from this place on.
    pub(super) frame: Option<(Box<[u8]>, usize)>,
    /// When it is worth another try though nothing was settled: above its rate. 0: at once.
    pub(super) until_ms: u64,
    /// Bytes behind it, not decoded.
    pub(super) rest: Vec<u8>,
}

/// What the socket has not taken yet.
pub(super) struct Unsent {
    pub(super) bytes: Vec<u8>,
    /// How many of them are gone.
    pub(super) sent: usize,
    /// When the socket last took something.
    pub(super) since_ms: u64,
}

type Verifying = Pin<Box<dyn Future<Output = Result<Verified, AuthError>> + Send>>;

/// How far a connection is. Moments are ticks of [`TICK_MS`].
pub(super) enum State {
    /// Nobody was greeted yet.
    New(Box<Greeting>),
    Open,
    /// Works on, told to be gone by this moment.
    Leaving {
        until: u32,
        reason: CloseReason,
    },
    /// Reads no more; closes when all is settled, and at this moment anyway.
    Stopping {
        until: u32,
        reason: CloseReason,
    },
    /// The last frame is written or on its way; waits for the peer's end.
    Closing {
        end: End,
        until: u32,
        sent: bool,
        /// Reads that are still made to get at the peer's end.
        reads: u16,
    },
}

/// One connection.
pub(super) struct Pump<S> {
    pub(super) stream: S,
    pub(super) node: Arc<Node>,
    pub(super) session: Session,
    pub(super) place: Place,
    pub(super) decoder: Decoder,
    pub(super) held: Option<Box<Held>>,
    pub(super) unsent: Option<Box<Unsent>>,
    pub(super) verifying: Option<Box<(Option<String>, Verifying)>>,
    pub(super) wire: Wire,
    /// Bytes of the above that are counted as parked with the node.
    counted: u32,
    /// The tick it began at.
    pub(super) since: u32,
    pub(super) state: State,
}

pub(super) const fn tick(mono_ms: u64) -> u32 {
    (mono_ms / TICK_MS) as u32
}

impl<S: Transport> Pump<S> {
    /// Takes a connection's place in the node; [`Pump::drop`] gives it back.
    pub(super) fn enter(stream: S, entry: Entry, node: Arc<Node>) -> Self {
        let now = node.now();
        let heartbeat_s = u32::try_from(entry.heartbeat_s).unwrap_or(u32::MAX / 1_000);
        let max_bytes = entry.max_bytes;
        let comer =
            Comer { kind: entry.kind, key: &entry.key, boot: entry.boot, tenure: entry.tenure, heartbeat_s, max_bytes };
        let (mailbox, greeting) = berth::enter(&node, comer, now);
        let seat = node.receipts.seat(entry.key.tenant(), mailbox);
        if let Some(app) = entry.app {
            node.apps.enter(seat.mailbox().session(), *app);
        }
        let place = Place { seat, key: entry.key, signed_by: entry.signed_by };
        witness::connected(&place);
        node.metrics.connections.of(ConnectionState::Open, entry.kind).inc();
        let leeway_ms = node.auth.as_ref().map_or(0, |auth| auth.leeway_ms());
        // Not everybody who came back at once is to be pinged at once.
        let heartbeat_ms = heartbeat_s.saturating_mul(1_000);
        let heartbeat_ms = heartbeat_ms - fastrand::u32(0..=heartbeat_ms / 10);
        let early = entry.early;
        Self {
            stream,
            session: Session::new(entry.kind, heartbeat_ms, entry.token_expires_ms, leeway_ms, now),
            place,
            decoder: Decoder::new(),
            held: (!early.is_empty()).then(|| Box::new(Held { rest: early, ..Held::default() })),
            unsent: None,
            verifying: None,
            wire: Wire { encoding: entry.encoding, deflate: entry.deflate, close_drop: entry.close_drop },
            counted: 0,
            since: tick(now.mono_ms),
            state: State::New(Box::new(greeting)),
            node,
        }
    }

    /// The handshake is over: what it went through since then, as a span.
    pub(super) fn shook_hands(&self, accepted: std::time::Instant) {
        witness::shook_hands(&self.node, &self.place, self.session.kind(), self.wire.encoding, accepted);
    }

    /// One turn: takes what the node left, what time brings and what the peer sent, and writes once.
    fn turn(&mut self, cx: &mut Context<'_>, read: &mut [u8], desk: &mut Desk) -> Poll<End> {
        self.place.mailbox().register(cx.waker());
        let again = if self.is_closing() { false } else { self.work(cx, read, desk) };
        if let Err((end, why)) = self.write(cx, desk) {
            self.finish(end, why, 0, desk);
        }
        if let Poll::Ready(end) = self.linger(cx, read, desk) {
            return Poll::Ready(end);
        }
        if again {
            cx.waker().wake_by_ref();
        }
        self.set_due(desk.now);
        Poll::Pending
    }

    /// Returns whether there may be more to read.
    fn work(&mut self, cx: &mut Context<'_>, read: &mut [u8], desk: &mut Desk) -> bool {
        if matches!(self.state, State::New(_))
            && let State::New(greeting) = std::mem::replace(&mut self.state, State::Open)
        {
            self.greet(&greeting, desk);
        }
        let ticked = self.take_mail(desk);
        self.take_verdict(cx, desk);
        self.take_time(ticked, desk);
        self.take_held(desk);
        let again = self.read(cx, read, desk);
        if !self.count_held() {
            self.close(CloseReason::Overloaded, desk);
        }
        if let State::Stopping { until, reason } = self.state
            && (self.session.window().is_empty() || tick(desk.now.mono_ms) >= until)
        {
            self.close(reason, desk);
        }
        again
    }

    /// The greeting, and behind it what the node told its connections before this one was there.
    fn greet(&mut self, greeting: &Greeting, desk: &mut Desk) {
        let limits = &self.node.limits;
        let is_device = self.session.kind() == PeerKind::Device;
        let session = self.place.id().to_string();
        let welcome = Welcome {
            message: "welcome to Tidegate",
            device_id: self.place.key.device(),
            session: &session,
            epoch: self.place.epoch().0,
            heartbeat_s: u64::from(greeting.heartbeat_s),
            max_message_bytes: limits.message_bytes as u64,
            window: if is_device { limits.window_messages as u64 } else { 0 },
            server_time: desk.now.unix_ms,
            token_expires_at: self.session.token_expires_at(),
            resume_after: greeting.resume_after,
            registered: greeting.registered,
        };
        self.put(&GatewayMessage::Welcome(welcome), desk);
        self.tell_flow(desk);
        if greeting.commands_wait
            && let Some(courier) = &self.node.courier
        {
            courier.ring(&self.place.key, self.place.mailbox());
        }
        // What came between the door and the place in the roster was told to nobody.
        self.look_at_rights(desk);
        if self.node.is_stopping() {
            self.begin_stop(desk);
        }
        self.leave_with_the_others(desk);
    }

    // ---- what the node left -------------------------------------------------------------------------------------

    /// Returns whether the sweeper came by.
    fn take_mail(&mut self, desk: &mut Desk) -> bool {
        let settled = self.place.mailbox().take_settled();
        if settled.ended != 0 {
            let traced = self.is_traced();
            let (wire, node, place) = (self.wire, &self.node, &self.place);
            self.session.settled(settled, |reply| {
                if let GatewayMessage::Refused { code, seq, .. } = reply {
                    witness::refused(node, place, code, seq, true, desk.now);
                }
                wire.put(node, &reply, desk);
                if traced {
                    witness::traced_answer(place, &reply, desk.message.len());
                }
            });
            if self.place.mailbox().is_sampled() {
                self.node.spans.settle(self.place.mailbox(), settled);
            }
        }
        let signals = self.place.mailbox().take_signals();
        if signals.has(Signal::Leave) {
            self.leave_with_the_others(desk);
        }
        if signals.has(Signal::Move) {
            self.begin_leave(Departure::alone(CloseReason::Moved), ShedReason::Rebalance, desk);
        }
        if signals.has(Signal::Flow) {
            self.tell_flow(desk);
        }
        if signals.has(Signal::Keys) {
            self.look_at_rights(desk);
        }
        if signals.has(Signal::Prove) {
            self.put_control(SentType::WsPing, &[], desk);
        }
        if signals.has(Signal::Letter) {
            self.take_letters(desk);
        }
        if signals.has(Signal::Demand) {
            self.put_control(SentType::WsPing, &[], desk);
            self.session.demand(desk.now);
        }
        if signals.has(Signal::Guess) {
            let step = self.session.guess(&self.node.limits, desk.now);
            self.act_on_guess(step, desk);
        }
        if signals.has(Signal::Stop) {
            self.begin_stop(desk);
        }
        signals.has(Signal::Tick)
    }

    /// Ends where it may not be here any more.
    fn look_at_rights(&mut self, desk: &mut Desk) {
        let signed_by = self.place.signed_by.as_ref();
        let is_device = self.session.kind() == PeerKind::Device;
        match self.node.revocations.denial(&self.place.key, is_device, signed_by) {
            Some(Denial::Blocked) => self.close(CloseReason::Blocked, desk),
            Some(Denial::Revoked) => self.close(CloseReason::TokenRevoked, desk),
            None if signed_by.is_some_and(KeyRef::is_revoked) => self.close(CloseReason::TokenRevoked, desk),
            None => {}
        }
    }

    fn tell_flow(&mut self, desk: &mut Desk) {
        if let Some(reply) = self.session.flow(self.node.flow() == Flow::Paused, None) {
            self.put(&reply, desk);
        }
    }

    fn take_verdict(&mut self, cx: &mut Context<'_>, desk: &mut Desk) {
        let Some(verifying) = &mut self.verifying else { return };
        let Poll::Ready(verdict) = verifying.1.as_mut().poll(cx) else { return };
        let id = verifying.0.take();
        self.verifying = None;
        let verdict = match verdict {
            Ok(verified) if self.is_same(&verified.identity) => {
                self.place.signed_by = Some(verified.key);
                if let Identity::App(app) = verified.identity {
                    self.node.apps.enter(self.place.id(), app);
                }
                Verdict::Good { expires_at_ms: verified.expires_at_ms }
            }
            Ok(_) => Verdict::Foreign,
            // Its own block it learns by its mailbox; this may be another's token.
            Err(AuthError::Unauthorized(_) | AuthError::Blocked) => Verdict::Bad,
            Err(AuthError::KeysUnavailable { retry_after_s }) => Verdict::Unknown { retry_after_s },
        };
        let step = self.session.verified(id.map(Cow::Owned), verdict, &self.node.limits, desk.now);
        self.act(step, desk);
    }

    fn is_same(&self, identity: &Identity) -> bool {
        let kind = match identity {
            Identity::Device(_) => PeerKind::Device,
            Identity::App(_) => PeerKind::App,
        };
        kind == self.session.kind() && *identity.key() == self.place.key
    }

    fn take_time(&mut self, ticked: bool, desk: &mut Desk) {
        let now = desk.now;
        if let State::Leaving { until, reason } = self.state
            && tick(now.mono_ms) >= until
        {
            self.read_no_more(reason, desk);
        }
        self.look_at_age(desk);
        if !self.is_reading() {
            self.session.not_reading(now);
            self.decoder.not_reading(now.mono_ms);
            if ticked && let Some(error) = self.stream.broken() {
                tracing::debug!(session = %self.place.id(), %error, "the peer of a connection that was not read is gone");
                return self.finish(End::Lost, "the transport broke while it was not read", 0, desk);
            }
        }
        let assembly = self.node.limits.assembly_timeout_ms;
        if self.decoder.assembling_since().is_some_and(|since| now.mono_ms.saturating_sub(since) > assembly) {
            return self.close_because(CloseReason::PolicyViolation, "a message took too long to arrive", desk);
        }
        // The sweeper comes twice a second: rather half a second early than late.
        let patience = self.node.limits.slow_reader_timeout_ms.saturating_sub(TICK_MS);
        if self.unsent.as_ref().is_some_and(|unsent| now.mono_ms.saturating_sub(unsent.since_ms) >= patience) {
            return self.close(CloseReason::SlowConsumer, desk);
        }
        while let Some(due) = self.session.due(now) {
            match due {
                Due::Ping => self.put_control(SentType::WsPing, &[], desk),
                Due::Send(reply) => self.put(&reply, desk),
                Due::Close(reason) => return self.close(reason, desk),
            }
        }
    }

    fn set_due(&self, now: Now) {
        let due = match self.state {
            State::Closing { until, .. } => until,
            _ => {
                let mut due_ms = self.session.due_ms(now);
                if let Some(since) = self.decoder.assembling_since() {
                    due_ms = due_ms.min(since + self.node.limits.assembly_timeout_ms + 1);
                }
                if !self.is_reading() {
                    due_ms = due_ms.min(now.mono_ms + TICK_MS);
                }
                if let State::Leaving { until, .. } = self.state {
                    due_ms = due_ms.min(u64::from(until) * TICK_MS);
                }
                if let Some(look_ms) = self.look_at_age_ms(now) {
                    due_ms = due_ms.min(look_ms);
                }
                u32::try_from(due_ms.div_ceil(TICK_MS)).unwrap_or(u32::MAX - 1)
            }
        };
        self.place.mailbox().set_due(due);
    }

    /// Counts with the node what is held here: unfinished messages, what found no room, what waits to be written.
    /// `false`: it became more, and the node holds too much.
    fn count_held(&mut self) -> bool {
        let held = self
            .held
            .as_ref()
            .map_or(0, |held| held.rest.capacity() + held.frame.as_ref().map_or(0, |(frame, _)| frame.len()));
        let unsent = self.unsent.as_ref().map_or(0, |unsent| unsent.bytes.capacity());
        // Commands wait in the mailbox while the socket takes nothing.
        let orders = if self.unsent.is_some() { self.place.mailbox().waiting_orders().1 } else { 0 };
        let holds = u32::try_from(self.decoder.held_bytes() + held + unsent + orders).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut self.counted, holds);
        if holds > before {
            return self.place.seat.park((holds - before) as usize);
        }
        if holds < before {
            self.place.seat.unpark((before - holds) as usize);
        }
        true
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    /// Whether messages are taken.
    pub(super) fn is_working(&self) -> bool {
        matches!(self.state, State::Open | State::Leaving { .. })
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// Enters the connection's end into the books and stops everything but writing what is left, for at most
    /// `linger_ms`. The first end stands.
    pub(super) fn finish(&mut self, end: End, why: &'static str, linger_ms: u64, desk: &Desk) {
        if self.is_closing() {
            return;
        }
        let (kind, now) = (self.session.kind(), desk.now);
        self.node.metrics.connections.of(ConnectionState::Open, kind).dec();
        self.node.metrics.connections.of(ConnectionState::Closing, kind).inc();
        self.count_gone();
        witness::ended(&self.node, &self.place, end, why, self.lived_s(now), now);
        self.decoder = Decoder::new();
        self.held = None;
        self.verifying = None;
        self.count_held();
        let until = tick(now.mono_ms + linger_ms);
        self.state = State::Closing { end, until, sent: false, reads: super::outgoing::LINGER_READS };
    }
}

impl<S> Pump<S> {
    fn lived_s(&self, now: Now) -> u64 {
        u64::from(tick(now.mono_ms).saturating_sub(self.since)) * TICK_MS / 1_000
    }
}

impl<S: Transport> Future for Pump<S> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let pump = self.get_mut();
        SCRATCH.with_borrow_mut(|Scratch { read, desk }| {
            desk.now = pump.node.now();
            let done = pump.turn(cx, read, desk);
            desk.tally.flush(&pump.node.metrics);
            desk.out.clear();
            desk.out.shrink_to(SCRATCH_BYTES);
            desk.message.shrink_to(SCRATCH_BYTES);
            done
        })
    }
}

/// Whatever ends a connection, also a runtime that drops its tasks, every gauge comes back.
impl<S> Drop for Pump<S> {
    fn drop(&mut self) {
        self.place.seat.unpark(self.counted as usize);
        self.count_gone();
        if self.place.mailbox().is_sampled() {
            self.node.spans.left(self.place.mailbox());
        }
        let (metrics, kind) = (&self.node.metrics, self.session.kind());
        let (state, end) = match self.state {
            State::Closing { end, .. } => (ConnectionState::Closing, end),
            _ => (ConnectionState::Open, End::Lost),
        };
        if kind == PeerKind::Device {
            berth::leave(&self.node, &self.place, self.session.window().acked(), end);
        } else {
            self.node.apps.leave(self.place.id());
        }
        metrics.connections.of(state, kind).dec();
        for reason in [PauseReason::Log, PauseReason::Rate] {
            if self.session.is_paused(reason) {
                metrics.paused_connections.of(witness::paused_code(reason)).dec();
            }
        }
        let reason = crate::telemetry::metrics::DisconnectReason::from_code(end.code());
        metrics.disconnects.of(end.initiator(), reason).inc();
        metrics.connection_lifetime.observe(self.lived_s(self.node.now()) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::listener::Stream;

    /// What an idle device connection costs beside its future, on this machine's tokio: the future's task is the future
    /// and about 96 bytes of tokio's, rounded up to 128 (so 280 is where the next 128 would begin); its socket's
    /// registration with the runtime 256; its mailbox 96; its key about 48 and its boot 16 to 64; a row of the roster
    /// and a slot of the receipts together about 130. In all a little below a kilobyte.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let parts = [
            ("stream", size_of::<Stream>()),
            ("session", size_of::<Session>()),
            ("place", size_of::<Place>()),
            ("wire", size_of::<Wire>()),
            ("state", size_of::<State>()),
        ];
        let whole = size_of::<Pump<Stream>>();
        println!("{whole} bytes: {parts:?}");
        assert!(whole <= 280, "{whole} bytes: {parts:?}");
    }
}
