//! Between connections and the directory of owners: claims when they come, releases when they go, and what is left to be
//! done about both, for the keeper.

pub mod evicts;
pub mod presence;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::id::{Boot, DeviceKey, Epoch, SessionId};
use crate::mailbox::{Mailbox, Standing};
use crate::ownership::{Claim, Claimed, Directory, Fence, Last, NodeLife, OwnershipError, Row, SharedOwnership};
use crate::sync::lock;
use evicts::{Evict, Evicts};
use presence::{Book, Presence};

/// Releases that may wait; what is above stays in the directory until the node's incarnation ends.
pub const RELEASES: usize = 100_000;

/// Why somebody may not connect: the device was taken over too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device was taken over too often: again in {wait_ms} ms")]
pub struct Contested {
    /// Until it is worth trying again.
    pub wait_ms: u64,
}

/// A row that is to be removed.
#[derive(Debug)]
pub struct Release {
    /// Whose it is.
    pub life: Arc<NodeLife>,
    /// The device.
    pub device: DeviceKey,
    /// What must be the same.
    pub fence: Fence,
    /// The hints it leaves.
    pub last: Option<Last>,
    /// What is to be published if it was still there.
    pub offline: Option<Presence>,
}

/// A connection that ended.
#[derive(Debug)]
pub struct Left<'a> {
    /// Of which device.
    pub device: &'a DeviceKey,
    /// Its mailbox.
    pub mailbox: &'a Arc<Mailbox>,
    /// Whether it still had its device on this node.
    pub had: bool,
    /// The last `seq` that was acked.
    pub acked: Option<u64>,
    /// The close's name.
    pub reason: &'static str,
    /// Its code, and who ended it.
    pub end: (u16, &'static str),
    /// When, Unix milliseconds.
    pub at_ms: i64,
}

/// What this node is to the directory.
pub struct Registrar {
    directory: Directory,
    life: ArcSwap<NodeLife>,
    releases: Mutex<VecDeque<Release>>,
    releasing: AtomicUsize,
    bell: Notify,
    provisional: Mutex<HashMap<DeviceKey, Arc<Mailbox>>>,
    presence: Book,
    evicts: Evicts,
}

impl Registrar {
    /// Of a node in its first life.
    pub fn new(ownership: SharedOwnership, life: NodeLife) -> Self {
        Self {
            directory: Directory::new(ownership),
            life: ArcSwap::from_pointee(life),
            releases: Mutex::default(),
            releasing: AtomicUsize::new(0),
            bell: Notify::new(),
            provisional: Mutex::default(),
            presence: Book::default(),
            evicts: Evicts::default(),
        }
    }

    /// The directory with the membership.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Which life of the node this is.
    pub fn life(&self) -> Arc<NodeLife> {
        self.life.load_full()
    }

    /// Begins another life.
    pub fn begin_life(&self, life: NodeLife) {
        self.life.store(Arc::new(life));
    }

    /// Presence that is to be published.
    pub fn presence(&self) -> &Book {
        &self.presence
    }

    /// Other nodes that are to be told.
    pub fn evicts(&self) -> &Evicts {
        &self.evicts
    }

    /// Claims a device for a connection that is at the door; `max_bytes` is the largest message it can take, `held` the
    /// epoch this node holds for its device. Where the directory is away the connection is let in provisionally. Whoever drops what is returned, or this future, gives
    /// the claim back.
    ///
    /// # Errors
    /// [`Contested`].
    pub async fn claim(
        self: &Arc<Self>,
        device: &DeviceKey,
        boot: Option<Boot>,
        max_bytes: Option<usize>,
        held: Option<Epoch>,
    ) -> Result<Tenure, Contested> {
        let session = SessionId::draw();
        let (boot_given, boot) = (boot.is_some(), boot.unwrap_or_else(|| session.into()));
        let life = self.life();
        let mut tenure = Tenure {
            registrar: Arc::clone(self),
            life: Arc::clone(&life),
            device: device.clone(),
            session,
            boot,
            max_bytes,
            claimed: None,
            is_over: false,
        };
        let claim = Claim {
            life: &life,
            device,
            connection: session,
            boot: &tenure.boot,
            boot_given,
            max_bytes,
            floor: held.unwrap_or(Epoch(0)),
            insist: false,
        };
        match self.directory.claim(&claim).await {
            Ok(claimed) => tenure.claimed = Some(claimed),
            Err(OwnershipError::Contested { wait_ms, .. }) => {
                tenure.is_over = true;
                return Err(Contested { wait_ms });
            }
            Err(error @ OwnershipError::Broken(_)) => {
                tracing::error!(%device, %error, "a device is let in without being registered");
            }
            Err(error) => tracing::debug!(%device, %error, "a device is let in without being registered"),
        }
        Ok(tenure)
    }

    /// Claims a device for a connection this node has already. `insist`: its row is a dead life's.
    ///
    /// # Errors
    /// As [`Directory::claim`].
    pub async fn claim_late(
        &self,
        device: &DeviceKey,
        mailbox: &Mailbox,
        insist: bool,
    ) -> Result<Claimed, OwnershipError> {
        let (life, connection) = (self.life(), mailbox.session());
        let boot_given = *mailbox.boot() != Boot::from(connection);
        let (boot, floor, max_bytes) = (mailbox.boot(), mailbox.epoch(), mailbox.max_bytes());
        let claim = Claim { life: &life, device, connection, boot, boot_given, max_bytes, floor, insist };
        self.directory.claim(&claim).await
    }

