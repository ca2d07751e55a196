//! One connection to each live peer, made on first use, and the calls over it.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::wire::{self, DeviceAnswer, DeviceCall, Done, EndingCall, SweepCall, TraceAnswer, TraceCall};
use super::{
    Ending, Evicted, MAX_DETAIL_BYTES, MAX_IN_FLIGHT, Peer, PeerError, PeerFuture, PeerLink, PeerTimes, PeerTls,
    Traced, spans,
};
use crate::id::{DeviceKey, Epoch};
use crate::ownership::NodeLife;
use crate::sync::lock;
use crate::telemetry::metrics::{Label, Metrics, PeerOutcome};
use crate::telemetry::traces::{Span, TraceContext};

/// Largest message: a detail, the names around it, and room for what later versions add.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_DETAIL_BYTES + 4 * 1024;
/// Largest head of an answer.
const HEADER_BYTES: u32 = 8 * 1024;
/// What a peer may have sent that nobody has read yet, on one connection.
pub(super) const WINDOW_BYTES: u32 = 256 * 1024;

/// Peers in other processes, by gRPC.
pub struct GrpcPeers {
    lines: Mutex<HashMap<NodeLife, Arc<Line>>>,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<Arc<PeerTls>>,
    times: PeerTimes,
    metrics: Metrics,
}

/// The way to one peer.
struct Line {
    address: String,
    places: Semaphore,
    state: tokio::sync::Mutex<State>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Connections in a row that could not be made, or that ended before anything was answered.
    failures: u32,
    retry_at: Option<Instant>,
    why: String,
}

/// An HTTP/2 connection; it ends when this is dropped.
struct Connection {
    send: SendRequest<Body>,
    answered: AtomicBool,
    /// Why it ended, once it has.
    ended: Arc<OnceLock<String>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl GrpcPeers {
    /// Nobody can be asked before [`PeerLink::set_live`]. Without `tls` everything goes in the clear.
    pub fn new(tls: Option<Arc<PeerTls>>, times: PeerTimes, metrics: Metrics) -> Self {
        Self { lines: Mutex::default(), shared: Arc::new(Shared { tls, times, metrics }) }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<NodeLife, Arc<Line>>> {
        lock(&self.lines)
    }

    async fn call<Q, A>(&self, to: &NodeLife, path: &'static str, call: Q) -> Result<A, PeerError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut span = spans::client(&self.shared.metrics, path, to.node.as_str());
        let context = span.as_ref().map(Span::context);
        let answer = self.call_within(to, path, call, context).await;
        if let (Some(span), Err(error)) = (&mut span, &answer) {
            span.fail(error.metric_label().as_str());
        }
        answer
    }

    async fn call_within<Q, A>(
        &self,
        to: &NodeLife,
        path: &'static str,
        call: Q,
        context: Option<TraceContext>,
    ) -> Result<A, PeerError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let line = self.lines().get(to).map(Arc::clone).ok_or(PeerError::Gone)?;
        let end = tokio::time::Instant::now() + self.shared.times.deadline;
        // None is ever closed.
        let Ok(Ok(_place)) = timeout_at(end, line.places.acquire()).await else { return Err(PeerError::Busy) };
        timeout_at(end, line.call(path, call, context)).await.unwrap_or(Err(PeerError::Deadline))
    }

    /// Counts a call by how it ended.
    async fn counted<T>(&self, call: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
        let began = Instant::now();
        let ended = call.await;
        let outcome = ended.as_ref().err().map_or(PeerOutcome::Ok, PeerError::metric_label);
        self.shared.metrics.asked_peer(outcome, began.elapsed());
        ended
    }
}

impl PeerLink for GrpcPeers {
    fn set_live(&self, live: Vec<Peer>) {
        let mut lines = self.lines();
        let mut old = std::mem::take(&mut *lines);
        for Peer { life, address } in live {
            let kept = old.remove(&life).filter(|line| line.address == address);
            lines.insert(life, kept.unwrap_or_else(|| Arc::new(Line::new(address, &self.shared))));
        }
        self.shared.metrics.peers.set(i64::try_from(lines.len()).unwrap_or(i64::MAX));
    }

    fn ring<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, ()> {
        Box::pin(self.counted(async move {
            let answer: DeviceAnswer = self.call(to, wire::RING, DeviceCall::new(to, device, epoch)).await?;
            if answer.done { Ok(()) } else { Err(PeerError::NotHere { known: answer.known.map(Epoch) }) }
        }))
    }

