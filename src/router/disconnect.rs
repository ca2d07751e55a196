//! Ending a device's connection, whichever node has it.

use super::Router;
use crate::id::{DeviceKey, Epoch};
use crate::mailbox::Letter;
use crate::ownership::{OwnershipError, Whereabouts};
use crate::peer::{Evicted, PeerError};
use crate::protocol::close::CloseReason;

/// Why a connection could not be ended, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
pub enum DisconnectError {
    /// Nobody can say where it is.
    #[error(transparent)]
    Directory(#[from] OwnershipError),
    /// The node that has it did not do it: again a little later.
    #[error("the device's node: {0}")]
    Peer(#[from] PeerError),
}

impl Router {
    /// Ends the connection a device has now, here or on another node; it may come back at once. `false`: it has none.
    ///
    /// # Errors
    /// [`DisconnectError`].
    pub async fn disconnect(&self, device: &DeviceKey) -> Result<bool, DisconnectError> {
        let directory = self.parts.registrar.directory();
        let Whereabouts::At(at) = directory.find(device).await? else { return Ok(false) };
        let (row, _) = *at;
        if row.owner == *self.parts.registrar.life() {
            let found = self.parts.roster.find(device);
            return Ok(found.is_some_and(|(mailbox, _)| mailbox.post(Letter::Close(CloseReason::Moved)).is_ok()));
        }
        // What is newer than the connection that is meant, and older than any that comes after it.
        let above = Epoch(row.epoch.0 + 1);
        self.meet();
        let evicted = self.parts.peers.evict(&row.owner, device, above).await?;
        Ok(!matches!(evicted, Evicted::Absent))
    }
}
