//! `tidegate dev`: the whole system in one process with nothing else installed.

mod cluster;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures_util::future::join_all;

use crate::app::{self, Signals};
use crate::auth::signing::{SigningKey, TokenRequest};
use crate::auth::{AuthConfig, Authenticator, TokenAlgorithm};
use crate::eventlog::SharedLog;
use crate::eventlog::memory::{MemoryLimits, MemoryLog};
use crate::limits::Limits;
use crate::receipts::Receipts;
use crate::socket::client::Client;
use crate::telemetry::metrics::Metrics;
use cluster::{Cluster, Member};

/// Most nodes in one process.
const MAX_NODES: usize = 16;
const TENANT: &str = "dev";
const DEVICE: &str = "sensor-001";
/// What a browser sees: a device to try.
const CONSOLE: &str = include_str!("../docs/examples/browser/index.html");
const WEEK_S: u64 = 7 * 24 * 3_600;

/// Flags of `tidegate dev`.
#[derive(Debug, Clone, Args)]
pub struct DevOptions {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Listen on every address, for a board on the same network; every device then needs a token.
    #[arg(long)]
    pub lan: bool,
    /// Simulated devices.
    #[arg(long, default_value_t = 3)]
    pub devices: usize,
    /// Nodes in the process, each on a port of its own: the next free ones behind the first.
    #[arg(long, default_value_t = 1)]
    pub nodes: usize,
    /// Make the first line of output one JSON object with the addresses and tokens.
    #[arg(long)]
    pub json: bool,
    /// The key that signs tokens, as `tidegate keys new` makes it, in place of a new one: for whoever signs tokens of
    /// other devices with it.
    #[arg(long, value_name = "PEM")]
    pub signing_key: Option<PathBuf>,
    /// A real Kafka in place of the log in memory.
    #[cfg(feature = "kafka")]
    #[command(flatten)]
    pub kafka: KafkaOptions,
}

