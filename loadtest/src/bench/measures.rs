//! The measurements. Each runs its baseline beside the gateway, round after round, and gives rows for the report.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::BenchError;
use super::identity::{AUDIENCE, ISSUER, Identity};
use super::kafka::Kafka;
use super::report::{Row, Target as Rule};
use super::servers::{Server, free_address};
use crate::client::{Device, DeviceOptions};
use crate::wire::{self, ClosedLoop, OpenLoop, Speech, Target};

const GATEWAY_CORE: &str = "0";
const WARM_CONNECTIONS: usize = 16;
const BUSY_CONNECTIONS: usize = 200;
const BIG_BYTES: usize = 60_000;
const SLOW_RATE: f64 = 2_000.0;
/// Half load is never taken above this: beyond it the generator and the broker share too little of two cores.
const HALF_LOAD_CAP: f64 = 10_000.0;

/// The servers that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Gateway,
    GatewayTls,
    BareEcho,
    Mosquitto,
    Obvious,
    TlsEcho,
    TlsHandshake,
}

/// What a run needs to know.
pub struct Bench {
    /// Fewer rounds, shorter, fewer connections.
    pub quick: bool,
    /// Where logs and files go.
    pub dir: PathBuf,
    /// The gateway's binary.
    pub tidegate: PathBuf,
    /// Where the baselines' binaries are.
    pub bins: PathBuf,
    /// The broker.
    pub kafka: Kafka,
    /// Certificate and tokens.
    pub identity: Arc<Identity>,
    /// The next device number nobody used.
    pub numbers: AtomicU64,
}

/// A figure in the making: ours and the baseline's rounds.
#[derive(Default)]
struct Pair(Vec<f64>, Vec<f64>);

impl Bench {
    fn rounds(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    fn window(&self) -> Duration {
        if self.quick { Duration::from_millis(2_000) } else { Duration::from_secs(6) }
    }

    fn settle(&self) -> Duration {
        if self.quick { Duration::from_millis(3_500) } else { Duration::from_secs(6) }
    }

    fn crowds(&self) -> &'static [usize] {
        if self.quick { &[1_000] } else { &[1_000, 15_000] }
    }

    fn take(&self, count: usize) -> u64 {
        self.numbers.fetch_add(count as u64, Ordering::Relaxed)
    }

    fn start(&self, peer: Peer) -> Result<(Server, Target), BenchError> {
        let address = free_address()?;
        let log = self.dir.join(format!("{peer:?}.log").to_lowercase());
        let bin = |name: &str| self.bins.join(name);
        let at = address.to_string();
        let tls = [self.identity.certificate.display().to_string(), self.identity.key.display().to_string()];
        let (program, words, speech) = match peer {
            Peer::Gateway | Peer::GatewayTls => return self.start_gateway(peer == Peer::GatewayTls, address, &log),
            Peer::BareEcho => (bin("bare-echo"), vec![at], Speech::Echo),
            Peer::Obvious => (bin("obvious"), vec![at, self.kafka.brokers.clone()], Speech::AckEach),
            Peer::Mosquitto => (PathBuf::from("mosquitto"), self.mosquitto(address)?, Speech::Mqtt),
            Peer::TlsEcho => (bin("tls-baseline"), [vec!["echo".into(), at], tls.to_vec()].concat(), Speech::Echo),
            Peer::TlsHandshake => {
                (bin("tls-baseline"), [vec!["handshake".into(), at], tls.to_vec()].concat(), Speech::Echo)
            }
        };
        let mut server = Server::start(GATEWAY_CORE, &program, &words, &log)?;
        server.wait_for(address)?;
        let encrypted = matches!(peer, Peer::TlsEcho | Peer::TlsHandshake);
        let tls = encrypted.then(|| self.identity.client.clone());
        Ok((server, Target { address, tls, speech, token: None }))
    }

