//! The configuration of a node: a TOML file, then the environment over it, every mistake named at once.
//!
//! A key `section.key` is in the environment `TIDEGATE_SECTION__KEY`, or `TIDEGATE_SECTION__KEY_FILE` where a file holds
//! the value. There lists are written with commas or, as `auth.issuers`, in JSON, and `kafka.properties` name by name:
//! `linger.ms` is `TIDEGATE_KAFKA__PROPERTIES__LINGER_MS`.

mod checks;
mod describe;
mod sources;
mod suggest;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use describe::{default_toml, effective_toml, json_schema};

use crate::auth::AuthConfig;
use crate::eventlog::kafka::KafkaConfig;
use crate::id::NodeName;
use crate::limits::Limits;
use crate::ownership::RENEW_EVERY_MS;
use crate::peer::PeerConfig;
use crate::store::RedisConfig;

/// Everything a node can be told.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node among others.
    pub node: NodeConfig,
    /// The port that devices and applications connect to.
    pub public: PublicConfig,
    /// The HTTP API.
    pub api: ApiConfig,
    /// Health and metrics, for the platform only.
    pub internal: InternalConfig,
    /// How the nodes of a cluster reach each other.
    pub peer: PeerConfig,
    /// Whose tokens are accepted. Several issuers are listed as `[[auth.issuers]]`.
    pub auth: AuthConfig,
    /// Where updates are stored.
    pub kafka: KafkaConfig,
    /// Where it stands which node has which device.
    pub redis: RedisConfig,
    /// Every bound of the node.
    pub limits: Limits,
    /// How a node that leaves lets its connections go.
    pub drain: DrainConfig,
    /// How a node that has more than its share of the devices lets some go.
    pub rebalance: RebalanceConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The section `node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name in the cluster, logs and presence, the same across its restarts and no other node's: 1 to 128 of
    /// A-Z a-z 0-9 . _ -. Empty: the host's name.
    pub name: String,
    /// How long a starting node tries to reach what it needs, in seconds, before it gives up with exit code 69.
    pub start_timeout_s: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { name: String::new(), start_timeout_s: 30 }
    }
}

impl NodeConfig {
    /// The configured name, else the host's.
    pub fn effective_name(&self) -> String {
        if self.name.is_empty() { host_name() } else { self.name.clone() }
    }
}

/// The host's name, else `tidegate`.
pub fn host_name() -> String {
    let from_env = std::env::var("HOSTNAME").ok();
    let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_env.filter(|name| !name.is_empty()).or_else(from_kernel);
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "tidegate".into())
}

/// The section `public`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublicConfig {
    /// Address and port.
    pub listen: String,
    /// The certificate chain, a PEM file; read again when it changes.
    pub tls_cert: PathBuf,
    /// The certificate's key, a PEM file; read again when it changes.
    pub tls_key: PathBuf,
    /// The largest TLS record sent, in bytes (512 to 16384): small devices cannot buffer large ones.
    pub tls_record_bytes: usize,
    /// The authorities of device certificates, a PEM file; read again when it changes. A device that shows one needs no
    /// token: `CN` of its subject is the device, `O` the tenant. Empty: no client certificate is asked for.
    pub client_ca: PathBuf,
    /// The tenants that device certificates may name; empty: any. One without `O` is `auth.default_tenant`'s, or that of the
    /// only tenant here.
    pub client_tenants: Vec<String>,
    /// Serve without TLS, because something in front of the node terminates it.
    pub plaintext: bool,
    /// Each connection begins with a PROXY protocol header (v1 or v2), and one without is closed.
    pub proxy_protocol: bool,
    /// Networks (`10.0.0.0/8`) whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Origins of browser applications, exactly as browsers send them (`https://app.example.com`). Empty: any.
    pub allowed_origins: Vec<String>,
    /// Host names served; others are answered 421. Empty: any.
    pub hosts: Vec<String>,
}

impl Default for PublicConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8443".into(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_record_bytes: 4_096,
            client_ca: PathBuf::new(),
            client_tenants: Vec::new(),
            plaintext: false,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

/// The section `api`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Address and port. Empty: on the public port.
    pub listen: String,
}

/// The section `internal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InternalConfig {
    /// Address and port of `/livez`, `/readyz` and `/metrics`.
    pub listen: String,
}

