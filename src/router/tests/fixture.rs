//! Nodes without keepers and connections: what the router works on, and a directory they share.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::commands::memory::MemoryCommands;
use crate::commands::{Row, Submission};
use crate::courier::Courier;
use crate::eventlog::memory::{MemoryLimits, MemoryLog};
use crate::id::{Boot, DeviceKey, Epoch, NodeName, SessionId};
use crate::limits::Limits;
use crate::mailbox::{Mailbox, Standing};
use crate::ownership::memory::MemoryOwnership;
use crate::ownership::{Claim, Fence, NodeLife, NodeState, Ownership, Profile};
use crate::peer::memory::MemoryNetwork;
use crate::peer::{Ending, Evicted, PeerHandler, PeerTimes, Rung, Traced};
use crate::receipts::{Batch, Receipts};
use crate::registrar::Registrar;
use crate::roster::Roster;
use crate::router::memory::memory_pair;
use crate::router::{Parts, Router};
use crate::telemetry::metrics::Metrics;

/// When everything begins, Unix microseconds.
const START_US: u64 = 1_748_522_700_000_000;

pub(super) fn device(name: &str) -> DeviceKey {
    DeviceKey::new("t", name).unwrap()
}

/// `open` for `t/d`.
pub(super) fn submission(key: &'static str) -> Submission<'static> {
    static DEVICE: std::sync::OnceLock<DeviceKey> = std::sync::OnceLock::new();
    Submission {
        device: DEVICE.get_or_init(|| device("d")),
        application: "app",
        key,
        name: "open",
        params: b"{}",
        ttl_ms: 600_000,
        since_ms: None,
        max_attempts: 5,
        replace: false,
        only_epoch: None,
        origin: None,
    }
}

/// Writes down what peers ask before the router answers.
struct Listening {
    router: Arc<Router>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listening {
    fn hear(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }
}

impl PeerHandler for Listening {
    fn is_me(&self, life: &NodeLife) -> bool {
        self.router.is_me(life)
    }

    fn ring(&self, device: &DeviceKey, epoch: Epoch) -> Rung {
        if epoch != Epoch(0) {
            self.hear(format!("ring {device} {epoch}"));
        }
        PeerHandler::ring(&*self.router, device, epoch)
    }

    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        self.hear(format!("evict {device} {epoch}"));
        self.router.evict(device, epoch)
    }

    fn ended(&self, ending: Ending) {
        self.hear(format!("ended {}", ending.version));
        self.router.ended(ending);
    }

    fn sweep(&self) {
        self.hear("sweep".to_owned());
        self.router.sweep();
    }

    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        self.hear(format!("trace {device} {epoch} {for_s}"));
        PeerHandler::trace(&*self.router, device, epoch, for_s)
    }
}

