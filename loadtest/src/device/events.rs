//! What a device tells whoever watches it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::protocol::message::CommandStatus;

use super::error::Error;

/// Hears all that happens to one device. Called by the device's own task, so no call may block; a call may use the
/// device's [`crate::device::Handle`]. Every method but `command` has a body that does nothing.
pub trait Watcher: Send + 'static {
    /// It has its `welcome`.
    fn connected(&mut self, connected: &Connected<'_>) {
        let _ = connected;
    }

    /// An attempt to connect failed.
    fn connect_failed(&mut self, error: &Error, next: Next) {
        let _ = (error, next);
    }

    /// An update was written; told again for each repeat.
    fn sent(&mut self, sent: &Sent<'_>) {
        let _ = sent;
    }

    /// An update is stored; told once for each, in the order of `seq` within a boot.
    fn acked(&mut self, acked: &Acked<'_>) {
        let _ = acked;
    }

    /// Something will never be taken and is not sent again.
    fn refused(&mut self, refused: &Refused<'_>) {
        let _ = refused;
    }

    /// The device itself gave an update up.
    fn dropped(&mut self, dropped: &Dropped<'_>) {
        let _ = dropped;
    }

    /// It was told to hold its updates, by `log` or `rate`. Over with the connection, too.
    fn paused(&mut self, reason: &str, retry_after: Option<Duration>) {
        let _ = (reason, retry_after);
    }

    /// It may send again, as far as this reason goes.
    fn resumed(&mut self, reason: &str) {
        let _ = reason;
    }

    /// It was told to connect elsewhere, which it will.
    fn goaway(&mut self, goaway: &Goaway<'_>) {
        let _ = goaway;
    }

    /// A command to be run. Told once for each id, for as long as the command lives.
    fn command(&mut self, command: &Command<'_>) -> Answer {
        let _ = command;
        Answer::Now(Reply::rejected("this device knows no commands"))
    }

    /// A command came again that it has had already; it is not to be run.
    fn repeated(&mut self, command: &Command<'_>) {
        let _ = command;
    }

    /// An answer was written.
    fn answered(&mut self, answered: &Answered<'_>) {
        let _ = answered;
    }

    /// A connection that had its `welcome` is over.
    fn closed(&mut self, closed: &Closed<'_>) {
        let _ = closed;
    }

    /// The gateway did what the protocol does not allow.
    fn violation(&mut self, what: &str) {
        let _ = what;
    }

    /// So many bytes went over the socket, before and after TLS; not those of the handshake.
    fn bytes(&mut self, written: usize, read: usize) {
        let _ = (written, read);
    }
}

/// Nobody watches.
impl Watcher for () {}

/// What comes next for a device without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It tries after this long.
    After(Duration),
    /// Nothing needs to: it has a newer connection.
    Replaced,
    /// Nothing, until it is told to connect.
    Nothing,
}

/// A `welcome`.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected<'a> {
    /// Scopes `seq`.
    pub boot: &'a str,
    /// The identity the gateway sees.
    pub device_id: &'a str,
    /// The connection's own name.
    pub session: &'a str,
    /// Its ownership epoch.
    pub epoch: u64,
    /// Whether it is the device's first.
    pub first: bool,
    /// From the first SYN to the `welcome`.
    pub took: Duration,
    /// The TLS handshake alone.
    pub tls: Option<Duration>,
    /// From the end of the last connection to this `welcome`, the back-off included; zero where the old one still works.
    pub away: Option<Duration>,
    /// The gateway's ping interval.
    pub heartbeat: Duration,
    /// How many updates may be unacked.
    pub window: usize,
    /// This boot's last ack, where it was told.
    pub resume_after: Option<u64>,
    /// Whether the gateway compresses.
    pub deflate: bool,
    /// Updates to be sent again or for the first time.
    pub unacked: usize,
}

/// An update that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    /// Scopes `seq`.
    pub boot: &'a str,
    /// Its number.
    pub seq: u64,
    /// The caller's mark.
    pub digest: u64,
    /// When it was due.
    pub due: Instant,
    /// When it was written.
    pub at: Instant,
    /// It was written before, on an earlier connection.
    pub repeat: bool,
}

