//! The ledger against a real Kafka: records pass a filter between the topic and the judge, which loses, doubles, swaps
//! or alters one. Each must be named, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidegate_loadtest::figures::Verdict;
use tidegate_loadtest::ledger::{KafkaTarget, Ledger, LedgerError, Marks, Pass, Stored, Topic, digest};

const CALL: Duration = Duration::from_secs(30);
const PARTITIONS: i32 = 4;
const DEVICES: u64 = 20;
/// Of each device; every fifth is a status.
const UPDATES: u64 = 50;

fn brokers() -> String {
    std::env::var("TIDEGATE_TEST_KAFKA").unwrap_or_else(|_| {
        panic!(
            "this test needs a Kafka: `tests/run -p tidegate-loadtest --test ledger`, or TIDEGATE_TEST_KAFKA=host:port"
        )
    })
}

struct Awake(Thread);

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Awake(std::thread::current()))));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Topics of this test's own, and where they are.
fn kafka() -> KafkaTarget {
    let target =
        KafkaTarget { brokers: brokers(), topic_prefix: format!("l{:016x}.", fastrand::u64(..)), ..Default::default() };
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &target.brokers).create().unwrap();
    let names = Topic::ALL.map(|topic| name(&target, topic));
    let topics = names.each_ref().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)));
    let options = AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL));
    block_on(admin.create_topics(&topics, &options)).unwrap().into_iter().for_each(|made| drop(made.unwrap()));
    // A new topic may not be known everywhere at once.
    let end = std::time::Instant::now() + CALL;
    while target.mark().is_err() {
        assert!(std::time::Instant::now() < end, "new topics can be read");
        std::thread::sleep(Duration::from_millis(50));
    }
    target
}

fn name(target: &KafkaTarget, topic: Topic) -> String {
    format!("{}{}", target.topic_prefix, topic.name())
}

/// Writes as the gateway does, and waits until all is there.
struct Gateway {
    producer: BaseProducer,
    target: KafkaTarget,
}

impl Gateway {
    fn new(target: &KafkaTarget) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &target.brokers).set("enable.idempotence", "true");
        Self { producer: config.create().unwrap(), target: target.clone() }
    }

    fn store(&self, topic: Topic, key: &str, id: &str, value: &str) {
        let source = format!("/tidegate/{key}");
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new()
            .insert(header("ce_specversion", "1.0"))
            .insert(header("ce_id", id))
            .insert(header("ce_source", source.as_str()));
        let topic = name(&self.target, topic);
        let record = BaseRecord::to(&topic).key(key).payload(value).headers(headers);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    fn done(&self) {
        self.producer.flush(CALL).unwrap();
    }
}

