//! What a node reads from Kafka: revocations, whole before it is ready and followed then, and commands.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::unix_ms;
use crate::config::Config;
use crate::connection::Node;
use crate::eventlog::kafka::follow::{Follower, Reader};
use crate::eventlog::kafka::group::{GroupReader, GroupSettings};
use crate::eventlog::kafka::{KafkaConfig, KafkaWriter, StartError, topics};
use crate::inbox::{self, Inbox};
use crate::revocations::{self, RevocationWriter};
use crate::router::Router;

/// How long a leaving node waits until it has committed what it read.
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// What a node reads, until this is dropped, and where it writes single records.
pub(super) struct Consumers {
    writer: Arc<KafkaWriter>,
    _revocations: Follower,
    commands: Option<GroupReader>,
}

/// Reads the revocations whole, so that nobody who was revoked is let in, and follows them from here on.
pub(super) async fn begin(config: &Config, node: &Arc<Node>) -> Result<Consumers, StartError> {
    let (kafka, reader) = (config.kafka.clone(), Applier(Arc::clone(node)));
    let timeout = Duration::from_secs(config.node.start_timeout_s);
    let start = move || {
        let follower = Follower::start(&kafka, revocations::TOPIC, timeout, reader)?;
        Ok::<_, StartError>((follower, KafkaWriter::start(&kafka)?))
    };
    let started = tokio::task::spawn_blocking(start).await;
    let (follower, writer) = started.map_err(|error| StartError::Thread(error.to_string()))??;
    tracing::info!(revocations = node.revocations.len(), "revocations are read");
    tokio::spawn(warn_of_forgetting(config.kafka.clone()));
    Ok(Consumers { writer: Arc::new(writer), _revocations: follower, commands: None })
}

/// A topic that is not compacted forgets after some days who was blocked.
async fn warn_of_forgetting(config: KafkaConfig) {
    let topic = config.topic(revocations::TOPIC);
    let policy = topics::cleanup_policy(&config, &topic, ASKED_WITHIN).await;
    if let Ok(Some(policy)) = policy
        && policy != "compact"
    {
        tracing::warn!(
            topic,
            policy,
            "this topic forgets revocations: set its cleanup.policy to compact, as `tidegate topics --print` shows"
        );
    }
}

impl Consumers {
    /// What adds revocations.
    pub(super) fn revocation_writer(&self) -> RevocationWriter {
        RevocationWriter::new(Arc::clone(&self.writer) as _)
    }

    /// Begins to read commands for the router.
    pub(super) fn read_commands(
        &mut self,
        config: &Config,
        node: &Arc<Node>,
        router: &Arc<Router>,
    ) -> Result<(), StartError> {
        let inbox = Inbox::new(
            Arc::clone(router),
            Arc::clone(&self.writer) as _,
            node.metrics.clone(),
            config.kafka.topic(inbox::TOPIC),
            Arc::new(unix_ms),
        );
        let settings = GroupSettings {
            topic: inbox::TOPIC,
            member: config.node.effective_name(),
            value_bytes: config.limits.message_bytes,
        };
        let runtime = tokio::runtime::Handle::current();
        self.commands = Some(GroupReader::start(&config.kafka, &settings, Arc::new(inbox), runtime)?);
        Ok(())
    }

    /// Stops reading commands and commits what was read.
    pub(super) async fn stop(&self) {
        if let Some(commands) = &self.commands {
            commands.stop(COMMITTED_WITHIN).await;
        }
    }
}

/// Gives a node what the topic of revocations says.
struct Applier(Arc<Node>);

impl Reader for Applier {
    fn record(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        if let Err(error) = self.0.revoke(key, value) {
            let key = String::from_utf8_lossy(key.unwrap_or_default()).chars().take(300).collect::<String>();
            tracing::error!(%error, key, "a record of the topic of revocations was not applied");
        }
    }

    fn readable(&mut self, is: bool) {
        self.0.metrics.revocations_readable.set(i64::from(is));
    }
}
