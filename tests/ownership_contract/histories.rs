//! Random histories: devices come, move and flap, closes come late, answers get lost, nodes pause and crash, the store is
//! flushed and loses its tail, dead nodes are settled by others meanwhile. What must hold is checked at every step (O1,
//! O2), and once all is healed (O3, O6).

use std::collections::{HashMap, HashSet};

use tidegate::id::{Boot, DeviceKey, Epoch, NodeName, SessionId};
use tidegate::ownership::{
    Claim, Directory, Fence, Held, LAPSED_MS, LEASE_MS, Lease, NodeLife, NodeState, OwnershipError, RENEW_EVERY_MS,
    Reasserted, SETTLE_AFTER_MS, TAKEOVER_WINDOW_MS, Whereabouts,
};

use super::twins::{Twin, profile};

pub(crate) const STEPS: usize = 80;
const NODES: usize = 3;
const DEVICES: usize = 3;
/// A tail that is lost is no longer than this.
const TAIL_MS: u64 = 10_000;

/// Half of them the same every time, half such as nobody has seen; or the one of `TIDEGATE_TEST_SEED`.
/// `TIDEGATE_TEST_HISTORIES=20` makes them twenty times as many.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let times = std::env::var("TIDEGATE_TEST_HISTORIES").map_or(1, |times| times.parse().expect("a number"));
    let count = count * times;
    match std::env::var("TIDEGATE_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("TIDEGATE_TEST_SEED is a number")],
        Err(_) => (0..count / 2).chain((count / 2..count).map(|_| fastrand::u64(..))).collect(),
    }
}

/// Runs one history and tells what happened. The error names the invariant and the seed, and tells what happened.
pub(crate) async fn run(twin: &impl Twin, seed: u64, steps: usize) -> Result<String, String> {
    let mut world = World::new(twin, seed).await;
    let mut result = Ok(());
    for _ in 0..steps {
        result = world.step().await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = world.heal().await;
    }
    let told = world.told.join("\n  ");
    match result {
        Ok(()) => Ok(told),
        Err(broken) => Err(format!("{broken}\nTIDEGATE_TEST_SEED={seed}\n  {told}")),
    }
}

#[derive(Clone, Debug)]
struct Socket {
    device: usize,
    held: Held,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Power {
    Up,
    Paused,
    Off,
}

struct Node {
    life: NodeLife,
    directory: Directory,
    power: Power,
    sockets: Vec<Socket>,
    /// Claims whose answer never came.
    lost: Vec<(usize, SessionId)>,
    renewed_ms: u64,
    sweep: bool,
    walk: Option<Walk>,
}

struct Walk {
    dead: NodeLife,
    after: Option<DeviceKey>,
    settled: Vec<Held>,
    published: bool,
}

struct Device {
    key: DeviceKey,
    boot: Boot,
    /// The connection it believes to have.
    current: Option<SessionId>,
    /// The highest epoch ever given out for it.
    highest: Epoch,
    /// Presence as readers fold it: the highest epoch, and whether it says offline.
    presence: (Epoch, bool),
}

struct World<'a, T> {
    twin: &'a T,
    rng: fastrand::Rng,
    now_ms: u64,
    nodes: Vec<Node>,
    devices: Vec<Device>,
    saved_ms: Option<u64>,
    /// Whether the store's clock was ever set back.
    behind: bool,
    /// Ends of epochs above one that is open, which the store forgot before the open one was written again: that its
    /// device is offline nobody will take back.
    forgotten: HashSet<(usize, Epoch)>,
    boots: u32,
    told: Vec<String>,
}

type Step = Result<(), String>;

