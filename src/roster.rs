//! Which devices are connected to this node: device to mailbox, newest wins, and only what is yours is removed.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use crate::id::{DeviceKey, Epoch};
use crate::mailbox::{Letter, Mailbox};
use crate::protocol::close::CloseReason;
use crate::sync::lock;

const SHARDS: usize = 16;

#[derive(Debug)]
struct Entry {
    key: DeviceKey,
    /// Its epoch changes only under the shard's lock.
    mailbox: Arc<Mailbox>,
}

/// The devices of this node.
#[derive(Debug, Default)]
pub struct Roster {
    shards: [Mutex<HashTable<Entry>>; SHARDS],
    hasher: DefaultHashBuilder,
}

impl Roster {
    /// Enters a connection that nobody claimed with an epoch above every earlier one of the device and above `floor`,
    /// and tells the connection it replaces: `moved` where it is the same boot that came back, `superseded` where it is
    /// another. Who enters has to [`Roster::leave`].
    pub fn enter(&self, key: &DeviceKey, mailbox: Arc<Mailbox>, floor: Epoch) -> Epoch {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        match shard.entry(hash, |entry| entry.key == *key, |entry| self.hasher.hash_one(&entry.key)) {
            hash_table::Entry::Occupied(mut occupied) => {
                let old = occupied.get_mut();
                let epoch = Epoch(floor.max(old.mailbox.epoch()).0 + 1);
                mailbox.set_epoch(epoch);
                replace(old, mailbox);
                epoch
            }
            hash_table::Entry::Vacant(vacant) => {
                let epoch = Epoch(floor.0 + 1);
                mailbox.set_epoch(epoch);
                vacant.insert(Entry { key: key.clone(), mailbox });
                epoch
            }
        }
    }

    /// Enters a connection with the epoch that was claimed for it, where that is above the one that is here; whoever
    /// loses is told as by [`Roster::enter`]. Who enters, and be it as the loser, has to [`Roster::leave`].
    pub fn install(&self, key: &DeviceKey, mailbox: Arc<Mailbox>, epoch: Epoch) -> bool {
        mailbox.set_epoch(epoch);
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        match shard.entry(hash, |entry| entry.key == *key, |entry| self.hasher.hash_one(&entry.key)) {
            hash_table::Entry::Occupied(mut occupied) if occupied.get().mailbox.epoch() < epoch => {
                replace(occupied.get_mut(), mailbox);
                true
            }
            hash_table::Entry::Occupied(occupied) => {
                tell(&mailbox, &occupied.get().mailbox);
                false
            }
            hash_table::Entry::Vacant(vacant) => {
                vacant.insert(Entry { key: key.clone(), mailbox });
                true
            }
        }
    }

    /// Gives the connection that has a device a later epoch, where it still has it.
    pub fn promote(&self, key: &DeviceKey, mailbox: &Arc<Mailbox>, epoch: Epoch) -> bool {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let found = shard.find(hash, |entry| entry.key == *key && Arc::ptr_eq(&entry.mailbox, mailbox));
        let may = found.is_some_and(|entry| entry.mailbox.epoch() < epoch);
        if may {
            mailbox.set_epoch(epoch);
        }
        may
    }

