//! O6: presence, folded as its readers do, never says `offline` of a device that is connected. Nodes in one process, with
//! the directory in memory and a log that is looked at record by record.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate::connection::{Entry, Node, serve};
use tidegate::eventlog::{
    AppendError, Deliveries, EventLog, Kind, LogFuture, Outcome, Pending, ProbeError, Record, Ticket, Topic,
};
use tidegate::id::{Boot, DeviceKey, NodeName};
use tidegate::keeper::{Keeper, Parts};
use tidegate::limits::Limits;
use tidegate::ownership::NodeLife;
use tidegate::ownership::memory::MemoryOwnership;
use tidegate::protocol::Encoding;
use tidegate::receipts::{Batch, Receipts};
use tidegate::registrar::Registrar;
use tidegate::telemetry::metrics::{Metrics, PeerKind};
use tokio::io::{AsyncReadExt, DuplexStream};

/// What readers know, and what is true.
#[derive(Default)]
struct Judge {
    /// By device: the highest epoch, and whether it was `offline`, which wins where both have it.
    folded: HashMap<String, (u64, bool)>,
    /// Under which epoch a device is connected.
    connected: HashMap<String, u64>,
    events: usize,
    faults: Vec<String>,
}

impl Judge {
    fn event(&mut self, device: &str, online: bool, epoch: u64) {
        self.events += 1;
        let known = self.folded.entry(device.to_owned()).or_insert((epoch, !online));
        *known = (epoch, !online).max(*known);
        let (newest, offline) = *known;
        // With an older `offline` the newer `online` is still to come.
        if let Some(&current) = self.connected.get(device)
            && offline
            && newest >= current
        {
            self.faults.push(format!("{device} is connected under {current} and said to be offline under {newest}"));
        }
    }

    fn says_online(&self, device: &str, epoch: u64) -> bool {
        self.folded.get(device) == Some(&(epoch, false))
    }
}

#[test]
fn the_judge_finds_an_offline_of_a_connected_device_and_no_other() {
    let mut judge = Judge::default();
    judge.event("d", true, 5);
    judge.connected.insert("d".into(), 6);
    judge.event("d", false, 5);
    assert!(judge.faults.is_empty() && !judge.says_online("d", 6), "the newer online is still to come");
    judge.event("d", true, 6);
    judge.event("d", false, 4);
    assert!(judge.faults.is_empty() && judge.says_online("d", 6));
    judge.event("d", false, 6);
    assert_eq!(judge.faults.len(), 1);
}

/// Stores at once, and shows presence to the judge.
struct WatchedLog {
    receipts: Arc<Receipts>,
    judge: Arc<Mutex<Judge>>,
}

