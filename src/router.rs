//! From whoever commands a device to the connection that has it: here, or one hop away. And back: whoever waits hears of
//! each change, on this node or on the one where the command was accepted.
//!
//! `publish` brings changes to the event log, `sweep` looks at what came due, `neighbours` keeps in touch with peers.

mod disconnect;
mod errands;
pub mod memory;
mod neighbours;
mod publish;
mod spans;
mod sweep;
#[cfg(test)]
mod tests;
mod trace;
mod waiters;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::commands::{self, Canceled, Command, CommandError, Row, State, Submission, Submitted};
use crate::connection::Traces;
use crate::courier::Courier;
use crate::eventlog::SharedLog;
use crate::id::{CommandId, DeviceKey, Epoch};
use crate::keeper::Keeper;
use crate::limits::fixed::LEAST_MAX_BYTES;
use crate::ownership::{NodeLife, Whereabouts};
use crate::peer::{Ending, Evicted, PeerError, PeerHandler, Rung, SharedPeers, Traced};
use crate::receipts::Receipts;
use crate::registrar::Registrar;
use crate::roster::Roster;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Span, Tracer};
pub use disconnect::DisconnectError;
use errands::Errands;
use neighbours::Met;
use publish::Flushes;
pub use trace::TraceError;
use waiters::{Heard, Seat, Waiters};

/// How often a command is read anew by whoever waits for it, should nobody tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest event of a command that its origin is told in whole.
const TOLD_BYTES: usize = 4 * 1024;
/// How long a command that is for now or never may take.
const NOW_MS: u64 = 5_000;
/// A connection that was claimed may not be in the roster yet: its doorbell is rung again after this.
const RING_AGAIN: Duration = Duration::from_millis(500);

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
    /// Which connections of this node are traced.
    pub traces: Arc<Traces>,
    /// What people see.
    pub metrics: Metrics,
}

/// Routes commands.
pub struct Router {
    parts: Parts,
    /// For errands that begin where only a reference is at hand.
    me: Weak<Self>,
    waiters: Waiters,
    errands: Errands,
    keeper: OnceLock<Arc<Keeper>>,
    /// The peers that can be asked.
    met: Mutex<Met>,
    /// Those that are being told what they lost.
    telling: Mutex<HashSet<NodeLife>>,
    flushes: Flushes,
}

