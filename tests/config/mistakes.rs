//! Every mistake that people make, each named by its key, by where it came from and by what to do; and no secret in what is
//! said about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::generate;

use super::{code, stderr, stdout, tidegate};

/// What a node could serve with; each mistake is made in it.
const BASE: [(&str, &str); 5] = [
    ("public.plaintext", "true"),
    ("peer.plaintext", "true"),
    ("auth.jwks", "'jwks.json'"),
    ("kafka.brokers", "'k1:9092'"),
    ("redis.urls", "['redis://r1']"),
];

/// How a mistake is made.
enum Made {
    /// These keys stand in the file like this.
    File(&'static [(&'static str, &'static str)]),
    /// The same, and no other mistake can be made beside it.
    Alone(&'static [(&'static str, &'static str)]),
    /// A variable of the environment.
    Env(&'static str, &'static str),
    /// A variable that names a mounted file with this in it, or a file that is not there.
    Mounted(&'static str, Option<&'static str>),
}

use Made::{Alone, Env, File, Mounted};

/// Key, how it is made, what is said of it.
type Row = (&'static str, Made, &'static str);

fn table() -> Vec<Row> {
    [ports_and_certificates(), neighbours(), kafka(), the_rest()].into_iter().flatten().collect()
}

fn ports_and_certificates() -> Vec<Row> {
    vec![
        ("public.listen", File(&[("public.listen", "'localhost'")]), "is no address and port, as 0.0.0.0:8443 is"),
        ("public.tls_cert", Alone(&[("public.plaintext", "false")]), "set `public.tls_cert` and `public.tls_key`, or"),
        (
            "public.plaintext",
            Alone(&[("public.tls_cert", "'tidegate.toml'"), ("public.tls_key", "'tidegate.toml'")]),
            "contradicts `public.tls_cert`: take one of them away",
        ),
        (
            "public.tls_key",
            Alone(&[("public.plaintext", "false"), ("public.tls_cert", "'tidegate.toml'")]),
            "is missing: `public.tls_cert` needs its key",
        ),
        (
            "public.tls_cert",
            Alone(&[
                ("public.plaintext", "false"),
                ("public.tls_cert", "'nowhere.pem'"),
                ("public.tls_key", "'tidegate.toml'"),
            ]),
            "`nowhere.pem` cannot be read: ",
        ),
        ("public.tls_record_bytes", File(&[("public.tls_record_bytes", "64")]), "is not within 512 and 16384"),
        ("public.client_ca", File(&[("public.client_ca", "'tidegate.toml'")]), "needs TLS: with `public.plaintext`"),
        (
            "public.client_tenants",
            Alone(&[("public.client_tenants", "['acme']")]),
            "set `public.client_ca`, or take it away",
        ),
        (
            "public.trusted_proxies",
            File(&[("public.trusted_proxies", "['10.0.0.0/33']")]),
            "is no network, as 10.0.0.0/8 is",
        ),
        (
            "public.allowed_origins",
            File(&[("public.allowed_origins", "['app.example.com']")]),
            "write https://app.example.com, without a path",
        ),
        ("public.hosts", File(&[("public.hosts", "['https://gw.example.com']")]), "write gateway.example.com, without"),
        ("public.proxy_protocol", Env("PUBLIC__PROXY_PROTOCOL", "maybe"), "must be true or false"),
        ("internal.listen", File(&[("internal.listen", "':9090'")]), "is no address and port, as 0.0.0.0:9090 is"),
        (
            "internal.listen",
            Alone(&[("internal.listen", "'127.0.0.1:8443'")]),
            "is `public.listen`'s already: give each a port of its own",
        ),
        ("api.listen", File(&[("api.listen", "'8444'")]), "is no address and port; empty means on the public port"),
    ]
}

fn neighbours() -> Vec<Row> {
    vec![
        ("node.name", File(&[("node.name", "'gw 1'")]), "A-Z a-z 0-9 . _ -"),
        ("node.start_timeout_s", Env("NODE__START_TIMEOUT_S", "soon"), "must be a whole number that is not negative"),
        (
            "peer.tls_cert",
            Alone(&[("peer.plaintext", "false")]),
            "set `peer.tls_cert`, `peer.tls_key` and `peer.tls_ca`",
        ),
        ("peer.advertise", File(&[("peer.advertise", "'0.0.0.0:7443'")]), "is no address that others could reach"),
        ("auth.jwks", Alone(&[("auth.jwks", "''")]), "or make a key with `tidegate keys new"),
        ("auth.jwks", File(&[("auth.jwks", "'nowhere.json'")]), "`nowhere.json` cannot be read: "),
        ("auth.audience", File(&[("auth.audience", "''")]), "must not be empty"),
        ("auth.leeway_s", File(&[("auth.leeway_s", "900")]), "must lie between 0 and 300"),
        ("auth.algorithms", Env("AUTH__ALGORITHMS", "ES256,HS512"), "`HS512` is none of ES256, RS256, EdDSA, HS256"),
        ("auth.tenants", File(&[("auth.tenants", "['a/b']")]), "is no id: 1 to 128 of"),
        ("auth.issuers", Env("AUTH__ISSUERS", "[{\"jwks\":"), "must be a list of issuers, in the environment as JSON"),
        ("redis.urls", Alone(&[("redis.urls", "[]")]), "is empty: name at least one, as redis://host:6379"),
        ("redis.urls", Alone(&[("redis.urls", "'redis://r1'")]), "must be a list"),
        ("redis.urls", Alone(&[("redis.urls", "['http://r1']")]), "entry 1 is not as redis://host:6379"),
        (
            "redis.urls",
            Alone(&[("redis.urls", "['redis://a', 'rediss://b']")]),
            "mixes redis:// and rediss://: take one",
        ),
        (
            "redis.sentinel_master",
            File(&[("redis.mode", "'cluster'"), ("redis.sentinel_master", "'m'")]),
            "take it away or change the mode",
        ),
        ("redis.password", File(&[("redis.username", "'gateway'")]), "is needed with `redis.username`"),
        ("redis.ca", File(&[("redis.ca", "'tidegate.toml'")]), "is for rediss:// addresses"),
        ("redis.wait_replicas", File(&[("redis.wait_replicas", "17")]), "is at most 16"),
    ]
}

fn kafka() -> Vec<Row> {
    const OAUTH: &[(&str, &str)] = &[
        ("kafka.security", "'sasl_tls'"),
        ("kafka.sasl_mechanism", "'OAUTHBEARER'"),
        ("kafka.username", "'gateway'"),
        ("kafka.password", "'s'"),
    ];
    const PLAIN_HTTP: &[(&str, &str)] = &[
        ("kafka.security", "'sasl_tls'"),
        ("kafka.sasl_mechanism", "'OAUTHBEARER'"),
        ("kafka.username", "'gateway'"),
        ("kafka.password", "'s'"),
        ("kafka.oauth_token_url", "'http://issuer.example/token'"),
    ];
    vec![
        ("kafka.brokers", Alone(&[("kafka.brokers", "''")]), "is empty: name at least one broker, as host:port"),
        ("kafka.borkers", File(&[("kafka.borkers", "'k:9092'")]), "is not known; did you mean `kafka.brokers`?"),
        ("kafka.topic_prefix", File(&[("kafka.topic_prefix", "'a/b'")]), "is at most 200 of A-Z a-z 0-9 . _ -"),
        (
            "kafka.password",
            File(&[("kafka.security", "'sasl_tls'"), ("kafka.username", "'gateway'")]),
            "is needed with SASL: the user's password",
        ),
        (
            "kafka.username",
            Alone(&[("kafka.preset", "'confluent'"), ("kafka.password", "'s'")]),
            "is needed with SASL: the user, or",
        ),
        (
            "kafka.sasl_mechanism",
            Alone(&[("kafka.sasl_mechanism", "'PLAIN'")]),
            "is for `kafka.security` sasl_tls or sasl_plaintext: set one",
        ),
        (
            "kafka.sasl_mechanism",
            File(&[("kafka.sasl_mechanism", "'SCRAM-SHA-1'")]),
            "is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
        ),
        ("kafka.oauth_token_url", Alone(OAUTH), "is needed with OAUTHBEARER: the URL of the issuer's token endpoint"),
        ("kafka.oauth_token_url", Alone(PLAIN_HTTP), "must be https://"),
        ("kafka.oauth_scope", File(&[("kafka.oauth_scope", "'kafka'")]), "set that, or take this away"),
        ("kafka.cert", File(&[("kafka.cert", "'tidegate.toml'")]), "and kafka.key go together: give both or none"),
        ("kafka.properties.acks", File(&[("kafka.properties.acks", "1")]), "cannot be set: what an ack means rests on"),
        ("kafka.preset", File(&[("kafka.preset", "'aiven'")]), "is none of msk, confluent, redpanda, event-hubs"),
        ("kafka.topic_prefix", Env("KAFKA_TOPIC_PREFIX", "x."), "did you mean TIDEGATE_KAFKA__TOPIC_PREFIX?"),
        ("kafka.ca", Mounted("KAFKA__CA", None), "its file `"),
        ("kafka.password", Mounted("KAFKA__PASSWORD", None), "cannot be read: "),
        ("kafka.password", Mounted("KAFKA__PASSWORD", Some("\n")), "is empty: put the secret into it"),
    ]
}

fn the_rest() -> Vec<Row> {
    vec![
        ("limits.max_connections", Mounted("LIMITS__MAX_CONNECTIONS", Some("many\n")), "must be a whole number"),
        ("limits.window_messages", Env("LIMITS__WINDOW_MESSAGES", "-3"), "must be a whole number that is not negative"),
        ("limits.window_bytes", File(&[("limits.window_bytes", "1000")]), "is below `limits.message_bytes`"),
        ("rebalance.settle_s", File(&[("rebalance.settle_s", "5")]), "what the other nodes have is heard that late"),
        ("drain.rate_per_s", File(&[("drain.rate_per_s", "0")]), "must be at least 1, or nobody ever leaves"),
        ("telemetry.log", File(&[("telemetry.log", "'tidegate=loud'")]), "`info` or `info,tidegate=debug` are"),
        ("telemetry.log_format", Env("TELEMETRY__LOG_FORMAT", "xml"), "is none of json, text"),
        ("kafak.brokers", File(&[("kafak.brokers", "'k'")]), "is not known; did you mean `kafka.brokers`?"),
    ]
}

/// A configuration in a directory, and the environment beside it.
struct Written {
    keys: BTreeMap<&'static str, &'static str>,
    env: Vec<(String, String)>,
}

impl Written {
    fn new() -> Self {
        Self { keys: BASE.into(), env: Vec::new() }
    }

    fn add(&mut self, dir: &Path, made: &Made) {
        match made {
            File(keys) | Alone(keys) => self.keys.extend(keys.iter().copied()),
            Env(name, value) => self.env.push((format!("TIDEGATE_{name}"), (*value).to_owned())),
            Mounted(name, content) => {
                let path = mounted(dir, name);
                if let Some(content) = content {
                    fs::write(&path, content).unwrap();
                }
                self.env.push((format!("TIDEGATE_{name}_FILE"), path));
            }
        }
    }

    /// Where a mistake is said to have come from.
    fn source(&self, dir: &Path, key: &str, made: &Made) -> String {
        match made {
            File(_) | Alone(_) => match self.keys.keys().position(|written| *written == key) {
                Some(at) => format!("tidegate.toml:{}", at + 1),
                None => "not set, so the default counts".to_owned(),
            },
            Env(name, _) => format!("environment variable TIDEGATE_{name}"),
            Mounted(name, Some(content)) if !content.trim().is_empty() => {
                format!("file {}, named by environment variable TIDEGATE_{name}_FILE", mounted(dir, name))
            }
            Mounted(name, _) => format!("environment variable TIDEGATE_{name}_FILE"),
        }
    }

    /// What is said of it, line by line.
    fn lines(&self, dir: &Path, command: &str) -> Vec<String> {
        let text: String = self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(dir.join("tidegate.toml"), text).unwrap();
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let output = tidegate(dir, &[command, "--config", "tidegate.toml"], &env);
        assert_eq!((code(&output), stdout(&output)), (78, String::new()), "{:?}: {}", self.keys, stderr(&output));
        stderr(&output).lines().skip(1).map(str::to_owned).collect()
    }
}

fn mounted(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), TokenAlgorithm::ES256).unwrap();
    dir
}

