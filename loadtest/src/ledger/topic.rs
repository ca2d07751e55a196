//! The topics in Kafka: where they ended as a run began, and everything that was written since.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{LedgerError, Stored};

/// How long one question to the brokers may take.
const ASK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Nothing for so long, and the brokers are taken for gone.
const STALL: Duration = Duration::from_secs(30);
/// How often progress is told, in records.
const TELL_EVERY: u64 = 10_000;

/// A record, and who takes it on: see [`super::Ledger::check_through`].
pub type Pass<'a> = dyn FnMut(&Stored<'_>, &mut dyn FnMut(&Stored<'_>)) + 'a;

/// The topics that hold what devices send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Updates.
    Telemetry,
    /// Health reports; presence too, which is skipped.
    Status,
}

impl Topic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Telemetry, Self::Status];

    /// The name without prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Status => "status",
        }
    }

    /// The type of the messages that belong there.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Telemetry => "update",
            Self::Status => "status",
        }
    }
}

/// Where the topics are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaTarget {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// The gateway's `kafka.topic_prefix`, such as `tidegate.`.
    pub topic_prefix: String,
    /// Settings of librdkafka beside these, for TLS and SASL.
    pub properties: Vec<(String, String)>,
}

/// Where each partition of the topics ended at one moment: the offset of the next record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<(Topic, i32), i64>);

impl KafkaTarget {
    /// Where the topics end now: to be noted before the first device sends. Blocks for some seconds at most.
    ///
    /// # Errors
    /// `Kafka` where no broker answers, `Topic` where one is missing, `Settings` for `properties` that are none.
    pub fn mark(&self) -> Result<Marks, LedgerError> {
        let consumer = self.consumer()?;
        let mut marks = BTreeMap::new();
        for topic in Topic::ALL {
            for partition in self.partitions(&consumer, topic)? {
                marks.insert((topic, partition), self.bounds(&consumer, topic, partition)?.1);
            }
        }
        Ok(Marks(marks))
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}{}", self.topic_prefix, topic.name())
    }

    fn consumer(&self) -> Result<BaseConsumer, LedgerError> {
        let mut config = ClientConfig::new();
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            // librdkafka wants an id; there is no group, and nothing is committed.
            .set("group.id", "tidegate-loadtest-ledger")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // Records that are gone must not be passed over.
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.max.bytes", "8388608")
            .create()
            .map_err(|error| LedgerError::Settings(error.to_string()))
    }

    fn failed(&self, error: &KafkaError) -> LedgerError {
        LedgerError::Kafka { brokers: self.brokers.clone(), reason: error.to_string() }
    }

    fn partitions(&self, consumer: &BaseConsumer, topic: Topic) -> Result<Vec<i32>, LedgerError> {
        let name = self.topic(topic);
        let found = consumer.fetch_metadata(Some(&name), ASK).map_err(|error| self.failed(&error))?;
        let topic = found.topics().iter().find(|found| found.name() == name && found.error().is_none());
        let ids: Vec<i32> = topic.into_iter().flat_map(|topic| topic.partitions()).map(|one| one.id()).collect();
        if ids.is_empty() { Err(LedgerError::Topic { brokers: self.brokers.clone(), topic: name }) } else { Ok(ids) }
    }

    /// The first offset there is, and the one behind the last.
    fn bounds(&self, consumer: &BaseConsumer, topic: Topic, partition: i32) -> Result<(i64, i64), LedgerError> {
        consumer.fetch_watermarks(&self.topic(topic), partition, ASK).map_err(|error| self.failed(&error))
    }
}

/// What is to be read of one topic: by partition from where to where.
type Spans = BTreeMap<i32, (i64, i64)>;

