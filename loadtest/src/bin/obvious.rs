//! The obvious Rust program, in one file: axum's WebSocket in front of rdkafka's `FutureProducer`, as an ordinary good
//! programmer writes it, with `TCP_NODELAY` and a 4 KiB read buffer set. The peer the gateway's CPU is compared with.
//!
//! `obvious ADDRESS BROKERS`

#![allow(clippy::disallowed_types, reason = "the ban is what this baseline shows the price of")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const TOPIC: &str = "obvious.telemetry";
const IN_FLIGHT: usize = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9002".to_owned());
    let brokers = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("compression.type", "lz4")
        .create()?;
    let app = Router::new().route("/", get(upgrade)).with_state(Arc::new(producer));
    let listener = TcpListener::bind(address).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

async fn upgrade(upgrade: WebSocketUpgrade, State(producer): State<Arc<FutureProducer>>) -> Response {
    upgrade.read_buffer_size(4096).write_buffer_size(0).on_upgrade(move |socket| async move {
        let _ = device(socket, producer).await;
    })
}

async fn device(mut socket: WebSocket, producer: Arc<FutureProducer>) -> Result<(), Failure> {
    let (acks, mut acked) = mpsc::channel::<u64>(IN_FLIGHT);
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    tokio::spawn(store(text, producer.clone(), acks.clone()));
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            },
            Some(seq) = acked.recv() => {
                let ack = json!({ "type": "ack", "seq": seq }).to_string();
                socket.send(Message::Text(Utf8Bytes::from(ack))).await?;
            }
        }
    }
}

async fn store(text: Utf8Bytes, producer: Arc<FutureProducer>, acks: mpsc::Sender<u64>) {
    let Ok(message) = serde_json::from_str::<Value>(&text) else { return };
    let seq = message["seq"].as_u64().unwrap_or_default();
    let device = message["device_id"].as_str().unwrap_or_default();
    let record = FutureRecord::to(TOPIC).key(device).payload(text.as_str());
    if producer.send(record, Duration::from_secs(30)).await.is_ok() {
        let _ = acks.send(seq).await;
    }
}
