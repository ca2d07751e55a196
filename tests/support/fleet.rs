//! Many devices in one runtime: they number their updates, keep them until they are acked, send what is unacked first
//! after reconnecting, and write down everything they are told and when.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ledger::{Connection, Event, Ledger};
use super::ws::{self, opcode};
use super::{wait_for, wait_until};

/// Bytes a device hands to its socket at a time; also the size of its socket's send buffer, so that what is under way
/// between a device that floods and a gateway that does not read stays small.
const CHUNK: usize = 16 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_millis(500);
/// Goes behind how a connection ended that was announced.
const AFTER_GOAWAY: &str = " after a goaway";
/// How a connection ended whose device went when it was told to.
pub const WENT: &str = "went";

/// How devices send new updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Between two updates of one device; zero: as fast as it is allowed to.
    pub every: Duration,
    /// Length of an update, roughly.
    pub bytes: usize,
    /// Whether it keeps to the window and to `pause`. One that does not sends whatever TCP takes.
    pub heeds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rest,
    Send(Load),
    Leave,
}

/// Devices of one tenant, each with a connection to the same address.
pub struct Fleet {
    tenant: String,
    devices: Vec<Arc<Device>>,
    orders: watch::Sender<Order>,
    tasks: Vec<JoinHandle<()>>,
    acked: Arc<AtomicUsize>,
    door: Arc<Mutex<Door>>,
    runtime: Runtime,
}

/// Where devices connect, as a load balancer would have it.
#[derive(Debug, Clone)]
struct Door {
    /// One after the other.
    addrs: Vec<SocketAddr>,
    next: usize,
    /// Whether a device that is told to go does, when its hint says so.
    goes: bool,
}

struct Device {
    id: String,
    boot: String,
    request: String,
    door: Arc<Mutex<Door>>,
    acked: Arc<AtomicUsize>,
    diary: Mutex<Diary>,
}

/// What a device knows across its connections.
#[derive(Default)]
struct Diary {
    connections: Vec<Connection>,
    /// Moment of each `ack`.
    acks: Vec<Instant>,
    /// Moment of each `pause` (true) and `resume` for the log's sake.
    flow: Vec<(Instant, bool)>,
    /// How each connection, or attempt at one (`not connected: …`), ended against the device's will.
    ends: Vec<String>,
    /// Moment of each `goaway`, and the deadline in it, in milliseconds.
    goaways: Vec<(Instant, u64)>,
    /// Updates sent again on a later connection.
    resent: usize,
    /// Updates that were not acked and need not be sent again, by `resume_after`.
    spared: usize,
    /// Connections whose `welcome` had `resume_after`.
    resumed: usize,
    unacked: BTreeMap<u64, Arc<[u8]>>,
    last_seq: u64,
}

impl Fleet {
    /// Starts `count` devices called `dev-000` and so on, which rest at first; waits until all were greeted. `token`
    /// makes a device's token.
    pub fn start(addr: SocketAddr, tenant: &str, count: usize, token: impl Fn(&str) -> String) -> Self {
        Self::start_asking(addr, tenant, count, |_| "", token)
    }

    /// [`start`](Self::start) of devices that ask for more than their boot: `query` gives `&key=value`, by number.
    pub fn start_asking(
        addr: SocketAddr,
        tenant: &str,
        count: usize,
        query: impl Fn(usize) -> &'static str,
        token: impl Fn(&str) -> String,
    ) -> Self {
        Self::start_at(Door { addrs: vec![addr], next: 0, goes: false }, tenant, count, query, token)
    }

