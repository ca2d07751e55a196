//! The real gateway as a process of its own: `tidegate serve` as operators run it, and `tidegate dev`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::process::Process;
use super::redis::Redis;
use super::ws::RawClient;
use super::{kafka, ports, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");
const START: Duration = Duration::from_secs(60);

/// How a gateway is to be started.
pub struct Builder {
    keys: BTreeMap<String, String>,
    tls: bool,
    brokers: String,
    redis: Option<String>,
    prefix: Option<String>,
    env: Vec<(String, String)>,
    beside: Option<(String, PathBuf)>,
}

impl Builder {
    /// Sets a configuration key to a TOML value: `set("limits.heartbeat_s", "5")`, `set("auth.audience", "'mine'")`.
    /// Counts over everything that is set by itself.
    pub fn set(mut self, key: &str, toml: &str) -> Self {
        self.keys.insert(key.to_owned(), toml.to_owned());
        self
    }

    /// Serves wss with a certificate for `localhost` and 127.0.0.1 instead of ws.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Writes to these brokers instead of the shared ones.
    pub fn brokers(mut self, brokers: &str) -> Self {
        brokers.clone_into(&mut self.brokers);
        self
    }

    /// Has its directory at this url instead of in a Redis of its own.
    pub fn redis(mut self, url: &str) -> Self {
        self.redis = Some(url.to_owned());
        self
    }

    /// Has its topics under this prefix instead of one of its own.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Sets a variable of its environment: `env("TIDEGATE_REDIS__PASSWORD_FILE", path)`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another node of the same cluster: with its Redis, its topics and its signing key, and a name of its own.
    pub fn beside(mut self, other: &Gateway) -> Self {
        self.redis = Some(other.redis_url.clone());
        self.brokers.clone_from(&other.brokers);
        self.beside = Some((other.prefix.clone(), other.dir.path().to_owned()));
        self
    }

    /// Makes its topics and starts it, and waits until `/readyz` says 200.
    pub fn start(self) -> Gateway {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = Command::new(PROGRAM).args(["keys", "new", "--dir"]).arg(dir.path()).output().expect("it runs");
        assert!(made.status.success(), "tidegate keys new: {}", String::from_utf8_lossy(&made.stderr));
        if let Some((_, keys)) = &self.beside {
            for file in ["signing-key.pem", "jwks.json"] {
                std::fs::copy(keys.join(file), dir.path().join(file)).expect("the keys are there");
            }
        }
        let beside = self.beside.as_ref().map(|(prefix, _)| prefix.clone());
        let prefix = beside.or_else(|| self.prefix.clone()).unwrap_or_else(kafka::new_prefix);
        let own_redis = self.redis.is_none().then(Redis::start);
        let redis_url = self.redis.clone().or_else(|| own_redis.as_ref().map(Redis::url)).expect("one of the two");
        let (public, internal) = (ports::free(), ports::free());
        let mut keys = self.defaults(dir.path(), &prefix, public, internal);
        keys.insert("redis.urls".into(), format!("['{redis_url}']"));
        keys.insert("node.name".into(), format!("'gw-{public}'"));
        if self.tls {
            write_certificate(dir.path());
        }
        keys.extend(self.keys);
        let config = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>();
        std::fs::write(dir.path().join("tidegate.toml"), config).expect("the configuration is written");
        if self.beside.is_none() {
            kafka::create_topics(&self.brokers, &prefix);
        }
        let process = serve(dir.path(), &self.env);
        let (tls, brokers, env) = (self.tls, self.brokers, self.env);
        let mut gateway = Gateway { process, dir, prefix, public, internal, tls, brokers, redis_url, own_redis, env };
        gateway.wait_ready();
        gateway
    }

    fn defaults(&self, dir: &Path, prefix: &str, public: u16, internal: u16) -> BTreeMap<String, String> {
        let path = |name: &str| format!("'{}'", dir.join(name).display());
        let mut keys = BTreeMap::from([
            ("public.listen".into(), format!("'127.0.0.1:{public}'")),
            ("internal.listen".into(), format!("'127.0.0.1:{internal}'")),
            ("auth.jwks".into(), path("jwks.json")),
            ("auth.issuer".into(), "'tidegate'".into()),
            ("auth.audience".into(), "'tidegate'".into()),
            ("kafka.brokers".into(), format!("'{}'", self.brokers)),
            ("kafka.topic_prefix".into(), format!("'{prefix}'")),
            // Any port that is free; one that has to be known is set.
            ("peer.listen".into(), "'127.0.0.1:0'".into()),
            ("peer.plaintext".into(), "true".into()),
            // No load balancer has to notice anything here.
            ("drain.propagation_s".into(), "0".into()),
            ("drain.budget_s".into(), "10".into()),
        ]);
        if self.tls {
            keys.insert("public.tls_cert".into(), path("cert.pem"));
            keys.insert("public.tls_key".into(), path("cert-key.pem"));
        } else {
            keys.insert("public.plaintext".into(), "true".into());
        }
        keys
    }
}

/// A running `tidegate serve`, killed when dropped.
pub struct Gateway {
    /// The process: its log, size, signals.
    pub process: Process,
    dir: TempDir,
    prefix: String,
    public: u16,
    internal: u16,
    tls: bool,
    brokers: String,
    redis_url: String,
    own_redis: Option<Redis>,
    env: Vec<(String, String)>,
}

impl Gateway {
    /// A gateway on the shared Kafka with topics of its own, speaking plain ws.
    pub fn build() -> Builder {
        Builder {
            keys: BTreeMap::new(),
            tls: false,
            brokers: kafka::shared(),
            redis: None,
            prefix: None,
            env: Vec::new(),
            beside: None,
        }
    }

    /// `build().start()`.
    pub fn start() -> Self {
        Self::build().start()
    }

    /// `ws://127.0.0.1:PORT`, or `wss://localhost:PORT`; no path.
    pub fn url(&self) -> String {
        let (scheme, host) = if self.tls { ("wss", "localhost") } else { ("ws", "127.0.0.1") };
        format!("{scheme}://{host}:{}", self.public)
    }

    /// Where devices connect.
    pub fn public_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.public))
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn internal_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.internal))
    }

    /// The PEM file with the authority of its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The directory of its configuration (`tidegate.toml`), keys and certificate.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The brokers it writes to.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Its name among the nodes.
    pub fn name(&self) -> String {
        format!("gw-{}", self.public)
    }

    /// Its process and that of the Redis that was started for it.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        [Some(self.process.pid()), self.own_redis.as_ref().map(Redis::pid)].into_iter().flatten()
    }

    /// The Redis that was started for it.
    pub fn redis(&mut self) -> &mut Redis {
        self.own_redis.as_mut().expect("a Redis of its own")
    }

    /// The full name of a topic of its own: `topic("telemetry")`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What is in a topic of its own by now.
    pub fn records(&self, topic: &str) -> Vec<kafka::Stored> {
        kafka::read_all(&self.brokers, &self.topic(topic))
    }

    /// A token for an hour, made by `tidegate token`.
    pub fn token(&self, sub: &str, tenant: &str, scopes: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(["token", "--sub", sub, "--tenant", tenant, "--key"]).arg(self.dir.path().join("signing-key.pem"));
        for scope in scopes {
            command.args(["--scope", scope]);
        }
        let output = command.output().expect("tidegate token runs");
        assert!(output.status.success(), "tidegate token: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned()
    }

    /// A bare connection to the public port, through TLS where the gateway has it.
    pub fn connect(&self) -> RawClient {
        if self.tls {
            let ca = std::fs::read(self.ca_file()).expect("the authority is there");
            RawClient::connect_tls(self.public_addr(), &ca, "localhost")
        } else {
            RawClient::connect(self.public_addr())
        }
    }

    /// An open WebSocket of a device of tenant `acme`, its `welcome` read. `path` as in `/v1/device?boot=b1`.
    pub fn device(&self, sub: &str, path: &str) -> RawClient {
        let token = self.token(sub, "acme", &["device"]);
        let mut client = self.connect();
        client.open(path, &[("Authorization", &format!("Bearer {token}"))]);
        client.expect_type("welcome", Duration::from_secs(5));
        client
    }

    /// Status and body of a GET on the internal port.
    pub fn internal(&self, path: &str) -> (u16, String) {
        http_get(self.internal_addr(), path).expect("the internal port answers")
    }

    /// Sum of a metric's samples whose line contains each of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.internal("/metrics");
        let samples = text.lines().filter(|line| !line.starts_with('#') && metric_name(line) == name);
        let wanted = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
        wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// SIGTERM, then waits for its end and gives the exit code.
    pub fn sigterm_and_wait(&mut self, timeout: Duration) -> Option<i32> {
        self.process.signal("TERM");
        self.process.wait(timeout).code()
    }

    /// Starts it anew on the same ports after it ended; waits until it is ready.
    pub fn start_again(&mut self) {
        self.process = serve(self.dir.path(), &self.env);
        self.wait_ready();
    }

    /// Crashes it and starts it anew.
    pub fn crash_and_restart(&mut self) {
        self.process.kill();
        self.start_again();
    }

    fn wait_ready(&mut self) {
        let addr = self.internal_addr();
        wait_for("the gateway is ready", START, || {
            if let Some(status) = self.process.ended() {
                panic!("tidegate serve ended with {status}");
            }
            http_get(addr, "/readyz").ok().filter(|(status, _)| *status == 200)
        });
    }
}

