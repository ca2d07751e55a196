//! Spans of commands on the node that has the device: on their way to it, and its answers.

use tokio::time::Instant;

use super::line::{Ask, Said};
use crate::commands::{Command, origin};
use crate::mailbox::Mailbox;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Span, SpanKind, TraceContext, Tracer};

/// Gives a command that is not traced a trace of its own where its device is: from here on it is sampled.
pub(super) fn adopt(metrics: &Metrics, command: &mut Command, mailbox: &Mailbox) {
    if metrics.tracer().is_some() && mailbox.is_traced() && command.trace().is_none() {
        let waits = command.waits().unwrap_or_default();
        command.origin = Some(origin(waits, Some(TraceContext::of_command(command.id))));
    }
}

/// The span of a command on its way to its connection, from the moment its turn was asked for.
pub(super) fn deliver(metrics: &Metrics, command: &Command, ask: &Ask, asked: Instant) -> Option<Span> {
    const NAME: &str = "deliver command";
    let (tracer, above) = (metrics.tracer()?, command.trace()?);
    let is_first = command.life.attempts <= 1 && !ask.again;
    let mut span = match above == TraceContext::of_command(command.id) && is_first {
        true => tracer.root(NAME, SpanKind::Producer, above),
        false => tracer.child(NAME, SpanKind::Producer, above),
    };
    about(&mut span, command, &ask.to.mailbox, "send", "deliver");
    span.since(asked.into_std()).set("tidegate.attempt", u64::from(command.life.attempts));
    Some(span)
}

/// The span of an answer that changed its command, from the moment it was told.
pub(super) fn answer(metrics: &Metrics, command: &mut Command, said: &Said, asked: Instant) -> Option<Span> {
    adopt(metrics, command, &said.mailbox);
    let (tracer, above): (&Tracer, _) = (metrics.tracer()?, command.trace()?);
    let mut span = tracer.child("settle command", SpanKind::Consumer, above);
    about(&mut span, command, &said.mailbox, "settle", "settle");
    span.since(asked.into_std()).set("tidegate.command.state", command.life.state.as_str());
    Some(span)
}

fn about(span: &mut Span, command: &Command, mailbox: &Mailbox, kind: &'static str, operation: &'static str) {
    span.set("messaging.system", "tidegate")
        .set("messaging.operation.type", kind)
        .set("messaging.operation.name", operation)
        .set("messaging.destination.name", "command")
        .set("messaging.message.id", command.id.to_string())
        .set("tidegate.tenant", command.device.tenant().to_owned())
        .set("tidegate.device", command.device.device().to_owned())
        .set("tidegate.session", mailbox.session().to_string())
        .set("tidegate.epoch", mailbox.epoch().0)
        .link(TraceContext::of_handshake(mailbox.session()));
}
