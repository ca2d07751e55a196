//! Debian's Redis as a test needs it: alone, as a cluster of three primaries, under sentinels. All of it ends with the
//! value that stands for it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{ports, wait_until};

const STARTED: Duration = Duration::from_secs(20);
const FORMED: Duration = Duration::from_secs(60);

/// One server of a test's own, without persistence.
pub struct Redis {
    process: Process,
    /// The port on 127.0.0.1.
    pub port: u16,
    dir: TempDir,
    options: Vec<String>,
}

impl Redis {
    /// Starts one with its defaults.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with lines of its configuration besides, as `maxmemory 3mb`.
    pub fn with(options: &[&str]) -> Self {
        let (port, dir) = (ports::free(), tempfile::tempdir().expect("a directory"));
        let options: Vec<String> = options.iter().map(|line| (*line).to_owned()).collect();
        let process = launch(dir.path(), port, &options);
        let redis = Self { process, port, dir, options };
        redis.wait_up();
        redis
    }

    fn wait_up(&self) {
        // An answer of any kind: who may not ask is told so.
        wait_until("Redis answers", STARTED, || !try_cli(self.port, &["PING"]).unwrap_or_default().is_empty());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one command and gives its answer as text.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }

    /// Stops and continues it: `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it at once and starts it empty, on the same port.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.dir.path(), self.port, &self.options);
        self.wait_up();
    }
}

fn launch(dir: &Path, port: u16, options: &[String]) -> Process {
    let file = dir.join("redis.conf");
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n",
        dir.display()
    );
    options.iter().for_each(|line| text.extend([line.as_str(), "\n"]));
    std::fs::write(&file, text).expect("the configuration is written");
    Process::start("redis-server", Command::new("redis-server").arg(&file), &dir.join("log"))
}

fn try_cli(port: u16, args: &[&str]) -> Option<String> {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output();
    let output = output.expect("redis-cli runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Sends one command to a server on 127.0.0.1 and gives its answer as text.
pub fn cli(port: u16, args: &[&str]) -> String {
    try_cli(port, args).unwrap_or_else(|| panic!("redis-cli -p {port} {args:?} failed"))
}

/// A cluster of three primaries without replicas.
pub struct Cluster {
    /// Its servers.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts and forms it.
    pub fn start() -> Self {
        let node = || {
            let bus = format!("cluster-port {}", ports::free());
            Redis::with(&["cluster-enabled yes", "cluster-node-timeout 2000", &bus])
        };
        let nodes: Vec<_> = (0..3).map(|_| node()).collect();
        // By hand rather than by `redis-cli --cluster`, which knows nothing of bus ports.
        for (at, node) in nodes.iter().enumerate() {
            let (first, last) = (at * 16_384 / 3, (at + 1) * 16_384 / 3 - 1);
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        for node in &nodes[1..] {
            let bus = node.options.iter().find_map(|line| line.strip_prefix("cluster-port ")).expect("a bus port");
            nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        wait_until("the cluster is whole", FORMED, || {
            nodes.iter().all(|node| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_size:3")
            })
        });
        Self { nodes }
    }

    /// Gives a slot without keys from its owner to another primary.
    pub fn move_slot(&self, slot: u16, to: &Redis) {
        let id = to.cli(&["CLUSTER", "MYID"]);
        // The new owner first, so that no moment is without one.
        to.cli(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        for node in self.nodes.iter().filter(|node| node.port != to.port) {
            node.cli(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
    }
}

/// A primary and its replica, and three sentinels that know the primary as `tide`.
pub struct Sentinels {
    /// The first primary.
    pub primary: Redis,
    /// The one that takes over.
    pub replica: Redis,
    sentinels: Vec<(u16, Process)>,
    _dir: TempDir,
}

impl Sentinels {
    /// Starts all five and waits until the sentinels know one another and the replica follows.
    pub fn start() -> Self {
        let primary = Redis::start();
        let replica = Redis::with(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
        let dir = tempfile::tempdir().expect("a directory");
        let sentinels: Vec<_> = (0..3).map(|at| sentinel(dir.path(), at, primary.port)).collect();
        wait_until("the replica follows", FORMED, || {
            replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
        });
        wait_until("the sentinels know one another", FORMED, || {
            sentinels.iter().all(|(port, _)| {
                let known = try_cli(*port, &["SENTINEL", "MASTER", "tide"]).unwrap_or_default();
                let value = |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                value("num-other-sentinels").as_deref() == Some("2") && value("num-slaves").as_deref() == Some("1")
            })
        });
        Self { primary, replica, sentinels, _dir: dir }
    }

    /// The sentinels' addresses.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(|(port, _)| format!("redis://127.0.0.1:{port}")).collect()
    }

    /// Waits until the replica is the primary, and the sentinels say so.
    pub fn wait_failed_over(&self) {
        let port = self.replica.port.to_string();
        wait_until("the replica took over", FORMED, || {
            self.sentinels.iter().all(|(sentinel, _)| {
                let known = try_cli(*sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tide"]);
                known.unwrap_or_default().lines().nth(1) == Some(port.as_str())
            })
        });
    }
}

fn sentinel(dir: &Path, at: usize, primary: u16) -> (u16, Process) {
    let (port, home) = (ports::free(), dir.join(at.to_string()));
    std::fs::create_dir(&home).expect("a directory");
    let file = home.join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor tide 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds tide 500\nsentinel failover-timeout tide 3000\n",
        home.display()
    );
    std::fs::write(&file, text).expect("the configuration is written");
    let mut command = Command::new("redis-server");
    (port, Process::start("redis-sentinel", command.arg(&file).arg("--sentinel"), &home.join("log")))
}