impl Router {
    /// Of a node that starts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            parts,
            me: Weak::clone(me),
            waiters: Waiters::default(),
            errands: Errands::default(),
            keeper: OnceLock::new(),
            met: Mutex::default(),
            telling: Mutex::default(),
            flushes: Flushes::default(),
        })
    }

    /// Who sweeps when a peer asks for it; to be told once.
    pub fn attach(&self, keeper: Arc<Keeper>) {
        // Told twice the first counts.
        let _ = self.keeper.set(keeper);
    }

    /// Starts everything that goes on all the time; it ends with the runtime. Events go to `log`, whose reports come to
    /// `receipts`.
    pub fn spawn(self: &Arc<Self>, log: SharedLog, receipts: &Arc<Receipts>) {
        tokio::spawn(Arc::clone(self).publish_events(log, Arc::clone(receipts)));
        tokio::spawn(Arc::clone(self).sweep_due());
        tokio::spawn(Arc::clone(self).follow_views());
        tokio::spawn(Arc::clone(self).tell_losers());
        tokio::spawn(Arc::clone(self).probe_peers());
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
        let mut span = self.begin_span(&submission);
        let context = span.as_ref().map(Span::context);
        let origin = commands::origin(&self.parts.registrar.life().to_string(), context);
        let submission = Submission { origin: Some(&origin), ..submission };
        let submitted = traces::within(context, self.take(submission)).await;
        if let (Some(span), Err(error)) = (&mut span, &submitted) {
            span.fail(error.metric_label());
        }
        submitted
    }

    async fn take(self: &Arc<Self>, submission: Submission<'_>) -> Result<Submitted, CommandError> {
        self.measure(&submission).await?;
        let courier = &self.parts.courier;
        let submitted = courier.commands().submit(&submission).await?;
        submitted.replaced.iter().for_each(|replaced| courier.tell(replaced.clone()));
        if submitted.new {
            courier.tell(submitted.command.clone());
        }
        // What was sent goes out again with the next claim, or by the ack timeout of the connection that sent it.
        if submitted.command.life.state == State::Queued
            && let Some(row) = &submitted.row
        {
            self.bring(submission.device, row);
        }
        Ok(submitted)
    }

    /// Refuses what the device has said it cannot take, as far as that can be known now. What comes through all the same
    /// fails at its connection.
    async fn measure(&self, submission: &Submission<'_>) -> Result<(), CommandError> {
        let (device, bytes) = (submission.device, submission.message_bytes());
        if bytes <= LEAST_MAX_BYTES {
            return Ok(());
        }
        let most = match self.parts.roster.find(device) {
            Some((mailbox, _)) => mailbox.max_bytes(),
            None => match self.parts.registrar.directory().find(device).await {
                Ok(Whereabouts::At(at)) => at.0.max_bytes,
                Ok(Whereabouts::Offline) | Err(_) => None,
            },
        };
        match most {
            // One that was taken before is asked for again, whatever the device can take now.
            Some(most) if bytes > most => match self.get(device, submission.id()).await {
                Err(CommandError::NotFound) => Err(CommandError::TooLarge(most)),
                found => found.map(drop),
            },
            _ => Ok(()),
        }
    }

    /// Takes a command that is for now or never: [`CommandError::NotConnected`] where the device is with no node.
    /// `submission.ttl_ms` and `only_epoch` are the router's to fill in.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn submit_now(self: &Arc<Self>, submission: Submission<'_>) -> Result<Submitted, CommandError> {
        let mut tried = None;
        loop {
            let found = self.parts.registrar.directory().find(submission.device).await;
            let found = found.map_err(|error| CommandError::Unavailable(error.to_string()))?;
            let epoch = match found {
                Whereabouts::At(at) => at.0.epoch,
                // No row has it, so only what is known under this key is given.
                Whereabouts::Offline => Epoch(0),
            };
            let now = Submission { ttl_ms: NOW_MS, only_epoch: Some(epoch), ..submission.clone() };
            match self.submit(now).await {
                // It moved in between, or has just come.
                Err(CommandError::NotConnected) if tried.is_none() && epoch != Epoch(0) => tried = Some(epoch),
                result => return result,
            }
        }
    }

    /// Begins to watch a command, which need not exist yet: what happens to it from here on is not missed. Where
    /// [`WAITERS`](crate::limits::fixed::WAITERS) watch already [`Watch::next`] says so.
    pub fn watch(self: &Arc<Self>, device: &DeviceKey, id: CommandId) -> Watch {
        let (router, seat) = (Arc::clone(self), self.waiters.enter(id));
        Watch { router, device: device.clone(), id, seat, seen: 0, look_at: Instant::now(), ended: false }
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
        let watch = self.watch(device, id);
        let known = self.get(device, id).await?;
        watch.end(known, until).await
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

    /// Tells a change to whoever waits for it: here, and on the node where the command was accepted. `event` is the value
    /// of the change's event.
    fn spread(self: &Arc<Self>, command: &Command, event: &[u8]) {
        self.waiters.tell(command);
        let Some(origin) = command.waits().and_then(NodeLife::parse) else { return };
        if self.is_me(&origin) {
            return;
        }
        let (router, to) = (Arc::clone(self), origin.clone());
        // A large one is read by whoever waits for it, and mostly nobody does.
        let detail = if event.len() <= TOLD_BYTES { event.to_vec() } else { Vec::new() };
        let ending =
            Ending { device: command.device.clone(), command: command.id, version: command.life.version, detail };
        // Left undone, or lost: who waits there looks every second.
        let told = async move {
            // Unknown to this node: gone, or so new that the membership has to be read.
            if !matches!(router.parts.registrar.directory().member(&to).await, Ok(Some(_))) {
                return;
            }
            router.meet();
            if let Err(error) = router.parts.peers.ended(&to, &ending).await {
                tracing::debug!(%to, command = %ending.command, %error, "the origin of a command was not told of it");
            }
        };
        let told = traces::within(command.trace(), told);
        if self.parts.registrar.directory().knows(&origin) {
            self.errands.to(&origin, told);
        } else {
            self.errands.here(told);
        }
    }

    /// Has the doorbell rung of whoever holds a device. What cannot be done now is done by the due sweep.
    fn bring(self: &Arc<Self>, device: &DeviceKey, row: &Row) {
        let owner = life_of(row);
        if self.is_me(&owner) && self.ring_here(device, row.epoch) {
            return;
        }
        let (router, device, row) = (Arc::clone(self), device.clone(), row.clone());
        let errand = traces::within(traces::current(), async move { router.ring_owner(&device, row).await });
        let begun = if self.is_me(&owner) { self.errands.here(errand) } else { self.errands.to(&owner, errand) };
        if !begun {
            tracing::debug!(%owner, "too many calls to a peer are under way: a command waits for the due sweep");
        }
    }

    /// Rings once, and once more where the row was stale.
    async fn ring_owner(self: Arc<Self>, device: &DeviceKey, first: Row) {
        let missed = match self.ring_at(device, &first).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let found = self.parts.registrar.directory().find(device).await;
        let Ok(Whereabouts::At(at)) = found else { return };
        let now = Row { node: at.0.owner.node, incarnation: at.0.owner.incarnation, epoch: at.0.epoch };
        if now == first {
            // Its connection is on its way into the roster, or the node cannot be asked.
            if !matches!(missed, PeerError::NotHere { .. }) {
                tracing::debug!(%device, error = %missed, "the owner of a device could not be told of a command");
                return;
            }
            tokio::time::sleep(RING_AGAIN).await;
        }
        if let Err(error) = self.ring_at(device, &now).await {
            tracing::debug!(%device, %error, "a command waits for the due sweep");
        }
    }

    async fn ring_at(&self, device: &DeviceKey, row: &Row) -> Result<(), PeerError> {
        let owner = life_of(row);
        if self.is_me(&owner) {
            let rung = self.ring_here(device, row.epoch);
            return if rung { Ok(()) } else { Err(PeerError::NotHere { known: None }) };
        }
        // Unknown to this node: gone, or so new that the membership has to be read.
        if !matches!(self.parts.registrar.directory().member(&owner).await, Ok(Some(_))) {
            return Err(PeerError::Gone);
        }
        self.meet();
        self.parts.peers.ring(&owner, device, row.epoch).await
    }

    /// Tells the device's connection here, if it is of this epoch or a later one.
    fn ring_here(&self, device: &DeviceKey, epoch: Epoch) -> bool {
        match self.parts.roster.find(device) {
            Some((mailbox, known)) if known >= epoch => {
                self.parts.courier.ring(device, &mailbox);
                true
            }
            _ => false,
        }
    }
}

