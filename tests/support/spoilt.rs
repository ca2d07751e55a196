//! The directory in memory, where a test says so with one bug.

use std::sync::Arc;

use tidegate::id::{DeviceKey, Epoch};
use tidegate::ownership::memory::MemoryOwnership;
use tidegate::ownership::{
    Claim, Claimed, Fence, Held, Inspection, Last, Lease, Listed, NodeLife, Ownership, OwnershipError, OwnershipFuture,
    Page, Past, Profile, Reasserted, Renewed, Row, Stretch, View,
};

/// What can be done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A release compares only the node.
    ReleaseByNode,
    /// A release compares nothing.
    ReleaseUnfenced,
    /// Claims take no heed of what was given out before.
    NoFloor,
    /// A node that was declared dead goes on under its old incarnation.
    BuriedComesBack,
}

/// The memory twin, perhaps with a bug.
pub(crate) struct Spoilt {
    pub(crate) inner: Arc<MemoryOwnership>,
    pub(crate) bug: Option<Bug>,
}

impl Ownership for Spoilt {
    fn renew<'a>(&'a self, me: &'a Profile, highest: Epoch) -> OwnershipFuture<'a, Renewed> {
        Box::pin(async move {
            let renewed = self.inner.renew(me, highest).await;
            match renewed {
                Err(OwnershipError::Buried) if self.bug == Some(Bug::BuriedComesBack) => {
                    let mut view = self.inner.view().await?;
                    view.live.extend(view.dead.iter().filter(|m| m.profile.life == me.life).cloned());
                    Ok(Renewed { view, lease: Lease::Held })
                }
                Ok(renewed) if self.bug == Some(Bug::BuriedComesBack) => Ok(Renewed { lease: Lease::Held, ..renewed }),
                other => other,
            }
        })
    }

    fn claim<'a>(&'a self, claim: &'a Claim<'a>) -> OwnershipFuture<'a, Claimed> {
        Box::pin(async move {
            let floor = if self.bug == Some(Bug::NoFloor) { Epoch(0) } else { claim.floor };
            self.inner.claim(&Claim { floor, ..claim.clone() }).await
        })
    }

    fn release<'a>(
        &'a self,
        life: &'a NodeLife,
        device: &'a DeviceKey,
        fence: Fence,
        last: Option<&'a Last>,
    ) -> OwnershipFuture<'a, bool> {
        Box::pin(async move {
            let row = self.inner.row(device).await?;
            let broken = row.filter(|row| match self.bug {
                Some(Bug::ReleaseByNode) => row.owner.node == life.node,
                bug => bug == Some(Bug::ReleaseUnfenced),
            });
            match broken {
                Some(row) => self.inner.release(&row.owner, device, Fence::Epoch(row.epoch), last).await,
                None => self.inner.release(life, device, fence, last).await,
            }
        })
    }

    fn view(&self) -> OwnershipFuture<'_, View> {
        self.inner.view()
    }

    fn row<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Row>> {
        self.inner.row(device)
    }

    fn past<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Past>> {
        self.inner.past(device)
    }

    fn list<'a>(&'a self, life: &'a NodeLife, stretch: Stretch<'a>) -> OwnershipFuture<'a, Listed> {
        self.inner.list(life, stretch)
    }

    fn reassert<'a>(&'a self, life: &'a NodeLife, held: &'a Held) -> OwnershipFuture<'a, Reasserted> {
        self.inner.reassert(life, held)
    }

    fn inspect<'a>(&'a self, life: &'a NodeLife, sample: &'a [Held]) -> OwnershipFuture<'a, Vec<Inspection>> {
        self.inner.inspect(life, sample)
    }

    fn primary_of(&self, device: &DeviceKey) -> String {
        self.inner.primary_of(device)
    }

    fn bury<'a>(&'a self, dead: &'a NodeLife, done: bool) -> OwnershipFuture<'a, bool> {
        self.inner.bury(dead, done)
    }

    fn settle<'a>(&'a self, dead: &'a NodeLife, after: Option<&'a DeviceKey>, limit: u32) -> OwnershipFuture<'a, Page> {
        self.inner.settle(dead, after, limit)
    }
}
