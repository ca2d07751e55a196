//! The servers that are measured, and how each is started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::BenchError;
use super::identity::{AUDIENCE, ISSUER, Identity};
use super::kafka::PREFIX;
use super::servers::{Server, free_address};
use crate::client::{Device, DeviceError, DeviceOptions};
use crate::crowd::Crowd;
use crate::wire::{Speech, Target, TokenSource};

/// Connections in every measurement but those of memory.
pub(super) const BUSY_CONNECTIONS: usize = 200;

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Gateway,
    GatewayTls,
    Other,
    BareEcho,
    Mosquitto,
    Obvious,
    TlsEcho,
    TlsHandshake,
}

/// A second gateway, measured in the same rounds as the first.
pub struct Other {
    /// Its binary.
    pub tidegate: PathBuf,
    /// What stands in its configuration behind what both have (all but `redis`), which ends in the section `kafka`.
    pub config: String,
}

/// What a run needs to know.
pub struct Bench {
    /// Fewer rounds, shorter, fewer connections.
    pub quick: bool,
    /// Where logs and files go.
    pub dir: PathBuf,
    /// The gateway's binary.
    pub tidegate: PathBuf,
    /// Another build or configuration of it to compare with.
    pub other: Option<Other>,
    /// Where the baselines' binaries are.
    pub bins: PathBuf,
    /// The broker.
    pub brokers: String,
    /// The url of the Redis.
    pub redis: String,
    /// Certificate and tokens.
    pub identity: Arc<Identity>,
    /// The next device number nobody used.
    pub numbers: AtomicU64,
}

