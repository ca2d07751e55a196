//! Traces: what a handshake, a sampled message or a command went through, as short spans on their way to a collector.
//!
//! A span is made only for what is sampled; all else costs a branch. Spans that have ended go into a bounded queue, and from
//! there a task of its own brings them to the collector ([`otlp`]): a collector that is slow, gone or refuses costs spans,
//! which are counted, and nothing else. A span holds ids and sizes, never a payload or a token.

mod context;
#[cfg(feature = "otlp")]
pub mod otlp;
mod span;

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use prometheus::IntCounter;
use tokio::sync::mpsc;

pub use context::{TraceContext, TraceText};
pub use span::{Span, SpanKind, SpanRecord, Value};

use crate::limits::fixed::SPANS;

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// The context of what is being done: log lines carry its ids, calls to peers pass it on.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok().flatten()
}

/// Does something that waits within a context; tasks it spawns are outside.
pub async fn within<F: Future>(context: Option<TraceContext>, something: F) -> F::Output {
    match context {
        Some(_) => CURRENT.scope(context, something).await,
        None => something.await,
    }
}

/// Does something at once within a context.
pub fn enter<T>(context: Option<TraceContext>, something: impl FnOnce() -> T) -> T {
    match context {
        Some(_) => CURRENT.sync_scope(context, something),
        None => something(),
    }
}

/// Makes spans, and decides for what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What is drawn up to this is sampled; 0: nothing.
    threshold: u64,
    ended: mpsc::Sender<SpanRecord>,
    dropped: IntCounter,
}

impl Tracer {
    /// One that samples `ratio` (0 to 1) of what comes, and where its ended spans are to be taken from. Those that find
    /// [`SPANS`] waiting count as `dropped`.
    pub fn new(ratio: f64, dropped: IntCounter) -> (Self, mpsc::Receiver<SpanRecord>) {
        let (ended, spans) = mpsc::channel(SPANS);
        // As the cast saturates, 1.0 is everything.
        let threshold = (ratio.clamp(0.0, 1.0) * 2_f64.powi(64)) as u64;
        (Self(Arc::new(Shared { threshold, ended, dropped })), spans)
    }

    /// Whether the next of what has no name is sampled.
    pub fn samples(&self) -> bool {
        self.samples_by(fastrand::u64(..))
    }

    /// Whether what has these evenly spread bits is sampled: on every node, and at every repeat, the same.
    pub fn samples_by(&self, bits: u64) -> bool {
        self.0.threshold > 0 && bits <= self.0.threshold
    }

    /// Begins a span under a context that is its own: the first of a trace.
    pub fn root(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, context: TraceContext) -> Span {
        Span::begin(self.clone(), name.into(), kind, context, None)
    }

    /// Begins a span below another.
    pub fn child(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, parent: TraceContext) -> Span {
        Span::begin(self.clone(), name.into(), kind, parent.child(), Some(parent))
    }

    fn send(&self, record: SpanRecord) {
        if self.0.ended.try_send(record).is_err() {
            self.0.dropped.inc();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tracer(ratio: f64) -> (Tracer, mpsc::Receiver<SpanRecord>) {
        Tracer::new(ratio, IntCounter::new("dropped", "dropped").unwrap())
    }

    #[test]
    fn a_ratio_is_kept_and_its_ends_are_all_and_nothing() {
        let (all, none, some) = (tracer(1.0).0, tracer(0.0).0, tracer(0.25).0);
        for bits in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(all.samples_by(bits) && !none.samples_by(bits), "{bits}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        let sampled = (0..100_000).filter(|_| some.samples_by(random.u64(..))).count();
        assert!((24_000..26_000).contains(&sampled), "{sampled}");
        assert!(tracer(7.0).0.samples_by(u64::MAX) && !tracer(f64::NAN).0.samples_by(0));
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted() {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let (tracer, mut spans) = Tracer::new(1.0, dropped.clone());
        for _ in 0..SPANS + 3 {
            drop(tracer.root("x", SpanKind::Internal, TraceContext::draw()));
        }
        assert_eq!(dropped.get(), 3);
        assert_eq!(std::iter::from_fn(|| spans.try_recv().ok()).count(), SPANS);
        drop(spans);
        drop(tracer.root("x", SpanKind::Internal, TraceContext::draw()));
        assert_eq!(dropped.get(), 4, "nobody takes them any more");
    }

    #[test]
    fn a_span_tells_where_it_belongs_how_it_went_and_what_it_is_linked_to() {
        let (tracer, mut spans) = tracer(1.0);
        let above = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let linked = TraceContext::draw();
        let mut span = tracer.child("send x", SpanKind::Producer, above);
        span.set("messaging.system", "kafka").set("n", 7_u64).link(linked).fail("refused");
        let context = span.context();
        assert_eq!(context.trace_id(), above.trace_id());
        assert_ne!(context.span_id(), above.span_id());
        drop(span);
        let record = spans.try_recv().unwrap();
        assert_eq!((record.context, record.parent), (context, Some(above)));
        assert!(record.parent.unwrap().is_remote() && !record.context.is_remote());
        assert_eq!(record.attributes, [("messaging.system", Value::from("kafka")), ("n", Value::from(7_u64))]);
        assert_eq!((record.links.as_slice(), record.error.as_deref()), (&[linked][..], Some("refused")));
        assert!(record.end >= record.start);
        tracer.root("y", SpanKind::Server, linked).discard();
        assert!(spans.try_recv().is_err(), "one that is discarded never was");
    }

    #[tokio::test]
    async fn a_context_holds_for_what_is_done_within_and_for_nothing_else() {
        let context = Some(TraceContext::draw());
        assert_eq!(current(), None);
        within(context, async {
            assert_eq!(current(), context);
            tokio::task::yield_now().await;
            assert_eq!((current(), enter(None, current)), (context, context));
            let other = Some(TraceContext::draw());
            assert_eq!(enter(other, current), other);
            assert_eq!(tokio::spawn(async { current() }).await.unwrap(), None);
        })
        .await;
        assert_eq!(within(None, async { current() }).await, None);
    }

    #[test]
    fn a_span_under_way_is_one_word() {
        assert_eq!(size_of::<Option<Span>>(), size_of::<usize>());
    }
}
