//! Spans to a collector, over OTLP in gRPC, by a task of its own.
//!
//! A batch that the collector does not take in time is lost and counted: nothing is kept for it, and nothing waits for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind as Kind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter, SpanLinks};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::{SpanKind, SpanRecord, TraceContext, Tracer, Value};
use crate::telemetry::metrics::{Metrics, SpanOutcome};

/// Spans of one call.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// How long a collector may take for a batch.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
#[error("no traces can be sent to `{endpoint}`: {why}")]
pub struct OtlpError {
    endpoint: String,
    why: String,
}

/// What spans are sent to, and which.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// `http://host:port` or `https://host:port` of an OTLP receiver that speaks gRPC.
    pub endpoint: String,
    /// The authorities of its certificate, a PEM file. Empty: the system's.
    pub ca: PathBuf,
    /// Which part of all messages and commands is sampled, 0 to 1.
    pub ratio: f64,
    /// The node's name.
    pub node: String,
}

/// The task that sends spans, until it is told to stop.
#[derive(Debug)]
pub struct Exporter {
    stop: oneshot::Sender<Instant>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Has the spans of everything that counts in `metrics` sent from here on. Nothing is connected yet: a collector that
    /// is not there costs spans. To be called on the runtime.
    ///
    /// # Errors
    /// [`OtlpError`]: the endpoint is no address, or its authorities cannot be read.
    pub fn start(settings: &OtlpSettings, metrics: &Metrics) -> Result<Self, OtlpError> {
        let failed = |why: String| OtlpError { endpoint: settings.endpoint.clone(), why };
        let mut builder = OtlpExporter::builder().with_tonic().with_endpoint(settings.endpoint.clone());
        if settings.endpoint.starts_with("https:") {
            builder = builder.with_tls_config(tls(&settings.ca).map_err(&failed)?);
        }
        let built = builder.with_timeout(TAKEN_WITHIN).build();
        let mut exporter = built.map_err(|error| failed(error.to_string()))?;
        exporter.set_resource(&resource(&settings.node));
        let (tracer, spans) = Tracer::new(settings.ratio, metrics.trace_spans.of(SpanOutcome::Dropped).clone());
        metrics.trace_with(tracer);
        let (stop, stopped) = oneshot::channel();
        let sender = Sender { exporter, metrics: metrics.clone(), scope: scope(), is_failing: false };
        Ok(Self { stop, task: tokio::spawn(sender.run(spans, stopped)) })
    }