impl<'a, T: Twin> World<'a, T> {
    async fn new(twin: &'a T, seed: u64) -> Self {
        let nodes = (0..NODES).map(|at| Node {
            life: NodeLife::begin(NodeName::new(&format!("gw-{at}")).unwrap()),
            directory: Directory::new(twin.ownership()),
            power: Power::Up,
            sockets: Vec::new(),
            lost: Vec::new(),
            renewed_ms: 0,
            sweep: false,
            walk: None,
        });
        let devices = (0..DEVICES).map(|at| Device {
            key: DeviceKey::new("t", &format!("d-{at}")).unwrap(),
            boot: Boot::new(&format!("boot-{at}")).unwrap(),
            current: None,
            highest: Epoch(0),
            presence: (Epoch(0), true),
        });
        let (nodes, devices) = (nodes.collect(), devices.collect());
        let rng = fastrand::Rng::with_seed(seed);
        let mut world = Self {
            twin,
            rng,
            now_ms: 0,
            nodes,
            devices,
            saved_ms: None,
            behind: false,
            forgotten: HashSet::new(),
            boots: 0,
            told: Vec::new(),
        };
        for at in 0..NODES {
            world.renew(at).await.unwrap();
        }
        world
    }

    fn tell(&mut self, text: String) {
        self.told.push(format!("{:>7} ms {text}", self.now_ms));
    }

    fn any(&mut self, power: Power) -> Option<usize> {
        let fit: Vec<_> = (0..NODES).filter(|at| self.nodes[*at].power == power).collect();
        self.rng.choice(fit)
    }

    async fn step(&mut self) -> Step {
        match self.rng.u32(0..100) {
            0..30 => {
                let device = self.rng.usize(0..DEVICES);
                let lost = self.rng.u32(0..10) == 0;
                match self.any(Power::Up) {
                    Some(node) => self.connect(node, device, lost).await.map(|_| ()),
                    None => Ok(()),
                }
            }
            30..45 => self.close(false).await,
            45..50 => self.close(true).await,
            50..54 => self.abandon().await,
            54..60 => self.pause_or_resume().await,
            60..64 => self.crash_or_start().await,
            64..67 => self.lose(true).await,
            67..70 => self.lose(false).await,
            70..73 => {
                self.twin.save().await;
                self.saved_ms = Some(self.now_ms);
                Ok(())
            }
            73..85 => {
                let ms = match self.rng.u32(0..6) {
                    0 => 50_000,
                    1 => 20_000,
                    _ => self.rng.u64(100..6_000),
                };
                self.pass(ms).await
            }
            85..90 => self.sweep_one().await,
            _ => match self.any(Power::Up) {
                Some(node) => self.walk(node).await.map(|_| ()),
                None => Ok(()),
            },
        }
    }

    /// Whether it was let in.
    async fn connect(&mut self, node: usize, device: usize, lost: bool) -> Result<bool, String> {
        if self.rng.u32(0..8) == 0 {
            self.boots += 1;
            self.devices[device].boot = Boot::new(&format!("boot-{device}-{}", self.boots)).unwrap();
        }
        let connection = SessionId::draw();
        let boot = self.devices[device].boot.clone();
        let claimed = self.claim(node, device, connection, &boot).await?;
        let Some(epoch) = claimed else { return Ok(false) };
        if lost {
            self.tell(format!("gw-{node} never hears that d-{device} has {epoch}"));
            self.nodes[node].lost.push((device, connection));
            return Ok(false);
        }
        let held = Held { device: self.devices[device].key.clone(), epoch, connection, boot, max_bytes: None };
        self.nodes[node].sockets.push(Socket { device, held });
        self.devices[device].current = Some(connection);
        self.tell(format!("d-{device} is at gw-{node} with {epoch}"));
        self.publish(device, epoch, false);
        Ok(true)
    }

    /// One claim, checked for O1; nothing where the device was taken over too often.
    async fn claim(
        &mut self,
        node: usize,
        device: usize,
        connection: SessionId,
        boot: &Boot,
    ) -> Result<Option<Epoch>, String> {
        let here = &self.nodes[node];
        let floor = here.sockets.iter().filter(|s| s.device == device).map(|s| s.held.epoch).max();
        let key = self.devices[device].key.clone();
        let claim = Claim {
            life: &here.life,
            device: &key,
            connection,
            boot,
            boot_given: true,
            max_bytes: None,
            floor: floor.unwrap_or(Epoch(0)),
            insist: false,
        };
        let claimed = match here.directory.claim(&claim).await {
            Ok(claimed) => claimed,
            Err(OwnershipError::Contested { .. }) => return Ok(None),
            Err(error) => return Err(format!("a claim failed: {error}")),
        };
        let highest = self.devices[device].highest;
        if claimed.epoch <= highest {
            return Err(format!("O1: d-{device} was given {} at gw-{node} after {highest}", claimed.epoch));
        }
        self.devices[device].highest = claimed.epoch;
        Ok(Some(claimed.epoch))
    }

