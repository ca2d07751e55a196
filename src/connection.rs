//! One connection, one task, one future: read what is there, feed the session, take what the node left, write once.
//!
//! The future is polled by hand so that nothing is held across a wait but what the connection is: bytes are read into
//! and written from buffers of the thread, and a heap buffer exists only for what could not be finished.

mod apps;
mod berth;
mod departure;
mod farewell;
mod intake;
mod orders;
mod outgoing;
mod per_second;
mod pump;
mod spans;
mod traces;
mod transport;
mod witness;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use crate::auth::{AppIdentity, Authenticator, KeyRef};
use crate::clock::unix_ms;
use crate::courier::Courier;
use crate::eventlog::{Flow, SharedLog};
use crate::id::{Boot, DeviceKey};
use crate::limits::Limits;
use crate::mailbox::Signal;
use crate::protocol::Encoding;
use crate::receipts::Receipts;
use crate::registrar::{Registrar, Tenure};
use crate::revocations::{ApplyError, Change, Revocations};
use crate::roster::Roster;
use crate::session::Now;
use crate::socket::deflate::Negotiated;
use crate::telemetry::metrics::{Metrics, PeerKind};

pub use apps::{AppOrder, Apps};
pub use departure::{Ages, Departure, GRACE_MS};
pub use farewell::{Farewell, turn_away};
pub use traces::Traces;
pub use transport::Transport;
pub use witness::End;

/// Milliseconds between two looks of the sweeper.
pub const TICK_MS: u64 = 500;
/// How long after [`Node::stop`] a connection waits for what it has outstanding, in milliseconds; then it closes without
/// those acks, and the device has the updates still.
pub const STOP_WITHIN_MS: u64 = 10_000;
/// The same while the log stores nothing at all: the acks will hardly come.
pub const STOP_STALLED_MS: u64 = 1_000;

/// Over how long those who are told to leave a few at a time come back, each at a moment of its own, in milliseconds.
const PACED_SPAN_MS: u64 = 2_000;

/// What every connection of a node shares.
pub struct Node {
    /// Every bound.
    pub limits: Limits,
    /// Where updates go.
    pub log: SharedLog,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// Who waits for what.
    pub receipts: Arc<Receipts>,
    /// Who may.
    pub auth: Option<Arc<Authenticator>>,
    /// Who may no longer.
    pub revocations: Arc<Revocations>,
    /// What people see.
    pub metrics: Metrics,
    /// What claims devices; nothing where the node is alone and nobody asks.
    pub registrar: Option<Arc<Registrar>>,
    /// What brings commands; nothing where none can come.
    pub courier: Option<Arc<Courier>>,
    /// The applications that are connected by sockets, and their commands.
    pub apps: Apps,
    /// Whether a `traceparent` that devices and applications bring is believed: it goes into their records, and their traces
    /// go on here.
    pub trust_traceparent: bool,
    /// Whose messages are in the log for a while.
    pub traces: Arc<Traces>,
    /// How old the connections of devices may become.
    pub ages: Ages,
    started: Instant,
    tick: AtomicU32,
    paused: AtomicBool,
    stalled: AtomicBool,
    stopping: AtomicBool,
    departure: departure::Board,
    lines: witness::Lines,
    spans: spans::Spans,
}

impl Node {
    /// A node with nobody connected.
    pub fn new(
        limits: Limits,
        log: SharedLog,
        receipts: Arc<Receipts>,
        auth: Option<Arc<Authenticator>>,
        metrics: Metrics,
    ) -> Self {
        let revocations = Arc::new(Revocations::default());
        if let Some(auth) = &auth {
            auth.obey(Arc::clone(&revocations) as _);
        }
        Self {
            limits,
            log,
            roster: Arc::default(),
            receipts,
            auth,
            revocations,
            metrics,
            registrar: None,
            courier: None,
            apps: Apps::default(),
            trust_traceparent: false,
            traces: Arc::default(),
            ages: Ages::default(),
            started: Instant::now(),
            tick: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            departure: departure::Board::default(),
            lines: witness::Lines::default(),
            spans: spans::Spans::default(),
        }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        Now { mono_ms: self.started.elapsed().as_millis() as u64, unix_ms: unix_ms() }
    }

    /// Whether devices are asked to hold their updates.
    pub fn flow(&self) -> Flow {
        if self.paused.load(Ordering::Relaxed) { Flow::Paused } else { Flow::Open }
    }

    /// Whether the event log has records and stores none of them.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Tells every connection to send `goaway`, settle what it has and close, within [`STOP_WITHIN_MS`].
    /// Told again is the same as told once: a connection that enters later finds out by itself.
    pub fn stop(&self) {
        if !self.stopping.swap(true, Ordering::Relaxed) {
            self.receipts.for_each(|mailbox| mailbox.signal(Signal::Stop));
        }
    }

