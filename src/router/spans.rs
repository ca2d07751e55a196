//! Spans of commands on the node that accepts them.

use super::Router;
use crate::commands::Submission;
use crate::id::{CommandId, DeviceKey};
use crate::telemetry::traces::{self, Span, SpanKind, TraceContext};

impl Router {
    /// Whether a command is traced that nobody traces yet: because it was drawn, on every node and at every repeat the same,
    /// or because its device is traced here.
    fn is_sampled(&self, device: &DeviceKey, id: CommandId) -> bool {
        let Some(tracer) = self.parts.metrics.tracer() else { return false };
        let is_traced = || self.parts.roster.find(device).is_some_and(|(mailbox, _)| mailbox.is_traced());
        // By the lower half, as samplers elsewhere look at a trace's id.
        tracer.samples_by(id.bits() as u64) || is_traced()
    }

    /// The span of a request for a command, where it is sampled: part of what the caller `brought`, else the first of a trace
    /// that has the command's id.
    pub fn request_span(&self, device: &DeviceKey, id: CommandId, brought: Option<TraceContext>) -> Option<Span> {
        const NAME: &str = "POST /v1/devices/{device}/commands";
        let tracer = self.parts.metrics.tracer()?;
        let mut span = match brought.filter(|context| context.is_sampled()) {
            Some(above) => tracer.child(NAME, SpanKind::Server, above),
            None if self.is_sampled(device, id) => {
                tracer.root(NAME, SpanKind::Server, TraceContext::of_command(id).child())
            }
            None => return None,
        };
        span.set("http.request.method", "POST").set("http.route", "/v1/devices/{device}/commands");
        Some(span)
    }

    /// The span of a command's acceptance, where it is sampled.
    pub(super) fn begin_span(&self, submission: &Submission<'_>) -> Option<Span> {
        const NAME: &str = "create command";
        let (tracer, id) = (self.parts.metrics.tracer()?, submission.id());
        let mut span = match traces::current() {
            Some(above) => tracer.child(NAME, SpanKind::Producer, above),
            None if self.is_sampled(submission.device, id) => {
                tracer.root(NAME, SpanKind::Producer, TraceContext::of_command(id).child())
            }
            None => return None,
        };
        span.set("messaging.system", "tidegate")
            .set("messaging.operation.type", "create")
            .set("messaging.operation.name", "create")
            .set("messaging.destination.name", "command")
            .set("messaging.message.id", id.to_string())
            .set("messaging.message.body.size", submission.params.len())
            .set("tidegate.tenant", submission.device.tenant().to_owned())
            .set("tidegate.device", submission.device.device().to_owned())
            .set("tidegate.requested_by", submission.application.to_owned());
        Some(span)
    }
}
