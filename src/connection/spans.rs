//! Spans of sampled messages, from their receipt to their acks: a small table, looked at only by connections that are in it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use super::Node;
use super::pump::Place;
use crate::id::SessionId;
use crate::limits::fixed::OPEN_SPANS;
use crate::mailbox::{Mailbox, Settled, WINDOW};
use crate::protocol::message::{Report, ReportKind};
use crate::sync::lock;
use crate::telemetry::traces::{Span, SpanKind, TraceContext, Tracer};

/// Spans of one node that wait for acks, by their connections and their numbers in those windows.
#[derive(Debug, Default)]
pub(super) struct Spans(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    of: HashMap<SessionId, Vec<(u32, Span)>>,
    count: usize,
}

impl Spans {
    /// Keeps the span of a record until its connection hears of the record's end. Where [`OPEN_SPANS`] are kept it ends now.
    pub(super) fn keep(&self, mailbox: &Mailbox, number: u32, span: Span) {
        let mut table = self.lock();
        if table.count < OPEN_SPANS {
            table.count += 1;
            table.of.entry(mailbox.session()).or_default().push((number % WINDOW as u32, span));
            mailbox.set_sampled(true);
        }
    }

    /// Ends those whose records have ended.
    pub(super) fn settle(&self, mailbox: &Mailbox, settled: Settled) {
        self.end(mailbox, |number, span| {
            if settled.refused >> number & 1 == 1 {
                span.fail("refused");
            }
            settled.ended >> number & 1 == 1
        });
    }

    /// Ends those of a connection that is over.
    pub(super) fn left(&self, mailbox: &Mailbox) {
        self.end(mailbox, |_, span| {
            span.fail("disconnected");
            true
        });
    }

    fn end(&self, mailbox: &Mailbox, mut is_over: impl FnMut(u32, &mut Span) -> bool) {
        let mut table = self.lock();
        let Some(open) = table.of.get_mut(&mailbox.session()) else { return mailbox.set_sampled(false) };
        let before = open.len();
        open.retain_mut(|(number, span)| !is_over(*number, span));
        let (after, is_empty) = (open.len(), open.is_empty());
        table.count -= before - after;
        if is_empty {
            table.of.remove(&mailbox.session());
            mailbox.set_sampled(false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }
}

/// The span of a report that is sampled: because it was drawn, because its device is traced, or because it says so itself and
/// is believed.
pub(super) fn begin(node: &Node, place: &Place, report: &Report<'_>, is_traced: bool) -> Option<Span> {
    let tracer = node.metrics.tracer()?;
    let brought = report.traceparent.as_deref().filter(|_| node.trust_traceparent).and_then(TraceContext::parse);
    let brought = brought.filter(|context| context.is_sampled());
    if brought.is_some() || is_traced || tracer.samples() {
        return Some(received(tracer, place, report, brought));
    }
    None
}

fn received(tracer: &Tracer, place: &Place, report: &Report<'_>, brought: Option<TraceContext>) -> Span {
    let (name, destination) = match report.kind {
        ReportKind::Update => ("receive update", "update"),
        ReportKind::Status => ("receive status", "status"),
    };
    let mut span = match brought {
        Some(above) => tracer.child(name, SpanKind::Server, above),
        None => tracer.root(name, SpanKind::Server, TraceContext::draw()),
    };
    span.set("messaging.system", "tidegate")
        .set("messaging.operation.type", "receive")
        .set("messaging.operation.name", "receive")
        .set("messaging.destination.name", destination)
        .set("messaging.message.body.size", report.json.len())
        .set("tidegate.tenant", place.key.tenant().to_owned())
        .set("tidegate.device", place.key.device().to_owned())
        .set("tidegate.session", place.id().to_string())
        .set("tidegate.epoch", place.epoch().0)
        .link(TraceContext::of_handshake(place.id()));
    if let Some(seq) = report.seq {
        span.set("messaging.message.id", format!("{}:{seq}", place.boot().as_str()));
    }
    span
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prometheus::IntCounter;
    use tokio::sync::mpsc;

    use super::*;
    use crate::telemetry::traces::SpanRecord;

    fn tracer() -> (Tracer, mpsc::Receiver<SpanRecord>) {
        Tracer::new(1.0, IntCounter::new("dropped", "dropped").unwrap())
    }

    fn span(tracer: &Tracer, name: &'static str) -> Span {
        tracer.root(name, SpanKind::Server, TraceContext::draw())
    }

    #[test]
    fn a_span_ends_with_its_record_and_the_rest_with_the_connection() {
        let ((tracer, mut ended), spans, mailbox) = (tracer(), Spans::default(), Mailbox::default());
        for (number, name) in [(3, "a"), (64 + 4, "b"), (5, "c")] {
            spans.keep(&mailbox, number, span(&tracer, name));
        }
        assert!(mailbox.is_sampled() && mailbox.outstanding() == 0);
        spans.settle(&mailbox, Settled { ended: 0b1_1000, refused: 0b1_0000 });
        let mut told = || ended.try_recv().ok().map(|span| (span.name, span.error));
        assert_eq!(told(), Some(("a".into(), None)));
        assert_eq!(told(), Some(("b".into(), Some("refused".into()))));
        assert_eq!(told(), None);
        spans.left(&mailbox);
        assert_eq!(told(), Some(("c".into(), Some("disconnected".into()))));
        assert!(!mailbox.is_sampled() && spans.lock().of.is_empty() && spans.lock().count == 0);
    }

    #[test]
    fn the_table_is_bounded_and_what_ends_makes_room() {
        let ((tracer, _ended), spans, mailbox) = (tracer(), Spans::default(), Mailbox::default());
        for number in 0..=OPEN_SPANS {
            spans.keep(&mailbox, (number % WINDOW) as u32, span(&tracer, "x"));
        }
        assert_eq!(spans.lock().count, OPEN_SPANS);
        spans.settle(&mailbox, Settled { ended: 1, refused: 0 });
        assert_eq!(spans.lock().count, OPEN_SPANS - OPEN_SPANS / WINDOW);
    }
}