    /// Looks whether the log takes records, and tells every connection where that has changed: paused where nothing was
    /// stored for `log_stall_ms` although something waits or half the budget is used; open again below a quarter.
    pub fn watch_flow(&self) {
        let (used, limit) = (self.receipts.node_budget().used(), self.receipts.node_budget().limit());
        let stalled = self.log.pending().stalled_ms >= self.limits.log_stall_ms;
        self.stalled.store(stalled, Ordering::Relaxed);
        let was = self.paused.load(Ordering::Relaxed);
        let paused = stalled || used >= limit / if was { 4 } else { 2 };
        if paused != was {
            if paused {
                tracing::warn!(stalled, used_bytes = used, "the event log takes too little: devices are told to pause");
            } else {
                tracing::info!(used_bytes = used, "the event log takes records again: devices are told to go on");
            }
            self.paused.store(paused, Ordering::Relaxed);
            self.receipts.for_each(|mailbox| mailbox.signal(Signal::Flow));
        }
    }

    /// Wakes the connections whose moment has come; to be called every [`TICK_MS`].
    pub fn sweep(&self) {
        let tick = (self.started.elapsed().as_millis() as u64 / TICK_MS) as u32;
        self.tick.store(tick, Ordering::Relaxed);
        if self.revocations.take_tokens_changed() {
            self.keys_changed();
        }
        self.receipts.for_each(|mailbox| mailbox.tick(tick));
    }

    /// Applies a record of the topic of revocations. A device that it blocks and that is connected is told at once, those
    /// whose tokens it may have revoked at the next [`Node::sweep`].
    ///
    /// # Errors
    /// [`ApplyError`]: it changed nothing.
    pub fn revoke(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), ApplyError> {
        let change = self.revocations.apply(key, value)?;
        self.metrics.revocations.set(i64::try_from(self.revocations.len()).unwrap_or(i64::MAX));
        if let Change::Blocked(device) = change
            && let Some((mailbox, _)) = self.roster.find(&device)
        {
            mailbox.signal(Signal::Keys);
        }
        Ok(())
    }

    /// Tells every connection to look whether it may still be here: its signing key, its token, its device.
    pub fn keys_changed(&self) {
        self.receipts.for_each(|mailbox| mailbox.signal(Signal::Keys));
    }

    /// When somebody who has to go should come back, in milliseconds from now, drawn anew each time. Where all go at once
    /// (`within_ms` is `u64::MAX`) the span grows with their number, so that they do not all come back at once. Where they
    /// go a few at a time it is the same for each, and ends at `within_ms`: one that shrank with those who are left would
    /// bring them back faster than they were told.
    fn retry_after_ms(&self, within_ms: u64) -> u64 {
        let span_ms = match within_ms {
            u64::MAX => (2 * self.receipts.connections() as u64).clamp(1_000, 60_000),
            _ => PACED_SPAN_MS.min(within_ms.saturating_sub(500)),
        };
        500 + fastrand::u64(..=span_ms)
    }
}

/// Somebody at the door: who it is and what it asked for.
#[derive(Debug)]
pub struct Entry {
    /// Whether it is a device or an application. An application is in no roster and sends no updates.
    pub kind: PeerKind,
    /// Who.
    pub key: DeviceKey,
    /// What an application may; nothing of a device.
    pub app: Option<Box<AppIdentity>>,
    /// Its boot, where it gave one; not looked at where there is a tenure, which has it.
    pub boot: Option<Boot>,
    /// What was claimed for a device.
    pub tenure: Option<Box<Tenure>>,
    /// How its messages are written.
    pub encoding: Encoding,
    /// Whether and how they are compressed.
    pub deflate: Option<Negotiated>,
    /// How often it is pinged.
    pub heartbeat_s: u64,
    /// The largest message it can take, where it said so.
    pub max_bytes: Option<usize>,
    /// When its token expires, Unix milliseconds.
    pub token_expires_ms: Option<i64>,
    /// The key that signed its token.
    pub signed_by: Option<KeyRef>,
    /// Closes that mean *come back* end without a close frame.
    pub close_drop: bool,
    /// What it sent behind its request.
    pub early: Vec<u8>,
}

/// Enters a connection (receipts, and a device into the roster) and returns the future that runs it until it has ended
/// and left again, which tells how it ended. To be spawned as it is: the future is the task's whole memory.
pub fn serve<S: Transport>(stream: S, entry: Entry, node: Arc<Node>) -> impl Future<Output = End> {
    pump::Pump::enter(stream, entry, node)
}

/// The same of a connection that was accepted at this moment: its handshake becomes a span.
pub fn serve_since<S: Transport>(
    stream: S,
    entry: Entry,
    node: Arc<Node>,
    accepted: Instant,
) -> impl Future<Output = End> {
    let pump = pump::Pump::enter(stream, entry, node);
    pump.shook_hands(accepted);
    pump
}
