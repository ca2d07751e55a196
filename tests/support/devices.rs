//! Devices that are commanded: they come back wherever they can, send updates, do what they are told once, answer, and
//! write everything down. Some move, some vanish without a word, some share an identity.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, timeout};

use super::history::{Event, Micros, Recorder, now_us};
use super::ws::{self, opcode};

const HANDSHAKE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(500);
/// Who hears nothing for so long looks for another node, and leaves the old socket as it is.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a device stays away that was told that another has its identity. The protocol says a minute.
const SUPERSEDED: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(400);

/// A node as devices know it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it is worth trying.
    pub up: bool,
}

/// The nodes, as whoever starts and stops them says.
pub type Places = Arc<Mutex<Vec<Place>>>;

/// One place that is up, by chance.
pub fn any_place(places: &Places) -> Option<Place> {
    let places = places.lock().unwrap_or_else(PoisonError::into_inner);
    let up: Vec<_> = places.iter().filter(|place| place.up).collect();
    (!up.is_empty()).then(|| up[fastrand::usize(..up.len())].clone())
}

/// What a device is told by the test.
#[derive(Debug, Clone)]
pub enum Order {
    /// Say goodbye and connect somewhere else.
    Move,
    /// Vanish without a word and come back: the old socket stays open.
    Vanish,
    /// Say goodbye for good.
    Leave,
}

/// What all holders of one identity know together.
#[derive(Default)]
struct Memory {
    /// How each command was answered, once it was done.
    done: BTreeMap<String, Option<&'static str>>,
    seq: u64,
}

struct Device {
    key: String,
    boot: String,
    token: String,
    memory: Arc<Mutex<Memory>>,
    places: Places,
    recorder: Arc<Recorder>,
    numbers: Arc<AtomicU64>,
}

/// Many of them.
pub struct Devices {
    runtime: Handle,
    places: Places,
    recorder: Arc<Recorder>,
    numbers: Arc<AtomicU64>,
    memories: BTreeMap<String, Arc<Mutex<Memory>>>,
    all: Vec<(String, mpsc::Sender<Order>, JoinHandle<()>)>,
}

impl Devices {
    /// Nobody yet.
    pub fn new(runtime: Handle, places: Places, recorder: Arc<Recorder>) -> Self {
        let numbers = Arc::new(AtomicU64::new(1));
        Self { runtime, places, recorder, numbers, memories: BTreeMap::new(), all: Vec::new() }
    }

    /// One more: `key` is `<tenant>/<device>`. Another of the same key shares its identity. Gives its number.
    pub fn add(&mut self, key: &str, boot: &str, token: String) -> usize {
        let memory = Arc::clone(self.memories.entry(key.to_owned()).or_default());
        let device = Device {
            key: key.to_owned(),
            boot: boot.to_owned(),
            token,
            memory,
            places: Arc::clone(&self.places),
            recorder: Arc::clone(&self.recorder),
            numbers: Arc::clone(&self.numbers),
        };
        let (orders, inbox) = mpsc::channel(8);
        let task = self.runtime.spawn(live(Arc::new(device), inbox));
        self.all.push((key.to_owned(), orders, task));
        self.all.len() - 1
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Their identities, each once.
    pub fn keys(&self) -> Vec<String> {
        self.memories.keys().cloned().collect()
    }

    /// Tells one what to do; one that is busy connecting forgets it.
    pub fn tell(&self, number: usize, order: Order) {
        drop(self.all[number].1.try_send(order));
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.all.iter().for_each(|(_, _, task)| task.abort());
    }
}

/// Why a connection is not used any more.
enum End {
    Left,
    Elsewhere,
    /// The socket is left open, and somebody goes on reading it.
    Silent,
    Closed(Option<u16>),
}

async fn live(device: Arc<Device>, mut orders: mpsc::Receiver<Order>) {
    loop {
        let Some(place) = any_place(&device.places) else {
            sleep(AGAIN).await;
            continue;
        };
        let connection = device.numbers.fetch_add(1, Ordering::Relaxed);
        let (name, node) = (device.key.clone(), place.node.clone());
        device.note(Event::Opening { device: name.clone(), connection, boot: device.boot.clone(), node });
        let (stream, inbox) = match timeout(HANDSHAKE, device.connect(place.addr)).await.unwrap_or(Err(0)) {
            Ok(opened) => opened,
            Err(status) => {
                device.note(Event::Refused { device: name, connection, status });
                sleep(AGAIN + Duration::from_millis(fastrand::u64(..400))).await;
                continue;
            }
        };
        let mut line = Line::new(Arc::clone(&device), connection, stream, inbox);
        match line.run(Some(&mut orders)).await {
            End::Left => return,
            End::Elsewhere => {}
            End::Silent => {
                line.is_ghost = true;
                drop(tokio::spawn(async move {
                    let mut line = line;
                    line.run(None).await
                }));
            }
            End::Closed(Some(4301)) => sleep(SUPERSEDED).await,
            End::Closed(_) => sleep(Duration::from_millis(fastrand::u64(50..500))).await,
        }
    }
}

impl Device {
    fn note(&self, event: Event) -> Micros {
        self.recorder.note(event)
    }

