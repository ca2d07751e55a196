//! What the metrics show of the log: how each record ended and after how long, and how many may wait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Outcome, Topic};
use crate::telemetry::metrics::{Metrics, PublishOutcome};

/// Counts a record that ended now and was received at `received_ms`, Unix milliseconds. A clock that was set back in
/// between makes it 0 s.
pub(super) fn count(metrics: &Metrics, topic: Topic, outcome: Outcome, received_ms: i64) {
    let received = UNIX_EPOCH + Duration::from_millis(received_ms.max(0).unsigned_abs());
    let after = SystemTime::now().duration_since(received).unwrap_or_default();
    let outcome = match outcome {
        Outcome::Stored => PublishOutcome::Stored,
        Outcome::Refused => PublishOutcome::Refused,
    };
    metrics.published(topic.label(), outcome, after);
}

/// Shows how many records may wait.
pub(super) fn set_capacity(metrics: &Metrics, messages: usize) {
    metrics.publish_pending_messages_capacity.set(i64::try_from(messages).unwrap_or(i64::MAX));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::PublishTopic;

    #[test]
    fn a_record_from_the_future_took_no_time() {
        let metrics = Metrics::new().unwrap();
        count(&metrics, Topic::Status, Outcome::Refused, i64::MAX / 2);
        count(&metrics, Topic::Status, Outcome::Refused, i64::MIN);
        assert_eq!(metrics.publish.of(PublishTopic::Status, PublishOutcome::Refused).get(), 2);
        let durations = metrics.publish_duration.of(PublishTopic::Status, PublishOutcome::Refused);
        assert_eq!(durations.get_sample_count(), 2);
    }
}
