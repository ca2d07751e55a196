//! Real nodes that are peers over mTLS, on a real Redis and a real Kafka, and a third node in this process that commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::gateway::{Builder, Gateway, http_get};
use support::process::Process;
use support::{ports, wait_for, wait_until};
use tempfile::TempDir;
use tidegate::commands::redis::RedisCommands;
use tidegate::commands::{Reason, State, Submission};
use tidegate::courier::Courier;
use tidegate::eventlog::memory::{MemoryLimits, MemoryLog};
use tidegate::id::{DeviceKey, Epoch, NodeName};
use tidegate::keeper::{self, Keeper};
use tidegate::limits::Limits;
use tidegate::ownership::NodeLife;
use tidegate::ownership::redis::RedisOwnership;
use tidegate::peer::{
    Ending, Evicted, GrpcPeers, PeerConfig, PeerHandler, PeerServer, PeerTimes, PeerTls, Rung, Traced,
};
use tidegate::receipts::{Batch, Receipts};
use tidegate::registrar::Registrar;
use tidegate::roster::Roster;
use tidegate::router::{Parts, Router};
use tidegate::store::{RedisConfig, Store};
use tidegate::telemetry::metrics::{Metrics, PeerOutcome};

/// What takes a few renewals.
const SOON: Duration = Duration::from_secs(60);

/// An authority, and a certificate for every node: `ca.pem`, `cert.pem`, `key.pem`.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["tidegate-peer".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn on(&self, builder: Builder) -> Builder {
        let toml = |path: &Path| format!("'{}'", path.display());
        builder
            .set("peer.plaintext", "false")
            .set("peer.tls_cert", &toml(&self.path("cert.pem")))
            .set("peer.tls_key", &toml(&self.path("key.pem")))
            .set("peer.tls_ca", &toml(&self.path("ca.pem")))
    }

    fn load(&self) -> Arc<PeerTls> {
        let [tls_cert, tls_key, tls_ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| self.path(name));
        let config = PeerConfig { tls_cert, tls_key, tls_ca, ..PeerConfig::default() };
        Arc::new(PeerTls::load(&config).unwrap().unwrap())
    }
}

/// Counts what the origin of a command is told.
struct Told {
    router: Arc<Router>,
    endings: Arc<AtomicU32>,
}

impl PeerHandler for Told {
    fn is_me(&self, life: &NodeLife) -> bool {
        self.router.is_me(life)
    }

    fn ring(&self, device: &DeviceKey, epoch: Epoch) -> Rung {
        self.router.ring(device, epoch)
    }

    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        self.router.evict(device, epoch)
    }

    fn ended(&self, ending: Ending) {
        self.endings.fetch_add(1, Ordering::SeqCst);
        self.router.ended(ending);
    }

    fn sweep(&self) {
        self.router.sweep();
    }

    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        PeerHandler::trace(&*self.router, device, epoch, for_s)
    }
}

/// A node without devices in this process. It never says that it is ready, so no shard falls to it.
struct Third {
    router: Arc<Router>,
    metrics: Metrics,
    log: Arc<MemoryLog>,
    endings: Arc<AtomicU32>,
}

impl Third {
    async fn start(redis: &str, certificates: &Certificates) -> Self {
        let (metrics, receipts) = (Metrics::new().unwrap(), Arc::new(Receipts::new(&Limits::default())));
        let config = RedisConfig { urls: vec![redis.to_owned()], ..RedisConfig::default() };
        let store = Arc::new(Store::connect(&config, SOON).await.unwrap());
        let ownership = Arc::new(RedisOwnership::new(Arc::clone(&store), metrics.clone()));
        let life = NodeLife::begin(NodeName::new("third").unwrap());
        let registrar = Arc::new(Registrar::new(ownership, life));
        let log = MemoryLog::start(MemoryLimits::default(), Arc::clone(&receipts) as _, &metrics).unwrap();
        let (log, roster) = (Arc::new(log), Arc::new(Roster::default()));
        let (tls, times) = (Some(certificates.load()), PeerTimes::default());
        let courier = Courier::new(Arc::new(RedisCommands::new(store)), metrics.clone());
        let router = Router::new(Parts {
            courier: Arc::clone(&courier),
            roster: Arc::clone(&roster),
            registrar: Arc::clone(&registrar),
            peers: Arc::new(GrpcPeers::new(tls.clone(), times, metrics.clone())),
            traces: Arc::default(),
            metrics: metrics.clone(),
        });
        let endings = Arc::default();
        let handler = Arc::new(Told { router: Arc::clone(&router), endings: Arc::clone(&endings) });
        let server = PeerServer::bind("127.0.0.1:0", handler, tls, times).await.unwrap();
        let keeper = Keeper::new(keeper::Parts {
            registrar,
            roster,
            log: Arc::clone(&log) as _,
            receipts: Arc::clone(&receipts),
            courier: Some(courier),
            metrics: metrics.clone(),
            address: server.local_address().unwrap().to_string(),
        });
        tokio::spawn(server.serve(std::future::pending()));
        router.spawn(Arc::clone(&log) as _, &receipts);
        tokio::spawn(async move {
            let mut batch = Batch::default();
            loop {
                std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
            }
        });
        keeper.begin().await.unwrap();
        keeper.spawn();
        Self { router, metrics, log, endings }
    }
}

