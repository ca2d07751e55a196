//! What applications want devices to do: durable, in order, each ended exactly once. The seam, and its promise.
//!
//! `lifecycle` is the state machine; `memory` and `redis` keep commands and move them by it. A command lives beside its
//! device's row, so each step of it is one script on one shard; what comes due lies in [`SHARDS`] lists of its own.

pub mod event;
pub mod lifecycle;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
pub mod window;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use aws_lc_rs::digest;

pub use event::CommandEvent;
pub use lifecycle::{Life, Reason, State};

use crate::id::{CommandId, DeviceKey, Epoch, Incarnation, NodeName, is_id};
use crate::protocol::message::CommandStatus;
use crate::telemetry::traces::TraceContext;

/// Commands of one device that have not ended; one more is [`CommandError::QueueFull`].
pub const MAX_QUEUED: usize = 100;
/// Lists of what comes due. Each is swept by one node.
pub const SHARDS: u8 = 64;
/// How often at most the owner of a waiting command is told of it again, in milliseconds.
pub const RING_MS: i64 = 30_000;
/// The most time, in milliseconds, from the entry in a due list to the command itself; nothing comes due before it.
pub const ACCEPT_MS: i64 = 5_000;
/// How long an entry without a command stays in its due list, in milliseconds.
pub const DANGLING_MS: i64 = 600_000;
/// How long a command can be read after its end is in the event log, in milliseconds.
pub const KEPT_MS: i64 = 24 * 3_600_000;
/// Longest time to live, in milliseconds: 7 days.
pub const MAX_TTL_MS: u64 = 7 * 24 * 3_600_000;
/// Attempts of a command whose caller says nothing.
pub const ATTEMPTS: u32 = 5;
/// Most attempts a caller may ask for.
pub const MAX_ATTEMPTS: u32 = 20;
/// Longest name of a command, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest key of a caller, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// What a command's message to its device has at least beside name and params, in bytes of JSON.
const FRAME_BYTES: usize = 117;
/// What is kept of a device's words, in bytes: event and result together must fit into the log.
pub const MAX_MESSAGE_BYTES: usize = 256;

/// Unix milliseconds, as somebody tells them.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A future of the seam.
pub type CommandFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CommandError>> + Send + 'a>>;

/// Who holds a device, as its row says: to be judged against the live nodes by whoever reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The node.
    pub node: NodeName,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// The connection's epoch.
    pub epoch: Epoch,
}

/// A command as an application asks for it.
#[derive(Debug, Clone)]
pub struct Submission<'a> {
    /// For whom.
    pub device: &'a DeviceKey,
    /// By whom: an id of the same tenant.
    pub application: &'a str,
    /// The caller's own name for it, 1 to [`MAX_KEY_BYTES`] bytes: the same key is the same command.
    pub key: &'a str,
    /// What to do, 1 to [`MAX_NAME_BYTES`] bytes.
    pub name: &'a str,
    /// With what: JSON.
    pub params: &'a [u8],
    /// How long it may wait, in milliseconds, 1 to [`MAX_TTL_MS`].
    pub ttl_ms: u64,
    /// From when on, in Unix milliseconds; `None`: from now.
    pub since_ms: Option<i64>,
    /// On how many connections it may be tried, 1 to [`MAX_ATTEMPTS`]. With 1 it is never sent twice.
    pub max_attempts: u32,
    /// Whether it takes the place of what is queued under the same name.
    pub replace: bool,
    /// Now or never: taken only while the device's row has this epoch.
    pub only_epoch: Option<Epoch>,
    /// Who waits for its end, and its place in a trace: kept and given back as it is, at most 512 bytes
    /// ([`origin`]).
    pub origin: Option<&'a str>,
}