/// A running `tidegate dev` in front of a real Kafka, where a device without a token is `sensor-001`.
pub struct DevNode {
    /// The process: its log, size, signals.
    pub process: Process,
    dir: TempDir,
    prefix: String,
    port: u16,
}

impl DevNode {
    /// Starts it with topics of its own and no simulated devices, and waits until it printed its first line.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (prefix, port) = (kafka::new_prefix(), ports::free());
        kafka::create_topics(&kafka::shared(), &prefix);
        let process = dev(dir.path(), &prefix, port);
        let mut node = Self { process, dir, prefix, port };
        node.wait_started();
        node
    }

    /// `ws://127.0.0.1:PORT`, as an article's client has it: no path.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// What is in a topic of its own by now.
    pub fn records(&self, topic: &str) -> Vec<kafka::Stored> {
        kafka::read_all(&kafka::shared(), &format!("{}{topic}", self.prefix))
    }

    /// Crashes it and starts it anew on the same port.
    pub fn crash_and_restart(&mut self) {
        self.process.kill();
        self.process = dev(self.dir.path(), &self.prefix, self.port);
        self.wait_started();
    }

    /// Waits until it accepts.
    fn wait_started(&mut self) {
        let addr = SocketAddr::from(([127, 0, 0, 1], self.port));
        wait_for("tidegate dev accepts", START, || {
            if let Some(status) = self.process.ended() {
                panic!("tidegate dev ended with {status}");
            }
            TcpStream::connect(addr).ok()
        });
    }
}

