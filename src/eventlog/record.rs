//! One event as it is stored: a CloudEvent in the Kafka binding's binary mode, from an identity, never from a message.

use crate::id::{Boot, CommandId, DeviceKey, Epoch};
use crate::telemetry::metrics::PublishTopic;

/// The topics the gateway writes to, without their configured prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `telemetry`: updates.
    Telemetry,
    /// `status`: health reports and presence.
    Status,
    /// `command-events`: what became of commands.
    CommandEvents,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 3] = [Self::Telemetry, Self::Status, Self::CommandEvents];

    /// The same among the labels of metrics.
    pub const fn label(self) -> PublishTopic {
        match self {
            Self::Telemetry => PublishTopic::Telemetry,
            Self::Status => PublishTopic::Status,
            Self::CommandEvents => PublishTopic::CommandEvents,
        }
    }

    /// The name without prefix; also the metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Status => "status",
            Self::CommandEvents => "command-events",
        }
    }
}

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What a device said.
    Report,
    /// The device is connected.
    Online,
    /// It is not any more.
    Offline,
    /// A command changed.
    Command {
        /// Which.
        id: CommandId,
        /// The version it has by that.
        version: u32,
    },
}

/// A record to append. Times are Unix milliseconds.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Where to.
    pub topic: Topic,
    /// What it tells.
    pub kind: Kind,
    /// Whose: the record's key, and `ce_source`.
    pub key: &'a DeviceKey,
    /// The scope of `seq`.
    pub boot: &'a Boot,
    /// The device's number: `ce_id` is `<boot>:<seq>`; without one a fresh id (`<boot>:-<16 hex digits>`). Presence has
    /// none, and its id is `<epoch>:online` or `<epoch>:offline`; nor have commands, whose is `<command>:<version>`.
    pub seq: Option<u64>,
    /// The device's claim of when. `ce_time` where it lies within 30 days before and an hour after `received_ms`, else
    /// `received_ms` is, with `tg_clock_suspect: true`.
    pub timestamp_ms: Option<i64>,
    /// When the gateway received it, or when what it tells was: `tg_received_at`.
    pub received_ms: i64,
    /// The connection's epoch: `tg_epoch`. 0 for a command that no connection had.
    pub epoch: Epoch,
    /// W3C trace context, handed through where the device's own is trusted.
    pub traceparent: Option<&'a str>,
    /// The JSON message.
    pub value: &'a [u8],
}

impl Record<'_> {
    /// `ce_type`.
    pub const fn event_type(&self) -> &'static str {
        match (self.kind, self.topic) {
            (Kind::Report, Topic::Status) => "tidegate.status.v1",
            (Kind::Report, _) => "tidegate.update.v1",
            (Kind::Online | Kind::Offline, _) => "tidegate.presence.v1",
            (Kind::Command { .. }, _) => "tidegate.command.v1",
        }
    }
}
