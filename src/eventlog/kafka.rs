//! The event log in Kafka, through librdkafka.
//!
//! Each topic has a lane: a producer, its own thread that takes the delivery reports, and the list of what came back.
//! A record goes from the caller's thread straight into librdkafka's queue. Whatever librdkafka gives back is kept and
//! tried again for ever, except the one record that the broker says will never fit.

mod config;
pub mod follow;
pub mod group;
mod lane;
mod oauth;
mod supervisor;
pub mod topics;
mod writer;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, metadata::Metadata};
use tokio::sync::oneshot::{self, error::TryRecvError};

pub use config::{KafkaConfig, Preset, SaslMechanism, Security};
use lane::{Lane, Room};
pub use oauth::TokenCell;
use oauth::Tokens;
pub use writer::KafkaWriter;

use super::{AppendError, Deliveries, EventLog, LogFuture, Pending, ProbeError, Record, Ticket, Topic, publish};
use crate::limits::Limits;
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// What librdkafka must have been built with.
const FEATURES: [&str; 3] = ["ssl", "sasl_scram", "sasl_oauthbearer"];
/// One question for the topics; several are asked within the time to start.
const METADATA_TRY: Duration = Duration::from_secs(5);
/// How long a broker may not have heard of a topic that another one just made: a start right after `tidegate topics
/// --apply` waits for it, and one without topics says so after it.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// How long a start waits to hear that it may write.
const ALLOWED_TRY: Duration = Duration::from_secs(5);

/// Why the log could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The section `kafka` is wrong: exit 78.
    #[error("{0}")]
    Config(String),
    /// A topic is missing or forbidden: exit 78.
    #[error("topic {topic}: {reason}. Make it with `tidegate topics --apply`, or let this user use it")]
    Topic {
        /// The topic's full name.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
    /// No broker answered in time: exit 69.
    #[error("no Kafka broker of {brokers} answered within {waited:?}: {reason}")]
    Unreachable {
        /// `kafka.brokers`.
        brokers: String,
        /// How long it was tried.
        waited: Duration,
        /// The last reason heard.
        reason: String,
    },
    /// The program was built with a librdkafka that lacks what the configuration needs: exit 78.
    #[error("this build's librdkafka lacks {0}: build it with OpenSSL, or choose another kafka.sasl_mechanism")]
    Features(String),
    /// The system gave no thread: exit 69.
    #[error("no thread for the event log: {0}")]
    Thread(String),
}

impl StartError {
    /// Whether trying again later may help (exit 69), where nobody has to change anything (exit 78).
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Thread(_))
    }
}

/// How a topic's producer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LaneState {
    /// It takes records.
    Running,
    /// It gave something back, and another is being filled with it.
    Degraded,
    /// It failed for good, and another is being made.
    Fatal,
    /// The log is closing.
    Draining,
}

impl LaneState {
    /// The label of metrics and of `/readyz?verbose`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Fatal => "fatal",
            Self::Draining => "draining",
        }
    }
}

/// The event log in Kafka.
pub struct KafkaLog {
    lanes: [Arc<Lane>; 3],
    ended: Mutex<Vec<oneshot::Receiver<usize>>>,
}

impl KafkaLog {
    /// Checks the configuration, the brokers and the topics, and starts a producer and a thread for each topic. Sets
    /// how many records may be pending in `metrics`, where every record that ended is counted.
    ///
    /// That this user may write shows only when it writes: one probe record goes to the topic `status`. Brokers that
    /// let it write there and not to `telemetry` or `command-events` are found by the first record for it.
    ///
    /// Blocks for up to `timeout`: call it from a thread that may (`spawn_blocking`).
    ///
    /// # Errors
    /// [`StartError`], which tells what to change.
    pub fn start(
        config: &KafkaConfig,
        limits: &Limits,
        timeout: Duration,
        deliveries: Arc<dyn Deliveries>,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        let end = Instant::now() + timeout;
        let producer = config.producer(limits)?;
        check_features(&producer)?;
        let names = Topic::ALL.map(|topic| config.topic(topic.name()));
        check_topics(config, &names, timeout)?;
        publish::set_capacity(metrics, config::budget_messages(limits));
        let room = Room {
            messages: 2 * config::budget_messages(limits),
            bytes: 2 * limits.node_budget_bytes,
            record_bytes: config::record_bytes(limits),
        };
        let mut ended = Vec::new();
        let tokens = config.tokens()?;
        let start = |(topic, name)| {
            let (deliveries, tokens) = (Arc::clone(&deliveries), tokens.clone());
            Arc::new(Lane::new(topic, name, room, deliveries, metrics.clone(), tokens))
        };
        let [telemetry, status, commands] = names;
        let lanes =
            [(Topic::Telemetry, telemetry), (Topic::Status, status), (Topic::CommandEvents, commands)].map(start);
        let log_lanes = lanes.clone();
        let log = |ended| Self { lanes: log_lanes, ended: Mutex::new(ended) };
        for lane in &lanes {
            match start_lane(lane, &producer) {
                Ok(receiver) => ended.push(receiver),
                Err(error) => {
                    // Ends the lanes that run already.
                    drop(log(ended));
                    return Err(error);
                }
            }
        }
        let log = log(ended);
        log.check_allowed(end.min(Instant::now() + ALLOWED_TRY))?;
        Ok(log)
    }

