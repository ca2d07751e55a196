//! Calls that are part of a trace: their spans at both ends, and `traceparent` between them.

use http::HeaderMap;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Span, SpanKind, TraceContext, Tracer};

const TRACEPARENT: &str = "traceparent";

/// The span of a call to a peer, where what it is made for is sampled.
pub(super) fn client(metrics: &Metrics, path: &'static str, peer: &str) -> Option<Span> {
    let mut span = call(metrics.tracer()?, SpanKind::Client, path, traces::current()?);
    span.set("tidegate.peer", peer.to_owned());
    Some(span)
}

/// The span of a peer's call, where the peer says that it is part of a sampled trace.
pub(super) fn server(tracer: Option<&Tracer>, path: &str, headers: &HeaderMap) -> Option<Span> {
    let tracer = tracer?;
    let above = headers.get(TRACEPARENT)?.to_str().ok().and_then(TraceContext::parse)?;
    let known = [super::wire::RING, super::wire::EVICT, super::wire::ENDED, super::wire::SWEEP, super::wire::TRACE];
    let path = known.into_iter().find(|known| *known == path)?;
    above.is_sampled().then(|| call(tracer, SpanKind::Server, path, above))
}

fn call(tracer: &Tracer, kind: SpanKind, path: &'static str, above: TraceContext) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.split_once('/').unwrap_or((name, ""));
    let mut span = tracer.child(name, kind, above);
    span.set("rpc.system", "grpc").set("rpc.service", service).set("rpc.method", method);
    span
}

/// Has a call say which span it is part of.
pub(super) fn pass_on(context: TraceContext, metadata: &mut MetadataMap) {
    if let Ok(value) = MetadataValue::try_from(context.text().as_str()) {
        metadata.insert(TRACEPARENT, value);
    }
}
