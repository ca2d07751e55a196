//! Small clusters on either twin, a wire that can be held, and certificates.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tidegate::id::{CommandId, DeviceKey, Epoch, Incarnation, NodeName};
use tidegate::ownership::NodeLife;
use tidegate::peer::memory::MemoryNetwork;
use tidegate::peer::{
    Ending, Evicted, GrpcPeers, Peer, PeerConfig, PeerHandler, PeerLink, PeerServer, PeerTimes, PeerTls, Rung, Traced,
};
use tidegate::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Times so long that only what hangs for ever meets them, however busy the machine is.
pub(crate) fn patient() -> PeerTimes {
    let long = Duration::from_secs(30);
    PeerTimes {
        deadline: long,
        connect: Duration::from_secs(20),
        keep_alive_every: long,
        keep_alive_timeout: long,
        first_call: long,
        ..PeerTimes::default()
    }
}

/// The same, but a call to somebody silent ends soon, and nobody is made to wait after a failure.
pub(crate) fn quick() -> PeerTimes {
    PeerTimes {
        deadline: Duration::from_millis(700),
        backoff: Duration::from_millis(1),
        longest_backoff: Duration::from_millis(1),
        ..patient()
    }
}

pub(crate) fn device(name: &str) -> DeviceKey {
    DeviceKey::new("t", name).unwrap()
}

pub(crate) fn life(node: &str) -> NodeLife {
    NodeLife { node: NodeName::new(node).unwrap(), incarnation: Incarnation::draw() }
}

pub(crate) fn ending(name: &str, detail_bytes: usize) -> Ending {
    let command = CommandId::of(&device(name), "app", "key");
    Ending { device: device(name), command, version: 4, detail: vec![b' '; detail_bytes] }
}

/// A node that holds devices and writes down what it is asked.
pub(crate) struct Recorder {
    life: NodeLife,
    devices: Mutex<HashMap<DeviceKey, Epoch>>,
    heard: Mutex<Vec<String>>,
    endings: Mutex<Vec<Ending>>,
}

impl Recorder {
    pub(crate) fn new(life: NodeLife) -> Arc<Self> {
        Arc::new(Self { life, devices: Mutex::default(), heard: Mutex::default(), endings: Mutex::default() })
    }

    pub(crate) fn holds(&self, name: &str, epoch: u64) {
        self.devices.lock().unwrap().insert(device(name), Epoch(epoch));
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.endings.lock().unwrap().clone()
    }
}

impl PeerHandler for Recorder {
    fn is_me(&self, life: &NodeLife) -> bool {
        *life == self.life
    }