    /// Sends what waits, and ends; what is not sent within that time is lost.
    pub async fn stop(self, within: Duration) {
        let end = Instant::now() + within;
        let Self { stop, mut task } = self;
        // It is there as long as the runtime is.
        let _ = stop.send(end);
        if timeout_at(end, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Whom it believes to be the collector: the exporter by itself would believe nobody.
fn tls(ca: &Path) -> Result<ClientTlsConfig, String> {
    if ca.as_os_str().is_empty() {
        return Ok(ClientTlsConfig::new().with_native_roots());
    }
    let pem = std::fs::read(ca).map_err(|error| format!("`{}` cannot be read: {error}", ca.display()))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// Whose spans they are.
fn resource(node: &str) -> Resource {
    let about = [
        KeyValue::new("service.name", "tidegate"),
        KeyValue::new("service.instance.id", node.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    Resource::builder_empty().with_attributes(about).build()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("tidegate").with_version(env!("CARGO_PKG_VERSION")).build()
}

struct Sender {
    exporter: OtlpExporter,
    metrics: Metrics,
    scope: InstrumentationScope,
    is_failing: bool,
}

impl Sender {
    async fn run(mut self, mut spans: mpsc::Receiver<SpanRecord>, mut stopped: oneshot::Receiver<Instant>) {
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let end = tokio::select! {
                // Dropped is stopped.
                end = &mut stopped => Some(end.unwrap_or_else(|_| Instant::now())),
                () = gather(&mut spans, &mut batch) => None,
            };
            let Some(end) = end else {
                self.send(batch, TAKEN_WITHIN).await;
                continue;
            };
            // What ends from here on is dropped; what is there goes out.
            spans.close();
            while spans.recv_many(&mut batch, BATCH).await > 0 || !batch.is_empty() {
                let left = end.saturating_duration_since(Instant::now());
                self.send(std::mem::take(&mut batch), left).await;
            }
            return;
        }
    }

    /// One call. Whatever becomes of it, the spans are gone.
    async fn send(&mut self, batch: Vec<SpanRecord>, within: Duration) {
        let count = batch.len() as u64;
        if count == 0 {
            return;
        }
        let batch = batch.into_iter().map(|record| data(record, &self.scope)).collect();
        let failed = match timeout(within, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {within:?}")),
        };
        let outcome = if failed.is_some() { SpanOutcome::Lost } else { SpanOutcome::Exported };
        self.metrics.trace_spans.of(outcome).inc_by(count);
        match failed {
            Some(why) if !self.is_failing => {
                tracing::warn!(why, "the collector of traces takes no spans: they are lost until it does");
            }
            None if self.is_failing => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
        self.is_failing = outcome == SpanOutcome::Lost;
    }
}

/// Waits for a span, and then a little for more. Dropped meanwhile it has taken none that is not in `batch`. Ends by itself
/// when there can be none any more.
async fn gather(spans: &mut mpsc::Receiver<SpanRecord>, batch: &mut Vec<SpanRecord>) {
    if spans.recv_many(batch, BATCH).await == 0 {
        return std::future::pending().await;
    }
    let end = Instant::now() + GATHERED_FOR;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout_at(end, spans.recv_many(batch, room)).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn data(record: SpanRecord, scope: &InstrumentationScope) -> SpanData {
    let SpanRecord { name, kind, context, parent, start, end, attributes, links, error } = record;
    let mut attributes: Vec<_> = attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
    let status = match error {
        None => Status::Unset,
        Some(why) => {
            attributes.push(KeyValue::new("error.type", why.clone()));
            Status::Error { description: why }
        }
    };
    let links = links.into_iter().map(|link| Link::with_context(span_context(link))).collect();
    SpanData {
        span_context: span_context(context),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id())),
        parent_span_is_remote: parent.is_some_and(TraceContext::is_remote),
        span_kind: span_kind(kind),
        name,
        start_time: start,
        end_time: end.max(start).max(SystemTime::UNIX_EPOCH),
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links: span_links(links),
        status,
        instrumentation_scope: scope.clone(),
    }
}

fn span_links(links: Vec<Link>) -> SpanLinks {
    let mut all = SpanLinks::default();
    all.links = links;
    all
}

fn attribute(key: &'static str, value: Value) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
    }
}

fn span_context(context: TraceContext) -> SpanContext {
    let flags = if context.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from(context.trace_id()), SpanId::from(context.span_id()));
    SpanContext::new(trace, span, flags, context.is_remote(), TraceState::NONE)
}

const fn span_kind(kind: SpanKind) -> Kind {
    match kind {
        SpanKind::Server => Kind::Server,
        SpanKind::Client => Kind::Client,
        SpanKind::Producer => Kind::Producer,
        SpanKind::Consumer => Kind::Consumer,
        SpanKind::Internal => Kind::Internal,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_span_it_says() {
        let parent = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let (context, link) = (parent.child(), TraceContext::draw());
        let start = SystemTime::now();
        let made = data(
            SpanRecord {
                name: "send x".into(),
                kind: SpanKind::Producer,
                context,
                parent: Some(parent),
                start,
                end: start,
                attributes: vec![("a", "b".into()), ("n", 7_u64.into())],
                links: vec![link],
                error: Some("refused".into()),
            },
            &scope(),
        );
        assert_eq!(made.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(made.parent_span_id.to_string(), "b7ad6b7169203331");
        assert!(made.parent_span_is_remote && made.span_context.is_sampled());
        assert_eq!((made.span_kind, made.links.len()), (Kind::Producer, 1));
        let (a, n) = (KeyValue::new("a", "b"), KeyValue::new("n", 7_i64));
        assert_eq!(made.attributes, [a, n, KeyValue::new("error.type", "refused")]);
        assert_eq!(made.status, Status::error("refused"));
    }

    #[tokio::test]
    async fn what_is_no_address_is_said_and_a_collector_that_is_not_there_costs_spans() {
        let metrics = Metrics::new().unwrap();
        let settings = |endpoint: &str| OtlpSettings {
            endpoint: endpoint.into(),
            ca: PathBuf::from("nowhere.pem"),
            ratio: 1.0,
            node: "gw-1".into(),
        };
        assert!(Exporter::start(&settings("not an address"), &metrics).is_err());
        let unreadable = Exporter::start(&settings("https://collector:4317"), &metrics).unwrap_err();
        assert!(unreadable.to_string().contains("`nowhere.pem` cannot be read"), "{unreadable}");
        assert!(metrics.tracer().is_none());
        // Nobody listens on port 1.
        let exporter = Exporter::start(&settings("http://127.0.0.1:1"), &metrics).unwrap();
        drop(metrics.tracer().unwrap().root("x", SpanKind::Internal, TraceContext::draw()));
        exporter.stop(Duration::from_secs(10)).await;
        assert_eq!(metrics.trace_spans.of(SpanOutcome::Lost).get(), 1);
        drop(metrics.tracer().unwrap().root("x", SpanKind::Internal, TraceContext::draw()));
        assert_eq!(metrics.trace_spans.of(SpanOutcome::Dropped).get(), 1, "the task has ended");
    }
}
