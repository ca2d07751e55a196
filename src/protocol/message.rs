//! What a device and the gateway say to each other, whatever the encoding.

use std::borrow::Cow;

/// A message from a device.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceMessage<'a> {
    /// `update`, `<name>_update` or `status`: becomes a record.
    Report(Report<'a>),
    /// `ack`: about a command.
    CommandAck(CommandAck<'a>),
    /// `command`: an application's, for a device.
    Command(AppCommand<'a>),
    /// `auth`: a fresh token for the same identity.
    Auth {
        /// The token.
        token: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<Cow<'a, str>>,
    },
    /// `ping`: answered by `pong`.
    Ping {
        /// Comes back in the answer.
        id: Option<Cow<'a, str>>,
    },
}

/// Which topic a report goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// `update` and `<name>_update`.
    Update,
    /// `status`.
    Status,
}

/// A measurement, an event or a health report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report<'a> {
    /// Where it goes.
    pub kind: ReportKind,
    /// The device's number for it, 1 to 2^53 - 1; without one it is never acked.
    pub seq: Option<u64>,
    /// The device's claim of when, Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// What the message says its device is; refused when it is not the token's.
    pub device_id: Option<Cow<'a, str>>,
    /// What the message says its tenant is; refused when it is not the token's.
    pub tenant: Option<Cow<'a, str>>,
    /// W3C trace context.
    pub traceparent: Option<Cow<'a, str>>,
    /// The message's JSON form: the record's value. From a JSON device these are its own bytes.
    pub json: Cow<'a, [u8]>,
}

/// What a device says about a command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandAck<'a> {
    /// The command.
    pub id: Cow<'a, str>,
    /// How far it is; `succeeded` where the device said nothing.
    pub status: CommandStatus,
    /// The result's JSON form.
    pub result: Option<Cow<'a, [u8]>>,
    /// The device's words.
    pub message: Option<Cow<'a, str>>,
}

/// A command as an application asks for it on its socket.
#[derive(Debug, Clone, PartialEq)]
pub struct AppCommand<'a> {
    /// The application's own name for it: the same key is the same command.
    pub key: Cow<'a, str>,
    /// For which device of its tenant.
    pub device_id: Cow<'a, str>,
    /// What to do.
    pub name: Cow<'a, str>,
    /// With what: JSON; `null` where nothing was said.
    pub params: Cow<'a, [u8]>,
    /// How long it may wait, in seconds; 0: now or never.
    pub ttl_s: u64,
    /// On how many connections it may be tried.
    pub max_attempts: Option<u32>,
    /// Whether it takes the place of what is queued under the same name.
    pub replace: bool,
}

impl AppCommand<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> AppCommand<'static> {
        AppCommand {
            key: own(self.key),
            device_id: own(self.device_id),
            name: own(self.name),
            params: Cow::Owned(self.params.into_owned()),
            ttl_s: self.ttl_s,
            max_attempts: self.max_attempts,
            replace: self.replace,
        }
    }
}

/// How far a command is, by the device's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandStatus {
    /// The device has it.
    Received,
    /// The device is at it.
    Running,
    /// Done.
    Succeeded,
    /// Tried and failed.
    Failed,
    /// Will not be tried.
    Rejected,
}

impl CommandStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Received, Self::Running, Self::Succeeded, Self::Failed, Self::Rejected];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

impl DeviceMessage<'_> {
    /// The same message, borrowing nothing.
    pub fn into_owned(self) -> DeviceMessage<'static> {
        match self {
            Self::Report(report) => DeviceMessage::Report(Report {
                kind: report.kind,
                seq: report.seq,
                timestamp_ms: report.timestamp_ms,
                device_id: report.device_id.map(own),
                tenant: report.tenant.map(own),
                traceparent: report.traceparent.map(own),
                json: Cow::Owned(report.json.into_owned()),
            }),
            Self::CommandAck(ack) => DeviceMessage::CommandAck(CommandAck {
                id: own(ack.id),
                status: ack.status,
                result: ack.result.map(|result| Cow::Owned(result.into_owned())),
                message: ack.message.map(own),
            }),
            Self::Command(command) => DeviceMessage::Command(command.into_owned()),
            Self::Auth { token, id } => DeviceMessage::Auth { token: own(token), id: id.map(own) },
            Self::Ping { id } => DeviceMessage::Ping { id: id.map(own) },
        }
    }
}

fn own(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

/// A message the gateway will never take. What can be read of the message's `seq` and `id` goes back with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Why, for the person who debugs the device. Names the field; never repeats the payload.
    pub message: Cow<'static, str>,
    /// The refused message's number, where it could be read.
    pub seq: Option<u64>,
    /// The refused message's id, where it could be read.
    pub id: Option<String>,
}

