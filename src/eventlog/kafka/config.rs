//! The section `kafka` of the configuration, and what it means to librdkafka.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use super::StartError;
use super::oauth::TokenCell;
use crate::https::parse_url;
use crate::limits::Limits;

/// What the key, the headers and Kafka's own framing may add to a value, in bytes.
const OVERHEAD_BYTES: usize = 4096;

/// Properties on which an ack rests: whoever sets one would silently change what an ack means.
const OURS: [&str; 11] = [
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "delivery.report.only.error",
    "partitioner",
    "retries",
    "message.send.max.retries",
    "transactional.id",
];

/// The section `kafka`: where the brokers are and how to speak to them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port` joined by commas; the others are learnt from them.
    pub brokers: String,
    /// Goes before every topic's name.
    pub topic_prefix: String,
    /// How connections are protected. Absent: what `preset` needs, else `plaintext`.
    pub security: Option<Security>,
    /// How the gateway proves who it is, with `sasl_plaintext` and `sasl_tls`. Absent: what `preset` needs, else `PLAIN`.
    pub sasl_mechanism: Option<SaslMechanism>,
    /// User, or the client's id with OAUTHBEARER.
    pub username: String,
    /// Password, or the client's secret with OAUTHBEARER.
    pub password: String,
    /// Where tokens are fetched with OAUTHBEARER: the issuer's token endpoint, an `https://` URL (`http://` on loopback only).
    pub oauth_token_url: String,
    /// What the token is asked for, words between blanks. Empty: what the issuer gives by itself.
    pub oauth_scope: String,
    /// File with the certificates (PEM) that `oauth_token_url` is checked against. Empty: the system's.
    pub oauth_ca: String,
    /// File with the certificates (PEM) that brokers are checked against. Empty: the system's.
    pub ca: String,
    /// File with the gateway's own certificate (PEM), where brokers ask for one.
    pub cert: String,
    /// File with the key of `cert` (PEM).
    pub key: String,
    /// Whose Kafka it is: sets what that service needs and nothing else. Explicit keys win over it.
    pub preset: Option<Preset>,
    /// Handed to librdkafka as it is, last of all.
    pub properties: BTreeMap<String, String>,
    /// The tokens that this configuration's clients share; nothing that is configured.
    #[serde(skip)]
    pub oauth_tokens: TokenCell,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic_prefix: "tidegate.".to_owned(),
            security: None,
            sasl_mechanism: None,
            username: String::new(),
            password: String::new(),
            oauth_token_url: String::new(),
            oauth_scope: String::new(),
            oauth_ca: String::new(),
            ca: String::new(),
            cert: String::new(),
            key: String::new(),
            preset: None,
            properties: BTreeMap::new(),
            oauth_tokens: TokenCell::default(),
        }
    }
}

/// Leaves out the password, and the values of `properties`, among which there may be others.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("security", &self.security)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .field("username", &self.username)
            .field("password", &if self.password.is_empty() { "" } else { "***" })
            .field("oauth_token_url", &self.oauth_token_url)
            .field("oauth_scope", &self.oauth_scope)
            .field("oauth_ca", &self.oauth_ca)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("preset", &self.preset)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// How connections to the brokers are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// TLS, with a client certificate where `cert` is given.
    Tls,
    /// SASL without encryption.
    SaslPlaintext,
    /// SASL over TLS.
    SaslTls,
}

impl Security {
    const fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Tls => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslTls => "sasl_ssl",
        }
    }

    const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }
}

/// How the gateway proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum SaslMechanism {
    /// User and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token of an OpenID Connect issuer, from `oauth_token_url`.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Services whose Kafka needs other settings than a broker of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Amazon MSK: SCRAM-SHA-512 over TLS.
    Msk,
    /// Confluent Cloud: PLAIN over TLS.
    Confluent,
    /// Redpanda: SCRAM-SHA-256 where SASL is asked for.
    Redpanda,
    /// Azure Event Hubs: PLAIN over TLS with the connection string as password; it takes no lz4.
    EventHubs,
}

impl Preset {
    const fn security(self) -> Security {
        match self {
            Self::Msk | Self::Confluent | Self::EventHubs => Security::SaslTls,
            Self::Redpanda => Security::Plaintext,
        }
    }

