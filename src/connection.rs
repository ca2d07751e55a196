//! One connection, one task, one future: read what is there, feed the session, take what the node left, write once.
//!
//! The future is polled by hand so that nothing is held across a wait but what the connection is: bytes are read into
//! and written from buffers of the thread, and a heap buffer exists only for what could not be finished.

mod farewell;
mod pump;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::auth::{Authenticator, KeyRef};
use crate::eventlog::{Flow, SharedLog};
use crate::id::{Boot, DeviceKey, SessionId};
use crate::limits::Limits;
use crate::mailbox::{Mailbox, Signal};
use crate::protocol::Encoding;
use crate::protocol::message::Welcome;
use crate::receipts::Receipts;
use crate::roster::Roster;
use crate::session::Now;
use crate::session::device::Session;
use crate::socket::deflate::Negotiated;
use crate::telemetry::metrics::Metrics;

pub use farewell::{Farewell, turn_away};
pub use pump::End;

/// Milliseconds between two looks of the sweeper.
pub const TICK_MS: u64 = 500;

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
    /// What people see.
    pub metrics: Metrics,
    /// Whether a device's own `traceparent` goes into its records.
    pub trust_traceparent: bool,
    started: Instant,
    tick: AtomicU32,
    paused: AtomicBool,
    stopping: AtomicBool,
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
        Self {
            limits,
            log,
            roster: Arc::default(),
            receipts,
            auth,
            metrics,
            trust_traceparent: false,
            started: Instant::now(),
            tick: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, unix_ms: unix.as_millis() as i64 }
    }

    /// Whether devices are asked to hold their updates.
    pub fn flow(&self) -> Flow {
        if self.paused.load(Ordering::Relaxed) { Flow::Paused } else { Flow::Open }
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Tells every connection to settle what it has and close.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.receipts.for_each(|mailbox| mailbox.signal(Signal::Stop));
    }

    /// Looks whether the log takes records, and tells every connection where that has changed: paused where nothing was
    /// stored for `log_stall_ms` although something waits or half the budget is used; open again below a quarter.
    pub fn watch_flow(&self) {
        let (used, limit) = (self.receipts.node_budget().used(), self.receipts.node_budget().limit());
        let stalled = self.log.pending().stalled_ms >= self.limits.log_stall_ms;
        let was = self.paused.load(Ordering::Relaxed);
        let paused = stalled || used >= limit / if was { 4 } else { 2 };
        if paused != was {
            self.paused.store(paused, Ordering::Relaxed);
            self.receipts.for_each(|mailbox| mailbox.signal(Signal::Flow));
        }
    }

    /// Wakes the connections whose moment has come; to be called every [`TICK_MS`].
    pub fn sweep(&self) {
        let tick = (self.started.elapsed().as_millis() as u64 / TICK_MS) as u32;
        self.tick.store(tick, Ordering::Relaxed);
        self.receipts.for_each(|mailbox| mailbox.tick(tick));
    }

    /// Tells every connection to look whether its signing key still counts.
    pub fn keys_changed(&self) {
        self.receipts.for_each(|mailbox| mailbox.signal(Signal::Keys));
    }
}

/// A device at the door: who it is and what it asked for.
#[derive(Debug)]
pub struct Entry {
    /// Who.
    pub key: DeviceKey,
    /// Its boot, where it gave one.
    pub boot: Option<Boot>,
    /// How its messages are written.
    pub encoding: Encoding,
    /// Whether and how they are compressed.
    pub deflate: Option<Negotiated>,
    /// How often it is pinged.
    pub heartbeat_s: u64,
    /// When its token expires, Unix milliseconds.
    pub token_expires_ms: Option<i64>,
    /// The key that signed its token.
    pub signed_by: Option<KeyRef>,
    /// Closes that mean *come back* end without a close frame.
    pub close_drop: bool,
    /// What it sent behind its request.
    pub early: Vec<u8>,
}

/// Runs one device's connection from entering the roster to leaving it. Returns how it ended.
pub async fn serve<S>(stream: S, entry: Entry, node: Arc<Node>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let now = node.now();
    let id = SessionId::draw();
    let boot = entry.boot.unwrap_or_else(|| id.into());
    let mailbox = Arc::new(Mailbox::default());
    let seat = node.receipts.seat(entry.key.tenant(), Arc::clone(&mailbox));
    let unix_us = now.unix_ms.unsigned_abs() * 1_000;
    let entered = node.roster.enter(&entry.key, boot.as_str(), mailbox, unix_us);
    let leeway_ms = node.auth.as_ref().map_or(0, |auth| auth.leeway_ms());
    // Not every device that came back at once is to be pinged at once.
    let heartbeat_ms = (entry.heartbeat_s * 1_000) as u32;
    let heartbeat_ms = heartbeat_ms - fastrand::u32(0..=heartbeat_ms / 10);
    let session = Session::new(entry.key, heartbeat_ms, entry.token_expires_ms, leeway_ms, &node.limits, now);
    let epoch = entered.epoch();
    let mut pump = pump::Pump::new(
        stream,
        Arc::clone(&node),
        session,
        pump::Place { seat, boot, epoch, signed_by: entry.signed_by },
        pump::Wire {
            encoding: entry.encoding,
            deflate: entry.deflate,
            close_drop: entry.close_drop,
            early: entry.early,
        },
    );
    pump.welcome(&id.to_string(), entry.heartbeat_s, entry.token_expires_ms);
    let end = poll_fn(|cx| pump.poll(cx)).await;
    drop(entered);
    end
}

/// What a device is greeted with.
fn welcome<'a>(
    key: &'a DeviceKey,
    session: &'a str,
    epoch: u64,
    heartbeat_s: u64,
    limits: &Limits,
    now: Now,
) -> Welcome<'a> {
    Welcome {
        message: "welcome to Tidegate",
        device_id: key.device(),
        session,
        epoch,
        heartbeat_s,
        max_message_bytes: limits.message_bytes as u64,
        window: limits.window_messages as u64,
        server_time: now.unix_ms,
        token_expires_at: None,
        resume_after: None,
        registered: None,
    }
}