    fn start_at(
        door: Door,
        tenant: &str,
        count: usize,
        query: impl Fn(usize) -> &'static str,
        token: impl Fn(&str) -> String,
    ) -> Self {
        let addr = *door.addrs.first().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (orders, _) = watch::channel(Order::Rest);
        let acked = Arc::new(AtomicUsize::new(0));
        let door = Arc::new(Mutex::new(door));
        let device = |number| {
            let (id, boot) = (format!("dev-{number:03}"), format!("b{:08x}", fastrand::u32(..)));
            let request = request(addr, &format!("boot={boot}{}", query(number)), &token(&id));
            let (door, acked) = (Arc::clone(&door), Arc::clone(&acked));
            Arc::new(Device { id, boot, request, door, acked, diary: Mutex::default() })
        };
        let devices: Vec<_> = (0..count).map(device).collect();
        let live = |device: &Arc<Device>| runtime.spawn(live(Arc::clone(device), orders.subscribe()));
        let tasks = devices.iter().map(live).collect();
        let fleet = Self { tenant: tenant.to_owned(), devices, orders, tasks, acked, door, runtime };
        wait_until("every device is connected", Duration::from_secs(60), || {
            fleet.devices.iter().all(|device| !device.diary().connections.is_empty())
        });
        fleet
    }

    /// [`start`](Self::start) over these addresses, one after the other, of devices that go when they are told to.
    pub fn start_over(addrs: &[SocketAddr], tenant: &str, count: usize, token: impl Fn(&str) -> String) -> Self {
        let door = Door { addrs: addrs.to_vec(), next: 0, goes: true };
        Self::start_at(door, tenant, count, |_| "", token)
    }

    /// Has every device send new updates in this way from now on.
    pub fn send(&self, load: Load) {
        self.orders.send_replace(Order::Send(load));
    }

    /// Has every device send nothing new.
    pub fn rest(&self) {
        self.orders.send_replace(Order::Rest);
    }

    /// From now on devices connect to this address, and those that are told to go do, after the time they are told.
    pub fn steer(&self, addr: SocketAddr) {
        self.spread(&[addr]);
    }

    /// The same to these addresses, one after the other.
    pub fn spread(&self, addrs: &[SocketAddr]) {
        *self.door.lock().expect("nobody panicked with it") = Door { addrs: addrs.to_vec(), next: 0, goes: true };
    }

    /// Each `goaway`'s moment and its deadline in milliseconds, by time.
    pub fn goaways(&self) -> Vec<(Instant, u64)> {
        let mut all: Vec<_> = self.devices.iter().flat_map(|device| device.diary().goaways.clone()).collect();
        all.sort_unstable();
        all
    }

    /// Over all devices: updates that were sent again; unacked ones that `resume_after` spared; `welcome`s that had it.
    pub fn resumption(&self) -> (usize, usize, usize) {
        self.devices.iter().fold((0, 0, 0), |(resent, spared, resumed), device| {
            let diary = device.diary();
            (resent + diary.resent, spared + diary.spared, resumed + diary.resumed)
        })
    }

    /// Updates acked so far.
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until so many more updates are acked than now.
    pub fn wait_acked(&self, more: usize, timeout: Duration) {
        let target = self.acked() + more;
        wait_until(&format!("{more} more updates are acked"), timeout, || self.acked() >= target);
    }

    /// Updates sent, or about to be, and not acked.
    pub fn unacked(&self) -> usize {
        self.devices.iter().map(|device| device.diary().unacked.len()).sum()
    }

    /// Waits until every device was sent an ack since `since`.
    pub fn wait_each_acked(&self, since: Instant, timeout: Duration) {
        let acked = |device: &Arc<Device>| device.diary().acks.last().is_some_and(|at| *at > since);
        wait_until("every device gets an ack", timeout, || self.devices.iter().all(acked));
    }

