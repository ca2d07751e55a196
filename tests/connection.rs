//! One connection over an in-memory pipe, with a log that stores when the test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::connection::{Entry, Node, serve};
use tidegate::eventlog::{AppendError, Deliveries, EventLog, LogFuture, Outcome, Pending, ProbeError, Record, Ticket};
use tidegate::id::DeviceKey;
use tidegate::limits::Limits;
use tidegate::protocol::Encoding;
use tidegate::receipts::{Batch, Receipts};
use tidegate::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Takes everything; stores it when told to.
struct HeldLog {
    receipts: Arc<Receipts>,
    taken: Mutex<Vec<(Ticket, Vec<u8>)>>,
}

impl EventLog for HeldLog {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        self.taken.lock().unwrap().push((ticket, record.value.to_vec()));
        Ok(())
    }

    fn pending(&self) -> Pending {
        Pending::default()
    }

    fn probe(&self, _: Duration) -> LogFuture<'_, Result<(), ProbeError>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self, _: Duration) -> LogFuture<'_, usize> {
        Box::pin(async { 0 })
    }
}

impl HeldLog {
    fn store_all(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.taken.lock().unwrap());
        for (ticket, value) in &taken {
            self.receipts.settled(*ticket, value.len(), Outcome::Stored);
        }
        taken.into_iter().map(|(_, value)| String::from_utf8(value).unwrap()).collect()
    }
}

struct Rig {
    node: Arc<Node>,
    log: Arc<HeldLog>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let receipts = Arc::new(Receipts::new(&limits));
        let log = Arc::new(HeldLog { receipts: Arc::clone(&receipts), taken: Mutex::default() });
        let metrics = Metrics::new().unwrap();
        let node = Arc::new(Node::new(limits, Arc::clone(&log) as _, Arc::clone(&receipts), None, metrics));
        tokio::spawn(async move {
            let mut batch = Batch::default();
            loop {
                std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
            }
        });
        Self { node, log }
    }

    fn connect(&self) -> Peer {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let entry = Entry {
            key: DeviceKey::new("acme", "d1").unwrap(),
            boot: None,
            encoding: Encoding::Json,
            deflate: None,
            heartbeat_s: 25,
            token_expires_ms: None,
            signed_by: None,
            close_drop: false,
            early: Vec::new(),
        };
        tokio::spawn(serve(theirs, entry, Arc::clone(&self.node)));
        Peer(ours)
    }

    async fn taken(&self, count: usize) {
        for _ in 0..10_000 {
            if self.log.taken.lock().unwrap().len() >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} of {count} were taken", self.log.taken.lock().unwrap().len());
    }
}

struct Peer(DuplexStream);

impl Peer {
    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes()).await;
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await.unwrap();
        let length = match head[1] {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.unwrap();
        (head[0] & 15, payload)
    }

    async fn json(&mut self) -> serde_json::Value {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, 1, "{payload:?}");
        serde_json::from_slice(&payload).unwrap()
    }
}

fn update(seq: usize) -> String {
    format!(r#"{{"type":"update","seq":{seq},"value":{seq}}}"#)
}

#[tokio::test]
async fn an_update_is_acked_when_it_is_stored_and_not_before() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect();
    let welcome = peer.json().await;
    assert_eq!((&welcome["type"], &welcome["device_id"]), (&"welcome".into(), &"d1".into()));
    peer.text(&update(1)).await;
    peer.text(r#"{"type":"ping","id":"p"}"#).await;
    assert_eq!(peer.json().await["type"], "pong", "the ack does not come first: nothing is stored yet");
    rig.taken(1).await;
    assert_eq!(rig.log.store_all(), [update(1)]);
    assert_eq!(peer.json().await, serde_json::json!({"type": "ack", "seq": 1}));
}

#[tokio::test]
async fn case_119_beyond_the_window_nothing_is_read_until_acks_free_it_and_all_is_acked_in_the_end() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect();
    peer.json().await;
    let batch: Vec<String> = (1..=640).map(update).collect();
    peer.text(&format!("[{}]", batch.join(","))).await;
    let (mut stored, mut acked) = (Vec::new(), 0);
    while acked < 640 {
        let expected = 64.min(640 - stored.len());
        rig.taken(expected).await;
        let round = rig.log.store_all();
        assert!(round.len() <= 64, "{} were taken at once", round.len());
        stored.extend(round);
        while acked < stored.len() as u64 {
            acked = peer.json().await["seq"].as_u64().unwrap();
        }
    }
    assert_eq!(stored, batch);
}

#[tokio::test]
async fn a_bad_message_is_refused_and_the_connection_goes_on() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect();
    peer.json().await;
    peer.text("null").await;
    let refused = peer.json().await;
    assert_eq!((&refused["type"], &refused["code"]), (&"refused".into(), &"malformed".into()));
    peer.text(&update(1)).await;
    rig.taken(1).await;
    rig.log.store_all();
    assert_eq!(peer.json().await["seq"], 1);
}

#[tokio::test]
async fn case_80_a_broken_frame_closes_with_its_code() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect();
    peer.json().await;
    peer.send(3, b"x").await;
    assert_eq!(peer.json().await["type"], "error");
    let (opcode, payload) = peer.frame().await;
    assert_eq!((opcode, &payload[..2]), (8, &1002u16.to_be_bytes()[..]));
}

#[tokio::test]
async fn a_device_that_connects_again_ends_its_older_connection() {
    let rig = Rig::new(Limits::default());
    let mut first = rig.connect();
    first.json().await;
    let mut second = rig.connect();
    second.json().await;
    assert_eq!(first.json().await["code"], "superseded");
    let (opcode, payload) = first.frame().await;
    assert_eq!((opcode, &payload[..2]), (8, &4301u16.to_be_bytes()[..]));
    assert_eq!(rig.node.roster.len(), 1);
}

#[tokio::test]
async fn a_stop_waits_for_what_is_outstanding_then_says_restart() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect();
    peer.json().await;
    peer.text(&update(9)).await;
    rig.taken(1).await;
    rig.node.stop();
    rig.log.store_all();
    assert_eq!(peer.json().await["seq"], 9);
    assert_eq!(peer.json().await["code"], "restart");
    assert_eq!(peer.frame().await.1[..2], 1012u16.to_be_bytes());
}

#[tokio::test]
async fn the_future_of_a_connection_is_small() {
    let rig = Rig::new(Limits::default());
    let (_ours, theirs) = tokio::io::duplex(64);
    let entry = Entry {
        key: DeviceKey::new("acme", "d1").unwrap(),
        boot: None,
        encoding: Encoding::Json,
        deflate: None,
        heartbeat_s: 25,
        token_expires_ms: None,
        signed_by: None,
        close_drop: false,
        early: Vec::new(),
    };
    let future = serve(theirs, entry, Arc::clone(&rig.node));
    assert!(size_of_val(&future) <= 1_400, "{}", size_of_val(&future));
}
