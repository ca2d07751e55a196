//! The topics the gateway needs, as a table, as commands, and made through Kafka's own administration.

use std::fmt::Write as _;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{KafkaConfig, Listener, StartError};

type Admin = AdminClient<Listener>;

const PARTITIONS: i32 = 12;
const COPIES: i32 = 3;
const DAY_MS: u64 = 24 * 3_600_000;

/// What the command line may change, for small clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicOptions {
    /// Partitions of every topic but `revocations`, which keeps its one.
    pub partitions: Option<i32>,
    /// Copies of each partition. Below 2 `min.insync.replicas` becomes 1 with it.
    pub replication_factor: Option<i32>,
}

/// One topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// Copies of each.
    pub replication_factor: i32,
    /// Kafka's topic settings.
    pub config: Vec<(&'static str, String)>,
    /// What it is for.
    pub purpose: &'static str,
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was missing and is made now.
    Created(String),
    /// It is there and as it should be.
    Same(String),
    /// It is there and was left as it is; what differs, as `setting: is X, should be Y`.
    Differs(String, Vec<String>),
}

/// Why topics could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicsError {
    /// The section `kafka` is wrong.
    #[error(transparent)]
    Config(#[from] StartError),
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// The brokers did not answer.
    #[error("Kafka did not answer: {0}. Check kafka.brokers and the credentials")]
    Brokers(String),
    /// The brokers refused to make a topic.
    #[error("topic {topic} was not made: {reason}. On a small cluster give --replication-factor")]
    Refused {
        /// The topic's full name.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
}

struct Template {
    name: &'static str,
    retention_days: u64,
    compacted: bool,
    purpose: &'static str,
}

const TEMPLATES: [Template; 6] = [
    Template { name: "telemetry", retention_days: 7, compacted: false, purpose: "updates of devices" },
    Template { name: "status", retention_days: 7, compacted: false, purpose: "health reports and presence" },
    Template { name: "command-events", retention_days: 30, compacted: false, purpose: "what became of commands" },
    Template { name: "dead-letter", retention_days: 30, compacted: false, purpose: "commands not accepted, and why" },
    Template {
        name: "commands",
        retention_days: 7,
        compacted: false,
        purpose: "commands to send, read by the gateway",
    },
    Template { name: "revocations", retention_days: 0, compacted: true, purpose: "blocked devices and keys" },
];

/// The topics of a prefix.
///
/// # Errors
/// [`TopicsError::Options`] for counts below 1.
pub fn specs(prefix: &str, options: TopicOptions) -> Result<Vec<TopicSpec>, TopicsError> {
    let partitions = options.partitions.unwrap_or(PARTITIONS);
    let copies = options.replication_factor.unwrap_or(COPIES);
    if partitions < 1 || !(1..=i32::from(i16::MAX)).contains(&copies) {
        return Err(TopicsError::Options("--partitions and --replication-factor are 1 or more".to_owned()));
    }
    Ok(TEMPLATES.iter().map(|template| spec(template, prefix, partitions, copies)).collect())
}

fn spec(template: &Template, prefix: &str, partitions: i32, copies: i32) -> TopicSpec {
    let mut config = vec![
        ("min.insync.replicas", copies.min(2).to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ];
    if template.compacted {
        config.push(("cleanup.policy", "compact".to_owned()));
    } else {
        config.push(("cleanup.policy", "delete".to_owned()));
        config.push(("retention.ms", (template.retention_days * DAY_MS).to_string()));
    }
    TopicSpec {
        name: format!("{prefix}{}", template.name),
        // Every node reads the revocations whole and in order.
        partitions: if template.compacted { 1 } else { partitions },
        replication_factor: copies,
        config,
        purpose: template.purpose,
    }
}

/// The topics as a table, and the commands that make them with Kafka's own tool.
pub fn print(specs: &[TopicSpec], brokers: &str) -> String {
    let mut text = String::new();
    let width = specs.iter().map(|spec| spec.name.len()).max().unwrap_or_default().max(5);
    // Writing into a string cannot fail.
    let _ = writeln!(text, "# {:width$}  partitions  copies  settings", "topic");
    for spec in specs {
        let settings = settings(spec).join(" ");
        let (partitions, copies) = (spec.partitions, spec.replication_factor);
        let _ = writeln!(text, "# {:width$}  {partitions:>10}  {copies:>6}  {settings}  ({})", spec.name, spec.purpose);
    }
    text.push('\n');
    let brokers = if brokers.is_empty() { "BROKERS" } else { brokers };
    for spec in specs {
        let _ = write!(
            text,
            "kafka-topics.sh --bootstrap-server {brokers} --create --if-not-exists --topic {} --partitions {} \
             --replication-factor {}",
            spec.name, spec.partitions, spec.replication_factor
        );
        for setting in settings(spec) {
            let _ = write!(text, " --config {setting}");
        }
        text.push('\n');
    }
    text
}

fn settings(spec: &TopicSpec) -> Vec<String> {
    spec.config.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Makes what is missing and compares what is there, which it never changes.
///
/// # Errors
/// [`TopicsError`]. Topics named before the refused one may have been made.
pub async fn apply(config: &KafkaConfig, specs: &[TopicSpec], timeout: Duration) -> Result<Vec<Applied>, TopicsError> {
    let admin = administrator(config)?;
    // Only librdkafka's log says why nobody answers.
    let brokers = |error: KafkaError| {
        let heard = admin.inner().context().heard();
        TopicsError::Brokers(if heard.is_empty() { error.to_string() } else { format!("{error} ({heard})") })
    };
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let wanted: Vec<NewTopic<'_>> = specs.iter().map(new_topic).collect();
    let made = admin.create_topics(&wanted, &options).await.map_err(brokers)?;
    let mut all = Vec::with_capacity(specs.len());
    for (spec, result) in specs.iter().zip(made) {
        match result {
            Ok(_) => all.push(Applied::Created(spec.name.clone())),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {
                let differences = compare(&admin, spec, &options, timeout).await.map_err(brokers)?;
                all.push(match differences.is_empty() {
                    true => Applied::Same(spec.name.clone()),
                    false => Applied::Differs(spec.name.clone(), differences),
                });
            }
            Err((topic, code)) => return Err(TopicsError::Refused { topic, reason: code.to_string() }),
        }
    }
    Ok(all)
}

/// A client for administration.
fn administrator(config: &KafkaConfig) -> Result<Admin, StartError> {
    if config.is_oauth() {
        // What administers has no callback by which it could be given a token.
        let text = "kafka.sasl_mechanism: topics cannot be made or looked at with OAUTHBEARER: run the commands of \
                    `tidegate topics --print`, or use another mechanism for this";
        return Err(StartError::Config(text.to_owned()));
    }
    let client = config.finish(config.client()?);
    client.create_with_context(Listener::new(config)?).map_err(|error| StartError::Config(super::describe(&error)))
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication_factor));
    spec.config.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
}

async fn compare(
    admin: &Admin,
    spec: &TopicSpec,
    options: &AdminOptions,
    timeout: Duration,
) -> Result<Vec<String>, KafkaError> {
    let mut differences = Vec::new();
    // One short question on a command line's own runtime: nobody waits behind it.
    let metadata = admin.inner().fetch_metadata(Some(&spec.name), timeout)?;
    if let Some(topic) = metadata.topics().first() {
        let copies = topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or_default();
        let mut note = |what: &str, is: usize, should: i32| {
            if usize::try_from(should) != Ok(is) {
                differences.push(format!("{what}: is {is}, should be {should}"));
            }
        };
        note("partitions", topic.partitions().len(), spec.partitions);
        note("copies", copies, spec.replication_factor);
    }
    let asked = [ResourceSpecifier::Topic(&spec.name)];
    let described = admin.describe_configs(&asked, options).await?;
    for resource in described {
        match resource {
            Ok(resource) => differences.extend(setting_differences(spec, &resource)),
            Err(code) => differences.push(format!("settings could not be read: {code}")),
        }
    }
    Ok(differences)
}

/// How a topic (its full name) loses records, as its `cleanup.policy` says; nothing where the broker does not tell.
///
/// # Errors
/// [`TopicsError`]: the configuration is wrong, or nobody answered.
pub async fn cleanup_policy(
    config: &KafkaConfig,
    topic: &str,
    timeout: Duration,
) -> Result<Option<String>, TopicsError> {
    let admin = administrator(config)?;
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let told = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    let told = told.map_err(|error| TopicsError::Brokers(error.to_string()))?;
    let resource = told.into_iter().find_map(Result::ok);
    Ok(resource.and_then(|resource| resource.get("cleanup.policy")?.value.clone()))
}

fn setting_differences(spec: &TopicSpec, resource: &ConfigResource) -> Vec<String> {
    let differs = |(key, should): &(&'static str, String)| {
        let is = resource.get(key).and_then(|entry| entry.value.as_deref()).unwrap_or("unset");
        (is != should).then(|| format!("{key}: is {is}, should be {should}"))
    };
    spec.config.iter().filter_map(differs).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_keep_what_an_ack_means() {
        let specs = specs("tidegate.", TopicOptions::default()).unwrap();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let expected = ["telemetry", "status", "command-events", "dead-letter", "commands", "revocations"];
        assert_eq!(names, expected.map(|name| format!("tidegate.{name}")));
        for spec in &specs {
            assert_eq!(spec.replication_factor, 3);
            assert!(spec.config.contains(&("min.insync.replicas", "2".to_owned())), "{spec:?}");
            assert!(spec.config.contains(&("unclean.leader.election.enable", "false".to_owned())), "{spec:?}");
        }
        assert!(specs.last().unwrap().config.contains(&("cleanup.policy", "compact".to_owned())));
    }

    #[test]
    fn a_single_broker_gets_topics_it_can_serve() {
        let options = TopicOptions { partitions: Some(2), replication_factor: Some(1) };
        let specs = specs("", options).unwrap();
        assert_eq!((specs[0].partitions, specs[0].replication_factor), (2, 1));
        assert!(specs[0].config.contains(&("min.insync.replicas", "1".to_owned())));
        assert!(super::specs("", TopicOptions { partitions: Some(0), replication_factor: None }).is_err());
    }

    #[test]
    fn what_is_printed_can_be_pasted() {
        let text = print(&specs("p.", TopicOptions::default()).unwrap(), "k:9092");
        let commands: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(commands.len(), 6);
        assert_eq!(
            commands[0],
            "kafka-topics.sh --bootstrap-server k:9092 --create --if-not-exists --topic p.telemetry --partitions 12 \
             --replication-factor 3 --config min.insync.replicas=2 --config unclean.leader.election.enable=false \
             --config cleanup.policy=delete --config retention.ms=604800000"
        );
    }
}
