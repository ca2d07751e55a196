//! One topic's way into Kafka: a producer of its own, so that a topic which is missing or forbidden stops nobody else,
//! and what came back of it while that producer is being replaced.

mod context;
mod flight;
mod probe;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::LaneState;
use super::oauth::Tokens;
use crate::eventlog::{AppendError, Deliveries, Outcome, Pending, Record, Ticket, Topic, encode, publish};
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Span;

pub(super) use context::{Context, code, is_about_the_record, is_forbidden, said};
pub(super) use flight::Flight;
use flight::Load;
use probe::Probes;

pub(super) type Producer = BaseProducer<Context>;

/// Between two alerts about one topic.
const ALERT_EVERY: Duration = Duration::from_secs(30);

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
    refused: Vec<Refused>,
    /// The last reason.
    reason: String,
    /// Why the broker does not let this user write, where it said so.
    forbidden: Option<String>,
}

struct Refused {
    ticket: Ticket,
    bytes: usize,
    received_ms: i64,
}

/// What a lane may take.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Parked records.
    pub(super) messages: usize,
    /// Bytes of the values of parked records.
    pub(super) bytes: usize,
    /// Key and value of one record; a larger one is refused before it comes near a broker.
    pub(super) record_bytes: usize,
}

/// What appends, the lane's thread and librdkafka's callbacks share.
pub(super) struct Lane {
    pub(super) topic: Topic,
    /// The topic's full name.
    pub(super) name: String,
    pub(super) slot: RwLock<Slot>,
    deliveries: Arc<dyn Deliveries>,
    metrics: Metrics,
    /// What its producers show the brokers, where they are asked for tokens.
    tokens: Option<Arc<Tokens>>,
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
    settled: AtomicU64,
    /// Milliseconds since `began` of the last delivery report, or of the append that found nothing waiting.
    moved_ms: AtomicU64,
    began: Instant,
    alerted: Mutex<Option<Instant>>,
    /// Set once the lane is closing: when it gives up what is still waiting.
    deadline: Mutex<Option<Instant>>,
}

impl Lane {
    pub(super) fn new(
        topic: Topic,
        name: String,
        room: Room,
        deliveries: Arc<dyn Deliveries>,
        metrics: Metrics,
        tokens: Option<Arc<Tokens>>,
    ) -> Self {
        Self {
            topic,
            name,
            slot: RwLock::new(Slot::Parking),
            deliveries,
            metrics,
            tokens,
            returned: Mutex::default(),
            probes: Mutex::default(),
            room,
            trouble: AtomicBool::new(false),
            state: AtomicU8::new(LaneState::Running as u8),
            replacements: AtomicU64::new(0),
            order: AtomicU64::new(0),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            settled: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
            began: Instant::now(),
            alerted: Mutex::default(),
            deadline: Mutex::default(),
        }
    }