impl EventLog for WatchedLog {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        if matches!(record.kind, Kind::Online | Kind::Offline) {
            let online = record.kind == Kind::Online;
            self.judge.lock().unwrap().event(record.key.device(), online, record.epoch.0);
        }
        self.receipts.settled(ticket, record.value.len(), Outcome::Stored);
        Ok(())
    }

    fn pending(&self) -> Pending {
        Pending::default()
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

struct One {
    node: Arc<Node>,
    registrar: Arc<Registrar>,
}

async fn node(name: &str, directory: &Arc<MemoryOwnership>, judge: &Arc<Mutex<Judge>>) -> One {
    let limits = Limits::default();
    let receipts = Arc::new(Receipts::new(&limits));
    let log = Arc::new(WatchedLog { receipts: Arc::clone(&receipts), judge: Arc::clone(judge) });
    let life = NodeLife::begin(NodeName::new(name).unwrap());
    let registrar = Arc::new(Registrar::new(Arc::clone(directory) as _, life));
    let metrics = Metrics::new().unwrap();
    let mut node = Node::new(limits, log, Arc::clone(&receipts), None, metrics.clone());
    node.registrar = Some(Arc::clone(&registrar));
    let keeper = Keeper::new(Parts {
        registrar: Arc::clone(&registrar),
        roster: Arc::clone(&node.roster),
        log: Arc::clone(&node.log),
        receipts: Arc::clone(&receipts),
        courier: None,
        metrics,
        address: String::new(),
    });
    keeper.begin().await.unwrap();
    keeper.spawn();
    tokio::spawn(async move {
        let mut batch = Batch::default();
        loop {
            std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
        }
    });
    One { node: Arc::new(node), registrar }
}

impl One {
    /// A device comes; its end of the socket, and the epoch its welcome says.
    async fn connect(&self, key: &DeviceKey) -> (DuplexStream, u64) {
        let held = self.node.roster.find(key).map(|(_, epoch)| epoch);
        let tenure = self.registrar.claim(key, Some(Boot::new("one").unwrap()), None, held).await.unwrap();
        let (ours, mut theirs) = tokio::io::duplex(16 * 1024);
        let entry = Entry {
            kind: PeerKind::Device,
            key: key.clone(),
            app: None,
            boot: None,
            tenure: Some(Box::new(tenure)),
            encoding: Encoding::Json,
            deflate: None,
            // Nobody answers pings here.
            heartbeat_s: 3_600,
            max_bytes: None,
            token_expires_ms: None,
            signed_by: None,
            close_drop: false,
            early: Vec::new(),
        };
        tokio::spawn(serve(ours, entry, Arc::clone(&self.node)));
        let mut head = [0; 2];
        theirs.read_exact(&mut head).await.unwrap();
        let length = match head[1] {
            126 => usize::from(theirs.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        theirs.read_exact(&mut payload).await.unwrap();
        let welcome: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        (theirs, welcome["epoch"].as_u64().unwrap())
    }
}

/// One device that comes again and again, mostly before its old socket died, to a node drawn at random each time.
async fn restless(nodes: Arc<Vec<One>>, judge: Arc<Mutex<Judge>>, number: u64, times: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ number);
    let name = format!("d{number}");
    let key = DeviceKey::new("acme", &name).unwrap();
    let mut sockets = VecDeque::new();
    let mut epoch_before = 0;
    for _ in 0..times {
        if random.u8(..4) == 0 {
            // All dead before it comes back.
            judge.lock().unwrap().connected.remove(&name);
            sockets.clear();
            if random.bool() {
                tokio::task::yield_now().await;
            }
        }
        let (socket, epoch) = random.choice(nodes.iter()).unwrap().connect(&key).await;
        assert!(epoch > epoch_before, "epochs of a device only grow: {epoch} after {epoch_before}");
        epoch_before = epoch;
        judge.lock().unwrap().connected.insert(name.clone(), epoch);
        sockets.push_back(socket);
        // The older ones die some time later.
        while sockets.len() > 1 + random.usize(..4) {
            sockets.pop_front();
        }
    }
    while sockets.len() > 1 {
        sockets.pop_front();
    }
    // The newest stays to the end of the test.
    std::mem::forget(sockets);
}

async fn never_offline_while_connected(names: &[&str], devices: u64, times: usize) {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let clock = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let directory = Arc::new(MemoryOwnership::new(Arc::new(clock), Arc::new(|_| false)));
    let judge = Arc::<Mutex<Judge>>::default();
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(node(name, &directory, &judge).await);
    }
    let nodes = Arc::new(nodes);
    let restless = |number| restless(Arc::clone(&nodes), Arc::clone(&judge), number, times, seed);
    futures_util::future::join_all((0..devices).map(|number| tokio::spawn(restless(number)))).await;
    let all_online = || {
        let judge = judge.lock().unwrap();
        judge.connected.len() as u64 == devices
            && judge.connected.iter().all(|(device, epoch)| judge.says_online(device, *epoch))
    };
    let is_over = || nodes.iter().all(|one| one.registrar.is_settled()) && all_online();
    let connections = || nodes.iter().map(|one| one.node.receipts.connections() as u64).sum::<u64>();
    // The last of those that were replaced have gone too, and have said whatever they say.
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !(is_over() && connections() == devices) {
        nodes.iter().for_each(|one| one.node.sweep());
        if tokio::time::Instant::now() > end {
            let faults: Vec<_> = judge.lock().unwrap().faults.iter().take(5).cloned().collect();
            panic!("seed {seed}: {} connections, all online: {}, {faults:#?}", connections(), all_online());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let judge = judge.lock().unwrap();
    let some: Vec<_> = judge.faults.iter().take(5).collect();
    assert!(some.is_empty(), "seed {seed}: {} times, of {} events: {some:#?}", judge.faults.len(), judge.events);
    eprintln!("{} connects, {} presence events, nobody said to be offline", devices * times as u64, judge.events);
}

/// F37.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_to_the_same_node_10_000_times_is_never_said_to_be_offline() {
    never_offline_while_connected(&["one"], 20, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_between_nodes_is_never_said_to_be_offline() {
    never_offline_while_connected(&["one", "two", "three"], 20, 250).await;
}
