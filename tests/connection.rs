//! One connection over an in-memory pipe, with a log that stores when the test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "connection/departure.rs"]
mod departure;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::connection::{End, Entry, Node, Transport, serve};
use tidegate::eventlog::{
    AppendError, Deliveries, EventLog, LogFuture, Outcome, Pending, ProbeError, Record, Ticket, Topic,
};
use tidegate::id::DeviceKey;
use tidegate::limits::Limits;
use tidegate::protocol::Encoding;
use tidegate::protocol::close::CloseReason;
use tidegate::receipts::{Batch, Receipts};
use tidegate::telemetry::metrics::{
    ConnectionState, DisconnectReason, Initiator, Metrics, PausedCode, PeerKind, ReceivedType, RefusedCode,
    SecurityEvent, SentType, ShedReason,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Takes everything; stores it when told to.
struct HeldLog {
    receipts: Arc<Receipts>,
    taken: Mutex<Vec<(Ticket, Vec<u8>)>>,
    stalled_ms: AtomicU64,
}

impl EventLog for HeldLog {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        self.taken.lock().unwrap().push((ticket, record.value.to_vec()));
        Ok(())
    }

    fn pending(&self) -> Pending {
        Pending { stalled_ms: self.stalled_ms.load(Ordering::Relaxed), ..Pending::default() }
    }

    fn pending_in(&self, _: Topic) -> Pending {
        self.pending()
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
        let log = Arc::new(HeldLog {
            receipts: Arc::clone(&receipts),
            taken: Mutex::default(),
            stalled_ms: AtomicU64::new(0),
        });
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

    fn entry() -> Entry {
        Entry {
            kind: PeerKind::Device,
            app: None,
            key: DeviceKey::new("acme", "d1").unwrap(),
            boot: None,
            tenure: None,
            encoding: Encoding::Json,
            deflate: None,
            heartbeat_s: 25,
            max_bytes: None,
            token_expires_ms: None,
            signed_by: None,
            close_drop: false,
            early: Vec::new(),
        }
    }

    fn connect(&self) -> Peer {
        self.enter(Self::entry(), 1 << 20).0
    }

    /// A connection over a pipe of so many bytes, and its end.
    fn enter(&self, entry: Entry, pipe_bytes: usize) -> (Peer, JoinHandle<End>) {
        let (ours, theirs) = tokio::io::duplex(pipe_bytes);
        (Peer(ours), self.run(theirs, entry))
    }

    fn run<S: Transport + Send + 'static>(&self, stream: S, entry: Entry) -> JoinHandle<End> {
        tokio::spawn(serve(stream, entry, Arc::clone(&self.node)))
    }

    /// The end of a connection that time has to bring: the sweeper comes by until it is there.
    async fn swept(&self, mut end: JoinHandle<End>) -> End {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            self.node.sweep();
            match tokio::time::timeout(Duration::from_millis(20), &mut end).await {
                Ok(end) => return end.unwrap(),
                Err(_) if tokio::time::Instant::now() > deadline => panic!("the connection does not end"),
                Err(_) => {}
            }
        }
    }

    fn open(&self, state: ConnectionState, kind: PeerKind) -> i64 {
        self.node.metrics.connections.of(state, kind).get()
    }

    /// Whatever a connection counted up while it lived is down again.
    fn assert_nothing_left(&self) {
        for kind in [PeerKind::Device, PeerKind::App] {
            for state in [ConnectionState::Open, ConnectionState::Closing] {
                assert_eq!(self.open(state, kind), 0, "{state:?} {kind:?}");
            }
        }
        for code in [PausedCode::Log, PausedCode::Rate] {
            assert_eq!(self.node.metrics.paused_connections.of(code).get(), 0, "{code:?}");
        }
        assert_eq!((self.node.receipts.parked(), self.node.receipts.connections()), (0, 0));
        assert!(self.node.roster.is_empty());
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

struct Peer<S = DuplexStream>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
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

    /// The rest of what comes, to the end of the stream.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
        rest
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
async fn a_stop_is_announced_waits_for_what_is_outstanding_then_says_restart() {
    let rig = Rig::new(Limits::default());
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    peer.text(&update(9)).await;
    rig.taken(1).await;
    rig.node.stop();
    let goaway = peer.json().await;
    assert_eq!((&goaway["type"], &goaway["reason"]), (&"goaway".into(), &"restart".into()));
    assert!(goaway["retry_after_ms"].as_u64().unwrap() >= 500 && goaway["deadline_ms"].as_u64().unwrap() > 0);
    peer.text(&update(10)).await;
    rig.log.store_all();
    assert_eq!(peer.json().await["seq"], 9);
    let error = peer.json().await;
    assert_eq!(error["code"], "restart");
    assert!(error["retry_after_ms"].as_u64().is_some());
    assert_eq!(peer.frame().await.1[..2], 1012u16.to_be_bytes());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Gateway(CloseReason::Restart));
    assert!(rig.log.store_all().is_empty(), "what came after the goaway is the device's to send again");
    rig.assert_nothing_left();
}

