//! `tidegate serve`: what a node is made of, in which order it starts and how it leaves.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::Signals;
use super::consumers::{self, Consumers};
use super::peers;
use crate::api::{self, Gate, Health, Hops};
use crate::auth::Authenticator;
use crate::commands::redis::RedisCommands;
use crate::config::{Config, LogFormat};
use crate::connection::{Ages, Node};
use crate::eventlog::kafka::{KafkaLog, StartError};
use crate::id::NodeName;
use crate::keeper::Keeper;
use crate::ownership::NodeLife;
use crate::ownership::redis::RedisOwnership;
use crate::peer::PeerTls;
use crate::receipts::Receipts;
use crate::registrar::Registrar;
use crate::router::Router;
use crate::socket::listener::{self, ListenerSettings};
use crate::socket::tls::{CertReloader, TlsFiles};
use crate::store::Store;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::otlp::{Exporter, OtlpSettings};

/// The configuration is wrong (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// Something the node needs cannot be reached (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// A node that could not be made known tries again after this.
const INTRODUCED_AGAIN: Duration = Duration::from_millis(250);

/// How long a leaving node tries to have its last spans taken.
const SPANS_SENT_WITHIN: Duration = Duration::from_secs(2);

/// Why a node did not serve: exit code and text.
struct Failure(u8, String);

impl Failure {
    fn config(text: impl Into<String>) -> Self {
        Self(EXIT_CONFIG, text.into())
    }

    fn other(text: impl Into<String>) -> Self {
        Self(1, text.into())
    }
}

/// Serves until the node is told to leave (SIGTERM, SIGINT). 0 after that, 78 where the configuration is wrong, 69
/// where Kafka or Redis cannot be reached in time, 1 for the rest.
#[expect(clippy::print_stderr, reason = "why a node does not start must be seen whatever the log filter says")]
pub fn serve(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate serve: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, text)) => {
            eprintln!("tidegate serve: {text}");
            ExitCode::from(code)
        }
    }
}

async fn run(config: Config) -> Result<(), Failure> {
    let signals = Signals::listen();
    let mut signals = signals.map_err(|error| Failure::other(format!("signals cannot be received: {error}")))?;
    let metrics = Metrics::new().map_err(|error| Failure::other(error.to_string()))?;
    metrics.watch_runtime(tokio::runtime::Handle::current());
    let json = config.telemetry.log_format == LogFormat::Json;
    logs::init(&config.telemetry.log, json, metrics.log_lines_lost.clone())
        .map_err(|error| Failure::config(error.to_string()))?;
    let exporter = exporter(&config, &metrics)?;
    super::raise_open_files(config.limits.max_connections);
    let tls = tls(&config, &metrics)?;
    let peer_tls = peers::tls(&config, &metrics).map_err(Failure::config)?;
    let begin = async {
        let made = node(&config, metrics, peer_tls).await?;
        let consumers = consumers::begin(&config, &made.node).await.map_err(not_begun)?;
        Ok::<_, Failure>((made, consumers))
    };
    let (Made { node, keeper, router }, mut consumers) = tokio::select! {
        begun = begin => begun?,
        // Told to leave before it had begun.
        () = signals.leave() => return Ok(()),
    };
    let health = Arc::new(Health::default());
    super::keepers::spawn(&node, &health, &keeper);
    super::drain::watch(&config.drain, &node, &health, &keeper);
    super::rebalance::watch(&config.rebalance, &node, &health);
    let public = bind(&config.public.listen, "public.listen")?;
    let internal = bind(&config.internal.listen, "internal.listen")?;
    let routes = api::internal(Arc::clone(&node), Arc::clone(&health));
    tokio::spawn(async move { axum::serve(internal, routes).await });
    let gate = gate(&config, &node, &router, &consumers)?;
    consumers.read_commands(&config, &node, &router).map_err(not_begun)?;
    let doors = |proxy| ListenerSettings::new(config.limits.clone(), node.metrics.clone(), tls.clone(), proxy);
    if gate.api_elsewhere {
        tokio::spawn(super::accept_api(bind(&config.api.listen, "api.listen")?, doors(false), Arc::clone(&gate)));
    }
    let public_doors = doors(config.public.proxy_protocol);
    let accepting = tokio::spawn(super::accept(public, public_doors, gate, axum::Router::new()));
    tracing::info!(node = config.node.effective_name(), public = config.public.listen, "serving");
    signals.leave().await;
    super::drain::leave(&config, &node, &health, (&keeper, &router), accepting, &mut signals).await;
    consumers.stop().await;
    if let Some(exporter) = exporter {
        exporter.stop(SPANS_SENT_WITHIN).await;
    }
    Ok(())
}

/// What sends spans, where the configuration says to whom.
fn exporter(config: &Config, metrics: &Metrics) -> Result<Option<Exporter>, Failure> {
    let telemetry = &config.telemetry;
    if telemetry.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let settings = OtlpSettings {
        endpoint: telemetry.otlp_endpoint.clone(),
        ca: telemetry.otlp_ca.clone(),
        ratio: telemetry.sample_ratio,
        node: config.node.effective_name(),
    };
    let exporter = Exporter::start(&settings, metrics);
    exporter.map(Some).map_err(|error| Failure::config(format!("telemetry.otlp_endpoint: {error}")))
}

/// A node that is known to the others.
struct Made {
    node: Arc<Node>,
    keeper: Arc<Keeper>,
    router: Arc<Router>,
}

