//! A Kafka that asks who is there and whether they may: one broker, a node through each of its doors.

use serde_json::json;

use super::issuer::{AUDIENCE, ISSUER, Issuer, SCOPE};
use super::support::gateway::{Builder, Gateway};
use super::support::kafka::secured::{Right, Secured, Tokens};
use super::support::kafka::{create_topics, read_all};
use super::support::pki::{Authority, Leaf};
use super::support::redis::Redis;
use super::support::{wait_for, wait_until};
use super::{PATIENCE, TENANT, assert_silent_about, at, commands, obeys, produce, quoted, refused, stores, told};

const PASSWORD: &str = "planted-scram-password";
const SECRET: &str = "planted-client-secret";
/// A token's life: longer than the time after which the broker wants to see one again.
const TOKEN_LIVES_S: u64 = 6;
const SHOWN_AGAIN_MS: u32 = 4_000;

/// Everything a node does with Kafka, and nothing else: what is written in `docs/secured-neighbours.md`.
fn least(prefix: &str) -> Vec<Right> {
    let topic = |name: &str| format!("{prefix}{name}");
    let written = ["telemetry", "status", "command-events", "dead-letter", "revocations"];
    let read = ["commands", "revocations"];
    let group = format!("{}-commands", prefix.trim_end_matches('.'));
    let mut rights: Vec<Right> = written.iter().map(|name| Right::write(&topic(name))).collect();
    rights.extend(read.iter().map(|name| Right::read(&topic(name))));
    rights.push(Right::group(&group));
    rights
}

/// The same without one, and with what still has to be known of its topic.
fn without(prefix: &str, right: &Right, known: Option<&str>) -> Vec<Right> {
    let mut rights = least(prefix);
    let before = rights.len();
    rights.retain(|one| one != right);
    assert_eq!(rights.len() + 1, before, "{right:?} is none of them");
    rights.extend(known.map(|name| Right::describe(&format!("{prefix}{name}"))));
    rights
}

struct Rig {
    broker: Secured,
    issuer: Issuer,
    /// The authority, and the certificate and key of a client.
    dir: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let (authority, dir) = (Authority::new("neighbours"), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        authority.sign(Leaf { common_name: "by-certificate", ..Leaf::default() }).write(dir.path(), "client");
        let issuer = Issuer::start(&authority.sign(Leaf::default()), "by-token", SECRET, TOKEN_LIVES_S);
        let users = ["gateway", "no-status", "no-telemetry", "no-revocations", "no-write", "no-read"];
        let users = users.map(|name| (name, PASSWORD));
        let tokens =
            Tokens { jwks: &issuer.jwks(), issuer: ISSUER, audience: AUDIENCE, shown_again_ms: SHOWN_AGAIN_MS };
        Self { broker: Secured::start(&authority, &users, &tokens), issuer, dir }
    }

    /// The keys of the section `kafka` by which somebody comes in.
    fn scram(&self, user: &str, prefix: &str) -> Vec<(&'static str, String)> {
        vec![
            ("kafka.brokers", quoted(self.broker.scram())),
            ("kafka.topic_prefix", quoted(prefix)),
            ("kafka.security", quoted("sasl_tls")),
            ("kafka.sasl_mechanism", quoted("SCRAM-SHA-512")),
            ("kafka.username", quoted(user)),
            ("kafka.password", quoted(PASSWORD)),
            ("kafka.ca", at(self.dir.path(), "ca.pem")),
        ]
    }

    fn mtls(&self) -> Vec<(&'static str, String)> {
        vec![
            ("kafka.brokers", quoted(self.broker.mtls())),
            ("kafka.security", quoted("tls")),
            ("kafka.ca", at(self.dir.path(), "ca.pem")),
            ("kafka.cert", at(self.dir.path(), "client.pem")),
            ("kafka.key", at(self.dir.path(), "client-key.pem")),
        ]
    }

