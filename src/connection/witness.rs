//! What people get to see of a connection: log lines and metrics. Ids only, never a payload or a token.

use std::time::Instant;

use super::Node;
use super::per_second::PerSecond;
use super::pump::Place;
use crate::protocol::Encoding;
use crate::protocol::close::CloseReason;
use crate::protocol::message::{DeviceMessage, GatewayMessage, PauseReason, Refusal, RefusalCode, ReportKind};
use crate::session::Now;
use crate::telemetry::metrics::{
    DisconnectReason, Initiator, Label, PausedCode, PeerKind, ReceivedType, RefusedCode, SecurityEvent, SentType,
    ShedReason,
};
use crate::telemetry::traces::{SpanKind, TraceContext};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The gateway closed it.
    Gateway(CloseReason),
    /// The device closed it, with this code (1005: none; 1006: the end of its stream without a close frame).
    Device(u16),
    /// The transport broke.
    Lost,
}

impl End {
    /// The close code it stands for.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Gateway(reason) => reason.code(),
            Self::Device(code) => code,
            Self::Lost => 1006,
        }
    }

    pub(super) const fn initiator(self) -> Initiator {
        match self {
            Self::Gateway(_) => Initiator::Gateway,
            Self::Device(_) => Initiator::Client,
            Self::Lost => Initiator::Network,
        }
    }

    /// Whether somebody should hear of it: not where devices come and go, and not where the gateway itself goes.
    const fn is_remarkable(self) -> bool {
        match self {
            Self::Gateway(reason) => {
                !matches!(reason, CloseReason::Normal | CloseReason::Restart | CloseReason::Moved | CloseReason::MaxAge)
            }
            Self::Device(code) => !matches!(code, 1000 | 1001 | 1005 | 1006),
            Self::Lost => false,
        }
    }
}

/// Lines a second that connections may write about refusals and ends, all of them together: a thousand devices that
/// misbehave at once must not be a thousand writes to a slow disk. What is above is written at level debug.
const LINES_A_SECOND: u64 = 200;

/// The lines of the present second.
#[derive(Debug, Default)]
pub(super) struct Lines(PerSecond);

impl Lines {
    /// Whether one more line may be written at `now`.
    fn take(&self, now: Now) -> bool {
        self.0.take(LINES_A_SECOND, now)
    }
}

/// Writes a line at level info where it may, else at level debug.
macro_rules! line {
    ($loud:expr, $($rest:tt)+) => {
        if $loud { tracing::info!($($rest)+) } else { tracing::debug!($($rest)+) }
    };
}

/// A connection began.
pub(super) fn connected(place: &Place) {
    let key = &place.key;
    tracing::debug!(
        session = %place.id(), tenant = key.tenant(), device = key.device(), boot = place.boot().as_str(),
        epoch = place.epoch().0, "connected"
    );
}

/// A handshake that began at that moment has led to a connection.
pub(super) fn shook_hands(node: &Node, place: &Place, kind: PeerKind, encoding: Encoding, accepted: Instant) {
    let Some(tracer) = node.metrics.tracer() else { return };
    let (name, route) = match kind {
        PeerKind::Device => ("GET /v1/device", "/v1/device"),
        PeerKind::App => ("GET /v1/app", "/v1/app"),
    };
    let mut span = tracer.root(name, SpanKind::Server, TraceContext::of_handshake(place.id()));
    span.since(accepted)
        .set("http.request.method", "GET")
        .set("http.route", route)
        .set("http.response.status_code", 101_u64)
        .set("tidegate.tenant", place.key.tenant().to_owned())
        .set("tidegate.device", place.key.device().to_owned())
        .set("tidegate.session", place.id().to_string())
        .set("tidegate.epoch", place.epoch().0)
        .set("tidegate.encoding", encoding.subprotocol());
}

/// A connection has ended, as far as the gateway is concerned.
pub(super) fn ended(node: &Node, place: &Place, end: End, why: &str, lived_s: u64, now: Now) {
    let reason = DisconnectReason::from_code(end.code());
    let security = match end {
        End::Gateway(CloseReason::PolicyViolation) => Some(SecurityEvent::Abuse),
        End::Gateway(CloseReason::TokenRevoked) => Some(SecurityEvent::TokenRevoked),
        _ => None,
    };
    if let Some(event) = security {
        node.metrics.security_events.of(event).inc();
    }
    if end == End::Gateway(CloseReason::Overloaded) {
        node.metrics.shed.of(ShedReason::Overloaded).inc();
    }
    let key = &place.key;
    let loud = end.is_remarkable() && node.lines.take(now);
    line!(
        loud, session = %place.id(), tenant = key.tenant(), device = key.device(), code = end.code(),
        reason = reason.as_str(), by = end.initiator().as_str(), why, lived_s,
        security = security.map(SecurityEvent::as_str), "disconnected"
    );
}

