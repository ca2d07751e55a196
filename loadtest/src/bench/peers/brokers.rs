//! How the peers that are no program of this project are started: mosquitto, NATS, RabbitMQ, and the server of the articles.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::BenchError;
use super::super::servers::{Server, free_address};
use super::{Bench, Peer};
use crate::wire::{NATS_SUBJECT, Speech, Target};

/// Where RabbitMQ's scripts are in Debian. The one in `PATH` becomes the user `rabbitmq`, who may not write here.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin";
/// What its devices' updates go into.
const QUEUE: &str = "telemetry";
const STREAM: &str = "BENCH";
/// A stream forgets what is older than so many bytes: a run may write more than a small disk holds.
const STREAM_BYTES: u64 = 1 << 30;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where a peer stores what it acks, to look there whether it did.
pub(in crate::bench) enum Store {
    /// Nowhere.
    Nothing,
    /// In this topic.
    Kafka(String),
    /// In a stream of the server with this address.
    Nats(SocketAddr),
    /// In a queue; what its command line tool needs to know.
    RabbitMq(Vec<(&'static str, String)>),
}

/// A started peer.
pub(super) type Started = (Server, SocketAddr, Speech, Store);

impl Bench {
    /// mosquitto 2.0.11 needs a plain listener beside the WebSocket one. Started by root it would become a user who may
    /// not read this directory.
    pub(super) fn start_mosquitto(&self, log: &Path) -> Result<Started, BenchError> {
        let (address, plain) = (free_address()?, free_address()?.port());
        let file = self.dir.join("mosquitto.conf");
        let text = format!(
            "user root\nlistener {plain} 127.0.0.1\nlistener {} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n\
             persistence false\nlog_type error\nset_tcp_nodelay true\nsys_interval 0\n",
            address.port()
        );
        fs::write(&file, text).map_err(BenchError::io("mosquitto.conf"))?;
        let program = found("/usr/sbin/mosquitto", "mosquitto")?;
        let mut server = Server::start(&program, &["-c".to_owned(), file.display().to_string()], log)?;
        server.wait_for(address)?;
        Ok((server, address, Speech::Mqtt, Store::Nothing))
    }

    /// One server with one stream in files, both as they come.
    pub(super) fn start_nats(&self, log: &Path) -> Result<Started, BenchError> {
        let program = self.peers.join("nats/nats-server");
        there(&program)?;
        let dir = self.fresh("nats")?;
        let (plain, address) = (free_address()?, free_address()?);
        let file = dir.join("nats.conf");
        let text = format!(
            "listen: \"{plain}\"\nserver_name: bench\njetstream {{ store_dir: {:?} }}\n\
             websocket {{ listen: \"{address}\", no_tls: true }}\n",
            dir.join("store")
        );
        fs::write(&file, text).map_err(BenchError::io("nats.conf"))?;
        let mut server = Server::start(&program, &["-c".to_owned(), file.display().to_string()], log)?;
        server.wait_for(plain)?;
        server.wait_for(address)?;
        let stream = json!({"name": STREAM, "subjects": [NATS_SUBJECT], "storage": "file", "retention": "limits",
            "discard": "old", "max_bytes": STREAM_BYTES, "num_replicas": 1});
        ask_nats(plain, &format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream.to_string())?;
        Ok((server, address, Speech::Nats, Store::Nats(plain)))
    }

    /// One node with a durable queue that gets every update.
    pub(super) fn start_rabbitmq(&self, log: &Path) -> Result<Started, BenchError> {
        let program = Path::new(RABBITMQ).join("rabbitmq-server");
        there(&program)?;
        let dir = self.fresh("rabbitmq")?;
        let [plain, address, mqtt, names, nodes] = [(); 5].map(|()| free_address());
        let (plain, address, mqtt, names, nodes) = (plain?, address?, mqtt?, names?, nodes?);
        write_rabbitmq(&dir, plain, address, mqtt)?;
        let at = |name: &str| dir.join(name).display().to_string();
        let environment = vec![
            // Its cookie lies there.
            ("HOME", dir.display().to_string()),
            ("ERL_EPMD_PORT", names.port().to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", format!("bench{}@localhost", nodes.port())),
            ("RABBITMQ_DIST_PORT", nodes.port().to_string()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", at("mnesia")),
            ("RABBITMQ_LOG_BASE", at("log")),
            ("RABBITMQ_PID_FILE", at("pid")),
            // Makes the script become the server instead of waiting for it.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ];
        // Erlang's name server would stay behind, were it not there already.
        let words = ["-address", "127.0.0.1", "-port", &names.port().to_string()].map(str::to_owned);
        let mut helper = Server::start(&found("/usr/bin/epmd", "epmd")?, &words, &self.dir.join("epmd.log"))?;
        helper.wait_for(names)?;
        let mut server = Server::start_with(&program, &[], &environment, log)?.helped_by(helper);
        // The queue is there when the node's own port is.
        server.wait_for(plain)?;
        server.wait_for(address)?;
        Ok((server, address, Speech::Mqtt, Store::RabbitMq(environment)))
    }

    /// The articles' server: `server.js`.
    pub(super) fn start_node_server(&self, log: &Path) -> Result<Started, BenchError> {
        let libraries = self.peers.join("node/node_modules");
        there(&libraries)?;
        let address = free_address()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/server.js").to_owned();
        let words = [script, address.to_string(), self.brokers.clone()];
        let environment = [("NODE_PATH", libraries.display().to_string())];
        let mut server = Server::start_with(&found("/usr/bin/node", "node")?, &words, &environment, log)?;
        server.wait_for(address)?;
        Ok((server, address, Speech::AckEach, Store::Kafka("node.telemetry".to_owned())))
    }

    /// An empty directory: what an earlier server stored is not read again.
    fn fresh(&self, name: &str) -> Result<PathBuf, BenchError> {
        let dir = self.dir.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(BenchError::io(format!("emptying {}", dir.display())))?;
        }
        fs::create_dir_all(&dir).map_err(BenchError::io(format!("making {}", dir.display())))?;
        Ok(dir)
    }

    /// Some updates are acked by the peer, and found afterwards where it stores them: without that its figures would be
    /// those of something else.
    pub(in crate::bench) fn check(&self, peer: Peer) -> Result<(), BenchError> {
        const UPDATES: usize = 20;
        let (_server, target, store) = self.start_storing(peer)?;
        let before = self.stored(&store)?;
        self.crowd(&target, UPDATES)?.one_each(200).map_err(BenchError::io(format!("publishing to {peer:?}")))?;
        let found = self.stored(&store)? - before;
        if matches!(store, Store::Nothing) || found >= UPDATES as u64 {
            return Ok(());
        }
        Err(BenchError::failed(format!("{peer:?} acked {UPDATES} updates and stored {found}")))
    }

    fn stored(&self, store: &Store) -> Result<u64, BenchError> {
        match store {
            Store::Nothing => Ok(0),
            Store::Kafka(topic) => super::super::kafka::records(&self.brokers, topic),
            Store::Nats(address) => {
                let info = ask_nats(*address, &format!("$JS.API.STREAM.INFO.{STREAM}"), "")?;
                info["state"]["messages"].as_u64().ok_or_else(|| BenchError::failed(format!("NATS said {info}")))
            }
            Store::RabbitMq(environment) => queued(environment),
        }
    }
}

impl Target {
    pub(super) fn plain(address: SocketAddr, speech: Speech) -> Self {
        Self { address, tls: None, speech, token: None }
    }
}

/// Debian puts some where only root's `PATH` leads.
fn found(debian: &str, name: &str) -> Result<PathBuf, BenchError> {
    if Path::new(debian).exists() {
        return Ok(debian.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let place = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists());
    place.ok_or_else(|| not_installed(name))
}

fn there(path: &Path) -> Result<(), BenchError> {
    if path.exists() { Ok(()) } else { Err(not_installed(path.display())) }
}

fn not_installed(what: impl std::fmt::Display) -> BenchError {
    BenchError::failed(format!("{what} is not there: `make bench-peers` installs it"))
}

/// The node's configuration: who may connect, the queue, and that it gets what devices publish.
fn write_rabbitmq(dir: &Path, plain: SocketAddr, web: SocketAddr, mqtt: SocketAddr) -> Result<(), BenchError> {
    let definitions = dir.join("definitions.json");
    let conf = format!(
        "listeners.tcp.1 = {plain}\nmqtt.listeners.tcp.1 = {mqtt}\nweb_mqtt.tcp.ip = {}\nweb_mqtt.tcp.port = {}\n\
         load_definitions = {}\n",
        web.ip(),
        web.port(),
        definitions.display()
    );
    // Devices without a name are `guest`, whose password is the same word: four bytes of salt and the SHA-256.
    let guest = json!({"name": "guest", "password_hash": "AQIDBEMMOXwY6PKx/JKP9PAqfsb4ozuD0Ta3pxxa9gEYBMmD",
        "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "", "limits": {}});
    let all = json!({
        "users": [guest],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        "queues": [{"name": QUEUE, "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}],
        "bindings": [{"source": "amq.topic", "vhost": "/", "destination": QUEUE, "destination_type": "queue",
            "routing_key": "bench.#", "arguments": {}}],
    });
    let files = [("rabbitmq.conf", conf), ("definitions.json", all.to_string())];
    for (name, text) in files.into_iter().chain([("enabled_plugins", "[rabbitmq_web_mqtt].\n".to_owned())]) {
        fs::write(dir.join(name), text).map_err(BenchError::io(name))?;
    }
    Ok(())
}

/// Messages in the queue.
fn queued(environment: &[(&'static str, String)]) -> Result<u64, BenchError> {
    let output = Command::new(Path::new(RABBITMQ).join("rabbitmqctl"))
        .args(["-q", "--no-table-headers", "list_queues", "messages"])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .output()
        .map_err(BenchError::io("running rabbitmqctl"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.trim().parse().map_err(|_| {
        BenchError::failed(format!("rabbitmqctl said {said:?} {}", String::from_utf8_lossy(&output.stderr)))
    })
}

/// Asks something of JetStream over plain NATS and gives its answer.
fn ask_nats(address: SocketAddr, subject: &str, body: &str) -> Result<Value, BenchError> {
    let text = talk_nats(address, subject, body).map_err(BenchError::io(format!("asking NATS {subject}")))?;
    let answer: Value = serde_json::from_slice(&text).map_err(BenchError::failed)?;
    if answer["error"].is_null() { Ok(answer) } else { Err(BenchError::failed(format!("{subject}: {answer}"))) }
}

fn talk_nats(address: SocketAddr, subject: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = BufReader::new(TcpStream::connect_timeout(&address, TIMEOUT)?);
    stream.get_ref().set_read_timeout(Some(TIMEOUT))?;
    let question = format!(
        "CONNECT {{\"verbose\":false,\"headers\":false}}\r\nSUB _INBOX.ask 1\r\nPUB {subject} _INBOX.ask {}\r\n{body}\r\n",
        body.len()
    );
    stream.get_mut().write_all(question.as_bytes())?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line.starts_with("-ERR") {
            return Err(std::io::Error::other(line.trim_end().to_owned()));
        }
        if line.starts_with("MSG ") {
            let size = line.trim_end().rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
            let mut text = vec![0; size];
            stream.read_exact(&mut text)?;
            return Ok(text);
        }
    }
}