    /// Waits for the answer to one probe record, or until `end`: only a broker that does not let this user write is a
    /// reason not to start.
    fn check_allowed(&self, mut end: Instant) -> Result<(), StartError> {
        let mut answer = self.lane(Topic::Status).probe();
        loop {
            match answer.try_recv() {
                Ok(Ok(())) => return Ok(()),
                // Why a producer failed for good is found a moment after what it held came back.
                Ok(Err(_)) | Err(TryRecvError::Closed) => end = end.min(Instant::now() + 2 * supervisor::POLL),
                Err(TryRecvError::Empty) => {}
            }
            if let Some((lane, reason)) = self.lanes.iter().find_map(|lane| Some((lane, lane.forbidden()?))) {
                return Err(StartError::Topic { topic: lane.name.clone(), reason });
            }
            if Instant::now() >= end {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gives up the producers and has new ones take over what they hold, exactly as a fatal error does. Returns at
    /// once; [`replacements`](Self::replacements) rises when it is done.
    pub fn replace_producer(&self, reason: &str) {
        for lane in &self.lanes {
            lane.set_state(LaneState::Fatal);
            lane.give_up(reason);
        }
    }

    /// How many producers were replaced since the start, all topics together.
    pub fn replacements(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.replacements.load(Relaxed)).sum()
    }

    /// How each topic's producer is.
    pub fn states(&self) -> [(Topic, LaneState); 3] {
        self.lanes.each_ref().map(|lane| (lane.topic, state_of(lane)))
    }

    fn lane(&self, topic: Topic) -> &Arc<Lane> {
        let [telemetry, status, commands] = &self.lanes;
        match topic {
            Topic::Telemetry => telemetry,
            Topic::Status => status,
            Topic::CommandEvents => commands,
        }
    }
}

fn state_of(lane: &Lane) -> LaneState {
    if lane.is_closing() {
        return LaneState::Draining;
    }
    let all = [LaneState::Running, LaneState::Degraded, LaneState::Fatal];
    let state = lane.state.load(Relaxed);
    all.into_iter().find(|known| *known as u8 == state).unwrap_or(LaneState::Running)
}

fn start_lane(lane: &Arc<Lane>, config: &ClientConfig) -> Result<oneshot::Receiver<usize>, StartError> {
    let producer = supervisor::create(config, lane).map_err(|error| StartError::Config(error.to_string()))?;
    let (sender, receiver) = oneshot::channel();
    let (own, config, first) = (Arc::clone(lane), config.clone(), Arc::clone(&producer));
    std::thread::Builder::new()
        .name(format!("kafka-{}", lane.topic.name()))
        .spawn(move || supervisor::run(&own, &config, first, sender))
        .map_err(|error| StartError::Thread(error.to_string()))?;
    lane.open(&producer);
    Ok(receiver)
}

impl EventLog for KafkaLog {
    fn append(&self, record: &Record<'_>, ticket: Ticket) -> Result<(), AppendError> {
        self.lane(record.topic).append(record, ticket)
    }

    /// `stalled_ms` is that of the topic which is worst off: one that is missing counts although others go on. That of
    /// commands does not count: devices would be told to hold what is not for it.
    fn pending(&self) -> Pending {
        self.lanes.iter().map(|lane| (lane.topic, lane.pending())).fold(Pending::default(), |sum, (topic, lane)| {
            let stalled_ms = if topic == Topic::CommandEvents { 0 } else { lane.stalled_ms };
            Pending {
                messages: sum.messages + lane.messages,
                bytes: sum.bytes + lane.bytes,
                stalled_ms: sum.stalled_ms.max(stalled_ms),
            }
        })
    }

    fn pending_in(&self, topic: Topic) -> Pending {
        self.lane(topic).pending()
    }

    /// The probe goes to the topic `status`, with `ce_type` `tidegate.probe.v1` and a key that is no device's
    /// (`/probe/…`), so that readers who go by type or by device never meet it. It fails as well while the producer of
    /// another topic is being replaced.
    fn probe(&self, timeout: Duration) -> LogFuture<'_, Result<(), ProbeError>> {
        let answer = self.lane(Topic::Status).probe();
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Err(_) => Err(ProbeError::Timeout(timeout)),
                Ok(Err(_)) => Err(ProbeError::Refused("the event log is closed".to_owned())),
                Ok(Ok(Err(reason))) => Err(ProbeError::Refused(reason)),
                Ok(Ok(Ok(()))) => self.every_lane_takes(),
            }
        })
    }

    fn close(&self, deadline: Duration) -> LogFuture<'_, usize> {
        let end = Instant::now() + deadline;
        self.lanes.iter().for_each(|lane| lane.begin_closing(end));
        let ended = std::mem::take(&mut *lock(&self.ended));
        Box::pin(async move {
            let mut waiting = 0;
            let first = !ended.is_empty();
            for lane in ended {
                waiting += lane.await.unwrap_or_default();
            }
            // Somebody else is closing it: what waits is theirs to tell.
            if first { waiting } else { self.pending().messages }
        })
    }
}