/// A message was refused for good.
pub(super) fn refused(node: &Node, place: &Place, code: RefusalCode, seq: Option<u64>, line: bool, now: Now) {
    let security = match code {
        RefusalCode::Forbidden => Some(SecurityEvent::ForeignIdentity),
        RefusalCode::InvalidToken => Some(SecurityEvent::TokenRejected),
        _ => None,
    };
    if let Some(event) = security {
        node.metrics.security_events.of(event).inc();
    }
    let key = &place.key;
    line!(
        line && node.lines.take(now), session = %place.id(), tenant = key.tenant(), device = key.device(),
        code = code.as_str(), seq, security = security.map(SecurityEvent::as_str), "message refused"
    );
}

/// An answer came to a command that was never sent. `count`: nobody counted it yet.
pub(super) fn guessed(node: &Node, place: &Place, line: bool, count: bool, now: Now) {
    if count {
        node.metrics.security_events.of(SecurityEvent::GuessedCommand).inc();
    }
    let key = &place.key;
    line!(
        line && node.lines.take(now), session = %place.id(), tenant = key.tenant(), device = key.device(),
        security = SecurityEvent::GuessedCommand.as_str(), "an answer to a command that was never sent"
    );
}

/// What came from a connection that is traced: its outline, not what it says.
pub(super) fn traced_message(
    place: &Place,
    kind: ReceivedType,
    item: &Result<DeviceMessage<'_>, Refusal>,
    frame_bytes: usize,
) {
    let (seq, bytes) = match item {
        Ok(DeviceMessage::Report(report)) => (report.seq, report.json.len()),
        Err(refusal) => (refusal.seq, frame_bytes),
        Ok(_) => (None, frame_bytes),
    };
    let (key, refused) = (&place.key, item.as_ref().err().map(|refusal| refusal.code.as_str()));
    tracing::info!(
        session = %place.id(), tenant = key.tenant(), device = key.device(), from = "device", kind = kind.as_str(),
        seq, bytes, refused, "trace"
    );
}

/// What was sent to one.
pub(super) fn traced_answer(place: &Place, message: &GatewayMessage<'_>, bytes: usize) {
    let (key, kind) = (&place.key, sent_type(message).as_str());
    let seq = match message {
        GatewayMessage::Ack { seq } => Some(*seq),
        GatewayMessage::Refused { seq, .. } => *seq,
        _ => None,
    };
    tracing::info!(
        session = %place.id(), tenant = key.tenant(), device = key.device(), from = "gateway", kind, seq, bytes, "trace"
    );
}

/// What a message counts as.
pub(super) const fn received_type(item: &Result<DeviceMessage<'_>, Refusal>) -> ReceivedType {
    match item {
        Ok(DeviceMessage::Report(report)) => match report.kind {
            ReportKind::Update => ReceivedType::Update,
            ReportKind::Status => ReceivedType::Status,
        },
        Ok(DeviceMessage::CommandAck(_)) => ReceivedType::Ack,
        Ok(DeviceMessage::Command(_)) => ReceivedType::Command,
        Ok(DeviceMessage::Auth { .. }) => ReceivedType::Auth,
        Ok(DeviceMessage::Ping { .. }) => ReceivedType::Ping,
        Err(_) => ReceivedType::Invalid,
    }
}

/// What an answer counts as.
pub(super) const fn sent_type(message: &GatewayMessage<'_>) -> SentType {
    match message {
        GatewayMessage::Welcome(_) => SentType::Welcome,
        GatewayMessage::Ack { .. } | GatewayMessage::AuthAck { .. } => SentType::Ack,
        GatewayMessage::Refused { .. } => SentType::Refused,
        GatewayMessage::Pause { .. } => SentType::Pause,
        GatewayMessage::Resume { .. } => SentType::Resume,
        GatewayMessage::Command { .. } => SentType::Command,
        GatewayMessage::CommandState(_) => SentType::CommandState,
        GatewayMessage::AuthDue { .. } => SentType::AuthDue,
        GatewayMessage::Goaway { .. } => SentType::Goaway,
        GatewayMessage::Error { .. } => SentType::Error,
        GatewayMessage::Pong { .. } => SentType::Pong,
    }
}

