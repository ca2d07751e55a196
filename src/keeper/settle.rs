//! The devices of a node that died: said to be offline, then forgotten.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Keeper;
use crate::clock::unix_ms;
use crate::ownership::{Fence, Held, NodeLife, OwnershipError, View, rendezvous};
use crate::registrar::presence::Presence;
use crate::sync::lock;

/// Devices that are settled at once.
const PAGE: u32 = 256;
/// How long it is waited for a page's events: with Kafka away the next renewal begins again where this one ended.
const STORED_WITHIN: Duration = Duration::from_secs(60);

impl Keeper {
    /// Settles the devices of each dead node that is this node's to settle, a task for each.
    pub(super) fn settle_the_dead(self: &Arc<Self>, view: &View) {
        let me = self.parts.registrar.life();
        for dead in view.dead.iter().map(|member| &member.profile.life) {
            let mine = rendezvous::pick(&view.live, &dead.to_string()).is_some_and(|picked| *picked == *me);
            if !mine || !lock(&self.settling).insert(dead.clone()) {
                continue;
            }
            let (keeper, dead) = (Arc::clone(self), dead.clone());
            tokio::spawn(async move {
                match keeper.settle(&dead).await {
                    Ok(Some(devices)) => tracing::info!(%dead, devices, "the devices of a dead node are settled"),
                    Ok(None) => tracing::debug!(%dead, "a node that seemed dead is not, or its events wait"),
                    Err(error) => tracing::warn!(%dead, %error, "the devices of a dead node are not settled yet"),
                }
                lock(&keeper.settling).remove(&dead);
            });
        }
    }

    /// How many devices it had; nothing where not all are settled, which the next renewal sees.
    async fn settle(&self, dead: &NodeLife) -> Result<Option<usize>, OwnershipError> {
        let ownership = self.parts.registrar.directory().ownership();
        if !ownership.bury(dead, false).await? {
            return Ok(None);
        }
        let (mut devices, mut after) = (0, None);
        loop {
            let page = ownership.settle(dead, after.as_ref(), PAGE).await?;
            devices += page.settled.len();
            if !self.publish_offline(dead, &page.settled).await {
                return Ok(None);
            }
            let released = page.settled.iter().map(|held| {
                let fence = Fence::Epoch(held.epoch);
                ownership.release(dead, &held.device, fence, None)
            });
            join_all(released).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(ownership.bury(dead, true).await?.then_some(devices))
    }

    /// Whether all of them are stored, or overtaken by something newer.
    async fn publish_offline(&self, dead: &NodeLife, settled: &[Held]) -> bool {
        let at_ms = unix_ms();
        let waiting: Vec<_> = settled
            .iter()
            .map(|held| {
                let (stored, told) = oneshot::channel();
                self.parts.registrar.presence().note(Presence {
                    device: held.device.clone(),
                    online: false,
                    epoch: held.epoch,
                    session: held.connection,
                    boot: held.boot.clone(),
                    node: dead.node.clone(),
                    reason: "node_lost",
                    end: None,
                    at_ms,
                    stored: Some(stored),
                });
                told
            })
            .collect();
        tokio::time::timeout(STORED_WITHIN, join_all(waiting)).await.is_ok()
    }
}