    /// mosquitto 2.0.11 needs a plain listener beside the WebSocket one.
    fn mosquitto(&self, address: SocketAddr) -> Result<Vec<String>, BenchError> {
        let file = self.dir.join("mosquitto.conf");
        let plain = free_address()?.port();
        let text = format!(
            "listener {plain} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
             persistence false\nlog_type error\nset_tcp_nodelay true\n",
            address.port()
        );
        std::fs::write(&file, text).map_err(BenchError::io("mosquitto.conf"))?;
        Ok(vec!["-c".to_owned(), file.display().to_string()])
    }

    fn start_gateway(&self, tls: bool, address: SocketAddr, log: &Path) -> Result<(Server, Target), BenchError> {
        let internal = free_address()?;
        let identity = &self.identity;
        let public = if tls {
            format!("tls_cert = {:?}\ntls_key = {:?}", identity.certificate, identity.key)
        } else {
            "plaintext = true".to_owned()
        };
        let text = format!(
            "[public]\nlisten = \"{address}\"\n{public}\n[internal]\nlisten = \"{internal}\"\n[auth]\njwks = {:?}\n\
             issuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n[kafka]\nbrokers = \"{}\"\n",
            identity.jwks, self.kafka.brokers
        );
        let file = self.dir.join("tidegate.toml");
        std::fs::write(&file, text).map_err(BenchError::io("tidegate.toml"))?;
        let words = ["serve".to_owned(), "--config".to_owned(), file.display().to_string()];
        let mut server = Server::start(GATEWAY_CORE, &self.tidegate, &words, log)?;
        server.wait_until(|| is_ready(internal))?;
        let signer = identity.clone();
        let token: Arc<dyn Fn(u64) -> Result<String, String> + Send + Sync> = Arc::new(move |n| signer.token(n));
        let tls = tls.then(|| identity.client.clone());
        Ok((server, Target { address, tls, speech: Speech::Tidegate, token: Some(token) }))
    }

    /// One device of the ordinary client publishes and gets its ack: without that no figure means anything.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_gateway(&self) -> Result<(), BenchError> {
        let (_server, target) = self.start(Peer::Gateway)?;
        let token = self.identity.token(self.take(1)).map_err(BenchError::Failed)?;
        let options = DeviceOptions { address: target.address, tls: None, token: Some(token), boot: None };
        let mut device = Device::connect(&options).await.map_err(BenchError::failed)?;
        device
            .send(r#"{"type":"update","seq":1,"name":"temperature","value":21.5}"#)
            .await
            .map_err(BenchError::failed)?;
        let answer = device.next().await.map_err(BenchError::failed)?;
        if answer.contains("\"ack\"") { Ok(()) } else { Err(BenchError::failed(format!("no ack but {answer}"))) }
    }

    async fn connect(&self, target: &Target, count: usize) -> Result<Vec<wire::Connection>, BenchError> {
        wire::open_all(target, self.take(count), count).await.map_err(BenchError::io("opening connections"))
    }

    /// KiB per quiet connection.
    async fn idle_kib(&self, peer: Peer, count: usize) -> Result<f64, BenchError> {
        let (server, target) = self.start(peer)?;
        let _warm = wire::hold(self.connect(&target, WARM_CONNECTIONS).await?);
        tokio::time::sleep(self.settle()).await;
        let before = server.rss_kib()?;
        let held = wire::hold(self.connect(&target, count).await?);
        tokio::time::sleep(self.settle()).await;
        let after = server.rss_kib()?;
        alive(held, count)?;
        Ok((after - before) / count as f64)
    }

