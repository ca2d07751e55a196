//! One suite for every event log: the memory twin, Kafka as librdkafka's mock cluster plays it, and a real Kafka where
//! `TIDEGATE_TEST_KAFKA` names its brokers. Then what only Kafka can do wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use tidegate::eventlog::kafka::topics::{self, Applied, TopicOptions};
use tidegate::eventlog::kafka::{KafkaConfig, KafkaLog, LaneState, StartError};
use tidegate::eventlog::memory::{MemoryLimits, MemoryLog};
use tidegate::eventlog::{AppendError, Deliveries, EventLog, Kind, Outcome, ProbeError, Record, Ticket, Topic};
use tidegate::id::{Boot, CommandId, DeviceKey, Epoch};
use tidegate::limits::Limits;
use tidegate::telemetry::metrics::{Metrics, PublishOutcome, PublishTopic};

const WAIT: Duration = Duration::from_secs(60);
const RECEIVED_MS: i64 = 1_748_522_701_234;
const PARTITIONS: i32 = 4;

/// Every delivery report, by ticket.
#[derive(Default)]
struct Reports {
    all: Mutex<HashMap<u64, Vec<(usize, Outcome)>>>,
    more: Condvar,
}

impl Deliveries for Reports {
    fn settled(&self, ticket: Ticket, bytes: usize, outcome: Outcome) {
        self.all.lock().unwrap().entry(ticket.0).or_default().push((bytes, outcome));
        self.more.notify_all();
    }
}

impl Reports {
    fn wait(&self, count: usize) {
        let (all, waited) =
            self.more.wait_timeout_while(self.all.lock().unwrap(), WAIT, |all| all.len() < count).unwrap();
        assert!(!waited.timed_out(), "{} of {count} records were reported", all.len());
    }

    fn of(&self, ticket: u64) -> Vec<(usize, Outcome)> {
        self.all.lock().unwrap().get(&ticket).cloned().unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.all.lock().unwrap().len()
    }

    fn assert_each_once(&self, outcome: Outcome, but: &[u64]) {
        for (ticket, reports) in &*self.all.lock().unwrap() {
            assert_eq!(reports.len(), 1, "ticket {ticket} was reported {reports:?}");
            if !but.contains(ticket) {
                assert_eq!(reports[0].1, outcome, "ticket {ticket}");
            }
        }
    }
}

/// A record as a reader sees it.
#[derive(Debug, Clone)]
struct Seen {
    key: String,
    headers: BTreeMap<String, String>,
    value: Vec<u8>,
    timestamp_ms: Option<i64>,
    partition: Option<i32>,
}

impl Seen {
    fn id(&self) -> &str {
        &self.headers["ce_id"]
    }
}

/// A log under test and a way to read it back.
struct Bench {
    name: &'static str,
    log: Box<dyn EventLog>,
    read: Box<dyn Fn(Topic) -> Vec<Seen>>,
    reports: Arc<Reports>,
    metrics: Metrics,
    /// Takes the mock cluster with it.
    _cluster: Option<MockCluster<'static, DefaultProducerContext>>,
}

fn limits() -> Limits {
    Limits { max_connections: 100, ..Limits::default() }
}

fn kafka_config(brokers: &str) -> KafkaConfig {
    let topic_prefix = format!("t{:016x}.", fastrand::u64(..));
    KafkaConfig { brokers: brokers.to_owned(), topic_prefix, ..KafkaConfig::default() }
}

fn memory() -> Bench {
    let reports = Arc::new(Reports::default());
    let limits = MemoryLimits { value_bytes: 70_000, ..MemoryLimits::default() };
    let metrics = Metrics::new().unwrap();
    let log = Arc::new(MemoryLog::start(limits, Arc::clone(&reports) as Arc<dyn Deliveries>, &metrics).unwrap());
    let own = Arc::clone(&log);
    let read = move |topic| {
        let records = own.records().into_iter().filter(|record| record.topic == topic);
        let seen = records.map(|record| Seen {
            key: record.key,
            headers: record.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            value: record.value,
            timestamp_ms: Some(record.timestamp_ms),
            partition: None,
        });
        seen.collect()
    };
    Bench { name: "memory", log: Box::new(Shared(log)), read: Box::new(read), reports, metrics, _cluster: None }
}