impl Submission<'_> {
    /// Its command's id.
    pub fn id(&self) -> CommandId {
        CommandId::of(self.device, self.application, self.key)
    }

    /// The least its message to the device can have, in bytes of JSON.
    pub fn message_bytes(&self) -> usize {
        self.name.len() + self.params.len() + FRAME_BYTES
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`CommandError::Invalid`] with what is wrong.
    pub fn check(&self) -> Result<(), CommandError> {
        let rules = [
            (is_id(self.application), "the application's id is not one"),
            ((1..=MAX_KEY_BYTES).contains(&self.key.len()), "a key has 1 to 256 bytes"),
            ((1..=MAX_NAME_BYTES).contains(&self.name.len()), "a name has 1 to 128 bytes"),
            (
                !self.key.chars().chain(self.name.chars()).any(char::is_control),
                "keys and names have no control characters",
            ),
            ((1..=MAX_TTL_MS).contains(&self.ttl_ms), "a time to live is above 0 s and at most 7 days"),
            ((1..=MAX_ATTEMPTS).contains(&self.max_attempts), "attempts are 1 to 20"),
            (self.origin.is_none_or(|origin| origin.len() <= 512), "an origin has at most 512 bytes"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(CommandError::Invalid(text)),
            None => Ok(()),
        }
    }

    /// What makes two submissions of one key the same: everything asked of the device and how, in hex.
    pub fn body_hash(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [self.name.as_bytes(), self.params] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(&self.ttl_ms.to_be_bytes());
        hash.update(&self.max_attempts.to_be_bytes());
        hash.update(&[u8::from(self.replace), u8::from(self.only_epoch.is_some())]);
        hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What became of a [`Submission`].
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The command as it is now.
    pub command: Command,
    /// Whether it is new; `false`: this key was taken before, with the same body.
    pub new: bool,
    /// Who holds the device, if anybody: its doorbell is next.
    pub row: Option<Row>,
    /// What it took the place of: canceled, and to be published.
    pub replaced: Vec<Command>,
}

/// One command.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// For whom.
    pub device: DeviceKey,
    /// What to do.
    pub name: String,
    /// With what: JSON.
    pub params: Vec<u8>,
    /// How far it is.
    pub life: Life,
    /// When it was accepted, Unix milliseconds.
    pub created_ms: i64,
    /// The application.
    pub requested_by: String,
    /// The caller's name for it.
    pub key: String,
    /// Who waits for its end, and its place in a trace ([`origin`]).
    pub origin: Option<String>,
    /// What the device gave back: JSON.
    pub result: Option<Vec<u8>>,
    /// The device's words.
    pub message: Option<String>,
    /// Every transition so far, oldest first.
    pub history: Vec<Turn>,
    /// What came after its end.
    pub late: Option<Late>,
    /// Whether its end is in the event log.
    pub published: bool,
}

/// An origin: who waits for a command's end, and behind a blank the command's place in its trace, where that is sampled.
pub fn origin(waits: &str, trace: Option<TraceContext>) -> String {
    match trace {
        Some(context) => format!("{waits} {context}"),
        None => waits.to_owned(),
    }
}

impl Command {
    /// Who waits for its end.
    pub fn waits(&self) -> Option<&str> {
        self.origin.as_deref().map(|origin| origin.split_once(' ').map_or(origin, |(waits, _)| waits))
    }

    /// Its place in its trace, where that is sampled.
    pub fn trace(&self) -> Option<TraceContext> {
        let (_, trace) = self.origin.as_deref()?.split_once(' ')?;
        TraceContext::parse(trace).filter(|context| context.is_sampled())
    }
}

/// One transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The version it made.
    pub version: u32,
    /// What the command became.
    pub state: State,
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Attempts so far.
    pub attempts: u32,
    /// The connection that sent it last.
    pub epoch: Option<Epoch>,
    /// Why, where it ended.
    pub reason: Option<Reason>,
}

/// Answers that came when the command had ended otherwise: the first, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// How many came.
    pub count: u32,
    /// What the first said.
    pub status: CommandStatus,
    /// When it came, Unix milliseconds.
    pub at_ms: i64,
    /// Its result: JSON.
    pub result: Option<Vec<u8>>,
    /// Its words.
    pub message: Option<String>,
}

/// What a device says about a command.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// How far it is.
    pub status: CommandStatus,
    /// JSON.
    pub result: Option<&'a [u8]>,
    /// Words; what is beyond [`MAX_MESSAGE_BYTES`] is cut off.
    pub message: Option<&'a str>,
}

impl<'a> Answer<'a> {
    /// The device's words as they are kept.
    pub fn kept_message(&self) -> Option<&'a str> {
        self.message.map(|text| {
            let fits = |end: &usize| text.is_char_boundary(*end);
            let end = (0..=MAX_MESSAGE_BYTES.min(text.len())).rev().find(fits).unwrap_or_default();
            text.get(..end).unwrap_or_default()
        })
    }
}

