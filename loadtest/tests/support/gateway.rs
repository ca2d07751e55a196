//! The real gateway for tests of the load tester: `tidegate dev`, which needs nothing, and `tidegate serve`, which needs
//! the Kafka of `tests/run` and starts a Redis of its own. Killed when dropped.
//!
//! The program is the one `cargo build` puts beside the tests (`target/debug/tidegate`).
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use tempfile::TempDir;

const START: Duration = Duration::from_secs(60);

/// The `tidegate` of this build.
///
/// # Panics
/// Where it is missing.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test.parent().and_then(Path::parent).expect("target/debug/deps/test").join("tidegate");
    assert!(program.exists(), "{} is missing: `cargo build -p tidegate` makes it", program.display());
    program
}

/// A port of 127.0.0.1 nobody listens on, below those of outgoing connections.
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).take(1_000);
    ports.find(|port| is_ours(*port) && TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// Whether no other test program chose it before; `tests/run` gives them a folder to say so.
fn is_ours(port: u16) -> bool {
    let Some(chosen) = std::env::var_os("TIDEGATE_TEST_PORTS") else { return true };
    File::create_new(Path::new(&chosen).join(port.to_string())).is_ok()
}

/// The Kafka of `tests/run`.
///
/// # Panics
/// Where there is none.
pub fn kafka() -> String {
    std::env::var("TIDEGATE_TEST_KAFKA").expect("this test needs a Kafka: `tests/run -p tidegate-loadtest --test NAME`")
}

/// A command without the settings of the caller's environment.
pub fn clean(mut command: Command) -> Command {
    let ours = |name: &String| name.starts_with("TIDEGATE_");
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours).for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// A program a test started; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; standard error goes to a file, and standard output too where `output` is not asked for.
    pub fn start(command: Command, log: &Path, output: bool) -> Self {
        let err = File::options().create(true).append(true).open(log).expect("the log opens");
        let out = if output { Stdio::piped() } else { err.try_clone().expect("a descriptor").into() };
        let child = clean(command).stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("it starts");
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal}");
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let log = self.log.clone();
        let ended = || self.child.try_wait().expect("a child can be waited for");
        wait_for(&format!("it ends; {}", log.display()), timeout, ended)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}\n---", self.log.display(), self.log());
        }
    }
}

/// Looks every 20 ms until there is something.
pub fn wait_for<T>(what: &str, timeout: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running gateway.
pub struct Gateway {
    pub process: Process,
    /// Where devices connect, with path.
    pub device_url: String,
    /// Of every node, where there are several.
    pub device_urls: Vec<String>,
    pub api_url: String,
    pub metrics_url: String,
    /// Of an application that may do everything.
    pub app_token: String,
    /// What its topics begin with, and its brokers; empty where the log is in memory.
    pub prefix: String,
    pub brokers: String,
    dir: Arc<TempDir>,
    redis: Option<Arc<Redis>>,
}

struct Redis {
    _process: Process,
    url: String,
}

/// What makes the nodes of one cluster one: keys, certificate, topics and Redis.
struct Shared<'a> {
    dir: &'a Arc<TempDir>,
    prefix: &'a str,
    redis: &'a Arc<Redis>,
}

impl Gateway {
    /// `tidegate dev` without simulated devices, on a free port, with the log in memory. A device without a token is
    /// `sensor-001`.
    pub fn dev(arguments: &[&str]) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let mut command = Command::new(program());
        command.args(["dev", "--json", "--devices", "0", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut process = Process::start(command, &dir.path().join("dev.log"), true);
        let mut output = BufReader::new(process.child.stdout.take().expect("it was piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it prints a line");
        // Whatever else it prints nobody reads; the pipe must not fill.
        std::thread::spawn(move || drop(output.read_to_end(&mut Vec::new())));
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?} {}", process.log()));
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let nodes = said["nodes"].as_array().into_iter().flatten();
        Self {
            device_url: text("device_url"),
            device_urls: nodes.filter_map(|node| node["device_url"].as_str().map(str::to_owned)).collect(),
            api_url: text("api_url"),
            metrics_url: text("metrics_url"),
            app_token: text("app_token"),
            prefix: String::new(),
            brokers: String::new(),
            process,
            dir,
            redis: None,
        }
    }

    /// `tidegate serve` on the Kafka of `tests/run` with topics of its own, over TLS or not. `settings` are lines of its
    /// configuration, as `limits.messages_per_s = 5`.
    pub fn serve(tls: bool, settings: &[&str]) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let made = Command::new(program()).args(["keys", "new", "--dir"]).arg(dir.path()).output().expect("it runs");
        assert!(made.status.success(), "tidegate keys new: {}", String::from_utf8_lossy(&made.stderr));
        if tls {
            write_certificate(dir.path());
        }
        let (prefix, redis) = (format!("t{:016x}.", fastrand::u64(..)), Arc::new(start_redis(dir.path())));
        Self::node(&Shared { dir: &dir, prefix: &prefix, redis: &redis }, tls, settings, true)
    }

    /// Another node of the cluster of this `serve`.
    pub fn beside(&self, settings: &[&str]) -> Self {
        let redis = self.redis.as_ref().expect("a `serve`");
        let shared = Shared { dir: &self.dir, prefix: &self.prefix, redis };
        Self::node(&shared, self.device_url.starts_with("wss"), settings, false)
    }