/// The suite owns its log; the memory twin is read back through a second handle.
struct Shared(Arc<MemoryLog>);

impl EventLog for Shared {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        self.0.append(record, ticket)
    }
    fn pending(&self) -> tidegate::eventlog::Pending {
        self.0.pending()
    }

    fn pending_in(&self, topic: Topic) -> tidegate::eventlog::Pending {
        self.0.pending_in(topic)
    }
    fn probe(&self, timeout: Duration) -> tidegate::eventlog::LogFuture<'_, Result<(), ProbeError>> {
        self.0.probe(timeout)
    }
    fn close(&self, deadline: Duration) -> tidegate::eventlog::LogFuture<'_, usize> {
        self.0.close(deadline)
    }
}

struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: KafkaConfig,
    log: KafkaLog,
    reports: Arc<Reports>,
    metrics: Metrics,
}

fn mock(partitions: i32) -> Mock {
    let cluster = MockCluster::new(1).unwrap();
    let config = kafka_config(&cluster.bootstrap_servers());
    for topic in Topic::ALL {
        cluster.create_topic(&config.topic(topic.name()), partitions, 1).unwrap();
    }
    let reports = Arc::new(Reports::default());
    let metrics = Metrics::new().unwrap();
    let log = start(&config, &reports, &metrics);
    Mock { cluster, config, log, reports, metrics }
}

fn start(config: &KafkaConfig, reports: &Arc<Reports>, metrics: &Metrics) -> KafkaLog {
    KafkaLog::start(config, &limits(), WAIT, Arc::clone(reports) as Arc<dyn Deliveries>, metrics).unwrap()
}

fn mocked() -> Bench {
    let Mock { cluster, config, log, reports, metrics } = mock(PARTITIONS);
    let read = move |topic: Topic| read_kafka(&config, topic);
    Bench { name: "mock cluster", log: Box::new(log), read: Box::new(read), reports, metrics, _cluster: Some(cluster) }
}

fn real_brokers() -> Option<String> {
    let brokers = std::env::var("TIDEGATE_TEST_KAFKA").ok();
    if brokers.is_none() {
        eprintln!("TIDEGATE_TEST_KAFKA is not set: the event log was NOT tried on a real Kafka");
    }
    brokers
}

async fn real() -> Option<(Bench, KafkaConfig)> {
    let config = kafka_config(&real_brokers()?);
    make_topics(&config).await;
    let reports = Arc::new(Reports::default());
    let metrics = Metrics::new().unwrap();
    let log = start(&config, &reports, &metrics);
    let own = config.clone();
    let read = move |topic: Topic| read_kafka(&own, topic);
    let bench =
        Bench { name: "real Kafka", log: Box::new(log), read: Box::new(read), reports, metrics, _cluster: None };
    Some((bench, config))
}

async fn make_topics(config: &KafkaConfig) -> Vec<Applied> {
    let options = TopicOptions { partitions: Some(PARTITIONS), replication_factor: Some(1) };
    let specs = topics::specs(&config.topic_prefix, options).unwrap();
    topics::apply(config, &specs, WAIT).await.unwrap()
}

/// Everything in a topic, partition by partition.
fn read_kafka(config: &KafkaConfig, topic: Topic) -> Vec<Seen> {
    let name = config.topic(topic.name());
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", "contract")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(&name), WAIT).unwrap();
    let (mut wanted, mut left) = (TopicPartitionList::new(), 0);
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(&name, partition.id(), WAIT).unwrap();
        left += high - low;
        wanted.add_partition_offset(&name, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&wanted).unwrap();
    let (mut seen, end) = (Vec::new(), Instant::now() + WAIT);
    while left > 0 {
        assert!(Instant::now() < end, "{left} records of {name} could not be read");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let headers = message.headers().unwrap().iter().map(|header| (header.key.to_owned(), text(header.value)));
        seen.push(Seen {
            key: text(message.key()),
            headers: headers.collect(),
            value: message.payload().unwrap().to_vec(),
            timestamp_ms: message.timestamp().to_millis(),
            partition: Some(message.partition()),
        });
        left -= 1;
    }
    seen
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}