/// Whether a connection may write a command's frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Sending {
    /// Yes, within 2 s: its `attempt` is [`Life::attempts`]. `changed`: this is a transition, to be published.
    Write {
        /// The command.
        command: Box<Command>,
        /// Whether its version grew.
        changed: bool,
    },
    /// No: the device's row is not, or no longer, this connection's. Write nothing more for this device.
    Fenced,
    /// No: it has ended.
    Ended,
    /// No: its time is over.
    PastDeadline,
    /// No: this connection has written it as often as it may be. Wait.
    Spent,
    /// No: it had no attempt left and has failed by that; to be published.
    Undeliverable(Box<Command>),
    /// No: there is no such command.
    Gone,
}

/// What a connection has to send, and whether it may begin.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Taken {
    /// In queue order.
    pub ids: Vec<CommandId>,
    /// Of the first of them; nothing where there is none, or where it has to be asked.
    pub first: Option<Sending>,
}

/// What a device's answer did.
#[derive(Debug, Clone, PartialEq)]
pub enum Answered {
    /// A transition: to be published, and told to whoever waits.
    Changed(Box<Command>),
    /// Nothing: it, or more, was said before.
    Known,
    /// It had ended otherwise: recorded as a late result.
    Late,
    /// Nothing: the command was never sent, so somebody guesses. A security event.
    NeverSent,
    /// Nothing: there is no such command.
    Gone,
}

/// What became of a wish to take a command back.
#[derive(Debug, Clone, PartialEq)]
pub struct Canceled {
    /// The command.
    pub command: Command,
    /// Whether this did it, so that it is to be published; `false`: it was canceled before.
    pub changed: bool,
}

/// Something that came due.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// It ended, and its end is not known to be in the event log: publish it, then [`Commands::settle_published`].
    Publish(Box<Command>),
    /// It waits, and somebody holds the device: tell that node.
    Ring {
        /// The device.
        device: DeviceKey,
        /// The command.
        id: CommandId,
        /// Who holds it.
        row: Row,
    },
}

/// Which due lists are worth a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ripe {
    /// Their shards.
    pub shards: Vec<u8>,
    /// For how long nothing comes due in the others, in milliseconds: at most [`ACCEPT_MS`], as what is new comes due no
    /// sooner.
    pub quiet_ms: i64,
}

/// What one look at a due list found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Swept {
    /// What is to be done.
    pub work: Vec<Due>,
    /// How many entries were looked at: as many as asked for means that more may be due.
    pub looked: usize,
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It breaks a bound (400).
    #[error("this command cannot be: {0}")]
    Invalid(&'static str),
    /// The key was used for something else (409).
    #[error("this key was used for a command with another body: use a new key")]
    Conflict,
    /// The device has [`MAX_QUEUED`] commands that have not ended (429).
    #[error("the device's queue is full: wait until some of its commands have ended, or cancel some")]
    QueueFull,
    /// The device takes messages of at most so many bytes (413).
    #[error("the device takes messages of at most {0} bytes")]
    TooLarge(usize),
    /// Its time was over before it came (409, or the dead-letter topic).
    #[error("the command had expired before it was accepted")]
    Expired,
    /// It was for now or never, and the device is not where it was thought (409).
    #[error("the device is not connected")]
    NotConnected,
    /// There is no such command, or it was lost with the directory (404).
    #[error("there is no such command; if it was accepted before, repeat it with the same key")]
    NotFound,
    /// It is too late to take it back: it was sent, or has ended (409).
    #[error("the command cannot be canceled any more: it is {}", .0.as_str())]
    TooLate(State),
    /// The directory cannot be reached, or did not do it in time (503). Whether it was done is unknown: repeat it.
    #[error("commands cannot be taken at the moment: {0}; repeat with the same key")]
    Unavailable(String),
}

impl CommandError {
    /// The label in metrics.
    pub const fn metric_label(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Conflict => "conflict",
            Self::QueueFull => "queue_full",
            Self::TooLarge(_) => "too_large",
            Self::Expired => "expired",
            Self::NotConnected => "not_connected",
            Self::NotFound => "not_found",
            Self::TooLate(_) => "too_late",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::QueueFull | Self::NotConnected | Self::Unavailable(_))
    }
}

