//! The event log in memory, for `tidegate dev` and for tests: the same promises, until the process ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{
    AppendError, Deliveries, EventLog, LogFuture, Outcome, Pending, ProbeError, Record, Ticket, Topic, encode, publish,
};
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// A record as the log keeps it: what a reader of Kafka would see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Topic.
    pub topic: Topic,
    /// Key, `<tenant>/<device>`.
    pub key: String,
    /// Headers in their order.
    pub headers: Vec<(&'static str, String)>,
    /// Value.
    pub value: Vec<u8>,
    /// The record's time: when the gateway received it, in Unix milliseconds.
    pub timestamp_ms: i64,
}

impl StoredRecord {
    /// A header by name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// How much a [`MemoryLog`] takes and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Stored records kept for reading back; the oldest go first.
    pub kept_records: usize,
    /// Bytes of their values; the oldest go first.
    pub kept_bytes: usize,
    /// Records that may wait to be stored; one more is [`AppendError::Full`].
    pub queue_records: usize,
    /// A longer value is [`Outcome::Refused`].
    pub value_bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            kept_records: 10_000,
            kept_bytes: 16 * 1024 * 1024,
            queue_records: 100_000,
            value_bytes: 64 * 1024 + 4096,
        }
    }
}

enum Waiting {
    Record(StoredRecord, Ticket, Outcome),
    Probe(oneshot::Sender<()>),
}

struct State {
    waiting: VecDeque<Waiting>,
    messages: usize,
    bytes: usize,
    /// The same by topic, in the order of [`Topic::ALL`].
    topics: [(usize, usize); Topic::ALL.len()],
    moved: Instant,
    kept: VecDeque<StoredRecord>,
    kept_bytes: usize,
    held: bool,
    refuse_next: usize,
    /// Set once the log is closing: when it gives up what is still waiting.
    deadline: Option<Instant>,
}

impl State {
    fn topic(&mut self, topic: Topic) -> &mut (usize, usize) {
        let [telemetry, status, events] = &mut self.topics;
        match topic {
            Topic::Telemetry => telemetry,
            Topic::Status => status,
            Topic::CommandEvents => events,
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    limits: MemoryLimits,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The log in memory. A thread of its own stores and reports, so that a report never comes from within an append.
pub struct MemoryLog {
    shared: Arc<Shared>,
    ended: Mutex<Option<oneshot::Receiver<usize>>>,
}

impl MemoryLog {
    /// Starts a log with its thread. Sets how many records may be pending in `metrics`, where every record that
    /// ended is counted.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(limits: MemoryLimits, deliveries: Arc<dyn Deliveries>, metrics: &Metrics) -> std::io::Result<Self> {
        publish::set_capacity(metrics, limits.queue_records);
        let metrics = metrics.clone();
        let state = State {
            waiting: VecDeque::new(),
            messages: 0,
            bytes: 0,
            topics: Default::default(),
            moved: Instant::now(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            held: false,
            refuse_next: 0,
            deadline: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), limits });
        let (sender, receiver) = oneshot::channel();
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("memory-log".to_owned())
            .spawn(move || run(&own, &*deliveries, &metrics, sender))?;
        Ok(Self { shared, ended: Mutex::new(Some(receiver)) })
    }

    /// Stores and reports nothing until [`release`](Self::release), as a log that hangs.
    pub fn hold(&self) {
        self.shared.lock().held = true;
    }

    /// Ends [`hold`](Self::hold).
    pub fn release(&self) {
        self.shared.lock().held = false;
        self.shared.changed.notify_all();
    }

    /// Refuses the next `count` records that are appended, as a log would that can never take them.
    pub fn refuse_next(&self, count: usize) {
        self.shared.lock().refuse_next = count;
    }

    /// What is stored, oldest first.
    pub fn records(&self) -> Vec<StoredRecord> {
        self.shared.lock().kept.iter().cloned().collect()
    }
}

impl EventLog for MemoryLog {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        let mut state = self.shared.lock();
        if state.deadline.is_some() {
            return Err(AppendError::Closed);
        }
        if state.messages >= self.shared.limits.queue_records {
            return Err(AppendError::Full);
        }
        let too_large = record.value.len() > self.shared.limits.value_bytes;
        let refused = too_large || state.refuse_next > 0;
        state.refuse_next = state.refuse_next.saturating_sub(1);
        let outcome = if refused { Outcome::Refused } else { Outcome::Stored };
        if state.messages == 0 {
            state.moved = Instant::now();
        }
        state.messages += 1;
        state.bytes += record.value.len();
        let (messages, bytes) = state.topic(record.topic);
        *messages += 1;
        *bytes += record.value.len();
        state.waiting.push_back(Waiting::Record(stored(record), ticket, outcome));
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    fn pending(&self) -> Pending {
        let state = self.shared.lock();
        let stalled = if state.messages == 0 { Duration::ZERO } else { state.moved.elapsed() };
        let stalled_ms = u64::try_from(stalled.as_millis()).unwrap_or(u64::MAX);
        Pending { messages: state.messages, bytes: state.bytes, stalled_ms }
    }