/// An update that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked<'a> {
    /// Scopes `seq`.
    pub boot: &'a str,
    /// Its number.
    pub seq: u64,
    /// The caller's mark.
    pub digest: u64,
    /// When it was due.
    pub due: Instant,
    /// When it was first written.
    pub sent: Instant,
    /// When the ack was read.
    pub at: Instant,
    /// How often it was written.
    pub times: u32,
    /// It was told by `resume_after` on the next connection, not by an `ack`.
    pub resumed: bool,
}

/// Something that is never taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Scopes `seq`.
    pub boot: &'a str,
    /// The update, where it was one.
    pub seq: Option<u64>,
    /// Its mark, where the device still had it.
    pub digest: Option<u64>,
    /// The command's answer, where it was one.
    pub id: Option<&'a str>,
    /// Why, in a word.
    pub code: &'a str,
    /// Why.
    pub message: &'a str,
    /// The device saw by itself that it would be: it never was sent.
    pub unsent: bool,
}

/// An update the device gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped<'a> {
    /// Scopes `seq`.
    pub boot: &'a str,
    /// Its number.
    pub seq: u64,
    /// The caller's mark.
    pub digest: u64,
    /// When it was due.
    pub due: Instant,
    /// It had been written, so it may be stored all the same.
    pub sent: bool,
}

/// A `goaway`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goaway<'a> {
    /// Why, in a word.
    pub reason: &'a str,
    /// How long this connection still works.
    pub deadline: Duration,
    /// When the device will open another.
    pub moves_after: Duration,
}

/// A `command`.
#[derive(Debug, Clone, PartialEq)]
pub struct Command<'a> {
    /// Its id.
    pub id: &'a str,
    /// What to do.
    pub name: &'a str,
    /// With what.
    pub params: &'a Value,
    /// Until when it is of use, Unix milliseconds.
    pub expires_at_ms: i64,
    /// How often it was sent before, and once.
    pub attempt: u64,
}

/// What a device says about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How far it is. `Received` and `Running` are words on the way; the others are answers.
    pub status: CommandStatus,
    /// What came of it: one JSON value as text.
    pub result: Option<String>,
    /// In words.
    pub message: Option<String>,
}

impl Reply {
    /// Done.
    pub fn succeeded() -> Self {
        Self { status: CommandStatus::Succeeded, result: None, message: None }
    }

    /// Done, with a result: one JSON value as text.
    pub fn with_result(result: impl Into<String>) -> Self {
        Self { result: Some(result.into()), ..Self::succeeded() }
    }

    /// Tried and failed.
    pub fn failed(message: &str) -> Self {
        Self { status: CommandStatus::Failed, result: None, message: Some(message.to_owned()) }
    }

    /// Will not be tried.
    pub fn rejected(message: &str) -> Self {
        Self { status: CommandStatus::Rejected, result: None, message: Some(message.to_owned()) }
    }

    /// Being done; an answer follows by [`crate::device::Handle::answer`].
    pub fn running() -> Self {
        Self { status: CommandStatus::Running, result: None, message: None }
    }

    /// Whether it ends the command.
    pub const fn is_final(&self) -> bool {
        !matches!(self.status, CommandStatus::Received | CommandStatus::Running)
    }
}

/// When a device answers a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Now(Reply),
    /// After this long, as work does that takes time; on whichever connection there is then.
    After(Duration, Reply),
    /// By [`crate::device::Handle::answer`].
    Later,
    /// Not at all.
    Never,
}

/// An answer that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<'a> {
    /// The command.
    pub id: &'a str,
    /// What was said.
    pub status: CommandStatus,
    /// It was said before: the command had come again.
    pub repeat: bool,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The gateway, with a close frame or, told by `goaway` or `error`, without one.
    Gateway,
    /// The device: told to by its handle, or it moved, or it heard nothing for too long.
    Device,
    /// Neither said a word.
    Network,
}

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed<'a> {
    /// The close code the gateway gave, if any.
    pub code: Option<u16>,
    /// Its reason, or what went wrong.
    pub reason: &'a str,
    /// Who ended it.
    pub by: By,
    /// How long it was open.
    pub lasted: Duration,
    /// Updates written on it and not settled: they are sent again.
    pub in_flight: usize,
    /// What comes next.
    pub next: Next,
}
