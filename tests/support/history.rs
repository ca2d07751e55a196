//! What happened to a cluster, as everybody saw it who had a part in it: one JSON object a line, in the order of time.
//! Devices, callers and the harness write it while it happens; what Kafka and Redis hold is added at the end.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since 1970 by the clock of this machine, which everybody here shares.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;

/// The time.
pub fn now_us() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    u64::try_from(since.as_micros()).expect("the year is not that late")
}

/// What somebody saw, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at_us: Micros,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What may go wrong by the harness' hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A node does not run: SIGKILL, until it is started.
    Killed,
    /// A node was told to leave: SIGTERM, until it is started.
    Drained,
    /// A node stands still: SIGSTOP to SIGCONT.
    Paused,
    /// `FLUSHALL`: everything is lost.
    Flushed,
    /// Redis was killed, and is empty once it is back.
    RedisEmptied,
    /// Redis stands still.
    RedisPaused,
    /// A replica is cut off, then takes over: what was written since is lost.
    RedisLostTail,
    /// Kafka stands still.
    KafkaPaused,
}

impl Fault {
    /// Whether something is forgotten by it.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Flushed | Self::RedisEmptied | Self::RedisLostTail)
    }

    /// Whether it is about Redis.
    pub fn is_redis(self) -> bool {
        self.is_loss() || self == Self::RedisPaused
    }
}

/// One transition of a command as Kafka has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its version.
    pub version: u32,
    /// What it became.
    pub state: String,
    /// Why, where that needs a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What somebody saw. A `device` is `<tenant>/<device>`, a `node` is a node's name, a `connection` is the harness' own
/// number of a socket, a `session` is what `welcome` calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A history begins.
    Began { seed: u64, what: String },
    /// A fault begins; `target` is a node, or `redis`, `kafka`.
    Fault { fault: Fault, target: String },
    /// It is over.
    Over { fault: Fault, target: String },
    /// Healing, a lease, 5 s and a sweep ago: what must hold in the end holds from here on.
    Settled,

    /// A device knocks.
    Opening { device: String, connection: u64, boot: String, node: String },
    /// It was not let in.
    Refused { device: String, connection: u64, status: u16 },
    /// It was.
    Welcome { device: String, connection: u64, session: String, epoch: u64, registered: bool },
    /// It sent an update.
    Said { device: String, connection: u64, seq: u64 },
    /// Everything up to this one is stored.
    Acked { device: String, connection: u64, seq: u64 },
    /// A question that was asked then was answered now: the gateway serves this socket.
    Served { device: String, connection: u64, asked_us: Micros },
    /// A command came. `mark` is what its caller put into its params: the device it was meant for.
    Frame { device: String, connection: u64, id: String, attempt: u32, mark: String },
    /// The device did what a command asks.
    Executed { device: String, id: String },
    /// The device is about to answer a command.
    Answered { device: String, connection: u64, id: String, status: String },
    /// A socket ended: with a close frame's code, or without one.
    Closed { device: String, connection: u64, code: Option<u16>, by_device: bool },

    /// A caller is about to ask for a command. `probe`: it must reach a device that is connected.
    Submitted {
        call: u64,
        application: String,
        device: String,
        key: String,
        body: String,
        ttl_ms: u64,
        max_attempts: u32,
        probe: bool,
    },
    /// What it was told; status 0: nothing, the connection broke or nobody answered.
    Replied { call: u64, status: u16, id: Option<String>, state: Option<String> },
    /// A caller asked how far a command is, or took it back; status 0: nothing.
    Read {
        /// The tenant whose token was used.
        tenant: String,
        device: String,
        id: String,
        asked_us: Micros,
        cancel: bool,
        status: u16,
        #[serde(default)]
        state: Option<String>,
        #[serde(default)]
        version: u32,
        #[serde(default)]
        reason: Option<String>,
    },

    /// A presence event in Kafka; `at_us` is its own time.
    Presence { device: String, online: bool, epoch: u64, node: String, reason: String },
    /// A command's event in Kafka; `device` is the record's key.
    Change { device: String, id: String, key: String, requested_by: String, version: u32, history: Vec<Step> },
    /// The end of what was read from Kafka and Redis.
    Collected,

    /// Redis: a row was written. What Redis did is read from `MONITOR`.
    RowWritten { device: String, owner: String, epoch: u64, session: String },
    /// Redis: a row was removed: on whose word, and with what fence.
    RowRemoved { device: String, by: String, fence: String, value: String },
    /// Redis: a dead node's row was marked.
    RowSettled { device: String },
    /// Redis: a connection was allowed to write a command.
    Granted { device: String, id: String, epoch: u64 },
    /// Redis: a command made a transition.
    Turned { device: String, id: String, version: u32, state: String },
    /// Redis, at the end: a device's row, and whether its node's lease runs.
    Row { device: String, owner: String, epoch: u64, session: String, live: bool },
}

/// A history as it is written.
#[derive(Default)]
pub struct Recorder {
    entries: Mutex<Vec<Entry>>,
}

impl Recorder {
    /// Notes what happens now.
    pub fn note(&self, event: Event) -> Micros {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the order is the order of time.
        let at_us = now_us();
        entries.push(Entry { at_us, event });
        at_us
    }

    /// Adds what others wrote down, with their times.
    pub fn add(&self, further: impl IntoIterator<Item = Entry>) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).extend(further);
    }

    /// What is there by now.
    pub fn history(&self) -> History {
        History::new(self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// A history, in the order of time; what has one time keeps the order in which it was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// What happened.
    pub entries: Vec<Entry>,
}

impl History {
    /// Of entries in any order.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.at_us);
        Self { entries }
    }

    /// Reads an event file; lines that are empty or begin with `#` are passed over.
    ///
    /// # Panics
    /// Where a line is no event.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let entry = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no event: {error}: {line}"));
        Self::new(lines.map(entry).collect())
    }

    /// Writes an event file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn save(&self, file: &Path) -> std::io::Result<()> {
        fs::write(file, self.to_string())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}
