//! What a node knows of the membership, and rows judged by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Claim, Claimed, Member, NodeLife, OwnershipError, Profile, Renewed, Row, SharedOwnership, View};
use crate::id::{DeviceKey, Epoch};
use crate::sync::lock;

/// A row of an unknown node, and a peer that does not answer, make the membership be read again, no more often than this.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere: no row, or a dead node's.
    Offline,
    /// With a node that lives.
    At(Box<(Row, Member)>),
}

/// A view, and when it came.
struct Seen {
    view: Arc<View>,
    at: Instant,
}

/// The directory with the membership as it was last heard.
pub struct Directory {
    ownership: SharedOwnership,
    seen: Mutex<Seen>,
    /// When the membership was last read beside the renewals.
    refreshed: Mutex<Option<Instant>>,
    highest: AtomicU64,
    tidings: watch::Sender<()>,
}

impl Directory {
    /// Knows nobody before the first renewal.
    pub fn new(ownership: SharedOwnership) -> Self {
        let seen = Seen { view: Arc::default(), at: Instant::now() };
        Self {
            ownership,
            seen: Mutex::new(seen),
            refreshed: Mutex::default(),
            highest: AtomicU64::new(0),
            tidings: watch::Sender::new(()),
        }
    }

    /// The seam itself, for what needs no view.
    pub fn ownership(&self) -> &SharedOwnership {
        &self.ownership
    }

    /// The membership as it was last heard.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&lock(&self.seen).view)
    }

    /// Changes with each [`Directory::view`].
    pub fn views(&self) -> watch::Receiver<()> {
        self.tidings.subscribe()
    }

    /// The live member of this life, as far as is known here; the membership is read anew where it is not.
    ///
    /// # Errors
    /// [`OwnershipError`]: it is unknown and the membership cannot be read.
    pub async fn member(&self, life: &NodeLife) -> Result<Option<Member>, OwnershipError> {
        self.living(life).await
    }

    /// Whether this life's lease runs, as far as is known here.
    pub fn knows(&self, life: &NodeLife) -> bool {
        self.known(life).is_some()
    }

    /// Reads the membership anew, where that was not done just now.
    ///
    /// # Errors
    /// [`OwnershipError`]: it cannot be read.
    pub async fn refresh(&self) -> Result<(), OwnershipError> {
        if self.may_refresh() {
            let view = self.ownership.view().await?;
            self.hear(&view);
        }
        Ok(())
    }

    /// The highest epoch heard of: what a claim is above, beside what this node holds.
    pub fn highest(&self) -> Epoch {
        Epoch(self.highest.load(Ordering::Relaxed))
    }

    /// Extends the node's lease.
    ///
    /// # Errors
    /// As [`super::Ownership::renew`].
    pub async fn renew(&self, me: &Profile) -> Result<Renewed, OwnershipError> {
        let renewed = self.ownership.renew(me, self.highest()).await?;
        self.hear(&renewed.view);
        Ok(renewed)
    }

    /// Claims above everything heard of, and past the limit of takeovers where the holder is dead. `claim.floor` is the
    /// epoch this node holds for the device, if any.
    ///
    /// # Errors
    /// As [`super::Ownership::claim`].
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, OwnershipError> {
        let mut claim = Claim { floor: claim.floor.max(self.highest()), ..claim.clone() };
        let mut claimed = self.ownership.claim(&claim).await;
        if let Err(OwnershipError::Contested { holder, .. }) = &claimed
            && self.living(holder).await?.is_none()
        {
            claim.insist = true;
            claimed = self.ownership.claim(&claim).await;
        }
        let claimed = claimed?;
        self.highest.fetch_max(claimed.epoch.0, Ordering::Relaxed);
        Ok(claimed)
    }

    /// Where a device is.
    ///
    /// # Errors
    /// [`OwnershipError`]: nobody knows.
    pub async fn find(&self, device: &DeviceKey) -> Result<Whereabouts, OwnershipError> {
        match self.ownership.row(device).await? {
            Some(row) => self.judge(row).await,
            None => Ok(Whereabouts::Offline),
        }
    }

    /// What a row means that came with something else, as with a command that was accepted.
    ///
    /// # Errors
    /// [`OwnershipError`]: its node is unknown and the membership cannot be read.
    pub async fn judge(&self, row: Row) -> Result<Whereabouts, OwnershipError> {
        if row.settled {
            return Ok(Whereabouts::Offline);
        }
        Ok(match self.living(&row.owner).await? {
            Some(member) => Whereabouts::At(Box::new((row, member))),
            None => Whereabouts::Offline,
        })
    }

    /// The member, if it lives; one that is not known may have come since the view did.
    async fn living(&self, life: &NodeLife) -> Result<Option<Member>, OwnershipError> {
        if let Some(member) = self.known(life) {
            return Ok(Some(member));
        }
        self.refresh().await?;
        Ok(self.known(life))
    }

    fn known(&self, life: &NodeLife) -> Option<Member> {
        let seen = lock(&self.seen);
        let member = seen.view.member(life)?;
        let left_ms = member.expires_ms.saturating_sub(seen.view.now_us / 1_000);
        (seen.at.elapsed() < Duration::from_millis(left_ms)).then(|| member.clone())
    }

    fn may_refresh(&self) -> bool {
        let mut refreshed = lock(&self.refreshed);
        let may = refreshed.is_none_or(|at| at.elapsed() >= REFRESH_PAUSE);
        if may {
            *refreshed = Some(Instant::now());
        }
        may
    }

    fn hear(&self, view: &View) {
        self.highest.fetch_max(view.highest, Ordering::Relaxed);
        *lock(&self.seen) = Seen { view: Arc::new(view.clone()), at: Instant::now() };
        self.tidings.send_replace(());
    }
}