fn serve(dir: &Path, env: &[(String, String)]) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config"]).arg(dir.join("tidegate.toml"));
    let command = without_settings(&mut command).envs(env.iter().map(|(name, value)| (name, value)));
    Process::start("tidegate serve", command, &dir.join("serve.log"))
}

fn dev(dir: &Path, prefix: &str, port: u16) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(["dev", "--json", "--devices", "0", "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--kafka", &kafka::shared(), "--topic-prefix", prefix]);
    Process::start("tidegate dev", without_settings(&mut command), &dir.join("dev.log"))
}

/// The environment is a source of configuration: what the caller's shell or the test runner exports must not count.
fn without_settings(command: &mut Command) -> &mut Command {
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if name.starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// An authority (`ca.pem`) and a certificate of it for `localhost` and 127.0.0.1 (`cert.pem`, `cert-key.pem`).
/// Written anew it is another certificate of another authority.
pub fn write_certificate(dir: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key).expect("the authority signs itself").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    let cert = params.signed_by(&key, &issuer).expect("the authority signs");
    std::fs::write(dir.join("ca.pem"), ca_pem).expect("written");
    std::fs::write(dir.join("cert-key.pem"), key.serialize_pem()).expect("written");
    std::fs::write(dir.join("cert.pem"), cert.pem()).expect("written");
}

/// Status and body of a GET in plain HTTP.
pub fn http_get(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let bad = || std::io::Error::other(format!("no HTTP response: {text:?}"));
    let status = text.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}

fn metric_name(line: &str) -> &str {
    line.split(['{', ' ']).next().unwrap_or_default()
}
