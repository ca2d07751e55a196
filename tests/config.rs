//! The configuration as its users meet it: the real binary, its exit codes and what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "config/mistakes.rs"]
mod mistakes;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::generate;
use tidegate::config::{Config, default_toml, load_kafka};

/// Runs the binary in `dir` with nothing in its environment but `env`.
fn tidegate(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).current_dir(dir).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A directory with a key set and a configuration a node could serve with; `more` stands at the end of it.
fn working(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), TokenAlgorithm::ES256).unwrap();
    let text = format!(
        "public.plaintext = true\npeer.plaintext = true\nauth.jwks = 'jwks.json'\nkafka.brokers = 'k1:9092'\nredis.urls = ['redis://r1']\n{more}"
    );
    fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    dir
}

/// What stands where a secret is.
const MASK: &str = "********";

const CHECK: [&str; 3] = ["check-config", "--config", "tidegate.toml"];

/// What is in force, as a reader of it sees it.
fn effective(dir: &Path, env: &[(&str, &str)]) -> toml::Table {
    let output = tidegate(dir, &CHECK, env);
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    toml::from_str(&stdout(&output)).unwrap()
}

#[test]
fn every_mistake_is_named_at_once_by_key_and_by_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[public]\nlisten = 'localhost'\n\n[kafka]\nborkers = 'k:9092'\nproperties.acks = 1\n\n\
                [auth]\njwks = 'nowhere.json'\naudience = ''\nleeway_s = 900\n\
                [peer]\nlisten = '7443'\ntls_cert = 'nowhere.pem'\ntls_key = 'tidegate.toml'\n";
    fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    let env = [
        ("TIDEGATE_NODE__START_TIMEOUT_S", "soon"),
        ("TIDEGATE_PUBLIC__PROXY_PROTOCOL", "maybe"),
        ("TIDEGATE_LIMITS__WINDOW_MESSAGES", "-3"),
        ("TIDEGATE_AUTH__ALGORITHMS", "ES256,HS512"),
        ("TIDEGATE_KAFKA_TOPIC_PREFIX", "x."),
        ("TIDEGATE_KAFKA__PASSWORD_FILE", "nowhere"),
        ("TIDEGATE_TELEMETRY__LOG_FORMAT", "xml"),
        ("TIDEGATE_TELEMETRY__OTLP_ENDPOINT", "collector:4317"),
        ("TIDEGATE_TELEMETRY__OTLP_CA", "nowhere.pem"),
        ("TIDEGATE_TELEMETRY__SAMPLE_RATIO", "5"),
        ("TIDEGATE_TELEMETRY__TRUST_TRACEPARENT", "perhaps"),
        // Not ours: Kubernetes sets these for a service called tidegate.
        ("TIDEGATE_PORT_8443_TCP", "tcp://10.0.0.1:8443"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
    ];
    let says = [
        "public.listen: `localhost` is no address and port, as 0.0.0.0:8443 is (tidegate.toml:2)",
        "public.tls_cert: is missing: set `public.tls_cert` and `public.tls_key`",
        "peer.listen: `7443` is no address and port, as 0.0.0.0:7443 is (tidegate.toml:13)",
        "peer.tls_ca: is missing: certificate, key and authorities go together (not set, so the default counts)",
        "peer.tls_cert: `nowhere.pem` cannot be read: ",
        "kafka.borkers: is not known; did you mean `kafka.brokers`? (tidegate.toml:5)",
        "kafka.brokers: is empty: name at least one broker, as host:port (not set, so the default counts)",
        "redis.urls: is empty: name at least one, as redis://host:6379 (not set, so the default counts)",
        "kafka.properties.acks: cannot be set: what an ack means rests on it (tidegate.toml:6)",
        "auth.jwks: `nowhere.json` cannot be read: ",
        "auth.audience: audience in auth must not be empty (tidegate.toml:10)",
        "auth.leeway_s: must lie between 0 and 300 (tidegate.toml:11)",
        "node.start_timeout_s: is string \"soon\", but must be a whole number that is not negative \
         (environment variable TIDEGATE_NODE__START_TIMEOUT_S)",
        "public.proxy_protocol: is string \"maybe\", but must be true or false (environment variable TIDEGATE_PUBLIC__",
        "limits.window_messages: is signed int `-3`, but must be a whole number that is not negative (environment",
        "auth.algorithms: `HS512` is none of ES256, RS256, EdDSA, HS256 (environment variable TIDEGATE_AUTH__ALGOR",
        "kafka.topic_prefix: is not read from there; did you mean TIDEGATE_KAFKA__TOPIC_PREFIX? (environment variable",
        "kafka.password: its file `nowhere` cannot be read: ",
        "telemetry.log_format: `xml` is none of json, text (environment variable TIDEGATE_TELEMETRY__LOG_FORMAT)",
        "telemetry.otlp_endpoint: `collector:4317` is no collector's address, as http://collector:4317 is (environment",
        "telemetry.otlp_ca: `nowhere.pem` cannot be read: ",
        "telemetry.sample_ratio: 5 is not within 0 and 1 (environment variable TIDEGATE_TELEMETRY__SAMPLE_RATIO)",
        "telemetry.trust_traceparent: is string \"perhaps\", but must be true or false (environment variable TIDE",
    ];
    for command in ["check-config", "serve"] {
        let output = tidegate(dir.path(), &[command, "--config", "tidegate.toml"], &env);
        let text = stderr(&output);
        assert_eq!((code(&output), stdout(&output)), (78, String::new()), "{command}: {text}");
        for expected in says {
            assert!(text.contains(expected), "{command}: {expected} is missing in\n{text}");
        }
        assert!(text.starts_with(&format!("the configuration has {} mistakes:\n", says.len())), "{text}");
        assert_eq!(text.lines().count(), 1 + says.len(), "{text}");
    }
}