    fn tokens(&self, secret: &str) -> Vec<(&'static str, String)> {
        vec![
            ("kafka.brokers", quoted(self.broker.tokens())),
            ("kafka.security", quoted("sasl_tls")),
            ("kafka.sasl_mechanism", quoted("OAUTHBEARER")),
            ("kafka.username", quoted("by-token")),
            ("kafka.password", quoted(secret)),
            ("kafka.oauth_token_url", quoted(self.issuer.token_url())),
            ("kafka.oauth_scope", quoted(SCOPE)),
            ("kafka.oauth_ca", at(self.dir.path(), "ca.pem")),
            ("kafka.ca", at(self.dir.path(), "ca.pem")),
        ]
    }

    /// A node that comes in by these keys, as talkative as can be.
    fn node(&self, prefix: &str, keys: Vec<(&'static str, String)>) -> Gateway {
        let start = Gateway::build().brokers(&self.broker.plain()).prefix(prefix).set("telemetry.log", "'trace'");
        keys.iter().fold(start, |builder: Builder, (key, value)| builder.set(key, value)).start()
    }
}

/// It stores, reads commands and revocations, and writes what became of both. Gives the signature of a token it was shown.
fn lives(gateway: &Gateway) -> String {
    let token = gateway.token("d", TENANT, &["device"]);
    let mut device = gateway.connect();
    device.open("/v1/device?boot=b", &[("Authorization", &format!("Bearer {token}"))]);
    stores(&mut device, 1);
    commands(gateway, &mut device, "d");
    let command = json!({"name": "open", "params": 7, "ttl_s": 60}).to_string();
    produce::put(gateway.brokers(), &gateway.topic("commands"), "acme/d", Some(&command));
    obeys(&mut device);
    produce::put(gateway.brokers(), &gateway.topic("commands"), "acme/d", Some("nonsense"));
    let count = |name: &str| read_all(gateway.brokers(), &gateway.topic(name)).len();
    wait_until("a dead letter is written", PATIENCE, || count("dead-letter") == 1);
    wait_until("six events of commands", PATIENCE, || count("command-events") >= 6);
    let admin = gateway.token("root", TENANT, &["admin"]);
    let block = gateway.connect().request(&format!(
        "PUT /v1/devices/d/block HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert!(block.status < 300, "{}: {}", block.status, String::from_utf8_lossy(&block.body));
    assert_eq!(device.expect_close(PATIENCE), Some(4302));
    let log = gateway.process.log();
    let denied = log.lines().find(|line| line.contains("uthorization failed") || line.contains("uthentication failed"));
    assert_eq!(denied, None);
    signature(&token)
}

/// The part of a token that nobody could make anew.
fn signature(token: &str) -> String {
    token.rsplit('.').next().unwrap().to_owned()
}

/// By SCRAM over TLS, with the least rights, and by a certificate.
fn comes_in_by_password_and_by_certificate(rig: &Rig) {
    for (prefix, principal, keys) in
        [("scram.", "User:gateway", rig.scram("gateway", "scram.")), ("mtls.", "User:CN=by-certificate", rig.mtls())]
    {
        rig.broker.allow(principal, &least(prefix));
        let gateway = rig.node(prefix, keys);
        let shown = lives(&gateway);
        assert_silent_about(&gateway, &[PASSWORD, &shown]);
    }
}

/// By tokens, each of which is shown until the next: longer than any of them lives.
fn comes_in_by_token(rig: &Rig) {
    rig.broker.allow("User:by-token", &least("tokens."));
    let gateway = rig.node("tokens.", rig.tokens(SECRET));
    let mut device = gateway.device("other", "/v1/device?boot=b");
    let shown = lives(&gateway);
    wait_until("three tokens were needed", PATIENCE, || rig.issuer.given().len() >= 3);
    stores(&mut device, 1);
    assert_eq!(gateway.metric("tidegate_producer_replacements_total", &[]), 0.0);
    // One thread fetches for every client of the process: one token at a time.
    let given = rig.issuer.given();
    assert!(given.len() <= 8, "{} tokens", given.len());
    let signatures: Vec<String> = given.iter().map(|token| signature(token)).collect();
    let secrets: Vec<&str> = signatures.iter().map(String::as_str).chain([SECRET, &shown]).collect();
    assert_silent_about(&gateway, &secrets);
    // Another secret is told by the key to look at, and nobody is shown it.
    let before = rig.issuer.refused();
    let keys = [rig.tokens("planted-wrong-secret"), vec![("kafka.topic_prefix", quoted("tokens."))]].concat();
    let (code, text) = told(&refused_with_redis(&keys));
    assert_eq!(code, 69, "{text}");
    assert!(text.contains("kafka.oauth_token_url: answered 401 invalid_client: check kafka.username and"), "{text}");
    assert!(rig.issuer.refused() > before && !text.contains("planted"), "{text}");
}

/// A node without one right does not start, or says all the time what it lacks; each by its name.
fn says_which_right_is_missing(rig: &Rig) {
    let topic = |name: &str| format!("some.{name}");
    create_topics(&rig.broker.plain(), "some.");
    for (user, right, known, says) in [
        ("no-status", Right::write(&topic("status")), Some("status"), ["topic some.status: ", "the right WRITE"]),
        ("no-telemetry", Right::write(&topic("telemetry")), None, ["topic some.telemetry: ", "the right DESCRIBE"]),
        (
            "no-revocations",
            Right::read(&topic("revocations")),
            Some("revocations"),
            ["topic some.revocations: ", "the right READ"],
        ),
    ] {
        rig.broker.allow(&format!("User:{user}"), &without("some.", &right, known));
        let (code, text) = told(&refused_with_redis(&rig.scram(user, "some.")));
        assert_eq!(code, 78, "{user}: {text}");
        assert!(says.iter().all(|part| text.contains(part)), "{user}: {text}");
        assert!(!text.contains(PASSWORD), "{text}");
    }
    let (code, text) = told(&refused_with_redis(&rig.scram("nobody", "some.")));
    assert_eq!(code, 69, "{text}");
    assert!(text.contains("Check kafka.username and kafka.password"), "who is not known is told so: {text}");
}

/// What is found out only as it is needed: the log names topic or group, and the right.
fn goes_on_without_and_says_so(rig: &Rig) {
    let says = |gateway: &Gateway, parts: &[&str]| {
        let found =
            || gateway.process.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(drop);
        wait_for(&format!("a line of the log with {parts:?}"), PATIENCE, found);
    };
    let telemetry = "late.telemetry";
    let rights = without("late.", &Right::write(telemetry), Some("telemetry"));
    rig.broker.allow("User:no-write", &rights);
    let gateway = rig.node("late.", rig.scram("no-write", "late."));
    let mut device = gateway.device("d", "/v1/device?boot=b");
    device.send_json(&json!({"type": "update", "seq": 1, "value": 1}));
    says(&gateway, &["cannot store into this topic", telemetry, "the right WRITE"]);
    // The other topics go on, and what was sent is stored as soon as it may be.
    commands(&gateway, &mut device, "d");
    rig.broker.allow("User:no-write", &[Right::write(telemetry)]);
    device.expect_ack(1, PATIENCE);
    drop((device, gateway));
    rig.broker.allow("User:no-read", &without("late.", &Right::group("late-commands"), None));
    let gateway = rig.node("late.", rig.scram("no-read", "late."));
    says(&gateway, &["may not read as this group", "late-commands", "the right READ"]);
    let mut device = gateway.device("d", "/v1/device?boot=b2");
    stores(&mut device, 1);
}

/// `tidegate serve` with these keys and a Redis of its own.
fn refused_with_redis(keys: &[(&'static str, String)]) -> std::process::Output {
    let redis = Redis::start();
    let mut all = keys.to_vec();
    all.push(("redis.urls", format!("['{}']", redis.url())));
    refused(&all)
}

#[test]
fn a_node_lives_with_a_kafka_that_asks_for_everything_and_names_the_right_it_lacks() {
    let rig = Rig::start();
    std::thread::scope(|scope| {
        scope.spawn(|| comes_in_by_password_and_by_certificate(&rig));
        scope.spawn(|| comes_in_by_token(&rig));
        says_which_right_is_missing(&rig);
        goes_on_without_and_says_so(&rig);
    });
}
