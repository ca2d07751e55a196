//! Single records that somebody waits for: revocations, dead letters.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::lane::{code, is_about_the_record, said};
use super::oauth::{self, Tokens};
use super::{KafkaConfig, StartError};
use crate::eventlog::{Entry, Ledger, LogFuture, WriteError};

/// How long librdkafka tries, and a little more for its report.
const REPORTED_WITHIN: Duration = Duration::from_secs(8);

type Reported = Result<(), (RDKafkaErrorCode, String)>;
type Producer = ThreadedProducer<Reports>;

struct Reports(Option<Arc<Tokens>>);

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        oauth::give(self.0.as_ref())
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        // The producers of telemetry say the same about the same brokers.
        tracing::debug!(facility, "librdkafka: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka is not well");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Reported>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let result = result.as_ref().map(drop).map_err(|(error, _)| (code(error), said(code(error))));
        // Nobody waits where the time was over.
        let _ = waiting.send(result);
    }
}

/// Writes single records into Kafka, each acked by every in-sync replica before its caller hears of it.
pub struct KafkaWriter {
    config: KafkaConfig,
    producer: Option<Producer>,
}

impl KafkaWriter {
    /// Starts a producer with a thread of its own. Blocks for a moment; no broker is asked.
    ///
    /// # Errors
    /// [`StartError::Config`].
    pub fn start(config: &KafkaConfig) -> Result<Self, StartError> {
        let client = config.writer()?;
        let producer = client.create_with_context(Reports(config.tokens()?));
        let producer = producer.map_err(|error| StartError::Config(super::describe(&error)))?;
        Ok(Self { config: config.clone(), producer: Some(producer) })
    }

    fn send(&self, entry: &Entry<'_>) -> Result<oneshot::Receiver<Reported>, WriteError> {
        let Some(producer) = &self.producer else { return Err(WriteError::Unavailable("closed".to_owned())) };
        let (sender, reported) = oneshot::channel();
        let topic = self.config.topic(entry.topic);
        let headers = entry
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&topic, Box::new(sender)).headers(headers);
        record.key = entry.key;
        record.payload = entry.value;
        producer.send(record).map_err(|(error, _)| verdict(code(&error), error.to_string()))?;
        Ok(reported)
    }
}

fn verdict(code: RDKafkaErrorCode, text: String) -> WriteError {
    if is_about_the_record(code) { WriteError::Refused(text) } else { WriteError::Unavailable(text) }
}

impl Ledger for KafkaWriter {
    fn write<'a>(&'a self, entry: &'a Entry<'a>) -> LogFuture<'a, Result<(), WriteError>> {
        let sent = self.send(entry);
        Box::pin(async move {
            match tokio::time::timeout(REPORTED_WITHIN, sent?).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err((code, text)))) => Err(verdict(code, text)),
                Ok(Err(_)) => Err(WriteError::Unavailable("the producer has ended".to_owned())),
                Err(_) => Err(WriteError::Unavailable(format!("no answer within {REPORTED_WITHIN:?}"))),
            }
        })
    }
}

impl Drop for KafkaWriter {
    fn drop(&mut self) {
        // It can take as long as its connections need to end.
        let producer = self.producer.take();
        let spawned = std::thread::Builder::new().name("kafka-retire".to_owned()).spawn(move || drop(producer));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to end a producer on; ended where it was");
        }
    }
}
