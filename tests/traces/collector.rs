//! A collector of traces: OTLP over gRPC on a real port, by the server that the protocol's own definition makes.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::support::wait_for;

/// A span as it came, its ids in hex.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) span: String,
    /// Empty: the first of its trace.
    pub(crate) parent: String,
    /// Trace and span of each.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) kind: i32,
    pub(crate) is_error: bool,
    pub(crate) took: Duration,
    pub(crate) attributes: HashMap<String, String>,
}

impl Seen {
    pub(crate) fn of(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// As `traceparent` has it.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let about = attributes(&resource.resource.unwrap_or_default().attributes);
            assert_eq!(about.get("service.name").map(String::as_str), Some("tidegate"));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| seen(&about["service.instance.id"], span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(node: &str, span: Span) -> Seen {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Seen {
        node: node.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        span: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        kind: span.kind,
        is_error: span.status.is_some_and(|status| status.code == 2),
        took: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
        attributes: attributes(&span.attributes),
    }
}

fn attributes(all: &[KeyValue]) -> HashMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", pair.key),
    };
    all.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// A running collector.
pub(crate) struct Collector {
    endpoint: String,
    kept: Kept,
    _runtime: Runtime,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks TLS, with the certificate that is in this directory.
    pub(crate) fn start_tls(dir: &Path) -> Self {
        let certs = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(dir.join("cert-key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(certs, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let runtime = Runtime::new().unwrap();
        let kept = Kept::default();
        let server = TraceServiceServer::new(kept.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = endpoint(scheme, listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (service, tls) = (TowerToHyperService::new(server.clone()), tls.clone());
                tokio::spawn(async move {
                    let http = http2::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(tcp), service).await),
                        Some(tls) => {
                            let Ok(stream) = tls.accept(tcp).await else { return };
                            drop(http.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        });
        Self { endpoint, kept, _runtime: runtime }
    }

    /// As the configuration has it.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Everything that came so far.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.kept.0.lock().unwrap().clone()
    }

    /// The spans of one trace, as soon as there is one of each of these names.
    pub(crate) fn trace(&self, trace: &str, names: &[&str]) -> Vec<Seen> {
        let mut found = Vec::new();
        let what = format!("spans {names:?} of trace {trace}");
        wait_for(&what, Duration::from_secs(30), || {
            found = self.all().into_iter().filter(|span| span.trace == trace).collect();
            names.iter().all(|name| found.iter().any(|span| span.name == *name)).then_some(())
        });
        found
    }
}

/// Who accepts and never answers: the kernel does, and nobody reads.
pub(crate) fn frozen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, endpoint("http", address))
}

fn endpoint(scheme: &str, address: SocketAddr) -> String {
    format!("'{scheme}://{address}'")
}