fn life_of(row: &Row) -> NodeLife {
    NodeLife { node: row.node.clone(), incarnation: row.incarnation }
}

/// Somebody who waits for a command.
pub struct Watch {
    router: Arc<Router>,
    device: DeviceKey,
    id: CommandId,
    seat: Option<Arc<Seat>>,
    seen: u32,
    look_at: Instant,
    ended: bool,
}

impl Watch {
    /// The command as soon as its version is above what was seen. Versions in between may be missed, the end is not.
    /// After the end it waits for ever. Dropped before it gives something it has missed nothing.
    ///
    /// # Errors
    /// [`CommandError::NotFound`]: there is none, or it was lost with the directory. [`CommandError::Unavailable`]: too
    /// many watch already.
    pub async fn next(&mut self) -> Result<Command, CommandError> {
        if self.ended {
            return std::future::pending().await;
        }
        let Some(seat) = self.seat.clone() else {
            return Err(CommandError::Unavailable("too many wait for commands on this node".to_owned()));
        };
        let mut known = self.seen;
        loop {
            match tokio::time::timeout_at(self.look_at, seat.heard(known)).await {
                Ok(Heard::Told(command)) => return Ok(self.saw(Command::clone(&command))),
                Ok(Heard::Rung(version)) => known = version,
                Err(_) => self.look_at = Instant::now() + LOOK_EVERY,
            }
            match self.router.get(&self.device, self.id).await {
                Ok(command) if command.life.version > self.seen => return Ok(self.saw(command)),
                // The directory is away: it is looked again, and whoever waits has a deadline of his own.
                Ok(_) | Err(CommandError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the end until `until`; then tells how far the command is. `known`: what was read of it since the watch
    /// began.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn end(mut self, known: Command, until: Instant) -> Result<Command, CommandError> {
        self.look_at = Instant::now() + LOOK_EVERY;
        let mut last = known;
        while !last.life.state.is_terminal() {
            self.seen = last.life.version;
            last = match tokio::time::timeout_at(until, self.next()).await {
                Ok(next) => next?,
                Err(_) => return Ok(self.router.get(&self.device, self.id).await.unwrap_or(last)),
            };
        }
        Ok(last)
    }

    fn saw(&mut self, command: Command) -> Command {
        self.seen = command.life.version;
        self.ended = command.life.state.is_terminal();
        command
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            self.router.waiters.leave(self.id, seat);
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
        self.close_older(device, epoch)
    }

    fn ended(&self, ending: Ending) {
        if !self.waiters.wait_for(ending.command) {
            return;
        }
        let told = Command::from_event(&ending.device, &ending.detail);
        match told.filter(|told| told.id == ending.command && told.life.version == ending.version) {
            Some(command) => self.waiters.tell(&command),
            None => self.waiters.ring(ending.command, ending.version),
        }
    }

    fn sweep(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.sweep_all();
        }
    }

    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        self.trace_here(device, epoch, for_s)
    }

    fn tracer(&self) -> Option<&Tracer> {
        self.parts.metrics.tracer()
    }
}
