//! What librdkafka calls, and what its reasons mean.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::{ALERT_EVERY, Flight, Lane, Load};
use crate::eventlog::Outcome;
use crate::eventlog::kafka::oauth;
use crate::sync::lock;

/// Called on the lane's own thread, within `poll`.
pub(in crate::eventlog::kafka) struct Context {
    lane: Arc<Lane>,
    logged: Mutex<Option<Instant>>,
}

impl Context {
    pub(in crate::eventlog::kafka) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, logged: Mutex::default() }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        oauth::give(self.lane.tokens.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        // It calls this property experimental each time; it is meant.
        let meant = fac == "CONFWARN" && text.contains("enable.gapless.guarantee");
        if (level as i32) < (RDKafkaLogLevel::Notice as i32) && !meant {
            tracing::warn!(topic = self.lane.name, facility = fac, "librdkafka: {text}");
        } else {
            tracing::debug!(topic = self.lane.name, facility = fac, "librdkafka: {text}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|at| at.elapsed() >= ALERT_EVERY / 3) {
            *logged = Some(Instant::now());
            tracing::warn!(topic = self.lane.name, %error, reason, "Kafka is not well");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Box<Flight>) {
        match result {
            Ok(message) => match flight.load {
                Load::Record(ticket) => {
                    self.lane.settle(ticket, message.payload_len(), Outcome::Stored, flight.received_ms);
                }
                Load::Probe => self.lane.probed(Ok(())),
            },
            Err((error, message)) => self.lane.came_back(code(error), message, flight),
        }
    }
}

pub(in crate::eventlog::kafka) fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// Whether the broker speaks of this one record, so that trying it again cannot help. Any other reason is an outage.
pub(in crate::eventlog::kafka) const fn is_about_the_record(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
    )
}

/// What the broker said of a record, and of a right that is missing what to do about it.
pub(in crate::eventlog::kafka) fn said(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => format!("{code}: this user lacks the right WRITE on the topic"),
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            format!("{code}: this user lacks the right IDEMPOTENT_WRITE on the cluster")
        }
        _ => code.to_string(),
    }
}

/// Whether the broker does not let this user write.
pub(in crate::eventlog::kafka) const fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}
