//! The scaffolding itself: what the other tests rely on to be told the truth.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::kafka::{self, Broker};
use support::ws::{Incoming, RawClient, frame, opcode};

const TIMEOUT: Duration = Duration::from_secs(30);

fn produce(brokers: &str, topic: &str, values: std::ops::Range<u32>) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for value in values {
        let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&format!("b:{value}")) });
        let value = value.to_string();
        let record = BaseRecord::to(topic).key("acme/d").payload(&value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
}

#[test]
fn everything_in_a_topic_is_read_back_with_key_headers_and_value() {
    let (brokers, topic) = (kafka::shared(), format!("{}telemetry", kafka::new_prefix()));
    kafka::create_topic(&brokers, &topic, 3);
    assert_eq!(kafka::read_all(&brokers, &topic), []);
    produce(&brokers, &topic, 0..1_000);
    let records = kafka::read_all(&brokers, &topic);
    assert_eq!(records.len(), 1_000);
    for (at, record) in records.iter().enumerate() {
        assert_eq!((record.key.as_str(), record.json()), ("acme/d", at.into()));
        assert_eq!(record.boot_and_seq(), Some(("b", at as u64)));
    }
}

#[test]
fn a_broker_of_ones_own_freezes_thaws_and_keeps_its_data_over_a_crash() {
    let mut broker = Broker::start();
    kafka::create_topic(&broker.brokers(), "t", 1);
    produce(&broker.brokers(), "t", 0..10);
    let client: BaseProducer = ClientConfig::new().set("bootstrap.servers", broker.brokers()).create().unwrap();
    broker.freeze();
    assert!(client.client().fetch_metadata(Some("t"), Duration::from_millis(500)).is_err());
    broker.thaw();
    assert!(client.client().fetch_metadata(Some("t"), TIMEOUT).is_ok());
    broker.kill();
    broker.restart();
    assert_eq!(kafka::read_all(&broker.brokers(), "t").len(), 10);
}

#[test]
fn the_dumb_client_tells_frames_silence_and_the_end_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = RawClient::connect(listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"\x81\x02{}\x88\x02\x03\xf4\x89").unwrap();
    let Incoming::Frame(text) = client.frame(TIMEOUT) else { panic!("no frame") };
    assert_eq!((text.opcode(), text.is_final(), &text.payload[..]), (opcode::TEXT, true, &b"{}"[..]));
    let Incoming::Frame(close) = client.frame(TIMEOUT) else { panic!("no frame") };
    assert_eq!((close.opcode(), close.close_code()), (opcode::CLOSE, 1012));
    assert_eq!(client.frame(Duration::from_millis(50)), Incoming::Timeout, "half a frame is none");
    drop(server);
    assert_eq!(client.frame(TIMEOUT), Incoming::End);
}

#[test]
fn frames_are_masked_and_say_their_length_as_short_as_possible() {
    assert_eq!(frame(0x81, b"\x37\xfa"), b"\x81\x82\x37\xfa\x21\x3d\x00\x00");
    assert_eq!(frame(0x82, &[0; 126])[..4], *b"\x82\xfe\x00\x7e");
    assert_eq!(frame(0x82, &[0; 65_536])[..10], *b"\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00");
}