/// Counts what an answer says beside that it was sent.
pub(super) fn answered(node: &Node, message: &GatewayMessage<'_>) {
    match message {
        GatewayMessage::Refused { code, .. } => node.metrics.refused.of(refused_code(*code)).inc(),
        GatewayMessage::Pause { reason, .. } => node.metrics.paused_connections.of(paused_code(*reason)).inc(),
        GatewayMessage::Resume { reason } => node.metrics.paused_connections.of(paused_code(*reason)).dec(),
        _ => {}
    }
}

pub(super) const fn paused_code(reason: PauseReason) -> PausedCode {
    match reason {
        PauseReason::Log => PausedCode::Log,
        PauseReason::Rate => PausedCode::Rate,
    }
}

const fn refused_code(code: RefusalCode) -> RefusedCode {
    match code {
        RefusalCode::Malformed => RefusedCode::Malformed,
        RefusalCode::UnknownType => RefusedCode::UnknownType,
        RefusalCode::TooLarge => RefusedCode::TooLarge,
        RefusalCode::TooMany => RefusedCode::TooMany,
        RefusalCode::Forbidden => RefusedCode::Forbidden,
        RefusalCode::Rate => RefusedCode::Rate,
        RefusalCode::InvalidToken => RefusedCode::InvalidToken,
        RefusalCode::Conflict => RefusedCode::Conflict,
        RefusalCode::NotConnected => RefusedCode::NotConnected,
        RefusalCode::Unavailable => RefusedCode::Unavailable,
    }
}

/// A close in words, for the `error` that goes before it.
pub(super) const fn words(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Normal => "let go",
        CloseReason::GoingAway => "the gateway is going away",
        CloseReason::ProtocolError => "the frames broke the WebSocket protocol",
        CloseReason::UnsupportedData => "JSON goes in text frames, CBOR and Protobuf in binary frames",
        CloseReason::InvalidPayload => "text that is not UTF-8",
        CloseReason::PolicyViolation => "too much of what was refused, or a flood of control frames",
        CloseReason::TooBig => "a message above max_message_bytes",
        CloseReason::InternalError => "the gateway failed",
        CloseReason::Restart => "the node restarts: connect again after the hint",
        CloseReason::TryAgainLater => "not now: connect again after the hint",
        CloseReason::HeartbeatLost => "two pings were not answered",
        CloseReason::SlowConsumer => "what is sent here is not read",
        CloseReason::Moved => "moved: connect again, unless a newer connection of this boot is open",
        CloseReason::MaxAge => "the connection is old: connect again",
        CloseReason::Overloaded => "the node holds too much that is not stored: connect again after the hint",
        CloseReason::OverQuota => "the tenant is above its quota: connect again after the hint",
        CloseReason::TokenExpired => "the token has expired: get a new one, and send it by auth next time",
        CloseReason::TokenRevoked => "the token's key was revoked: get a new token",
        CloseReason::IdentityChanged => "the new token is for another identity: connect anew with it",
        CloseReason::Superseded => "another boot of this identity connected",
        CloseReason::Blocked => "this device is blocked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_has_words_and_a_label_of_its_own() {
        let mut words: Vec<_> = CloseReason::ALL.iter().map(|reason| super::words(*reason)).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            assert_ne!(DisconnectReason::from_code(reason.code()), DisconnectReason::Other, "{reason:?}");
        }
    }

    #[test]
    fn lines_are_bounded_by_the_second() {
        let lines = Lines::default();
        let written = |mono_ms| (0..1_000).filter(|_| lines.take(Now { mono_ms, unix_ms: 0 })).count() as u64;
        assert_eq!((written(5_000), written(5_999), written(6_000)), (LINES_A_SECOND, 0, LINES_A_SECOND));
    }

    #[test]
    fn every_refusal_counts_under_its_own_name() {
        for code in RefusalCode::ALL {
            assert_eq!(refused_code(code).as_str(), code.as_str());
        }
    }

    #[test]
    fn what_is_daily_makes_no_line_and_abuse_does() {
        for quiet in [End::Lost, End::Device(1000), End::Device(1006), End::Gateway(CloseReason::Restart)] {
            assert!(!quiet.is_remarkable(), "{quiet:?}");
        }
        for loud in [End::Gateway(CloseReason::PolicyViolation), End::Gateway(CloseReason::Overloaded)] {
            assert!(loud.is_remarkable(), "{loud:?}");
        }
    }
}