    /// Idle memory, plain and TLS.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub async fn idle(&self) -> Result<Vec<Row>, BenchError> {
        let mut rows = Vec::new();
        let rounds = if self.quick { 1 } else { 3 };
        for &count in self.crowds() {
            let (mut plain, mut tls) = (Pair::default(), Pair::default());
            for _ in 0..rounds {
                plain.1.push(self.idle_kib(Peer::Mosquitto, count).await?);
                plain.0.push(self.idle_kib(Peer::Gateway, count).await?);
                tls.1.push(self.idle_kib(Peer::TlsEcho, count).await?);
                tls.0.push(self.idle_kib(Peer::GatewayTls, count).await?);
            }
            rows.push(row(
                &format!("idle_rss_plain_{count}"),
                "mosquitto",
                "KiB/conn",
                &plain,
                Rule::RatioAtMost(0.25),
            ));
            rows.push(row(
                &format!("idle_rss_tls_{count}"),
                "hyper example",
                "KiB/conn",
                &tls,
                Rule::RatioAtMost(0.40),
            ));
        }
        Ok(rows)
    }

    /// The process' memory after each connection had one large message, against before.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub async fn burst(&self) -> Result<Vec<Row>, BenchError> {
        let mut rows = Vec::new();
        for &count in self.crowds() {
            let mut pair = Pair::default();
            for _ in 0..if self.quick { 1 } else { 3 } {
                let (server, target) = self.start(Peer::Gateway)?;
                let mut connections = self.connect(&target, count).await?;
                tokio::time::sleep(self.settle()).await;
                pair.1.push(server.rss_kib()? / 1024.0);
                wire::one_each(&mut connections, BIG_BYTES).await.map_err(BenchError::io("sending 60 KB each"))?;
                let held = wire::hold(connections);
                tokio::time::sleep(self.settle()).await;
                pair.0.push(server.rss_kib()? / 1024.0);
                alive(held, count)?;
            }
            rows.push(row(&format!("rss_after_60kb_{count}"), "own idle RSS", "MiB", &pair, Rule::RatioAtMost(1.10)));
        }
        Ok(rows)
    }

    /// µs of the server's CPU per settled update in a closed loop, and updates settled a second.
    async fn busy(&self, peer: Peer, in_flight: u64) -> Result<(f64, f64), BenchError> {
        let (server, target) = self.start(peer)?;
        let connections = self.connect(&target, BUSY_CONNECTIONS).await?;
        let mut running = ClosedLoop::start(connections, in_flight);
        tokio::time::sleep(self.window() / 4).await;
        let (cpu, settled, begin) = (server.cpu_us()?, running.settled.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(self.window()).await;
        let (cpu, settled) = (server.cpu_us()? - cpu, running.settled.load(Ordering::Relaxed) - settled);
        running.check().map_err(BenchError::io(format!("{peer:?} with {in_flight} in flight")))?;
        if settled == 0 {
            return Err(BenchError::failed(format!("{peer:?} settled nothing with {in_flight} in flight")));
        }
        Ok((cpu / settled as f64, settled as f64 / begin.elapsed().as_secs_f64()))
    }

    /// CPU per acked message, one and sixteen in flight.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub async fn cpu(&self) -> Result<Vec<Row>, BenchError> {
        const RUNS: [(Peer, u64); 10] = [
            (Peer::BareEcho, 1),
            (Peer::Gateway, 1),
            (Peer::Obvious, 1),
            (Peer::Mosquitto, 1),
            (Peer::GatewayTls, 1),
            (Peer::BareEcho, 16),
            (Peer::Gateway, 16),
            (Peer::Obvious, 16),
            (Peer::Mosquitto, 16),
            (Peer::GatewayTls, 16),
        ];
        let mut found = vec![Vec::new(); RUNS.len()];
        for _ in 0..self.rounds() {
            for (samples, (peer, in_flight)) in found.iter_mut().zip(RUNS) {
                samples.push(self.busy(peer, in_flight).await?.0);
            }
        }
        let us = |place: usize| found[place].clone();
        let rate = |place: usize| found[place].iter().map(|us| 1e6 / us).collect::<Vec<f64>>();
        let per_core = |name: &str, against: &str, ours: usize, base: usize, rule| {
            row(name, against, "acked/s/core", &Pair(rate(ours), rate(base)), rule)
        };
        let cost = |name: &str, ours: usize, base: usize, rule| {
            row(name, "obvious program", "µs CPU/msg", &Pair(us(ours), us(base)), rule)
        };
        Ok(vec![
            per_core("cpu_one_in_flight_echo", "bare epoll echo", 1, 0, Rule::RatioAtLeast(0.55)),
            per_core("cpu_sixteen_in_flight", "own one in flight", 6, 1, Rule::RatioAtLeast(4.0)),
            per_core("cpu_tls_one_in_flight_echo", "bare epoll echo", 4, 0, Rule::RatioAtLeast(0.40)),
            per_core("cpu_one_in_flight_mosquitto", "mosquitto PUBACK", 1, 3, Rule::RatioAtLeast(0.70)),
            cost("cpu_one_in_flight_obvious", 1, 2, Rule::RatioAtMost(0.6)),
            cost("cpu_sixteen_in_flight_obvious", 6, 7, Rule::RatioAtMost(0.25)),
            per_core("cpu_sixteen_in_flight_echo", "bare epoll echo", 6, 5, Rule::None),
            per_core("cpu_sixteen_in_flight_mosquitto", "mosquitto PUBACK", 6, 8, Rule::None),
            per_core("cpu_tls_sixteen_in_flight", "own TLS one in flight", 9, 4, Rule::None),
        ])
    }

    async fn paced_us(&self, peer: Peer) -> Result<f64, BenchError> {
        let (server, target) = self.start(peer)?;
        let connections = self.connect(&target, BUSY_CONNECTIONS).await?;
        let (warm, window) = (self.window() / 4, self.window());
        let running = OpenLoop::start(connections, SLOW_RATE, warm, warm + window + Duration::from_secs(1));
        let settled = running.settled.clone();
        tokio::time::sleep(warm).await;
        let (cpu, before) = (server.cpu_us()?, settled.load(Ordering::Relaxed));
        tokio::time::sleep(window).await;
        let (cpu, count) = (server.cpu_us()? - cpu, settled.load(Ordering::Relaxed) - before);
        running.finish().await.map_err(BenchError::io(format!("{peer:?} at 2,000/s")))?;
        let expected = SLOW_RATE * window.as_secs_f64();
        if (count as f64) < expected * 0.9 {
            return Err(BenchError::failed(format!("{peer:?} settled {count} of {expected} at 2,000/s")));
        }
        Ok(cpu / count as f64)
    }

    /// CPU per message at 2,000 messages a second in all.
    ///
    /// # Errors
    /// When a server or connection fails, or falls behind.
    pub async fn paced(&self) -> Result<Vec<Row>, BenchError> {
        let mut found = vec![Vec::new(); 4];
        for _ in 0..self.rounds() {
            for (samples, peer) in found.iter_mut().zip([Peer::Obvious, Peer::Gateway, Peer::BareEcho, Peer::Mosquitto])
            {
                samples.push(self.paced_us(peer).await?);
            }
        }
        let against = |name: &str, base: usize, rule| {
            let slug = name.split(' ').next().unwrap_or(name);
            let pair = Pair(found[1].clone(), found[base].clone());
            row(&format!("cpu_at_2000_per_s_{slug}"), name, "µs CPU/msg", &pair, rule)
        };
        Ok(vec![
            against("obvious program", 0, Rule::RatioAtMost(0.6)),
            against("echo (bare epoll)", 2, Rule::None),
            against("mosquitto", 3, Rule::None),
        ])
    }

    /// Publish to ack at half load, against a bare producer's round trip at the same rate.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub async fn latency(&self) -> Result<Vec<Row>, BenchError> {
        let rate = (self.busy(Peer::Gateway, 1).await?.1 / 2.0).min(HALF_LOAD_CAP);
        let (mut median, mut tail) = (Pair::default(), Pair::default());
        for _ in 0..self.rounds() {
            let [p50, p99] = self.bare_produce(rate)?;
            median.1.push(p50);
            tail.1.push(p99);
            let (_server, target) = self.start(Peer::Gateway)?;
            let connections = self.connect(&target, BUSY_CONNECTIONS).await?;
            let warm = self.window() / 4;
            let running = OpenLoop::start(connections, rate, warm, warm + self.window());
            let found = running.finish().await.map_err(BenchError::io("at half load"))?;
            median.0.push(found.value_at_quantile(0.5) as f64 / 1000.0);
            tail.0.push(found.value_at_quantile(0.99) as f64 / 1000.0);
        }
        let against = format!("bare producer {rate:.0}/s");
        Ok(vec![
            row("publish_to_ack_p50", &against, "ms", &median, Rule::OverAtMost(1.5)),
            row("publish_to_ack_p99", &against, "ms", &tail, Rule::OverAtMost(4.0)),
        ])
    }

    /// A child on the gateway's core, so that producer and gateway have the same core to themselves.
    fn bare_produce(&self, rate: f64) -> Result<[f64; 2], BenchError> {
        let output = Command::new("taskset")
            .args(["-c", GATEWAY_CORE])
            .arg(self.bins.join("bare-producer"))
            .args([self.kafka.brokers.clone(), format!("{rate:.0}"), format!("{}", self.window().as_secs_f64())])
            .output()
            .map_err(BenchError::io("running bare-producer"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match figures.as_slice() {
            [p50, p99] => Ok([*p50, *p99]),
            _ => Err(BenchError::failed(format!(
                "bare-producer said {said:?} {}",
                String::from_utf8_lossy(&output.stderr)
            ))),
        }
    }

    /// Connects per second of the server's CPU.
    async fn connects_per_core(&self, peer: Peer) -> Result<f64, BenchError> {
        const AT_ONCE: usize = 16;
        let (server, target) = self.start(peer)?;
        let count = if self.quick { 1_500 } else { 6_000 };
        let first = self.take(count);
        let cpu = server.cpu_us()?;
        let mut running = JoinSet::new();
        for number in first..first + count as u64 {
            if running.len() == AT_ONCE {
                done(running.join_next().await)?;
            }
            let target = target.clone();
            running.spawn(async move {
                match peer {
                    Peer::TlsHandshake => wire::handshake_only(&target, number).await,
                    _ => wire::Connection::open(&target, number).await.map(drop),
                }
            });
        }
        while !running.is_empty() {
            done(running.join_next().await)?;
        }
        Ok(count as f64 * 1e6 / (server.cpu_us()? - cpu))
    }

    /// WSS connects (TLS, token, 101, welcome) against bare TLS handshakes.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub async fn connects(&self) -> Result<Vec<Row>, BenchError> {
        let mut pair = Pair::default();
        for _ in 0..self.rounds() {
            pair.1.push(self.connects_per_core(Peer::TlsHandshake).await?);
            pair.0.push(self.connects_per_core(Peer::GatewayTls).await?);
        }
        Ok(vec![row("wss_connects", "bare rustls handshake", "1/s/core", &pair, Rule::RatioAtLeast(0.55))])
    }
}

fn row(name: &str, against: &str, unit: &'static str, pair: &Pair, rule: Rule) -> Row {
    Row::new(name, against, unit, &pair.0, &pair.1, rule)
}

fn done(ended: Option<Result<std::io::Result<()>, tokio::task::JoinError>>) -> Result<(), BenchError> {
    match ended {
        Some(Ok(result)) => result.map_err(BenchError::io("connecting")),
        Some(Err(error)) => Err(BenchError::failed(error)),
        None => Ok(()),
    }
}

/// A figure over connections of which some are gone would flatter.
fn alive(mut held: JoinSet<std::io::Result<()>>, count: usize) -> Result<(), BenchError> {
    match held.try_join_next() {
        Some(ended) => Err(BenchError::failed(format!("one of {count} quiet connections ended: {ended:?}"))),
        None => Ok(()),
    }
}

/// Whether `/readyz` says 200.
fn is_ready(internal: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(internal) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = [0; 12];
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200")
}