    fn publish(&mut self, device: usize, epoch: Epoch, offline: bool) {
        let (known, said) = self.devices[device].presence;
        if epoch > known || (epoch == known && offline && !said) {
            self.devices[device].presence = (epoch, offline);
        }
    }

    /// A release, checked for O2.
    async fn release(&mut self, life: &NodeLife, device: usize, fence: Fence) -> Step {
        let (key, ownership) = (self.devices[device].key.clone(), self.twin.ownership());
        let before = ownership.row(&key).await.unwrap();
        ownership.release(life, &key, fence, None).await.map_err(|error| format!("a release failed: {error}"))?;
        let after = ownership.row(&key).await.unwrap();
        let its = before.as_ref().is_some_and(|row| {
            row.owner == *life
                && match fence {
                    Fence::Epoch(epoch) => row.epoch == epoch,
                    Fence::Connection(connection) => row.connection == connection,
                }
        });
        if !its && before != after {
            return Err(format!("O2: a release of {life} behind {fence:?} turned {before:?} into {after:?}"));
        }
        if its && after.is_some() {
            return Err(format!("O2: a release left its own row {after:?}"));
        }
        Ok(())
    }

    /// Closes one socket of a node that is up: its device's current one, or one that it left long ago.
    async fn close(&mut self, current: bool) -> Step {
        let mut found = Vec::new();
        for (node, here) in self.nodes.iter().enumerate().filter(|(_, node)| node.power == Power::Up) {
            for (at, socket) in here.sockets.iter().enumerate() {
                if (self.devices[socket.device].current == Some(socket.held.connection)) == current {
                    found.push((node, at));
                }
            }
        }
        let Some((node, at)) = self.rng.choice(found) else { return Ok(()) };
        self.close_at(node, at).await
    }

    async fn close_at(&mut self, node: usize, at: usize) -> Step {
        let Socket { device, held } = self.nodes[node].sockets.remove(at);
        if self.devices[device].current == Some(held.connection) {
            self.devices[device].current = None;
        }
        self.tell(format!("gw-{node} closes d-{device} of {}", held.epoch));
        let life = self.nodes[node].life.clone();
        self.release(&life, device, Fence::Epoch(held.epoch)).await?;
        self.publish(device, held.epoch, true);
        Ok(())
    }

    async fn abandon(&mut self) -> Step {
        let Some(node) = self.any(Power::Up) else { return Ok(()) };
        let Some((device, connection)) = self.nodes[node].lost.pop() else { return Ok(()) };
        self.tell(format!("gw-{node} gives up a claim for d-{device}"));
        let life = self.nodes[node].life.clone();
        self.release(&life, device, Fence::Connection(connection)).await
    }

    async fn pause_or_resume(&mut self) -> Step {
        if let Some(node) = self.any(Power::Paused) {
            self.tell(format!("gw-{node} goes on"));
            self.nodes[node].power = Power::Up;
            return self.renew(node).await;
        }
        if let Some(node) = self.any(Power::Up) {
            self.tell(format!("gw-{node} pauses"));
            self.nodes[node].power = Power::Paused;
        }
        Ok(())
    }

    async fn crash_or_start(&mut self) -> Step {
        if let Some(node) = self.any(Power::Off) {
            return self.start(node).await;
        }
        let Some(node) = self.any(Power::Up) else { return Ok(()) };
        self.tell(format!("gw-{node} crashes"));
        let here = &mut self.nodes[node];
        (here.power, here.walk, here.sweep) = (Power::Off, None, false);
        here.lost.clear();
        for socket in std::mem::take(&mut here.sockets) {
            let device = &mut self.devices[socket.device];
            if device.current == Some(socket.held.connection) {
                device.current = None;
            }
        }
        Ok(())
    }

