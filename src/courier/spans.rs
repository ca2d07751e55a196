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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::super::line::Address;
    use super::*;
    use crate::commands::{Life, State};
    use crate::id::{CommandId, DeviceKey, Epoch};

    fn command(origin: &str, attempts: u32) -> Command {
        let device = DeviceKey::new("acme", "d-1").unwrap();
        Command {
            id: CommandId::of(&device, "app", "k"),
            device,
            name: "open".into(),
            params: b"{}".to_vec(),
            life: Life {
                state: State::Sent,
                reason: None,
                version: 2,
                attempts,
                max_attempts: 5,
                epoch: Some(Epoch(7)),
                deadline_ms: 9,
            },
            created_ms: 1,
            requested_by: "app".into(),
            key: "k".into(),
            origin: Some(origin.into()),
            result: None,
            message: None,
            history: Vec::new(),
            late: None,
            published: false,
        }
    }

    #[test]
    fn a_traced_device_gives_a_command_that_nobody_traces_a_trace_of_its_own() {
        let metrics = Metrics::new().unwrap();
        let (tracer, mut spans) = Tracer::new(0.0, metrics.log_lines_lost.clone());
        let ask = |again| {
            let to = Address { mailbox: Arc::new(Mailbox::default()), epoch: Epoch(7) };
            Ask { id: command("gw-1/0f", 1).id, to, again }
        };
        let (first, now) = (ask(false), Instant::now());
        let mut adopted = command("gw-1/0f", 1);
        first.to.mailbox.set_traced(true);
        adopt(&metrics, &mut adopted, &first.to.mailbox);
        assert_eq!(adopted.trace(), None, "nobody wants spans");
        metrics.trace_with(tracer);
        adopt(&metrics, &mut adopted, &Mailbox::default());
        assert_eq!(adopted.trace(), None, "its device is not traced");
        adopt(&metrics, &mut adopted, &first.to.mailbox);
        let own = TraceContext::of_command(adopted.id);
        assert_eq!((adopted.waits(), adopted.trace()), (Some("gw-1/0f"), Some(own)));
        drop(deliver(&metrics, &adopted, &first, now));
        drop(deliver(&metrics, &adopted, &ask(true), now));
        let (root, again) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!((root.context, root.parent, again.parent), (own, None, Some(own)));
        assert_ne!(again.context.span_id(), own.span_id());
        assert_eq!(root.links, [TraceContext::of_handshake(first.to.mailbox.session())]);
    }

    #[test]
    fn what_the_node_that_accepted_it_began_goes_on_here() {
        let metrics = Metrics::new().unwrap();
        let (tracer, mut spans) = Tracer::new(0.0, metrics.log_lines_lost.clone());
        metrics.trace_with(tracer);
        let above = TraceContext::draw();
        let traced = command(&origin("gw-1/0f", Some(above)), 1);
        assert_eq!((traced.waits(), traced.trace()), (Some("gw-1/0f"), Some(above)));
        let to = Address { mailbox: Arc::new(Mailbox::default()), epoch: Epoch(7) };
        drop(deliver(&metrics, &traced, &Ask { id: traced.id, to: to.clone(), again: false }, Instant::now()));
        assert_eq!(spans.try_recv().unwrap().parent, Some(above));
        let untraced = command(&origin("gw-1/0f", None), 1);
        assert_eq!((untraced.waits(), untraced.trace()), (Some("gw-1/0f"), None));
        assert!(deliver(&metrics, &untraced, &Ask { id: traced.id, to, again: false }, Instant::now()).is_none());
    }
}