impl Default for InternalConfig {
    fn default() -> Self {
        Self { listen: "0.0.0.0:9090".into() }
    }
}

/// The section `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// How long a node that became unready still accepts, in seconds: load balancers notice late.
    pub propagation_s: u64,
    /// Connections told to leave per second; more where the budget would not do.
    pub rate_per_s: u32,
    /// How long the drain may take after that, in seconds. Each connection has 30 s of it to connect elsewhere, less where it
    /// is below 75.
    pub budget_s: u64,
    /// How long a node keeps its devices that lacks Kafka while another node has it, in seconds; then it sends them there.
    pub cut_off_s: u64,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { propagation_s: 10, rate_per_s: 200, budget_s: 240, cut_off_s: 60 }
    }
}

/// The section `rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RebalanceConfig {
    /// Whether a node tells devices to move to the others while it has more than its share. Never while any node drains.
    pub enabled: bool,
    /// What is more than its share, in percent of what a node has on average (105 to 1000). It stops halfway between that and
    /// the average.
    pub threshold_percent: u32,
    /// A node with no more devices than this tells none.
    pub minimum: u32,
    /// Devices told to move per second and node.
    pub rate_per_s: u32,
    /// How long a node has to have more than its share before it tells any, in seconds (10 to 3600): what a rollout or a load
    /// balancer evens out by itself is left to them. What the others have is heard up to 10 s late.
    pub settle_s: u64,
    /// How old a device's connection may become, in seconds: each is told to connect anew somewhere in the last quarter of that,
    /// `rate_per_s` a second at most. 0: as old as it likes.
    pub max_age_s: u64,
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        Self { enabled: true, threshold_percent: 110, minimum: 1_000, rate_per_s: 20, settle_s: 30, max_age_s: 0 }
    }
}

impl RebalanceConfig {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut add = |key: &str, text: &str| problems.push((format!("rebalance.{key}"), text.to_owned()));
        if !(105..=1_000).contains(&self.threshold_percent) {
            add("threshold_percent", "must lie within 105 and 1000: 110 is a tenth more than the average");
        }
        if self.rate_per_s == 0 {
            add("rate_per_s", "must be at least 1; `rebalance.enabled = false` has nobody told");
        }
        // What another node has waits for its next renewal, and then for this one's.
        if self.settle_s.saturating_mul(1_000) < 2 * RENEW_EVERY_MS {
            add("settle_s", "is below 10: what the other nodes have is heard that late");
        }
        if self.settle_s > 3_600 {
            add("settle_s", "is above 3600: an imbalance that lasts an hour is one");
        }
        if self.max_age_s != 0 && !(10..=31_536_000).contains(&self.max_age_s) {
            add("max_age_s", "must lie within 10 and 31536000 (a year), or be 0 for as old as it likes");
        }
        problems
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// The section `telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: a level, or `target=level` joined by commas.
    pub log: String,
    /// How log lines are written: `json` or `text`.
    pub log_format: LogFormat,
    /// Where traces go: `http://host:port` or `https://host:port` of an OTLP receiver that speaks gRPC, mostly at port 4317.
    /// Empty: none are made. Headers that it wants are read from OTEL_EXPORTER_OTLP_HEADERS.
    pub otlp_endpoint: String,
    /// The authorities of its certificate, a PEM file. Empty: the system's.
    pub otlp_ca: PathBuf,
    /// Which part of all messages and commands is traced, 0 to 1; handshakes all are, and so is what has to do with a device
    /// that somebody traces (`PUT /v1/devices/{device}/trace`).
    pub sample_ratio: f64,
    /// Whether a `traceparent` that devices and applications bring is believed: it then goes into Kafka, and where it says
    /// that it is sampled, its trace goes on here. Whoever may send can then have everything of its own traced.
    pub trust_traceparent: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        let (log, log_format) = ("info".into(), LogFormat::Json);
        let (otlp_endpoint, otlp_ca) = (String::new(), PathBuf::new());
        Self { log, log_format, otlp_endpoint, otlp_ca, sample_ratio: 0.01, trust_traceparent: false }
    }
}