    /// Waits until nothing is unacked; the fleet should rest.
    pub fn wait_settled(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        while self.unacked() > 0 {
            assert!(Instant::now() < end, "{} updates were never acked; ends: {:?}", self.unacked(), self.ends());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many `ack`s came between two moments.
    pub fn acks_between(&self, from: Instant, to: Instant) -> usize {
        let of = |device: &Arc<Device>| device.diary().acks.iter().filter(|at| **at > from && **at < to).count();
        self.devices.iter().map(of).sum()
    }

    /// Waits for the first `ack` of any device after `since`, and gives how long after.
    pub fn first_ack_after(&self, since: Instant, timeout: Duration) -> Duration {
        let first = |device: &Arc<Device>| device.diary().acks.iter().copied().find(|at| *at > since);
        let found = wait_for("an ack", timeout, || self.devices.iter().filter_map(first).min());
        found.duration_since(since)
    }

    /// Waits until the last thing every device was told about the flow is `pause` (or `resume`); gives how long after
    /// `since` the last of them was told.
    pub fn each_told(&self, pause: bool, since: Instant, timeout: Duration) -> Duration {
        let told = |device: &Arc<Device>| {
            let (at, is) = *device.diary().flow.last()?;
            (is == pause).then(|| at.saturating_duration_since(since))
        };
        let what = if pause { "every device is told to pause" } else { "every device is told to resume" };
        let all = || self.devices.iter().map(told).collect::<Option<Vec<_>>>();
        wait_for(what, timeout, all).into_iter().max().expect("there are devices")
    }

    /// How connections ended that their devices did not end.
    pub fn ends(&self) -> Vec<String> {
        let named = |device: &Arc<Device>| {
            let ends = device.diary().ends.clone();
            ends.into_iter().map(|end| format!("{}: {end}", device.id)).collect::<Vec<_>>()
        };
        self.devices.iter().flat_map(named).collect()
    }

    /// [`ends`](Self::ends) of each device, by number.
    pub fn ends_of_each(&self) -> Vec<Vec<String>> {
        self.devices.iter().map(|device| device.diary().ends.clone()).collect()
    }

    /// What the devices wrote down by now.
    pub fn ledger(&self) -> Ledger {
        let devices = self.devices.iter().map(|device| (device.id.clone(), device.diary().connections.clone()));
        Ledger { tenant: self.tenant.clone(), devices: devices.collect() }
    }

    /// Has every device leave, and gives what they wrote down.
    pub fn leave(mut self) -> Ledger {
        self.orders.send_replace(Order::Leave);
        for task in std::mem::take(&mut self.tasks) {
            self.runtime.block_on(task).expect("a device does not panic");
        }
        self.ledger()
    }
}

impl Device {
    fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().expect("nobody panicked with it")
    }

    fn goes(&self) -> bool {
        self.door.lock().expect("nobody panicked with it").goes
    }

    /// Where the next connection goes.
    fn addr(&self) -> SocketAddr {
        let mut door = self.door.lock().expect("nobody panicked with it");
        door.next += 1;
        door.addrs[door.next % door.addrs.len()]
    }

    /// A connection, and what came behind the gateway's answer.
    async fn connect(&self) -> Result<(TcpStream, Vec<u8>)> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(u32::try_from(CHUNK).expect("small"))?;
        let addr = self.addr();
        let mut stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut inbox = Vec::new();
        loop {
            if stream.read_buf(&mut inbox).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(inbox.get(..end).unwrap_or_default()).into_owned();
                let status = head.lines().next().unwrap_or_default();
                if !status.starts_with("HTTP/1.1 101") {
                    return Err(Error::other(format!("refused: {status}")));
                }
                inbox.drain(..end + 4);
                return Ok((stream, inbox));
            }
        }
    }
}

