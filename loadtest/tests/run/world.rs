//! Gateways and load testers as processes.

#![allow(unreachable_pub, missing_docs, reason = "a module of one test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "this is test code")]

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A directory that is gone at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidegate-run-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The gateway's program, which `cargo build` or `cargo test --workspace` puts beside the load tester's.
fn tidegate() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_tidegate-loadtest")).with_file_name("tidegate");
    assert!(path.exists(), "{} is missing: cargo build -p tidegate", path.display());
    path
}

/// A signing key, made there.
pub fn key_in(dir: &Path) -> PathBuf {
    let made = Command::new(tidegate()).args(["keys", "new", "--dir"]).arg(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    dir.join("signing-key.pem")
}

/// The flags of a gateway on the tests' Kafka, with topics of its own; none where there is no Kafka.
pub fn kafka() -> Option<[String; 4]> {
    let Ok(brokers) = std::env::var("TIDEGATE_TEST_KAFKA") else {
        println!("skipped: TIDEGATE_TEST_KAFKA is not set; tests/run sets it");
        return None;
    };
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let prefix = format!("run{}-{}.", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    Some(["--kafka".to_owned(), brokers, "--topic-prefix".to_owned(), prefix])
}

/// `tidegate dev`.
pub struct Gateway {
    child: Child,
    url: String,
    key: PathBuf,
    _scratch: Scratch,
}

impl Gateway {
    pub fn start(flags: &[String]) -> Self {
        if let Some(prefix) = flags.get(3) {
            topics(&flags[1], prefix);
        }
        let scratch = Scratch::new();
        let key = key_in(scratch.path());
        let mut child = Command::new(tidegate())
            .args(["dev", "--listen", "127.0.0.1:0", "--devices", "0", "--json", "--signing-key"])
            .arg(&key)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the gateway did not start: {line}"));
        let url = told["device_url"].as_str().unwrap().to_owned();
        Self { child, url, key, _scratch: scratch }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes the gateway's topics.
fn topics(brokers: &str, prefix: &str) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    let names = ["telemetry", "status", "command-events", "dead-letter", "commands", "revocations"];
    let names: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1))).collect();
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics(&topics, &AdminOptions::new())).unwrap();
}

/// The port on `localhost` of a server with a certificate that nobody trusts; it serves until the process ends.
pub fn tls_server() -> u16 {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut server = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // The client gives up in the middle: that is what this is for.
            drop(server.complete_io(&mut stream));
        }
    });
    port
}

/// The load tester, about to be started.
pub struct LoadTester {
    command: Command,
    out: Scratch,
}

impl LoadTester {
    pub fn bare<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, out: Scratch::new() }
    }

    fn of(kind: &str, profile: &str, gateway: &Gateway) -> Self {
        let mut tester = Self::bare([kind, profile]);
        tester.command.arg("--out").arg(tester.out.path());
        // A target that a case gives takes the place of the gateway's.
        tester.command.env("TIDEGATE_LOADTEST_TARGET", &gateway.url);
        tester
    }

    /// `run`, without a key.
    pub fn plain(profile: &str, gateway: &Gateway) -> Self {
        Self::of("run", profile, gateway)
    }

    /// `run`, with the gateway's key.
    pub fn run(profile: &str, gateway: &Gateway) -> Self {
        Self::plain(profile, gateway).args(["--signing-key", gateway.key.to_str().unwrap()])
    }

    /// `coordinator`, which needs no key: its workers have it.
    pub fn coordinator(profile: &str, gateway: &Gateway) -> Self {
        Self::of("coordinator", profile, gateway)
    }

    pub fn worker(coordinator: &str, gateway: &Gateway) -> Self {
        Self::bare(["worker", "--coordinator", coordinator, "--signing-key", gateway.key.to_str().unwrap()])
    }

    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let (stdout, stderr) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let readers = vec![
            read(child.stdout.take().unwrap(), Arc::clone(&stdout)),
            read(child.stderr.take().unwrap(), Arc::clone(&stderr)),
        ];
        Running { child, out: Some(self.out), stdout, stderr, readers }
    }

    pub fn finish(self, within: Duration) -> Done {
        self.start().end(within)
    }
}

fn read(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut into = into.lock().unwrap();
            into.push_str(&line);
            into.push('\n');
        }
    })
}

/// The load tester, started.
pub struct Running {
    child: Child,
    out: Option<Scratch>,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it says this.
    pub fn wait_for_line(&self, text: &str, within: Duration) {
        let until = Instant::now() + within;
        while !self.stdout.lock().unwrap().contains(text) {
            let said = || (self.stdout.lock().unwrap().clone(), self.stderr.lock().unwrap().clone());
            assert!(Instant::now() < until, "it never said {text}: {:?}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn end(mut self, within: Duration) -> Done {
        let until = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = || (self.stdout.lock().unwrap().clone(), self.stderr.lock().unwrap().clone());
            assert!(Instant::now() < until, "it hangs: {:?}", said());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let text = |text: &Arc<Mutex<String>>| text.lock().unwrap().clone();
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        Done { code: status.code(), stdout, stderr, out: self.out.take().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The load tester, after its end.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub out: Scratch,
}

impl Done {
    pub fn summary(&self) -> Value {
        let text = std::fs::read_to_string(self.out.path().join("summary.json"));
        serde_json::from_str(&text.unwrap_or_else(|error| panic!("{error}: {self}"))).unwrap()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr)
    }
}