/// Which Kafka.
#[cfg(feature = "kafka")]
#[derive(Debug, Clone, Args)]
pub struct KafkaOptions {
    /// Brokers of a real Kafka, in place of the log in memory.
    #[arg(long = "kafka", value_name = "BROKERS")]
    pub brokers: Option<String>,
    /// What the topics' names begin with.
    #[arg(long, value_name = "P", default_value = "tidegate.")]
    pub topic_prefix: String,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs until it is told to stop.
#[expect(clippy::print_stderr, reason = "the command's own output")]
pub fn run(options: DevOptions) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate dev: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(development(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate dev: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn development(options: DevOptions) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    if !(1..=MAX_NODES).contains(&options.nodes) {
        return Err(format!("--nodes is 1 to {MAX_NODES}").into());
    }
    let limits = Limits::default();
    app::raise_open_files(limits.max_connections);
    let key = match &options.signing_key {
        Some(file) => SigningKey::from_pem_file(file)?,
        None => SigningKey::generate(TokenAlgorithm::ES256)?,
    };
    let auth = AuthConfig { jwks: key.jwks(), max_lifetime_h: 24 * 8, ..AuthConfig::default() };
    let auth = Arc::new(Authenticator::new(auth, limits.token_bytes, limits.token_cache)?);
    auth.refresh_now().await;
    let members = Cluster::new(&options, limits, auth).start().await?;
    let addresses: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    announce(&options, &addresses, &key, now_unix_s)?;
    for (number, address) in (1..=options.devices).zip(addresses.iter().cycle()) {
        let token = token(&key, &format!("simulated-{number:03}"), &["device"], now_unix_s)?;
        tokio::spawn(simulate(format!("ws://127.0.0.1:{}/v1/device", address.port()), token));
    }
    signals.leave().await;
    join_all(members.into_iter().map(Member::leave)).await;
    Ok(())
}

#[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "only a real Kafka asks for more"))]
async fn event_log(
    options: &DevOptions,
    limits: &Limits,
    receipts: &Arc<Receipts>,
    metrics: &Metrics,
) -> Result<SharedLog, Failure> {
    #[cfg(feature = "kafka")]
    if let Some(brokers) = options.kafka.brokers.clone() {
        use crate::eventlog::kafka::{KafkaConfig, KafkaLog};
        let topic_prefix = options.kafka.topic_prefix.clone();
        let config = KafkaConfig { brokers, topic_prefix, ..KafkaConfig::default() };
        let (limits, receipts, metrics) = (limits.clone(), Arc::clone(receipts), metrics.clone());
        let start = move || KafkaLog::start(&config, &limits, Duration::from_secs(30), receipts, &metrics);
        return Ok(Arc::new(tokio::task::spawn_blocking(start).await??));
    }
    Ok(Arc::new(MemoryLog::start(MemoryLimits::default(), Arc::clone(receipts) as _, metrics)?))
}

fn token(key: &SigningKey, sub: &str, scopes: &[&str], now_unix_s: u64) -> Result<String, Failure> {
    let request = TokenRequest {
        sub: sub.to_owned(),
        tenant: Some(TENANT.to_owned()),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        devices: Vec::new(),
        ttl_s: WEEK_S,
        issuer: "tidegate".to_owned(),
        audience: "tidegate".to_owned(),
    };
    Ok(key.sign_token(&request, now_unix_s)?)
}

#[expect(clippy::print_stdout, reason = "the command's own output")]
fn announce(options: &DevOptions, addresses: &[SocketAddr], key: &SigningKey, now_unix_s: u64) -> Result<(), Failure> {
    let device_token = token(key, DEVICE, &["device"], now_unix_s)?;
    let app_token = token(key, "dev-app", &["telemetry:read", "commands:write", "admin"], now_unix_s)?;
    let Some(address) = addresses.first().copied() else { return Ok(()) };
    let url = format!("ws://{address}/v1/device");
    if options.json {
        let line = serde_json::json!({
            "device_url": url, "app_url": format!("ws://{address}/v1/app"), "api_url": format!("http://{address}"),
            "console_url": console(address, &device_token), "metrics_url": format!("http://{address}/metrics"),
            "device_id": DEVICE, "device_token": device_token, "app_token": app_token,
            "nodes": addresses.iter().map(|address| urls(*address)).collect::<Vec<_>>(),
        });
        println!("{line}");
        return Ok(());
    }
    println!("Tidegate is ready: devices connect to {url}");
    println!("in a browser: {}\nmetrics: http://{address}/metrics", console(address, &device_token));
    for other in addresses.iter().skip(1) {
        println!("another node, for the same devices: ws://{other}/v1/device, http://{other}/metrics");
    }
    println!("device token ({DEVICE}): {device_token}\napp token (ws://{address}/v1/app): {app_token}\n\ntry it:");
    println!("  websocat -H 'Authorization: Bearer {device_token}' {url}");
    println!("  then type: {{\"type\":\"update\",\"name\":\"temperature\",\"value\":23.5,\"seq\":1}}");
    println!(
        "  python docs/examples/python/level0.py ws://{address}\n  node docs/examples/node/level0.js ws://{address}"
    );
    Ok(())
}

/// Where one node is.
fn urls(address: SocketAddr) -> serde_json::Value {
    serde_json::json!({
        "device_url": format!("ws://{address}/v1/device"), "app_url": format!("ws://{address}/v1/app"),
        "api_url": format!("http://{address}"), "metrics_url": format!("http://{address}/metrics"),
    })
}

/// The page of a device to try, filled in.
fn console(address: SocketAddr, token: &str) -> String {
    format!("http://{address}/?url=ws://{address}&token={token}")
}

/// A device that measures something every few seconds, for as long as the process lives.
async fn simulate(url: String, token: String) {
    loop {
        if let Ok(mut client) = Client::connect(&url, Some(&token), None).await {
            for seq in 1u64.. {
                let value = 20.0 + f64::from(fastrand::u16(0..100)) / 10.0;
                let update = serde_json::json!({"type": "update", "name": "temperature", "seq": seq, "value": value});
                if client.send_text(&update.to_string()).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(2_000..4_000))).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