/// The commands of all devices.
///
/// **Durability**: a command that [`submit`](Self::submit) took lives until its end is in the event log and a day beyond,
/// as long as what keeps it does. **Order**: [`pending`](Self::pending) has a device's commands as they were accepted.
/// **One ending**: of all calls, whoever makes them and at whatever time, one makes the terminal transition; a call whose
/// answer was lost may be repeated and tells the same. **Expiry**: a command that has not ended when its time is over ends
/// at the next [`sweep`](Self::sweep) of its shard.
pub trait Commands: Send + Sync + 'static {
    /// Takes a command; the same key and body again give what there is.
    ///
    /// # Errors
    /// [`CommandError`]: all but `NotFound` and `TooLate`.
    fn submit<'a>(&'a self, submission: &'a Submission<'a>) -> CommandFuture<'a, Submitted>;

    /// The first `limit` commands in queue order that can still be sent and that the connection of `epoch` was not yet
    /// allowed to write: what a claim, or a doorbell, has to send. Each needs [`mark_sent`](Self::mark_sent).
    ///
    /// # Errors
    /// [`CommandError::Unavailable`].
    fn pending<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Vec<CommandId>>;

    /// [`pending`](Self::pending), and [`mark_sent`](Self::mark_sent) of the first it finds, in one step where that can be.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`]: the first may be marked, and then no longer waits for this epoch: see
    /// [`list`](Self::list) what has not ended.
    fn take<'a>(&'a self, device: &'a DeviceKey, epoch: Epoch, limit: usize) -> CommandFuture<'a, Taken> {
        Box::pin(async move {
            let ids = self.pending(device, epoch, limit).await?;
            let first = match ids.first() {
                Some(id) => self.mark_sent(device, *id, epoch, false).await.ok(),
                None => None,
            };
            Ok(Taken { ids, first })
        })
    }

    /// Asks whether the connection of `epoch` may write a command; `again`: it has written it before. Asking once more
    /// costs no attempt.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`]: do not write it; ask again.
    fn mark_sent<'a>(
        &'a self,
        device: &'a DeviceKey,
        id: CommandId,
        epoch: Epoch,
        again: bool,
    ) -> CommandFuture<'a, Sending>;

    /// Tells what the device said, on whatever connection.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`]: drop the answer; the command comes again.
    fn answer<'a>(&'a self, device: &'a DeviceKey, id: CommandId, answer: Answer<'a>) -> CommandFuture<'a, Answered>;

    /// Takes a command back, if it was never sent.
    ///
    /// # Errors
    /// [`CommandError`]: `NotFound`, `TooLate`, `Unavailable`.
    fn cancel<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Canceled>;

    /// One command.
    ///
    /// # Errors
    /// [`CommandError`]: `NotFound`, `Unavailable`.
    fn get<'a>(&'a self, device: &'a DeviceKey, id: CommandId) -> CommandFuture<'a, Command>;

    /// The first `limit` commands of a device that have not ended, in queue order.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`].
    fn list<'a>(&'a self, device: &'a DeviceKey, limit: usize) -> CommandFuture<'a, Vec<Command>>;

    /// Which of these shards have something due: a look that costs little where none has.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`].
    fn ripe<'a>(&'a self, shards: &'a [u8]) -> CommandFuture<'a, Ripe>;

    /// Looks at up to `limit` entries of a shard that are due: expires what is over, finds what is to be published or
    /// rung for, and sets when to look again. `live` judges a row. Two sweepers of one shard do no harm.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`]: what was not looked at stays due.
    fn sweep<'a>(
        &'a self,
        shard: u8,
        limit: usize,
        live: &'a (dyn Fn(&Row) -> bool + Send + Sync),
    ) -> CommandFuture<'a, Swept>;

    /// Notes that the event of a command's end, its `version`, is stored: nothing is due any more, and in a day it is
    /// forgotten.
    ///
    /// # Errors
    /// [`CommandError::Unavailable`]: the sweep publishes it once more.
    fn settle_published<'a>(&'a self, device: &'a DeviceKey, id: CommandId, version: u32) -> CommandFuture<'a, ()>;
}

/// Commands as everything above holds them.
pub type SharedCommands = Arc<dyn Commands>;

/// The shard in which a command comes due.
pub const fn shard_of(id: CommandId) -> u8 {
    (id.bits() % SHARDS as u128) as u8
}

/// What an entry of a due list is called: the device and the command.
fn due_member(device: &DeviceKey, id: CommandId) -> String {
    format!("{device} {id}")
}

/// What the name of an entry says.
fn parse_due_member(member: &str) -> Option<(DeviceKey, CommandId)> {
    let (device, id) = member.split_once(' ')?;
    let (tenant, device) = device.split_once('/')?;
    Some((DeviceKey::new(tenant, device).ok()?, CommandId::parse(id).ok()?))
}