impl TelemetryConfig {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut add = |key: &str, text: String| problems.push((format!("telemetry.{key}"), text));
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log) {
            add("log", format!("is no log filter ({error}); `info` or `info,tidegate=debug` are"));
        }
        if !self.otlp_endpoint.is_empty() && !is_collector(&self.otlp_endpoint) {
            let text = format!("`{}` is no collector's address, as http://collector:4317 is", self.otlp_endpoint);
            add("otlp_endpoint", text);
        }
        if !self.otlp_ca.as_os_str().is_empty()
            && let Some(text) = unreadable(&self.otlp_ca)
        {
            add("otlp_ca", text);
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            add("sample_ratio", format!("{} is not within 0 and 1", self.sample_ratio));
        }
        problems
    }
}

/// Whether a text is a scheme that can be spoken, a host and a port, and nothing behind them.
fn is_collector(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    is_bare && matches!(uri.scheme_str(), Some("http" | "https")) && uri.port_u16().is_some_and(|port| port > 0)
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// `section.key`, or the file's name where it cannot be read at all.
    pub key: String,
    /// What is wrong and what would be right.
    pub text: String,
    /// `file:line`, an environment variable, or that it is the default.
    pub source: String,
}

/// Everything that is wrong with a configuration: exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        writeln!(f, "the configuration has {count} mistake{}:", if count == 1 { "" } else { "s" })?;
        self.mistakes.iter().try_for_each(|m| writeln!(f, "  {}: {} ({})", m.key, m.text, m.source))
    }
}

/// Reads a configuration for a node that is to serve: the file, then `env` (variables that are not `TIDEGATE_…` are
/// passed over), then the checks that need more than one key.
///
/// # Errors
/// [`ConfigError`] with every mistake found.
pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let read = sources::read(file, env);
    let problems = read.config.problems();
    conclude(read, problems)
}

/// Reads the section `kafka` and passes over every other, for commands that are no node. `brokers` may be empty.
///
/// # Errors
/// [`ConfigError`] with every mistake found in that section.
pub fn load_kafka(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<KafkaConfig, ConfigError> {
    let mut read = sources::read(file, env);
    read.mistakes.retain(|mistake| !mistake.is_elsewhere("kafka"));
    let mut problems = read.config.kafka.mistakes();
    problems.extend(kafka_files(&read.config.kafka));
    problems.retain(|(key, _)| key != "kafka.brokers");
    conclude(read, problems).map(|config| config.kafka)
}

fn conclude(read: sources::Read, problems: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let sources::Read { config, mut mistakes, sources } = read;
    // Where a value could not even be read the default stands in its place, of which nobody needs to hear more.
    let unread: Vec<String> = mistakes.iter().map(|mistake| mistake.key.clone()).collect();
    for (key, text) in problems.into_iter().filter(|(key, _)| !unread.contains(key)) {
        let source = sources.get(&key).cloned().unwrap_or_else(|| "not set, so the default counts".into());
        mistakes.push(Mistake { key, text, source });
    }
    if mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes }) }
}

impl Mistake {
    /// Whether it is about a key of another section; a file that cannot be read is about all.
    fn is_elsewhere(&self, section: &str) -> bool {
        let of = self.key.split('.').next().unwrap_or_default();
        of != section && self.source != sources::WHOLE_FILE
    }
}

impl Config {
    /// What a node could not serve with: key and reason.
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = self.public.problems();
        let mut add = |key: &str, text: &str| problems.push((key.into(), text.into()));
        if !is_address(&self.internal.listen) {
            add("internal.listen", "is no address and port, as 0.0.0.0:9090 is");
        }
        if !self.api.listen.is_empty() && !is_address(&self.api.listen) {
            add("api.listen", "is no address and port; empty means on the public port");
        }
        if self.node.start_timeout_s == 0 {
            add("node.start_timeout_s", "must be at least 1");
        }
        if let Err(error) = NodeName::new(&self.node.effective_name()) {
            add("node.name", &format!("`{}` is no node's name: {error}", self.node.effective_name()));
        }
        if self.drain.rate_per_s == 0 {
            add("drain.rate_per_s", "must be at least 1, or nobody ever leaves");
        }
        problems.extend(self.rebalance.problems());
        problems.extend(self.telemetry.problems());
        problems.extend(checks::shared_ports(self));
        problems.extend(self.peer.mistakes());
        problems.extend(peer_files(&self.peer));
        problems.extend(self.kafka.mistakes());
        problems.extend(kafka_files(&self.kafka));
        problems.extend(self.redis.mistakes());
        if !self.redis.ca.is_empty()
            && let Some(text) = unreadable(Path::new(&self.redis.ca))
        {
            problems.push(("redis.ca".into(), text));
        }
        problems.extend(self.auth.mistakes());
        problems.extend(self.jwks_files());
        problems.extend(self.limits.problems().into_iter().map(|(key, text)| (format!("limits.{key}"), text)));
        problems
    }

    /// Key sets that are files and cannot be read.
    fn jwks_files(&self) -> Vec<(String, String)> {
        let own = (!self.auth.jwks.is_empty()).then_some(("auth.jwks", &self.auth.jwks));
        let listed = self.auth.issuers.iter().map(|issuer| ("auth.issuers", &issuer.jwks));
        let is_file = |text: &str| !text.is_empty() && !text.starts_with('{') && !text.contains("://");
        let files = own.into_iter().chain(listed).filter(|(_, jwks)| is_file(jwks.trim_start()));
        files.filter_map(|(key, jwks)| Some((key.to_owned(), unreadable(Path::new(jwks))?))).collect()
    }
}