    fn evict<'a>(&'a self, to: &'a NodeLife, device: &'a DeviceKey, epoch: Epoch) -> PeerFuture<'a, Evicted> {
        Box::pin(self.counted(async move {
            let answer: DeviceAnswer = self.call(to, wire::EVICT, DeviceCall::new(to, device, epoch)).await?;
            Ok(match answer {
                DeviceAnswer { done: true, .. } => Evicted::Closed,
                DeviceAnswer { known: Some(newer), .. } => Evicted::Newer(Epoch(newer)),
                _ => Evicted::Absent,
            })
        }))
    }

    fn ended<'a>(&'a self, to: &'a NodeLife, ending: &'a Ending) -> PeerFuture<'a, ()> {
        Box::pin(self.counted(async move {
            ending.check()?;
            self.call(to, wire::ENDED, EndingCall::new(to, ending)).await.map(|Done {}| ())
        }))
    }

    fn sweep<'a>(&'a self, to: &'a NodeLife) -> PeerFuture<'a, ()> {
        Box::pin(self.counted(async move {
            self.call(to, wire::SWEEP, SweepCall { to: Some(to.into()) }).await.map(|Done {}| ())
        }))
    }

    fn trace<'a>(
        &'a self,
        to: &'a NodeLife,
        device: &'a DeviceKey,
        epoch: Epoch,
        for_s: u32,
    ) -> PeerFuture<'a, Traced> {
        Box::pin(self.counted(async move {
            let answer: TraceAnswer = self.call(to, wire::TRACE, TraceCall::new(to, device, epoch, for_s)).await?;
            Ok(answer.into())
        }))
    }
}

impl Line {
    fn new(address: String, shared: &Arc<Shared>) -> Self {
        let (places, state) = (Semaphore::new(MAX_IN_FLIGHT), tokio::sync::Mutex::default());
        Self { address, places, state, shared: Arc::clone(shared) }
    }

    async fn call<Q, A>(&self, path: &'static str, call: Q, context: Option<TraceContext>) -> Result<A, PeerError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.connection().await?;
        let scheme = if self.shared.tls.is_some() { "https://peer" } else { "http://peer" };
        let mut grpc = tonic::client::Grpc::with_origin(Sender(connection.send.clone()), Uri::from_static(scheme))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (path, mut request) = (PathAndQuery::from_static(path), tonic::Request::new(call));
        if let Some(context) = context {
            spans::pass_on(context, request.metadata_mut());
        }
        let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await;
        let answer = answer.map_err(|status| failed(&status));
        if !matches!(answer, Err(PeerError::Unreachable(_))) {
            connection.answered.store(true, Ordering::Relaxed);
        }
        answer.map(tonic::Response::into_inner)
    }

    /// The connection that stands, or a new one; callers who come while it is made wait for it.
    async fn connection(&self) -> Result<Arc<Connection>, PeerError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            if !connection.send.is_closed() {
                return Ok(Arc::clone(connection));
            }
            let answered = connection.answered.load(Ordering::Relaxed);
            let why = connection.ended.get().cloned();
            state.connection = None;
            if answered {
                state.failures = 0;
            } else {
                self.rest(&mut state, why.unwrap_or_else(|| "the connection ended before any answer".into()));
            }
        }
        if state.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(PeerError::Unreachable(format!("{}; it is tried again in a while", state.why)));
        }
        let times = self.shared.times;
        let made = timeout(times.connect, self.connect()).await;
        match made.unwrap_or_else(|_| Err(format!("no connection to {} within {:?}", self.address, times.connect))) {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(why) => {
                self.rest(&mut state, why.clone());
                Err(PeerError::Unreachable(why))
            }
        }
    }

    /// Notes a failure: nobody tries again for a while.
    fn rest(&self, state: &mut State, why: String) {
        state.failures = state.failures.saturating_add(1);
        state.retry_at = Some(Instant::now() + self.shared.times.rest(state.failures));
        if state.failures == 1 {
            // Whoever calls knows whether it should be there, and says so.
            tracing::debug!(peer = self.address, why, "a peer cannot be reached");
        }
        state.why = why;
    }

    async fn connect(&self) -> Result<Connection, String> {
        let failed = |error: &dyn Error| format!("{}: {}", self.address, chain(error));
        let tcp = TcpStream::connect(&self.address).await.map_err(|error| failed(&error))?;
        // Calls are small and somebody waits for each.
        tcp.set_nodelay(true).map_err(|error| failed(&error))?;
        let Some(tls) = &self.shared.tls else { return self.speak(tcp).await.map_err(|error| failed(&error)) };
        let (config, name) = tls.client();
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| failed(&error))?;
        self.speak(stream).await.map_err(|error| failed(&error))
    }

    async fn speak<S>(&self, io: S) -> Result<Connection, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let times = self.shared.times;
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(times.keep_alive_every)
            .keep_alive_timeout(times.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .max_header_list_size(HEADER_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let (send, driver) = http.handshake(TokioIo::new(io)).await?;
        let ended = Arc::new(OnceLock::new());
        let told = Arc::clone(&ended);
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                let _ = told.set(chain(&error));
            }
        });
        Ok(Connection { send, answered: AtomicBool::new(false), ended, driver: driver.abort_handle() })
    }
}

/// hyper's sender as the service that tonic asks for.
struct Sender(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What a status means. One that the peer sent has no source; one that has says how the transport failed.
fn failed(status: &Status) -> PeerError {
    if let Some(source) = status.source() {
        return PeerError::Unreachable(chain(source));
    }
    match status.code() {
        Code::FailedPrecondition => PeerError::OtherLife,
        Code::ResourceExhausted => PeerError::Busy,
        Code::OutOfRange => PeerError::TooLarge,
        Code::DeadlineExceeded => PeerError::Deadline,
        code => PeerError::Refused(format!("{code:?}: {}", status.message())),
    }
}

/// An error with everything behind it: hyper and rustls say in the last what matters.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    text
}
