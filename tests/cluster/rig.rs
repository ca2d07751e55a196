//! A cluster behind HAProxy, with what users have: `curl`, Python's websocket-client, and a client in Rust.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::cluster::{Cluster, Directory};
use super::support::haproxy::Haproxy;
use super::support::process::Process;
use super::support::redis::Redis;
use super::support::wait_for;
use super::support::ws::RawClient;

/// What has to happen, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const TENANT: &str = "acme";

/// Everything.
pub struct Rig {
    pub cluster: Cluster,
    pub haproxy: Haproxy,
    dir: TempDir,
    app: String,
    calls: AtomicUsize,
}

/// An answer to `curl`.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The command's id.
    pub fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }

    /// Its state.
    pub fn state(&self) -> &str {
        self.body["state"].as_str().unwrap_or_else(|| panic!("no state: {self:?}"))
    }
}

impl Rig {
    pub fn start() -> Self {
        let cluster = Cluster::start(Directory::One(Redis::start()), None, |builder| {
            builder.tls().set("drain.propagation_s", "1").set("drain.budget_s", "20")
        });
        let nodes: Vec<_> = cluster.nodes.iter().collect();
        let haproxy = Haproxy::start(&nodes);
        let dir = tempfile::tempdir().unwrap();
        // Each node has a certificate of an authority of its own; behind one name all of them may answer.
        let authorities = cluster.nodes.iter().map(|node| fs::read_to_string(node.ca_file()).unwrap());
        fs::write(dir.path().join("ca.pem"), authorities.collect::<String>()).unwrap();
        let app = cluster.token("console", TENANT, &["commands:write", "telemetry:read", "admin"]);
        Self { cluster, haproxy, dir, app, calls: AtomicUsize::new(0) }
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A place for a test's files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `https://localhost:port` of a node, or of HAProxy.
    pub fn base(&self, node: Option<usize>) -> String {
        let port = node.map_or(self.haproxy.addr().port(), |node| self.cluster.nodes[node].public_addr().port());
        format!("https://localhost:{port}")
    }

    /// `curl` with a token, ready for more arguments.
    pub fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "--cacert"]).arg(self.ca());
        curl.args(["-H", &format!("Authorization: Bearer {}", self.app)]).stdin(Stdio::null());
        curl
    }

    fn call(&self, mut curl: Command, url: &str) -> Answer {
        let output = curl.args(["-w", "\n%{http_code}", url]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = status.parse().unwrap();
        assert_ne!(status, 0, "no answer from {url}: {error}");
        Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null) }
    }

    /// Asks a node, or HAProxy, for a command.
    pub fn post(&self, node: Option<usize>, device: &str, key: &str, body: &Value) -> Answer {
        let mut curl = self.curl();
        curl.args(["-H", &format!("Idempotency-Key: {key}"), "-H", "Content-Type: application/json"]);
        curl.args(["-d", &body.to_string()]);
        self.call(curl, &format!("{}/v1/devices/{device}/commands", self.base(node)))
    }

    /// The same with a key of its own and the usual body.
    pub fn command(&self, node: Option<usize>, device: &str, ttl_s: u64) -> Answer {
        let key = format!("key-{}", self.calls.fetch_add(1, Ordering::Relaxed));
        let answer = self.post(node, device, &key, &json!({"name": "open", "params": {"key": key}, "ttl_s": ttl_s}));
        assert_eq!(answer.status, 202, "{answer:?}");
        answer
    }

    pub fn get(&self, device: &str, id: &str) -> Answer {
        self.call(self.curl(), &format!("{}/v1/devices/{device}/commands/{id}", self.base(None)))
    }

    pub fn cancel(&self, device: &str, id: &str) -> Answer {
        let mut curl = self.curl();
        curl.args(["-X", "DELETE"]);
        self.call(curl, &format!("{}/v1/devices/{device}/commands/{id}", self.base(None)))
    }

    /// Has a node see to it that a device is traced for a minute.
    pub fn trace(&self, node: usize, device: &str) -> Answer {
        let mut curl = self.curl();
        curl.args(["-X", "PUT", "-H", "Content-Type: application/json", "-d", r#"{"for_s":60}"#]);
        self.call(curl, &format!("{}/v1/devices/{device}/trace", self.base(Some(node))))
    }

    /// Waits until a command is in a state.
    pub fn wait_state(&self, device: &str, id: &str, state: &str) -> Answer {
        wait_for(&format!("command {id} is {state}"), PATIENCE, || {
            Some(self.get(device, id)).filter(|answer| answer.status == 200 && answer.state() == state)
        })
    }

    fn token(&self, device: &str) -> String {
        self.cluster.token(device, TENANT, &["device"])
    }

    /// A device in Rust, connected to this node, its `welcome` read.
    pub fn device(&self, node: usize, device: &str) -> RawClient {
        let mut client = self.cluster.nodes[node].connect();
        client.open("/v1/device?boot=b1", &[("Authorization", &format!("Bearer {}", self.token(device)))]);
        client.expect_type("welcome", PATIENCE);
        client
    }

    /// A device in Python behind HAProxy, which comes back until it is dropped.
    pub fn python(&self, device: &str) -> Python {
        let program = std::env::var("TIDEGATE_TEST_PYTHON").expect("run it by `tests/run --test cluster`");
        let mut command = Command::new(program);
        command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/device.py"));
        let url = self.base(None).replacen("https", "wss", 1);
        command.args([&url, &self.token(device)]).arg(self.ca()).arg("b1");
        let log = self.file(&format!("{device}.log"));
        let python = Python { process: Process::start("device.py", &mut command, &log) };
        python.wait_told("welcome", 1);
        python
    }

    /// The node that has a device now, as its row says.
    pub fn node_of(&self, device: &str) -> usize {
        wait_for("the device's row", PATIENCE, || {
            let name = self.cluster.redis().cli(&["HGET", &format!("tg:{{{TENANT}/{device}}}:own"), "node"]);
            self.cluster.nodes.iter().position(|node| node.name() == name)
        })
    }
}

/// A device on websocket-client.
pub struct Python {
    process: Process,
}

impl Python {
    fn lines(&self, what: &str) -> Vec<Value> {
        let log = self.process.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line.get(what).cloned()).collect()
    }

    /// The messages of a type it was told.
    pub fn told(&self, kind: &str) -> Vec<Value> {
        self.lines("told").into_iter().filter(|message| message["type"] == kind).collect()
    }

    /// How often it did a command.
    pub fn did(&self, id: &str) -> usize {
        self.lines("did").iter().filter(|did| **did == *id).count()
    }

    /// Waits until it was told so many of a type.
    pub fn wait_told(&self, kind: &str, count: usize) {
        wait_for(&format!("{count} {kind}"), PATIENCE, || (self.told(kind).len() >= count).then_some(()));
    }
}