fn is_told(lines: &[String], key: &str, says: &str, source: &str) -> bool {
    let (start, end) = (format!("  {key}: "), format!("({source})"));
    lines.iter().any(|line| line.starts_with(&start) && line.contains(says) && line.ends_with(&end))
}

#[test]
fn each_mistake_is_named_with_its_key_its_source_and_what_to_do() {
    let rows = table();
    assert!(rows.len() >= 30, "{}", rows.len());
    for (key, made, says) in &rows {
        let dir = directory();
        let mut written = Written::new();
        written.add(dir.path(), made);
        let lines = written.lines(dir.path(), "check-config");
        let source = written.source(dir.path(), key, made);
        assert!(is_told(&lines, key, says, &source), "{key}: {says} ({source})\n{lines:#?}");
        assert_eq!(lines.len(), 1, "one mistake is told as one: {lines:#?}");
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let (dir, mut written, mut keys) = (directory(), Written::new(), BTreeSet::new());
    // Of two mistakes with one key only the first is made.
    let rows: Vec<Row> =
        table().into_iter().filter(|(key, made, _)| !matches!(made, Alone(_)) && keys.insert(*key)).collect();
    rows.iter().for_each(|(_, made, _)| written.add(dir.path(), made));
    assert!(rows.len() >= 30, "{}", rows.len());
    for command in ["check-config", "serve"] {
        let lines = written.lines(dir.path(), command);
        for (key, made, says) in &rows {
            let source = written.source(dir.path(), key, made);
            assert!(is_told(&lines, key, says, &source), "{key}: {says} ({source})\n{lines:#?}");
        }
        assert_eq!(lines.len(), rows.len(), "and nothing else: {lines:#?}");
    }
}

/// Stands wherever a secret can.
const PLANTED: &str = "hunter2";

fn assert_nothing_shown(what: &str, output: &std::process::Output) {
    let all = stdout(output) + &stderr(output);
    assert!(!all.contains(PLANTED), "{what}: a secret shows in\n{all}");
}

#[test]
fn no_complaint_shows_a_secret() {
    let broken_list = format!(r#"[{{"jwks":"{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{PLANTED}\"}}]}}""#);
    let in_file = |text: &str| (text.to_owned(), Vec::new());
    let in_env = |name: &str, value: &str| (String::new(), vec![(name.to_owned(), value.to_owned())]);
    let cases: Vec<(String, Vec<(String, String)>)> = vec![
        in_file("kafka.password = 'hunter2"),
        in_file("kafka.password = hunter2"),
        in_file("kafka.password = ['hunter2']"),
        in_file("kafka.properties.'ssl.key.password' = ['hunter2']"),
        in_file("redis.urls = 'redis://u:hunter2@r1'"),
        in_file("redis.urls = ['redis://u:hunter2@r1', 'http://u:hunter2@r2']"),
        in_file("redis.pasword = 'hunter2'"),
        in_file("auth.jwks = ['hunter2']"),
        in_file("auth.jwks = '{\"keys\":[\"hunter2\"'"),
        in_file("auth.jwks = '{\"keys\":\"hunter2\"}'"),
        in_file("kafka.security = 'tls'\nkafka.properties.'ssl.key.pem' = 'hunter2'"),
        in_env("TIDEGATE_AUTH__ISSUERS", &broken_list),
        in_env("TIDEGATE_AUTH__ISSUERS", r#"[{"jwks":{"keys":[{"k":"hunter2"}]}}]"#),
        in_env("TIDEGATE_KAFKA__PASSWRD", PLANTED),
        in_env("TIDEGATE_KAFKA_PASSWORD", PLANTED),
        in_env("TIDEGATE_REDIS__URLS", "http://:hunter2@r"),
    ];
    for (text, mut env) in cases {
        let dir = directory();
        let base: String = BASE
            .iter()
            .filter(|(key, _)| !text.starts_with(key))
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        fs::write(dir.path().join("tidegate.toml"), format!("{base}node.start_timeout_s = 1\n{text}\n")).unwrap();
        env.push(("TIDEGATE_TELEMETRY__LOG".to_owned(), "trace".to_owned()));
        let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for command in ["check-config", "serve"] {
            let output = tidegate(dir.path(), &[command, "--config", "tidegate.toml"], &env);
            assert_nothing_shown(&format!("{command} of {text} {env:?}"), &output);
            assert!(command == "check-config" || code(&output) == 78, "{text} {env:?}: {}", stderr(&output));
        }
    }
}

#[test]
fn no_secret_shows_while_a_node_looks_for_its_neighbours_at_the_most_talkative() {
    let dir = directory();
    let jwks = r#"{"keys":[{"kty":"oct","k":"hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2"}]}"#;
    let (secret, keys) = (dir.path().join("secret"), dir.path().join("keys"));
    fs::write(&secret, PLANTED).unwrap();
    fs::write(&keys, jwks).unwrap();
    // Nobody listens at the discard port.
    let text = "public.plaintext = true\npeer.plaintext = true\npublic.listen = '127.0.0.1:0'\n\
                internal.listen = '127.0.0.1:0'\npeer.listen = '127.0.0.1:0'\nnode.start_timeout_s = 2\n\
                auth.algorithms = ['HS256']\nkafka.brokers = '127.0.0.1:9'\nkafka.security = 'sasl_plaintext'\n\
                kafka.username = 'gateway'\nkafka.properties.'ssl.key.password' = 'hunter2'\n\
                redis.urls = ['redis://u:hunter2@127.0.0.1:9']\nredis.username = 'u'\ntelemetry.log = 'trace'\n";
    fs::write(dir.path().join("tidegate.toml"), text).unwrap();
    let path = |path: &Path| path.display().to_string();
    let (secret, keys) = (path(&secret), path(&keys));
    let scram = [("TIDEGATE_KAFKA__SASL_MECHANISM", "SCRAM-SHA-512")];
    let oauth = [
        ("TIDEGATE_KAFKA__SASL_MECHANISM", "OAUTHBEARER"),
        ("TIDEGATE_KAFKA__OAUTH_TOKEN_URL", "http://127.0.0.1:9/token"),
    ];
    for more in [&scram[..], &oauth[..]] {
        let files = [
            ("TIDEGATE_KAFKA__PASSWORD_FILE", secret.as_str()),
            ("TIDEGATE_REDIS__PASSWORD_FILE", secret.as_str()),
            ("TIDEGATE_AUTH__JWKS_FILE", keys.as_str()),
        ];
        let env = [&files[..], more].concat();
        let checked = tidegate(dir.path(), &["check-config", "--config", "tidegate.toml"], &env);
        assert_eq!(code(&checked), 0, "{}", stderr(&checked));
        assert_nothing_shown("check-config", &checked);
        let served = tidegate(dir.path(), &["serve", "--config", "tidegate.toml"], &env);
        assert_eq!(code(&served), 69, "{}", stderr(&served));
        assert!(stderr(&served).contains("TRACE"), "it was not talkative");
        assert_nothing_shown("serve", &served);
        let topics = tidegate(dir.path(), &["topics", "--apply", "--timeout", "1s", "--config", "tidegate.toml"], &env);
        assert_nothing_shown("topics", &topics);
        assert!(more.len() == 1 || stderr(&topics).contains("--print"), "{}", stderr(&topics));
    }
}