/// What a device says in its `seq`th message, as the gateway has it from a CBOR device; the ledger is told as a JSON
/// device would.
fn say(gateway: &Gateway, device: &str, seq: u64) -> u64 {
    let (topic, kind) = if seq.is_multiple_of(5) { (Topic::Status, "status") } else { (Topic::Telemetry, "update") };
    let stored = format!(
        r#"{{"name":"climate","seq":{seq},"timestamp":1748522700000,"type":"{kind}","value":{{"c":{seq}.0,"h":40}}}}"#
    );
    gateway.store(topic, &format!("default/{device}"), &format!("boot-1:{seq}"), &stored);
    digest(kind, Some("climate"), &format!(r#"{{"h":40.0,"c":{seq}}}"#), Some(1_748_522_700_000))
}

/// A run: what lies in the topics from before is not of it, nor is what others write meanwhile.
struct Run {
    target: KafkaTarget,
    since: Marks,
    ledger: Ledger,
}

fn run() -> Run {
    let target = kafka();
    let gateway = Gateway::new(&target);
    gateway.store(Topic::Telemetry, "default/dev-0", "boot-1:1", r#"{"type":"update","seq":1,"value":"earlier"}"#);
    gateway.done();
    let since = target.mark().unwrap();
    let ledger = Ledger::new();
    for seq in 1..=UPDATES {
        for device in (0..DEVICES).map(|number| format!("dev-{number}")) {
            let entry = ledger.device("default", &device);
            entry.sent("boot-1", seq, say(&gateway, &device, seq));
            entry.acked("boot-1", seq);
        }
        gateway.store(Topic::Status, "default/dev-0", &format!("{seq}:online"), r#"{"online":true}"#);
        gateway.store(Topic::Telemetry, "default/stranger", &format!("x:{seq}"), r#"{"type":"update","value":1}"#);
    }
    gateway.done();
    Run { target, since, ledger }
}

impl Run {
    fn check(&self, filter: &mut Pass<'_>) -> Verdict {
        let mut told = Vec::new();
        let mut progress = |read, of| told.push((read, of));
        let verdict = self.ledger.check_through(&self.target, &self.since, CALL * 2, &mut progress, filter);
        let all = DEVICES * UPDATES + 2 * UPDATES;
        assert_eq!((told.first(), told.last()), (Some(&(0, all)), Some(&(all, all))));
        verdict
    }

    /// What is found when records of one device pass `fault`.
    fn with(&self, device: &str, mut fault: impl FnMut(u64, &Stored<'_>, &mut dyn FnMut(&Stored<'_>))) -> Verdict {
        let key = format!("default/{device}");
        self.check(&mut |record, pass| {
            let seq = record.id.strip_prefix("boot-1:").and_then(|seq| seq.parse().ok());
            match seq {
                Some(seq) if record.key == key.as_bytes() => fault(seq, record, pass),
                _ => pass(record),
            }
        })
    }
}

/// The names in each finding, in the order lost, doubled, reordered, altered.
fn names(verdict: &Verdict) -> [Vec<&str>; 4] {
    assert!(verdict.complete, "{:?}", verdict.incomplete);
    let others = [&verdict.acked_and_refused, &verdict.unsent, &verdict.unasked];
    assert_eq!(others.map(|finding| finding.count), [0; 3]);
    [&verdict.lost, &verdict.doubled, &verdict.reordered, &verdict.altered].map(|finding| {
        assert_eq!(finding.count as usize, finding.first.len());
        finding.first.iter().map(|text| text.split_once(": ").unwrap().0).collect()
    })
}

/// A record that outlives the one it was taken from.
struct Kept {
    partition: i32,
    offset: i64,
    key: Vec<u8>,
    source: String,
    id: String,
    value: Vec<u8>,
}

impl Kept {
    fn of(record: &Stored<'_>) -> Self {
        let Stored { partition, offset, key, source, id, value, .. } = *record;
        Self { partition, offset, key: key.into(), source: source.into(), id: id.into(), value: value.into() }
    }

    fn as_stored(&self, topic: Topic) -> Stored<'_> {
        let Self { partition, offset, key, source, id, value } = self;
        Stored { topic, partition: *partition, offset: *offset, key, source, id, value }
    }
}

#[test]
fn what_is_planted_between_topic_and_judge_is_named_exactly() {
    let run = run();
    let clean = run.check(&mut |record, pass| pass(record));
    assert!(clean.is_clean(), "{clean:?}");
    let all = DEVICES * UPDATES;
    assert_eq!((clean.acked, clean.stored, clean.records, clean.skipped), (all, all, all + 2 * UPDATES, 2 * UPDATES));

    let skips = run.with("dev-3", |seq, record, pass| {
        if seq != 17 {
            pass(record);
        }
    });
    assert_eq!(names(&skips), [vec!["dev-3 boot-1:17"], vec![], vec![], vec![]]);

    let doubles = run.with("dev-4", |seq, record, pass| {
        pass(record);
        if seq == 21 {
            let other = String::from_utf8(record.value.to_vec()).unwrap().replace("\"h\":40", "\"h\":41");
            pass(&Stored { value: other.as_bytes(), ..*record });
        }
    });
    assert_eq!(names(&doubles), [vec![], vec!["dev-4 boot-1:21"], vec![], vec![]]);

    let repeats = run.with("dev-4", |seq, record, pass| {
        pass(record);
        if seq == 50 {
            pass(record);
        }
    });
    assert_eq!(names(&repeats), [vec![], vec!["dev-4 boot-1:50"], vec![], vec![]], "a status, sent once");

    let mut held = None;
    let swaps = run.with("dev-5", |seq, record, pass| {
        if seq == 31 {
            held = Some(Kept::of(record));
            return;
        }
        pass(record);
        if let Some(before) = held.take_if(|_| seq == 32) {
            pass(&before.as_stored(Topic::Telemetry));
        }
    });
    assert_eq!(names(&swaps), [vec![], vec![], vec!["dev-5 boot-1:31"], vec![]]);
    assert!(swaps.reordered.first[0].contains("behind 32"), "{:?}", swaps.reordered.first);

    let alters = run.with("dev-6", |seq, record, pass| {
        let other = String::from_utf8(record.value.to_vec()).unwrap().replace("\"h\":40", "\"h\":40.5");
        pass(&Stored { value: if seq == 9 { other.as_bytes() } else { record.value }, ..*record });
    });
    assert_eq!(names(&alters), [vec![], vec![], vec![], vec!["dev-6 boot-1:9"]]);
}

#[test]
fn what_a_gateway_really_lost_doubled_and_swapped_is_named() {
    let target = kafka();
    let (gateway, ledger, since) = (Gateway::new(&target), Ledger::new(), target.mark().unwrap());
    let entry = ledger.device("default", "dev-1");
    for seq in 1..=10 {
        entry.sent("boot-1", seq, digest("update", None, &seq.to_string(), None));
        entry.acked("boot-1", seq);
    }
    let store = |seq: u64, value: u64| {
        let message = format!(r#"{{"type":"update","seq":{seq},"value":{value}}}"#);
        gateway.store(Topic::Telemetry, "default/dev-1", &format!("boot-1:{seq}"), &message);
    };
    for seq in [1, 2, 4, 3, 5, 5, 6, 8, 9, 10] {
        store(seq, if seq == 9 { 99 } else { seq });
    }
    gateway.done();
    let verdict = ledger.check(&target, &since, CALL * 2, &mut |_, _| {});
    let one = |seq| vec![seq];
    assert_eq!(
        names(&verdict),
        [one("dev-1 boot-1:7"), one("dev-1 boot-1:5"), one("dev-1 boot-1:3"), one("dev-1 boot-1:9")]
    );
}

#[test]
fn two_workers_ledgers_merge_into_one_that_is_checked() {
    let target = kafka();
    let (gateway, since) = (Gateway::new(&target), target.mark().unwrap());
    let whole = Ledger::new();
    for device in ["dev-1", "dev-2"] {
        let worker = Ledger::new();
        let entry = worker.device("default", device);
        for seq in 1..=20 {
            entry.sent("boot-1", seq, say(&gateway, device, seq));
            entry.acked("boot-1", seq);
        }
        whole.merge(Ledger::from_bytes(&worker.to_bytes()).unwrap());
    }
    gateway.done();
    let verdict = whole.check(&target, &since, CALL * 2, &mut |_, _| {});
    assert!(verdict.is_clean() && verdict.stored == 40, "{verdict:?}");
}

#[test]
fn records_that_are_deleted_before_the_check_make_it_incomplete() {
    let target = kafka();
    let (gateway, ledger, since) = (Gateway::new(&target), Ledger::new(), target.mark().unwrap());
    let entry = ledger.device("default", "dev-1");
    entry.sent("boot-1", 1, say(&gateway, "dev-1", 1));
    entry.acked("boot-1", 1);
    gateway.done();
    delete_records(&target);
    let verdict = ledger.check(&target, &since, CALL * 2, &mut |_, _| {});
    let why = verdict.incomplete.clone().unwrap_or_default();
    assert!(!verdict.complete && why.contains("deleted"), "{verdict:?}");
    assert_eq!(verdict.lost.count, 0, "what nobody could read is not lost");
}

/// Deletes everything, as retention does.
fn delete_records(target: &KafkaTarget) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &target.brokers).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&name(target, Topic::Telemetry), partition, rdkafka::Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL));
    block_on(admin.delete_records(&list, &options)).unwrap();
}

#[test]
fn a_topic_that_is_missing_and_brokers_that_are_not_there_are_told_in_words() {
    let there = kafka();
    let none = KafkaTarget { topic_prefix: "nobody-has-this.".to_owned(), ..there.clone() };
    let error = none.mark().unwrap_err();
    assert!(matches!(&error, LedgerError::Topic { topic, .. } if topic == "nobody-has-this.telemetry"), "{error}");
    let settings = KafkaTarget { properties: vec![("no.such.setting".into(), "1".into())], ..there.clone() };
    assert!(matches!(settings.mark(), Err(LedgerError::Settings(_))));
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = KafkaTarget { brokers: format!("127.0.0.1:{port}"), ..there.clone() };
    assert!(matches!(gone.mark(), Err(LedgerError::Kafka { .. })));
    let ledger = Ledger::new();
    let entry = ledger.device("default", "dev-1");
    entry.sent("boot-1", 1, 1);
    entry.acked("boot-1", 1);
    let verdict = ledger.check(&gone, &there.mark().unwrap(), CALL, &mut |_, _| {});
    let why = verdict.incomplete.clone().unwrap_or_default();
    assert!(!verdict.complete && why.contains("does not answer"), "{why}");
}
