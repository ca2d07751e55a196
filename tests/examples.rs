//! The clients of `docs/examples` as users copy them, against the real program and a real Kafka, through a restart of the
//! gateway. `tests/run --test examples` installs what they need.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::gateway::{DevNode, Gateway};
use support::kafka::Stored;
use support::process::Process;
use support::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn an_articles_python_client_is_stored_without_a_token_and_after_a_restart() {
    let mut node = DevNode::start();
    let mut client = python("python/level0.py", &[&node.url(), "40", "0.1"]);
    through_a_restart(&mut node, &client);
    let status = client.process.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert_article_records(&node.records("telemetry"));
}

#[test]
fn an_articles_node_client_is_stored_without_a_token_and_after_a_restart() {
    let mut node = DevNode::start();
    let mut command = Command::new("node");
    command.arg(example("node/level0.js")).args([&node.url(), "40", "0.1"]);
    command.env("NODE_PATH", needed("TIDEGATE_TEST_NODE_PATH"));
    let mut client = Client::start("node level0.js", &mut command);
    through_a_restart(&mut node, &client);
    let status = client.process.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert_article_records(&node.records("telemetry"));
}

#[test]
fn the_python_client_of_level_2_loses_nothing_through_a_drain_and_a_crash() {
    let mut gateway = Gateway::build().tls().start();
    let token = gateway.token("py-2", "acme", &["device"]);
    let ca = gateway.ca_file();
    let arguments = ["--url", &gateway.url(), "--token", &token, "--ca", ca.to_str().unwrap()];
    // It measures on while there is no gateway: there has to be something left for the third connection.
    let mut client = python("device.py", &[&arguments[..], &["--count", "100", "--every", "0.2"]].concat());
    wait_until("the first ack", PATIENCE, || client.process.log().contains("acked"));
    assert_eq!(gateway.sigterm_and_wait(Duration::from_secs(30)), Some(0), "a drain ends with 0");
    gateway.start_again();
    wait_until("a second welcome", PATIENCE, || client.process.log().matches("welcome").count() >= 2);
    gateway.crash_and_restart();
    let status = client.process.wait(PATIENCE);
    assert!(status.success(), "{status}");
    let log = client.process.log();
    assert!(log.contains("goaway: restart") && log.contains("done: all 100 acked"), "{log}");
    assert!(log.matches("welcome").count() >= 3, "{log}");
    let acks: Vec<u64> = log.lines().filter_map(|line| line.strip_prefix("acked ")?.parse().ok()).collect();
    assert!(acks.is_sorted(), "{acks:?}");
    assert_complete(&gateway.records("telemetry"), "acme/py-2", 100);
}

#[test]
fn the_c_client_of_level_1_loses_nothing_through_a_crash() {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("level1");
    compile(&program);
    let mut gateway = Gateway::start();
    let token = gateway.token("c-1", "acme", &["device"]);
    let mut client = Client::start("level1.c", Command::new(&program).args([&gateway.url(), &token, "50"]));
    wait_until("the first ack", PATIENCE, || client.process.log().contains("acked"));
    gateway.crash_and_restart();
    let status = client.process.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert_eq!(connections(&client.process.log()), 2, "{}", client.process.log());
    assert_complete(&gateway.records("telemetry"), "acme/c-1", 50);
}

#[test]
fn the_browser_page_is_acked_with_its_token_as_a_subprotocol_and_through_a_crash() {
    let mut gateway = Gateway::start();
    let token = gateway.token("web-1", "acme", &["device"]);
    let site = Site::start();
    let profile = tempfile::tempdir().unwrap();
    let page = format!("http://127.0.0.1:{}/?url={}&token={token}&count=20", site.port, gateway.url());
    let mut command = Command::new(needed("TIDEGATE_TEST_BROWSER"));
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-dev-shm-usage", "--remote-debugging-port=0"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(page);
    // What is called so is often a script that starts the browser, which starts more.
    command.process_group(0);
    let mut browser = Client::start("the browser", &mut command);
    wait_until("the page's first record", PATIENCE, || !gateway.records("telemetry").is_empty());
    gateway.crash_and_restart();
    wait_until("the page says that all is acked", PATIENCE, || {
        assert!(browser.process.ended().is_none(), "the browser ended");
        site.titles().contains(&"done: all acked".to_owned())
    });
    assert_complete(&gateway.records("telemetry"), "acme/web-1", 20);
}

/// Crashes the node and starts it anew as soon as the client's first connection brought something, and waits until the
/// client is back.
fn through_a_restart(node: &mut DevNode, client: &Client) {
    wait_until("the client's first record", PATIENCE, || !node.records("telemetry").is_empty());
    node.crash_and_restart();
    wait_until("the client connects again", PATIENCE, || connections(&client.process.log()) >= 2);
}