impl KafkaLog {
    fn every_lane_takes(&self) -> Result<(), ProbeError> {
        let ill = self.lanes.iter().find(|lane| state_of(lane) != LaneState::Running);
        ill.map_or(Ok(()), |lane| Err(ProbeError::Refused(format!("topic {}: {}", lane.name, lane.reason()))))
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        let now = Instant::now();
        self.lanes.iter().for_each(|lane| lane.begin_closing(now));
    }
}

fn check_features(config: &ClientConfig) -> Result<(), StartError> {
    let bad = |error: KafkaError| StartError::Config(describe(&error));
    let built = ClientConfig::new().create_native_config().and_then(|c| c.get("builtin.features")).map_err(bad)?;
    let has = |feature: &&str| built.split(',').any(|have| have.trim() == *feature);
    let missing: Vec<&str> = FEATURES.into_iter().filter(|feature| !has(feature)).collect();
    if !missing.is_empty() {
        return Err(StartError::Features(missing.join(", ")));
    }
    config.create_native_config().map(drop).map_err(bad)
}

/// What librdkafka says of a setting, in the words of the configuration file, and without the value, which may be
/// secret.
fn describe(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, key, value) => {
            let text = if value.is_empty() { text.clone() } else { text.replace(value.as_str(), "…") };
            format!("kafka.properties.{key}: {text}")
        }
        other => other.to_string(),
    }
}

/// Remembers what went wrong while the brokers were asked.
struct Listener {
    heard: Mutex<String>,
    tokens: Option<Arc<Tokens>>,
}

impl Listener {
    fn new(config: &KafkaConfig) -> Result<Self, StartError> {
        Ok(Self { heard: Mutex::default(), tokens: config.tokens()? })
    }

    /// That all brokers are down is said again and again, behind why.
    fn hear(&self, text: &str) {
        let mut heard = lock(&self.heard);
        if heard.is_empty() || !text.contains("brokers are down") {
            text.clone_into(&mut heard);
        }
    }