#[tokio::test]
async fn who_connects_while_the_node_stops_is_told_so_at_once() {
    let rig = Rig::new(Limits::default());
    rig.node.stop();
    let mut peer = rig.connect();
    assert_eq!(peer.json().await["type"], "welcome");
    assert_eq!(peer.json().await["type"], "goaway");
    assert_eq!(peer.json().await["code"], "restart");
}

#[tokio::test]
async fn with_close_drop_a_close_that_means_come_back_has_no_close_frame_and_others_have() {
    let rig = Rig::new(Limits::default());
    let (mut peer, _) = rig.enter(Entry { close_drop: true, ..Rig::entry() }, 1 << 20);
    peer.json().await;
    rig.node.stop();
    assert_eq!(peer.json().await["type"], "goaway");
    assert_eq!(peer.json().await["code"], "restart");
    assert_eq!(peer.rest().await, [0; 0]);
    let rig = Rig::new(Limits::default());
    let (mut peer, _) = rig.enter(Entry { close_drop: true, ..Rig::entry() }, 1 << 20);
    peer.json().await;
    peer.send(2, b"binary").await;
    assert_eq!(peer.json().await["code"], "unsupported_data");
    assert_eq!(peer.frame().await.1[..2], 1003u16.to_be_bytes());
}

#[tokio::test]
async fn a_peer_that_is_reset_while_it_is_not_read_is_found() {
    let rig = Rig::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let end = rig.run(theirs.unwrap().0, Rig::entry());
    let mut peer = Peer(ours.unwrap());
    peer.json().await;
    let batch: Vec<String> = (1..=130).map(update).collect();
    peer.text(&format!("[{}]", batch.join(","))).await;
    rig.taken(64).await;
    // More than the gateway will read, so that its socket has something to read all the time.
    peer.text(&update(131)).await;
    assert!(!end.is_finished() && rig.node.receipts.parked() > 0);
    socket2::SockRef::from(&peer.0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(rig.swept(end).await, End::Lost);
    let lost = rig.node.metrics.disconnects.of(Initiator::Network, DisconnectReason::Lost).get();
    assert_eq!((lost, rig.log.store_all().len()), (1, 64));
    rig.assert_nothing_left();
}

#[tokio::test]
async fn case_97_who_reads_nothing_is_ended_and_holds_little() {
    let limits = Limits { slow_reader_timeout_ms: 600, ..Limits::default() };
    let rig = Rig::new(limits);
    let (mut peer, end) = rig.enter(Rig::entry(), 64);
    for number in 0..3 {
        peer.text(&format!(r#"{{"type":"ping","id":"{number}"}}"#)).await;
    }
    assert_eq!(rig.swept(end).await, End::Gateway(CloseReason::SlowConsumer));
    rig.assert_nothing_left();
}

#[tokio::test]
async fn above_the_nodes_cap_the_connection_that_brings_more_is_shed_with_a_hint() {
    let limits = Limits { parked_bytes: 1_000, ..Limits::default() };
    let rig = Rig::new(limits);
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    // The first 2,000 bytes of a message of 60,000.
    let mut start = vec![0x81, 0x80 | 126, 0xea, 0x60, 0, 0, 0, 0];
    start.extend_from_slice(&[b' '; 2_000]);
    peer.0.write_all(&start).await.unwrap();
    let error = peer.json().await;
    assert_eq!(error["code"], "overloaded");
    assert!(error["retry_after_ms"].as_u64().is_some());
    assert_eq!(peer.frame().await.1[..2], 4100u16.to_be_bytes());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Gateway(CloseReason::Overloaded));
    assert_eq!(rig.node.metrics.shed.of(ShedReason::Overloaded).get(), 1);
    rig.assert_nothing_left();
}

#[tokio::test]
async fn case_82_of_a_flood_of_pings_few_are_answered_and_it_ends_with_1008() {
    let rig = Rig::new(Limits::default());
    let (mut peer, _end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    peer.0.write_all(&ping.repeat(10_000)).await.unwrap();
    let mut pongs = 0;
    let error = loop {
        match peer.frame().await {
            (10, _) => pongs += 1,
            (_, payload) => break String::from_utf8(payload).unwrap(),
        }
    };
    assert!(error.contains("policy_violation") && pongs <= 50, "{pongs} {error}");
    assert_eq!(peer.frame().await.1[..2], 1008u16.to_be_bytes());
    assert_eq!(rig.node.metrics.security_events.of(SecurityEvent::Abuse).get(), 1);
}

#[tokio::test]
async fn a_pause_is_counted_while_it_lasts_and_not_beyond_its_connection() {
    let rig = Rig::new(Limits::default());
    let (mut first, first_end) = rig.enter(Rig::entry(), 1 << 20);
    first.json().await;
    let paused = || rig.node.metrics.paused_connections.of(PausedCode::Log).get();
    rig.log.stalled_ms.store(5_000, Ordering::Relaxed);
    rig.node.watch_flow();
    assert_eq!(first.json().await["type"], "pause");
    let entry = Entry { key: DeviceKey::new("acme", "d2").unwrap(), ..Rig::entry() };
    let (mut second, second_end) = rig.enter(entry, 1 << 20);
    assert_eq!(second.json().await["type"], "welcome");
    assert_eq!(second.json().await["reason"], "log");
    assert_eq!(paused(), 2);
    drop(second);
    assert_eq!(second_end.await.unwrap(), End::Device(1006));
    assert_eq!(paused(), 1);
    rig.log.stalled_ms.store(0, Ordering::Relaxed);
    rig.node.watch_flow();
    assert_eq!(first.json().await["type"], "resume");
    drop(first);
    first_end.await.unwrap();
    rig.assert_nothing_left();
}

#[tokio::test]
async fn what_comes_and_goes_is_counted_and_a_clean_close_is_the_devices() {
    let rig = Rig::new(Limits::default());
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    assert_eq!(rig.open(ConnectionState::Open, PeerKind::Device), 1);
    let batch = format!("[{},{}]", update(1), update(2));
    peer.text(&batch).await;
    peer.text(r#"{"type":"update","device_id":"d2","value":1}"#).await;
    peer.text(r#"{"type":"ack","id":"guessed"}"#).await;
    assert_eq!(peer.json().await["code"], "forbidden");
    rig.taken(2).await;
    rig.log.store_all();
    assert_eq!(peer.json().await["seq"], 2);
    peer.send(8, &1000u16.to_be_bytes()).await;
    assert_eq!(peer.frame().await, (8, 1000u16.to_be_bytes().to_vec()));
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Device(1000));
    let metrics = &rig.node.metrics;
    assert_eq!(metrics.messages_received.of(ReceivedType::Update).get(), 3);
    assert_eq!(metrics.messages_received.of(ReceivedType::Ack).get(), 1);
    assert!(metrics.received_bytes.of(ReceivedType::Update).get() > batch.len() as u64);
    assert_eq!(metrics.messages_sent.of(SentType::Welcome).get(), 1);
    assert_eq!(metrics.messages_sent.of(SentType::WsClose).get(), 1);
    assert_eq!(metrics.refused.of(RefusedCode::Forbidden).get(), 1);
    assert_eq!(metrics.security_events.of(SecurityEvent::ForeignIdentity).get(), 1);
    assert_eq!(metrics.security_events.of(SecurityEvent::GuessedCommand).get(), 1);
    assert_eq!(metrics.disconnects.of(Initiator::Client, DisconnectReason::Normal).get(), 1);
    assert_eq!(metrics.connection_lifetime.get_sample_count(), 1);
    rig.assert_nothing_left();
}

#[tokio::test]
async fn a_connection_whose_task_is_dropped_leaves_nothing_behind() {
    let rig = Rig::new(Limits::default());
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    peer.text(&update(1)).await;
    rig.taken(1).await;
    end.abort();
    assert!(end.await.unwrap_err().is_cancelled());
    rig.assert_nothing_left();
}

#[tokio::test]
async fn an_application_is_greeted_may_ping_and_sends_no_updates() {
    let rig = Rig::new(Limits::default());
    let entry = Entry { kind: PeerKind::App, key: DeviceKey::new("acme", "console").unwrap(), ..Rig::entry() };
    let (mut peer, end) = rig.enter(entry, 1 << 20);
    let welcome = peer.json().await;
    assert_eq!((&welcome["device_id"], &welcome["window"]), (&"console".into(), &0.into()));
    assert_eq!((rig.open(ConnectionState::Open, PeerKind::App), rig.node.roster.len()), (1, 0));
    peer.text(r#"{"type":"ping","id":"p"}"#).await;
    assert_eq!(peer.json().await["type"], "pong");
    for message in [r#"{"type":"subscribe","id":"s"}"#.to_owned(), update(1)] {
        peer.text(&message).await;
        let refused = peer.json().await;
        assert_eq!(refused["code"], "unknown_type");
        assert!(refused["message"].as_str().unwrap().contains("not available yet"), "{refused}");
    }
    assert!(rig.log.store_all().is_empty());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Device(1006));
    rig.assert_nothing_left();
}

#[tokio::test]
async fn what_came_with_the_handshake_is_read_first() {
    let rig = Rig::new(Limits::default());
    let mut early = vec![0x81, 0x80 | 15, 0, 0, 0, 0];
    early.extend_from_slice(br#"{"type":"ping"}"#);
    let (mut peer, _end) = rig.enter(Entry { early, ..Rig::entry() }, 1 << 20);
    assert_eq!(peer.json().await["type"], "welcome");
    assert_eq!(peer.json().await["type"], "pong");
}

/// Blocks `acme/d1`.
fn block(rig: &Rig) {
    let value = br#"{"type":"device","tenant":"acme","device":"d1","blocked":true}"#;
    rig.node.revoke(Some(b"device:acme/d1"), Some(value)).unwrap();
}

#[tokio::test]
async fn a_blocked_device_is_closed_at_once_and_nobody_else_is() {
    let rig = Rig::new(Limits::default());
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    let other = Entry { key: DeviceKey::new("acme", "d2").unwrap(), ..Rig::entry() };
    let namesake = Entry { kind: PeerKind::App, ..Rig::entry() };
    let (mut other, mut namesake) = (rig.enter(other, 1 << 20).0, rig.enter(namesake, 1 << 20).0);
    for peer in [&mut peer, &mut other, &mut namesake] {
        assert_eq!(peer.json().await["type"], "welcome");
    }
    block(&rig);
    assert_eq!(peer.json().await["code"], "blocked");
    assert_eq!(peer.frame().await.1[..2], 4302u16.to_be_bytes());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Gateway(CloseReason::Blocked));
    rig.node.keys_changed();
    for peer in [&mut other, &mut namesake] {
        peer.text(r#"{"type":"ping"}"#).await;
        assert_eq!(peer.json().await["type"], "pong");
    }
}

#[tokio::test]
async fn a_device_blocked_between_the_door_and_its_place_does_not_stay() {
    let rig = Rig::new(Limits::default());
    block(&rig);
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    assert_eq!(peer.json().await["type"], "welcome");
    assert_eq!(peer.json().await["code"], "blocked");
    assert_eq!(peer.frame().await.1[..2], 4302u16.to_be_bytes());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Gateway(CloseReason::Blocked));
    rig.assert_nothing_left();
}
