//! A node in this process on the memory twins, with its public port, and a client of its API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tidegate::api::{self, Gate};
use tidegate::auth::signing::{SigningKey, TokenRequest};
use tidegate::auth::{AuthConfig, Authenticator, TokenAlgorithm};
use tidegate::commands::memory::MemoryCommands;
use tidegate::commands::{Row, SharedCommands};
use tidegate::connection::Node;
use tidegate::courier::Courier;
use tidegate::eventlog::memory::{MemoryLimits, MemoryLog};
use tidegate::id::{DeviceKey, Epoch, NodeName};
use tidegate::limits::Limits;
use tidegate::ownership::memory::MemoryOwnership;
use tidegate::ownership::{NodeLife, NodeState, Ownership as _, Profile};
use tidegate::peer::memory::MemoryNetwork;
use tidegate::peer::{Ending, Evicted, Peer, PeerHandler, PeerLink as _, PeerTimes, Rung, Traced};
use tidegate::receipts::{Batch, Receipts};
use tidegate::registrar::Registrar;
use tidegate::router::{Parts, Router};
use tidegate::socket::client::Client;
use tidegate::socket::listener::{self, ListenerSettings};
use tidegate::telemetry::metrics::Metrics;
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {text}", self.status))
    }

    pub fn detail(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// A peer that holds a device and is told what happens to it.
#[derive(Default)]
pub struct Other(pub std::sync::Mutex<Vec<(String, u64)>>);

impl PeerHandler for Other {
    fn is_me(&self, _: &NodeLife) -> bool {
        true
    }

    fn ring(&self, _: &DeviceKey, _: Epoch) -> Rung {
        Rung::NotHere { known: None }
    }

    fn evict(&self, device: &DeviceKey, epoch: Epoch) -> Evicted {
        self.0.lock().unwrap().push((device.to_string(), epoch.0));
        Evicted::Closed
    }

    fn ended(&self, _: Ending) {}

    fn sweep(&self) {}

    fn trace(&self, device: &DeviceKey, epoch: Epoch, for_s: u32) -> Traced {
        self.0.lock().unwrap().push((device.to_string(), epoch.0));
        if for_s == 1 { Traced::Full } else { Traced::Begun }
    }
}

pub struct Rig {
    pub node: Arc<Node>,
    pub ownership: Arc<MemoryOwnership>,
    pub registrar: Arc<Registrar>,
    pub commands: SharedCommands,
    pub other: Arc<Other>,
    pub other_life: NodeLife,
    pub public: SocketAddr,
    pub alone: SocketAddr,
    key: SigningKey,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn profile(life: NodeLife, address: &str) -> Profile {
    Profile {
        life,
        address: address.into(),
        state: NodeState::Ready,
        version: "1".into(),
        sees_kafka: true,
        devices: None,
    }
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(Limits::default(), |_| {}).await
    }

    pub async fn with(limits: Limits, configure: impl FnOnce(&mut Gate)) -> Self {
        let metrics = Metrics::new().unwrap();
        let receipts = Arc::new(Receipts::new(&limits));
        let log = MemoryLog::start(MemoryLimits::default(), Arc::clone(&receipts) as _, &metrics).unwrap();
        let key = SigningKey::generate(TokenAlgorithm::ES256).unwrap();
        let auth = AuthConfig { jwks: key.jwks(), ..AuthConfig::default() };
        let auth = Arc::new(Authenticator::new(auth, limits.token_bytes, limits.token_cache).unwrap());
        auth.refresh_now().await;
        let mut node = Node::new(limits, Arc::new(log), Arc::clone(&receipts), Some(auth), metrics.clone());

        let clock = Arc::new(|| u64::try_from(now().as_micros()).unwrap());
        let ownership = Arc::new(MemoryOwnership::new(clock, Arc::new(|_| false)));
        let rows = {
            let ownership = Arc::clone(&ownership);
            move |device: &DeviceKey| {
                let row = ownership.row(device).now_or_never().unwrap().unwrap()?;
                Some(Row { node: row.owner.node, incarnation: row.owner.incarnation, epoch: row.epoch })
            }
        };
        let clock = Arc::new(|| i64::try_from(now().as_millis()).unwrap());
        let commands: SharedCommands = Arc::new(MemoryCommands::new(clock, Arc::new(rows)));
        let life = |name| NodeLife::begin(NodeName::new(name).unwrap());
        let (me, other_life) = (life("gw-a"), life("gw-b"));
        let registrar = Arc::new(Registrar::new(Arc::clone(&ownership) as _, me.clone()));
        registrar.directory().renew(&profile(other_life.clone(), "b")).await.unwrap();
        registrar.directory().renew(&profile(me, "a")).await.unwrap();
        node.registrar = Some(Arc::clone(&registrar));

        let network = MemoryNetwork::new(PeerTimes::default(), 1);
        let other = Arc::new(Other::default());
        network.join("b", Arc::clone(&other) as _);
        let link = network.join("a", Arc::new(Other::default()));
        link.set_live(vec![Peer { life: other_life.clone(), address: "b".into() }]);
        let courier = Courier::new(Arc::clone(&commands), metrics.clone());
        node.courier = Some(Arc::clone(&courier));
        let parts = Parts {
            courier,
            roster: Arc::clone(&node.roster),
            registrar: Arc::clone(&registrar),
            peers: Arc::new(link),
            traces: Arc::clone(&node.traces),
            metrics: metrics.clone(),
        };
        let router = Router::new(parts);
        let node = Arc::new(node);
        tokio::spawn(api::bring(Arc::clone(&router), node.apps.orders().unwrap()));
        let mut gate = Gate::new(Arc::clone(&node));
        gate.router = Some(router);
        configure(&mut gate);
        let gate = Arc::new(gate);
        let (public, alone) = (serve(&node, &gate, true), serve(&node, &gate, false));
        tokio::spawn(async move {
            let mut batch = Batch::default();
            loop {
                std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
            }
        });
        Self { node, ownership, registrar, commands, other, other_life, public, alone, key }
    }

    /// Makes the releases that wait, as a keeper does.
    pub async fn make_releases(&self) {
        for release in self.registrar.due_releases(100).await {
            let (life, last) = (&release.life, release.last.as_ref());
            self.ownership.release(life, &release.device, release.fence, last).await.unwrap();
            self.registrar.released(None);
        }
    }

    pub fn token_for(&self, sub: &str, tenant: &str, scopes: &[&str], devices: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let request = TokenRequest {
            sub: sub.into(),
            tenant: Some(tenant.into()),
            scopes: owned(scopes),
            devices: owned(devices),
            ttl_s: 3_600,
            issuer: "tidegate".into(),
            audience: "tidegate".into(),
        };
        self.key.sign_token(&request, now().as_secs()).unwrap()
    }

    /// A token of an application that may do everything.
    pub fn app(&self, tenant: &str) -> String {
        self.token_for("console", tenant, &["commands:write", "telemetry:read", "admin"], &[])
    }

    /// Looks for commands of a device all the time: its doorbell, whoever else rings it.
    pub fn ring(&self, device: &str) {
        let (node, key) = (Arc::clone(&self.node), DeviceKey::new("acme", device).unwrap());
        tokio::spawn(async move {
            loop {
                if let (Some((mailbox, _)), Some(courier)) = (node.roster.find(&key), &node.courier) {
                    courier.ring(&key, &mailbox);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Connects a device, and returns once it was greeted.
    pub async fn device(&self, tenant: &str, device: &str) -> Client {
        let token = self.token_for(device, tenant, &["device"], &[]);
        let mut client = Client::connect(&format!("ws://{}/v1/device", self.public), Some(&token), None).await.unwrap();
        client.receive_text().await.unwrap();
        client
    }

    /// Connects an application's socket.
    pub async fn socket(&self, token: &str) -> Client {
        let url = format!("ws://{}/v1/app", self.public);
        let mut client = Client::connect(&url, Some(token), None).await.unwrap();
        client.receive_text().await.unwrap();
        client
    }

    /// Asks; `body` is JSON where there is one.
    pub async fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_with(token, method, path, body.map(|body| body.to_string()).as_deref(), &[]).await
    }

    /// Asks, and has a key.
    pub async fn ask_keyed(&self, token: &str, path: &str, key: &str, body: Value) -> Answer {
        self.ask_with(token, "POST", path, Some(&body.to_string()), &[("idempotency-key", key)]).await
    }

    pub async fn ask_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "gateway.example");
        }
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        send(self.public, request.body(Full::from(body.unwrap_or_default().to_owned())).unwrap()).await
    }
}

fn serve(node: &Arc<Node>, gate: &Arc<Gate>, public: bool) -> SocketAddr {
    let port = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.local_addr().unwrap();
    let doors = ListenerSettings::new(node.limits.clone(), node.metrics.clone(), None, false);
    let gate = Arc::clone(gate);
    if public {
        let routes = api::public(Arc::clone(&gate));
        let handler = move |incoming| api::serve(incoming, routes.clone(), Arc::clone(&gate));
        tokio::spawn(listener::serve(port, Arc::new(doors), handler));
    } else {
        let routes = api::alone(Arc::clone(&gate));
        let handler = move |incoming| api::serve_alone(incoming, routes.clone(), Arc::clone(&gate));
        tokio::spawn(listener::serve(port, Arc::new(doors), handler));
    }
    address
}

/// One request on a connection of its own.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    answer(sender.send_request(request).await.unwrap()).await
}

pub async fn answer(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}