    fn ring(&self, device: &DeviceKey, epoch: Epoch) -> Rung {
        self.heard.lock().unwrap().push(format!("ring {device} {epoch}"));
        let known = self.devices.lock().unwrap().get(device).copied();
        if known == Some(epoch) { Rung::Delivered } else { Rung::NotHere { known } }
    }

    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        let mut devices = self.devices.lock().unwrap();
        match devices.get(device).copied() {
            None => Evicted::Absent,
            Some(known) if known >= epoch => Evicted::Newer(known),
            Some(_) => {
                devices.remove(device);
                Evicted::Closed
            }
        }
    }

    fn ended(&self, ending: Ending) {
        self.endings.lock().unwrap().push(ending);
    }

    fn sweep(&self) {
        self.heard.lock().unwrap().push("sweep".into());
    }

    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        self.heard.lock().unwrap().push(format!("trace {device} {epoch} {for_s}"));
        match self.devices.lock().unwrap().get(device).copied() {
            Some(known) if known == epoch && for_s == 0 => Traced::Full,
            Some(known) if known == epoch => Traced::Begun,
            known => Traced::NotHere { known },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twin {
    Memory,
    Plain,
    Tls,
}

pub(crate) struct Node {
    pub(crate) life: NodeLife,
    pub(crate) address: String,
    pub(crate) handler: Arc<Recorder>,
    pub(crate) link: Arc<dyn PeerLink>,
    server: Option<JoinHandle<()>>,
    wire: Option<Wire>,
}

impl Node {
    pub(crate) fn peer(&self) -> Peer {
        Peer { life: self.life.clone(), address: self.address.clone() }
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    network: Arc<MemoryNetwork>,
    _certificates: Certificates,
}

impl Cluster {
    /// So many nodes that know of each other.
    pub(crate) async fn start(twin: Twin, count: usize, times: PeerTimes) -> Self {
        let (network, certificates) = (MemoryNetwork::new(times, 1), Certificates::new());
        let mut nodes = Vec::new();
        for at in 0..count {
            let life = life(&format!("n{at}"));
            let handler = Recorder::new(life.clone());
            let node = if twin == Twin::Memory {
                let address = format!("memory:{at}");
                let link = Arc::new(network.join(&address, Arc::clone(&handler) as _));
                Node { life, address, handler, link, server: None, wire: None }
            } else {
                let tls = (twin == Twin::Tls).then(|| certificates.load());
                let (address, server) = serve(&handler, tls.clone(), times).await;
                let wire = Wire::to(address).await;
                let link = Arc::new(GrpcPeers::new(tls, times, Metrics::new().unwrap()));
                let address = wire.address.to_string();
                Node { life, address, handler, link, server: Some(server), wire: Some(wire) }
            };
            nodes.push(node);
        }
        let peers: Vec<Peer> = nodes.iter().map(Node::peer).collect();
        nodes.iter().for_each(|node| node.link.set_live(peers.clone()));
        Self { nodes, network, _certificates: certificates }
    }

    /// Nothing comes to the node or from it any more, and no connection ends by that; or all does again.
    pub(crate) fn silence(&self, node: &Node, silent: bool) {
        if let Some(wire) = &node.wire {
            wire.held.send_replace(silent);
            return;
        }
        if !silent {
            return self.network.heal();
        }
        for other in self.nodes.iter().filter(|other| other.address != node.address) {
            self.network.cut(&other.address, &node.address);
            self.network.cut(&node.address, &other.address);
        }
    }

    /// The node's process is no more.
    pub(crate) async fn end(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.network.leave(&node.address);
        if let Some(server) = node.server.take() {
            server.abort();
            assert!(server.await.unwrap_err().is_cancelled());
        }
        if let Some(wire) = node.wire.take() {
            wire.task.abort();
            assert!(wire.task.await.unwrap_err().is_cancelled());
        }
    }

    pub(crate) async fn until_it_answers(&self, from: &Node, to: &Node) {
        until("the peer answers again", async || from.link.sweep(&to.life).await.is_ok()).await;
    }
}

/// Tries until it holds, 30 s at most.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A server on a port of its own, ended with the task.
pub(crate) async fn serve(
    handler: &Arc<Recorder>,
    tls: Option<Arc<PeerTls>>,
    times: PeerTimes,
) -> (SocketAddr, JoinHandle<()>) {
    let server = PeerServer::bind("127.0.0.1:0", Arc::clone(handler) as _, tls, times).await.unwrap();
    let address = server.local_address().unwrap();
    (address, tokio::spawn(server.serve(std::future::pending())))
}

/// A link that knows one peer.
pub(crate) fn link_to(
    life: &NodeLife,
    address: SocketAddr,
    tls: Option<Arc<PeerTls>>,
    times: PeerTimes,
) -> (GrpcPeers, Metrics) {
    let metrics = Metrics::new().unwrap();
    let link = GrpcPeers::new(tls, times, metrics.clone());
    link.set_live(vec![Peer { life: life.clone(), address: address.to_string() }]);
    (link, metrics)
}

/// A wire in front of a server. Held, it takes connections and reads nothing more.
struct Wire {
    address: SocketAddr,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, hold) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let hold = hold.clone();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    // Either end closes both.
                    tokio::select! {
                        () = pass(near_in, far_out, hold.clone()) => {}
                        () = pass(far_in, near_out, hold) => {}
                    }
                });
            }
        });
        Self { address, held, task }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut hold: watch::Receiver<bool>,
) {
    let mut buffer = [0; 4096];
    loop {
        if hold.wait_for(|held| !held).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if hold.wait_for(|held| !held).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Who signs certificates of peers.
pub(crate) struct Authority {
    pub(crate) cert: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("peers {:08x}", fastrand::u32(..)));
        let cert = params.self_signed(&key).unwrap();
        Self { cert, issuer: Issuer::new(params, key) }
    }
}

/// A directory with what one node has: `cert.pem`, `key.pem` and `ca.pem`.
pub(crate) struct Certificates {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let this = Self { dir: TempDir::new().unwrap(), authority: Authority::new() };
        this.write_leaf(&this.authority, "tidegate-peer", 2090);
        this.write_authorities(&[&this.authority]);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the new certificate, DER.
    pub(crate) fn write_leaf(&self, authority: &Authority, name: &str, last_year: i32) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let cert = params.signed_by(&key, &authority.issuer).unwrap();
        write(&self.path("cert.pem"), &cert.pem());
        write(&self.path("key.pem"), &key.serialize_pem());
        cert.der().to_vec()
    }

    pub(crate) fn write_authorities(&self, authorities: &[&Authority]) {
        let pem: String = authorities.iter().map(|authority| authority.cert.pem()).collect();
        write(&self.path("ca.pem"), &pem);
    }

    pub(crate) fn config(&self) -> PeerConfig {
        let [tls_cert, tls_key, tls_ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| self.path(name));
        PeerConfig { tls_cert, tls_key, tls_ca, ..PeerConfig::default() }
    }

    pub(crate) fn load(&self) -> Arc<PeerTls> {
        Arc::new(PeerTls::load(&self.config()).unwrap().unwrap())
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
