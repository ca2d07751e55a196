//! A small cluster on the twins in memory, its time a number that is moved: random histories in a millisecond each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use tidegate::commands::memory::MemoryCommands;
use tidegate::commands::{
    Answer, Answered, Command, Commands, Due, Row as CommandRow, SHARDS, Sending, Submission, Submitted,
};
use tidegate::id::{Boot, CommandId, DeviceKey, Epoch, NodeName, SessionId};
use tidegate::ownership::memory::MemoryOwnership;
use tidegate::ownership::{Claim, Fence, Held, NodeLife, Ownership, Reasserted};
use tidegate::protocol::message::CommandStatus;

use super::history::{Entry, Event, Fault, History, Micros, SECOND, Step};
use super::planted::{Plant, PlantedCommands, now, status};
use super::spoilt::Spoilt;

const START: Micros = 1_748_522_700_000_000;
const STEPS: usize = 150;
const TTL_MS: u64 = 20_000;

type Twin = PlantedCommands<MemoryCommands>;

/// A socket, at both of its ends.
struct Socket {
    number: u64,
    device: usize,
    life: NodeLife,
    session: SessionId,
    epoch: Epoch,
    boot: Boot,
    /// Whether the device still has it.
    open: bool,
    /// When the gateway will be done with it: an evict on its way, or a close that it notices late.
    ends_us: Option<Micros>,
}

struct World {
    rng: Rng,
    plant: Option<Plant>,
    time: Arc<AtomicU64>,
    ownership: Arc<Spoilt>,
    commands: Twin,
    entries: Vec<Entry>,
    lives: Vec<NodeLife>,
    devices: Vec<DeviceKey>,
    sockets: Vec<Socket>,
    highest: Epoch,
    /// What each caller knows: device and key by id.
    asked: BTreeMap<CommandId, (usize, String)>,
    executed: BTreeSet<CommandId>,
    turned: BTreeSet<(CommandId, u32)>,
    serial: u64,
}

/// A random history, the same for the same seed.
pub fn run(seed: u64, plant: Option<Plant>) -> History {
    let mut world = World::new(seed, plant);
    world.note(Event::Began { seed, what: format!("twins, {plant:?}") });
    // A plant shall be found by what it does, not by what a flush would explain.
    let flush = (plant.is_none() && seed.is_multiple_of(3)).then(|| world.rng.usize(30..STEPS - 30));
    for step in 0..STEPS {
        if flush == Some(step) {
            world.flush();
        }
        world.step();
        world.pass(3 * SECOND);
    }
    world.finish();
    History::new(world.entries)
}

fn commands(time: &Arc<AtomicU64>, ownership: &Arc<MemoryOwnership>, plant: Option<Plant>) -> Twin {
    let clock = Arc::clone(time);
    let directory = Arc::clone(ownership);
    let find = move |device: &DeviceKey| now(directory.row(device)).ok().flatten().filter(|row| !row.settled);
    let find = Arc::new(find);
    let rows = {
        let find = Arc::clone(&find);
        move |device: &DeviceKey| {
            let row = find(device)?;
            Some(CommandRow { node: row.owner.node, incarnation: row.owner.incarnation, epoch: row.epoch })
        }
    };
    let clock = move || i64::try_from(clock.load(Ordering::Relaxed) / 1_000).expect("a time");
    let inner = MemoryCommands::new(Arc::new(clock), Arc::new(rows));
    PlantedCommands { inner, plant, epoch: Arc::new(move |device| Some(find(device)?.epoch)) }
}