/// Why a message was refused: a closed set, also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// Not a message of this protocol.
    Malformed,
    /// A `type` nobody knows.
    UnknownType,
    /// Larger than the limit, as received or in its JSON form, or larger than the log takes.
    TooLarge,
    /// More messages in a batch than the limit.
    TooMany,
    /// Names another device or tenant, or the token's scope does not allow it.
    Forbidden,
    /// Asked for too often.
    Rate,
    /// `auth` with a token that is not valid, or not for this identity.
    InvalidToken,
    /// The key was used for another command.
    Conflict,
    /// Now or never, and the device is not connected.
    NotConnected,
    /// Not just now: the same may be taken later.
    Unavailable,
}

impl RefusalCode {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::UnknownType,
        Self::TooLarge,
        Self::TooMany,
        Self::Forbidden,
        Self::Rate,
        Self::InvalidToken,
        Self::Conflict,
        Self::NotConnected,
        Self::Unavailable,
    ];

    /// The code on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::Forbidden => "forbidden",
            Self::Rate => "rate",
            Self::InvalidToken => "invalid_token",
            Self::Conflict => "conflict",
            Self::NotConnected => "not_connected",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why devices are asked to hold their updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PauseReason {
    /// The log is not taking records.
    Log,
    /// The device sends more than its rate.
    Rate,
}

impl PauseReason {
    /// The reason on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rate => "rate",
        }
    }
}

/// A message to a device. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayMessage<'a> {
    /// Always first, under 512 bytes.
    Welcome(Welcome<'a>),
    /// Cumulative: everything received with a `seq` up to this one is stored, or was refused earlier.
    Ack {
        /// The highest settled number.
        seq: u64,
    },
    /// The answer to `auth`.
    AuthAck {
        /// The id of the `auth`, where it had one.
        id: Option<Cow<'a, str>>,
        /// When the new token expires.
        expires_at: i64,
    },
    /// This message will never be taken.
    Refused {
        /// Its number, where it had one.
        seq: Option<u64>,
        /// Its id, where it had one.
        id: Option<Cow<'a, str>>,
        /// Why.
        code: RefusalCode,
        /// Why, in words.
        message: Cow<'a, str>,
    },
    /// Hold updates.
    Pause {
        /// Why.
        reason: PauseReason,
        /// When it is likely to be over, where that is known.
        retry_after_ms: Option<u64>,
    },
    /// Send on.
    Resume {
        /// What is over.
        reason: PauseReason,
    },
    /// Do this. The same `id` may come again.
    Command {
        /// The command.
        id: &'a str,
        /// What to do.
        name: &'a str,
        /// With what: one JSON value.
        params: &'a str,
        /// Until when it makes sense.
        expires_at: i64,
        /// On how many connections it was sent, this one counted.
        attempt: u32,
    },
    /// To an application: how far a command is.
    CommandState(CommandState<'a>),
    /// The token is about to expire.
    AuthDue {
        /// When.
        token_expires_at: i64,
    },
    /// Connect elsewhere; this socket works until the deadline.
    Goaway {
        /// A close code's reason: `restart`, `moved`, ….
        reason: &'a str,
        /// When to connect, from now.
        retry_after_ms: u64,
        /// When this socket ends, from now.
        deadline_ms: u64,
    },
    /// About the connection as a whole; a close follows.
    Error {
        /// A close code's reason.
        code: &'a str,
        /// In words.
        message: Cow<'a, str>,
        /// When to connect again, from now.
        retry_after_ms: Option<u64>,
    },
    /// The answer to `ping`.
    Pong {
        /// The id of the `ping`, where it had one.
        id: Option<Cow<'a, str>>,
        /// The gateway's time.
        server_time: i64,
    },
}

/// The first message on every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// A greeting for people.
    pub message: &'a str,
    /// The identity the token gave.
    pub device_id: &'a str,
    /// This connection's own name.
    pub session: &'a str,
    /// The ownership epoch.
    pub epoch: u64,
    /// The gateway pings this often.
    pub heartbeat_s: u64,
    /// The largest message taken.
    pub max_message_bytes: u64,
    /// How many updates may be unacked before reading stops.
    pub window: u64,
    /// The gateway's clock, Unix milliseconds.
    pub server_time: i64,
    /// When the token expires, Unix milliseconds; absent where there is no token.
    pub token_expires_at: Option<i64>,
    /// This boot's last ack, where it is known.
    pub resume_after: Option<u64>,
    /// `false` while the directory is away and this connection is provisional.
    pub registered: Option<bool>,
}

/// How far a command is, for an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandState<'a> {
    /// The application's own name for it, where it is the one that asked.
    pub key: Option<Cow<'a, str>>,
    /// The command.
    pub id: Cow<'a, str>,
    /// For which device.
    pub device_id: Cow<'a, str>,
    /// Its state.
    pub state: &'static str,
    /// Grows with each transition; some may be left out, the last is not.
    pub version: u32,
    /// Why, where it ended without the device's word.
    pub reason: Option<&'static str>,
    /// What the device gave back: one JSON value.
    pub result: Option<Cow<'a, str>>,
    /// The device's words.
    pub message: Option<Cow<'a, str>>,
}
