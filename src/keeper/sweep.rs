//! Whether Redis lost rows of this node's devices, and writing them again, paced.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Keeper;
use crate::id::DeviceKey;
use crate::mailbox::{Letter, Mailbox, Standing};
use crate::ownership::{Fence, Held, Inspection, LEASE_MS, Reasserted, Row};
use crate::protocol::close::CloseReason;
use crate::registrar::Release;
use crate::sync::lock;

/// Rows of each primary that are looked at with each renewal.
const SAMPLE: usize = 20;
/// So many wrong ones among them, and all of that primary's are written again.
const WRONG: usize = 3;
/// Rows written again at once, and how long after the last so many: 5,000 a second.
const AT_ONCE: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// A sweep begins within this, so that nodes do not all begin at once.
const JITTER_MS: u64 = 1_000;

/// One pass over the devices of one primary, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pass {
    of: Option<String>,
    at: Instant,
}

/// The passes that are due.
#[derive(Default)]
pub(super) struct Sweeps {
    due: Mutex<Vec<Pass>>,
    bell: Notify,
}

impl Sweeps {
    /// Two passes: soon, and one lease later for what was claimed meanwhile by who did not know of the loss. One that
    /// was due already gives way.
    pub(super) fn add(&self, of: Option<String>) {
        let at = Instant::now() + Duration::from_millis(fastrand::u64(..JITTER_MS));
        let mut due = lock(&self.due);
        due.retain(|pass| pass.of != of);
        due.push(Pass { of: of.clone(), at });
        due.push(Pass { of, at: at + Duration::from_millis(LEASE_MS) });
        drop(due);
        self.bell.notify_one();
    }

    /// Waits for the next.
    async fn next(&self) -> Option<String> {
        loop {
            let first = lock(&self.due).iter().map(|pass| pass.at).min();
            let Some(at) = first else {
                self.bell.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.bell.notified() => continue,
            }
            if let Some(of) = self.take(Instant::now()) {
                return of;
            }
        }
    }

    /// One that is due.
    fn take(&self, now: Instant) -> Option<Option<String>> {
        let mut due = lock(&self.due);
        let place = due.iter().position(|pass| pass.at <= now)?;
        Some(due.swap_remove(place).of)
    }
}

impl Keeper {
    /// Looks at every primary and at a sample of this node's rows on it.
    pub(super) async fn inspect(self: &Arc<Self>) {
        let (registrar, roster) = (&self.parts.registrar, &self.parts.roster);
        let primaries = lock(&self.identities).len().max(1);
        let sample: Vec<Held> = roster.sample(SAMPLE * primaries).iter().filter_map(held).collect();
        match registrar.directory().ownership().inspect(&registrar.life(), &sample).await {
            Ok(inspections) => {
                for inspection in inspections {
                    self.conclude(inspection).await;
                }
            }
            Err(error) => tracing::debug!(%error, "Redis could not be inspected"),
        }
    }

    async fn conclude(&self, inspection: Inspection) {
        let Inspection { primary, identity, wrong } = inspection;
        let changed = identity.is_some_and(|identity| {
            let before = lock(&self.identities).insert(primary.clone(), identity.clone());
            before.is_some_and(|before| before != identity)
        });
        if changed || wrong.len() >= WRONG {
            let wrong = wrong.len();
            tracing::warn!(primary, changed, wrong, "Redis lost rows or may have: its devices are entered again");
            self.sweeps.add(Some(primary));
            return;
        }
        for device in wrong {
            if let Some((mailbox, _)) = self.parts.roster.find(&device) {
                self.reassert(&device, &mailbox).await;
            }
        }
    }

    /// Makes the passes as they come due.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            let of = self.sweeps.next().await;
            let ownership = self.parts.registrar.directory().ownership();
            let mut all = self.parts.roster.everybody();
            if let Some(primary) = &of {
                all.retain(|(device, _)| ownership.primary_of(device) == *primary);
            }
            tracing::info!(devices = all.len(), primary = of, "devices are entered again");
            let mut pace = tokio::time::interval(PAUSE);
            for some in all.chunks(AT_ONCE) {
                pace.tick().await;
                join_all(some.iter().map(|(device, mailbox)| self.reassert(device, mailbox))).await;
            }
        }
    }

    /// Writes one row again where it is missing or older.
    async fn reassert(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let entry = (device.clone(), Arc::clone(mailbox));
        let Some(held) = held(&entry).filter(|_| self.has(device, mailbox)) else { return };
        let life = self.parts.registrar.life();
        match self.parts.registrar.directory().ownership().reassert(&life, &held).await {
            Ok(Reasserted::Kept) => {}
            Ok(Reasserted::Written { commands_wait }) => {
                tracing::debug!(%device, epoch = held.epoch.0, "a row was entered again");
                // It may have ended while it was written.
                if !self.has(device, mailbox) {
                    let (device, fence) = (device.clone(), Fence::Epoch(held.epoch));
                    self.parts.registrar.release(Release { life, device, fence, last: None, offline: None });
                } else if commands_wait {
                    self.ring(device, mailbox);
                }
            }
            Ok(Reasserted::Settled) => self.claim_anew(device, mailbox, true).await,
            // Of an earlier life of this node.
            Ok(Reasserted::Newer(row)) if row.connection == held.connection && row.owner.node == life.node => {
                self.claim_anew(device, mailbox, true).await;
            }
            Ok(Reasserted::Newer(row)) => give_way(device, mailbox, &row),
            // The next pass or inspection finds it.
            Err(error) => tracing::debug!(%device, %error, "a row could not be entered again"),
        }
    }

    fn has(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) -> bool {
        self.parts.roster.find(device).is_some_and(|(known, _)| Arc::ptr_eq(&known, mailbox))
    }
}

/// Another owns the device.
fn give_way(device: &DeviceKey, mailbox: &Mailbox, row: &Row) {
    if row.epoch <= mailbox.epoch() {
        return;
    }
    let reason = if row.boot == *mailbox.boot() { CloseReason::Moved } else { CloseReason::Superseded };
    tracing::debug!(%device, owner = %row.owner, epoch = row.epoch.0, "a device has another owner");
    // Full or gone: it is ending for another reason already.
    let _ = mailbox.post(Letter::Close(reason));
}

/// What stands in the directory for a connection; nothing where it is still to be claimed.
fn held((device, mailbox): &(DeviceKey, Arc<Mailbox>)) -> Option<Held> {
    (mailbox.standing() == Standing::Registered).then(|| Held {
        device: device.clone(),
        epoch: mailbox.epoch(),
        connection: mailbox.session(),
        boot: mailbox.boot().clone(),
        max_bytes: mailbox.max_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_swept_twice_and_a_later_loss_begins_anew() {
        let sweeps = Sweeps::default();
        let a = || Some(Some("a".to_owned()));
        sweeps.add(Some("a".into()));
        let jittered = Instant::now() + Duration::from_millis(JITTER_MS);
        assert_eq!((sweeps.take(jittered), sweeps.take(jittered)), (a(), None));
        sweeps.add(Some("a".into()));
        sweeps.add(None);
        let later = jittered + Duration::from_millis(LEASE_MS + JITTER_MS);
        let mut taken: Vec<_> = std::iter::from_fn(|| sweeps.take(later)).collect();
        taken.sort();
        assert_eq!(taken, [None, None, Some("a".to_owned()), Some("a".to_owned())]);
    }
}