#[test]
fn a_rebalance_that_would_never_end_or_never_begin_is_a_mistake() {
    let dir = working(
        "[rebalance]\nthreshold_percent = 100\nrate_per_s = 0\nsettle_s = 4000\nmax_age_s = 5\nminimum = 0\nenabled = true\n",
    );
    let text = stderr(&tidegate(dir.path(), &CHECK, &[]));
    assert_eq!(text.lines().count(), 5, "{text}");
    for key in ["threshold_percent", "rate_per_s", "settle_s", "max_age_s"] {
        assert!(text.contains(&format!("rebalance.{key}: ")), "{key} is missing in\n{text}");
    }
    let fine = [("TIDEGATE_REBALANCE__MAX_AGE_S", "86400"), ("TIDEGATE_REBALANCE__ENABLED", "false")];
    let effective = effective(working("").path(), &fine);
    assert_eq!(effective["rebalance"]["max_age_s"].as_integer(), Some(86_400));
    assert_eq!(effective["rebalance"]["enabled"].as_bool(), Some(false));
}

#[test]
fn certificates_for_peers_that_cannot_be_used_are_a_mistake_before_anything_is_connected() {
    let dir =
        working("peer.tls_cert = 'tidegate.toml'\npeer.tls_key = 'tidegate.toml'\npeer.tls_ca = 'tidegate.toml'\n");
    let text = fs::read_to_string(dir.path().join("tidegate.toml")).unwrap();
    fs::write(dir.path().join("tidegate.toml"), text.replace("peer.plaintext = true\n", "")).unwrap();
    assert_eq!(code(&tidegate(dir.path(), &CHECK, &[])), 0, "the files are there");
    let serve = tidegate(dir.path(), &["serve", "--config", "tidegate.toml"], &[]);
    assert_eq!(code(&serve), 78, "{}", stderr(&serve));
    assert!(stderr(&serve).contains("peer.tls_cert: "), "{}", stderr(&serve));
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_one_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let missing = tidegate(dir.path(), &CHECK, &[]);
    assert_eq!(code(&missing), 78);
    assert!(stderr(&missing).contains("tidegate.toml: cannot be read: "), "{}", stderr(&missing));
    fs::write(dir.path().join("tidegate.toml"), "[kafka\n").unwrap();
    let broken = tidegate(dir.path(), &["serve"], &[("TIDEGATE_CONFIG", "tidegate.toml")]);
    assert_eq!(code(&broken), 78);
    assert!(stderr(&broken).contains("tidegate.toml: is not TOML: "), "{}", stderr(&broken));
}