/// Everything but the ports for devices, applications and operators.
async fn node(config: &Config, metrics: Metrics, peer_tls: Option<Arc<PeerTls>>) -> Result<Made, Failure> {
    let auth = Authenticator::new(config.auth.clone(), config.limits.token_bytes, config.limits.token_cache);
    let auth = auth.map_err(|error| Failure::config(error.to_string()))?;
    let receipts = Arc::new(Receipts::new(&config.limits));
    let (kafka, limits, deliveries) = (config.kafka.clone(), config.limits.clone(), Arc::clone(&receipts));
    let timeout = Duration::from_secs(config.node.start_timeout_s);
    let counted = metrics.clone();
    let start = move || KafkaLog::start(&kafka, &limits, timeout, deliveries, &counted);
    // Both at once, so that the time to start is that of the slower one.
    let (log, registrar) =
        tokio::join!(tokio::task::spawn_blocking(start), registrar(config, metrics.clone(), timeout));
    let log = log.map_err(|error| Failure::other(error.to_string()))?;
    let log = log.map_err(|error| unreached(error.is_retryable(), error.to_string()))?;
    let (registrar, store) = registrar?;
    let auth = Some(Arc::new(auth));
    let mut node = Node::new(config.limits.clone(), Arc::new(log), receipts, auth, metrics);
    node.ages = Ages::new(config.rebalance.max_age_s, config.rebalance.rate_per_s);
    node.registrar = Some(Arc::clone(&registrar));
    node.trust_traceparent = config.telemetry.trust_traceparent;
    let courier = peers::courier(Arc::new(RedisCommands::new(store)), &node);
    node.courier = Some(Arc::clone(&courier));
    let peers = peers::listen(config, peer_tls, &node, courier, &registrar).await.map_err(Failure::other)?;
    let keeper = super::keepers::keeper(&node, &registrar, peers.address.clone());
    // Whoever hears of this node can ask it.
    let router = peers.begin(&node, &keeper);
    introduce(&keeper, tokio::time::Instant::now() + timeout).await?;
    Ok(Made { node: Arc::new(node), keeper, router })
}

fn not_begun(error: StartError) -> Failure {
    unreached(error.is_retryable(), error.to_string())
}

fn unreached(is_retryable: bool, text: String) -> Failure {
    Failure(if is_retryable { EXIT_UNAVAILABLE } else { EXIT_CONFIG }, text)
}

/// The directory on Redis, and this node in a new life.
async fn registrar(
    config: &Config,
    metrics: Metrics,
    timeout: Duration,
) -> Result<(Arc<Registrar>, Arc<Store>), Failure> {
    let name = NodeName::new(&config.node.effective_name());
    let name = name.map_err(|error| Failure::config(format!("node.name: {error}")))?;
    let store = Store::connect(&config.redis, timeout).await;
    let store = store.map_err(|error| unreached(error.is_retryable(), error.to_string()))?;
    let store = Arc::new(store);
    let ownership = RedisOwnership::new(Arc::clone(&store), metrics);
    Ok((Arc::new(Registrar::new(Arc::new(ownership), NodeLife::begin(name))), store))
}

/// Makes the node known to the others before it takes a device.
async fn introduce(keeper: &Arc<Keeper>, end: tokio::time::Instant) -> Result<(), Failure> {
    while let Err(error) = keeper.begin().await {
        if !error.is_retryable() || tokio::time::Instant::now() >= end {
            return Err(unreached(error.is_retryable(), format!("the node's lease: {error}")));
        }
        tokio::time::sleep(INTRODUCED_AGAIN).await;
    }
    Ok(())
}

fn gate(config: &Config, node: &Arc<Node>, router: &Arc<Router>, consumers: &Consumers) -> Result<Arc<Gate>, Failure> {
    let hops = Hops::new(&config.public.trusted_proxies)
        .map_err(|text| Failure::config(format!("public.trusted_proxies: `{text}` is no network, as 10.0.0.0/8 is")))?;
    let mut gate = Gate::new(Arc::clone(node));
    gate.query_token = config.auth.query_token;
    gate.hosts = config.public.hosts.clone();
    gate.allowed_origins = config.public.allowed_origins.clone();
    gate.hops = hops;
    gate.client_tenants = config.public.client_tenants.clone();
    gate.router = Some(Arc::clone(router));
    gate.revocations = Some(consumers.revocation_writer());
    gate.api_elsewhere = !config.api.listen.is_empty();
    Ok(Arc::new(gate))
}

fn bind(address: &str, key: &str) -> Result<TcpListener, Failure> {
    let parsed: SocketAddr = address.parse().map_err(|_| Failure::config(format!("{key}: no address: {address}")))?;
    listener::bind(parsed).map_err(|error| Failure::other(format!("{key}: cannot listen on {address}: {error}")))
}

/// TLS, unless the configuration says that something in front does it; and what keeps its certificate fresh.
fn tls(config: &Config, metrics: &Metrics) -> Result<Option<Arc<CertReloader>>, Failure> {
    let public = &config.public;
    if public.plaintext {
        return Ok(None);
    }
    let files = TlsFiles {
        cert: public.tls_cert.clone(),
        key: public.tls_key.clone(),
        client_ca: Some(public.client_ca.clone()).filter(|path| !path.as_os_str().is_empty()),
        record_bytes: public.tls_record_bytes,
    };
    let tls = CertReloader::load(files, metrics.clone());
    let tls = Arc::new(tls.map_err(|error| Failure::config(format!("public.tls_cert: {error}")))?);
    tokio::spawn(Arc::clone(&tls).watch());
    Ok(Some(tls))
}