    const fn mechanism(self) -> SaslMechanism {
        match self {
            Self::Msk => SaslMechanism::ScramSha512,
            Self::Confluent | Self::EventHubs => SaslMechanism::Plain,
            Self::Redpanda => SaslMechanism::ScramSha256,
        }
    }

    const fn properties(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Azure's front end drops idle connections in silence after four minutes.
            Self::EventHubs => &[
                ("compression.type", "none"),
                ("metadata.max.age.ms", "180000"),
                ("connections.max.idle.ms", "180000"),
            ],
            Self::Msk | Self::Confluent | Self::Redpanda => &[],
        }
    }
}

impl KafkaConfig {
    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// Everything that is wrong, as pairs of key and text. Files and brokers are not looked at.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut add = |key: &str, text: &str| found.push((key.to_owned(), text.to_owned()));
        if self.brokers.trim().is_empty() {
            add("kafka.brokers", "is empty: name at least one broker, as host:port");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !self.topic_prefix.chars().all(allowed) || self.topic_prefix.len() > 200 {
            add("kafka.topic_prefix", "is at most 200 of A-Z a-z 0-9 . _ -");
        }
        if self.security().is_sasl() {
            for (key, value, what) in [
                ("kafka.username", &self.username, "the user, or the client's id with OAUTHBEARER"),
                ("kafka.password", &self.password, "the user's password, or the client's secret with OAUTHBEARER"),
            ] {
                if value.is_empty() {
                    add(key, &format!("is needed with SASL: {what}"));
                }
            }
        } else if self.sasl_mechanism.is_some() {
            add("kafka.sasl_mechanism", "is for `kafka.security` sasl_tls or sasl_plaintext: set one, or take it away");
        }
        if self.cert.is_empty() != self.key.is_empty() {
            add("kafka.cert", "and kafka.key go together: give both or none");
        }
        self.oauth_mistakes(&mut add);
        for key in self.properties.keys().filter(|key| OURS.contains(&key.as_str())) {
            add(&format!("kafka.properties.{key}"), "cannot be set: what an ack means rests on it");
        }
        found
    }

    fn oauth_mistakes(&self, add: &mut impl FnMut(&str, &str)) {
        if !self.is_oauth() {
            for (key, value) in [
                ("kafka.oauth_token_url", &self.oauth_token_url),
                ("kafka.oauth_scope", &self.oauth_scope),
                ("kafka.oauth_ca", &self.oauth_ca),
            ] {
                if !value.is_empty() {
                    add(key, "is for `kafka.sasl_mechanism = \"OAUTHBEARER\"`: set that, or take this away");
                }
            }
            return;
        }
        let key = "kafka.oauth_token_url";
        let url = parse_url(&self.oauth_token_url);
        let host = url.as_ref().and_then(|url| url.host()).unwrap_or_default();
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match url.as_ref().map(|url| url.scheme_str() == Some("https")) {
            _ if self.oauth_token_url.is_empty() => {
                add(key, "is needed with OAUTHBEARER: the URL of the issuer's token endpoint");
            }
            None => add(key, "is no https:// URL with a host name"),
            Some(false) if !is_here => add(key, "must be https://: on the way the client's secret could be read"),
            Some(_) => {}
        }
    }

    /// How the gateway proves who it is, where it does so by SASL.
    fn mechanism(&self) -> Option<SaslMechanism> {
        let chosen = self.sasl_mechanism.or(self.preset.map(Preset::mechanism)).unwrap_or(SaslMechanism::Plain);
        self.security().is_sasl().then_some(chosen)
    }

    /// Whether brokers are shown tokens.
    pub(super) fn is_oauth(&self) -> bool {
        self.mechanism() == Some(SaslMechanism::OauthBearer)
    }

    fn security(&self) -> Security {
        self.security.or(self.preset.map(Preset::security)).unwrap_or(Security::Plaintext)
    }

