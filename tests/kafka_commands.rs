//! Commands from a real Kafka: read by a group of nodes, each once accepted for good or a dead letter, none lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/produce.rs"]
mod produce;
#[path = "support/support.rs"]
mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use produce::{Put, put_all};
use support::{kafka, wait_until};
use tidegate::clock::unix_ms;
use tidegate::commands::memory::MemoryCommands;
use tidegate::commands::{CommandError, CommandFuture, Commands, Submission, Submitted};
use tidegate::eventlog::kafka::group::{GroupReader, GroupSettings};
use tidegate::eventlog::kafka::{KafkaConfig, KafkaWriter};
use tidegate::eventlog::{Fetched, Handler, LogFuture};
use tidegate::id::DeviceKey;
use tidegate::inbox::{Inbox, Taker};
use tidegate::telemetry::metrics::{Metrics, ReadOutcome};

const SOON: Duration = Duration::from_secs(60);

/// The directory's commands, in memory, and whether they can be reached.
struct Directory {
    commands: MemoryCommands,
    away: AtomicBool,
    /// How often somebody asked, reached or not.
    asked: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Door(Arc<Directory>);

impl Taker for Door {
    fn submit<'a>(&'a self, submission: Submission<'a>) -> CommandFuture<'a, Submitted> {
        Box::pin(async move {
            self.0.asked.lock().unwrap().push(submission.key.to_owned());
            if self.0.away.load(Ordering::SeqCst) {
                return Err(CommandError::Unavailable("Redis is away".into()));
            }
            self.0.commands.submit(&submission).await
        })
    }
}

/// Handles as another does and then never comes to an end, as a node that dies before it has committed.
struct Stuck(Inbox);

impl Handler for Stuck {
    fn handle(&self, record: Fetched) -> LogFuture<'_, ()> {
        Box::pin(async move {
            self.0.handle(record).await;
            std::future::pending().await
        })
    }
}

/// Topics of a test's own, the commands, and a runtime for the nodes.
struct Rig {
    config: KafkaConfig,
    directory: Arc<Directory>,
    metrics: Metrics,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn new() -> Self {
        let rig = Self::without_topics();
        kafka::create_topics(&rig.config.brokers, &rig.config.topic_prefix);
        rig
    }