    fn node(shared: &Shared<'_>, tls: bool, settings: &[&str], first: bool) -> Self {
        let (public, internal) = (free_port(), free_port());
        let path = |name: &str| shared.dir.path().join(name).display().to_string();
        let brokers = kafka();
        let mut lines = vec![
            format!("node.name = 'gw-{public}'"),
            format!("public.listen = '127.0.0.1:{public}'"),
            format!("internal.listen = '127.0.0.1:{internal}'"),
            format!("auth.jwks = '{}'", path("jwks.json")),
            "auth.issuer = 'tidegate'\nauth.audience = 'tidegate'".into(),
            format!("kafka.brokers = '{brokers}'\nkafka.topic_prefix = '{}'", shared.prefix),
            format!("redis.urls = ['{}']", shared.redis.url),
            "peer.listen = '127.0.0.1:0'\npeer.plaintext = true".into(),
            "drain.propagation_s = 0\ndrain.budget_s = 10".into(),
        ];
        if tls {
            lines.push(format!("public.tls_cert = '{}'\npublic.tls_key = '{}'", path("cert.pem"), path("key.pem")));
        } else {
            lines.push("public.plaintext = true".into());
        }
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        let config = shared.dir.path().join(format!("{public}.toml"));
        std::fs::write(&config, lines.join("\n")).expect("the configuration is written");
        if first {
            make_topics(&config);
        }
        let log = config.with_extension("log");
        let mut process = serve(&config, &log);
        wait_for("the gateway is ready", START, || {
            let ended = process.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "tidegate serve ended: {}", process.log());
            (http_get(internal, "/readyz") == Some(200)).then_some(())
        });
        let (ws, http) = if tls { ("wss", "https") } else { ("ws", "http") };
        let host = if tls { "localhost" } else { "127.0.0.1" };
        let device_url = format!("{ws}://{host}:{public}/v1/device");
        let mut gateway = Self {
            device_urls: vec![device_url.clone()],
            device_url,
            api_url: format!("{http}://{host}:{public}"),
            metrics_url: format!("http://127.0.0.1:{internal}/metrics"),
            app_token: String::new(),
            prefix: shared.prefix.to_owned(),
            brokers,
            process,
            dir: Arc::clone(shared.dir),
            redis: Some(Arc::clone(shared.redis)),
        };
        gateway.app_token = gateway.token("test-app", &["telemetry:read", "commands:write", "admin"]);
        gateway
    }

    /// The key that signs tokens for this `serve`.
    pub fn signing_key(&self) -> PathBuf {
        self.dir.path().join("signing-key.pem")
    }

    /// The authority of its certificate, where it speaks TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Where devices connect.
    pub fn address(&self) -> SocketAddr {
        let authority = self.device_url.split('/').nth(2).expect("a host");
        authority.replace("localhost", "127.0.0.1").parse().expect("an address")
    }

    /// A token for an hour of a `serve`, tenant `acme`.
    pub fn token(&self, sub: &str, scopes: &[&str]) -> String {
        let mut command = Command::new(program());
        command.args(["token", "--sub", sub, "--tenant", "acme", "--key"]).arg(self.signing_key());
        for scope in scopes {
            command.args(["--scope", scope]);
        }
        let output = command.output().expect("tidegate token runs");
        assert!(output.status.success(), "tidegate token: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned()
    }

    /// Sends a command by `tidegate send`, and waits for its end; the command as the API shows it.
    pub fn send(&self, device: &str, name: &str, params: &str) -> Value {
        let mut command = Command::new(program());
        command.args(["send", device, name, params, "--wait", "20s", "--url", &self.api_url]);
        command.args(["--token", &self.app_token]);
        let output = command.output().expect("tidegate send runs");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("tidegate send: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn serve(config: &Path, log: &Path) -> Process {
    let mut command = Command::new(program());
    command.args(["serve", "--config"]).arg(config);
    Process::start(command, log, false)
}

fn make_topics(config: &Path) {
    let mut command = Command::new(program());
    command.args(["topics", "--apply", "--replication-factor", "1", "--partitions", "4", "--config"]).arg(config);
    let output = clean(command).output().expect("tidegate topics runs");
    assert!(output.status.success(), "tidegate topics: {}", String::from_utf8_lossy(&output.stderr));
}

fn start_redis(dir: &Path) -> Redis {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(dir);
    let process = Process::start(command, &dir.join("redis.log"), false);
    wait_for("Redis accepts", START, || TcpStream::connect(("127.0.0.1", port)).ok());
    Redis { _process: process, url: format!("redis://127.0.0.1:{port}") }
}

/// The status of a GET.
pub fn http_get(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.get(9..12)?.parse().ok()
}

/// An authority (`ca.pem`) and a certificate of it for `localhost` and 127.0.0.1 (`cert.pem`, `key.pem`).
fn write_certificate(dir: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key).expect("it signs itself").pem();
    let (issuer, key) = (Issuer::new(ca, ca_key), KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let cert = params.signed_by(&key, &issuer).expect("the authority signs");
    std::fs::write(dir.join("ca.pem"), ca_pem).expect("written");
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).expect("written");
    std::fs::write(dir.join("cert.pem"), cert.pem()).expect("written");
}