    /// What any client needs to reach the brokers: an administrator's and a consumer's too.
    pub(crate) fn client(&self) -> Result<ClientConfig, StartError> {
        if let Some((key, text)) = self.mistakes().into_iter().next() {
            return Err(StartError::Config(format!("{key} {text}")));
        }
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.brokers.as_str());
        client.set("client.id", "tidegate");
        for (key, value) in TRANSPORT {
            client.set(key, value);
        }
        let security = self.security();
        client.set("security.protocol", security.protocol());
        for (key, value) in
            [("ssl.ca.location", &self.ca), ("ssl.certificate.location", &self.cert), ("ssl.key.location", &self.key)]
        {
            if !value.is_empty() {
                client.set(key, value.as_str());
            }
        }
        if let Some(mechanism) = self.mechanism() {
            client.set("sasl.mechanism", mechanism.name());
            if mechanism != SaslMechanism::OauthBearer {
                client.set("sasl.username", self.username.as_str());
                client.set("sasl.password", self.password.as_str());
            }
        }
        Ok(client)
    }

    /// A client with the user's own properties on top.
    pub(crate) fn finish(&self, mut client: ClientConfig) -> ClientConfig {
        for (key, value) in &self.properties {
            client.set(key.as_str(), value.as_str());
        }
        client
    }

    /// A client with what its service needs and the user's own properties, and over them what may not be otherwise.
    fn with(&self, own: &[(&str, &str)], fixed: &[&[(&str, &str)]]) -> Result<ClientConfig, StartError> {
        let mut client = self.client()?;
        for (key, value) in self.preset.map(Preset::properties).unwrap_or_default().iter().chain(own) {
            client.set(*key, *value);
        }
        let mut client = self.finish(client);
        for (key, value) in fixed.iter().copied().flatten() {
            client.set(*key, *value);
        }
        Ok(client)
    }

    /// The producer of single records that somebody waits for.
    pub(super) fn writer(&self) -> Result<ClientConfig, StartError> {
        self.with(&[], &[&WRITER])
    }

    /// A consumer that reads a topic whole, for itself alone.
    pub(super) fn follower(&self) -> Result<ClientConfig, StartError> {
        self.with(&[], &[&CONSUMER, &FOLLOWER])
    }

    /// A member of the group that reads a topic for all nodes.
    pub(super) fn group_member(&self, topic: &str, member: &str) -> Result<ClientConfig, StartError> {
        let group = self.group(topic);
        let name = [("group.id", group.as_str()), ("group.instance.id", member)];
        self.with(&GROUP_OWN, &[&CONSUMER, &GROUP, &name])
    }

    /// The group's name: `tidegate-commands` with the prefix that topics have by default.
    pub fn group(&self, topic: &str) -> String {
        let prefix = self.topic_prefix.trim_end_matches(['.', '-', '_']);
        format!("{}-{topic}", if prefix.is_empty() { "tidegate" } else { prefix })
    }

    /// The producer, with the queue sized so that a full one is a bug, not a mode.
    pub(super) fn producer(&self, limits: &Limits) -> Result<ClientConfig, StartError> {
        let mut client = self.client()?;
        for (key, value) in PRODUCER {
            client.set(key, value);
        }
        for (key, value) in self.preset.map(Preset::properties).unwrap_or_default() {
            client.set(*key, *value);
        }
        client.set("queue.buffering.max.messages", (2 * budget_messages(limits)).to_string());
        client
            .set("queue.buffering.max.kbytes", (2 * limits.node_budget_bytes / 1024).clamp(1, MAX_KBYTES).to_string());
        // Bounds whole batches as well as one record, which the lane refuses long before this: a batch is as large as
        // one of the largest records or as `batch.size`.
        client.set("batch.size", BATCH_BYTES.to_string());
        client.set("message.max.bytes", record_bytes(limits).max(BATCH_BYTES).to_string());
        Ok(self.finish(client))
    }
}

/// How many records devices can have outstanding, by their windows; at most what librdkafka can count twice over.
pub(super) fn budget_messages(limits: &Limits) -> usize {
    limits.max_connections.saturating_mul(limits.window_messages).clamp(1_000, 1_000_000_000)
}

/// The largest record, key and value: what a message may be and what the gateway puts around it.
pub(super) const fn record_bytes(limits: &Limits) -> usize {
    limits.message_bytes.saturating_add(OVERHEAD_BYTES)
}

/// The largest batch, below what a broker takes as it is installed (`message.max.bytes` = 1048588).
const BATCH_BYTES: usize = 1_000_000;

const MAX_KBYTES: usize = 2_147_483_647;

/// How soon a broken or silent connection is found and made anew.
const TRANSPORT: [(&str, &str); 5] = [
    // The default of 10 s lets an outage of 3 s last for eleven.
    ("reconnect.backoff.max.ms", "1000"),
    // Leader drain and black holes.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("socket.keepalive.enable", "true"),
    ("log.connection.close", "false"),
];

