//! One topic's way into Kafka: a producer of its own, so that a topic which is missing or forbidden stops nobody else,
//! and what came back of it while that producer is being replaced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

use super::LaneState;
use crate::eventlog::{AppendError, Deliveries, Outcome, Pending, Record, Ticket, Topic, encode};

pub(super) type Producer = BaseProducer<Context>;

/// Between two alerts about one topic.
const ALERT_EVERY: Duration = Duration::from_secs(30);
/// Probes that may wait for the one under way.
const MAX_PROBE_WAITERS: usize = 64;

/// Travels through librdkafka with a record and comes back in its delivery report.
pub(super) struct Flight {
    /// Rises with each record of the lane, so that what comes back can be put into its old order.
    order: u64,
    load: Load,
    /// Nothing else was under way: what the broker says is about this record and no other.
    alone: bool,
}

enum Load {
    Record(Ticket),
    Probe,
}

/// A record that waits for the next producer.
pub(super) struct Parked {
    key: Box<[u8]>,
    value: Box<[u8]>,
    headers: Option<OwnedHeaders>,
    timestamp: Option<i64>,
    flight: Box<Flight>,
    /// The broker refused the batch it was in, and it has to be tried by itself to learn whether it was the reason.
    pub(super) suspect: bool,
}

/// Where appends go.
pub(super) enum Slot {
    /// Into this producer.
    Open(Arc<Producer>),
    /// Behind what came back: the producer is being replaced.
    Parking,
    /// Nowhere, for good.
    Closed,
}

/// What came back, and why.
#[derive(Default)]
pub(super) struct Returned {
    records: BTreeMap<u64, Parked>,
    bytes: usize,
    /// Refused before they reached a queue; reported by the lane's thread.
    refused: Vec<(Ticket, usize)>,
    /// The last reason.
    reason: String,
}

#[derive(Default)]
struct Probes {
    under_way: bool,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

/// How many records and bytes may be parked.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What appends, the lane's thread and librdkafka's callbacks share.
pub(super) struct Lane {
    pub(super) topic: Topic,
    /// The topic's full name.
    pub(super) name: String,
    pub(super) slot: RwLock<Slot>,
    deliveries: Arc<dyn Deliveries>,
    returned: Mutex<Returned>,
    probes: Mutex<Probes>,
    room: Room,
    /// The producer in use is not to be used further.
    trouble: AtomicBool,
    pub(super) state: AtomicU8,
    pub(super) replacements: AtomicU64,
    order: AtomicU64,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// Milliseconds since `began` of the last delivery report, or of the append that found nothing waiting.
    moved_ms: AtomicU64,
    began: Instant,
    alerted: Mutex<Option<Instant>>,
    /// Set once the lane is closing: when it gives up what is still waiting.
    deadline: Mutex<Option<Instant>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    pub(super) fn new(topic: Topic, name: String, room: Room, deliveries: Arc<dyn Deliveries>) -> Self {
        Self {
            topic,
            name,
            slot: RwLock::new(Slot::Parking),
            deliveries,
            returned: Mutex::default(),
            probes: Mutex::default(),
            room,
            trouble: AtomicBool::new(false),
            state: AtomicU8::new(LaneState::Running as u8),
            replacements: AtomicU64::new(0),
            order: AtomicU64::new(0),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            moved_ms: AtomicU64::new(0),
            began: Instant::now(),
            alerted: Mutex::default(),
            deadline: Mutex::default(),
        }
    }

