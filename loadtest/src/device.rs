//! A device: the client side of the protocol as a library, which simulated devices and real ones use alike.
//!
//! It does all that a client at level 2 must do. Updates are numbered, kept until they are acked and sent again, lowest
//! first, on the next connection. `pause`, `goaway`, `refused`, `auth_due` and `resume_after` are obeyed, close codes
//! followed by their advice with the published back-off, each command is run once and its answer kept until it expires.
//! JSON, CBOR or Protobuf; compressed or not; over TLS or not.
//!
//! [`start`] begins a device on the present tokio runtime: one task, which sleeps while nothing happens and holds about
//! two kilobytes (`tests/device_memory.rs` measures it), so that tens of thousands run in one process. Give it updates by its [`Handle`], and hear what becomes of
//! them by a [`Watcher`]. `loadtest/examples/device.rs` is a whole device.
//!
//! The protocol's decisions are in [`state`] and what it holds, without I/O or a clock of their own.
//!

pub mod answers;
pub mod codec;
mod conduct;
pub mod error;
pub mod events;
pub mod frames;
pub mod handle;
mod link;
mod misbehave;
pub mod options;
pub mod outbox;
pub mod plan;
pub mod state;
mod stream;
mod task;
mod upgrade;

pub use error::Error;
pub use events::{
    Acked, Answer, Answered, By, Closed, Command, Connected, Dropped, Goaway, Next, Refused, Reply, Sent, Watcher,
};
pub use handle::{Handle, How, NotTaken, Then};
pub use options::{
    Malformed, Manners, OnFull, Options, Reconnect, TokenFetcher, TokenFuture, TokenMaker, TokenRequest, TokenSource,
    UrlError, trusting,
};
pub(crate) use stream::connect;
pub use task::start;
pub use tidegate::protocol::Encoding;
pub use tidegate::protocol::message::CommandStatus;

use std::time::Instant;

/// What an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// A measurement or event.
    #[default]
    Update,
    /// A health report.
    Status,
}

impl Kind {
    /// Its `type` on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Status => "status",
        }
    }
}

/// Something to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// What it is.
    pub kind: Kind,
    /// What was measured, such as `temperature`; at most 128 bytes.
    pub name: Option<String>,
    /// The value: one JSON value as text.
    pub value: String,
    /// When it was measured, Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// When it was to be sent by schedule; latency counts from here. For a real device: now.
    pub due: Instant,
    /// The caller's own mark, such as a digest of the payload. It comes back with all that is said about the update and
    /// never goes over the wire.
    pub digest: u64,
}

impl Update {
    /// An `update` of this name and JSON value, measured and due now.
    pub fn now(name: &str, value: impl Into<String>) -> Self {
        Self {
            kind: Kind::Update,
            name: Some(name.to_owned()),
            value: value.into(),
            timestamp_ms: Some(crate::telemetry::unix_ms() as i64),
            due: Instant::now(),
            digest: 0,
        }
    }
}
