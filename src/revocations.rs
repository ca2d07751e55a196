//! Who may no longer although its token is good: blocked devices, withdrawn keys, and what was issued before a moment.
//!
//! The truth is the compacted topic `revocations`, which every node reads whole when it starts and then follows, so that
//! no loss of the directory frees a stolen device. [`Revocations`] is what was read of it; [`RevocationWriter`] adds to
//! it. Records and their keys are described in `docs/protocol/revocations.md`.

pub mod memory;
mod record;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

pub use record::{Malformed, Revocation};

use crate::auth::{AuthError, Identity, KeyRef, Revoker, Verified, Why};
use crate::eventlog::{Entry, Ledger, WriteError};
use crate::id::DeviceKey;

/// The topic's name without its prefix.
pub const TOPIC: &str = "revocations";
/// The most revocations a node holds: with keys of 80 bytes some 40 MB. What comes above is not applied, and said loudly.
pub const MAX_REVOCATIONS: usize = 200_000;

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The device is blocked: 403, and 4302 where it is connected.
    Blocked,
    /// The token was revoked, by its key or by its age: 401, and 4202.
    Revoked,
}

/// What a record changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing that closes a connection.
    None,
    /// This device was blocked.
    Blocked(DeviceKey),
    /// Tokens were revoked: whoever is connected has to look at its own.
    Tokens,
}

/// Why a record was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It cannot be read. What its key said before still holds.
    #[error("a revocation cannot be read and changes nothing: {0}")]
    Malformed(#[from] Malformed),
    /// [`MAX_REVOCATIONS`] are held.
    #[error("more than {MAX_REVOCATIONS} revocations: the newest are NOT in force; remove old ones by tombstones")]
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Blocked,
    Key,
    /// Unix milliseconds.
    IssuedBefore(i64),
}

#[derive(Debug, Default)]
struct Table {
    marks: HashMap<Box<str>, Mark>,
    /// How many of the marks are about tokens.
    tokens: usize,
}

impl Table {
    fn remove(&mut self, key: &str) {
        if self.marks.remove(key).is_some_and(|mark| mark != Mark::Blocked) {
            self.tokens -= 1;
        }
    }

    fn insert(&mut self, key: String, mark: Mark) {
        self.remove(&key);
        self.tokens += usize::from(mark != Mark::Blocked);
        self.marks.insert(key.into(), mark);
    }

    fn has(&self, key: &str) -> bool {
        self.marks.contains_key(key)
    }

    fn is_issued_too_early(&self, key: &str, issued_at_ms: i64) -> bool {
        matches!(self.marks.get(key), Some(Mark::IssuedBefore(at_ms)) if issued_at_ms < *at_ms)
    }
}

/// What the topic says, as far as it was read. While the topic cannot be read, what was read last holds.
#[derive(Debug)]
pub struct Revocations {
    table: RwLock<Table>,
    tokens_changed: AtomicBool,
    most: usize,
}

impl Default for Revocations {
    fn default() -> Self {
        Self { table: RwLock::default(), tokens_changed: AtomicBool::new(false), most: MAX_REVOCATIONS }
    }
}

