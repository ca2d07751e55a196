//! A node within the test's own process, on a real Kafka: for what no process can be told from outside, such as that
//! its producer has failed for good.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::api::{self, Gate};
use tidegate::auth::signing::SigningKey;
use tidegate::auth::{AuthConfig, Authenticator, TokenAlgorithm};
use tidegate::connection::{Node, TICK_MS};
use tidegate::eventlog::EventLog;
use tidegate::eventlog::kafka::{KafkaConfig, KafkaLog};
use tidegate::limits::Limits;
use tidegate::receipts::{Batch, Receipts};
use tidegate::socket::listener::{self, ListenerSettings};
use tidegate::telemetry::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const START: Duration = Duration::from_secs(30);
const FLOW: Duration = Duration::from_millis(100);

/// The node, its log and its keys.
pub(crate) struct Library {
    /// Where its records go.
    pub(crate) log: Arc<KafkaLog>,
    /// Where devices connect.
    pub(crate) addr: SocketAddr,
    /// What signs their tokens.
    pub(crate) key: SigningKey,
    node: Arc<Node>,
    runtime: Runtime,
}

impl Library {
    /// Starts it in front of `brokers`, with the topics of `prefix`.
    pub(crate) fn start(brokers: &str, prefix: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let limits = Limits::default();
        let receipts = Arc::new(Receipts::new(&limits));
        let config = KafkaConfig { brokers: brokers.into(), topic_prefix: prefix.into(), ..KafkaConfig::default() };
        let metrics = Metrics::new().unwrap();
        let log = KafkaLog::start(&config, &limits, START, Arc::clone(&receipts) as _, &metrics);
        let log = Arc::new(log.unwrap());
        let key = SigningKey::generate(TokenAlgorithm::ES256).unwrap();
        let auth = AuthConfig { jwks: key.jwks(), ..AuthConfig::default() };
        let auth = Arc::new(Authenticator::new(auth, limits.token_bytes, limits.token_cache).unwrap());
        runtime.block_on(auth.refresh_now());
        let node = Arc::new(Node::new(limits, Arc::clone(&log) as _, receipts, Some(auth), metrics));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(keep(Arc::clone(&node)));
        runtime.spawn(accept(listener, Arc::clone(&node)));
        Self { log, addr, key, node, runtime }
    }

    /// Ends it as a shutdown does. Gives how many records were left.
    pub(crate) fn stop(self) -> usize {
        self.node.stop();
        self.runtime.block_on(self.log.close(START))
    }
}

/// What a node does beside its connections.
async fn keep(node: Arc<Node>) {
    let (receipts, mut batch) = (Arc::clone(&node.receipts), Batch::default());
    tokio::spawn(async move {
        loop {
            std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
        }
    });
    let (mut flow, mut sweep) = (tokio::time::interval(FLOW), tokio::time::interval(Duration::from_millis(TICK_MS)));
    loop {
        tokio::select! {
            _ = flow.tick() => node.watch_flow(),
            _ = sweep.tick() => node.sweep(),
        }
    }
}

async fn accept(listener: TcpListener, node: Arc<Node>) {
    let doors = ListenerSettings::new(node.limits.clone(), node.metrics.clone(), None, false);
    let gate = Arc::new(Gate::new(node));
    let routes = api::public(Arc::clone(&gate));
    let handler = move |incoming| api::serve(incoming, routes.clone(), Arc::clone(&gate));
    listener::serve(listener, Arc::new(doors), handler).await;
}
