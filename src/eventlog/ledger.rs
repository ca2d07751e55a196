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