    /// A WebSocket and what came behind the answer; else the status, or 0.
    async fn connect(&self, addr: SocketAddr) -> Result<(TcpStream, Vec<u8>), u16> {
        let request = format!(
            "GET /v1/device?boot={} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            self.boot, self.token
        );
        let mut stream = TcpStream::connect(addr).await.map_err(|_| 0u16)?;
        stream.write_all(request.as_bytes()).await.map_err(|_| 0u16)?;
        let mut inbox = Vec::new();
        loop {
            if stream.read_buf(&mut inbox).await.unwrap_or(0) == 0 {
                return Err(0);
            }
            if let Some(end) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
                inbox.drain(..end + 4);
                return if status == 101 { Ok((stream, inbox)) } else { Err(status) };
            }
        }
    }
}

/// One connection.
struct Line {
    device: Arc<Device>,
    connection: u64,
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Its device is elsewhere: it is only looked at.
    is_ghost: bool,
    greeted: bool,
    heard: Instant,
    ticks: u64,
    /// Answers for later.
    later: VecDeque<(Instant, String, &'static str)>,
}

impl Line {
    fn new(device: Arc<Device>, connection: u64, stream: TcpStream, inbox: Vec<u8>) -> Self {
        let (heard, later) = (Instant::now(), VecDeque::new());
        Self { device, connection, stream, inbox, is_ghost: false, greeted: false, heard, ticks: 0, later }
    }

    fn closed(&self, code: Option<u16>, by_device: bool) {
        let (device, connection) = (self.device.key.clone(), self.connection);
        self.device.note(Event::Closed { device, connection, code, by_device });
    }

    async fn run(&mut self, mut orders: Option<&mut mpsc::Receiver<Order>>) -> End {
        let mut ticker = interval(TICK);
        loop {
            if let Err(code) = self.take_frames().await {
                self.closed(code, false);
                return End::Closed(code);
            }
            let order = async {
                match &mut orders {
                    Some(orders) => orders.recv().await,
                    None => std::future::pending().await,
                }
            };
            let quiet = tokio::select! {
                read = self.stream.read_buf(&mut self.inbox) => {
                    if read.unwrap_or(0) == 0 {
                        self.closed(None, false);
                        return End::Closed(None);
                    }
                    continue;
                }
                order = order => match order {
                    Some(Order::Vanish) => return End::Silent,
                    Some(Order::Move) => Some(End::Elsewhere),
                    Some(Order::Leave) | None => Some(End::Left),
                },
                _ = ticker.tick() => None,
            };
            if let Some(end) = quiet {
                self.closed(Some(1000), true);
                self.send(0x80 | opcode::CLOSE, &1000u16.to_be_bytes()).await;
                return end;
            }
            self.tick().await;
            if !self.is_ghost && self.heard.elapsed() > SILENCE {
                return End::Silent;
            }
        }
    }

    /// Writes a frame; what finds no room within a second is lost, as the connection is.
    async fn send(&mut self, first: u8, payload: &[u8]) -> Option<()> {
        let bytes = ws::frame(first, payload);
        timeout(Duration::from_secs(1), self.stream.write_all(&bytes)).await.ok()?.ok()
    }

    async fn say(&mut self, message: &Value) {
        self.send(0x80 | opcode::TEXT, message.to_string().as_bytes()).await;
    }