pub(super) struct Host {
    pub(super) router: Arc<Router>,
    pub(super) courier: Arc<Courier>,
    pub(super) registrar: Arc<Registrar>,
    pub(super) roster: Arc<Roster>,
    pub(super) log: Arc<MemoryLog>,
    pub(super) receipts: Arc<Receipts>,
    pub(super) metrics: Metrics,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Host {
    pub(super) fn life(&self) -> NodeLife {
        (*self.registrar.life()).clone()
    }

    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// Nodes `n0`, `n1`, … that know each other.
pub(super) struct Net {
    now_us: Arc<AtomicU64>,
    ownership: Arc<MemoryOwnership>,
    pub(super) commands: Arc<MemoryCommands>,
    pub(super) network: Arc<MemoryNetwork>,
    pub(super) nodes: Vec<Host>,
}

impl Net {
    pub(super) async fn of(count: usize) -> Self {
        let now_us = Arc::new(AtomicU64::new(START_US));
        let clock = Arc::clone(&now_us);
        let (ownership, commands) = memory_pair(Arc::new(move || clock.load(Ordering::SeqCst)));
        let network = MemoryNetwork::new(PeerTimes { deadline: Duration::from_millis(50), ..PeerTimes::default() }, 1);
        let mut net = Self { now_us, ownership, commands, network, nodes: Vec::new() };
        for number in 0..count {
            net.nodes.push(net.host(&format!("n{number}")));
        }
        // Twice, so that the first know of the last.
        for number in (0..count).chain(0..count) {
            net.renew(number, NodeState::Ready).await;
        }
        net
    }

    fn host(&self, name: &str) -> Host {
        let (metrics, roster) = (Metrics::new().unwrap(), Arc::new(Roster::default()));
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let log = Arc::new(MemoryLog::start(MemoryLimits::default(), Arc::clone(&receipts) as _, &metrics).unwrap());
        let life = NodeLife::begin(NodeName::new(name).unwrap());
        let registrar = Arc::new(Registrar::new(Arc::clone(&self.ownership) as _, life));
        let courier = Courier::new(Arc::clone(&self.commands) as _, metrics.clone());
        let router = Router::new(Parts {
            courier: Arc::clone(&courier),
            roster: Arc::clone(&roster),
            registrar: Arc::clone(&registrar),
            peers: Arc::new(self.network.link(name)),
            traces: Arc::default(),
            metrics: metrics.clone(),
        });
        let heard = Arc::default();
        let handler = Listening { router: Arc::clone(&router), heard: Arc::clone(&heard) };
        self.network.answer(name, Arc::new(handler));
        // All but the sweep: that is made when a test says so.
        tokio::spawn(Arc::clone(&router).publish_events(Arc::clone(&log) as _, Arc::clone(&receipts)));
        tokio::spawn(Arc::clone(&router).follow_views());
        tokio::spawn(Arc::clone(&router).tell_losers());
        tokio::spawn(Arc::clone(&router).probe_peers());
        let handed = Arc::clone(&receipts);
        tokio::spawn(async move {
            let mut batch = Batch::default();
            loop {
                poll_fn(|cx| handed.poll_hand_out(cx, &mut batch)).await;
            }
        });
        Host { router, courier, registrar, roster, log, receipts, metrics, heard }
    }

    pub(super) async fn renew(&self, number: usize, state: NodeState) {
        let (life, version) = (self.nodes[number].life(), String::new());
        let profile = Profile { address: life.node.to_string(), life, state, version, sees_kafka: true, devices: None };
        self.nodes[number].registrar.directory().renew(&profile).await.unwrap();
    }

    pub(super) async fn renew_all_but(&self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.renew(other, NodeState::Ready).await;
        }
    }

    /// The clock of the directory and the commands goes on; nobody extends a lease.
    pub(super) fn moves(&self, ms: u64) {
        self.now_us.fetch_add(ms * 1_000, Ordering::SeqCst);
    }

    /// The clock goes on, and everybody lives.
    pub(super) async fn passes(&self, ms: u64) {
        self.moves(ms);
        for number in (0..self.nodes.len()).chain(0..self.nodes.len()) {
            self.renew(number, NodeState::Ready).await;
        }
    }

    async fn claim(&self, number: usize, name: &str, boot: &str, max_bytes: Option<usize>) -> (SessionId, Epoch) {
        let (life, device, connection) = (self.nodes[number].life(), device(name), SessionId::draw());
        let boot = Boot::new(boot).unwrap();
        let claim = Claim {
            life: &life,
            device: &device,
            connection,
            boot: &boot,
            boot_given: true,
            max_bytes,
            floor: Epoch(0),
            insist: false,
        };
        (connection, self.ownership.claim(&claim).await.unwrap().epoch)
    }

    /// A device claimed by a node, not in its roster yet.
    pub(super) async fn claims(&self, number: usize, name: &str) -> Arc<Mailbox> {
        let (session, epoch) = self.claim(number, name, "boot", None).await;
        let mailbox = Arc::new(Mailbox::new(session, Boot::new("boot").unwrap(), Standing::Registered));
        mailbox.set_epoch(epoch);
        mailbox
    }

    /// A device claimed by a node, and connected there.
    pub(super) async fn connects(&self, number: usize, name: &str) -> Arc<Mailbox> {
        let mailbox = self.claims(number, name).await;
        assert!(self.nodes[number].roster.install(&device(name), Arc::clone(&mailbox), mailbox.epoch()));
        mailbox
    }

    /// A device that can take messages of so many bytes at most, connected to a node.
    pub(super) async fn connects_small(&self, number: usize, name: &str, max_bytes: usize) -> Arc<Mailbox> {
        let (session, epoch) = self.claim(number, name, "boot", Some(max_bytes)).await;
        let mailbox = Mailbox::new(session, Boot::new("boot").unwrap(), Standing::Registered);
        let mailbox = Arc::new(mailbox.with_max_bytes(Some(max_bytes)));
        assert!(self.nodes[number].roster.install(&device(name), Arc::clone(&mailbox), epoch));
        mailbox
    }

    /// A device connected to a node, and not claimed.
    pub(super) async fn connects_as(&self, number: usize, name: &str, standing: Standing) -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::new(SessionId::draw(), Boot::new("boot").unwrap(), standing));
        self.nodes[number].roster.enter(&device(name), Arc::clone(&mailbox), Epoch(5));
        mailbox
    }

    /// Another node's row for a device, of this boot.
    pub(super) async fn takes_over(&self, number: usize, name: &str, boot: &str) -> Epoch {
        self.claim(number, name, boot, None).await.1
    }

    pub(super) fn leaves(&self, number: usize, mailbox: &Arc<Mailbox>) {
        assert!(self.nodes[number].roster.leave(&device("d"), mailbox));
    }

    pub(super) async fn releases(&self, number: usize, name: &str, epoch: Epoch) {
        let life = self.nodes[number].life();
        assert!(self.ownership.release(&life, &device(name), Fence::Epoch(epoch), None).await.unwrap());
    }

    pub(super) fn row(&self, name: &str) -> Row {
        let row = self.ownership.holder(&device(name)).unwrap();
        Row { node: row.owner.node, incarnation: row.owner.incarnation, epoch: row.epoch }
    }
}
