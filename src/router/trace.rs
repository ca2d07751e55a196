//! Tracing a device, whichever node has it.

use std::time::{Duration, Instant};

use super::{RING_AGAIN, Router};
use crate::id::{DeviceKey, Epoch, NodeName};
use crate::ownership::{OwnershipError, Row, Whereabouts};
use crate::peer::{PeerError, Traced};

/// Why a device is not traced, or nobody knows whether it is.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is not connected.
    #[error("the device is not connected")]
    NotConnected,
    /// Its node traces as many devices as it may: again later.
    #[error("the device's node traces as many devices as it may")]
    Full,
    /// Nobody can say where it is.
    #[error(transparent)]
    Directory(#[from] OwnershipError),
    /// The node that has it did not do it: again a little later.
    #[error("the device's node: {0}")]
    Peer(#[from] PeerError),
}

impl Router {
    /// Has the outlines of a device's messages written into the log of the node that has it, for so many seconds; 0 ends
    /// that. Gives the node.
    ///
    /// # Errors
    /// [`TraceError`].
    pub async fn trace(&self, device: &DeviceKey, for_s: u32) -> Result<NodeName, TraceError> {
        for is_last in [false, true] {
            let Whereabouts::At(at) = self.parts.registrar.directory().find(device).await? else { break };
            match self.trace_at(&at.0, device, for_s).await? {
                Traced::Begun => return Ok(at.0.owner.node.clone()),
                Traced::Full => return Err(TraceError::Full),
                // It has moved, or is on its way into the roster.
                Traced::NotHere { .. } if !is_last => tokio::time::sleep(RING_AGAIN).await,
                Traced::NotHere { .. } => {}
            }
        }
        Err(TraceError::NotConnected)
    }

    async fn trace_at(&self, row: &Row, device: &DeviceKey, for_s: u32) -> Result<Traced, PeerError> {
        if row.owner == *self.parts.registrar.life() {
            return Ok(self.trace_here(device, row.epoch, for_s));
        }
        self.meet();
        self.parts.peers.trace(&row.owner, device, row.epoch, for_s).await
    }

    /// Traces the device's connection here, if it is of this epoch.
    pub(super) fn trace_here(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        let (mailbox, now) = match self.parts.roster.find(device) {
            Some((mailbox, known)) if known == epoch => (mailbox, Instant::now()),
            found => return Traced::NotHere { known: found.map(|(_, known)| known) },
        };
        if !self.parts.traces.begin(&mailbox, now + Duration::from_secs(for_s.into()), now) {
            return Traced::Full;
        }
        tracing::info!(%device, for_s, "a trace begins");
        Traced::Begun
    }
}