/// Reads everything that was written between the marks and now.
///
/// # Errors
/// Why it could not be read whole, in words for the reader of a report.
pub(super) fn read(
    target: &KafkaTarget,
    since: &Marks,
    within: Duration,
    progress: &mut dyn FnMut(u64, u64),
    sink: &mut dyn FnMut(&Stored<'_>),
) -> Result<(), String> {
    let end = Instant::now() + within;
    let consumer = target.consumer().map_err(|error| error.to_string())?;
    let mut spans = Vec::new();
    for topic in Topic::ALL {
        spans.push((topic, spans_of(target, &consumer, since, topic, end)?));
    }
    let of = spans.iter().flat_map(|(_, spans)| spans.values()).map(|(from, to)| (to - from) as u64).sum();
    progress(0, of);
    let mut told = Told { read: 0, of, progress };
    for (topic, spans) in spans {
        // One for each topic: the end of a partition does not say of which topic.
        let consumer = target.consumer().map_err(|error| error.to_string())?;
        read_topic(target, &consumer, topic, spans, end, &mut |record| {
            told.one();
            sink(record);
        })?;
    }
    (told.progress)(told.read, of);
    Ok(())
}

struct Told<'a> {
    read: u64,
    of: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Told<'_> {
    fn one(&mut self) {
        self.read += 1;
        if self.read.is_multiple_of(TELL_EVERY) {
            (self.progress)(self.read, self.of.max(self.read));
        }
    }
}

fn spans_of(
    target: &KafkaTarget,
    consumer: &BaseConsumer,
    since: &Marks,
    topic: Topic,
    end: Instant,
) -> Result<Spans, String> {
    let name = target.topic(topic);
    let mut spans = Spans::new();
    let ids = target.partitions(consumer, topic).map_err(|error| error.to_string())?;
    if let Some(((_, gone), _)) = since.0.iter().find(|((of, id), _)| *of == topic && !ids.contains(id)) {
        return Err(format!("partition {gone} of {name} is gone: the topic was made anew while the run went on"));
    }
    for id in ids {
        if Instant::now() >= end {
            return Err(format!("there was no time left to ask for the ends of {name}"));
        }
        let (low, high) = target.bounds(consumer, topic, id).map_err(|error| error.to_string())?;
        let from = since.0.get(&(topic, id)).copied().unwrap_or(0);
        if low > from {
            let gone = low - from;
            return Err(format!(
                "{gone} records of {name}, partition {id}, were deleted before they could be read: raise retention"
            ));
        }
        if high < from {
            return Err(format!(
                "{name}, partition {id}, ends before it did at the start of the run: it was made anew"
            ));
        }
        if high > from {
            spans.insert(id, (from, high));
        }
    }
    Ok(spans)
}

fn read_topic(
    target: &KafkaTarget,
    consumer: &BaseConsumer,
    topic: Topic,
    mut left: Spans,
    end: Instant,
    sink: &mut dyn FnMut(&Stored<'_>),
) -> Result<(), String> {
    let name = target.topic(topic);
    let mut list = TopicPartitionList::new();
    for (id, (from, _)) in &left {
        list.add_partition_offset(&name, *id, Offset::Offset(*from)).map_err(|error| error.to_string())?;
    }
    consumer.assign(&list).map_err(|error| error.to_string())?;
    let (mut heard, mut last) = (Instant::now(), String::new());
    while !left.is_empty() {
        let now = Instant::now();
        if now >= end || now >= heard + STALL {
            let why = if now >= end { "the time for it was over" } else { "nothing came for 30 s" };
            return Err(format!("{name} was not read to its end: {why}{last}"));
        }
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => {
                heard = now;
                take(topic, &message, &mut left, sink);
            }
            Some(Err(KafkaError::PartitionEOF(id))) => {
                heard = now;
                left.remove(&id);
            }
            Some(Err(error)) if is_gone(&error) => {
                return Err(format!("records of {name} were deleted while they were read: raise retention ({error})"));
            }
            Some(Err(error)) => last = format!(" ({error})"),
        }
    }
    Ok(())
}

fn take(topic: Topic, message: &BorrowedMessage<'_>, left: &mut Spans, sink: &mut dyn FnMut(&Stored<'_>)) {
    let (partition, offset) = (message.partition(), message.offset());
    let Some((_, to)) = left.get(&partition).copied() else { return };
    if offset < to {
        sink(&stored(topic, message));
    }
    if offset + 1 >= to {
        left.remove(&partition);
    }
}

fn stored<'a>(topic: Topic, message: &'a BorrowedMessage<'_>) -> Stored<'a> {
    let (mut source, mut id) = ("", "");
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        let value = header.value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
        match header.key {
            "ce_source" => source = value,
            "ce_id" => id = value,
            _ => {}
        }
    }
    Stored {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().unwrap_or_default(),
        source,
        id,
        value: message.payload().unwrap_or_default(),
    }
}

fn is_gone(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    matches!(error.rdkafka_error_code(), Some(AutoOffsetReset | OffsetOutOfRange))
}
