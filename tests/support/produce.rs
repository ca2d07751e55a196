//! Writes records into a topic as any other program would.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

/// What to write; the partition follows from the key unless it is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Put<'a> {
    pub partition: Option<i32>,
    pub key: &'a str,
    pub value: Option<&'a str>,
    pub headers: &'a [(&'a str, &'a str)],
    pub timestamp_ms: Option<i64>,
}

/// Writes records in their order and waits until all are stored.
pub fn put_all(brokers: &str, topic: &str, records: &[Put<'_>]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", "0").set("partitioner", "murmur2_random");
    config.set("enable.idempotence", "true").set("log_level", "0");
    let producer: BaseProducer = config.create().expect("a producer");
    for put in records {
        let headers = put
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let mut record = BaseRecord::to(topic).key(put.key).headers(headers);
        record.partition = put.partition;
        record.timestamp = put.timestamp_ms;
        record.payload = put.value;
        producer.send(record).map_err(|(error, _)| error).expect("taken");
    }
    producer.flush(Duration::from_secs(20)).expect("stored");
}

/// Writes one.
pub fn put(brokers: &str, topic: &str, key: &str, value: Option<&str>) {
    put_all(brokers, topic, &[Put { key, value, ..Put::default() }]);
}
