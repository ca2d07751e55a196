//! Claims for connections the node has already: those that came while Redis was away, and those whose rows ended with an
//! earlier life.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Keeper;
use crate::clock::unix_ms;
use crate::id::DeviceKey;
use crate::mailbox::{Letter, Mailbox, Standing};
use crate::ownership::{Fence, OwnershipError};
use crate::protocol::close::CloseReason;
use crate::registrar::Release;

/// How often it is looked whether a device gave its sign of life.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Claims at once.
const AT_ONCE: usize = 64;

impl Keeper {
    /// Claims devices that were let in provisionally, once they have answered a ping.
    pub(super) async fn claim_provisional(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut proven = self.parts.registrar.provisional();
            proven.retain(|(_, mailbox)| mailbox.standing() == Standing::Proven);
            for some in proven.chunks(AT_ONCE) {
                join_all(some.iter().map(|(device, mailbox)| self.claim_anew(device, mailbox, false))).await;
            }
        }
    }

    /// Claims a device for the connection that has it.
    pub(super) async fn claim_anew(&self, device: &DeviceKey, mailbox: &Arc<Mailbox>, insist: bool) {
        let registrar = &self.parts.registrar;
        let claimed = match registrar.claim_late(device, mailbox, insist).await {
            Ok(claimed) => claimed,
            Err(OwnershipError::Contested { .. }) => {
                registrar.no_longer_provisional(device, mailbox);
                // Full or gone: it is ending for another reason already.
                let _ = mailbox.post(Letter::Close(CloseReason::TryAgainLater));
                return;
            }
            Err(error) => {
                tracing::debug!(%device, %error, "a device could not be claimed");
                return;
            }
        };
        // Before the roster: whoever leaves in between gives back what it knows of, and the rest is given back here.
        mailbox.set_registered();
        registrar.no_longer_provisional(device, mailbox);
        if self.parts.roster.promote(device, mailbox, claimed.epoch) {
            registrar.registered(device, mailbox, claimed.previous.as_ref(), "registered", unix_ms());
            if claimed.commands_wait {
                self.ring(device, mailbox);
            }
        } else {
            let (life, fence) = (registrar.life(), Fence::Epoch(claimed.epoch));
            registrar.release(Release { life, device: device.clone(), fence, last: None, offline: None });
        }
    }
}
