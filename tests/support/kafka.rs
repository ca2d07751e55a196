//! The real Kafka: the shared one of `tests/run`, brokers of a test's own, and what is in a topic.

pub mod secured;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;

use super::process::Process;
use super::{ports, wait_until};

/// Every topic of the gateway, without the prefix.
const TOPICS: [&str; 6] = ["telemetry", "status", "command-events", "dead-letter", "commands", "revocations"];
const PARTITIONS: i32 = 4;
const CALL: Duration = Duration::from_secs(30);

/// The brokers of the Kafka all tests share, in which each makes topics under a prefix of its own.
///
/// # Panics
/// Where there is none: the tests that need it are run by `make test`.
pub fn shared() -> String {
    std::env::var("TIDEGATE_TEST_KAFKA").unwrap_or_else(|_| {
        panic!("this test needs a Kafka: run it by `tests/run --test NAME`, or set TIDEGATE_TEST_KAFKA=host:port")
    })
}

/// A topic prefix nobody else has.
pub fn new_prefix() -> String {
    format!("t{:016x}.", fastrand::u64(..))
}

/// Makes the gateway's topics under a prefix, with four partitions and one copy.
pub fn create_topics(brokers: &str, prefix: &str) {
    for name in TOPICS {
        create_topic(brokers, &format!("{prefix}{name}"), PARTITIONS);
    }
}

/// Makes one topic and waits until it can be read; one that is there already is as good.
pub fn create_topic(brokers: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().expect("an admin client");
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL));
    let made = block_on(admin.create_topics([&topic], &options)).expect("the broker answers");
    for result in made {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, error)) => panic!("topic {topic} was not made: {error}"),
        }
    }
    let consumer: BaseConsumer = client(brokers).create().expect("a consumer");
    wait_until("a new topic can be read", CALL, || {
        (0..partitions).all(|partition| consumer.fetch_watermarks(name, partition, CALL).is_ok())
    });
}

/// A record as it lies in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Partition.
    pub partition: i32,
    /// Offset within it.
    pub offset: i64,
    /// Key, `<tenant>/<device>`.
    pub key: String,
    /// Headers by name.
    pub headers: BTreeMap<String, String>,
    /// Value.
    pub value: Vec<u8>,
}

impl Stored {
    /// A header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.value).expect("a record's value is JSON")
    }

    /// Boot and number of `ce_id`, where the device gave a number.
    pub fn boot_and_seq(&self) -> Option<(&str, u64)> {
        let (boot, seq) = self.header("ce_id").rsplit_once(':')?;
        Some((boot, seq.parse().ok()?))
    }
}

/// Everything a topic holds at the time of the call, by partition and offset.
pub fn read_all(brokers: &str, topic: &str) -> Vec<Stored> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .create()
        .expect("a consumer");
    let mut left = assign_from_start(&consumer, topic);
    let mut records = Vec::new();
    let mut end = Instant::now() + CALL;
    while left.values().any(|last| *last >= 0) {
        assert!(Instant::now() < end, "reading {topic} got stuck; still to come: {left:?}");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("a record can be read");
        if left.get(&message.partition()).is_some_and(|last| message.offset() >= *last) {
            left.insert(message.partition(), -1);
        }
        records.push(stored(&message));
        end = Instant::now() + CALL;
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Assigns every partition from its start, and gives the last offset of each at this moment (-1: it is empty).
fn assign_from_start(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, i64> {
    let metadata = consumer.fetch_metadata(Some(topic), CALL).expect("the broker knows the topic");
    let partitions = metadata.topics().first().expect("one topic").partitions().iter().map(|p| p.id());
    let mut assignment = TopicPartitionList::new();
    let mut last = BTreeMap::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, CALL).expect("the partition has a leader");
        last.insert(partition, if high > low { high - 1 } else { -1 });
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&assignment).expect("the partitions are assigned");
    last
}

fn stored(message: &impl Message) -> Stored {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().into_iter().flat_map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect::<Vec<_>>()
    });
    Stored {
        partition: message.partition(),
        offset: message.offset(),
        key: text(message.key().unwrap_or_default()),
        headers: headers.collect(),
        value: message.payload().unwrap_or_default().to_vec(),
    }
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("log_level", "0");
    config
}

/// Runs a future on a thread of its own, so that it works within a runtime too.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(future)
        };
        scope.spawn(run).join().expect("the future does not panic")
    })
}

/// A Kafka of the test's own, to be frozen, killed and restarted. Killed and removed when dropped.
pub struct Broker {
    process: Process,
    dir: TempDir,
    port: u16,
}

impl Broker {
    /// Starts a broker on free ports with its data in a temporary directory, and waits until it answers.
    pub fn start() -> Self {
        Self::start_with("", "", "")
    }

    /// The same with a second door: whoever comes in by `port` is told to come by `advertised`, where a proxy listens.
    pub fn start_with_second_door(port: u16, advertised: u16) -> Self {
        Self::start_with(
            &format!(",SECOND://127.0.0.1:{port}"),
            &format!(",SECOND://127.0.0.1:{advertised}"),
            ",SECOND:PLAINTEXT",
        )
    }

    fn start_with(listeners: &str, advertised: &str, protocols: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, controller) = (ports::free(), ports::free());
        std::fs::write(dir.path().join("kafka.properties"), {
            let mut text = properties(dir.path(), port, controller);
            for (key, more) in
                [("\nlisteners=", listeners), ("\nadvertised.listeners=", advertised), ("protocol.map=", protocols)]
            {
                let line = text.find(key).expect("the key is there") + 1;
                let end = line + text[line..].find('\n').expect("a line");
                text.insert_str(end, more);
            }
            text
        })
        .expect("written");
        let id = output(java().args(["kafka.tools.StorageTool", "random-uuid"]));
        output(java().args(["kafka.tools.StorageTool", "format", "-t", id.trim(), "-c"]).arg(config(dir.path())));
        let process = run_broker(dir.path());
        let mut broker = Self { process, dir, port };
        broker.wait_ready();
        broker
    }

    /// `127.0.0.1:PORT`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Freezes it: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Kills it as a crash would; its data stay.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its data and its port after `kill`, and waits until it answers.
    pub fn restart(&mut self) {
        self.process = run_broker(self.dir.path());
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let brokers = self.brokers();
        let consumer: BaseConsumer = client(&brokers).create().expect("a consumer");
        wait_until("the broker answers", Duration::from_secs(60), || {
            if let Some(status) = self.process.ended() {
                panic!("Kafka ended with {status}");
            }
            consumer.fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|data| !data.brokers().is_empty())
        });
    }
}

fn run_broker(dir: &Path) -> Process {
    let mut command = java();
    command.arg("kafka.Kafka").arg(config(dir));
    Process::start("Kafka", &mut command, &dir.join("kafka.log"))
}

fn config(dir: &Path) -> PathBuf {
    dir.join("kafka.properties")
}

fn java() -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn").arg("-cp").arg(libs().join("*"));
    command
}

/// Where `tests/run` keeps Kafka's jars.
fn libs() -> PathBuf {
    let cache = || match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    let given = std::env::var_os("TIDEGATE_KAFKA_LIBS").map(PathBuf::from);
    let libs = given.unwrap_or_else(|| cache().join("tidegate/kafka-4.1.1"));
    assert!(libs.is_dir(), "no Kafka in {}: `make test` fetches it", libs.display());
    libs
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("java runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn properties(dir: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         auto.create.topics.enable=false\n",
        dir.join("data").display()
    )
}