    async fn start(&mut self, node: usize) -> Step {
        self.tell(format!("gw-{node} starts"));
        let here = &mut self.nodes[node];
        here.power = Power::Up;
        here.life = NodeLife::begin(here.life.node.clone());
        here.directory = Directory::new(self.twin.ownership());
        here.renewed_ms = self.now_ms;
        self.renew(node).await
    }

    /// The store loses all it has, or what came after the last save; a new primary's clock may be behind.
    async fn lose(&mut self, all: bool) -> Step {
        if !all && self.saved_ms.is_none_or(|at| self.now_ms - at > TAIL_MS) {
            return Ok(());
        }
        for _ in 0..2 {
            self.renew_all(true).await?;
        }
        let up = self.nodes.iter().filter(|node| node.power == Power::Up);
        let known = up.map(|node| node.directory.highest()).min();
        // With the data and the clock lost together only what others heard keeps epochs growing: not what a node gave
        // out since it renewed last, if it paused or crashed right then.
        let heard = known.is_some_and(|known| self.devices.iter().all(|device| device.highest <= known));
        if self.behind && !heard {
            return Ok(());
        }
        let open = |held: &Held, at: usize| self.devices[at].current == Some(held.connection);
        for socket in self.nodes.iter().flat_map(|node| &node.sockets).filter(|s| open(&s.held, s.device)) {
            let (epoch, offline) = self.devices[socket.device].presence;
            if offline && epoch > socket.held.epoch {
                self.forgotten.insert((socket.device, epoch));
            }
        }
        if all {
            self.twin.flush().await;
            self.saved_ms = None;
        } else {
            self.twin.go_back().await;
        }
        self.tell(if all { "everything is lost".into() } else { "the tail is lost".into() });
        self.nodes.iter_mut().for_each(|node| node.sweep = true);
        if self.rng.bool() && heard {
            self.tell("and the clock is behind".into());
            self.twin.set_clock_back(30_000);
            self.behind = true;
        }
        // Where the clock does not tell, who comes now has to hear from those who know, which is when they renew.
        if self.behind { self.renew_all(true).await } else { Ok(()) }
    }

    async fn pass(&mut self, ms: u64) -> Step {
        let mut left = ms;
        while left > 0 {
            let part = left.min(RENEW_EVERY_MS);
            self.twin.age(part).await;
            self.now_ms += part;
            left -= part;
            self.renew_all(false).await?;
            // A loss is seen at the next renewal, and the sweep takes no longer than to the one after.
            if part == RENEW_EVERY_MS {
                while let Some(node) = self.due_to_sweep() {
                    self.sweep(node).await?;
                }
            }
        }
        Ok(())
    }

    async fn renew_all(&mut self, now: bool) -> Step {
        for node in 0..NODES {
            let due = now || self.now_ms - self.nodes[node].renewed_ms >= RENEW_EVERY_MS;
            if due && self.nodes[node].power == Power::Up {
                self.renew(node).await?;
            }
        }
        Ok(())
    }

    async fn renew(&mut self, node: usize) -> Step {
        let here = &mut self.nodes[node];
        let renewed = here.directory.renew(&profile(&here.life, NodeState::Ready)).await;
        let silent_ms = self.now_ms - here.renewed_ms;
        here.renewed_ms = self.now_ms;
        match renewed {
            Ok(renewed) => match renewed.lease {
                Lease::Lapsed(ms) if ms >= LAPSED_MS - LEASE_MS => self.reborn(node).await,
                Lease::Absent if silent_ms >= LAPSED_MS => self.reborn(node).await,
                Lease::Absent => {
                    here.sweep = true;
                    Ok(())
                }
                Lease::Held | Lease::Lapsed(_) => Ok(()),
            },
            Err(OwnershipError::Buried) => self.reborn(node).await,
            Err(error) => Err(format!("a renewal failed: {error}")),
        }
    }