    pub(super) fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(producer) => self.send_new(producer, record, ticket),
            Slot::Parking => self.park_new(record, ticket),
            Slot::Closed => Err(AppendError::Closed),
        }
    }

    fn send_new(&self, producer: &Producer, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        let flight = self.flight(Load::Record(ticket));
        let base = BaseRecord::with_opaque_to(&self.name, flight)
            .key(record.key.as_str())
            .payload(record.value)
            .timestamp(record.received_ms)
            .headers(headers_of(record));
        self.took(record.value.len());
        let Err((error, base)) = producer.send(base) else { return Ok(()) };
        match code(&error) {
            RDKafkaErrorCode::QueueFull => {
                self.let_go(record.value.len());
                return Err(AppendError::Full);
            }
            code if is_about_the_record(code) => {
                lock(&self.returned).refused.push((ticket, record.value.len()));
            }
            code => {
                let parked = Parked {
                    key: record.key.as_str().as_bytes().into(),
                    value: record.value.into(),
                    headers: base.headers,
                    timestamp: base.timestamp,
                    flight: base.delivery_opaque,
                    suspect: false,
                };
                self.park(parked, Some(code));
            }
        }
        Ok(())
    }

    fn park_new(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        {
            let returned = lock(&self.returned);
            let full = returned.records.len() >= self.room.messages;
            if full || returned.bytes + record.value.len() > self.room.bytes {
                return Err(AppendError::Full);
            }
        }
        let parked = Parked {
            key: record.key.as_str().as_bytes().into(),
            value: record.value.into(),
            headers: Some(headers_of(record)),
            timestamp: Some(record.received_ms),
            flight: self.flight(Load::Record(ticket)),
            suspect: false,
        };
        self.took(record.value.len());
        self.insert(parked);
        Ok(())
    }

    fn flight(&self, load: Load) -> Box<Flight> {
        Box::new(Flight { order: self.order.fetch_add(1, Relaxed), load, alone: false })
    }

    /// Counts a record before it is handed over, so that its report cannot come first.
    fn took(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
        if self.messages.fetch_add(1, Relaxed) == 0 {
            self.moved_ms.store(self.now_ms(), Relaxed);
        }
    }

    fn let_go(&self, bytes: usize) {
        self.messages.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    fn settle(&self, ticket: Ticket, bytes: usize, outcome: Outcome) {
        self.moved_ms.store(self.now_ms(), Relaxed);
        self.let_go(bytes);
        self.deliveries.settled(ticket, bytes, outcome);
    }

    /// Reports what was refused without reaching a queue. Only the lane's thread calls this.
    pub(super) fn settle_refused(&self) {
        let refused = std::mem::take(&mut lock(&self.returned).refused);
        for (ticket, bytes) in refused {
            self.settle(ticket, bytes, Outcome::Refused);
        }
    }

    fn park(&self, parked: Parked, reason: Option<RDKafkaErrorCode>) {
        if let Some(code) = reason {
            lock(&self.returned).reason = format!("{code}");
        }
        self.insert(parked);
        self.trouble.store(true, Relaxed);
    }

    fn insert(&self, parked: Parked) {
        let mut returned = lock(&self.returned);
        returned.bytes += parked.value.len();
        returned.records.insert(parked.flight.order, parked);
    }

    /// What a delivery report without success means for its record.
    fn came_back(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>, flight: Box<Flight>) {
        let Load::Record(ticket) = flight.load else {
            self.probed(Err(format!("topic {}: {code}", self.name)));
            return;
        };
        let about_it = is_about_the_record(code);
        if about_it && flight.alone {
            tracing::warn!(topic = self.name, reason = %code, "Kafka will never take this record; it is refused");
            self.settle(ticket, message.payload_len(), Outcome::Refused);
            return;
        }
        let parked = Parked {
            key: message.key().unwrap_or_default().into(),
            value: message.payload().unwrap_or_default().into(),
            headers: message.headers().map(|headers| headers.detach()),
            timestamp: message.timestamp().to_millis(),
            flight,
            suspect: about_it,
        };
        let purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        self.park(parked, (!purged).then_some(code));
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn pending(&self) -> Pending {
        let messages = self.messages.load(Relaxed);
        let moved = self.moved_ms.load(Relaxed);
        let stalled_ms = if messages == 0 { 0 } else { self.now_ms().saturating_sub(moved) };
        Pending { messages, bytes: self.bytes.load(Relaxed), stalled_ms }
    }

    pub(super) fn in_trouble(&self) -> bool {
        self.trouble.load(Relaxed)
    }

    /// Gives up the producer in use for `reason`, as after a fatal error.
    pub(super) fn give_up(&self, reason: &str) {
        lock(&self.returned).reason = reason.to_owned();
        self.trouble.store(true, Relaxed);
    }

    pub(super) fn clear_trouble(&self) {
        self.trouble.store(false, Relaxed);
    }

    pub(super) fn set_state(&self, state: LaneState) {
        self.state.store(state as u8, Relaxed);
    }

    /// The last reason something came back.
    pub(super) fn reason(&self) -> String {
        lock(&self.returned).reason.clone()
    }

    /// Says aloud what is wrong with this topic, every 30 s at most.
    pub(super) fn alert(&self, text: &str) {
        let mut alerted = lock(&self.alerted);
        if alerted.is_some_and(|at| at.elapsed() < ALERT_EVERY) {
            return;
        }
        *alerted = Some(Instant::now());
        let (reason, pending) = (self.reason(), self.pending());
        tracing::error!(topic = self.name, reason, waiting = pending.messages, "{text}");
    }

    // What the replacing needs.

    /// Whether the next parked record has to be sent alone; `None` where nothing is parked.
    pub(super) fn first_is_suspect(&self) -> Option<bool> {
        lock(&self.returned).records.first_key_value().map(|(_, parked)| parked.suspect)
    }

    /// Sends the first parked record. False where the producer took it not.
    pub(super) fn send_parked(&self, producer: &Producer, alone: bool) -> bool {
        let Some(mut parked) = self.pop() else { return true };
        parked.flight.alone = alone;
        let base = BaseRecord {
            topic: &self.name,
            partition: None,
            payload: Some(&*parked.value),
            key: Some(&*parked.key),
            timestamp: parked.timestamp,
            headers: parked.headers.take(),
            delivery_opaque: parked.flight,
        };
        let Err((error, base)) = producer.send(base) else { return true };
        let (flight, headers) = (base.delivery_opaque, base.headers);
        let code = code(&error);
        match (&flight.load, is_about_the_record(code)) {
            (Load::Record(ticket), true) => self.settle(*ticket, parked.value.len(), Outcome::Refused),
            _ => {
                let full = code == RDKafkaErrorCode::QueueFull;
                let back = Parked { flight, headers, ..parked };
                if full {
                    self.insert(back)
                } else {
                    self.park(back, Some(code))
                }
                return false;
            }
        }
        true
    }

    fn pop(&self) -> Option<Parked> {
        let mut returned = lock(&self.returned);
        let (_, parked) = returned.records.pop_first()?;
        returned.bytes -= parked.value.len();
        Some(parked)
    }

    /// Sends appends behind what is parked; a lane that is closed stays so.
    pub(super) fn enter_parking(&self) {
        self.change_slot(|| Slot::Parking);
    }

    /// Sends appends into `producer` where nothing is parked any more. A closed lane stays closed.
    pub(super) fn open(&self, producer: &Arc<Producer>) -> bool {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if !lock(&self.returned).records.is_empty() {
            return false;
        }
        if !matches!(*slot, Slot::Closed) {
            *slot = Slot::Open(Arc::clone(producer));
        }
        true
    }

    fn change_slot(&self, to: impl FnOnce() -> Slot) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*slot, Slot::Closed) {
            *slot = to();
        }
    }

    /// Takes no more records, and has the lane's thread end when nothing waits or `deadline` passed.
    pub(super) fn begin_closing(&self, deadline: Instant) {
        self.change_slot(|| Slot::Closed);
        let mut own = lock(&self.deadline);
        *own = Some(own.map_or(deadline, |before| before.min(deadline)));
    }

    pub(super) fn is_closing(&self) -> bool {
        lock(&self.deadline).is_some()
    }

    pub(super) fn is_past_deadline(&self) -> bool {
        lock(&self.deadline).is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Drops what is still parked: the lane is over.
    pub(super) fn abandon(&self) {
        let mut returned = lock(&self.returned);
        returned.records.clear();
        returned.bytes = 0;
    }

    // Probes.

    /// Asks for a round trip. The answer is an error at once where the producer is being replaced.
    pub(super) fn probe(&self) -> oneshot::Receiver<Result<(), String>> {
        let (sender, receiver) = oneshot::channel();
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(producer) => self.send_probe(producer, sender),
            Slot::Parking => drop(sender.send(Err(format!("topic {}: {}", self.name, self.reason())))),
            Slot::Closed => drop(sender.send(Err("the event log is closed".to_owned()))),
        }
        receiver
    }

    fn send_probe(&self, producer: &Producer, sender: oneshot::Sender<Result<(), String>>) {
        {
            let mut probes = lock(&self.probes);
            probes.waiting.retain(|waiter| !waiter.is_closed());
            if probes.waiting.len() >= MAX_PROBE_WAITERS {
                drop(sender.send(Err("too many probes at once".to_owned())));
                return;
            }
            probes.waiting.push(sender);
            // One under way answers for all: while Kafka is away probes must not pile up.
            if std::mem::replace(&mut probes.under_way, true) {
                return;
            }
        }
        let now_ms = unix_ms();
        let mut headers = Some(OwnedHeaders::new_with_capacity(encode::MAX_HEADERS));
        encode::probe_headers(now_ms, |name, value| insert(&mut headers, name, value));
        let key = format!("/probe/{}", fastrand::u8(..32));
        let mut base = BaseRecord::with_opaque_to(&self.name, self.flight(Load::Probe));
        base = base.key(key.as_str()).payload(b"{}".as_slice()).timestamp(now_ms);
        base.headers = headers;
        if let Err((error, _)) = producer.send(base) {
            self.probed(Err(format!("topic {}: {error}", self.name)));
        }
    }

    fn probed(&self, outcome: Result<(), String>) {
        let waiting = {
            let mut probes = lock(&self.probes);
            probes.under_way = false;
            std::mem::take(&mut probes.waiting)
        };
        for waiter in waiting {
            // Whoever gave up waiting is no longer there; that is theirs.
            drop(waiter.send(outcome.clone()));
        }
    }
}