impl Revocations {
    /// Applies a record of the topic; without a value it takes back what its key said.
    ///
    /// # Errors
    /// [`ApplyError`]: it changed nothing.
    pub fn apply(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Change, ApplyError> {
        let (key, revocation) = record::read(key, value)?;
        let (mark, change) = match revocation {
            Some(Revocation::Device { key, blocked: true }) => (Mark::Blocked, Change::Blocked(key)),
            Some(Revocation::KeyId { .. }) => (Mark::Key, Change::Tokens),
            Some(Revocation::IssuedBefore { at_ms, .. }) if at_ms > 0 => (Mark::IssuedBefore(at_ms), Change::Tokens),
            _ => {
                self.write(|table| table.remove(&key));
                return Ok(Change::None);
            }
        };
        let fits = self.write(|table| {
            let fits = table.marks.len() < self.most || table.has(&key);
            if fits {
                table.insert(key, mark);
            }
            fits
        });
        if !fits {
            return Err(ApplyError::Full);
        }
        if change == Change::Tokens {
            self.tokens_changed.store(true, Ordering::Release);
        }
        Ok(change)
    }

    /// Whether tokens were revoked since this was asked last.
    pub fn take_tokens_changed(&self) -> bool {
        self.tokens_changed.load(Ordering::Relaxed) && self.tokens_changed.swap(false, Ordering::AcqRel)
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.read().marks.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody may not: a device or an application, by the key that vouches for its token, if it has one.
    pub fn denial(&self, who: &DeviceKey, is_device: bool, token: Option<&KeyRef>) -> Option<Denial> {
        let table = self.read();
        if table.marks.is_empty() {
            return None;
        }
        if is_device && table.has(&record::device_key(who)) {
            return Some(Denial::Blocked);
        }
        let token = token.filter(|_| table.tokens > 0)?;
        let (tenant, issued_at_ms) = (who.tenant(), token.issued_at_ms());
        let too_early = [record::issued_key(tenant, None), record::issued_key(tenant, Some(who))]
            .iter()
            .any(|key| table.is_issued_too_early(key, issued_at_ms));
        let withdrawn = || {
            let kid = token.kid()?;
            let whose = [None, Some(tenant)].into_iter();
            let mut keys = whose.flat_map(|tenant| [None, Some(token.issuer())].map(|issuer| (tenant, issuer)));
            keys.any(|(tenant, issuer)| table.has(&record::kid_key(tenant, issuer, kid))).then_some(())
        };
        (too_early || withdrawn().is_some()).then_some(Denial::Revoked)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing that runs under this lock can panic half-way, so a poisoned one is as good as any.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Revoker for Revocations {
    fn judge(&self, verified: &Verified) -> Result<(), AuthError> {
        let is_device = matches!(verified.identity, Identity::Device(_));
        match self.denial(verified.identity.key(), is_device, Some(&verified.key)) {
            None => Ok(()),
            Some(Denial::Blocked) => Err(AuthError::Blocked),
            Some(Denial::Revoked) => Err(AuthError::Unauthorized(Why::Revoked)),
        }
    }
}

/// Why a revocation was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// It breaks a bound (400).
    #[error("this revocation cannot be: {0}")]
    Invalid(#[from] Malformed),
    /// It was not stored in time (503), or nobody knows whether it was: repeat it.
    #[error("revocations cannot be stored at the moment: {0}; repeat it")]
    Unavailable(String),
}

impl RevocationError {
    /// The label in metrics.
    pub const fn metric_label(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Adds to the topic.
#[derive(Clone)]
pub struct RevocationWriter(Arc<dyn Ledger>);

impl RevocationWriter {
    /// Writes to this log.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self(ledger)
    }

    /// Stores a revocation; when this returns it survives the loss of every node, and each node applies it as soon as it
    /// has read it. The same one again changes nothing.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub async fn publish(&self, revocation: &Revocation) -> Result<(), RevocationError> {
        revocation.check()?;
        let (key, value) = (revocation.record_key(), revocation.record_value());
        let entry =
            Entry { topic: TOPIC, key: Some(key.as_bytes()), value: value.as_deref().map(str::as_bytes), headers: &[] };
        self.0.write(&entry).await.map_err(|error| match error {
            WriteError::Refused(text) | WriteError::Unavailable(text) => RevocationError::Unavailable(text),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceKey {
        DeviceKey::new("acme", name).unwrap()
    }

    fn apply(revocations: &Revocations, revocation: &Revocation) -> Change {
        let value = revocation.record_value();
        let value = value.as_deref().map(str::as_bytes);
        revocations.apply(Some(revocation.record_key().as_bytes()), value).unwrap()
    }

    #[test]
    fn a_blocked_device_is_denied_until_a_tombstone_frees_it() {
        let revocations = Revocations::default();
        let block = Revocation::Device { key: device("d1"), blocked: true };
        assert_eq!(apply(&revocations, &block), Change::Blocked(device("d1")));
        assert_eq!(revocations.denial(&device("d1"), true, None), Some(Denial::Blocked));
        assert_eq!(revocations.denial(&device("d1"), false, None), None, "an application of that name is another");
        assert_eq!(revocations.denial(&device("d2"), true, None), None);
        let other = DeviceKey::new("other", "d1").unwrap();
        assert_eq!(revocations.denial(&other, true, None), None);
        revocations.apply(Some(b"device:acme/d1"), None).unwrap();
        assert_eq!(revocations.denial(&device("d1"), true, None), None);
        assert!(revocations.is_empty() && !revocations.take_tokens_changed());
    }

    #[test]
    fn what_cannot_be_read_leaves_what_was_read_before() {
        let revocations = Revocations::default();
        apply(&revocations, &Revocation::Device { key: device("d1"), blocked: true });
        let bad = revocations.apply(Some(b"device:acme/d1"), Some(b"{\"type\":\"device\""));
        assert!(matches!(bad, Err(ApplyError::Malformed(_))), "{bad:?}");
        assert_eq!(revocations.denial(&device("d1"), true, None), Some(Denial::Blocked));
    }

    #[test]
    fn the_last_moment_counts_and_zero_takes_it_back() {
        let revocations = Revocations::default();
        let before = |at_ms| Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms };
        assert_eq!(apply(&revocations, &before(5_000)), Change::Tokens);
        assert!(revocations.take_tokens_changed() && !revocations.take_tokens_changed());
        assert!(revocations.read().is_issued_too_early("issued:acme", 4_999));
        assert!(!revocations.read().is_issued_too_early("issued:acme", 5_000));
        apply(&revocations, &before(3_000));
        assert!(!revocations.read().is_issued_too_early("issued:acme", 4_999));
        assert_eq!(apply(&revocations, &before(0)), Change::None);
        assert_eq!((revocations.len(), revocations.read().tokens), (0, 0));
    }

    #[test]
    fn more_than_fit_are_refused_and_said_and_what_is_held_can_still_change() {
        let revocations = Revocations { most: 10, ..Revocations::default() };
        for number in 0..10 {
            apply(&revocations, &Revocation::Device { key: device(&number.to_string()), blocked: true });
        }
        let block = |name: &str| {
            revocations.apply(
                Some(format!("device:acme/{name}").as_bytes()),
                Revocation::Device { key: device(name), blocked: true }.record_value().as_deref().map(str::as_bytes),
            )
        };
        assert_eq!(block("more"), Err(ApplyError::Full));
        assert_eq!(block("7"), Ok(Change::Blocked(device("7"))));
        revocations.apply(Some(b"device:acme/7"), None).unwrap();
        assert_eq!(block("more"), Ok(Change::Blocked(device("more"))));
    }
}