const PRODUCER: [(&str, &str); 10] = [
    ("enable.idempotence", "true"),
    // A producer ends with the first batch that is refused for good. Without this librdkafka sends what was under way
    // behind that batch again by itself, and so before whatever else was in the batch.
    ("enable.gapless.guarantee", "true"),
    // Every replica that is in sync, of which the topic demands two.
    // Which is how it writes `all`.
    ("acks", "-1"),
    // Never: what was taken is tried for as long as the node lives.
    ("message.timeout.ms", "0"),
    ("request.timeout.ms", "10000"),
    ("linger.ms", "1"),
    ("compression.type", "lz4"),
    // Where Java's default partitioner puts the same key.
    ("partitioner", "murmur2_random"),
    // A topic that went missing is reported after this long, so that the alert can name it.
    ("topic.metadata.propagation.max.ms", "5000"),
    ("socket.nagle.disable", "true"),
];

/// Of the writer: duplicates do no harm, and each record is waited for.
const WRITER: [(&str, &str); 9] = [
    ("acks", "-1"),
    ("enable.idempotence", "false"),
    ("max.in.flight.requests.per.connection", "1"),
    ("message.timeout.ms", "5000"),
    ("request.timeout.ms", "4000"),
    ("linger.ms", "0"),
    ("queue.buffering.max.messages", "1000"),
    ("partitioner", "murmur2_random"),
    ("topic.metadata.propagation.max.ms", "4000"),
];

/// Of both kinds of consumers. What has fallen out of the topic is gone: what is left is read.
const CONSUMER: [(&str, &str); 3] =
    [("auto.offset.reset", "earliest"), ("enable.auto.offset.store", "false"), ("allow.auto.create.topics", "false")];

/// Of the reader of a whole topic. librdkafka wants a group's id even where none is joined.
const FOLLOWER: [(&str, &str); 3] =
    [("group.id", "tidegate-follower"), ("enable.partition.eof", "true"), ("enable.auto.commit", "false")];

/// Of the group, where the user's properties count over it.
const GROUP_OWN: [(&str, &str); 4] = [
    // How soon a topic that was missing is found.
    ("topic.metadata.refresh.interval.ms", "30000"),
    // As long as a node's lease: then its partitions are another's.
    ("session.timeout.ms", "15000"),
    ("heartbeat.interval.ms", "3000"),
    ("queued.max.messages.kbytes", "16384"),
];