fn device(n: usize) -> DeviceKey {
    DeviceKey::new("acme", &format!("sensor-{n:03}")).unwrap()
}

/// Appends one record, waiting while the log is full.
fn append(log: &dyn EventLog, topic: Topic, device: &DeviceKey, seq: u64, value: &[u8], ticket: u64) {
    let boot = Boot::new("b1").unwrap();
    let record = Record {
        topic,
        kind: Kind::Report,
        key: device,
        boot: &boot,
        seq: Some(seq),
        timestamp_ms: Some(RECEIVED_MS - 1_000),
        received_ms: RECEIVED_MS,
        epoch: Epoch(17),
        traceparent: None,
        value,
    };
    while let Err(error) = log.append(&record, Ticket(ticket)) {
        assert_eq!(error, AppendError::Full);
        std::thread::yield_now();
    }
}

/// `devices` times `each` records of telemetry, in turn; tickets count from `first`.
fn append_many(log: &dyn EventLog, devices: usize, seqs: std::ops::Range<u64>, first: u64) -> u64 {
    let mut ticket = first;
    let keys: Vec<DeviceKey> = (0..devices).map(device).collect();
    for seq in seqs {
        for key in &keys {
            append(log, Topic::Telemetry, key, seq, format!("{{\"seq\":{seq}}}").as_bytes(), ticket);
            ticket += 1;
        }
    }
    ticket
}

/// First occurrences of each device's records stand in the order of their numbers, none is missing, and repeats carry
/// the same value.
fn assert_complete_and_in_order(name: &str, seen: &[Seen], devices: usize, seqs: std::ops::Range<u64>) {
    let mut by_device: HashMap<&str, Vec<(u64, &[u8])>> = HashMap::new();
    for record in seen {
        let seq: u64 = record.id().rsplit_once(':').unwrap().1.parse().unwrap();
        let known = by_device.entry(&record.key).or_default();
        match known.iter().find(|(other, _)| *other == seq) {
            Some((_, value)) => assert_eq!(*value, record.value, "{name}: {} repeats with another value", record.id()),
            None => known.push((seq, &record.value)),
        }
    }
    assert_eq!(by_device.len(), devices, "{name}");
    for (device, records) in by_device {
        let order: Vec<u64> = records.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(order, seqs.clone().collect::<Vec<_>>(), "{name}: {device}");
    }
}

async fn suite(bench: Bench) {
    eprintln!("event log contract on: {}", bench.name);
    order_and_reports(&bench);
    headers_and_value(&bench);
    a_command_event(&bench);
    one_too_large(&bench);
    bench.log.probe(WAIT).await.unwrap();
    let before = (bench.read)(Topic::Telemetry).len();
    for seq in 0..500 {
        append(&*bench.log, Topic::Telemetry, &device(900), 1_000 + seq, b"{}", 20_000 + seq);
    }
    assert_eq!(bench.log.close(WAIT).await, 0, "{}: close drains", bench.name);
    assert_eq!(bench.log.pending().messages, 0, "{}", bench.name);
    let (key, boot) = (device(1), Boot::new("b").unwrap());
    let late = Record {
        topic: Topic::Telemetry,
        kind: Kind::Report,
        key: &key,
        boot: &boot,
        seq: None,
        timestamp_ms: None,
        received_ms: RECEIVED_MS,
        epoch: Epoch(1),
        traceparent: None,
        value: b"{}",
    };
    assert_eq!(bench.log.append(&late, Ticket(9)), Err(AppendError::Closed), "{}", bench.name);
    assert!(matches!(bench.log.probe(WAIT).await, Err(ProbeError::Refused(_))), "{}", bench.name);
    assert_eq!((bench.read)(Topic::Telemetry).len(), before + 500, "{}", bench.name);
    bench.reports.assert_each_once(Outcome::Stored, &[10_001]);
    every_end_was_counted(&bench);
}

