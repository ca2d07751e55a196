//! Records that are no device's words: written one at a time, and waited for.

use super::LogFuture;

/// One such record.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The topic's name without its prefix.
    pub topic: &'a str,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Why an [`Entry`] is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The log will never take this one: too large for it, or invalid.
    #[error("the log refuses this record: {0}")]
    Refused(String),
    /// It was not stored in time; it may be yet. Writing it again does no harm.
    #[error("the log does not store records now: {0}")]
    Unavailable(String),
}

/// Where single records are stored. Nothing is promised about the order of two that are under way at once.
pub trait Ledger: Send + Sync + 'static {
    /// Stores a record; `Ok` once it survives the loss of this process, and of all but the last in-sync replica.
    ///
    /// # Errors
    /// [`WriteError`], after at most some seconds.
    fn write<'a>(&'a self, entry: &'a Entry<'a>) -> LogFuture<'a, Result<(), WriteError>>;
}

/// What is in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a tombstone.
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// More bytes than are read: this many.
    TooLarge(usize),
}

/// A record as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Partition.
    pub partition: i32,
    /// Its place in that.
    pub offset: i64,
    /// The record's time, Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// Key; none also where it is longer than what is read.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Content,
    /// Headers in their order, the first 64 and 16 KiB of them.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Who handles records that are read once by all nodes together.
pub trait Handler: Send + Sync + 'static {
    /// Handles one. It counts as read when this has ended, and is handled again where that was lost; the next of its
    /// partition comes after it.
    fn handle(&self, record: Fetched) -> LogFuture<'_, ()>;
}