fn request(addr: SocketAddr, query: &str, token: &str) -> String {
    format!(
        "GET /v1/device?{query} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1.json\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}

/// A device's life: it comes back until it is told to leave.
async fn live(device: Arc<Device>, mut orders: watch::Receiver<Order>) {
    loop {
        let connected = tokio::time::timeout(HANDSHAKE, device.connect()).await;
        let ended = match connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok((stream, inbox)) => {
                let mut line = Line::new(&device, inbox);
                let ended = line.run(stream, &mut orders).await;
                ended.map_err(|why| if line.told_to_go { format!("{why}{AFTER_GOAWAY}") } else { why })
            }
            Err(error) => Err(format!("not connected: {error}")),
        };
        let Err(why) = ended else { return };
        let went = why.starts_with(WENT);
        device.diary().ends.push(why);
        if !went {
            tokio::time::sleep(RECONNECT).await;
        }
        if *orders.borrow() == Order::Leave {
            return;
        }
    }
}

/// One connection of a device.
struct Line<'a> {
    device: &'a Device,
    inbox: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Messages that may be unacked; none before `welcome`.
    window: Option<usize>,
    log_paused: bool,
    rate_paused: bool,
    told_to_go: bool,
    /// When it goes.
    goes_at: Option<Instant>,
    /// What the connection before left unacked and is still to be sent on this one, lowest first.
    again: VecDeque<u64>,
    due: Instant,
}

impl<'a> Line<'a> {
    fn new(device: &'a Device, inbox: Vec<u8>) -> Self {
        let again = device.diary().unacked.keys().copied().collect();
        Self {
            device,
            inbox,
            out: Vec::new(),
            written: 0,
            window: None,
            log_paused: false,
            rate_paused: false,
            told_to_go: false,
            goes_at: None,
            again,
            due: Instant::now(),
        }
    }