/// Of the group: what was noted as handled is committed every second, and when a partition is given away.
const GROUP: [(&str, &str); 3] = [
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("enable.auto.commit", "true"),
    ("auto.commit.interval.ms", "1000"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(toml: &str) -> KafkaConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn the_settings_an_ack_rests_on_reach_librdkafka() {
        let client = config("brokers = 'k:9092'").producer(&Limits::default()).unwrap();
        let native = client.create_native_config().unwrap();
        for (key, value) in [
            ("enable.idempotence", "true"),
            ("enable.gapless.guarantee", "true"),
            ("message.timeout.ms", "0"),
            ("partitioner", "murmur2_random"),
            ("compression.type", "lz4"),
            // Which is how it writes `all`.
            ("acks", "-1"),
            ("batch.size", "1000000"),
            ("message.max.bytes", "1000000"),
            ("linger.ms", "1"),
            ("reconnect.backoff.max.ms", "1000"),
            ("socket.timeout.ms", "10000"),
            ("socket.connection.setup.timeout.ms", "5000"),
            ("socket.keepalive.enable", "true"),
            ("queue.buffering.max.kbytes", "262144"),
            ("queue.buffering.max.messages", "6400000"),
            ("request.timeout.ms", "10000"),
        ] {
            // librdkafka keeps topic properties apart; those it cannot read back are compared as they were set.
            let got = native.get(key).unwrap_or_else(|_| client.get(key).unwrap().to_owned());
            assert_eq!(got, value, "{key}");
        }
    }

    #[test]
    fn a_record_of_the_largest_size_fits_a_batch() {
        let limits = Limits { message_bytes: 4_000_000, ..Limits::default() };
        let client = config("brokers = 'k:9092'").producer(&limits).unwrap();
        assert_eq!(client.get("message.max.bytes"), Some("4004096"));
    }

    #[test]
    fn every_preset_and_mechanism_makes_a_configuration_librdkafka_takes() {
        for preset in ["msk", "confluent", "redpanda", "event-hubs"] {
            let toml = format!("brokers = 'k:9092'\npreset = '{preset}'\nusername = 'u'\npassword = 'p'");
            config(&toml).producer(&Limits::default()).unwrap().create_native_config().unwrap();
        }
        let with = |mechanism: &str| {
            let toml = "brokers = 'k'\nsecurity = 'sasl_tls'\nusername = 'u'\npassword = 'p'";
            config(&format!("{toml}\nsasl_mechanism = '{mechanism}'"))
        };
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            with(mechanism).producer(&Limits::default()).unwrap().create_native_config().unwrap();
        }
        let oauth = KafkaConfig { oauth_token_url: "https://issuer/token".to_owned(), ..with("OAUTHBEARER") };
        let client = oauth.producer(&Limits::default()).unwrap();
        client.create_native_config().unwrap();
        assert_eq!((client.get("sasl.mechanism"), client.get("sasl.password")), (Some("OAUTHBEARER"), None));
        let hubs = config("brokers = 'k'\npreset = 'event-hubs'\nusername = 'u'\npassword = 'p'");
        assert_eq!(hubs.producer(&Limits::default()).unwrap().get("compression.type"), Some("none"));
    }

    #[test]
    fn a_users_property_wins_but_not_over_what_an_ack_means() {
        let linger = config("brokers = 'k'\n[properties]\n'linger.ms' = '5'");
        assert_eq!(linger.producer(&Limits::default()).unwrap().get("linger.ms"), Some("5"));
        let acks = config("brokers = 'k'\n[properties]\nacks = '1'");
        let error = acks.producer(&Limits::default()).unwrap_err().to_string();
        assert!(error.contains("kafka.properties.acks"), "{error}");
    }

    #[test]
    fn readers_keep_what_their_promises_rest_on_whatever_the_user_sets() {
        let mut kafka = config("brokers = 'k'\n[properties]\n'enable.auto.offset.store' = 'true'\n'linger.ms' = '5'");
        for client in
            [kafka.follower().unwrap(), kafka.group_member("commands", "n1").unwrap(), kafka.writer().unwrap()]
        {
            client.create_native_config().unwrap();
        }
        assert_eq!(kafka.group_member("commands", "n1").unwrap().get("enable.auto.offset.store"), Some("false"));
        for (prefix, group) in [("tidegate.", "tidegate-commands"), ("", "tidegate-commands"), ("eu_", "eu-commands")] {
            prefix.clone_into(&mut kafka.topic_prefix);
            assert_eq!(kafka.group_member("commands", "n1").unwrap().get("group.id"), Some(group));
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let config = config("brokers = 'k'\npassword = 'hunter2'\n[properties]\n'ssl.key.password' = 'hunter3'");
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn mistakes_are_named_all_at_once() {
        let config = config("topic_prefix = 'a/b'\nsecurity = 'sasl_tls'\ncert = 'c.pem'");
        let keys: Vec<String> = config.mistakes().into_iter().map(|(key, _)| key).collect();
        let expected = ["brokers", "topic_prefix", "username", "password", "cert"].map(|key| format!("kafka.{key}"));
        assert_eq!(keys, expected);
    }

    #[test]
    fn what_oauthbearer_needs_is_asked_for_and_only_with_it() {
        let keys = |toml: &str| {
            let sasl = "brokers = 'k'\nsecurity = 'sasl_tls'\nusername = 'u'\npassword = 'p'\n";
            config(&format!("{sasl}{toml}")).mistakes().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let oauth = "sasl_mechanism = 'OAUTHBEARER'\noauth_token_url = ";
        for good in ["'https://i.example/t'", "'http://localhost:8080/t'", "'http://127.0.0.1/t'"] {
            assert_eq!(keys(&format!("{oauth}{good}")), [""; 0], "{good}");
        }
        for bad in ["''", "'i.example/t'", "'http://i.example/t'", "'https://'", "'ftp://i.example'"] {
            assert_eq!(keys(&format!("{oauth}{bad}")), ["kafka.oauth_token_url"], "{bad}");
        }
        assert_eq!(keys("oauth_token_url = 'https://i'\noauth_scope = 's'").len(), 2, "not without OAUTHBEARER");
    }
}
