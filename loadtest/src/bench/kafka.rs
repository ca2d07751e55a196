//! The broker of a run: given by whoever runs the benchmarks, its topics made here.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tidegate::eventlog::kafka::topics::{TopicOptions, specs};

use super::BenchError;

const TIMEOUT: Duration = Duration::from_secs(20);
const PARTITIONS: i32 = 12;
/// Where the gateway's records go.
pub const PREFIX: &str = "bench.";
/// The obvious program's topic, the bare producer's, and the articles' server's.
const OTHERS: [&str; 3] = ["obvious.telemetry", "bare.telemetry", "node.telemetry"];
/// A run may write more than a small disk holds.
const RETENTION: [(&str, &str); 2] = [("retention.bytes", "134217728"), ("segment.bytes", "67108864")];

/// Makes the topics of the gateway and of the baselines, each with 12 partitions and one copy.
///
/// # Errors
/// When the brokers do not answer or refuse.
pub fn make_topics(brokers: &str) -> Result<(), BenchError> {
    let options = TopicOptions { partitions: Some(PARTITIONS), replication_factor: Some(1) };
    let mut names: Vec<(String, i32)> = specs(PREFIX, options)
        .map_err(BenchError::failed)?
        .into_iter()
        .map(|spec| (spec.name, spec.partitions))
        .collect();
    names.extend(OTHERS.map(|name| (name.to_owned(), PARTITIONS)));
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(BenchError::failed)?;
    let topics = names.iter().map(|(name, partitions)| {
        let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(1));
        RETENTION.into_iter().fold(topic, |topic, (key, value)| topic.set(key, value))
    });
    let topics: Vec<NewTopic<'_>> = topics.collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("starting a runtime"))?;
    let made = runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).map_err(BenchError::failed)?;
    for one in made {
        match one {
            Ok(_) | Err((_, rdkafka::types::RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(BenchError::failed(format!("topic {topic} was not made: {code}"))),
        }
    }
    Ok(())
}

/// How many records were ever written to a topic of these.
///
/// # Errors
/// When the brokers do not answer.
pub fn records(brokers: &str, topic: &str) -> Result<u64, BenchError> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().map_err(BenchError::failed)?;
    let ends = (0..PARTITIONS).map(|partition| consumer.fetch_watermarks(topic, partition, TIMEOUT));
    ends.map(|end| end.map(|(_, high)| high.max(0).cast_unsigned()).map_err(BenchError::failed)).sum()
}