/// What librdkafka calls: on the lane's own thread, within `poll`.
pub(super) struct Context {
    lane: Arc<Lane>,
    logged: Mutex<Option<Instant>>,
}

impl Context {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, logged: Mutex::default() }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        if (level as i32) < (RDKafkaLogLevel::Notice as i32) {
            tracing::warn!(topic = self.lane.name, facility = fac, "librdkafka: {text}");
        } else {
            tracing::debug!(topic = self.lane.name, facility = fac, "librdkafka: {text}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|at| at.elapsed() >= ALERT_EVERY / 3) {
            *logged = Some(Instant::now());
            tracing::warn!(topic = self.lane.name, %error, reason, "Kafka is not well");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Box<Flight>) {
        match result {
            Ok(message) => match flight.load {
                Load::Record(ticket) => self.lane.settle(ticket, message.payload_len(), Outcome::Stored),
                Load::Probe => self.lane.probed(Ok(())),
            },
            Err((error, message)) => self.lane.came_back(code(error), message, flight),
        }
    }
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// Whether the broker speaks of this one record, so that trying it again cannot help. Any other reason is an outage.
const fn is_about_the_record(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
    )
}

fn headers_of(record: &Record<'_>) -> OwnedHeaders {
    let mut headers = Some(OwnedHeaders::new_with_capacity(encode::MAX_HEADERS));
    encode::headers(record, |name, value| insert(&mut headers, name, value));
    headers.unwrap_or_default()
}

fn insert(headers: &mut Option<OwnedHeaders>, key: &'static str, value: &[u8]) {
    *headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
}

fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