/// By topic and outcome, with as many durations; probes are nobody's records.
fn every_end_was_counted(bench: &Bench) {
    let counts = |topic, outcome| {
        let durations = bench.metrics.publish_duration.of(topic, outcome).get_sample_count();
        (bench.metrics.publish.of(topic, outcome).get(), durations)
    };
    let stored = |topic| counts(topic, PublishOutcome::Stored);
    assert_eq!(stored(PublishTopic::Telemetry), (2_501, 2_501), "{}", bench.name);
    assert_eq!(stored(PublishTopic::Status), (1, 1), "{}", bench.name);
    assert_eq!(stored(PublishTopic::CommandEvents), (1, 1), "{}", bench.name);
    assert_eq!(counts(PublishTopic::Telemetry, PublishOutcome::Refused), (1, 1), "{}", bench.name);
    assert!(bench.metrics.publish_pending_messages_capacity.get() >= 6_400, "{}", bench.name);
}

fn order_and_reports(bench: &Bench) {
    let end = append_many(&*bench.log, 20, 1..101, 0);
    bench.reports.wait(usize::try_from(end).unwrap());
    bench.reports.assert_each_once(Outcome::Stored, &[]);
    assert_eq!(bench.reports.of(0), [(br#"{"seq":1}"#.len(), Outcome::Stored)], "{}", bench.name);
    assert_eq!(bench.log.pending(), tidegate::eventlog::Pending::default(), "{}", bench.name);
    for topic in Topic::ALL {
        assert_eq!(bench.log.pending_in(topic), tidegate::eventlog::Pending::default(), "{} {topic:?}", bench.name);
    }
    let seen = (bench.read)(Topic::Telemetry);
    assert_eq!(seen.len(), 2_000, "{}", bench.name);
    assert_complete_and_in_order(bench.name, &seen, 20, 1..101);
}

/// In a topic of its own, named by command and version, and of the moment of its transition.
fn a_command_event(bench: &Bench) {
    let (key, boot) = (device(7), Boot::new("node").unwrap());
    let id = CommandId::of(&key, "console", "k");
    let event = Record {
        topic: Topic::CommandEvents,
        kind: Kind::Command { id, version: 3 },
        key: &key,
        boot: &boot,
        seq: None,
        timestamp_ms: None,
        received_ms: RECEIVED_MS,
        epoch: Epoch(17),
        traceparent: None,
        value: br#"{"state":"succeeded"}"#,
    };
    assert_eq!(bench.log.append(&event, Ticket(10_500)), Ok(()), "{}", bench.name);
    bench.reports.wait(2_002);
    let seen = (bench.read)(Topic::CommandEvents);
    assert_eq!(seen.len(), 1, "{}", bench.name);
    let record = &seen[0];
    assert_eq!((record.key.as_str(), record.value.as_slice()), ("acme/sensor-007", event.value), "{}", bench.name);
    assert_eq!(record.timestamp_ms, Some(RECEIVED_MS), "{}", bench.name);
    assert_eq!(record.id(), format!("{id}:3"), "{}", bench.name);
    assert_eq!(record.headers["ce_type"], "tidegate.command.v1", "{}", bench.name);
    assert_eq!(record.headers["ce_time"], record.headers["tg_received_at"], "{}", bench.name);
}

fn headers_and_value(bench: &Bench) {
    append(&*bench.log, Topic::Status, &device(7), 5, br#"{"battery":81}"#, 10_000);
    bench.reports.wait(2_001);
    let seen = (bench.read)(Topic::Status);
    let record = seen.iter().find(|record| record.headers["ce_type"] == "tidegate.status.v1").unwrap();
    assert_eq!((record.key.as_str(), record.value.as_slice()), ("acme/sensor-007", br#"{"battery":81}"#.as_slice()));
    assert_eq!(record.timestamp_ms, Some(RECEIVED_MS), "{}", bench.name);
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", "b1:5"),
        ("ce_source", "/tidegate/acme/sensor-007"),
        ("ce_type", "tidegate.status.v1"),
        ("ce_time", "2025-05-29T12:45:00.234Z"),
        ("tg_received_at", "2025-05-29T12:45:01.234Z"),
        ("tg_epoch", "17"),
        ("content-type", "application/json"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(record.headers, BTreeMap::from(expected), "{}", bench.name);
}

fn one_too_large(bench: &Bench) {
    append(&*bench.log, Topic::Telemetry, &device(800), 1, &vec![b' '; 200_000], 10_001);
    append(&*bench.log, Topic::Telemetry, &device(800), 2, b"{}", 10_002);
    bench.reports.wait(2_004);
    assert_eq!(bench.reports.of(10_001), [(200_000, Outcome::Refused)], "{}", bench.name);
    assert_eq!(bench.reports.of(10_002), [(2, Outcome::Stored)], "{}", bench.name);
    let ids: Vec<String> = (bench.read)(Topic::Telemetry)
        .iter()
        .filter(|record| record.key == "acme/sensor-800")
        .map(|record| record.id().to_owned())
        .collect();
    assert_eq!(ids, ["b1:2"], "{}", bench.name);
}

#[tokio::test]
async fn the_memory_log_keeps_the_contract() {
    suite(memory()).await;
}

#[tokio::test]
async fn kafka_keeps_the_contract_on_a_mock_cluster() {
    suite(mocked()).await;
}

#[tokio::test]
async fn kafka_keeps_the_contract_on_a_real_one() {
    let Some((bench, config)) = real().await else { return };
    suite(bench).await;
    assert!(make_topics(&config).await.iter().all(|topic| matches!(topic, Applied::Same(_))));
    for record in read_kafka(&config, Topic::Telemetry) {
        assert_eq!(record.partition, Some(java_partition(record.key.as_bytes())), "{}", record.key);
    }
}

/// Where Java's default partitioner puts a key: murmur2 with its seed, the sign bit cleared, modulo the partitions.
fn java_partition(key: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ u32::try_from(key.len()).unwrap();
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(M);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(M) ^ mixed.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^= hash >> 15;
    i32::try_from(hash & 0x7fff_ffff).unwrap() % PARTITIONS
}

#[tokio::test]
async fn a_memory_log_that_is_held_reports_nothing_and_stalls() {
    let reports = Arc::new(Reports::default());
    let limits = MemoryLimits { queue_records: 3, ..MemoryLimits::default() };
    let metrics = Metrics::new().unwrap();
    let log = MemoryLog::start(limits, Arc::clone(&reports) as Arc<dyn Deliveries>, &metrics).unwrap();
    log.hold();
    log.refuse_next(1);
    for seq in 1..4 {
        append(&log, Topic::Telemetry, &device(1), seq, b"{}", seq);
    }
    let (key, boot) = (device(1), Boot::new("b").unwrap());
    let one_more = Record {
        topic: Topic::Telemetry,
        kind: Kind::Report,
        key: &key,
        boot: &boot,
        seq: Some(4),
        timestamp_ms: None,
        received_ms: RECEIVED_MS,
        epoch: Epoch(1),
        traceparent: None,
        value: b"{}",
    };
    assert_eq!(log.append(&one_more, Ticket(4)), Err(AppendError::Full));
    assert_eq!(log.probe(Duration::from_millis(20)).await, Err(ProbeError::Timeout(Duration::from_millis(20))));
    assert_eq!((reports.count(), log.pending().messages, log.pending().bytes), (0, 3, 6));
    let status = tidegate::eventlog::Pending::default();
    let (waits, stands) = (log.pending_in(Topic::Telemetry), log.pending_in(Topic::Status));
    assert_eq!((waits.messages, waits.bytes, stands), (3, 6, status), "each topic by itself");
    assert!(waits.stalled_ms >= 20);
    assert!(log.pending().stalled_ms >= 20);
    assert_eq!(metrics.publish_pending_messages_capacity.get(), 3);
    log.release();
    reports.wait(3);
    assert_eq!(reports.of(1), [(2, Outcome::Refused)]);
    assert_eq!(log.records().len(), 2);
    log.hold();
    append(&log, Topic::Telemetry, &device(1), 5, b"{}", 5);
    assert_eq!(log.close(Duration::ZERO).await, 1, "what is held at the deadline is still waiting");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {WAIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Produces through two replacements with an idle cluster before and after, and reads everything back.
fn survives(config: &KafkaConfig, log: &KafkaLog, reports: &Reports, mut trouble: impl FnMut(u32)) {
    let mut ticket = 0;
    for round in 0_u32..4 {
        let from = 1 + u64::from(round) * 200;
        ticket = append_many(log, 10, from..from + 100, ticket);
        trouble(round);
        ticket = append_many(log, 10, from + 100..from + 200, ticket);
    }
    reports.wait(usize::try_from(ticket).unwrap());
    reports.assert_each_once(Outcome::Stored, &[]);
    assert_eq!(log.pending().messages, 0);
    assert_complete_and_in_order("replaced", &read_kafka(config, Topic::Telemetry), 10, 1..801);
}

#[tokio::test]
async fn a_replaced_producer_hands_everything_on_in_order() {
    let Mock { cluster: _cluster, config, log, reports, metrics } = mock(PARTITIONS);
    survives(&config, &log, &reports, |_| log.replace_producer("a test says so"));
    wait_until("a producer is replaced", || log.replacements() > 0);
    assert_eq!(metrics.producer_replacements.get(), log.replacements());
}

#[tokio::test]
async fn a_replaced_producer_hands_everything_on_in_order_on_a_real_kafka() {
    let Some(brokers) = real_brokers() else { return };
    let config = kafka_config(&brokers);
    make_topics(&config).await;
    let reports = Arc::new(Reports::default());
    let log = start(&config, &reports, &Metrics::new().unwrap());
    survives(&config, &log, &reports, |_| log.replace_producer("a test says so"));
    wait_until("a producer is replaced", || log.replacements() > 0);
}

/// Faults F23, F24 and what librdkafka retries by itself: nothing is refused.
#[tokio::test]
async fn passing_errors_of_the_broker_refuse_nothing() {
    let Mock { cluster, config, log, reports, .. } = mock(PARTITIONS);
    let passing = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    survives(&config, &log, &reports, |round| {
        let error = passing[usize::try_from(round).unwrap()];
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error]);
    });
}

/// Fault F26, and failures that librdkafka gives up on: the producer is replaced, everything is stored.
///
/// Each round gathers in one batch a partition while the broker is away, so that the error hits the first request of
/// its partition (one behind others would be tried again by librdkafka itself), nothing newer is under way, and no two
/// errors end one and the same producer. What came back is reported by a later producer only, so the replacement was
/// counted before the round's reports are in.
#[tokio::test]
async fn a_producer_that_failed_is_replaced_and_nothing_is_lost() {
    let Mock { cluster, config, log, reports, .. } = mock(PARTITIONS);
    let failures = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    ];
    let mut ticket = append_many(&log, 10, 1..21, 0);
    reports.wait(usize::try_from(ticket).unwrap());
    for (error, from) in failures.into_iter().zip((21..).step_by(20)) {
        let before = log.replacements();
        cluster.broker_down(-1).unwrap();
        ticket = append_many(&log, 10, from..from + 20, ticket);
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        cluster.broker_up(-1).unwrap();
        reports.wait(usize::try_from(ticket).unwrap());
        assert!(log.replacements() > before, "{error:?} replaced no producer");
    }
    reports.assert_each_once(Outcome::Stored, &[]);
    assert_eq!(log.pending().messages, 0);
    assert_complete_and_in_order("failed", &read_kafka(&config, Topic::Telemetry), 10, 1..101);
}

/// Fault F29: the batch is refused, each record is tried alone, and only the one that is refused again is lost.
#[tokio::test]
async fn a_refused_batch_is_tried_record_by_record() {
    let Mock { cluster, config, log, reports, .. } = mock(1);
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    // While the broker is away all fifty gather in one batch; two batches would take an error each.
    log.probe(WAIT).await.unwrap();
    cluster.broker_down(-1).unwrap();
    append_many(&log, 1, 1..51, 1);
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large, too_large]);
    cluster.broker_up(-1).unwrap();
    reports.wait(50);
    let refused: Vec<u64> = (1..51).filter(|n| reports.of(*n)[0].1 == Outcome::Refused).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    reports.assert_each_once(Outcome::Stored, &refused);
    let seen = read_kafka(&config, Topic::Telemetry);
    assert!(!seen.iter().any(|record| record.id() == format!("b1:{}", refused[0])));
    assert_eq!(seen.len(), 49);
}

/// Fault F21: nothing is refused, the log says that it stalls, and everything is stored in order afterwards.
#[tokio::test]
async fn an_outage_stalls_and_loses_nothing() {
    let Mock { cluster, config, log, reports, .. } = mock(PARTITIONS);
    let ticket = append_many(&log, 10, 1..51, 0);
    reports.wait(usize::try_from(ticket).unwrap());
    cluster.broker_down(-1).unwrap();
    let end = append_many(&log, 10, 51..151, ticket);
    let patience = Instant::now() + WAIT;
    while log.pending().stalled_ms < 1_500 {
        assert!(Instant::now() < patience && log.pending().messages == 1_000, "{:?}", log.pending());
        assert_eq!((log.pending_in(Topic::Telemetry).messages, log.pending_in(Topic::Status).messages), (1_000, 0));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(matches!(log.probe(Duration::from_millis(50)).await, Err(ProbeError::Timeout(_))));
    cluster.broker_up(-1).unwrap();
    reports.wait(usize::try_from(end).unwrap());
    reports.assert_each_once(Outcome::Stored, &[]);
    log.probe(WAIT).await.unwrap();
    assert_complete_and_in_order("outage", &read_kafka(&config, Topic::Telemetry), 10, 1..151);
}

/// Fault F28: one topic forbidden, the other stores on, and after the end of it everything is stored.
#[tokio::test]
async fn a_forbidden_topic_stops_no_other() {
    let Mock { cluster, config, log, reports, .. } = mock(PARTITIONS);
    let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[forbidden; 3]);
    append(&log, Topic::Telemetry, &device(1), 1, b"{}", 1);
    let patience = Instant::now() + WAIT;
    while log.states()[0].1 == LaneState::Running && reports.count() == 0 {
        assert!(Instant::now() < patience, "the producer was not given up");
        std::thread::yield_now();
    }
    assert_eq!(log.states()[1], (Topic::Status, LaneState::Running));
    for n in 2..20 {
        append(&log, Topic::Telemetry, &device(1), n, b"{}", n);
        append(&log, Topic::Status, &device(1), n, b"{}", 100 + n);
    }
    reports.wait(37);
    reports.assert_each_once(Outcome::Stored, &[]);
    assert_complete_and_in_order("forbidden", &read_kafka(&config, Topic::Telemetry), 1, 1..20);
}

#[tokio::test]
async fn a_close_with_kafka_away_ends_in_time_and_counts_what_waits() {
    let Mock { cluster, log, reports, .. } = mock(PARTITIONS);
    log.probe(WAIT).await.unwrap();
    cluster.broker_down(-1).unwrap();
    append_many(&log, 10, 1..11, 0);
    assert_eq!(log.close(Duration::from_millis(200)).await, 100);
    assert_eq!(reports.count(), 0, "nothing is reported that did not happen");
}

#[tokio::test]
async fn a_missing_topic_and_absent_brokers_are_told_apart_at_the_start() {
    let cluster = MockCluster::new(1).unwrap();
    let config = kafka_config(&cluster.bootstrap_servers());
    cluster.create_topic(&config.topic("telemetry"), 1, 1).unwrap();
    let deliveries = || Arc::new(Reports::default()) as Arc<dyn Deliveries>;
    let metrics = Metrics::new().unwrap();
    let Err(missing) = KafkaLog::start(&config, &limits(), WAIT, deliveries(), &metrics) else { panic!("started") };
    assert!(matches!(&missing, StartError::Topic { topic, .. } if *topic == config.topic("status")), "{missing}");
    assert!(!missing.is_retryable());
    let nobody = kafka_config("127.0.0.1:1");
    let Err(away) = KafkaLog::start(&nobody, &limits(), Duration::from_millis(500), deliveries(), &metrics) else {
        panic!("started")
    };
    assert!(matches!(away, StartError::Unreachable { .. }) && away.is_retryable(), "{away}");
}

/// The topics are there and can be described, but this user may not write: told at the start, as a mistake.
#[tokio::test]
async fn a_user_who_may_not_write_is_told_at_the_start() {
    let refusals = [
        (RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 1),
        (RDKafkaApiKey::InitProducerId, RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, 3),
    ];
    for (request, error, times) in refusals {
        let cluster = MockCluster::new(1).unwrap();
        let config = kafka_config(&cluster.bootstrap_servers());
        for topic in Topic::ALL {
            cluster.create_topic(&config.topic(topic.name()), 1, 1).unwrap();
        }
        cluster.request_errors(request, &vec![error; times]);
        let reports = Arc::new(Reports::default()) as Arc<dyn Deliveries>;
        let metrics = Metrics::new().unwrap();
        let Err(refused) = KafkaLog::start(&config, &limits(), WAIT, reports, &metrics) else { panic!("started") };
        assert!(matches!(&refused, StartError::Topic { topic, .. } if topic.starts_with(&config.topic_prefix)));
        assert!(!refused.is_retryable(), "{refused}");
    }
}

/// Fault F29 with others under way: what Kafka refuses for good costs itself, not the order of what came behind it.
#[tokio::test]
async fn a_refused_record_leaves_the_others_in_order_on_a_real_kafka() {
    let Some(brokers) = real_brokers() else { return };
    let config = kafka_config(&brokers);
    let options = TopicOptions { partitions: Some(PARTITIONS), replication_factor: Some(1) };
    let mut specs = topics::specs(&config.topic_prefix, options).unwrap();
    specs.iter_mut().for_each(|spec| spec.config.push(("max.message.bytes", "60000".to_owned())));
    topics::apply(&config, &specs, WAIT).await.unwrap();
    let reports = Arc::new(Reports::default());
    let log = start(&config, &reports, &Metrics::new().unwrap());
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(65_000).collect();
    let (mut ticket, mut refused) = (0, Vec::new());
    for from in (1..401).step_by(100) {
        // From here on Kafka knows the producer on every partition, and what comes behind a refused batch is out of
        // order to it.
        ticket = append_many(&log, 10, from..from + 10, ticket);
        reports.wait(usize::try_from(ticket).unwrap());
        append(&log, Topic::Telemetry, &device(0), 1_000 + from, &large, ticket);
        refused.push(ticket);
        ticket += 1;
        for seq in from + 10..from + 100 {
            ticket = append_many(&log, 10, seq..seq + 1, ticket);
            // Now and then, so that several batches are under way.
            std::thread::sleep(Duration::from_micros(500));
        }
        reports.wait(usize::try_from(ticket).unwrap());
    }
    reports.assert_each_once(Outcome::Stored, &refused);
    assert!(refused.iter().all(|large| reports.of(*large)[0].1 == Outcome::Refused));
    let seen = read_kafka(&config, Topic::Telemetry);
    eprintln!("refused: {} repeats, {} replacements", seen.len() - 4_000, log.replacements());
    assert_complete_and_in_order("refused", &seen, 10, 1..401);
}