    fn pending_in(&self, topic: Topic) -> Pending {
        let all = self.pending();
        let (messages, bytes) = *self.shared.lock().topic(topic);
        // All go the same way.
        Pending { messages, bytes, stalled_ms: if messages == 0 { 0 } else { all.stalled_ms } }
    }

    fn probe(&self, timeout: Duration) -> LogFuture<'_, Result<(), ProbeError>> {
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state.waiting.retain(|waiting| !matches!(waiting, Waiting::Probe(given_up) if given_up.is_closed()));
            if state.deadline.is_none() {
                state.waiting.push_back(Waiting::Probe(sender));
            }
        }
        self.shared.changed.notify_all();
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(ProbeError::Refused("the event log is closed".to_owned())),
                Err(_) => Err(ProbeError::Timeout(timeout)),
            }
        })
    }

    fn close(&self, deadline: Duration) -> LogFuture<'_, usize> {
        self.begin_closing(deadline);
        let ended = lock(&self.ended).take();
        Box::pin(async move {
            match ended {
                Some(ended) => ended.await.unwrap_or_default(),
                None => self.pending().messages,
            }
        })
    }
}

impl MemoryLog {
    fn begin_closing(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        let mut state = self.shared.lock();
        state.deadline = Some(state.deadline.map_or(end, |before| before.min(end)));
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        self.begin_closing(Duration::ZERO);
    }
}

fn stored(record: &Record<'_>) -> StoredRecord {
    let mut headers = Vec::with_capacity(encode::MAX_HEADERS);
    encode::headers(record, |name, value| headers.push((name, String::from_utf8_lossy(value).into_owned())));
    StoredRecord {
        topic: record.topic,
        key: record.key.as_str().to_owned(),
        headers,
        value: record.value.to_vec(),
        timestamp_ms: record.received_ms,
    }
}

/// Stores and reports until the log is closed; `ended` then gets the number of records still waiting.
fn run(shared: &Shared, deliveries: &dyn Deliveries, metrics: &Metrics, ended: oneshot::Sender<usize>) {
    while let Some(batch) = next_batch(shared) {
        for waiting in batch {
            match waiting {
                Waiting::Record(record, ticket, outcome) => {
                    let (bytes, topic, received_ms) = (record.value.len(), record.topic, record.timestamp_ms);
                    keep(shared, record, outcome);
                    publish::count(metrics, topic, outcome, received_ms);
                    deliveries.settled(ticket, bytes, outcome);
                }
                // Whoever gave up waiting is no longer there.
                Waiting::Probe(sender) => drop(sender.send(())),
            }
        }
    }
    let mut state = shared.lock();
    state.waiting.clear();
    // Nobody waits where the log was dropped without `close`.
    let _ = ended.send(state.messages);
}

/// What waits, or `None` when the log is over.
fn next_batch(shared: &Shared) -> Option<VecDeque<Waiting>> {
    let mut state = shared.lock();
    loop {
        let past = state.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if !state.waiting.is_empty() && !state.held && !past {
            return Some(std::mem::take(&mut state.waiting));
        }
        if past || (state.deadline.is_some() && state.waiting.is_empty()) {
            return None;
        }
        let left = state.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        state = match left {
            Some(left) => shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn keep(shared: &Shared, record: StoredRecord, outcome: Outcome) {
    let mut state = shared.lock();
    state.messages -= 1;
    state.bytes -= record.value.len();
    let (messages, bytes) = state.topic(record.topic);
    *messages -= 1;
    *bytes -= record.value.len();
    state.moved = Instant::now();
    if outcome == Outcome::Refused {
        return;
    }
    state.kept_bytes += record.value.len();
    state.kept.push_back(record);
    while state.kept.len() > shared.limits.kept_records || state.kept_bytes > shared.limits.kept_bytes {
        let Some(oldest) = state.kept.pop_front() else { break };
        state.kept_bytes -= oldest.value.len();
    }
}