    fn without_topics() -> Self {
        let (brokers, topic_prefix) = (kafka::shared(), kafka::new_prefix());
        let commands = MemoryCommands::new(Arc::new(unix_ms), Arc::new(|_| None));
        let (away, asked) = (AtomicBool::new(false), Mutex::default());
        Self {
            config: KafkaConfig { brokers, topic_prefix, ..KafkaConfig::default() },
            directory: Arc::new(Directory { commands, away, asked }),
            metrics: Metrics::new().unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    fn inbox(&self) -> Inbox {
        let dead_letters = Arc::new(KafkaWriter::start(&self.config).unwrap());
        let door = Door(Arc::clone(&self.directory));
        Inbox::new(door, dead_letters, self.metrics.clone(), self.topic("commands"), Arc::new(unix_ms))
    }

    fn node(&self, member: &str, handler: impl Handler) -> GroupReader {
        let settings = GroupSettings { topic: "commands", member: member.into(), value_bytes: 1_000 };
        let runtime = self.runtime.handle().clone();
        GroupReader::start(&self.config, &settings, Arc::new(handler), runtime).unwrap()
    }

    fn stop(&self, node: &GroupReader) {
        self.runtime.block_on(node.stop(SOON));
    }

    fn topic(&self, name: &str) -> String {
        self.config.topic(name)
    }

    fn put(&self, records: &[Put<'_>]) {
        put_all(&self.config.brokers, &self.topic("commands"), records);
    }

    /// The commands of a device, by name, in their order.
    fn queued(&self, device: &str) -> Vec<String> {
        let key = DeviceKey::new("acme", device).unwrap();
        let list = self.runtime.block_on(self.directory.commands.list(&key, 1_000)).unwrap();
        list.into_iter().map(|command| command.name).collect()
    }

    fn count(&self, outcome: ReadOutcome) -> u64 {
        self.metrics.commands_read.of(outcome).get()
    }
}

fn order(name: &str) -> String {
    format!(r#"{{"name":"{name}","ttl_s":600}}"#)
}

#[test]
fn a_command_read_again_after_a_crash_is_the_same_and_nothing_is_read_twice_without_one() {
    let rig = Rig::new();
    let node = rig.node("n1", Stuck(rig.inbox()));
    let (first, second) = (order("first"), order("second"));
    let at = |value| Put { partition: Some(1), key: "acme/d1", value: Some(value), ..Put::default() };
    rig.put(&[at(&first), at(&second)]);
    wait_until("the first is accepted", SOON, || rig.queued("d1") == ["first"]);
    rig.stop(&node);
    drop(node);
    let node = rig.node("n1", rig.inbox());
    wait_until("both are accepted", SOON, || rig.queued("d1") == ["first", "second"]);
    wait_until("both are done", SOON, || rig.count(ReadOutcome::Accepted) == 3);
    let topic = rig.topic("commands");
    let keys = [0, 0, 1].map(|offset| format!("{topic}-1-{offset}"));
    assert_eq!(*rig.directory.asked.lock().unwrap(), keys, "the first twice, under the same key");
    rig.stop(&node);
    drop(node);
    let _node = rig.node("n1", rig.inbox());
    let third = order("third");
    rig.put(&[at(&third)]);
    wait_until("the third is accepted", SOON, || rig.queued("d1").len() == 3);
    assert_eq!(rig.directory.asked.lock().unwrap().len(), 4, "what was committed is not read again");
}

#[test]
fn while_redis_is_away_commands_wait_in_their_order_and_none_is_lost() {
    let rig = Rig::new();
    rig.directory.away.store(true, Ordering::SeqCst);
    let names: Vec<String> = (0..80).map(|number| format!("n{number}")).collect();
    let orders: Vec<String> = names.iter().map(|name| order(name)).collect();
    let at = |value| Put { partition: Some(2), key: "acme/d1", value: Some(value), ..Put::default() };
    rig.put(&orders.iter().map(|value| at(value.as_str())).collect::<Vec<_>>());
    let node = rig.node("n1", rig.inbox());
    wait_until("it was tried a few times", SOON, || rig.directory.asked.lock().unwrap().len() >= 4);
    assert_eq!(rig.directory.asked.lock().unwrap().iter().collect::<std::collections::HashSet<_>>().len(), 1);
    let other = order("elsewhere");
    rig.put(&[Put { partition: Some(0), key: "acme/d2", value: Some(&other), ..Put::default() }]);
    rig.directory.away.store(false, Ordering::SeqCst);
    wait_until("all are accepted", SOON, || rig.queued("d1").len() == 80 && rig.queued("d2").len() == 1);
    assert_eq!(rig.queued("d1"), names);
    assert!(kafka::read_all(&rig.config.brokers, &rig.topic("dead-letter")).is_empty());
    rig.stop(&node);
}

#[test]
fn what_is_no_command_is_a_dead_letter_with_its_reason_and_origin() {
    let rig = Rig::new();
    let _node = rig.node("n1", rig.inbox());
    let (good, other, long) = (order("good"), order("other"), order(&"x".repeat(2_000)));
    let named = [("ce_id", "same"), ("ce_type", "order")];
    let at = |value| Put { partition: Some(3), key: "acme/d1", value: Some(value), ..Put::default() };
    rig.put(&[
        at("no json"),
        Put { key: "nobody", ..at(&good) },
        Put { value: None, ..at(&good) },
        at(&long),
        Put { headers: &named, ..at(&good) },
        Put { headers: &named, ..at(&other) },
        Put { timestamp_ms: Some(unix_ms() - 601_000), ..at(&other) },
        at(&good),
    ]);
    wait_until("the last is accepted", SOON, || rig.count(ReadOutcome::Accepted) == 2);
    let mut dead = kafka::read_all(&rig.config.brokers, &rig.topic("dead-letter"));
    dead.sort_by_key(|letter| letter.header("tg_offset").parse::<i64>().unwrap());
    let told: Vec<_> = dead.iter().map(|letter| (letter.header("tg_reason"), letter.header("tg_offset"))).collect();
    let expected = [
        ("malformed", "0"),
        ("malformed", "1"),
        ("malformed", "2"),
        ("too_large", "3"),
        ("conflict", "5"),
        ("expired", "6"),
    ];
    assert_eq!(told, expected);
    let topic = rig.topic("commands");
    assert!(dead.iter().all(|letter| letter.header("tg_topic") == topic && letter.header("tg_partition") == "3"));
    assert!(dead.iter().all(|letter| !letter.header("tg_detail").is_empty()));
    assert_eq!((dead[0].key.as_str(), dead[0].value.as_slice()), ("acme/d1", &b"no json"[..]));
    assert_eq!((dead[1].key.as_str(), dead[4].header("ce_id"), dead[4].header("ce_type")), ("nobody", "same", "order"));
    assert!(dead[3].value.is_empty(), "left out where it lies");
    assert_eq!(rig.queued("d1"), ["good", "good"]);
}

/// Counts what one node handles.
struct Counted(Inbox, Arc<AtomicUsize>);

impl Handler for Counted {
    fn handle(&self, record: Fetched) -> LogFuture<'_, ()> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.handle(record)
    }
}

#[test]
fn two_nodes_share_the_topic_one_leaves_and_each_partition_keeps_its_order() {
    let rig = Rig::new();
    let counts = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let [by_first, by_second] = &counts;
    let orders: Vec<String> = (0..60).map(|number| order(&format!("n{number}"))).collect();
    let devices = ["d0", "d1", "d2", "d3"].map(|device| format!("acme/{device}"));
    let put = |range: std::ops::Range<usize>| {
        for (partition, key) in devices.iter().enumerate() {
            let at = |value| Put { partition: Some(partition as i32), key, value: Some(value), ..Put::default() };
            rig.put(&orders[range.clone()].iter().map(|value| at(value.as_str())).collect::<Vec<_>>());
        }
    };
    let all_accepted = |count: usize| {
        for device in ["d0", "d1", "d2", "d3"] {
            wait_until("all of a device are accepted", SOON, || rig.queued(device).len() == count);
        }
    };
    put(0..20);
    let first = rig.node("n1", Counted(rig.inbox(), Arc::clone(by_first)));
    all_accepted(20);
    let second = rig.node("n2", Counted(rig.inbox(), Arc::clone(by_second)));
    let mut number = 20;
    wait_until("both have partitions", SOON, || {
        put(number..number + 1);
        number += 1;
        all_accepted(number);
        by_second.load(Ordering::SeqCst) > 0
    });
    rig.stop(&first);
    drop(first);
    put(number..60);
    // The other takes over when the session of the one that left is over.
    all_accepted(60);
    let names: Vec<String> = (0..60).map(|number| format!("n{number}")).collect();
    for device in ["d0", "d1", "d2", "d3"] {
        assert_eq!(rig.queued(device), names, "{device}");
    }
    rig.stop(&second);
}

#[test]
fn a_node_that_comes_back_while_its_old_self_hangs_reads_in_its_place() {
    let rig = Rig::new();
    let old = rig.node("n1", Stuck(rig.inbox()));
    let (first, second) = (order("first"), order("second"));
    let at = |value| Put { partition: Some(1), key: "acme/d1", value: Some(value), ..Put::default() };
    rig.put(&[at(&first), at(&second)]);
    wait_until("the first is accepted", SOON, || rig.queued("d1") == ["first"]);
    let new = rig.node("n1", rig.inbox());
    wait_until("both are accepted", SOON, || rig.queued("d1") == ["first", "second"]);
    rig.stop(&old);
    rig.stop(&new);
}

#[test]
fn a_topic_that_is_missing_is_read_as_soon_as_it_is_there() {
    let mut rig = Rig::without_topics();
    rig.config.properties.insert("topic.metadata.refresh.interval.ms".into(), "1000".into());
    let node = rig.node("n1", rig.inbox());
    std::thread::sleep(Duration::from_secs(2));
    kafka::create_topics(&rig.config.brokers, &rig.config.topic_prefix);
    let open = order("open");
    rig.put(&[Put { key: "acme/d1", value: Some(&open), ..Put::default() }]);
    wait_until("it is read", SOON, || rig.queued("d1") == ["open"]);
    rig.stop(&node);
}