    /// Declared dead, or silent for so long that it may have been: another incarnation, and every device claimed anew.
    async fn reborn(&mut self, node: usize) -> Step {
        self.tell(format!("gw-{node} is born again"));
        let here = &mut self.nodes[node];
        here.life = NodeLife::begin(here.life.node.clone());
        (here.walk, here.sweep) = (None, false);
        here.lost.clear();
        here.directory.renew(&profile(&here.life, NodeState::Ready)).await.map_err(|error| error.to_string())?;
        let mut newest: HashMap<usize, Socket> = HashMap::new();
        for socket in std::mem::take(&mut here.sockets) {
            let better = newest.get(&socket.device).is_none_or(|other| other.held.epoch < socket.held.epoch);
            let older = if better { newest.insert(socket.device, socket) } else { Some(socket) };
            if let Some(older) = older {
                self.publish(older.device, older.held.epoch, true);
            }
        }
        let mut devices: Vec<_> = newest.into_values().collect();
        devices.sort_by_key(|socket| socket.device);
        for socket in devices {
            self.claim_anew(node, socket).await?;
        }
        Ok(())
    }

    /// For a socket that is in no node's list: claims, or loses it to who has the device now.
    async fn claim_anew(&mut self, node: usize, socket: Socket) -> Step {
        let Socket { device, mut held } = socket;
        let row = self.twin.ownership().row(&held.device).await.unwrap();
        let moved = row.is_some_and(|row| row.epoch > held.epoch && !row.settled);
        let claimed = if moved { None } else { self.claim(node, device, held.connection, &held.boot.clone()).await? };
        match claimed {
            Some(epoch) => {
                self.tell(format!("gw-{node} claims d-{device} anew: {epoch} for {}", held.epoch));
                held.epoch = epoch;
                self.nodes[node].sockets.push(Socket { device, held });
                self.publish(device, epoch, false);
            }
            None => self.lost_socket(node, &Socket { device, held }),
        }
        Ok(())
    }

    fn lost_socket(&mut self, node: usize, socket: &Socket) {
        let Socket { device, held } = socket;
        self.tell(format!("gw-{node} loses d-{device} of {}", held.epoch));
        if self.devices[*device].current == Some(held.connection) {
            self.devices[*device].current = None;
        }
        self.publish(*device, held.epoch, true);
    }

    async fn sweep_one(&mut self) -> Step {
        match self.due_to_sweep() {
            Some(node) => self.sweep(node).await,
            None => Ok(()),
        }
    }

    fn due_to_sweep(&self) -> Option<usize> {
        (0..NODES).find(|at| self.nodes[*at].power == Power::Up && self.nodes[*at].sweep)
    }

    /// Re-asserts what the node holds: of each device the newest connection.
    async fn sweep(&mut self, node: usize) -> Step {
        self.nodes[node].sweep = false;
        let life = self.nodes[node].life.clone();
        for device in 0..DEVICES {
            let theirs = self.nodes[node].sockets.iter().filter(|socket| socket.device == device);
            let Some(socket) = theirs.max_by_key(|socket| socket.held.epoch).cloned() else { continue };
            let reasserted = self.twin.ownership().reassert(&life, &socket.held).await;
            let gone = |other: &Socket| other.held.connection == socket.held.connection;
            match reasserted.map_err(|error| error.to_string())? {
                Reasserted::Kept => {}
                Reasserted::Written { .. } => {
                    self.tell(format!("gw-{node} writes d-{device} of {} again", socket.held.epoch));
                }
                Reasserted::Newer(_) => {
                    self.nodes[node].sockets.retain(|other| !gone(other));
                    self.lost_socket(node, &socket);
                }
                Reasserted::Settled => {
                    self.nodes[node].sockets.retain(|other| !gone(other));
                    self.claim_anew(node, socket).await?;
                }
            }
        }
        Ok(())
    }