#[test]
fn the_environment_counts_over_the_file_and_a_file_named_there_holds_a_value() {
    let dir = working("kafka.username = 'from-file'\nkafka.password = 'old'\nnode.name = 'n1'\n");
    fs::write(dir.path().join("password"), "12345\n").unwrap();
    fs::write(dir.path().join("key-password"), "s3cret\n").unwrap();
    let env = [
        ("TIDEGATE_KAFKA__BROKERS", "a:1,b:2"),
        ("TIDEGATE_KAFKA__PASSWORD_FILE", "password"),
        ("TIDEGATE_KAFKA__PROPERTIES__LINGER_MS", "5"),
        ("TIDEGATE_KAFKA__PROPERTIES__LOG_LEVEL", "7"),
        ("TIDEGATE_KAFKA__PROPERTIES__SSL_KEY_PASSWORD_FILE", "key-password"),
        ("TIDEGATE_PUBLIC__ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("TIDEGATE_AUTH__ALGORITHMS", "ES256"),
        ("TIDEGATE_NODE__NAME", "17"),
        ("TIDEGATE_LIMITS__MAX_CONNECTIONS", "1000"),
    ];
    let text = effective(dir.path(), &env);
    assert_eq!(text["node"]["name"].as_str(), Some("17"), "a text that looks like a number is still a text");
    let kafka = &text["kafka"];
    assert_eq!((kafka["brokers"].as_str(), kafka["username"].as_str()), (Some("a:1,b:2"), Some("from-file")));
    let properties = &kafka["properties"];
    assert_eq!((properties["linger.ms"].as_str(), properties["log_level"].as_str()), (Some("5"), Some("7")));
    assert_eq!(text["auth"]["algorithms"].as_array().unwrap().len(), 1);
    let origins = text["public"]["allowed_origins"].as_array().unwrap();
    assert_eq!(origins[1].as_str(), Some("https://b.example"));
    assert_eq!(text["limits"]["max_connections"].as_integer(), Some(1_000));
    // Printed as set, and read all the same: the binary's own reader sees what the mask hides.
    assert_eq!((kafka["password"].as_str(), properties["ssl.key.password"].as_str()), (Some(MASK), Some(MASK)));
    let underneath = env.map(|(name, value)| {
        let path = dir.path().join(value);
        (name.to_owned(), if name.ends_with("_FILE") { path.display().to_string() } else { value.to_owned() })
    });
    let file = dir.path().join("tidegate.toml");
    let brokers_only: Vec<_> =
        underneath.into_iter().filter(|(name, _)| name.starts_with("TIDEGATE_KAFKA__")).collect();
    let kafka = load_kafka(Some(&file), brokers_only).unwrap();
    assert_eq!(serde_json::to_value(&kafka).unwrap()["password"], "12345");
}

#[test]
fn secrets_are_nowhere_in_what_is_printed() {
    let dir = working("kafka.password = 'pl4in'\nkafka.properties.'ssl.key.password' = 's3cret'\n");
    let output = tidegate(dir.path(), &CHECK, &[]);
    let all = stdout(&output) + &stderr(&output);
    assert!(all.contains(MASK) && !all.contains("pl4in") && !all.contains("s3cret"), "{all}");
    // Nor in a complaint about one.
    let wrong = tidegate(dir.path(), &CHECK, &[("TIDEGATE_KAFKA__PASSWRD", "hunter2")]);
    assert_eq!(code(&wrong), 78);
    assert!(!stderr(&wrong).contains("hunter2") && !stderr(&wrong).contains("pl4in"), "{}", stderr(&wrong));
}

#[test]
fn the_default_configuration_is_the_defaults_and_keeps_to_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let printed = stdout(&tidegate(dir.path(), &["default-config"], &[]));
    assert_eq!(printed, default_toml());
    let table: toml::Table = toml::from_str(&printed).unwrap();
    let mut defaults = toml::Table::try_from(Config::default()).unwrap();
    // What has no value by default stands as a comment.
    defaults.retain(|_, section| section.is_table());
    for (name, section) in &defaults {
        for (key, value) in section.as_table().unwrap() {
            if let Some(written) = table.get(name).and_then(|table| table.get(key)) {
                assert_eq!(written, value, "{name}.{key}");
            } else {
                assert!(printed.contains(&format!("{key} =")), "{name}.{key} is not explained");
            }
        }
    }
    let schema: Value = serde_json::from_str(&stdout(&tidegate(dir.path(), &["config-schema"], &[]))).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let as_json = serde_json::to_value(&table).unwrap();
    assert_eq!(schema.iter_errors(&as_json).map(|error| error.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
    for wrong in [json!({"kafka": {"borkers": "k:9092"}}), json!({"limits": {"max_connections": "many"}})] {
        assert!(!schema.is_valid(&wrong), "{wrong}");
    }
}

#[test]
fn topics_needs_the_section_kafka_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[public]\nlisten = 'nonsense'\n[kafka]\nbrokers = 'k1:9092'\ntopic_prefix = 'field.'\n";
    fs::write(dir.path().join("tidegate.toml"), file).unwrap();
    let print = ["topics", "--print", "--config", "tidegate.toml"];
    let output = tidegate(dir.path(), &[&print[..], &["--partitions", "6"]].concat(), &[]);
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    let text = stdout(&output);
    assert!(text.contains("field.telemetry") && text.contains("--partitions 6") && text.contains("k1:9092"), "{text}");
    assert_eq!(code(&tidegate(dir.path(), &["topics"], &[])), 2, "neither --print nor --apply");
    let typo = tidegate(dir.path(), &print, &[("TIDEGATE_KAFKA__BROKRES", "k:1")]);
    assert_eq!(code(&typo), 78);
    assert!(stderr(&typo).contains("did you mean `kafka.brokers`?"), "{}", stderr(&typo));
    // Nobody listens at the discard port.
    let apply = ["topics", "--apply", "--timeout", "2s"];
    let nobody = tidegate(dir.path(), &apply, &[("TIDEGATE_KAFKA__BROKERS", "127.0.0.1:9")]);
    assert_eq!(code(&nobody), 69, "{}", stderr(&nobody));
}

#[test]
fn topics_ends_when_it_is_told_to_although_kafka_never_answers() {
    // Its backlog takes the connection, and nobody says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["topics", "--apply", "--timeout", "60s"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env_clear().env("TIDEGATE_KAFKA__BROKERS", silent.local_addr().unwrap().to_string());
    let mut told = command.spawn().unwrap();
    // Once it asks Kafka it takes signals: without that the first process of a container goes on.
    let _held = loop {
        match silent.accept() {
            Ok(connection) => break connection,
            Err(_) => assert_eq!(told.try_wait().unwrap(), None, "it ended before it asked"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(Command::new("kill").args(["-TERM", &told.id().to_string()]).status().unwrap().success());
    let output = told.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
    assert!(stderr(&output).contains("told to end"), "{}", stderr(&output));
}