/// Two nodes that know each other.
fn pair(certificates: &Certificates) -> (Gateway, Gateway) {
    let a = certificates.on(Gateway::build()).start();
    let b = certificates.on(Gateway::build().beside(&a)).start();
    for gateway in [&a, &b] {
        wait_until("each knows the other", SOON, || gateway.metric("tidegate_peers", &[]) == 1.0);
        wait_until("each asks the other", SOON, || gateway.metric("tidegate_peer_requests_total", &["not_here"]) > 0.0);
        assert_eq!(gateway.metric("tidegate_probe_success", &["peer"]), 1.0);
    }
    (a, b)
}

/// `tidegate dev` with three nodes in one process, and nothing installed.
#[test]
fn several_nodes_in_one_process_know_each_other_and_share_the_devices() {
    let dir = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", ports::free());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["dev", "--json", "--nodes", "3", "--devices", "3", "--listen", &listen]);
    let log = dir.path().join("dev.log");
    let mut process = Process::start("tidegate dev", &mut command, &log);
    let nodes = wait_for("the first line names the nodes", SOON, || {
        let text = std::fs::read_to_string(&log).ok()?;
        let line: serde_json::Value = text.lines().find_map(|line| serde_json::from_str(line).ok())?;
        line["nodes"].as_array().cloned()
    });
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[0]["metrics_url"], format!("http://{listen}/metrics"));
    for node in nodes {
        let url = node["metrics_url"].as_str().unwrap();
        let address = url.trim_start_matches("http://").trim_end_matches("/metrics").parse().unwrap();
        let wanted =
            ["tidegate_peers 2", "tidegate_connections{kind=\"device\",state=\"open\"} 1", "{path=\"peer\"} 1"];
        wait_until("it has its share", SOON, || {
            let text = http_get(address, "/metrics").map(|(_, text)| text).unwrap_or_default();
            wanted.iter().all(|wanted| text.contains(wanted))
        });
    }
    process.signal("TERM");
    assert_eq!(process.wait(SOON).code(), Some(0));
}

#[test]
fn the_node_that_lost_a_device_is_told_by_the_one_that_has_it() {
    let certificates = Certificates::new();
    let (a, b) = pair(&certificates);
    let evicted = |gateway: &Gateway| gateway.metric("tidegate_peer_requests_total", &["outcome=\"ok\""]);
    let mut first = a.device("mover", "/v1/device?boot=one");
    let mut second = b.device("mover", "/v1/device?boot=one");
    wait_until("the evict is answered", SOON, || evicted(&b) == 1.0);
    assert_eq!(first.expect_close(SOON), Some(4002));
    let _third = a.device("mover", "/v1/device?boot=two");
    wait_until("the evict is answered", SOON, || evicted(&a) == 1.0);
    assert_eq!(second.expect_close(SOON), Some(4301));
}

#[test]
fn a_command_goes_from_any_node_and_its_end_comes_back_and_into_kafka() {
    let certificates = Certificates::new();
    let (mut a, b) = pair(&certificates);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = a.redis().url();
    let third = runtime.block_on(Third::start(&redis, &certificates));
    for gateway in [&a, &b] {
        wait_until("both know the third", SOON, || gateway.metric("tidegate_peers", &[]) == 2.0);
    }
    let (here, away) = (DeviceKey::new("acme", "here").unwrap(), DeviceKey::new("acme", "away").unwrap());
    let submission = |device, ttl_ms| Submission {
        device,
        application: "app",
        key: "k",
        name: "open",
        params: b"{}",
        ttl_ms,
        since_ms: None,
        max_attempts: 5,
        replace: false,
        only_epoch: None,
        origin: None,
    };
    let _device = b.device("here", "/v1/device?boot=one");
    let rung = || third.metrics.peer_requests.of(PeerOutcome::Ok).get();
    runtime.block_on(third.router.submit(submission(&here, 60_000))).unwrap();
    wait_until("the node of the device hears the doorbell", SOON, || rung() == 1);

    // Nobody has this one: a node that sweeps expires it, publishes that and tells the third.
    let command = runtime.block_on(third.router.submit(submission(&away, 1_000))).unwrap().command;
    let until = tokio::time::Instant::from_std(Instant::now() + SOON);
    let ended = runtime.block_on(third.router.wait(&away, command.id, until)).unwrap();
    assert_eq!((ended.life.state, ended.life.reason), (State::Expired, Some(Reason::Unsent)));
    wait_until("the origin is told", SOON, || third.endings.load(Ordering::SeqCst) > 0);
    let id = format!("{}:2", command.id);
    let event = wait_for("the end is in Kafka", SOON, || {
        let records = a.records("command-events");
        records.into_iter().find(|record| record.header("ce_id") == id)
    });
    assert_eq!((event.key.as_str(), event.header("ce_type")), ("acme/away", "tidegate.command.v1"));
    let value = event.json();
    assert_eq!((value["state"].as_str(), value["reason"].as_str()), (Some("expired"), Some("unsent")));
    assert_eq!(value["requested_by"], "app");
    wait_until("that it is published is noted", SOON, || {
        runtime.block_on(third.router.get(&away, command.id)).unwrap().published
    });
    let accepted = third.log.records().into_iter().map(|record| record.header("ce_id").unwrap().to_owned());
    assert!(accepted.collect::<Vec<_>>().contains(&format!("{}:1", command.id)), "the third published that it took it");
}
