//! What must hold after every case of bad input, whatever the case was: a connection opened before is served, a new one
//! is let in, and nothing is left behind in memory, descriptors, Kafka or the log.

use std::cell::{Cell, RefCell};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};
use tidegate::auth::signing::SigningKey;

use super::gateway::{Builder, Gateway};
use super::wait_until;
use super::ws::{RawClient, Response};

/// An `ack` and a handshake take no longer.
const SOON: Duration = Duration::from_secs(1);
/// Descriptors and connections are given back by then.
const BACK: Duration = Duration::from_secs(15);
/// A gateway on which nothing changed for so long has started.
const QUIET: Duration = Duration::from_secs(5);
/// And after this it is taken as it is.
const SETTLED: Duration = Duration::from_secs(30);
/// What a case may leave in resident memory.
const GROWTH_KIB: u64 = 4 * 1024;
/// Waiting for something that has to come, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway that is put through cases, one at a time.
pub struct Proving {
    inner: Mutex<Inner>,
}

struct Inner {
    gateway: Gateway,
    key: SigningKey,
    stored: Watermarks,
    serial: Cell<u32>,
    _reaper: Reaper,
}

impl Proving {
    /// Starts the gateway and lets it meet each kind of traffic once, so that a case is not charged for what the first
    /// of its kind takes for good. May stand in a static: the gateway ends with this process.
    pub fn start(builder: Builder) -> Self {
        let gateway = builder.start();
        let reaper = Reaper::watch(&gateway);
        let pem = std::fs::read_to_string(gateway.dir().join("signing-key.pem")).expect("the gateway's signing key");
        let key = SigningKey::from_pem(&pem).expect("a signing key");
        let stored = Watermarks::of(gateway.brokers(), &gateway.topic("telemetry"));
        let inner = Inner { gateway, key, stored, serial: Cell::new(0), _reaper: reaper };
        inner.warm_up();
        inner.settle_down();
        Self { inner: Mutex::new(inner) }
    }