    /// A connection has its device: the others are told, and whoever lost it.
    pub fn registered(
        &self,
        device: &DeviceKey,
        mailbox: &Mailbox,
        previous: Option<&Row>,
        reason: &'static str,
        at_ms: i64,
    ) {
        let life = self.life();
        if let Some(row) = previous.filter(|row| !row.settled && row.owner.node != life.node) {
            self.evicts.note(Evict { from: row.owner.clone(), device: device.clone(), epoch: mailbox.epoch() });
        }
        self.presence.note(Presence {
            device: device.clone(),
            online: true,
            epoch: mailbox.epoch(),
            session: mailbox.session(),
            boot: mailbox.boot().clone(),
            node: life.node.clone(),
            reason,
            end: None,
            at_ms,
            stored: None,
        });
    }

    /// A connection was let in that is still to be claimed.
    pub fn admitted(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        lock(&self.provisional).insert(device.clone(), Arc::clone(mailbox));
    }

    /// The connections that are still to be claimed.
    pub fn provisional(&self) -> Vec<(DeviceKey, Arc<Mailbox>)> {
        lock(&self.provisional).iter().map(|(device, mailbox)| (device.clone(), Arc::clone(mailbox))).collect()
    }

    /// This one is not any more.
    pub fn no_longer_provisional(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>) {
        let mut provisional = lock(&self.provisional);
        if provisional.get(device).is_some_and(|known| Arc::ptr_eq(known, mailbox)) {
            provisional.remove(device);
        }
    }

    /// A connection ended: its row is to be removed.
    pub fn left(&self, left: &Left<'_>) {
        let (standing, mailbox) = (left.mailbox.standing(), left.mailbox);
        if standing == Standing::Alone {
            return;
        }
        self.no_longer_provisional(left.device, mailbox);
        let registered = standing == Standing::Registered;
        let life = self.life();
        let offline = (left.had && registered).then(|| Presence {
            device: left.device.clone(),
            online: false,
            epoch: mailbox.epoch(),
            session: mailbox.session(),
            boot: mailbox.boot().clone(),
            node: life.node.clone(),
            reason: left.reason,
            end: Some(left.end),
            at_ms: left.at_ms,
            stored: None,
        });
        let fence = if registered { Fence::Epoch(mailbox.epoch()) } else { Fence::Connection(mailbox.session()) };
        let end = Some((left.end.0, Cow::Borrowed(left.end.1)));
        let last = Some(Last { boot: mailbox.boot().clone(), acked: left.acked, at_ms: 0, end });
        self.release(Release { life, device: left.device.clone(), fence, last, offline });
    }

    /// Has a row removed.
    pub fn release(&self, release: Release) {
        let mut releases = lock(&self.releases);
        if releases.len() >= RELEASES {
            drop(releases);
            tracing::debug!(device = %release.device, "too many releases wait: this one is left to the node's lease");
            // The row is left; that the device is gone is not.
            release.offline.into_iter().for_each(|offline| self.presence.note(offline));
            return;
        }
        releases.push_back(release);
        drop(releases);
        self.bell.notify_one();
    }

    /// Up to `limit` releases that are to be made now, the oldest first, as soon as there are any. Each has to be told
    /// off by [`Registrar::released`].
    pub async fn due_releases(&self, limit: usize) -> Vec<Release> {
        loop {
            {
                let mut releases = lock(&self.releases);
                let count = releases.len().min(limit);
                if count > 0 {
                    self.releasing.fetch_add(count, Ordering::Relaxed);
                    return releases.drain(..count).collect();
                }
            }
            self.bell.notified().await;
        }
    }

    /// One was made, or is given back to be tried again.
    pub fn released(&self, again: Option<Release>) {
        if let Some(release) = again {
            lock(&self.releases).push_front(release);
        }
        self.releasing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether every release is made and all presence published.
    pub fn is_settled(&self) -> bool {
        let waiting = lock(&self.releases).len();
        waiting == 0 && self.releasing.load(Ordering::Relaxed) == 0 && self.presence.is_empty()
    }
}

/// A claim on its way from the handshake to the connection.
pub struct Tenure {
    registrar: Arc<Registrar>,
    life: Arc<NodeLife>,
    device: DeviceKey,
    session: SessionId,
    boot: Boot,
    max_bytes: Option<usize>,
    claimed: Option<Claimed>,
    is_over: bool,
}

impl std::fmt::Debug for Tenure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenure").field("device", &self.device).field("claimed", &self.claimed).finish_non_exhaustive()
    }
}

impl Tenure {
    /// What was claimed, where it was, and the mailbox of its connection, which has to give it back from here on
    /// ([`Registrar::left`]).
    pub fn begin(mut self) -> (Arc<Mailbox>, Option<Claimed>) {
        self.is_over = true;
        let claimed = self.claimed.take();
        let standing = if claimed.is_some() { Standing::Registered } else { Standing::Provisional };
        let mailbox = Mailbox::new(self.session, self.boot.clone(), standing).with_max_bytes(self.max_bytes);
        (Arc::new(mailbox), claimed)
    }
}

/// The connection was never made: what was claimed, or may have been, is given back.
impl Drop for Tenure {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let fence = match &self.claimed {
            Some(claimed) => Fence::Epoch(claimed.epoch),
            None => Fence::Connection(self.session),
        };
        let (life, device) = (Arc::clone(&self.life), self.device.clone());
        self.registrar.release(Release { life, device, fence, last: None, offline: None });
    }
}
