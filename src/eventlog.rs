//! Where what devices send becomes durable: the seam, and its promise.

mod encode;
#[cfg(feature = "kafka")]
pub mod kafka;
mod ledger;
pub mod memory;
mod publish;
pub mod record;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use ledger::{Content, Entry, Fetched, Handler, Ledger, WriteError};
pub use record::{Kind, Record, Topic};

/// Names one appended record to whoever waits for it: 64 bits that the log carries and never reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// How an appended record ended. There is no third way: until one of these the log keeps trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is durable.
    Stored,
    /// The log will never take this one record (too large for it, invalid); others are unaffected.
    Refused,
}

/// Receives the delivery reports. Called on the log's own thread, once for each appended record, in any order across
/// keys; it must only hand over and never block.
pub trait Deliveries: Send + Sync + 'static {
    /// `ticket`'s record ended; `bytes` is the length of its value.
    fn settled(&self, ticket: Ticket, bytes: usize, outcome: Outcome);
}

/// Whether the log is taking records, as devices are told (`pause`, `resume`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flow {
    /// Records are stored as they come.
    Open,
    /// Nothing was stored for `limits.log_stall_ms` although something waits, or half the node's budget is used.
    Paused,
}

/// Why a record was not taken at all. The caller keeps it and does not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log's own queue is full, or it is being replaced: try again when something was settled, or after a moment.
    #[error("the event log's queue is full")]
    Full,
    /// The log is closed for good: the node is shutting down.
    #[error("the event log is closed")]
    Closed,
}

/// A boxed future of the seam's slow calls.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An append-only log.
///
/// **Order**: records of one key are stored in the order of their `append`s, except where a producer was replaced.
/// **Durability**: [`Outcome::Stored`] is reported only when the record survives the loss of this process (and, for
/// Kafka, of all but the last in-sync replica). **Delivery**: each taken record is reported exactly once while the
/// process lives; it may be stored more than once, under the same id and with the same value.
pub trait EventLog: Send + Sync + 'static {
    /// Takes one record without waiting. `Ok` means it will be reported to the [`Deliveries`] given at creation.
    ///
    /// # Errors
    /// [`AppendError`]: it was not taken and will not be reported.
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError>;

    /// How many records wait, and the bytes of their values.
    fn pending(&self) -> Pending;

    /// The same of one topic, with how long that one is stalled.
    fn pending_in(&self, topic: Topic) -> Pending;

    /// A round trip: one probe record, appended and stored, within `timeout`.
    fn probe(&self, timeout: Duration) -> LogFuture<'_, Result<(), ProbeError>>;

    /// Takes no more records, waits until all that was taken is reported or `deadline` passed, and lets the log go.
    /// Returns how many records were still waiting.
    fn close(&self, deadline: Duration) -> LogFuture<'_, usize>;
}

/// What the log still has to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Records.
    pub messages: usize,
    /// Bytes of their values.
    pub bytes: usize,
    /// Milliseconds since the last delivery report, or since the first of the waiting records was appended where that
    /// is later. 0 where nothing waits.
    pub stalled_ms: u64,
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No delivery report in time.
    #[error("the event log stored no probe record within {0:?}")]
    Timeout(Duration),
    /// The log said no; the text names the topic and the broker's reason.
    #[error("the event log refused the probe record: {0}")]
    Refused(String),
}

/// The log as everything above holds it.
pub type SharedLog = Arc<dyn EventLog>;