/// Lines that say that a connection was made.
fn connections(log: &str) -> usize {
    log.lines().filter(|line| line.starts_with("connected")).count()
}

/// What the article's message must have become: its own words as the value, under the device of the loopback rule.
fn assert_article_records(records: &[Stored]) {
    for record in records {
        assert!(record.key.ends_with("/sensor-001"), "{}", record.key);
        let message = record.json();
        assert_eq!(message["device_id"], "sensor-001");
        assert_eq!(message["type"], "temperature_update");
        assert_eq!(message["value"], 23.5);
        assert_headers(record);
    }
    // A connection without a `boot` has its session as the boot: so records of both connections are there.
    let boots: BTreeSet<_> = records.iter().map(|record| record.header("ce_id").split(':').next()).collect();
    assert_eq!(boots.len(), 2, "{boots:?}");
    // The crash may have cost what was on its way (level 0), but never most of it.
    assert!(records.len() >= 20, "{} of 40", records.len());
}

/// Every number from 1 to `count` is stored, under one boot, and repeats are equal.
fn assert_complete(records: &[Stored], key: &str, count: u64) {
    let mut values: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut boots = BTreeSet::new();
    for record in records {
        assert_eq!(record.key, key);
        assert_headers(record);
        let (boot, seq) = record.boot_and_seq().unwrap_or_else(|| panic!("no number in {:?}", record.headers));
        boots.insert(boot);
        let first = values.entry(seq).or_insert(&record.value);
        assert_eq!(*first, &record.value[..], "number {seq} is stored with two values");
        let message = record.json();
        assert_eq!((&message["name"], message["seq"].as_u64()), (&"temperature".into(), Some(seq)));
    }
    assert_eq!(boots.len(), 1, "{boots:?}");
    assert!(values.keys().copied().eq(1..=count), "{:?}", values.keys());
}

/// The CloudEvents headers every record of an update has.
fn assert_headers(record: &Stored) {
    assert_eq!(record.header("ce_specversion"), "1.0");
    assert_eq!(record.header("ce_source"), format!("/tidegate/{}", record.key));
    assert_eq!(record.header("ce_type"), "tidegate.update.v1");
    assert!(record.header("content-type").starts_with("application/json"), "{:?}", record.headers);
    for name in ["ce_id", "ce_time", "tg_received_at", "tg_epoch"] {
        assert!(!record.header(name).is_empty(), "{name} in {:?}", record.headers);
    }
}

/// A running example and where its output goes.
struct Client {
    process: Process,
    _log: tempfile::TempDir,
}

impl Client {
    fn start(name: &'static str, command: &mut Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { process: Process::start(name, command, &dir.path().join("log")), _log: dir }
    }
}

fn python(script: &'static str, arguments: &[&str]) -> Client {
    let mut command = Command::new(needed("TIDEGATE_TEST_PYTHON"));
    // Nothing is left in the checkout.
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(example(script)).args(arguments);
    Client::start(script, &mut command)
}

/// Compiles the C example with every warning an error.
fn compile(program: &Path) {
    let flags = Command::new("pkg-config").args(["--cflags", "--libs", "libwebsockets"]).output().unwrap();
    assert!(flags.status.success(), "pkg-config: {}", String::from_utf8_lossy(&flags.stderr));
    let flags = String::from_utf8(flags.stdout).unwrap();
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Werror", "-o"]).arg(program).arg(example("c/level1.c"));
    let made = command.args(flags.split_whitespace()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(path)
}

fn needed(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run by `tests/run --test examples`"))
}

/// Serves the page as it is, with one more script behind it that reports its title.
struct Site {
    port: u16,
    titles: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Site {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Self { port: listener.local_addr().unwrap().port(), titles: std::sync::Arc::default() };
        let titles = site.titles.clone();
        let page = std::fs::read_to_string(example("browser/index.html")).unwrap();
        let reporter = "<script>setInterval(() => fetch('/title?' + encodeURIComponent(document.title)), 200)</script>";
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if let Some(title) = answer(stream, &format!("{page}{reporter}")) {
                    titles.lock().unwrap().push(title);
                }
            }
        });
        site
    }

    fn titles(&self) -> Vec<String> {
        self.titles.lock().unwrap().clone()
    }
}

/// Answers one request with the page, and gives the title it reported.
fn answer(mut stream: TcpStream, page: &str) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.find(String::is_empty)?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{page}", page.len()).ok()?;
    let title = request.strip_prefix("GET /title?")?.split(' ').next()?;
    Some(title.replace("%3A", ":").replace("%20", " "))
}
