//! The nodes of `tidegate dev`: one or several in this process, which share a directory and the commands, and call each
//! other in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{CONSOLE, DEVICE, DevOptions, Failure, TENANT};
use crate::api::{self, Gate, Health};
use crate::app::{self, keepers};
use crate::auth::Authenticator;
use crate::commands::memory::MemoryCommands;
use crate::connection::Node;
use crate::courier::Courier;
use crate::id::{DeviceKey, NodeName};
use crate::keeper::Keeper;
use crate::limits::Limits;
use crate::ownership::NodeLife;
use crate::ownership::memory::{Clock, MemoryOwnership};
use crate::peer::memory::MemoryNetwork;
use crate::peer::{PeerHandler, PeerTimes};
use crate::receipts::Receipts;
use crate::registrar::Registrar;
use crate::revocations::RevocationWriter;
use crate::revocations::memory::MemoryTopic;
use crate::router::memory::memory_pair;
use crate::router::{Parts, Router};
use crate::socket::listener::{self, ListenerSettings};
use crate::telemetry::metrics::Metrics;

/// Microseconds since 1970.
fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// What the nodes share.
pub(super) struct Cluster {
    options: DevOptions,
    limits: Limits,
    auth: Arc<Authenticator>,
    ownership: Arc<MemoryOwnership>,
    commands: Arc<MemoryCommands>,
    network: Arc<MemoryNetwork>,
    revocations: Arc<MemoryTopic>,
}

/// One of them, which accepts.
pub(super) struct Member {
    pub(super) address: SocketAddr,
    pub(super) node: Arc<Node>,
    keeper: Arc<Keeper>,
    router: Arc<Router>,
    accepting: JoinHandle<()>,
}

impl Cluster {
    /// Without a node.
    pub(super) fn new(options: &DevOptions, limits: Limits, auth: Arc<Authenticator>) -> Self {
        let (ownership, commands) = memory_pair(clock());
        let network = MemoryNetwork::new(PeerTimes::default(), 0);
        Self { options: options.clone(), limits, auth, ownership, commands, network, revocations: Arc::default() }
    }

    /// Starts as many as were asked for: the first at the address that was asked for, the others at the next ones that
    /// are free.
    pub(super) async fn start(&self) -> Result<Vec<Member>, Failure> {
        let mut members: Vec<Member> = Vec::new();
        for number in 1..=self.options.nodes {
            let port = match members.last() {
                None => bind(self.wanted())?,
                Some(before) => bind_behind(before.address, self.wanted().port())?,
            };
            members.push(self.one(number, port).await?);
        }
        Ok(members)
    }

    fn wanted(&self) -> SocketAddr {
        let listen = self.options.listen;
        if self.options.lan { SocketAddr::from(([0, 0, 0, 0], listen.port())) } else { listen }
    }

    async fn one(&self, number: usize, port: tokio::net::TcpListener) -> Result<Member, Failure> {
        let name = if self.options.nodes == 1 { "dev".to_owned() } else { format!("dev-{number}") };
        let receipts = Arc::new(Receipts::new(&self.limits));
        let metrics = Metrics::new()?;
        let log = super::event_log(&self.options, &self.limits, &receipts, &metrics).await?;
        let registrar = Registrar::new(Arc::clone(&self.ownership) as _, NodeLife::begin(NodeName::new(&name)?));
        let registrar = Arc::new(registrar);
        let courier = Courier::new(Arc::clone(&self.commands) as _, metrics.clone());
        let mut node = Node::new(self.limits.clone(), log, receipts, Some(Arc::clone(&self.auth)), metrics);
        node.registrar = Some(Arc::clone(&registrar));
        node.courier = Some(Arc::clone(&courier));
        let keeper = keepers::keeper(&node, &registrar, name.clone());
        let node = Arc::new(node);
        keepers::follow(&node, &self.revocations);
        let router = Router::new(Parts {
            courier,
            roster: Arc::clone(&node.roster),
            registrar,
            peers: Arc::new(self.network.link(&name)),
            traces: Arc::clone(&node.traces),
            metrics: node.metrics.clone(),
        });
        router.attach(Arc::clone(&keeper));
        self.network.answer(&name, Arc::clone(&router) as Arc<dyn PeerHandler>);
        router.spawn(Arc::clone(&node.log), &node.receipts);
        keeper.begin().await?;
        let health = Arc::new(Health::default());
        keepers::spawn(&node, &health, &keeper);
        let address = port.local_addr()?;
        let doors = ListenerSettings::new(node.limits.clone(), node.metrics.clone(), None, false);
        let internal = api::internal(Arc::clone(&node), health);
        let accepting = tokio::spawn(app::accept(port, doors, Arc::new(self.gate(&node, &router)?), internal));
        Ok(Member { address, node, keeper, router, accepting })
    }

    fn gate(&self, node: &Arc<Node>, router: &Arc<Router>) -> Result<Gate, Failure> {
        let mut gate = Gate::new(Arc::clone(node));
        gate.router = Some(Arc::clone(router));
        gate.revocations = Some(RevocationWriter::new(Arc::clone(&self.revocations) as _));
        gate.anonymous = if self.options.lan { None } else { Some(DeviceKey::new(TENANT, DEVICE)?) };
        gate.query_token = true;
        gate.console = Some(CONSOLE);
        Ok(gate)
    }
}

impl Member {
    /// Lets its connections go and stores what it has.
    pub(super) async fn leave(self) {
        app::wait_for_connections(&self.node, Instant::now() + Duration::from_secs(5)).await;
        self.accepting.abort();
        let settled_by = Instant::now() + Duration::from_secs(1);
        tokio::join!(self.keeper.finish(settled_by), self.router.flush(settled_by));
        let _left = self.node.log.close(Duration::from_secs(5)).await;
    }
}

fn bind(address: SocketAddr) -> Result<tokio::net::TcpListener, Failure> {
    Ok(listener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?)
}

/// The next port behind one that is taken; where none in particular was asked for, any.
fn bind_behind(taken: SocketAddr, wanted: u16) -> Result<tokio::net::TcpListener, Failure> {
    if wanted == 0 {
        return bind(SocketAddr::new(taken.ip(), 0));
    }
    let behind = (taken.port()..u16::MAX).map(|port| SocketAddr::new(taken.ip(), port + 1));
    let found = behind.take(1_000).find_map(|address| listener::bind(address).ok());
    Ok(found.ok_or_else(|| format!("no port behind {} is free", taken.port()))?)
}