    pub(super) fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Closed => Err(AppendError::Closed),
            _ if record.key.as_str().len() + record.value.len() > self.room.record_bytes => {
                self.took(record.value.len());
                self.refuse(record, ticket);
                Ok(())
            }
            Slot::Open(producer) => self.send_new(producer, record, ticket),
            Slot::Parking => self.park_new(record, ticket),
        }
    }

    /// Has the lane's thread report a record that was counted and did not reach a queue.
    fn refuse(&self, record: &Record<'_>, ticket: Ticket) {
        let refused = Refused { ticket, bytes: record.value.len(), received_ms: record.received_ms };
        lock(&self.returned).refused.push(refused);
    }

    fn send_new(&self, producer: &Producer, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        let (flight, headers) = self.flight(ticket, record);
        let base = BaseRecord::with_opaque_to(&self.name, flight)
            .key(record.key.as_str())
            .payload(record.value)
            .timestamp(record.received_ms)
            .headers(headers);
        self.took(record.value.len());
        let Err((error, mut base)) = producer.send(base) else { return Ok(()) };
        match code(&error) {
            RDKafkaErrorCode::QueueFull => {
                self.let_go(record.value.len());
                base.delivery_opaque.never_was();
                return Err(AppendError::Full);
            }
            code if is_about_the_record(code) => {
                base.delivery_opaque.fail(&code.to_string());
                self.refuse(record, ticket);
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
        let (flight, headers) = self.flight(ticket, record);
        let parked = Parked {
            key: record.key.as_str().as_bytes().into(),
            value: record.value.into(),
            headers: Some(headers),
            timestamp: Some(record.received_ms),
            flight,
            suspect: false,
        };
        self.took(record.value.len());
        self.insert(parked);
        Ok(())
    }

    /// What travels with a record, and its headers.
    fn flight(&self, ticket: Ticket, record: &Record<'_>) -> (Box<Flight>, OwnedHeaders) {
        let span = record.traceparent.and_then(|above| flight::span(&self.metrics, &self.name, above, record));
        let headers = match &span {
            None => headers_of(record),
            Some(span) => {
                let own = span.context().text();
                headers_of(&Record { traceparent: Some(own.as_str()), ..record.clone() })
            }
        };
        (self.flight_of(Load::Record(ticket), record.received_ms, span), headers)
    }

    fn flight_of(&self, load: Load, received_ms: i64, span: Option<Span>) -> Box<Flight> {
        Box::new(Flight { order: self.order.fetch_add(1, Relaxed), load, received_ms, alone: false, span })
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

    fn settle(&self, ticket: Ticket, bytes: usize, outcome: Outcome, received_ms: i64) {
        self.moved_ms.store(self.now_ms(), Relaxed);
        self.let_go(bytes);
        self.settled.fetch_add(1, Relaxed);
        publish::count(&self.metrics, self.topic, outcome, received_ms);
        self.deliveries.settled(ticket, bytes, outcome);
    }

    /// Records that ended, stored or refused.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Relaxed)
    }

    /// Reports what was refused without reaching a queue. Only the lane's thread calls this.
    pub(super) fn settle_refused(&self) {
        let refused = std::mem::take(&mut lock(&self.returned).refused);
        for Refused { ticket, bytes, received_ms } in refused {
            self.settle(ticket, bytes, Outcome::Refused, received_ms);
        }
    }

    fn park(&self, parked: Parked, reason: Option<RDKafkaErrorCode>) {
        if let Some(code) = reason {
            lock(&self.returned).reason = said(code);
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
    fn came_back(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>, mut flight: Box<Flight>) {
        if is_forbidden(code) {
            self.forbid(&said(code));
        }
        let Load::Record(ticket) = flight.load else {
            self.probed(Err(format!("topic {}: {code}", self.name)));
            return;
        };
        let about_it = is_about_the_record(code);
        if about_it && flight.alone {
            tracing::warn!(topic = self.name, reason = %code, "Kafka will never take this record; it is refused");
            flight.fail(&code.to_string());
            self.settle(ticket, message.payload_len(), Outcome::Refused, flight.received_ms);
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

    /// Notes that the broker does not let this user write.
    pub(super) fn forbid(&self, reason: &str) {
        lock(&self.returned).forbidden = Some(reason.to_owned());
    }

    /// Why the broker did not let this user write, where it ever said so.
    pub(super) fn forbidden(&self) -> Option<String> {
        lock(&self.returned).forbidden.clone()
    }

    /// Counts a producer that took over from another.
    pub(super) fn replaced(&self) {
        self.replacements.fetch_add(1, Relaxed);
        self.metrics.producer_replacements.inc();
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
        let (mut flight, headers) = (base.delivery_opaque, base.headers);
        let code = code(&error);
        match (&flight.load, is_about_the_record(code)) {
            (&Load::Record(ticket), true) => {
                flight.fail(&code.to_string());
                self.settle(ticket, parked.value.len(), Outcome::Refused, flight.received_ms);
            }
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
        returned.records.values_mut().for_each(|parked| parked.flight.fail("the node has left"));
        returned.records.clear();
        returned.bytes = 0;
    }
}

fn headers_of(record: &Record<'_>) -> OwnedHeaders {
    let mut headers = Some(OwnedHeaders::new_with_capacity(encode::MAX_HEADERS));
    encode::headers(record, |name, value| insert(&mut headers, name, value));
    headers.unwrap_or_default()
}

fn insert(headers: &mut Option<OwnedHeaders>, key: &'static str, value: &[u8]) {
    *headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
}