impl Bench {
    pub(super) fn rounds(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    pub(super) fn warm(&self) -> Duration {
        Duration::from_millis(if self.quick { 700 } else { 2_000 })
    }

    pub(super) fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 1_500 } else { 5_000 })
    }

    pub(super) fn take(&self, count: usize) -> u64 {
        self.numbers.fetch_add(count as u64, Ordering::Relaxed)
    }

    pub(super) fn crowd(&self, target: &Target, count: usize) -> Result<Crowd, BenchError> {
        Crowd::open(target, self.take(count), count).map_err(BenchError::io(format!("opening {count} connections")))
    }

    pub(super) fn start(&self, peer: Peer) -> Result<(Server, Target), BenchError> {
        let address = free_address()?;
        let log = self.dir.join(format!("{peer:?}.log").to_lowercase());
        let bin = |name: &str| self.bins.join(name);
        let at = address.to_string();
        let tls = [self.identity.certificate.display().to_string(), self.identity.key.display().to_string()];
        let (program, words, speech) = match peer {
            Peer::Gateway | Peer::GatewayTls | Peer::Other => return self.start_gateway(peer, None, address, &log),
            Peer::BareEcho => (bin("bare-echo"), vec![at], Speech::Echo),
            Peer::Obvious => (bin("obvious"), vec![at, self.brokers.clone()], Speech::AckEach),
            Peer::Mosquitto => (mosquitto_binary(), self.mosquitto(address)?, Speech::Mqtt),
            Peer::TlsEcho => (bin("tls-baseline"), [vec!["echo".into(), at], tls.to_vec()].concat(), Speech::Echo),
            Peer::TlsHandshake => {
                (bin("tls-baseline"), [vec!["handshake".into(), at], tls.to_vec()].concat(), Speech::Echo)
            }
        };
        let mut server = Server::start(&program, &words, &log)?;
        server.wait_for(address)?;
        let encrypted = matches!(peer, Peer::TlsEcho | Peer::TlsHandshake);
        let tls = encrypted.then(|| self.identity.client.clone());
        Ok((server, Target { address, tls, speech, token: None }))
    }

    /// One node of several, by its name.
    pub(super) fn start_node(&self, peer: Peer, name: &str) -> Result<(Server, Target), BenchError> {
        self.start_gateway(peer, Some(name), free_address()?, &self.dir.join(format!("{name}.log")))
    }

    /// mosquitto 2.0.11 needs a plain listener beside the WebSocket one. Started by root it would become a user who may
    /// not read this directory.
    fn mosquitto(&self, address: SocketAddr) -> Result<Vec<String>, BenchError> {
        let file = self.dir.join("mosquitto.conf");
        let plain = free_address()?.port();
        let text = format!(
            "user root\nlistener {plain} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
             persistence false\nlog_type error\nset_tcp_nodelay true\nsys_interval 0\n",
            address.port()
        );
        std::fs::write(&file, text).map_err(BenchError::io("mosquitto.conf"))?;
        Ok(vec!["-c".to_owned(), file.display().to_string()])
    }

    /// A node with everything at its default but where things are.
    fn start_gateway(
        &self,
        peer: Peer,
        name: Option<&str>,
        address: SocketAddr,
        log: &Path,
    ) -> Result<(Server, Target), BenchError> {
        let internal = free_address()?;
        let node = name.map_or_else(String::new, |name| format!("[node]\nname = \"{name}\"\n"));
        let (identity, tls) = (&self.identity, peer == Peer::GatewayTls);
        let (program, more) = match &self.other {
            Some(other) if peer == Peer::Other => (&other.tidegate, other.config.as_str()),
            _ => (&self.tidegate, ""),
        };
        let public = if tls {
            format!("tls_cert = {:?}\ntls_key = {:?}", identity.certificate, identity.key)
        } else {
            "plaintext = true".to_owned()
        };
        // An older build to compare with may not know the section.
        let redis = match peer {
            Peer::Other => String::new(),
            _ => format!("[redis]\nurls = [\"{}\"]\n[peer]\nlisten = \"127.0.0.1:0\"\nplaintext = true\n", self.redis),
        };
        let text = format!(
            "[public]\nlisten = \"{address}\"\n{public}\n[internal]\nlisten = \"{internal}\"\n[auth]\njwks = {:?}\n\
             issuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n{redis}[kafka]\nbrokers = \"{}\"\ntopic_prefix = \"{PREFIX}\"\n{more}\n",
            identity.jwks, self.brokers
        );
        let file = self.dir.join(format!("{}.toml", name.unwrap_or("tidegate")));
        std::fs::write(&file, node + &text).map_err(BenchError::io("tidegate.toml"))?;
        let words = ["serve".to_owned(), "--config".to_owned(), file.display().to_string()];
        let mut server = Server::start(program, &words, log)?;
        server.wait_ready(internal)?;
        let signer = identity.clone();
        let token: TokenSource = Arc::new(move |number| signer.token(number));
        let tls = tls.then(|| identity.client.clone());
        Ok((server, Target { address, tls, speech: Speech::Tidegate, token: Some(token) }))
    }

    /// A device with an ordinary WebSocket library publishes and gets its ack: without that no figure means anything.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_gateway(&self) -> Result<(), BenchError> {
        let (_server, target) = self.start(Peer::Gateway)?;
        let token = self.identity.token(self.take(1)).map_err(BenchError::Failed)?;
        let options = DeviceOptions { address: target.address, tls: None, token: Some(token), boot: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BenchError::io("starting a runtime"))?;
        let answer = runtime.block_on(publish_one(&options)).map_err(BenchError::failed)?;
        if answer.contains("\"ack\"") { Ok(()) } else { Err(BenchError::failed(format!("no ack but {answer}"))) }
    }
}

/// Debian puts it where only root's `PATH` leads.
fn mosquitto_binary() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.exists() { debian } else { PathBuf::from("mosquitto") }
}

async fn publish_one(options: &DeviceOptions) -> Result<String, DeviceError> {
    let mut device = Device::connect(options).await?;
    device.send(r#"{"type":"update","seq":1,"name":"temperature","value":21.5}"#).await?;
    device.next().await
}
