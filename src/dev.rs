//! `tidegate dev`: the whole system in one process with nothing else installed.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::api::{self, Gate};
use crate::auth::signing::{SigningKey, TokenRequest};
use crate::auth::{AuthConfig, Authenticator, TokenAlgorithm};
use crate::connection::{Node, TICK_MS};
use crate::eventlog::SharedLog;
use crate::eventlog::kafka::{KafkaConfig, KafkaLog};
use crate::eventlog::memory::{MemoryLimits, MemoryLog};
use crate::id::DeviceKey;
use crate::limits::Limits;
use crate::receipts::{Batch, Receipts};
use crate::socket::client::Client;
use crate::telemetry::metrics::Metrics;

const TENANT: &str = "dev";
const DEVICE: &str = "sensor-001";
const WEEK_S: u64 = 7 * 24 * 3_600;

/// What `tidegate dev` is told.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// Address and port.
    pub listen: SocketAddr,
    /// Listen for the whole network, with tokens.
    pub lan: bool,
    /// Simulated devices.
    pub devices: usize,
    /// Nodes in the process.
    pub nodes: usize,
    /// First line of output is one JSON object.
    pub json: bool,
    /// Brokers of a real Kafka in place of the log in memory.
    pub kafka: Option<String>,
    /// Goes before every topic's name.
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
    if options.nodes != 1 {
        return Err("--nodes above 1 comes with the cluster".into());
    }
    let limits = Limits::default();
    let receipts = Arc::new(Receipts::new(&limits));
    let log = event_log(&options, &limits, &receipts).await?;
    let key = SigningKey::generate(TokenAlgorithm::ES256)?;
    let auth = AuthConfig { jwks: key.jwks(), max_lifetime_h: 24 * 8, ..AuthConfig::default() };
    let auth = Arc::new(Authenticator::new(auth, limits.token_bytes, limits.token_cache)?);
    auth.refresh_now().await;
    let node = Arc::new(Node::new(limits, Arc::clone(&log), receipts, Some(auth), Metrics::new()?));
    spawn_keepers(&node);
    let anonymous = if options.lan { None } else { Some(DeviceKey::new(TENANT, DEVICE)?) };
    let routes = api::public(Arc::new(Gate { node: Arc::clone(&node), anonymous, query_token: true }));
    let listen = if options.lan { SocketAddr::from(([0, 0, 0, 0], options.listen.port())) } else { options.listen };
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let address = listener.local_addr()?;
    announce(&options, address, &key, node.now().unix_ms.unsigned_abs() / 1_000)?;
    for number in 1..=options.devices {
        let token = token(&key, &format!("simulated-{number:03}"), &["device"], node.now().unix_ms as u64 / 1_000)?;
        tokio::spawn(simulate(format!("ws://127.0.0.1:{}/v1/device", address.port()), token));
    }
    tokio::select! {
        () = accept(listener, routes, Arc::clone(&node)) => {}
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
    node.stop();
    let _left = log.close(Duration::from_secs(5)).await;
    Ok(())
}

async fn event_log(options: &DevOptions, limits: &Limits, receipts: &Arc<Receipts>) -> Result<SharedLog, Failure> {
    let Some(brokers) = options.kafka.clone() else {
        return Ok(Arc::new(MemoryLog::start(MemoryLimits::default(), Arc::clone(receipts) as _)?));
    };
    let config = KafkaConfig { brokers, topic_prefix: options.topic_prefix.clone(), ..KafkaConfig::default() };
    let (limits, receipts) = (limits.clone(), Arc::clone(receipts));
    let start = move || KafkaLog::start(&config, &limits, Duration::from_secs(30), receipts);
    Ok(Arc::new(tokio::task::spawn_blocking(start).await??))
}

fn spawn_keepers(node: &Arc<Node>) {
    let receipts = Arc::clone(&node.receipts);
    tokio::spawn(async move {
        let mut batch = Batch::default();
        loop {
            std::future::poll_fn(|cx| receipts.poll_hand_out(cx, &mut batch)).await;
        }
    });
    let flow = Arc::clone(node);
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(100));
        loop {
            every.tick().await;
            flow.watch_flow();
        }
    });
    let sweep = Arc::clone(node);
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(TICK_MS));
        loop {
            every.tick().await;
            sweep.sweep();
        }
    });
}

async fn accept(listener: TcpListener, routes: axum::Router, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(api::serve(stream, peer, routes.clone(), Arc::clone(&node)));
            }
            // Out of descriptors: those that are open go on, and one may close soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
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
fn announce(options: &DevOptions, address: SocketAddr, key: &SigningKey, now_unix_s: u64) -> Result<(), Failure> {
    let device_token = token(key, DEVICE, &["device"], now_unix_s)?;
    let app_token = token(key, "dev-app", &["telemetry:read", "commands:write", "admin"], now_unix_s)?;
    let url = format!("ws://{address}/v1/device");
    if options.json {
        let line = serde_json::json!({
            "device_url": url, "app_url": format!("ws://{address}/v1/app"), "api_url": format!("http://{address}"),
            "console_url": format!("http://{address}/"), "metrics_url": format!("http://{address}/metrics"),
            "device_id": DEVICE, "device_token": device_token, "app_token": app_token,
        });
        println!("{line}");
        return Ok(());
    }
    println!("Tidegate is ready: devices connect to {url}");
    println!("device token ({DEVICE}): {device_token}\n\ntry it:");
    println!("  websocat -H 'Authorization: Bearer {device_token}' {url}");
    println!("  then type: {{\"type\":\"update\",\"name\":\"temperature\",\"value\":23.5,\"seq\":1}}");
    println!(
        "  python docs/examples/python/level0.py ws://{address}\n  node docs/examples/node/level0.js ws://{address}"
    );
    Ok(())
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