impl World {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let time = Arc::new(AtomicU64::new(START));
        let clock = Arc::clone(&time);
        let memory = MemoryOwnership::new(Arc::new(move || clock.load(Ordering::Relaxed)), Arc::new(|_| true));
        let memory = Arc::new(memory);
        let life = |name| NodeLife::begin(NodeName::new(name).unwrap());
        let device = |tenant, name| DeviceKey::new(tenant, name).unwrap();
        Self {
            rng: Rng::with_seed(seed),
            plant,
            commands: commands(&time, &memory, plant),
            ownership: Arc::new(Spoilt { inner: memory, bug: plant.and_then(Plant::of_directory) }),
            time,
            entries: Vec::new(),
            lives: vec![life("gw-a"), life("gw-b"), life("gw-c")],
            devices: vec![device("acme", "d0"), device("acme", "d1"), device("other", "d0")],
            sockets: Vec::new(),
            highest: Epoch(0),
            asked: BTreeMap::new(),
            executed: BTreeSet::new(),
            turned: BTreeSet::new(),
            serial: 0,
        }
    }

    fn now_us(&self) -> Micros {
        self.time.load(Ordering::Relaxed)
    }

    fn note(&mut self, event: Event) {
        // No two things happen at once.
        let at_us = self.time.fetch_add(1, Ordering::Relaxed);
        self.entries.push(Entry { at_us, event });
    }

    fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn name(&self, device: usize) -> String {
        self.devices[device].to_string()
    }

    /// Lets up to `most` pass, and what comes due happen.
    fn pass(&mut self, most: Micros) {
        let end = self.now_us() + self.rng.u64(1..=most);
        while self.now_us() < end {
            let at = end.min(self.now_us() + SECOND);
            self.time.store(at, Ordering::Relaxed);
            self.end_sockets();
        }
        self.sweep();
    }

    fn step(&mut self) {
        let device = self.rng.usize(0..self.devices.len());
        match self.rng.u8(0..12) {
            0..=2 => self.connect(device),
            3 => self.leave(device),
            4..=6 => self.submit(device, false),
            7 => self.deliver_all(),
            8 => self.answer_again(),
            9 => self.take_back(),
            10 => self.read_one(),
            _ => self.serve(),
        }
    }

    fn connect(&mut self, device: usize) {
        let (number, node) = (self.number(), self.rng.usize(0..self.lives.len()));
        let life = self.lives[node].clone();
        let boot = Boot::new(["b1", "b2"][self.rng.usize(0..8) / 7]).unwrap();
        let (name, session) = (self.name(device), SessionId::from_bits(number));
        let node = life.node.to_string();
        self.note(Event::Opening {
            device: name.clone(),
            connection: number,
            boot: boot.as_str().to_owned(),
            node: node.clone(),
        });
        let claim = Claim {
            life: &life,
            device: &self.devices[device],
            connection: session,
            boot: &boot,
            boot_given: true,
            max_bytes: None,
            floor: self.highest,
            insist: false,
        };
        let Ok(claimed) = now(self.ownership.claim(&claim)) else {
            self.note(Event::Refused { device: name, connection: number, status: 429 });
            return;
        };
        let epoch = claimed.epoch;
        self.highest = self.highest.max(epoch);
        self.wrote(device, &life, epoch, session);
        for loser in self.sockets.iter_mut().filter(|socket| socket.device == device) {
            // Some notice late that they lost.
            let late = if self.rng.u8(0..3) == 0 { 9 * SECOND } else { 0 };
            let evicted = self.time.load(Ordering::Relaxed) + late + self.rng.u64(0..3 * SECOND);
            loser.ends_us = Some(loser.ends_us.unwrap_or(Micros::MAX).min(evicted));
        }
        self.sockets.push(Socket { number, device, life, session, epoch, boot, open: true, ends_us: None });
        let said =
            Event::Presence { device: name.clone(), online: true, epoch: epoch.0, node, reason: "connected".into() };
        self.note(said);
        self.note(Event::Welcome {
            device: name,
            connection: number,
            session: session.to_string(),
            epoch: epoch.0,
            registered: true,
        });
        self.deliver(number);
    }

    fn wrote(&mut self, device: usize, life: &NodeLife, epoch: Epoch, session: SessionId) {
        let (owner, session) = (life.to_string(), session.to_string());
        self.note(Event::RowWritten { device: self.name(device), owner, epoch: epoch.0, session });
    }

    /// The device closes a socket, and the gateway may notice late.
    fn leave(&mut self, device: usize) {
        let late = self.now_us() + self.rng.u64(0..12 * SECOND);
        let name = self.name(device);
        let Some(socket) = self.sockets.iter_mut().find(|socket| socket.device == device && socket.open) else {
            return;
        };
        socket.open = false;
        socket.ends_us = Some(socket.ends_us.unwrap_or(late).min(late));
        let connection = socket.number;
        self.note(Event::Closed { device: name, connection, code: None, by_device: true });
    }

    fn end_sockets(&mut self) {
        let now_us = self.now_us();
        while let Some(at) = self.sockets.iter().position(|socket| socket.ends_us.is_some_and(|ends| ends <= now_us)) {
            let socket = self.sockets.remove(at);
            let (device, name) = (self.devices[socket.device].clone(), self.name(socket.device));
            if socket.open {
                let (code, connection) = (Some(4002), socket.number);
                self.note(Event::Closed { device: name.clone(), connection, code, by_device: false });
            }
            let before = now(self.ownership.row(&device)).unwrap();
            let released =
                now(self.ownership.release(&socket.life, &device, Fence::Epoch(socket.epoch), None)).unwrap();
            if before.is_some() && now(self.ownership.row(&device)).unwrap().is_none() {
                let (by, value) = (socket.life.to_string(), socket.epoch.0.to_string());
                self.note(Event::RowRemoved { device: name.clone(), by, fence: "epoch".into(), value });
            }
            if released || self.plant == Some(Plant::OfflineWhatever) {
                // A release that removed another's row is the directory's fault, not one of presence.
                let epoch = socket.epoch.0;
                let wrongly =
                    before.is_some_and(|row| row.epoch != socket.epoch) && self.plant != Some(Plant::OfflineWhatever);
                if !wrongly {
                    let (node, reason) = (socket.life.node.to_string(), "moved".into());
                    self.note(Event::Presence { device: name, online: false, epoch, node, reason });
                }
            }
        }
    }

    fn submit(&mut self, device: usize, probe: bool) {
        let (key, known) =
            match self.asked.values().find(|(of, _)| *of == device && !probe && self.serial.is_multiple_of(4)) {
                Some((_, key)) => (key.clone(), true),
                None => (format!("k{}", self.serial), false),
            };
        let (call, name) = (self.number(), self.name(device));
        let max_attempts = if key.ends_with('7') { 1 } else { 3 };
        self.note(Event::Submitted {
            call,
            application: "console".into(),
            device: name.clone(),
            key: key.clone(),
            body: "same".into(),
            ttl_ms: TTL_MS,
            max_attempts,
            probe,
        });
        let key_device = self.devices[device].clone();
        let submission = Submission {
            device: &key_device,
            application: "console",
            key: &key,
            name: "blink",
            params: name.as_bytes(),
            ttl_ms: TTL_MS,
            since_ms: None,
            max_attempts,
            replace: !known && !probe && key.ends_with('3'),
            only_epoch: None,
            origin: None,
        };
        let submitted = now(self.commands.submit(&submission));
        match submitted {
            Ok(Submitted { command, new, replaced, .. }) => {
                self.asked.insert(command.id, (device, key));
                replaced.iter().for_each(|command| self.turned(command));
                self.turned(&command);
                let (id, state) = (Some(command.id.to_string()), Some(command.life.state.as_str().to_owned()));
                self.note(Event::Replied { call, status: if new { 202 } else { 200 }, id, state });
            }
            Err(error) => self.note(Event::Replied { call, status: status(&error), id: None, state: None }),
        }
        let owner = now(self.ownership.row(&key_device)).unwrap().map(|row| row.connection);
        if let Some(number) =
            self.sockets.iter().find(|socket| Some(socket.session) == owner).map(|socket| socket.number)
        {
            self.deliver(number);
        }
    }

    /// A transition, and its event.
    fn turned(&mut self, command: &Command) {
        if !self.turned.insert((command.id, command.life.version)) {
            return;
        }
        let (device, id) = (command.device.to_string(), command.id.to_string());
        let (version, state) = (command.life.version, command.life.state.as_str().to_owned());
        self.note(Event::Turned { device: device.clone(), id: id.clone(), version, state });
        let history = command.history.iter().map(|turn| Step {
            version: turn.version,
            state: turn.state.as_str().to_owned(),
            reason: turn.reason.map(|reason| reason.as_str().to_owned()),
        });
        let (key, requested_by, history) = (command.key.clone(), command.requested_by.clone(), history.collect());
        self.note(Event::Change { device, id, key, requested_by, version, history });
    }

    fn deliver_all(&mut self) {
        let numbers: Vec<_> = self.sockets.iter().map(|socket| socket.number).collect();
        numbers.into_iter().for_each(|number| self.deliver(number));
    }

    /// The owner of a socket sends what it may.
    fn deliver(&mut self, number: u64) {
        let Some(socket) = self.sockets.iter().find(|socket| socket.number == number) else { return };
        let (device, epoch, open) = (self.devices[socket.device].clone(), socket.epoch, socket.open);
        for id in now(self.commands.pending(&device, epoch, 8)).unwrap() {
            match now(self.commands.mark_sent(&device, id, epoch, false)).unwrap() {
                Sending::Write { command, .. } => {
                    self.note(Event::Granted { device: device.to_string(), id: id.to_string(), epoch: epoch.0 });
                    self.turned(&command);
                    if open {
                        self.receive(number, &command);
                    }
                }
                Sending::Undeliverable(command) => self.turned(&command),
                Sending::Fenced => return,
                _ => {}
            }
        }
    }

    /// The device has a command: it does it once, and answers, or forgets to.
    fn receive(&mut self, connection: u64, command: &Command) {
        let (device, id) = (command.device.to_string(), command.id.to_string());
        let mark = String::from_utf8(command.params.clone()).unwrap();
        let attempt = command.life.attempts;
        self.note(Event::Frame { device: device.clone(), connection, id: id.clone(), attempt, mark });
        if self.executed.insert(command.id) {
            self.note(Event::Executed { device, id });
        }
        if self.rng.u8(0..5) > 0 {
            self.answer(connection, command.id, CommandStatus::Received);
            self.answer(connection, command.id, CommandStatus::Succeeded);
        }
    }

    fn answer(&mut self, connection: u64, id: CommandId, status: CommandStatus) {
        let device = self.devices[self.asked.get(&id).map_or(0, |(device, _)| *device)].clone();
        let said = tidegate::commands::State::from(status).as_str().to_owned();
        self.note(Event::Answered { device: device.to_string(), connection, id: id.to_string(), status: said });
        let answer = Answer { status, result: None, message: None };
        if let Answered::Changed(command) = now(self.commands.answer(&device, id, answer)).unwrap() {
            self.turned(&command);
        }
    }

    /// A device answers a second time, and otherwise.
    fn answer_again(&mut self) {
        let executed: Vec<_> = self.executed.iter().copied().collect();
        if executed.is_empty() {
            return;
        }
        let id = executed[self.rng.usize(0..executed.len())];
        self.answer(0, id, CommandStatus::Failed);
    }

    fn take_back(&mut self) {
        let Some((id, device)) = self.any() else { return };
        let (asked_us, key) = (self.now_us(), self.devices[device].clone());
        let canceled = now(self.commands.cancel(&key, id));
        if let Ok(canceled) = &canceled {
            self.turned(&canceled.command);
        }
        self.was_read(device, id, asked_us, true, canceled.map(|canceled| canceled.command));
    }

    fn any(&mut self) -> Option<(CommandId, usize)> {
        let at = self.rng.usize(0..self.asked.len().max(1));
        self.asked.iter().nth(at).map(|(id, (device, _))| (*id, *device))
    }

    fn read_one(&mut self) {
        if let Some((id, device)) = self.any() {
            self.read(id, device);
        }
    }

    fn read(&mut self, id: CommandId, device: usize) {
        let asked_us = self.now_us();
        let command = now(self.commands.get(&self.devices[device].clone(), id));
        self.was_read(device, id, asked_us, false, command);
    }

    fn was_read(
        &mut self,
        device: usize,
        id: CommandId,
        asked_us: Micros,
        cancel: bool,
        read: Result<Command, tidegate::commands::CommandError>,
    ) {
        let (status, life) = match &read {
            Ok(command) => (200, Some(command.life)),
            Err(error) => (status(error), None),
        };
        let tenant = self.devices[device].tenant().to_owned();
        self.note(Event::Read {
            tenant,
            device: self.name(device),
            id: id.to_string(),
            asked_us,
            cancel,
            status,
            state: life.map(|life| life.state.as_str().to_owned()),
            version: life.map_or(0, |life| life.version),
            reason: life.and_then(|life| life.reason).map(|reason| reason.as_str().to_owned()),
        });
    }

    fn serve(&mut self) {
        let asked_us = self.now_us();
        let open: Vec<_> = self.sockets.iter().filter(|s| s.open).map(|s| (s.number, s.device)).collect();
        for (connection, device) in open {
            self.note(Event::Served { device: self.name(device), connection, asked_us });
        }
    }

    fn sweep(&mut self) {
        for shard in 0..SHARDS {
            for due in now(self.commands.sweep(shard, 100, &|_| true)).unwrap().work {
                match due {
                    Due::Publish(command) => {
                        self.turned(&command);
                        let version = command.life.version;
                        now(self.commands.settle_published(&command.device, command.id, version)).unwrap();
                    }
                    Due::Ring { .. } => self.deliver_all(),
                }
            }
        }
    }

    /// Redis forgets everything; the nodes notice, and write their rows again.
    fn flush(&mut self) {
        let (fault, target) = (Fault::Flushed, "redis".to_owned());
        self.note(Event::Fault { fault, target: target.clone() });
        self.ownership.inner.flush();
        self.commands = commands(&self.time, &self.ownership.inner, self.plant);
        self.turned.clear();
        self.note(Event::Over { fault, target });
        for at in 0..self.sockets.len() {
            let socket = &self.sockets[at];
            let (device, life, session, epoch) = (socket.device, socket.life.clone(), socket.session, socket.epoch);
            let held = Held {
                device: self.devices[device].clone(),
                epoch,
                connection: session,
                boot: socket.boot.clone(),
                max_bytes: None,
            };
            match now(self.ownership.reassert(&life, &held)).unwrap() {
                Reasserted::Written { .. } => self.wrote(device, &life, epoch, session),
                Reasserted::Newer(_) => self.sockets[at].ends_us = Some(self.now_us()),
                Reasserted::Kept | Reasserted::Settled => {}
            }
        }
    }

    fn finish(&mut self) {
        for _ in 0..15 {
            self.pass(3 * SECOND);
        }
        self.note(Event::Settled);
        self.serve();
        for device in 0..self.devices.len() {
            if self.sockets.iter().any(|socket| socket.device == device && socket.open) {
                self.submit(device, true);
            }
        }
        let end = self.now_us() + (TTL_MS + 70_000) * 1_000;
        while self.now_us() < end {
            self.pass(5 * SECOND);
        }
        let asked: Vec<_> = self.asked.iter().map(|(id, (device, _))| (*id, *device)).collect();
        asked.into_iter().for_each(|(id, device)| self.read(id, device));
        for device in 0..self.devices.len() {
            if let Some(row) = now(self.ownership.row(&self.devices[device])).unwrap() {
                let (owner, session) = (row.owner.to_string(), row.connection.to_string());
                self.note(Event::Row { device: self.name(device), owner, epoch: row.epoch.0, session, live: true });
            }
        }
        self.note(Event::Collected);
    }
}