    /// One step of settling a dead node; whether there is more to do.
    async fn walk(&mut self, node: usize) -> Result<bool, String> {
        let ownership = self.twin.ownership();
        let Some(mut walk) = self.nodes[node].walk.take() else {
            let Some(dead) = ownership.view().await.unwrap().dead.first().map(|m| m.profile.life.clone()) else {
                return Ok(false);
            };
            if ownership.bury(&dead, false).await.unwrap() {
                self.tell(format!("gw-{node} buries {dead}"));
                self.nodes[node].walk = Some(Walk { dead, after: None, settled: Vec::new(), published: false });
            }
            return Ok(true);
        };
        let of = |world: &Self, key: &DeviceKey| world.devices.iter().position(|d| d.key == *key).unwrap();
        if walk.settled.is_empty() {
            let page = ownership.settle(&walk.dead, walk.after.as_ref(), 1).await.unwrap();
            (walk.settled, walk.published) = (page.settled, false);
            walk.after = page.next;
            if walk.settled.is_empty() && walk.after.is_none() {
                ownership.bury(&walk.dead, true).await.unwrap();
                return Ok(true);
            }
        } else if !walk.published {
            for held in &walk.settled {
                let device = of(self, &held.device);
                self.tell(format!("gw-{node} says that d-{device} of {} is offline", held.epoch));
                self.publish(device, held.epoch, true);
            }
            walk.published = true;
        } else {
            for held in std::mem::take(&mut walk.settled) {
                let device = of(self, &held.device);
                self.release(&walk.dead, device, Fence::Epoch(held.epoch)).await?;
            }
            if walk.after.is_none() {
                ownership.bury(&walk.dead, true).await.unwrap();
                return Ok(true);
            }
        }
        self.nodes[node].walk = Some(walk);
        Ok(true)
    }

    /// Everything comes back, what should be done gets done; then what must be true has to be.
    async fn heal(&mut self) -> Step {
        self.tell("everything heals".into());
        for node in 0..NODES {
            match self.nodes[node].power {
                Power::Up => {}
                Power::Paused => {
                    self.nodes[node].power = Power::Up;
                    self.renew(node).await?;
                }
                Power::Off => self.start(node).await?,
            }
            while !self.nodes[node].lost.is_empty() {
                let (device, connection) = self.nodes[node].lost.remove(0);
                let life = self.nodes[node].life.clone();
                self.release(&life, device, Fence::Connection(connection)).await?;
            }
            // Sockets their device left are found dead.
            while let Some(at) = (0..self.nodes[node].sockets.len()).find(|at| {
                let socket = &self.nodes[node].sockets[*at];
                self.devices[socket.device].current != Some(socket.held.connection)
            }) {
                self.close_at(node, at).await?;
            }
        }
        let wanted: Vec<_> = (0..DEVICES).filter(|at| self.devices[*at].current.is_some()).collect();
        // Leases of the dead end, and what other primaries gave them by a clock that is behind.
        self.pass(LEASE_MS + SETTLE_AFTER_MS + TAKEOVER_WINDOW_MS).await?;
        for round in 0..3 {
            for node in 0..NODES {
                self.sweep(node).await?;
                let mut steps = 0;
                while self.walk(node).await? {
                    steps += 1;
                    if steps > 200 {
                        return Err("the dead are never settled".into());
                    }
                }
            }
            for device in &wanted {
                if self.devices[*device].current.is_none() {
                    let node = self.rng.usize(0..NODES);
                    if !self.connect(node, *device, false).await? && round == 2 {
                        return Err(format!("O3: d-{device} cannot come back"));
                    }
                }
            }
        }
        self.check(&wanted).await
    }

    async fn check(&self, wanted: &[usize]) -> Step {
        for at in wanted {
            let device = &self.devices[*at];
            let connection = device.current.ok_or(format!("O3: d-{at} is not connected"))?;
            let (node, socket) = self
                .nodes
                .iter()
                .find_map(|node| Some((node, node.sockets.iter().find(|s| s.held.connection == connection)?)))
                .ok_or(format!("O3: the socket of d-{at} is gone and it does not know"))?;
            let row = self.twin.ownership().row(&device.key).await.unwrap();
            let own = row.as_ref().is_some_and(|row| row.owner == node.life && row.epoch == socket.held.epoch);
            if !own {
                return Err(format!("O3: d-{at} is at {} with {}, its row is {row:?}", node.life, socket.held.epoch));
            }
            for other in &self.nodes {
                let found = other.directory.find(&device.key).await.unwrap();
                if !matches!(&found, Whereabouts::At(found) if found.1.profile.life == node.life) {
                    return Err(format!("O3: {} does not find d-{at}: {found:?}", other.life));
                }
            }
            if device.presence.1 && !self.forgotten.contains(&(*at, device.presence.0)) {
                return Err(format!("O6: d-{at} is connected with {} and said offline", socket.held.epoch));
            }
        }
        Ok(())
    }
}
