//! A Redis with TLS and a user of least rights.

use std::time::Duration;

use serde_json::json;

use super::support::gateway::{Builder, Gateway};
use super::support::kafka;
use super::support::pki::{Authority, Leaf};
use super::support::redis::Redis;
use super::support::ws::RawClient;
use super::support::{ports, wait_until};
use super::{PATIENCE, TENANT, assert_silent_about, at, commands, quoted, refused, stores, told};

/// What the gateway's user has to be allowed; these words stand in the documentation and in the chart's README too.
pub(crate) const RIGHTS: &str = "resetchannels -@all ~tg:* ~{tg}:* ~{tg:due:*} +del +eval +evalsha +exists +expire +get +hdel +hget \
                                 +hgetall +hincrby +hmget +hset +info +pexpire +ping +set +time +xadd +xdel +xlen \
                                 +xrange +zadd +zcard +zrange +zrem +zscore";
const PASSWORD: &str = "planted-redis-password";

/// A Redis over TLS with one user beside the one that tests use.
pub(crate) struct Guarded {
    pub(crate) redis: Redis,
    pub(crate) dir: tempfile::TempDir,
    tls: u16,
}

impl Guarded {
    pub(crate) fn start() -> Self {
        let (authority, dir, tls) = (Authority::new("neighbours"), tempfile::tempdir().unwrap(), ports::free());
        std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        std::fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        authority.sign(Leaf::default()).write(dir.path(), "redis");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let options = [
            format!("tls-port {tls}"),
            format!("tls-cert-file {}", path("redis.pem")),
            format!("tls-key-file {}", path("redis-key.pem")),
            format!("tls-ca-cert-file {}", path("ca.pem")),
            "tls-auth-clients no".into(),
            format!("user tidegate on >{PASSWORD} {RIGHTS}"),
        ];
        Self { redis: Redis::with(&options.each_ref().map(String::as_str)), dir, tls }
    }

    /// The keys by which somebody comes in, but for the password.
    fn keys(&self) -> Vec<(&'static str, String)> {
        vec![
            ("redis.urls", format!("['rediss://localhost:{}']", self.tls)),
            ("redis.username", quoted("tidegate")),
            ("redis.ca", at(self.dir.path(), "ca.pem")),
        ]
    }

    /// A node of this Redis, whose password it reads from a file.
    pub(crate) fn node(&self, build: Builder) -> Gateway {
        let file = self.dir.path().join("password").display().to_string();
        let build = build.redis(&self.redis.url()).env("TIDEGATE_REDIS__PASSWORD_FILE", &file);
        self.keys().iter().fold(build, |build, (key, value)| build.set(key, value)).start()
    }

    /// Changes the user.
    fn change(&self, rules: &str) {
        let words: Vec<&str> = ["ACL", "SETUSER", "tidegate"].into_iter().chain(rules.split(' ')).collect();
        assert_eq!(self.redis.cli(&words), "OK");
    }

    /// What a node that starts now is told; its topics are there.
    fn refuses(&self, prefix: &str, password: &str) -> (i32, String) {
        let mut keys = self.keys();
        keys.push(("redis.password", quoted(password)));
        keys.push(("kafka.brokers", quoted(kafka::shared())));
        keys.push(("kafka.topic_prefix", quoted(prefix)));
        keys.push(("node.start_timeout_s", "3".to_owned()));
        told(&refused(&keys))
    }
}

fn connected(gateway: &Gateway, path: &str) -> RawClient {
    let mut client = gateway.device("d", path);
    stores(&mut client, 1);
    client
}

#[test]
fn two_nodes_live_with_a_user_of_least_rights_over_tls() {
    let guarded = Guarded::start();
    let mut a = guarded.node(Gateway::build().set("telemetry.log", "'trace'"));
    let b = guarded.node(Gateway::build().beside(&a));
    let mut device = connected(&a, "/v1/device?boot=b1");
    commands(&b, &mut device, "d");
    a.process.signal("TERM");
    device.expect_type("goaway", PATIENCE);
    device.send_close(1000);
    drop(device);
    assert_eq!(a.process.wait(PATIENCE).code(), Some(0));
    let mut device = connected(&b, "/v1/device?boot=b2");
    commands(&b, &mut device, "d");
    for log in [a.process.log(), b.process.log()] {
        let denied = log.lines().find(|line| line.contains("NOPERM") || line.contains("permission"));
        assert_eq!(denied, None);
        assert!(!log.contains(PASSWORD), "the password is in a log");
    }
    assert_silent_about(&b, &[PASSWORD]);
}

#[test]
fn a_node_names_the_right_that_its_user_lacks_before_it_takes_a_device() {
    let (guarded, prefix) = (Guarded::start(), kafka::new_prefix());
    kafka::create_topics(&kafka::shared(), &prefix);
    for (rule, lacks) in [
        ("-zadd", "ACL SETUSER tidegate +zadd gives"),
        ("-xadd -hset", "ACL SETUSER tidegate +hset +xadd gives"),
        ("-evalsha", "ACL SETUSER tidegate +evalsha gives"),
        ("-eval", "ACL SETUSER tidegate +eval +evalsha ~tg:* ~{tg}:* ~{tg:due:*} gives"),
        ("resetkeys ~tg:*", "ACL SETUSER tidegate ~{tg}:* ~{tg:due:*} gives"),
    ] {
        guarded.change(rule);
        let (code, text) = guarded.refuses(&prefix, PASSWORD);
        assert_eq!(code, 78, "{rule}: {text}");
        assert!(text.contains(lacks) && text.contains("docs/secured-neighbours.md"), "{rule}: {text}");
        guarded.change(RIGHTS);
    }
    let (code, text) = guarded.refuses(&prefix, "planted-other-password");
    assert_eq!(code, 69, "{text}");
    assert!(text.contains("check redis.username and redis.password") && !text.contains("planted"), "{text}");
}

/// As when Redis is away: sockets stay, telemetry is stored, commands are answered 503; and it ends by itself.
#[test]
fn a_right_that_is_taken_away_later_degrades_what_needs_it_and_nothing_else() {
    let guarded = Guarded::start();
    let gateway = guarded.node(Gateway::build());
    let mut device = connected(&gateway, "/v1/device?boot=b");
    let app = gateway.token("console", TENANT, &["commands:write"]);
    let ask = || {
        let body = json!({"name": "open", "ttl_s": 60}).to_string();
        let request = format!(
            "POST /v1/devices/d/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {app}\r\n\
             Idempotency-Key: {:x}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            fastrand::u64(..),
            body.len()
        );
        gateway.connect().request(&request).status
    };
    guarded.change("-evalsha -eval");
    assert!(matches!(ask(), 500 | 503), "a command that cannot be kept is not accepted");
    stores(&mut device, 2);
    assert!(device.json(Duration::from_millis(500)).is_none(), "nobody is sent away");
    wait_until("the log says what is missing", PATIENCE, || gateway.process.log().contains("NOPERM"));
    guarded.change(RIGHTS);
    wait_until("commands are accepted again", PATIENCE, || ask() == 202);
    stores(&mut device, 3);
}

#[test]
fn the_rights_that_are_tried_are_those_that_are_written_down() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["docs/secured-neighbours.md", "helm/tidegate/README.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let words = text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
        assert!(words.contains(RIGHTS), "{page} does not have: {RIGHTS}");
    }
}