    /// Until it is told to leave (`Ok`), or until the connection ends: why.
    async fn run(&mut self, stream: TcpStream, orders: &mut watch::Receiver<Order>) -> std::result::Result<(), String> {
        self.take_frames()?;
        loop {
            let order = *orders.borrow_and_update();
            if order == Order::Leave {
                // In the middle of a frame there is no way to say goodbye.
                if self.out.is_empty() {
                    drop(stream.try_write(&ws::frame(0x80 | opcode::CLOSE, &1000u16.to_be_bytes())));
                }
                return Ok(());
            }
            if self.goes_at.is_some_and(|at| at <= Instant::now()) && self.out.is_empty() {
                drop(stream.try_write(&ws::frame(0x80 | opcode::CLOSE, &1000u16.to_be_bytes())));
                return Err(WENT.to_owned());
            }
            let wake = match (self.refill(order), self.goes_at) {
                (Some(wake), Some(goes)) => Some(wake.min(goes)),
                (wake, goes) => wake.or(goes),
            };
            tokio::select! {
                changed = orders.changed() => changed.map_err(|_| "the fleet is gone".to_owned())?,
                _ = stream.readable() => self.read(&stream)?,
                _ = stream.writable(), if !self.out.is_empty() => self.write(&stream)?,
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
        }
    }

    fn read(&mut self, stream: &TcpStream) -> std::result::Result<(), String> {
        match stream.try_read_buf(&mut self.inbox) {
            Ok(0) => Err("ended without a close".to_owned()),
            Ok(_) => self.take_frames(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(format!("broke: {error}")),
        }
    }

    fn write(&mut self, stream: &TcpStream) -> std::result::Result<(), String> {
        match stream.try_write(self.out.get(self.written..).unwrap_or_default()) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(format!("broke: {error}")),
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Puts what may be sent into `out` where that is empty. Gives the moment to look again, where time decides.
    fn refill(&mut self, order: Order) -> Option<Instant> {
        let window = self.window?;
        if self.goes_at.is_some_and(|at| at <= Instant::now()) {
            return None;
        }
        let mut diary = self.device.diary();
        while self.out.len() < CHUNK {
            let heeds = !matches!(order, Order::Send(Load { heeds: false, .. }));
            let full = diary.unacked.len() - self.again.len() >= window;
            if heeds && (full || self.log_paused || self.rate_paused) {
                return None;
            }
            let seq = match (self.again.pop_front(), order) {
                (Some(seq), _) => {
                    diary.resent += 1;
                    seq
                }
                (None, Order::Send(load)) if self.due <= Instant::now() => {
                    self.due = Instant::now() + load.every;
                    diary.make(self.device, load.bytes)
                }
                (None, Order::Send(_)) => return Some(self.due),
                (None, _) => return None,
            };
            let payload = Arc::clone(diary.unacked.get(&seq).expect("what is to be sent is unacked"));
            self.out.extend(ws::frame(0x80 | opcode::TEXT, &payload));
            diary.note(Event::Sent { seq, payload });
        }
        None
    }

    fn take_frames(&mut self) -> std::result::Result<(), String> {
        while let Some(frame) = ws::take_frame(&mut self.inbox) {
            match frame.opcode() {
                opcode::TEXT => self.told(&serde_json::from_slice(&frame.payload).expect("the gateway sends JSON")),
                opcode::PING => self.out.extend(ws::frame(0x80 | opcode::PONG, &frame.payload)),
                opcode::CLOSE => return Err(format!("closed with {}", frame.close_code())),
                _ => {}
            }
        }
        Ok(())
    }

    fn told(&mut self, message: &Value) {
        let mut diary = self.device.diary();
        let seq = message["seq"].as_u64();
        match (message["type"].as_str().unwrap_or_default(), seq) {
            ("welcome", _) => {
                let window = message["window"].as_u64().expect("a welcome says the window");
                self.window = Some(usize::try_from(window).expect("a small number"));
                let boot = self.device.boot.clone();
                diary.connections.push(Connection { boot, events: Vec::new() });
                if let Some(upto) = message["resume_after"].as_u64() {
                    diary.resumed += 1;
                    diary.note(Event::Resumed(upto));
                    let above = diary.unacked.split_off(&(upto + 1));
                    diary.spared += std::mem::replace(&mut diary.unacked, above).len();
                    self.again.retain(|again| *again > upto);
                }
            }
            ("ack", Some(seq)) => {
                diary.note(Event::Acked(seq));
                diary.acks.push(Instant::now());
                let above = diary.unacked.split_off(&(seq + 1));
                let covered = std::mem::replace(&mut diary.unacked, above);
                self.device.acked.fetch_add(covered.len(), Ordering::Relaxed);
                self.again.retain(|again| *again > seq);
            }
            ("refused", Some(seq)) => {
                diary.note(Event::Refused(seq));
                diary.unacked.remove(&seq);
                self.again.retain(|again| *again != seq);
            }
            ("goaway", _) => {
                self.told_to_go = true;
                let after = message["retry_after_ms"].as_u64().expect("a goaway says when to come back");
                diary.goaways.push((Instant::now(), message["deadline_ms"].as_u64().expect("and its deadline")));
                let goes = self.device.goes();
                self.goes_at = goes.then(|| Instant::now() + Duration::from_millis(after));
            }
            (kind @ ("pause" | "resume"), _) if message["reason"] == "rate" => self.rate_paused = kind == "pause",
            (kind @ ("pause" | "resume"), _) => {
                self.log_paused = kind == "pause";
                diary.flow.push((Instant::now(), self.log_paused));
            }
            _ => {}
        }
    }
}

impl Diary {
    /// Writes down an event of the newest connection.
    fn note(&mut self, event: Event) {
        self.connections.last_mut().expect("it was greeted").events.push(event);
    }

    /// Makes the next update; now and then it leaves a number out, as a device does that dropped something.
    fn make(&mut self, device: &Device, bytes: usize) -> u64 {
        self.last_seq += if fastrand::u8(..16) == 0 { 2 } else { 1 };
        let (seq, id, boot) = (self.last_seq, &device.id, &device.boot);
        let filler = "~".repeat(bytes.saturating_sub(80));
        let nonce = fastrand::u32(..);
        let text = format!(r#"{{"type":"update","seq":{seq},"value":"{id} {boot} {seq} {nonce:08x}{filler}"}}"#);
        self.unacked.insert(seq, text.into_bytes().into());
        seq
    }
}
