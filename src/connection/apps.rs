//! Applications' sockets: what each may, and the way of their commands to whoever brings them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::auth::{AppIdentity, Scope};
use crate::id::{DeviceKey, SessionId};
use crate::mailbox::Mailbox;
use crate::protocol::message::{AppCommand, RefusalCode};
use crate::sync::lock;

/// Commands of one socket whose end it was not told of.
const OUTSTANDING: usize = 64;
/// Commands of all sockets that nobody has taken yet.
const WAITING: usize = 256;

/// A command of an application's socket.
#[derive(Debug)]
pub struct AppOrder {
    /// For which device.
    pub device: DeviceKey,
    /// Of which application: an id of the same tenant.
    pub application: String,
    /// What is asked for; its device is the one above.
    pub command: AppCommand<'static>,
    /// Where what becomes of it is told.
    pub mailbox: Arc<Mailbox>,
    /// Its place among the socket's outstanding ones (64); to be dropped after its end was told.
    pub place: OwnedSemaphorePermit,
}

struct Desk {
    identity: AppIdentity,
    outstanding: Arc<Semaphore>,
}

/// The applications that are connected to this node by sockets.
pub struct Apps {
    sender: mpsc::Sender<AppOrder>,
    /// Until somebody takes it.
    orders: Mutex<Option<mpsc::Receiver<AppOrder>>>,
    desks: Mutex<HashMap<SessionId, Desk>>,
}

impl Default for Apps {
    fn default() -> Self {
        let (sender, orders) = mpsc::channel(WAITING);
        Self { sender, orders: Mutex::new(Some(orders)), desks: Mutex::default() }
    }
}

impl Apps {
    /// Where their commands come out; nothing where somebody has it already. As long as nobody has, none is taken.
    pub fn orders(&self) -> Option<mpsc::Receiver<AppOrder>> {
        lock(&self.orders).take()
    }

    /// A connection begins, or has a new token.
    pub(super) fn enter(&self, session: SessionId, identity: AppIdentity) {
        let mut desks = lock(&self.desks);
        let known = desks.remove(&session).map(|desk| desk.outstanding);
        let outstanding = known.unwrap_or_else(|| Arc::new(Semaphore::new(OUTSTANDING)));
        desks.insert(session, Desk { identity, outstanding });
    }

    /// A connection ended.
    pub(super) fn leave(&self, session: SessionId) {
        lock(&self.desks).remove(&session);
    }

    /// Takes a command, or says why not.
    pub(super) fn take(
        &self,
        mailbox: &Arc<Mailbox>,
        tenant: &str,
        command: AppCommand<'_>,
    ) -> Result<(), (RefusalCode, &'static str)> {
        const NOT_REACHED: &str = "command: there is no such device, or the token does not reach it";
        if lock(&self.orders).is_some() {
            return Err((RefusalCode::Unavailable, "command: this node brings no commands"));
        }
        let (application, place) = {
            let desks = lock(&self.desks);
            let desk = desks.get(&mailbox.session()).ok_or((RefusalCode::Unavailable, "command: connect anew"))?;
            if !desk.identity.has(Scope::CommandsWrite) {
                return Err((RefusalCode::Forbidden, "command: the token's scope has no `commands:write`"));
            }
            if !desk.identity.may_reach_id(&command.device_id) {
                return Err((RefusalCode::Forbidden, NOT_REACHED));
            }
            let too_many = (RefusalCode::Rate, "command: 64 of this connection have not ended: wait for some");
            let place = Arc::clone(&desk.outstanding).try_acquire_owned().map_err(|_| too_many)?;
            (desk.identity.key().device().to_owned(), place)
        };
        let malformed = (RefusalCode::Malformed, "command: `device_id` must be 1 to 128 of A-Z a-z 0-9 . _ -");
        let device = DeviceKey::new(tenant, &command.device_id).map_err(|_| malformed)?;
        let command = command.into_owned();
        let order = AppOrder { device, application, command, mailbox: Arc::clone(mailbox), place };
        // Full or gone: either way nobody has taken it.
        let busy = (RefusalCode::Rate, "command: too many at once on this node: send it again in a moment");
        self.sender.try_send(order).map_err(|_| busy)
    }
}
