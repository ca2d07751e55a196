//! From whoever commands a device to the connection that has it: here, or one hop away.

mod disconnect;

use std::sync::Arc;
use std::time::Duration;

pub use disconnect::DisconnectError;

use tokio::time::Instant;

use crate::commands::{Canceled, Command, CommandError, Submission, Submitted};
use crate::courier::Courier;
use crate::id::{CommandId, DeviceKey, Epoch};
use crate::ownership::NodeLife;
use crate::peer::{Ending, Evicted, PeerHandler, Rung, SharedPeers};
use crate::registrar::Registrar;
use crate::roster::Roster;
use crate::telemetry::metrics::Metrics;

/// How often a command is read anew by whoever waits for it, should nobody tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the router works on.
pub struct Parts {
    /// What brings commands to connections.
    pub courier: Arc<Courier>,
    /// Which devices are here.
    pub roster: Arc<Roster>,
    /// Where the others are.
    pub registrar: Arc<Registrar>,
    /// How they are asked.
    pub peers: SharedPeers,
    /// What people see.
    pub metrics: Metrics,
}

/// Routes commands.
pub struct Router {
    parts: Parts,
}

impl Router {
    /// Of a node that starts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts })
    }

    /// Who is connected where.
    pub fn registrar(&self) -> &Arc<Registrar> {
        &self.parts.registrar
    }

    /// Takes a command and has it brought to its device. `submission.origin` is the router's to fill in.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn submit(self: &Arc<Self>, submission: Submission<'_>) -> Result<Submitted, CommandError> {
        let origin = self.parts.registrar.life().to_string();
        let submission = Submission { origin: Some(&origin), ..submission };
        let submitted = self.parts.courier.commands().submit(&submission).await?;
        Ok(submitted)
    }

    /// Takes a command that is for now or never: [`CommandError::NotConnected`] where the device is with no node.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn submit_now(self: &Arc<Self>, submission: Submission<'_>) -> Result<Submitted, CommandError> {
        self.submit(submission).await
    }

    /// Begins to watch a command, which need not exist yet: what happens to it from here on is not missed.
    pub fn watch(self: &Arc<Self>, device: &DeviceKey, id: CommandId) -> Watch {
        Watch { router: Arc::clone(self), device: device.clone(), id, seen: 0 }
    }

    /// Waits for a command's end until `until`; then tells how far it is.
    ///
    /// # Errors
    /// [`CommandError`]: `NotFound`, `Unavailable`.
    pub async fn wait(
        self: &Arc<Self>,
        device: &DeviceKey,
        id: CommandId,
        until: Instant,
    ) -> Result<Command, CommandError> {
        let mut watch = self.watch(device, id);
        loop {
            match tokio::time::timeout_at(until, watch.next()).await {
                Ok(Ok(command)) if !command.life.state.is_terminal() => {}
                Ok(result) => return result,
                Err(_) => return self.get(device, id).await,
            }
        }
    }

    /// Takes a command back.
    ///
    /// # Errors
    /// [`CommandError`]: `NotFound`, `TooLate`, `Unavailable`.
    pub async fn cancel(&self, device: &DeviceKey, id: CommandId) -> Result<Canceled, CommandError> {
        let canceled = self.parts.courier.commands().cancel(device, id).await?;
        if canceled.changed {
            self.parts.courier.tell(canceled.command.clone());
        }
        Ok(canceled)
    }

    /// One command.
    ///
    /// # Errors
    /// [`CommandError`]: `NotFound`, `Unavailable`.
    pub async fn get(&self, device: &DeviceKey, id: CommandId) -> Result<Command, CommandError> {
        self.parts.courier.commands().get(device, id).await
    }
}

/// Somebody who waits for a command.
pub struct Watch {
    router: Arc<Router>,
    device: DeviceKey,
    id: CommandId,
    seen: u32,
}

impl Watch {
    /// The command as soon as its version is above what was seen. Versions in between may be missed, the end is not.
    /// After the end it waits for ever.
    ///
    /// # Errors
    /// [`CommandError::NotFound`]: it was lost with the directory.
    pub async fn next(&mut self) -> Result<Command, CommandError> {
        loop {
            let command = self.router.get(&self.device, self.id).await?;
            if command.life.version > self.seen {
                self.seen = command.life.version;
                return Ok(command);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl PeerHandler for Router {
    fn is_me(&self, life: &NodeLife) -> bool {
        *self.parts.registrar.life() == *life
    }

    fn ring(&self, device: &DeviceKey, epoch: Epoch) -> Rung {
        match self.parts.roster.find(device) {
            Some((mailbox, known)) if known == epoch => {
                self.parts.courier.ring(device, &mailbox);
                Rung::Delivered
            }
            found => Rung::NotHere { known: found.map(|(_, known)| known) },
        }
    }

    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        let _ = (device, epoch);
        Evicted::Absent
    }

    fn ended(&self, ending: Ending) {
        let _ = ending;
    }

    fn sweep(&self) {}
}