/// Certificates and keys for peers that cannot be read.
fn peer_files(peer: &PeerConfig) -> Vec<(String, String)> {
    let files = [("tls_cert", &peer.tls_cert), ("tls_key", &peer.tls_key), ("tls_ca", &peer.tls_ca)];
    let given = files.into_iter().filter(|(_, path)| !path.as_os_str().is_empty());
    given.filter_map(|(key, path)| Some((format!("peer.{key}"), unreadable(path)?))).collect()
}

/// Certificates and keys that cannot be read.
fn kafka_files(kafka: &KafkaConfig) -> Vec<(String, String)> {
    let files = [
        ("kafka.ca", &kafka.ca),
        ("kafka.cert", &kafka.cert),
        ("kafka.key", &kafka.key),
        ("kafka.oauth_ca", &kafka.oauth_ca),
    ];
    let given = files.into_iter().filter(|(_, path)| !path.is_empty());
    given.filter_map(|(key, path)| Some((key.to_owned(), unreadable(Path::new(path))?))).collect()
}

/// Why a file cannot be read, if it cannot.
fn unreadable(path: &Path) -> Option<String> {
    let error = std::fs::File::open(path).err()?;
    Some(format!("`{}` cannot be read: {error}", path.display()))
}

impl PublicConfig {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut add = |key: &str, text: String| problems.push((format!("public.{key}"), text));
        if !is_address(&self.listen) {
            add("listen", format!("`{}` is no address and port, as 0.0.0.0:8443 is", self.listen));
        }
        let has = |path: &Path| !path.as_os_str().is_empty();
        match (has(&self.tls_cert), has(&self.tls_key)) {
            (true, true) if self.plaintext => {
                add("plaintext", "contradicts `public.tls_cert`: take one of them away".into());
            }
            (false, false) if !self.plaintext => add(
                "tls_cert",
                "is missing: set `public.tls_cert` and `public.tls_key`, or `public.plaintext = true` where something \
                 in front of the node terminates TLS"
                    .into(),
            ),
            (true, false) => add("tls_key", "is missing: `public.tls_cert` needs its key".into()),
            (false, true) => add("tls_cert", "is missing: `public.tls_key` needs its certificate".into()),
            _ => {}
        }
        for (key, path) in [("tls_cert", &self.tls_cert), ("tls_key", &self.tls_key), ("client_ca", &self.client_ca)] {
            if has(path)
                && let Some(text) = unreadable(path)
            {
                add(key, text);
            }
        }
        if let Err(network) = crate::api::Hops::new(&self.trusted_proxies) {
            add("trusted_proxies", format!("`{network}` is no network, as 10.0.0.0/8 is"));
        }
        if self.plaintext && has(&self.client_ca) {
            add("client_ca", "needs TLS: with `public.plaintext` nobody can show a certificate here".into());
        }
        if !(512..=16_384).contains(&self.tls_record_bytes) {
            add("tls_record_bytes", format!("{} is not within 512 and 16384", self.tls_record_bytes));
        }
        problems.extend(checks::names(self));
        problems
    }
}

/// Whether a text is what a listener can bind: `address:port`, the address literal.
fn is_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}
