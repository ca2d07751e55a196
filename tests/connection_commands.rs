//! Commands over one connection on an in-memory pipe, in every encoding, with commands in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate::commands::memory::MemoryCommands;
use tidegate::commands::{Command, Commands, Row, State, Submission};
use tidegate::connection::{End, Entry, Node, serve};
use tidegate::courier::Courier;
use tidegate::eventlog::memory::{MemoryLimits, MemoryLog};
use tidegate::id::{CommandId, DeviceKey, Incarnation, NodeName};
use tidegate::limits::Limits;
use tidegate::mailbox::{FRESH, Letter, Order, Signal};
use tidegate::ownership::NodeLife;
use tidegate::ownership::memory::MemoryOwnership;
use tidegate::protocol::Encoding;
use tidegate::protocol::client::{ClientMessage, OwnedGatewayMessage, decode_gateway};
use tidegate::protocol::close::CloseReason;
use tidegate::protocol::message::CommandStatus;
use tidegate::receipts::Receipts;
use tidegate::registrar::Registrar;
use tidegate::telemetry::metrics::{AnswerOutcome, Metrics, PeerKind, SecurityEvent, SentType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// A node whose directory is its own roster.
struct Rig {
    node: Arc<Node>,
    commands: Arc<MemoryCommands>,
    device: DeviceKey,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let receipts = Arc::new(Receipts::new(&limits));
        let metrics = Metrics::new().unwrap();
        let log = MemoryLog::start(MemoryLimits::default(), Arc::clone(&receipts) as _, &metrics).unwrap();
        let mut node = Node::new(limits, Arc::new(log), receipts, None, metrics.clone());
        let roster = Arc::clone(&node.roster);
        let rows = move |device: &DeviceKey| {
            let (node, incarnation) = (NodeName::new("n1").unwrap(), Incarnation::parse(&"0".repeat(32)).unwrap());
            roster.find(device).map(|(_, epoch)| Row { node, incarnation, epoch })
        };
        let clock = Arc::new(AtomicU64::new(1_748_522_700_000));
        let unix = move || clock.fetch_add(1, Ordering::Relaxed).cast_signed();
        let commands = Arc::new(MemoryCommands::new(Arc::new(unix), Arc::new(rows)));
        node.courier = Some(Courier::new(Arc::clone(&commands) as _, metrics));
        let (time, waiting) = (AtomicU64::new(1_748_522_700_000_000), Arc::clone(&commands));
        let time = move || time.fetch_add(1, Ordering::Relaxed);
        let ownership = MemoryOwnership::new(Arc::new(time), Arc::new(move |device| waiting.waits(device)));
        let life = NodeLife::begin(NodeName::new("n1").unwrap());
        node.registrar = Some(Arc::new(Registrar::new(Arc::new(ownership), life)));
        Self { node: Arc::new(node), commands, device: DeviceKey::new("acme", "door-1").unwrap() }
    }

    fn entry(&self, encoding: Encoding) -> Entry {
        Entry {
            kind: PeerKind::Device,
            app: None,
            key: self.device.clone(),
            boot: None,
            tenure: None,
            encoding,
            deflate: None,
            heartbeat_s: 25,
            max_bytes: None,
            token_expires_ms: None,
            signed_by: None,
            close_drop: false,
            early: Vec::new(),
        }
    }

    async fn enter(&self, entry: Entry, pipe_bytes: usize) -> (Peer, JoinHandle<End>) {
        let (ours, theirs) = tokio::io::duplex(pipe_bytes);
        let encoding = entry.encoding;
        let end = tokio::spawn(serve(theirs, entry, Arc::clone(&self.node)));
        (Peer { stream: ours, encoding }, end)
    }

    /// A connection that was greeted.
    async fn connect(&self, encoding: Encoding) -> Peer {
        let (mut peer, _) = self.enter(self.entry(encoding), 1 << 20).await;
        assert_eq!(peer.message().await.kind, "welcome");
        peer
    }

    async fn submit(&self, key: &str, params: &str) -> CommandId {
        let submission = Submission {
            device: &self.device,
            application: "console",
            key,
            name: "open",
            params: params.as_bytes(),
            ttl_ms: 3_600_000,
            since_ms: None,
            max_attempts: 3,
            replace: false,
            only_epoch: None,
            origin: None,
        };
        self.commands.submit(&submission).await.unwrap().command.id
    }

    fn courier(&self) -> &Arc<Courier> {
        self.node.courier.as_ref().unwrap()
    }

    /// What a claim that finds commands does, or a doorbell.
    fn ring(&self) {
        let (mailbox, _) = self.node.roster.find(&self.device).unwrap();
        self.courier().ring(&self.device, &mailbox);
    }

    async fn get(&self, id: CommandId) -> Command {
        self.commands.get(&self.device, id).await.unwrap()
    }

    async fn until(&self, what: &str, id: CommandId, state: State) -> Command {
        for _ in 0..100_000 {
            let command = self.get(id).await;
            if command.life.state == state {
                return command;
            }
            tokio::task::yield_now().await;
        }
        panic!("{what}: {:?} and not {state:?}", self.get(id).await.life.state);
    }

    fn answers(&self, outcome: AnswerOutcome) -> u64 {
        self.node.metrics.command_answers.of(outcome).get()
    }

    async fn answered(&self, outcome: AnswerOutcome, count: u64) {
        for _ in 0..100_000 {
            if self.answers(outcome) >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{outcome:?}: {} of {count}", self.answers(outcome));
    }
}

struct Peer {
    stream: DuplexStream,
    encoding: Encoding,
}

impl Peer {
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await.unwrap();
            let length = match head[1] {
                127 => self.stream.read_u64().await.unwrap() as usize,
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.unwrap();
            (head[0] & 15, payload)
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a frame")
    }

    async fn message(&mut self) -> OwnedGatewayMessage {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, if self.encoding.is_text() { 1 } else { 2 }, "{payload:?}");
        decode_gateway(self.encoding, &payload).unwrap()
    }

    async fn say(&mut self, message: &ClientMessage) {
        let mut payload = Vec::new();
        message.encode(self.encoding, &mut payload);
        let mut frame = vec![0x80 | if self.encoding.is_text() { 1 } else { 2 }];
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&payload);
        self.stream.write_all(&frame).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_goes_out_and_its_answers_come_in_in_every_encoding() {
    for encoding in Encoding::ALL {
        let rig = Rig::new(Limits::default());
        let mut peer = rig.connect(encoding).await;
        let id = rig.submit("k", r#"{"angle":90,"slow":null}"#).await;
        rig.ring();
        let command = peer.message().await;
        assert_eq!((command.kind.as_str(), command.id), ("command", Some(id.to_string())), "{encoding:?}");
        assert_eq!((command.name.as_deref(), command.attempt), (Some("open"), Some(1)));
        assert_eq!(command.params, Some(serde_json::json!({"angle": 90, "slow": null})));
        assert_eq!(command.expires_at, Some(rig.get(id).await.life.deadline_ms));
        for status in [CommandStatus::Received, CommandStatus::Running] {
            peer.say(&ClientMessage::ack(&id.to_string(), Some(status))).await;
            rig.until("an answer", id, State::from(status)).await;
        }
        let last = ClientMessage::ack(&id.to_string(), None).result(serde_json::json!({"angle": 89.5})).message("ok");
        peer.say(&last).await;
        let done = rig.until("the last answer", id, State::Succeeded).await;
        assert_eq!((done.result.as_deref(), done.message.as_deref()), (Some(&br#"{"angle":89.5}"#[..]), Some("ok")));
        // Said again, and said otherwise.
        peer.say(&last).await;
        peer.say(&ClientMessage::ack(&id.to_string(), Some(CommandStatus::Failed))).await;
        rig.answered(AnswerOutcome::Late, 1).await;
        assert_eq!((rig.answers(AnswerOutcome::Changed), rig.answers(AnswerOutcome::Known)), (3, 1));
        assert_eq!(rig.get(id).await.late.unwrap().status, CommandStatus::Failed);
        let mut states = Vec::new();
        while states.len() < 4 {
            states.extend(rig.courier().news(10).await.into_iter().map(|command| command.life.state));
        }
        assert_eq!(states, [State::Sent, State::Received, State::Running, State::Succeeded]);
        assert_eq!(rig.node.metrics.messages_sent.of(SentType::Command).get(), 1);
    }
}

#[tokio::test]
async fn what_was_not_answered_comes_again_on_the_next_connection_with_the_next_attempt() {
    let rig = Rig::new(Limits::default());
    let mut first = rig.connect(Encoding::Json).await;
    let all = [rig.submit("1", "1").await, rig.submit("2", "2").await];
    rig.ring();
    for id in all {
        assert_eq!(first.message().await.id, Some(id.to_string()));
    }
    let mut second = rig.connect(Encoding::Cbor).await;
    rig.ring();
    for id in all {
        let again = second.message().await;
        assert_eq!((again.id, again.attempt), (Some(id.to_string()), Some(2)));
    }
    second.say(&ClientMessage::ack(&all[0].to_string(), None)).await;
    rig.until("answered on the second", all[0], State::Succeeded).await;
    drop((first, second));
    for _ in 0..10_000 {
        if rig.courier().lines() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} lines of connections that are gone", rig.courier().lines());
}

#[tokio::test]
async fn cases_124_and_125_answers_to_what_was_never_sent_change_nothing_and_are_security_events() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect(Encoding::Json).await;
    let queued = rig.submit("k", "null").await;
    let unknown = "0".repeat(32);
    peer.say(&ClientMessage::ack(&queued.to_string(), None)).await;
    peer.say(&ClientMessage::ack(&unknown, None)).await;
    peer.say(&ClientMessage::ack("guessed", None)).await;
    rig.answered(AnswerOutcome::Gone, 1).await;
    peer.say(&ClientMessage::ping()).await;
    assert_eq!(peer.message().await.kind, "pong", "nothing else was answered");
    assert_eq!(rig.get(queued).await.life.state, State::Queued);
    assert_eq!(rig.answers(AnswerOutcome::NeverSent), 1);
    assert_eq!(rig.node.metrics.security_events.of(SecurityEvent::GuessedCommand).get(), 3);
}

#[tokio::test]
async fn case_97_who_never_reads_while_commands_wait_is_ended_and_holds_little() {
    let limits = Limits { slow_reader_timeout_ms: 1_500, ..Limits::default() };
    let rig = Rig::new(limits);
    let (mut peer, mut end) = rig.enter(rig.entry(Encoding::Json), 4_096).await;
    assert_eq!(peer.message().await.kind, "welcome");
    let mut all = Vec::new();
    let params = format!("\"{}\"", "x".repeat(60_000));
    for number in 0..18 {
        all.push(rig.submit(&number.to_string(), &params).await);
    }
    rig.ring();
    let (mut most, began) = (0, std::time::Instant::now());
    let end = loop {
        rig.node.sweep();
        most = most.max(rig.node.receipts.parked());
        match tokio::time::timeout(Duration::from_millis(20), &mut end).await {
            Ok(end) => break end.unwrap(),
            Err(_) => assert!(began.elapsed() < PATIENCE, "it is not ended"),
        }
    };
    assert_eq!(end, End::Gateway(CloseReason::SlowConsumer));
    // The frame that was begun, and a window of commands that wait for it in the mailbox.
    assert!((60_000..9 * 64 * 1024).contains(&most), "{most} bytes");
    let mut states = Vec::new();
    for id in all {
        states.push(rig.get(id).await.life.state);
    }
    let sent = states.iter().filter(|state| **state == State::Sent).count();
    let queued = states.iter().filter(|state| **state == State::Queued).count();
    assert_eq!((sent, queued), (8, 10));
    assert_eq!((rig.node.receipts.parked(), rig.courier().lines()), (0, 0));
}

#[tokio::test]
async fn large_commands_reach_a_slow_reader_whole_and_in_order() {
    let rig = Rig::new(Limits::default());
    let (mut peer, _end) = rig.enter(rig.entry(Encoding::Protobuf), 4_096).await;
    assert_eq!(peer.message().await.kind, "welcome");
    let params = format!("\"{}\"", "x".repeat(60_000));
    let mut all = Vec::new();
    for number in 0..20 {
        all.push(rig.submit(&number.to_string(), &params).await);
    }
    rig.ring();
    for id in &all {
        let command = peer.message().await;
        assert_eq!((command.id, command.attempt), (Some(id.to_string()), Some(1)));
        assert_eq!(command.params.unwrap().as_str().unwrap().len(), 60_000);
        peer.say(&ClientMessage::ack(&id.to_string(), None)).await;
    }
    for id in all {
        rig.until("an answer", id, State::Succeeded).await;
    }
}

#[tokio::test]
async fn what_waits_for_a_device_that_claims_comes_right_behind_its_welcome() {
    let rig = Rig::new(Limits::default());
    let id = rig.submit("k", "1").await;
    let tenure = rig.node.registrar.as_ref().unwrap().claim(&rig.device, None, None, None).await.unwrap();
    let entry = Entry { tenure: Some(Box::new(tenure)), ..rig.entry(Encoding::Json) };
    let (mut peer, _end) = rig.enter(entry, 1 << 20).await;
    assert_eq!(peer.message().await.kind, "welcome");
    assert_eq!(peer.message().await.id, Some(id.to_string()));
}

#[tokio::test]
async fn a_command_that_was_allowed_too_long_ago_is_not_written() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect(Encoding::Json).await;
    let (mailbox, _) = rig.node.roster.find(&rig.device).unwrap();
    let order = |name: &str, asked| Order {
        id: CommandId::of(&rig.device, "console", name),
        name: name.to_owned(),
        params: "1".to_owned(),
        expires_at_ms: 0,
        attempt: 1,
        again: false,
        asked,
    };
    let now = tokio::time::Instant::now();
    mailbox.post(Letter::Command(Box::new(order("stale", now - FRESH)))).unwrap();
    while mailbox.waiting_orders().0 > 0 {
        tokio::task::yield_now().await;
    }
    mailbox.post(Letter::Command(Box::new(order("fresh", now)))).unwrap();
    assert_eq!(peer.message().await.name.as_deref(), Some("fresh"));
}

#[tokio::test]
async fn a_demand_is_a_ping_and_its_pong_is_proof() {
    let rig = Rig::new(Limits::default());
    let mut peer = rig.connect(Encoding::Json).await;
    let (mailbox, _) = rig.node.roster.find(&rig.device).unwrap();
    mailbox.signal(Signal::Demand);
    assert_eq!(peer.frame().await, (9, Vec::new()));
    peer.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap();
    peer.say(&ClientMessage::ping()).await;
    assert_eq!(peer.message().await.kind, "pong");
    assert_eq!(rig.node.metrics.ping_rtt.get_sample_count(), 1);
}

#[tokio::test]
async fn a_device_that_takes_little_is_not_sent_more() {
    let rig = Rig::new(Limits::default());
    let entry = Entry { max_bytes: Some(600), ..rig.entry(Encoding::Cbor) };
    let (mut peer, _end) = rig.enter(entry, 1 << 20).await;
    assert_eq!(peer.message().await.kind, "welcome");
    let large = rig.submit("large", &format!("\"{}\"", "x".repeat(600))).await;
    let small = rig.submit("small", "1").await;
    rig.ring();
    assert_eq!(peer.message().await.id, Some(small.to_string()));
    assert!(rig.until("the large one", large, State::Failed).await.message.unwrap().contains("max_bytes"));
}
