//! The connection to Redis when it is not there, not in time, not allowed, full, encrypted, or somewhere else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![cfg(feature = "redis")]

#[path = "support/support.rs"]
mod support;

use std::time::{Duration, Instant};

use support::redis::{Cluster, Redis};
use tidegate::store::{ConnectError, RedisConfig, Script, Store, StoreError, Value};

static SET: Script = Script::new("set", "return redis.call('SET', KEYS[1], ARGV[1])");
const START: Duration = Duration::from_secs(20);
/// A call ends within 600 ms; what a machine with other work adds is not measured here.
const IN_TIME: Duration = Duration::from_millis(2_000);

fn config(url: String) -> RedisConfig {
    RedisConfig { urls: vec![url], ..RedisConfig::default() }
}

async fn open(redis: &Redis) -> Store {
    Store::connect(&config(redis.url()), START).await.unwrap()
}

async fn get(store: &Store, key: &str) -> Value {
    store.command("GET", key, &[key.into()]).await.unwrap()
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_vec())
}

/// Tries until it is answered again.
async fn recovers(store: &Store) {
    let end = Instant::now() + START;
    while let Err(error) = store.probe().await {
        assert!(Instant::now() < end, "still: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_script_is_sent_whole_where_it_is_not_known_and_by_its_hash_after() {
    let redis = Redis::start();
    let store = open(&redis).await;
    let calls = |name: &str| {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls="))).map(str::to_owned);
        line.and_then(|line| line.split(',').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    // The start has asked what its user may do.
    let (wholes, hashes) = (calls("eval"), calls("evalsha"));
    for value in ["1", "2"] {
        assert_eq!(store.run(&SET, &["k"], &[value.into()]).await.unwrap(), text("OK"));
    }
    assert_eq!((calls("eval") - wholes, calls("evalsha") - hashes), (1, 2));
    redis.cli(&["SCRIPT", "FLUSH"]);
    store.run(&SET, &["k"], &["3".into()]).await.unwrap();
    assert_eq!(get(&store, "k").await, text("3"));
}

#[tokio::test]
async fn a_policy_that_drops_live_keys_does_not_start_and_the_line_says_what_to_do() {
    for policy in ["allkeys-lru", "allkeys-random"] {
        let redis = Redis::with(&[&format!("maxmemory-policy {policy}")]);
        let Err(error) = Store::connect(&config(redis.url()), START).await else { panic!("{policy} starts") };
        assert!(matches!(error, ConnectError::Policy { .. }) && !error.is_retryable());
        let line = error.to_string();
        assert!(
            line.contains(policy) && line.contains("noeviction") && line.contains(&redis.port.to_string()),
            "{line}"
        );
    }
    drop(open(&Redis::with(&["maxmemory-policy volatile-ttl"])).await);
    // Who may not ask is warned, and starts.
    let silent = Redis::with(&["user default on nopass ~* &* +@all -info"]);
    let store = Store::connect(&config(silent.url()), START).await.unwrap();
    assert_eq!(store.replication_id(&store.primaries()[0]).await.unwrap(), None);
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_stopped_redis_fails_calls_in_time_and_late_answers_meet_nobody_else() {
    let redis = Redis::start();
    let store = open(&redis).await;
    for key in ["a", "b"] {
        store.run(&SET, &[key], &[key.into()]).await.unwrap();
    }
    redis.signal("STOP");
    let since = Instant::now();
    let calls = (0..200).map(|_| async { store.command("GET", "a", &["a".into()]).await });
    let answers = futures_util::future::join_all(calls).await;
    assert!(since.elapsed() < IN_TIME, "{:?}", since.elapsed());
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unknown(_)))), "{answers:?}");
    redis.signal("CONT");
    // The answers to those come now; the next question is not given one of them.
    for _ in 0..50 {
        assert_eq!(get(&store, "b").await, text("b"));
    }
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_replaced() {
    let redis = Redis::start();
    let store = open(&redis).await;
    redis.signal("STOP");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert!(store.probe().await.is_err());
    }
    redis.signal("CONT");
    recovers(&store).await;
    let clients = redis.cli(&["INFO", "stats"]);
    let made = clients.lines().find_map(|line| line.trim().strip_prefix("total_connections_received:")).unwrap();
    let before = 3; // Those of this test: the store's first, and two of redis-cli.
    assert!(made.parse::<u32>().unwrap() > before, "{made}");
}

#[tokio::test]
async fn a_redis_that_is_gone_is_unavailable_and_found_again_when_it_is_back() {
    let mut redis = Redis::start();
    let store = open(&redis).await;
    store.run(&SET, &["k"], &["1".into()]).await.unwrap();
    redis.kill();
    let since = Instant::now();
    let mut last = store.probe().await;
    while !matches!(last, Err(StoreError::Unavailable(_))) {
        assert!(since.elapsed() < IN_TIME && last.is_err(), "{last:?}");
        last = store.probe().await;
    }
    // One after the other, each refused: none of them waits.
    let since = Instant::now();
    for _ in 0..500 {
        assert!(store.run(&SET, &["k"], &["2".into()]).await.unwrap_err().is_retryable());
    }
    assert!(since.elapsed() < IN_TIME, "{:?}", since.elapsed());
    let before = store.replication_id(&store.primaries()[0]).await;
    assert!(before.is_err());
    redis.restart();
    recovers(&store).await;
    assert_eq!(get(&store, "k").await, Value::Nil);
}

#[tokio::test]
async fn a_full_redis_says_full_and_a_refusal_says_what() {
    let redis =
        Redis::with(&["maxmemory 1", "maxmemory-policy noeviction", "user default on nopass ~* &* +@all -lpush"]);
    let store = open(&redis).await;
    assert_eq!(store.run(&SET, &["k"], &["1".into()]).await, Err(StoreError::Full));
    let denied = store.command("LPUSH", "l", &["l".into(), "m".into()]).await.unwrap_err();
    assert!(matches!(&denied, StoreError::Refused { code, .. } if code == "NOPERM"), "{denied}");
    assert!(!denied.is_retryable());
    static WRONG: Script = Script::new("wrong", "return redis.call('NOSUCH')");
    assert!(matches!(store.run(&WRONG, &["k"], &[]).await, Err(StoreError::Refused { .. })));
}

#[tokio::test]
async fn a_slow_script_costs_its_own_caller_and_is_not_run_again() {
    let redis = Redis::start();
    let store = open(&redis).await;
    static COUNTED: Script = Script::new(
        "counted",
        "redis.call('INCR', KEYS[1]) local ends = redis.call('TIME') ends = ends[1] * 1000 + ends[2] / 1000 + 900
         repeat local now = redis.call('TIME') until now[1] * 1000 + now[2] / 1000 > ends return 'late'",
    );
    assert!(matches!(store.run(&COUNTED, &["n"], &[]).await, Err(StoreError::Unknown(_))));
    recovers(&store).await;
    assert_eq!(get(&store, "n").await, text("1"), "done once, though nobody heard of it");
}

#[tokio::test]
async fn waiting_for_replicas_holds_up_nobody_else() {
    let primary = Redis::start();
    let config = RedisConfig { wait_replicas: 1, ..config(primary.url()) };
    let store = Store::connect(&config, START).await.unwrap();
    // No replica: it is done, and not known to be safe.
    let args = ["1".into()];
    let (replicated, beside) = tokio::join!(store.run_replicated(&SET, &["k"], &args), async {
        let since = Instant::now();
        for _ in 0..20 {
            store.probe().await.unwrap();
        }
        since.elapsed()
    });
    assert!(matches!(replicated, Err(StoreError::Unknown(_))), "{replicated:?}");
    assert!(beside < IN_TIME);
    assert_eq!(get(&store, "k").await, text("1"));
    let replica = Redis::with(&[&format!("replicaof 127.0.0.1 {}", primary.port)]);
    support::wait_until("the replica follows", START, || {
        replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let end = Instant::now() + START;
    while let Err(error) = store.run_replicated(&SET, &["k"], &["2".into()]).await {
        assert!(Instant::now() < end && error.may_have_happened(), "{error}");
    }
    assert_eq!(replica.cli(&["GET", "k"]), "2");
    // A replica takes no writes, and is not taken for a primary.
    let Err(error) = Store::connect(&self::config(replica.url()), Duration::from_millis(300)).await else {
        panic!("a replica is taken for a primary")
    };
    assert!(error.to_string().contains("replica"), "{error}");
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own_and_a_user_of_the_urls() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(path("cert"), certificate.pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    let tls = support::ports::free();
    let options = [
        format!("tls-port {tls}"),
        format!("tls-cert-file {}", path("cert")),
        format!("tls-key-file {}", path("key")),
        format!("tls-ca-cert-file {}", path("cert")),
        "tls-auth-clients no".into(),
        "user tide on >secret ~* &* +@all".into(),
    ];
    let _redis = Redis::with(&options.each_ref().map(String::as_str));
    let url = format!("rediss://tide:secret@localhost:{tls}/3");
    let trusting = RedisConfig { ca: path("cert"), ..config(url.clone()) };
    let store = Store::connect(&trusting, START).await.unwrap();
    store.run(&SET, &["k"], &["1".into()]).await.unwrap();
    assert_eq!(store.command("ACL", "k", &["WHOAMI".into()]).await.unwrap(), text("tide"));
    let Err(error) = Store::connect(&config(url), Duration::from_millis(500)).await else {
        panic!("a certificate of nobody's is believed")
    };
    assert!(matches!(error, ConnectError::Unreachable { .. }) && !error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_password_in_a_file_is_read_at_each_connect() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let redis = Redis::with(&["user tide on >first ~* &* +@all"]);
    let password_file = Some(file.path().to_owned());
    let config = RedisConfig { username: "tide".into(), password_file, ..config(redis.url()) };
    let store = Store::connect(&config, START).await.unwrap();
    std::fs::write(file.path(), "second\n").unwrap();
    redis.cli(&["ACL", "SETUSER", "tide", "<first", ">second"]);
    redis.cli(&["CLIENT", "KILL", "USER", "tide"]);
    recovers(&store).await;
    assert_eq!(store.command("ACL", "k", &["WHOAMI".into()]).await.unwrap(), text("tide"));
}

#[tokio::test]
async fn a_key_in_migration_is_asked_for_where_it_is() {
    let cluster = Cluster::start();
    let store = Store::connect(&config(cluster.nodes[0].url()), START).await.unwrap();
    let key = "{somewhere}:k";
    let at = store.primary_of(key);
    let place = |node: &Redis| format!("127.0.0.1:{}", node.port);
    let from = cluster.nodes.iter().find(|node| place(node) == at).unwrap();
    let to = cluster.nodes.iter().find(|node| place(node) != at).unwrap();
    let slot = from.cli(&["CLUSTER", "KEYSLOT", key]);
    let (source, target) = (from.cli(&["CLUSTER", "MYID"]), to.cli(&["CLUSTER", "MYID"]));
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
    // A key that the old place does not have: it points to the new one, for this once.
    store.run(&SET, &[key], &["1".into()]).await.unwrap();
    assert_eq!(get(&store, key).await, text("1"));
    assert_eq!((store.primary_of(key), from.cli(&["DBSIZE"]), to.cli(&["DBSIZE"])), (at, "0".into(), "1".into()));
}
