//! A device's session: what each message, report and moment means, and what is to be done about it.

use std::borrow::Cow;

use super::Now;
use super::heartbeat::{Beat, Heartbeat};
use super::rate::{Bucket, Counter};
use super::window::{Progress, Window};
use crate::id::DeviceKey;
use crate::limits::Limits;
use crate::mailbox::Settled;
use crate::protocol::close::CloseReason;
use crate::protocol::message::{DeviceMessage, GatewayMessage, PauseReason, Refusal, RefusalCode, Report};

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
    /// Verify the token, then say [`Session::verified`].
    Verify {
        /// The token.
        token: Cow<'a, str>,
        /// The message's id.
        id: Option<Cow<'a, str>>,
    },
    /// Send this, then end.
    Last(GatewayMessage<'a>, CloseReason),
    /// Nothing.
    Nothing,
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

/// One device's session, from `welcome` to its close.
#[derive(Debug)]
pub struct Session {
    key: DeviceKey,
    window: Window,
    heartbeat: Heartbeat,
    rate: Bucket,
    faults: Counter,
    control: Counter,
    auths: Counter,
    /// End of the token, leeway included, Unix milliseconds; `i64::MAX` without one.
    token_ends_ms: i64,
    /// `exp` itself.
    token_expires_ms: i64,
    auth_due_sent: bool,
    log_paused: bool,
    rate_paused: bool,
}

impl Session {
    /// A session that begins at `now`, of a device whose token expires at `token_expires_ms` (none: `None`) and is
    /// honoured `leeway_ms` longer.
    pub fn new(
        key: DeviceKey,
        heartbeat_ms: u32,
        token_expires_ms: Option<i64>,
        leeway_ms: i64,
        limits: &Limits,
        now: Now,
    ) -> Self {
        let token_expires_ms = token_expires_ms.unwrap_or(i64::MAX);
        Self {
            key,
            window: Window::default(),
            heartbeat: Heartbeat::new(heartbeat_ms, now),
            rate: Bucket::full(limits.messages_per_s, now.mono_ms),
            faults: Counter::default(),
            control: Counter::default(),
            auths: Counter::default(),
            token_ends_ms: token_expires_ms.saturating_add(leeway_ms),
            token_expires_ms,
            auth_due_sent: false,
            log_paused: false,
            rate_paused: false,
        }
    }

    /// Whose it is.
    pub fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// What was taken and is not settled.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Something arrived. Returns a ping's round trip in milliseconds where this ends one.
    pub fn heard(&mut self, now: Now) -> Option<u64> {
        self.heartbeat.heard(now)
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

    /// Whether an update of `bytes` may be taken now; asked before each, and `After` counts nothing.
    pub fn room(&mut self, bytes: usize, limits: &Limits, now: Now) -> Room {
        if !self.window.fits(bytes, limits.window_messages, limits.window_bytes) {
            return Room::Full;
        }
        match self.rate.take(limits.messages_per_s, now.mono_ms) {
            Ok(()) => Room::Yes,
            Err(ms) => Room::After(ms),
        }
    }

    /// What one message, or what could not be read as one, asks for.
    pub fn message<'a>(&mut self, item: Result<DeviceMessage<'a>, Refusal>, limits: &Limits, now: Now) -> Step<'a> {
        match item {
            Ok(DeviceMessage::Report(report)) if self.is_mine(&report) => Step::Append(report),
            Ok(DeviceMessage::Report(report)) => self.refuse(foreign(report.seq), limits, now),
            Ok(DeviceMessage::Ping { id }) => Step::Reply(GatewayMessage::Pong { id, server_time: now.unix_ms }),
            Ok(DeviceMessage::Auth { token, id }) => {
                if self.auths.count(now.mono_ms, SECOND_MS, 1) {
                    return Step::Verify { token, id };
                }
                let refusal = Refusal {
                    code: RefusalCode::Rate,
                    message: "auth: at most once a second".into(),
                    seq: None,
                    id: id.map(Cow::into_owned),
                };
                self.refuse(refusal, limits, now)
            }
            // An answer to a command nobody sent changes nothing.
            Ok(DeviceMessage::CommandAck(_)) => Step::Nothing,
            Err(refusal) => self.refuse(refusal, limits, now),
        }
    }

    fn is_mine(&self, report: &Report<'_>) -> bool {
        report.device_id.as_deref().is_none_or(|device| device == self.key.device())
            && report.tenant.as_deref().is_none_or(|tenant| tenant == self.key.tenant())
    }

    fn refuse<'a>(&mut self, refusal: Refusal, limits: &Limits, now: Now) -> Step<'a> {
        // What is asked for too often is answered and costs little; the rest is the sender's own fault.
        let fine = refusal.code == RefusalCode::Rate
            || self.faults.count(now.mono_ms, MINUTE_MS, limits.faults_per_minute.saturating_sub(1));
        let message = GatewayMessage::Refused {
            seq: refusal.seq,
            id: refusal.id.map(Cow::Owned),
            code: refusal.code,
            message: refusal.message,
        };
        if fine { Step::Reply(message) } else { Step::Last(message, CloseReason::PolicyViolation) }
    }

    /// The log took the update; its number is [`Window::next`] as it was before.
    pub fn taken(&mut self, seq: Option<u64>, bytes: usize) {
        self.window.take(seq, bytes);
    }

    /// Reports came. `send` gets the refusals and then the ack, in their order.
    pub fn settled(&mut self, settled: Settled, mut send: impl FnMut(GatewayMessage<'static>)) {
        let Progress { ack } = self.window.settle(settled.ended, settled.refused, |seq| {
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

    /// The verdict on an `auth`: the new token's end and leeway where it is valid and for this identity.
    pub fn verified<'a>(
        &mut self,
        id: Option<Cow<'a, str>>,
        verdict: Result<(i64, i64), RefusalCode>,
        limits: &Limits,
        now: Now,
    ) -> Step<'a> {
        match verdict {
            Ok((expires_at, leeway_ms)) => {
                self.token_expires_ms = expires_at;
                self.token_ends_ms = expires_at.saturating_add(leeway_ms);
                self.auth_due_sent = false;
                Step::Reply(GatewayMessage::AuthAck { id, expires_at })
            }
            Err(code) => {
                let message = "auth: not a valid token for this identity; the old one stands".into();
                self.refuse(Refusal { code, message, seq: None, id: id.map(Cow::into_owned) }, limits, now)
            }
        }
    }

    /// The log's flow, as the node sees it. Returns what to tell the device where it does not know.
    pub fn flow(&mut self, paused: bool, retry_after_ms: Option<u64>) -> Option<GatewayMessage<'static>> {
        if paused == self.log_paused {
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

    /// Whether the device has been asked to hold its updates.
    pub fn is_paused(&self) -> bool {
        self.log_paused || self.rate_paused
    }

    /// The next thing that time asks for; to be called until it returns `None`.
    pub fn due(&mut self, now: Now) -> Option<Due> {
        if now.unix_ms >= self.token_ends_ms {
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
                self.window.compact();
                None
            }
        }
    }

    /// When [`Session::due`] is next worth asking, on the monotonic clock.
    pub fn due_ms(&self, now: Now) -> u64 {
        let token = if self.auth_due_sent {
            self.token_ends_ms
        } else {
            self.token_expires_ms.saturating_sub(AUTH_DUE_BEFORE_MS)
        };
        let token_in = u64::try_from(token.saturating_sub(now.unix_ms)).unwrap_or(0);
        self.heartbeat.due_ms().min(now.mono_ms.saturating_add(token_in))
    }
}

fn foreign(seq: Option<u64>) -> Refusal {
    Refusal {
        code: RefusalCode::Forbidden,
        message: "device_id and tenant are the token's: leave them out or send your own".into(),
        seq,
        id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::ReportKind;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 1_000_000 + mono_ms as i64 }
    }

    fn session(expires: Option<i64>) -> Session {
        Session::new(DeviceKey::new("acme", "d1").unwrap(), 25_000, expires, 30_000, &Limits::default(), at(0))
    }

    fn report(device: Option<&str>) -> Result<DeviceMessage<'_>, Refusal> {
        Ok(DeviceMessage::Report(Report {
            kind: ReportKind::Update,
            seq: Some(7),
            timestamp_ms: None,
            device_id: device.map(Cow::Borrowed),
            tenant: None,
            traceparent: None,
            json: Cow::Borrowed(b"{}"),
        }))
    }

    #[test]
    fn a_message_that_names_another_device_is_refused_and_never_appended() {
        let mut session = session(None);
        let limits = Limits::default();
        assert!(matches!(session.message(report(Some("d1")), &limits, at(1)), Step::Append(_)));
        assert!(matches!(session.message(report(None), &limits, at(1)), Step::Append(_)));
        let step = session.message(report(Some("d2")), &limits, at(1));
        assert!(
            matches!(&step, Step::Reply(GatewayMessage::Refused { seq: Some(7), code: RefusalCode::Forbidden, .. })),
            "{step:?}"
        );
    }

    #[test]
    fn the_tenth_fault_of_a_minute_is_the_last() {
        let mut session = session(None);
        let limits = Limits::default();
        for _ in 0..9 {
            assert!(matches!(session.message(report(Some("x")), &limits, at(1)), Step::Reply(_)));
        }
        let step = session.message(report(Some("x")), &limits, at(1));
        assert!(matches!(step, Step::Last(_, CloseReason::PolicyViolation)), "{step:?}");
        assert!(matches!(session.message(report(Some("x")), &limits, at(60_001)), Step::Reply(_)));
    }

    #[test]
    fn a_token_is_announced_to_end_then_ends_once_and_a_new_one_moves_both() {
        let mut session = session(Some(1_000_000 + 100_000));
        assert_eq!(session.due_ms(at(0)), 25_000, "the heartbeat comes first");
        session.heard(at(40_000));
        assert_eq!(session.due(at(40_000)), Some(Due::Send(GatewayMessage::AuthDue { token_expires_at: 1_100_000 })));
        assert_eq!(session.due(at(40_001)), None);
        let step = session.verified(None, Ok((1_200_000, 30_000)), &Limits::default(), at(50_000));
        assert_eq!(step, Step::Reply(GatewayMessage::AuthAck { id: None, expires_at: 1_200_000 }));
        session.heard(at(139_000));
        assert_eq!(session.due(at(139_000)), None, "the old end has gone by");
        session.heard(at(229_000));
        assert!(matches!(session.due(at(229_000)), Some(Due::Send(_))));
        assert_eq!(session.due(at(229_999)), None);
        assert_eq!(session.due(at(230_000)), Some(Due::Close(CloseReason::TokenExpired)));
    }

    #[test]
    fn a_failed_auth_leaves_the_old_end() {
        let mut session = session(Some(1_100_000));
        let verdict = Err(RefusalCode::InvalidToken);
        let step = session.verified(Some("a".into()), verdict, &Limits::default(), at(1));
        assert!(matches!(step, Step::Reply(GatewayMessage::Refused { code: RefusalCode::InvalidToken, .. })));
        session.heard(at(129_999));
        assert!(matches!(session.due(at(129_999)), Some(Due::Send(_))));
        assert_eq!(session.due(at(130_000)), Some(Due::Close(CloseReason::TokenExpired)));
    }

    #[test]
    fn a_hundred_auths_in_a_second_are_verified_once() {
        let mut session = session(None);
        let limits = Limits::default();
        let auth = || Ok(DeviceMessage::Auth { token: "t".into(), id: None });
        let verified =
            (0..100).filter(|_| matches!(session.message(auth(), &limits, at(5)), Step::Verify { .. })).count();
        assert_eq!(verified, 1);
    }

    #[test]
    fn a_pause_is_told_once_and_so_is_its_end() {
        let mut session = session(None);
        assert!(session.flow(false, None).is_none());
        assert!(matches!(session.flow(true, None), Some(GatewayMessage::Pause { reason: PauseReason::Log, .. })));
        assert!(session.flow(true, None).is_none());
        assert!(matches!(session.flow(false, None), Some(GatewayMessage::Resume { .. })));
        assert!(matches!(session.rate(Some(9)), Some(GatewayMessage::Pause { retry_after_ms: Some(9), .. })));
        assert!(session.rate(Some(5)).is_none());
    }

    #[test]
    fn a_full_window_has_no_room_and_an_empty_one_always_has() {
        let limits = Limits { window_bytes: 10, ..Limits::default() };
        let mut session = session(None);
        assert_eq!(session.room(1_000, &limits, at(0)), Room::Yes);
        session.taken(Some(1), 8);
        assert_eq!(session.room(3, &limits, at(0)), Room::Full);
        let mut sent = Vec::new();
        session.settled(Settled { ended: 1, refused: 0 }, |message| sent.push(message));
        assert_eq!(sent, [GatewayMessage::Ack { seq: 1 }]);
        assert_eq!(session.room(3, &limits, at(0)), Room::Yes);
    }

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 240, "{}", size_of::<Session>());
    }
}