    fn heard(&self) -> String {
        lock(&self.heard).clone()
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        oauth::give(self.tokens.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!("librdkafka: {text}");
        if (level as i32) <= (RDKafkaLogLevel::Error as i32) {
            self.hear(text);
        }
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.hear(reason);
    }
}

impl ConsumerContext for Listener {}

/// Asks for the topics as a consumer does, which never makes them.
fn check_topics(config: &KafkaConfig, names: &[String], timeout: Duration) -> Result<(), StartError> {
    let mut client = config.client()?;
    client.set("allow.auto.create.topics", "false").set("log_level", "3");
    let asking: BaseConsumer<Listener> = client_of(config, client)?;
    let end = Instant::now() + timeout;
    serve_token(&asking);
    for name in names {
        let known = Instant::now() + KNOWN_WITHIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match asking.fetch_metadata(Some(name), left.clamp(Duration::from_millis(100), METADATA_TRY)) {
                Ok(found) => match verdict(&found, name) {
                    Ok(()) => break,
                    Err(reason) if is_settling(reason, known) && !left.is_zero() => {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    Err(code) => {
                        return Err(StartError::Topic { topic: name.clone(), reason: lacking(code, "DESCRIBE") });
                    }
                },
                Err(error) => {
                    drop(asking.poll(Duration::from_millis(50)));
                    if left.is_zero() {
                        return Err(unreachable(config, timeout, &error, &asking));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The user's properties that are about producing only make librdkafka grumble at a consumer; that is all they do here.
fn client_of(config: &KafkaConfig, client: ClientConfig) -> Result<BaseConsumer<Listener>, StartError> {
    let made = config.finish(client).create_with_context(Listener::new(config)?);
    made.map_err(|error| StartError::Config(describe(&error)))
}

/// A consumer is given its token within a poll: the first one has to be before anything is asked of the brokers.
fn serve_token(consumer: &BaseConsumer<Listener>) {
    if consumer.context().tokens.is_some() {
        drop(consumer.poll(Duration::from_millis(50)));
    }
}

fn verdict(found: &Metadata, name: &str) -> Result<(), RDKafkaErrorCode> {
    let Some(topic) = found.topics().iter().find(|topic| topic.name() == name) else {
        return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
    };
    match topic.error() {
        Some(error) => Err(error.into()),
        None if topic.partitions().is_empty() => Err(RDKafkaErrorCode::LeaderNotAvailable),
        None => Ok(()),
    }
}

/// Errors of a topic that was only just made: until `known` a broker may not have heard of it.
fn is_settling(code: RDKafkaErrorCode, known: Instant) -> bool {
    match code {
        RDKafkaErrorCode::LeaderNotAvailable => true,
        RDKafkaErrorCode::UnknownTopicOrPartition => Instant::now() < known,
        _ => false,
    }
}

/// What the brokers said of a topic, with the right that was missing where it was one.
fn lacking(code: RDKafkaErrorCode, right: &str) -> String {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => format!("{code}: this user lacks the right {right} on it"),
        _ => code.to_string(),
    }
}

fn unreachable(
    config: &KafkaConfig,
    waited: Duration,
    error: &KafkaError,
    asking: &BaseConsumer<Listener>,
) -> StartError {
    let heard = asking.context().heard();
    let mut reason = if heard.is_empty() { error.to_string() } else { heard };
    if reason.contains("uthentication") && !reason.contains("kafka.username") {
        reason.push_str(". Check kafka.username and kafka.password");
    }
    StartError::Unreachable { brokers: config.brokers.clone(), waited, reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_build_speaks_tls_scram_and_oauth() {
        check_features(&ClientConfig::new()).unwrap();
    }

    #[test]
    fn why_brokers_are_down_is_not_lost_behind_their_being_down() {
        let listener = Listener { heard: Mutex::default(), tokens: None };
        for (said, heard) in [
            ("1/1 brokers are down", "1/1 brokers are down"),
            ("SASL authentication error", "SASL authentication error"),
            ("1/1 brokers are down", "SASL authentication error"),
            ("Connection refused", "Connection refused"),
        ] {
            listener.hear(said);
            assert_eq!(listener.heard(), heard);
        }
    }

    #[test]
    fn a_wrong_property_is_named_without_its_value() {
        let mut config = KafkaConfig { brokers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
        config.properties.insert("no.such.thing".to_owned(), "hunter2".to_owned());
        let client = config.producer(&Limits::default()).unwrap();
        let error = check_features(&client).unwrap_err();
        assert!(error.to_string().contains("kafka.properties.no.such.thing"), "{error}");
        assert!(!error.to_string().contains("hunter2") && !error.is_retryable(), "{error}");
        let config = KafkaConfig { properties: [("debug".to_owned(), "hunter2".to_owned())].into(), ..config };
        let error = check_features(&config.producer(&Limits::default()).unwrap()).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "librdkafka quotes what it does not take: {error}");
    }
}