    /// Runs a case, and then everything that must hold after it. A case whose memory stays up is run again: only what
    /// grows each time is a leak.
    pub fn case(&self, name: &str, act: impl Fn(&Case<'_>)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut grown = Vec::new();
        for _ in 0..3 {
            match inner.run(name, &act) {
                Ok(()) => return,
                Err(kib) => grown.push(kib),
            }
        }
        panic!("case {name}: each time the gateway's memory grew, by {grown:?} KiB; {GROWTH_KIB} KiB are allowed");
    }
}

impl Inner {
    /// `Err`: everything holds, but memory has grown by so many KiB.
    fn run(&mut self, name: &str, act: &impl Fn(&Case<'_>)) -> Result<(), u64> {
        let mut bystander = Bystander::open(self, name);
        bystander.is_acked();
        let (log, stored) = (self.gateway.process.log().len(), self.stored.total());
        let (descriptors, tasks, connections) = (self.descriptors(), self.tasks(), self.connections());
        let memory = self.gateway.process.rss_kib();
        let sent = bystander.sent;
        let case = Case::new(self, name);
        act(&case);
        let (secrets, accepted, lines) = (case.secrets.take(), case.accepted.get(), case.lines.get());

        assert!(self.gateway.process.ended().is_none(), "case {name}: the gateway ended");
        soon(&format!("case {name}: an ack on a connection opened before"), || bystander.is_acked());
        soon(&format!("case {name}: a new handshake"), || drop(Bystander::open(self, name)));
        wait_until(&format!("case {name}: descriptors are given back ({descriptors} before)"), BACK, || {
            self.descriptors() <= descriptors
        });
        wait_until(&format!("case {name}: tasks end ({tasks} before)"), BACK, || self.tasks() <= tasks);
        wait_until(&format!("case {name}: connections end ({connections} before)"), BACK, || {
            self.connections() <= connections
        });
        let expected = stored + accepted + (bystander.sent - sent);
        assert_eq!(self.stored.total(), expected, "case {name}: records in Kafka, against what was acked");
        drop(bystander);
        let ((least, most), count) = (lines, check_log(name, &self.gateway, log, &secrets));
        assert!((least..=most).contains(&count), "case {name}: {count} log lines, {least} to {most} expected");
        self.memory_is_back(memory)
    }

    /// Looks for a few seconds, in which there is some traffic: the allocator gives back as it works.
    fn memory_is_back(&self, before_kib: u64) -> Result<(), u64> {
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            let growth = self.gateway.process.rss_kib().saturating_sub(before_kib);
            if growth <= GROWTH_KIB {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(growth);
            }
            drop(Bystander::open(self, "memory"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the gateway has what it takes for good once it has started: it joins its group some seconds later, and
    /// gets a connection and a task for each partition then.
    fn settle_down(&self) {
        let measure = || (self.descriptors(), self.tasks());
        let (end, mut last, mut since) = (Instant::now() + SETTLED, measure(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
            let now = measure();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// Open files and sockets, but for those to brokers, Redis and peers: these come and go as they are needed.
    fn descriptors(&self) -> usize {
        let ports = [self.gateway.public_addr().port(), self.gateway.internal_addr().port()];
        self.gateway.process.fds_but_outgoing(&ports)
    }

    /// Tasks of the runtime: whoever asks is one of them.
    fn tasks(&self) -> u64 {
        self.gateway.metric("tidegate_runtime_tasks", &[]) as u64
    }

    fn connections(&self) -> u64 {
        self.gateway.metric("tidegate_connections", &[]) as u64
    }

    fn warm_up(&self) {
        let patience = PATIENCE;
        for round in 0..8 {
            let case = Case::new(self, "warm-up");
            let mut packed = case.device_with("/v1/device", &[("Sec-WebSocket-Extensions", "permessage-deflate")]);
            let mut device = case.device("/v1/device");
            let large = "x".repeat(60_000);
            for client in [&mut packed, &mut device] {
                for seq in 1..=8 {
                    client.send_json(&json!({"type": "update", "seq": seq, "value": large}));
                }
                client.expect_ack(8, patience);
            }
            device.send_text("no JSON");
            device.expect_type("refused", patience);
            drop(device.send(b"no frame"));
            device.expect_close(patience);
            let paths = [("/", 401), ("/elsewhere", 404), ("/v1/device?boot=/", 400)];
            let (path, status) = paths[round % paths.len()];
            assert_eq!(case.connect().upgrade(path, &[]).status, status);
        }
    }

    fn serial(&self) -> u32 {
        self.serial.replace(self.serial.get() + 1)
    }
}

/// A device that does nothing wrong, and ends well.
struct Bystander {
    client: RawClient,
    sent: u64,
}

impl Bystander {
    fn open(inner: &Inner, name: &str) -> Self {
        let token = sign(&inner.key, &json!({ "sub": format!("bystander-{}", inner.serial()) }));
        let mut client = inner.gateway.connect();
        let response = client.upgrade("/v1/device", &[("Authorization", &format!("Bearer {token}"))]);
        assert_eq!(response.status, 101, "{name}: a bystander is let in");
        client.expect_type("welcome", PATIENCE);
        Self { client, sent: 0 }
    }

    fn is_acked(&mut self) {
        self.sent += 1;
        self.client.send_json(&json!({"type": "update", "seq": self.sent, "value": true}));
        self.client.expect_ack(self.sent, PATIENCE);
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.client.send_close(1000);
            self.client.expect_close(PATIENCE);
        }
    }
}

/// One case: where it connects, and what it says about itself.
pub struct Case<'a> {
    inner: &'a Inner,
    name: String,
    /// A text for payloads and headers that must not come to light in the log.
    pub marker: String,
    secrets: RefCell<Vec<String>>,
    accepted: Cell<u64>,
    lines: Cell<(usize, usize)>,
}

impl<'a> Case<'a> {
    fn new(inner: &'a Inner, name: &str) -> Self {
        let marker = format!("planted{:016x}", fastrand::u64(..));
        Self {
            inner,
            name: name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect(),
            secrets: RefCell::new(vec![marker.clone()]),
            marker,
            accepted: Cell::new(0),
            lines: Cell::new((1, 64)),
        }
    }

    /// The gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.inner.gateway
    }

    /// So many of the case's updates are acked or taken, and are therefore in Kafka: no more and no fewer.
    pub fn stores(&self, records: u64) {
        self.accepted.set(self.accepted.get() + records);
    }

    /// The case is no fault of anybody: nothing needs to be logged.
    pub fn is_fine(&self) {
        self.lines.set((0, self.lines.get().1));
    }

    /// The most log lines the case may cause, where it consists of many refusals (64 otherwise).
    pub fn logs_at_most(&self, lines: usize) {
        self.lines.set((self.lines.get().0, lines));
    }

    /// A text that must not be in the log, beside the marker and the tokens made here.
    pub fn is_secret(&self, text: &str) {
        self.secrets.borrow_mut().push(text.to_owned());
    }

    /// A device id nobody has yet.
    pub fn device_id(&self) -> String {
        format!("case-{}-{}", self.name, self.inner.serial())
    }

    /// A good token for a new device, or with some of its claims changed, or taken away by `null`.
    pub fn token(&self, changed: &Value) -> String {
        let mut claims = json!({ "sub": self.device_id() });
        claims.as_object_mut().expect("an object").extend(changed.as_object().expect("claims").clone());
        self.hide(sign(&self.inner.key, &claims))
    }

    /// The same token, whose parts must not be in the log.
    pub fn hide(&self, token: String) -> String {
        self.secrets.borrow_mut().extend(token.split('.').skip(1).filter(|part| part.len() > 16).map(str::to_owned));
        token
    }

    /// The gateway's signing key.
    pub fn key(&self) -> &SigningKey {
        &self.inner.key
    }

    /// `Authorization` of a new device, as a header's line.
    pub fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token(&json!({})))
    }

    /// A bare connection.
    pub fn connect(&self) -> RawClient {
        self.inner.gateway.connect()
    }

    /// An open WebSocket of a new device, its `welcome` read.
    pub fn device(&self, path: &str) -> RawClient {
        self.device_with(path, &[])
    }

    /// The same with further headers in the request.
    pub fn device_with(&self, path: &str, headers: &[(&str, &str)]) -> RawClient {
        self.device_of(&self.token(&json!({})), path, headers)
    }

    /// The same with a token of the case's own.
    pub fn device_of(&self, token: &str, path: &str, headers: &[(&str, &str)]) -> RawClient {
        let authorization = format!("Bearer {token}");
        let mut client = self.connect();
        client.open(path, &[headers, &[("Authorization", authorization.as_str())]].concat());
        if !headers.iter().any(|(name, value)| *name == "Sec-WebSocket-Protocol" && value.ends_with("cbor")) {
            client.expect_type("welcome", PATIENCE);
        }
        client
    }

    /// Sends a request on a new connection, whether or not the gateway reads it all, and gives the answer. It must be a
    /// problem of this status, and the connection must end with nothing more coming.
    pub fn refused(&self, status: u16, request: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect();
        drop(client.send(request.as_ref()));
        self.is_refused(status, &mut client)
    }

    /// The same, once everything is sent.
    pub fn is_refused(&self, status: u16, client: &mut RawClient) -> Response {
        let what = &self.name;
        let Some(response) = client.response(PATIENCE) else { panic!("case {what}: no answer, {status} expected") };
        let body = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, status, "case {what}: {body}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "case {what}");
        let problem: Value = serde_json::from_slice(&response.body).expect("a problem is JSON");
        assert_eq!(problem["status"], status, "case {what}: {body}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "case {what}: {body}");
        assert!(!body.contains(&self.marker), "case {what}: what was sent comes back: {body}");
        assert!(client.response(PATIENCE).is_none(), "case {what}: a second answer");
        assert!(client.ends_within(PATIENCE), "case {what}: the connection stays open");
        response
    }

    /// The connection is closed with this code, then ends.
    pub fn is_closed(&self, code: u16, client: &mut RawClient) {
        assert_eq!(client.expect_close(PATIENCE), Some(code), "case {}", self.name);
        assert!(client.ends_within(PATIENCE), "case {}: the connection stays open", self.name);
    }
}

/// Checks what was logged after the first `from` bytes: no panic, only JSON, and nothing of what is secret. Returns how
/// many lines are the gateway's own, and not of a library below it.
pub fn check_log(name: &str, gateway: &Gateway, from: usize, secrets: &[String]) -> usize {
    let log = gateway.process.log();
    assert!(!log.contains("panicked"), "case {name}: a panic");
    let log = log.get(from..).expect("a log only grows");
    for secret in secrets {
        assert!(!log.contains(secret.as_str()), "case {name}: {secret:?} is in the log:\n{log}");
    }
    let target = |line: &str| -> Option<String> {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("case {name}: no JSON: {line}"));
        line["target"].as_str().map(str::to_owned)
    };
    log.lines().filter_map(target).filter(|target| target.starts_with("tidegate")).count()
}

/// Signs the claims of a good device's token with some of them changed, or taken away by `null`.
fn sign(key: &SigningKey, changed: &Value) -> String {
    let now = unix_s();
    let mut claims = json!({
        "iss": "tidegate", "aud": "tidegate", "sub": "nobody", "tenant": "acme", "scope": "device",
        "iat": now, "exp": now + 3_600,
    });
    let members = claims.as_object_mut().expect("an object");
    members.extend(changed.as_object().expect("claims").clone());
    members.retain(|_, claim| !claim.is_null());
    key.sign(&claims).expect("it signs")
}

/// Seconds since 1970.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

/// Does something that has to be quick, up to three times: a machine that is busy with something else is slow once.
fn soon(what: &str, mut act: impl FnMut()) {
    for _ in 0..3 {
        let start = Instant::now();
        act();
        if start.elapsed() <= SOON {
            return;
        }
    }
    panic!("{what}: three times not within {SOON:?}");
}

/// How many records a topic holds.
struct Watermarks {
    consumer: BaseConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl Watermarks {
    fn of(brokers: &str, topic: &str) -> Self {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers).set("log_level", "0").create().expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("the broker knows the topic");
        let partitions = metadata.topics().first().expect("one topic").partitions().iter().map(|p| p.id()).collect();
        drop(metadata);
        Self { consumer, topic: topic.to_owned(), partitions }
    }

    fn total(&self) -> u64 {
        let count = |partition: &i32| {
            let marks = self.consumer.fetch_watermarks(&self.topic, *partition, PATIENCE);
            let (low, high) = marks.expect("the partition has a leader");
            u64::try_from(high - low).expect("a topic has an end")
        };
        self.partitions.iter().map(count).sum()
    }
}

/// Ends the gateway, and its Redis, when this process is gone, in whatever way: nothing drops what is in a static.
struct Reaper(Child);

impl Reaper {
    fn watch(gateway: &Gateway) -> Self {
        // Its standard input ends with this process.
        let script = "trap '' HUP INT TERM; read -r _; dir=$0; kill -KILL \"$@\"; sleep 0.2; rm -rf -- \"$dir\"";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(gateway.dir())
            .args(gateway.pids().map(|pid| pid.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Self(child)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // The gateway is dropped too, and ended by that.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
