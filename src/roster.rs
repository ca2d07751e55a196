//! Which devices are connected to this node: device to mailbox, newest wins, and only what is yours is removed.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use crate::id::{DeviceKey, Epoch};
use crate::mailbox::{Letter, Mailbox};
use crate::protocol::close::CloseReason;

const SHARDS: usize = 16;

#[derive(Debug)]
struct Entry {
    key: DeviceKey,
    epoch: Epoch,
    /// Which boot holds it, as a hash: only ever compared.
    boot: u64,
    mailbox: Arc<Mailbox>,
}

/// The devices of this node.
#[derive(Debug, Default)]
pub struct Roster {
    shards: [Mutex<HashTable<Entry>>; SHARDS],
    hasher: DefaultHashBuilder,
}

impl Roster {
    /// Enters a connection with an epoch above every earlier one of the device, and tells the connection it replaces:
    /// `moved` where it is the same boot that came back, `superseded` where it is another.
    ///
    /// The epoch is microseconds since 1970, or one more than the last where that is higher. Who enters has to
    /// [`Roster::leave`] with it.
    pub fn enter(&self, key: &DeviceKey, boot: &str, mailbox: Arc<Mailbox>, unix_us: u64) -> Epoch {
        let hash = self.hasher.hash_one(key);
        let boot = self.hasher.hash_one(boot);
        let mut shard = self.shard(hash);
        match shard.entry(hash, |entry| entry.key == *key, |entry| self.hasher.hash_one(&entry.key)) {
            hash_table::Entry::Occupied(mut occupied) => {
                let old = occupied.get_mut();
                let epoch = Epoch(unix_us.max(old.epoch.0 + 1));
                let reason = if old.boot == boot { CloseReason::Moved } else { CloseReason::Superseded };
                // Full or gone: it is ending for another reason already.
                let _ = old.mailbox.post(Letter::Close(reason));
                *old = Entry { key: key.clone(), epoch, boot, mailbox };
                epoch
            }
            hash_table::Entry::Vacant(vacant) => {
                let epoch = Epoch(unix_us);
                vacant.insert(Entry { key: key.clone(), epoch, boot, mailbox });
                epoch
            }
        }
    }

    /// Removes what was entered with this epoch; where a newer one has taken its place, nothing.
    pub fn leave(&self, key: &DeviceKey, epoch: Epoch) {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        if let Ok(entry) = shard.find_entry(hash, |entry| entry.key == *key && entry.epoch == epoch) {
            entry.remove();
        }
    }

    /// The connected device's mailbox and epoch.
    pub fn find(&self, key: &DeviceKey) -> Option<(Arc<Mailbox>, Epoch)> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        shard.find(hash, |entry| entry.key == *key).map(|entry| (Arc::clone(&entry.mailbox), entry.epoch))
    }

    /// Devices connected.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no device is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashTable<Entry>> {
        // The table uses the low bits for buckets and the top seven for tags: take some between.
        lock(&self.shards[(hash >> 40) as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half-way, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins_and_the_loser_is_told_why() {
        let roster = Roster::default();
        let key = DeviceKey::new("t", "d").unwrap();
        let mailboxes: Vec<_> = (0..3).map(|_| Arc::new(Mailbox::default())).collect();
        let first = roster.enter(&key, "boot-a", Arc::clone(&mailboxes[0]), 100);
        let second = roster.enter(&key, "boot-a", Arc::clone(&mailboxes[1]), 100);
        assert_eq!(mailboxes[0].take_letter(), Some(Letter::Close(CloseReason::Moved)));
        let third = roster.enter(&key, "boot-b", Arc::clone(&mailboxes[2]), 50);
        assert_eq!(mailboxes[1].take_letter(), Some(Letter::Close(CloseReason::Superseded)));
        assert_eq!([first, second, third], [100, 101, 102].map(Epoch));
    }

    #[test]
    fn a_row_is_small() {
        // A row of the table, beside it one byte of tag, and room for growth: the table is at most seven eighths full.
        assert!(size_of::<Entry>() <= 48, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_loser_that_leaves_late_removes_nothing() {
        let roster = Roster::default();
        let key = DeviceKey::new("t", "d").unwrap();
        let first = roster.enter(&key, "a", Arc::new(Mailbox::default()), 1);
        let second = roster.enter(&key, "a", Arc::new(Mailbox::default()), 2);
        roster.leave(&key, first);
        assert_eq!(roster.find(&key).unwrap().1, second);
        roster.leave(&key, second);
        assert!(roster.is_empty());
    }
}
