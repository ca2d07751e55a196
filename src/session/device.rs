//! A session: what each message, report and moment means, and what is to be done about it. A device's; an application's
//! is the same without updates.

use std::borrow::Cow;

use super::Now;
use super::heartbeat::{Beat, Heartbeat};
use super::rate::{Bucket, Counter};
use super::window::Window;
use crate::id::{CommandId, DeviceKey};
use crate::limits::Limits;
use crate::mailbox::Settled;
use crate::protocol::close::CloseReason;
use crate::protocol::message::{
    AppCommand, CommandAck, DeviceMessage, GatewayMessage, PauseReason, Refusal, RefusalCode, Report,
};
use crate::telemetry::metrics::PeerKind;

/// How long before a token's end its device is told.
const AUTH_DUE_BEFORE_MS: i64 = 60_000;
const MINUTE_MS: u64 = 60_000;
const SECOND_MS: u64 = 1_000;

/// What is to be done about one message.
#[derive(Debug, PartialEq)]
pub enum Step<'a> {
    /// Append it to the log, then say [`Session::taken`].
    Append(Report<'a>),
    /// Send this.
    Reply(GatewayMessage<'a>),
    /// Send this refusal.
    Refuse {
        /// It.
        message: GatewayMessage<'a>,
        /// Whether the log gets a line: not where a peer could write it full.
        line: bool,
    },
    /// Verify the token, then say [`Session::verified`].
    Verify {
        /// The token.
        token: Cow<'a, str>,
        /// The message's id.
        id: Option<Cow<'a, str>>,
    },
    /// Hand this over to whoever takes commands.
    Order(AppCommand<'a>),
    /// Hand this over to whoever brings commands; the id is a command's.
    Answer(CommandAck<'a>),
    /// Send this refusal, then end.
    Last(GatewayMessage<'a>, CloseReason),
    /// End.
    Close(CloseReason),
    /// Change nothing: an answer to a command that was never sent. Somebody guesses.
    Guess {
        /// Whether the log gets a line.
        line: bool,
    },
}

/// What is to be done because time has passed.
#[derive(Debug, PartialEq)]
pub enum Due {
    /// Send a WebSocket ping.
    Ping,
    /// Send this.
    Send(GatewayMessage<'static>),
    /// End.
    Close(CloseReason),
}

/// Whether the next update may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Yes,
    /// Not before something is settled.
    Full,
    /// Not before this many milliseconds: the device is above its rate.
    After(u64),
}

/// What became of a token that came by `auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is good, and for this identity.
    Good {
        /// Its `exp`, Unix milliseconds.
        expires_at_ms: i64,
    },
    /// It is good, and somebody else's.
    Foreign,
    /// It is not good.
    Bad,
    /// Nobody can say just now: the keys cannot be read.
    Unknown {
        /// When it is worth asking again.
        retry_after_s: u64,
    },
}

/// What most sessions never need.
#[derive(Debug, Default)]
struct Rare {
    faults: Counter,
    guesses: Counter,
    auths: Counter,
    /// A token is being verified.
    verifying: bool,
}

/// One session, from `welcome` to its close.
#[derive(Debug)]
pub struct Session {
    window: Window,
    rate: Bucket,
    /// `exp` of the token, Unix milliseconds; `i64::MAX` without one.
    token_expires_ms: i64,
    heartbeat: Heartbeat,
    control: Counter,
    rare: Option<Box<Rare>>,
    /// How long after its `exp` a token is honoured.
    leeway_ms: u32,
    kind: PeerKind,
    auth_due_sent: bool,
    log_paused: bool,
    rate_paused: bool,
}

impl Session {
    /// A session that begins at `now`, of a peer whose token expires at `token_expires_ms` (none: `None`) and is
    /// honoured `leeway_ms` longer.
    pub fn new(kind: PeerKind, heartbeat_ms: u32, token_expires_ms: Option<i64>, leeway_ms: i64, now: Now) -> Self {
        Self {
            window: Window::default(),
            rate: Bucket::full(now.mono_ms),
            token_expires_ms: token_expires_ms.unwrap_or(i64::MAX),
            heartbeat: Heartbeat::new(heartbeat_ms, now),
            control: Counter::default(),
            rare: None,
            leeway_ms: u32::try_from(leeway_ms.max(0)).unwrap_or(u32::MAX),
            kind,
            auth_due_sent: false,
            log_paused: false,
            rate_paused: false,
        }
    }

    /// Whether it is a device's or an application's.
    pub const fn kind(&self) -> PeerKind {
        self.kind
    }

    /// When its token expires, Unix milliseconds; nothing without one.
    pub fn token_expires_at(&self) -> Option<i64> {
        (self.token_expires_ms != i64::MAX).then_some(self.token_expires_ms)
    }

    /// What was taken and is not settled.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Something arrived.
    pub fn heard(&mut self, now: Now) {
        self.heartbeat.heard(now);
    }

    /// A pong arrived. Returns the round trip in milliseconds where a ping was waiting for it.
    pub fn pong(&mut self, now: Now) -> Option<u64> {
        self.heartbeat.pong(now)
    }

    /// Commands were written and nothing was heard of them: without a sign of life the peer is gone in 10 s. A ping has
    /// to go out with this.
    pub fn demand(&mut self, now: Now) {
        self.heartbeat.demand(now);
    }

    /// The socket is not being read now, so silence says nothing.
    pub fn not_reading(&mut self, now: Now) {
        self.heartbeat.not_reading(now);
    }

    /// A ping, a pong or an empty message. Returns the end of a peer that floods.
    pub fn control_frame(&mut self, limits: &Limits, now: Now) -> Option<CloseReason> {
        let fine = self.control.count(now.mono_ms, SECOND_MS, limits.control_frames_per_s);
        (!fine).then_some(CloseReason::PolicyViolation)
    }

    /// Whether an update of `bytes` may be taken now. Asking changes nothing.
    pub fn room(&self, bytes: usize, limits: &Limits, now: Now) -> Room {
        if !self.window.fits(bytes, limits.window_messages, limits.window_bytes) {
            return Room::Full;
        }
        match self.rate.wait_ms(limits.messages_per_s, now.mono_ms) {
            0 => Room::Yes,
            ms => Room::After(ms),
        }
    }

    /// Whether it is worth looking again at what found no room: a large batch is read anew each time, so not for every
    /// single place in the window that becomes free.
    pub fn has_half_room(&self, limits: &Limits) -> bool {
        self.window.is_empty()
            || (self.window.len() <= limits.window_messages / 2 && self.window.bytes() <= limits.window_bytes / 2)
    }

    /// What one message of the peer `key`, or what could not be read as one, asks for.
    pub fn message<'a>(
        &mut self,
        item: Result<DeviceMessage<'a>, Refusal>,
        key: &DeviceKey,
        limits: &Limits,
        now: Now,
    ) -> Step<'a> {
        match item {
            Ok(DeviceMessage::Ping { id }) => match self.control_frame(limits, now) {
                Some(reason) => Step::Close(reason),
                None => Step::Reply(GatewayMessage::Pong { id, server_time: now.unix_ms }),
            },
            Ok(DeviceMessage::Auth { token, id }) => self.auth(token, id, limits, now),
            Ok(DeviceMessage::Command(command)) if self.kind == PeerKind::App => Step::Order(command),
            Ok(DeviceMessage::Command(command)) => {
                self.refuse(Refusal { id: Some(command.key.into_owned()), ..not_for_devices() }, limits, now)
            }
            Ok(_) if self.kind == PeerKind::App => self.refuse(not_for_applications(), limits, now),
            Ok(DeviceMessage::Report(report)) if is_of(&report, key) => Step::Append(report),
            Ok(DeviceMessage::Report(report)) => self.refuse(foreign(report.seq), limits, now),
            Ok(DeviceMessage::CommandAck(ack)) if CommandId::parse(&ack.id).is_ok() => Step::Answer(ack),
            Ok(DeviceMessage::CommandAck(_)) => self.guess(limits, now),
            Err(refusal) if self.kind == PeerKind::App && refusal.code == RefusalCode::UnknownType => {
                self.refuse(Refusal { id: refusal.id, ..not_for_applications() }, limits, now)
            }
            Err(refusal) => self.refuse(refusal, limits, now),
        }
    }

    fn auth<'a>(&mut self, token: Cow<'a, str>, id: Option<Cow<'a, str>>, limits: &Limits, now: Now) -> Step<'a> {
        let rare = self.rare.get_or_insert_default();
        if rare.auths.count(now.mono_ms, SECOND_MS, 1) && !rare.verifying {
            rare.verifying = true;
            return Step::Verify { token, id };
        }
        let message = "auth: at most once a second, and not before the last one is answered".into();
        self.refuse(Refusal { code: RefusalCode::Rate, message, seq: None, id: id.map(Cow::into_owned) }, limits, now)
    }

    /// An answer to a command nobody sent: not worth an answer, and counted with what may not come in floods.
    pub fn guess<'a>(&mut self, limits: &Limits, now: Now) -> Step<'a> {
        if let Some(reason) = self.control_frame(limits, now) {
            return Step::Close(reason);
        }
        let line = self.rare.get_or_insert_default().guesses.count(now.mono_ms, MINUTE_MS, 1);
        Step::Guess { line }
    }

    /// Refuses a message for good; its sender's own faults are counted.
    pub fn refuse<'a>(&mut self, refusal: Refusal, limits: &Limits, now: Now) -> Step<'a> {
        let rare = self.rare.get_or_insert_default();
        // What is asked for too often is answered and costs little; the rest is the sender's own fault.
        let later = [RefusalCode::Rate, RefusalCode::NotConnected, RefusalCode::Unavailable];
        let own_fault = !later.contains(&refusal.code);
        let fine = !own_fault || rare.faults.count(now.mono_ms, MINUTE_MS, limits.faults_per_minute.saturating_sub(1));
        let line = own_fault || rare.auths.is_first_above(1);
        let message = GatewayMessage::Refused {
            seq: refusal.seq,
            id: refusal.id.map(Cow::Owned),
            code: refusal.code,
            message: refusal.message,
        };
        if fine { Step::Refuse { message, line } } else { Step::Last(message, CloseReason::PolicyViolation) }
    }

    /// The log took the update; its number is [`Window::next`] as it was before.
    pub fn taken(&mut self, seq: Option<u64>, bytes: usize, limits: &Limits, now: Now) {
        self.rate.take(limits.messages_per_s, now.mono_ms);
        self.window.take(seq, bytes, now.mono_ms);
    }

    /// Reports came. `send` gets the refusals and then the ack, in their order.
    pub fn settled(&mut self, settled: Settled, mut send: impl FnMut(GatewayMessage<'static>)) {
        let ack = self.window.settle(settled.ended, settled.refused, |seq| {
            send(GatewayMessage::Refused {
                seq,
                id: None,
                code: RefusalCode::TooLarge,
                message: "the event log will not take this message".into(),
            });
        });
        if let Some(seq) = ack {
            send(GatewayMessage::Ack { seq });
        }
    }

    /// The verdict on an `auth` with this `id`.
    pub fn verified<'a>(&mut self, id: Option<Cow<'a, str>>, verdict: Verdict, limits: &Limits, now: Now) -> Step<'a> {
        if let Some(rare) = &mut self.rare {
            rare.verifying = false;
        }
        let refusal = |code, message: Cow<'static, str>, id: Option<Cow<'a, str>>| Refusal {
            code,
            message,
            seq: None,
            id: id.map(Cow::into_owned),
        };
        match verdict {
            Verdict::Good { expires_at_ms } => {
                self.token_expires_ms = expires_at_ms;
                self.auth_due_sent = false;
                Step::Reply(GatewayMessage::AuthAck { id, expires_at: expires_at_ms })
            }
            Verdict::Foreign => Step::Last(
                GatewayMessage::Refused {
                    seq: None,
                    id,
                    code: RefusalCode::Forbidden,
                    message: "auth: a token of another identity: connect anew with it".into(),
                },
                CloseReason::IdentityChanged,
            ),
            Verdict::Bad => {
                let message = "auth: not a valid token; the old one stands".into();
                self.refuse(refusal(RefusalCode::InvalidToken, message, id), limits, now)
            }
            Verdict::Unknown { retry_after_s } => {
                let message = format!("auth: tokens cannot be verified just now; send it again in {retry_after_s} s");
                self.refuse(refusal(RefusalCode::Rate, message.into(), id), limits, now)
            }
        }
    }

    /// The log's flow, as the node sees it. Returns what to tell the device where it does not know.
    pub fn flow(&mut self, paused: bool, retry_after_ms: Option<u64>) -> Option<GatewayMessage<'static>> {
        // Who may send no updates is not asked to hold them.
        if paused == self.log_paused || self.kind == PeerKind::App {
            return None;
        }
        self.log_paused = paused;
        let reason = PauseReason::Log;
        Some(if paused { GatewayMessage::Pause { reason, retry_after_ms } } else { GatewayMessage::Resume { reason } })
    }

    /// The device is above its rate (`Some`: for so long), or no longer. Returns what to tell it where it does not know.
    pub fn rate(&mut self, over_for_ms: Option<u64>) -> Option<GatewayMessage<'static>> {
        if over_for_ms.is_some() == self.rate_paused {
            return None;
        }
        self.rate_paused = over_for_ms.is_some();
        let reason = PauseReason::Rate;
        Some(match over_for_ms {
            Some(_) => GatewayMessage::Pause { reason, retry_after_ms: over_for_ms },
            None => GatewayMessage::Resume { reason },
        })
    }

    /// Whether the device has been asked for this reason to hold its updates, and not yet told to go on.
    pub const fn is_paused(&self, reason: PauseReason) -> bool {
        match reason {
            PauseReason::Log => self.log_paused,
            PauseReason::Rate => self.rate_paused,
        }
    }

    /// The next thing that time asks for; to be called until it returns `None`.
    pub fn due(&mut self, now: Now) -> Option<Due> {
        if now.unix_ms >= self.token_ends_ms() {
            return Some(Due::Close(CloseReason::TokenExpired));
        }
        if !self.auth_due_sent && now.unix_ms >= self.token_expires_ms.saturating_sub(AUTH_DUE_BEFORE_MS) {
            self.auth_due_sent = true;
            return Some(Due::Send(GatewayMessage::AuthDue { token_expires_at: self.token_expires_ms }));
        }
        match self.heartbeat.beat(now) {
            Beat::Lost => Some(Due::Close(CloseReason::HeartbeatLost)),
            Beat::Ping => Some(Due::Ping),
            Beat::Wait => {
                self.window.compact(now.mono_ms);
                None
            }
        }
    }

    fn token_ends_ms(&self) -> i64 {
        self.token_expires_ms.saturating_add(i64::from(self.leeway_ms))
    }

    /// When [`Session::due`] is next worth asking, on the monotonic clock.
    pub fn due_ms(&self, now: Now) -> u64 {
        let token = if self.auth_due_sent {
            self.token_ends_ms()
        } else {
            self.token_expires_ms.saturating_sub(AUTH_DUE_BEFORE_MS)
        };
        let token_in = u64::try_from(token.saturating_sub(now.unix_ms)).unwrap_or(0);
        self.heartbeat.due_ms(now).min(now.mono_ms.saturating_add(token_in))
    }
}

fn is_of(report: &Report<'_>, key: &DeviceKey) -> bool {
    report.device_id.as_deref().is_none_or(|device| device == key.device())
        && report.tenant.as_deref().is_none_or(|tenant| tenant == key.tenant())
}

fn foreign(seq: Option<u64>) -> Refusal {
    Refusal {
        code: RefusalCode::Forbidden,
        message: "device_id and tenant are the token's: leave them out or send your own".into(),
        seq,
        id: None,
    }
}

fn not_for_devices() -> Refusal {
    Refusal {
        code: RefusalCode::UnknownType,
        message:
            "a device's `type` is update, <name>_update, status, ack, auth or ping; applications send commands on \
                  /v1/app"
                .into(),
        seq: None,
        id: None,
    }
}

fn not_for_applications() -> Refusal {
    Refusal {
        code: RefusalCode::UnknownType,
        message: "an application's `type` is command, auth or ping; subscribe is not available yet, and devices send \
                  updates on /v1/device"
            .into(),
        seq: None,
        id: None,
    }
}

#[cfg(test)]
mod tests;
