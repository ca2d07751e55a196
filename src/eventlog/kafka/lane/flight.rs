//! What travels through librdkafka with a record and comes back in its delivery report.

use crate::eventlog::{Record, Ticket, encode};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Span, SpanKind, TraceContext};

/// One record under way, or a probe.
pub(in crate::eventlog::kafka) struct Flight {
    /// Rises with each record of the lane, so that what comes back can be put into its old order.
    pub(super) order: u64,
    pub(super) load: Load,
    /// When the gateway received it, Unix milliseconds.
    pub(super) received_ms: i64,
    /// Nothing else was under way: what the broker says is about this record and no other.
    pub(super) alone: bool,
    /// Of what is sampled: ends with the flight.
    pub(super) span: Option<Span>,
}

pub(super) enum Load {
    Record(Ticket),
    Probe,
}

impl Flight {
    /// Its record will never be stored.
    pub(super) fn fail(&mut self, why: &str) {
        if let Some(span) = &mut self.span {
            span.fail(why.to_owned());
        }
    }

    /// Its record was not taken.
    pub(super) fn never_was(&mut self) {
        if let Some(span) = self.span.take() {
            span.discard();
        }
    }
}

/// The span of a record's way into the topic of that full name, below one that is sampled.
pub(super) fn span(metrics: &Metrics, topic: &str, above: &str, record: &Record<'_>) -> Option<Span> {
    let tracer = metrics.tracer()?;
    let above = TraceContext::parse(above).filter(|above| above.is_sampled())?;
    let mut span = tracer.child(format!("send {topic}"), SpanKind::Producer, above);
    span.set("messaging.system", "kafka")
        .set("messaging.operation.type", "send")
        .set("messaging.operation.name", "send")
        .set("messaging.destination.name", topic.to_owned())
        .set("messaging.kafka.message.key", record.key.as_str().to_owned())
        .set("messaging.message.body.size", record.value.len());
    if let Some(id) = encode::event_id(record) {
        span.set("messaging.message.id", id);
    }
    Some(span)
}
