//! The servers that are measured, and how each is started.

mod brokers;

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
use brokers::{Started, Store};

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
    Nats,
    RabbitMq,
    Node,
}

impl Peer {
    /// What its ack says of an update. Everywhere one broker on one disk: no copies on other machines.
    pub(super) fn ack(self) -> &'static str {
        match self {
            Self::Gateway | Self::GatewayTls | Self::Other | Self::Obvious | Self::Node => {
                "in Kafka's log (acks=all), which Kafka's system writes to disk later; Kafka's CPU is not counted"
            }
            Self::Mosquitto => "taken into memory, stored nowhere",
            Self::Nats => "written to the stream's file, before fsync (every two minutes by default)",
            Self::RabbitMq => "in a durable classic queue, after an fsync that it shares with others",
            Self::BareEcho | Self::TlsEcho | Self::TlsHandshake => "nothing",
        }
    }
}

/// A second gateway, measured in the same rounds as the first.
pub struct Other {
    /// Its binary.
    pub tidegate: PathBuf,
    /// What stands in its configuration behind what both have, which ends in the section `kafka`.
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
    /// Where peers are that were built for it: `loadtest/peers/install`.
    pub peers: PathBuf,
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

    /// Of what takes long and varies little.
    pub(super) fn few_rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
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
        let (server, target, _) = self.start_storing(peer)?;
        Ok((server, target))
    }

    /// Starts a server and says where it stores what it acks.
    fn start_storing(&self, peer: Peer) -> Result<(Server, Target, Store), BenchError> {
        let log = self.dir.join(format!("{peer:?}.log").to_lowercase());
        let plain = |(server, address, speech, store): Started| (server, Target::plain(address, speech), store);
        match peer {
            Peer::Gateway | Peer::GatewayTls | Peer::Other => {
                let (server, target) = self.start_gateway(peer, None, free_address()?, &log)?;
                Ok((server, target, Store::Kafka(format!("{PREFIX}telemetry"))))
            }
            Peer::Mosquitto => self.start_mosquitto(&log).map(plain),
            Peer::Nats => self.start_nats(&log).map(plain),
            Peer::RabbitMq => self.start_rabbitmq(&log).map(plain),
            Peer::Node => self.start_node_server(&log).map(plain),
            Peer::BareEcho | Peer::Obvious | Peer::TlsEcho | Peer::TlsHandshake => self.start_own(peer, &log),
        }
    }

    /// The baselines that are programs of this crate.
    fn start_own(&self, peer: Peer, log: &Path) -> Result<(Server, Target, Store), BenchError> {
        let address = free_address()?;
        let tls = || [&self.identity.certificate, &self.identity.key].map(|file| file.display().to_string()).to_vec();
        let at = address.to_string();
        let (name, words, speech, store) = match peer {
            Peer::Obvious => {
                let store = Store::Kafka("obvious.telemetry".to_owned());
                ("obvious", vec![at, self.brokers.clone()], Speech::AckEach, store)
            }
            Peer::TlsEcho => ("tls-baseline", [vec!["echo".into(), at], tls()].concat(), Speech::Echo, Store::Nothing),
            Peer::TlsHandshake => {
                ("tls-baseline", [vec!["handshake".into(), at], tls()].concat(), Speech::Echo, Store::Nothing)
            }
            _ => ("bare-echo", vec![at], Speech::Echo, Store::Nothing),
        };
        let mut server = Server::start(&self.bins.join(name), &words, log)?;
        server.wait_for(address)?;
        let encrypted = matches!(peer, Peer::TlsEcho | Peer::TlsHandshake);
        let tls = encrypted.then(|| self.identity.client.clone());
        Ok((server, Target { tls, ..Target::plain(address, speech) }, store))
    }

    /// One node of several, by its name.
    pub(super) fn start_node(&self, peer: Peer, name: &str) -> Result<(Server, Target), BenchError> {
        self.start_gateway(peer, Some(name), free_address()?, &self.dir.join(format!("{name}.log")))
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
        let text = format!(
            "[public]\nlisten = \"{address}\"\n{public}\n[internal]\nlisten = \"{internal}\"\n[auth]\njwks = {:?}\n\
             issuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n[redis]\nurls = [\"{}\"]\n\
             [peer]\nlisten = \"127.0.0.1:0\"\nplaintext = true\n\
             [kafka]\nbrokers = \"{}\"\ntopic_prefix = \"{PREFIX}\"\n{more}\n",
            identity.jwks, self.redis, self.brokers
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

async fn publish_one(options: &DeviceOptions) -> Result<String, DeviceError> {
    let mut device = Device::connect(options).await?;
    device.send(r#"{"type":"update","seq":1,"name":"temperature","value":21.5}"#).await?;
    device.next().await
}