    async fn tick(&mut self) {
        if !self.greeted {
            return;
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(2) {
            self.say(&json!({"type": "ping", "id": now_us().to_string()})).await;
        } else if self.ticks % 4 == 1 && !self.is_ghost {
            let seq = {
                let mut memory = self.device.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.seq += 1;
                memory.seq
            };
            let (device, connection) = (self.device.key.clone(), self.connection);
            self.device.note(Event::Said { device, connection, seq });
            self.say(&json!({"type": "update", "seq": seq, "value": seq})).await;
        }
        while self.later.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            if let Some((_, id, status)) = self.later.pop_front() {
                self.answer(&id, status).await;
            }
        }
    }

    /// `Err`: it is over, by a close frame with this code.
    async fn take_frames(&mut self) -> Result<(), Option<u16>> {
        while let Some(frame) = ws::take_frame(&mut self.inbox) {
            self.heard = Instant::now();
            match frame.opcode() {
                opcode::TEXT => {
                    let message = serde_json::from_slice(&frame.payload).expect("the gateway sends JSON");
                    self.told(&message).await;
                }
                opcode::PING => {
                    self.send(0x80 | opcode::PONG, &frame.payload).await;
                }
                opcode::CLOSE => return Err(Some(frame.close_code())),
                _ => {}
            }
        }
        Ok(())
    }

    async fn told(&mut self, message: &Value) {
        let (device, connection) = (self.device.key.clone(), self.connection);
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap_or_default() {
            "welcome" => {
                self.greeted = true;
                let (session, epoch) = (text("session"), message["epoch"].as_u64().unwrap_or_default());
                let registered = message["registered"] != false;
                self.device.note(Event::Welcome { device, connection, session, epoch, registered });
            }
            "pong" => {
                let asked_us = text("id").parse().unwrap_or_default();
                self.device.note(Event::Served { device, connection, asked_us });
            }
            "ack" => {
                if let Some(seq) = message["seq"].as_u64() {
                    self.device.note(Event::Acked { device, connection, seq });
                }
            }
            "command" => {
                let (id, mark) = (text("id"), message["params"]["for"].as_str().unwrap_or_default().to_owned());
                let attempt = message["attempt"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
                self.device.note(Event::Frame { device, connection, id: id.clone(), attempt, mark });
                if !self.is_ghost {
                    self.obey(&id, &text("name")).await;
                }
            }
            _ => {}
        }
    }

    /// Does a command once; what it is called says how it is answered.
    async fn obey(&mut self, id: &str, name: &str) {
        let known = {
            let mut memory = self.device.memory.lock().unwrap_or_else(PoisonError::into_inner);
            let known = memory.done.get(id).copied();
            let outcome = match name {
                "mute" => None,
                "fail" => Some("failed"),
                "reject" => Some("rejected"),
                _ => Some("succeeded"),
            };
            memory.done.entry(id.to_owned()).or_insert(outcome);
            known
        };
        if known.is_none() && name != "reject" {
            self.device.note(Event::Executed { device: self.device.key.clone(), id: id.to_owned() });
        }
        let soon = Instant::now() + Duration::from_millis(1_500);
        match (known, name) {
            // The stored answer.
            (Some(Some(outcome)), _) => self.answer(id, outcome).await,
            (_, "mute") => {}
            (None, "fail") => self.answer(id, "failed").await,
            (None, "reject") => self.answer(id, "rejected").await,
            (None, "slow") => {
                self.answer(id, "received").await;
                self.later.push_back((soon, id.to_owned(), "succeeded"));
            }
            (None, "twice") => {
                self.answer(id, "succeeded").await;
                self.later.push_back((soon, id.to_owned(), "failed"));
            }
            _ => {
                self.answer(id, "received").await;
                self.answer(id, "succeeded").await;
            }
        }
    }

    async fn answer(&mut self, id: &str, status: &str) {
        let (device, connection) = (self.device.key.clone(), self.connection);
        // Before it is sent: what the gateway knows, the device's own log has.
        self.device.note(Event::Answered { device, connection, id: id.to_owned(), status: status.to_owned() });
        self.say(&json!({"type": "ack", "id": id, "status": status})).await;
    }
}