    /// Removes a connection; where a newer one has taken its place, nothing. Whether it had its device.
    pub fn leave(&self, key: &DeviceKey, mailbox: &Arc<Mailbox>) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        match shard.find_entry(hash, |entry| entry.key == *key && Arc::ptr_eq(&entry.mailbox, mailbox)) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// The connected device's mailbox and epoch.
    pub fn find(&self, key: &DeviceKey) -> Option<(Arc<Mailbox>, Epoch)> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        shard.find(hash, |entry| entry.key == *key).map(|entry| (Arc::clone(&entry.mailbox), entry.mailbox.epoch()))
    }

    /// Everybody who is here, as of about now: each part of the table as of one moment.
    pub fn everybody(&self) -> Vec<(DeviceKey, Arc<Mailbox>)> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            all.extend(lock(shard).iter().map(|entry| (entry.key.clone(), Arc::clone(&entry.mailbox))));
        }
        all
    }

    /// Up to `count` of them, drawn at random.
    pub fn sample(&self, count: usize) -> Vec<(DeviceKey, Arc<Mailbox>)> {
        let mut some = Vec::with_capacity(count);
        let first = fastrand::usize(..SHARDS);
        for turn in 0..SHARDS {
            let left = count - some.len();
            let shard = lock(&self.shards[(first + turn) % SHARDS]);
            // The devices of one part after another, beginning somewhere: where they lie follows from a hash.
            let share = if turn + 1 == SHARDS { left } else { left.min(count.div_ceil(SHARDS).max(left / 4)) };
            let skip = if shard.len() > share { fastrand::usize(..shard.len()) } else { 0 };
            let around = shard.iter().skip(skip).chain(shard.iter().take(skip));
            some.extend(around.take(share).map(|entry| (entry.key.clone(), Arc::clone(&entry.mailbox))));
        }
        some
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

/// Puts the winner in the loser's place.
fn replace(old: &mut Entry, winner: Arc<Mailbox>) {
    tell(&old.mailbox, &winner);
    old.mailbox = winner;
}

/// Tells the loser why.
fn tell(loser: &Mailbox, winner: &Mailbox) {
    // Who is provisional learnt late that it had lost, or won by a claim made late: nothing says who is the newer boot.
    let late = loser.standing().is_provisional() || winner.standing().is_provisional();
    let reason = if loser.boot() == winner.boot() || late { CloseReason::Moved } else { CloseReason::Superseded };
    // Full or gone: it is ending for another reason already.
    let _ = loser.post(Letter::Close(reason));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::{Boot, SessionId};
    use crate::mailbox::Standing;

    fn mailbox(boot: &str) -> Arc<Mailbox> {
        Arc::new(Mailbox::new(SessionId::draw(), Boot::new(boot).unwrap(), Standing::Alone))
    }

    fn key() -> DeviceKey {
        DeviceKey::new("t", "d").unwrap()
    }

    #[test]
    fn the_newest_wins_and_the_loser_is_told_why() {
        let (roster, key) = (Roster::default(), key());
        let [first, second, third] = ["a", "a", "b"].map(mailbox);
        let a = roster.enter(&key, Arc::clone(&first), Epoch(99));
        let b = roster.enter(&key, Arc::clone(&second), Epoch(99));
        assert_eq!(first.take_letter(), Some(Letter::Close(CloseReason::Moved)));
        let c = roster.enter(&key, Arc::clone(&third), Epoch(50));
        assert_eq!(second.take_letter(), Some(Letter::Close(CloseReason::Superseded)));
        assert_eq!([a, b, c], [100, 101, 102].map(Epoch));
    }

    #[test]
    fn a_claim_that_is_not_greater_takes_no_place_and_hears_why() {
        let (roster, key) = (Roster::default(), key());
        let [first, late, newer] = ["a", "b", "a"].map(mailbox);
        assert!(roster.install(&key, Arc::clone(&first), Epoch(7)));
        assert!(!roster.install(&key, Arc::clone(&late), Epoch(7)));
        assert_eq!(late.take_letter(), Some(Letter::Close(CloseReason::Superseded)));
        assert!(!roster.leave(&key, &late), "the loser has nothing to give back");
        assert!(roster.install(&key, Arc::clone(&newer), Epoch(8)));
        assert_eq!(
            (first.take_letter(), roster.find(&key).unwrap().1),
            (Some(Letter::Close(CloseReason::Moved)), Epoch(8))
        );
    }

    #[test]
    fn who_wins_or_loses_provisionally_may_come_back_at_once() {
        let (roster, key) = (Roster::default(), key());
        let provisional = Arc::new(Mailbox::new(SessionId::draw(), Boot::new("a").unwrap(), Standing::Provisional));
        let other = mailbox("b");
        roster.enter(&key, Arc::clone(&provisional), Epoch(0));
        roster.install(&key, Arc::clone(&other), Epoch(9));
        assert_eq!(provisional.take_letter(), Some(Letter::Close(CloseReason::Moved)));
    }

    #[test]
    fn only_who_has_the_device_is_given_a_later_epoch() {
        let (roster, key) = (Roster::default(), key());
        let (first, second) = (mailbox("a"), mailbox("a"));
        roster.install(&key, Arc::clone(&first), Epoch(1));
        assert!(roster.promote(&key, &first, Epoch(5)) && !roster.promote(&key, &first, Epoch(4)));
        assert_eq!(roster.find(&key).unwrap().1, Epoch(5));
        roster.install(&key, Arc::clone(&second), Epoch(6));
        assert!(!roster.promote(&key, &first, Epoch(9)), "it was replaced");
        assert_eq!(roster.find(&key).unwrap().1, Epoch(6));
    }

    #[test]
    fn a_sample_is_as_large_as_asked_for_and_of_everybody() {
        let roster = Roster::default();
        for number in 0..1_000 {
            let key = DeviceKey::new("t", &number.to_string()).unwrap();
            roster.enter(&key, mailbox("a"), Epoch(0));
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2_000 {
            let sample = roster.sample(20);
            assert_eq!(sample.len(), 20);
            let distinct: std::collections::HashSet<_> = sample.iter().map(|(key, _)| key.clone()).collect();
            assert_eq!(distinct.len(), 20);
            seen.extend(distinct);
        }
        assert_eq!((seen.len(), roster.everybody().len()), (1_000, 1_000));
        assert_eq!(roster.sample(5_000).len(), 1_000);
    }

    #[test]
    fn a_row_is_small() {
        // A row of the table, beside it one byte of tag, and room for growth: the table is at most seven eighths full.
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_loser_that_leaves_late_removes_nothing() {
        let (roster, key) = (Roster::default(), key());
        let (first, second) = (mailbox("a"), mailbox("a"));
        roster.enter(&key, Arc::clone(&first), Epoch(1));
        let newer = roster.enter(&key, Arc::clone(&second), Epoch(2));
        assert!(!roster.leave(&key, &first));
        assert_eq!(roster.find(&key).unwrap().1, newer);
        assert!(roster.leave(&key, &second));
        assert!(roster.is_empty());
    }
}
