//! What answers peers: it decodes, asks the node's [`PeerHandler`], and encodes.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic_prost::ProstCodec;

use super::client::{MAX_MESSAGE_BYTES, WINDOW_BYTES};
use super::wire::{
    self, Addressed, DeviceAnswer, DeviceCall, Done, EndingCall, Life, SweepCall, TraceAnswer, TraceCall,
};
use super::{Evicted, MAX_ANSWERING, MAX_IN_FLIGHT, PeerHandler, PeerTimes, PeerTls, Rung, spans};
use crate::id::Epoch;
use crate::telemetry::traces::{self, Span};

/// Connections at once. With their windows and the largest messages of all calls: 64 MiB and 33 MiB.
const MAX_CONNECTIONS: usize = 256;
/// Largest head of a call.
const HEADER_BYTES: u32 = 8 * 1024;
/// How long accepting rests after it failed for want of descriptors or memory.
const REST: Duration = Duration::from_millis(50);
/// How long who was refused has to read why.
const LINGER: Duration = Duration::from_secs(1);
/// How long calls under way may take when the server stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// The port that peers connect to.
pub struct PeerServer {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Arc<dyn PeerHandler>,
    tls: Option<Arc<PeerTls>>,
    times: PeerTimes,
    places: Semaphore,
}

impl PeerServer {
    /// Listens, and answers nobody before [`PeerServer::serve`]. Without `tls` everybody who connects is taken for a peer.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(
        listen: &str,
        handler: Arc<dyn PeerHandler>,
        tls: Option<Arc<PeerTls>>,
        times: PeerTimes,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let shared = Arc::new(Shared { handler, tls, times, places: Semaphore::new(MAX_ANSWERING) });
        Ok(Self { listener, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` ends, then lets calls under way finish, at most two seconds. Dropped, it ends at once.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listener, shared } = self;
        let (tell, told) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((tcp, from)) => {
                        connections.spawn(connection(tcp, from, Arc::clone(&shared), told.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection of a peer could not be accepted");
                        sleep(REST).await;
                    }
                },
            }
        }
        drop((listener, tell));
        let _ = timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
    }
}

async fn connection(tcp: TcpStream, from: SocketAddr, shared: Arc<Shared>, stop: watch::Receiver<()>) {
    let _ = tcp.set_nodelay(true);
    let Some(tls) = &shared.tls else { return speak(tcp, from, shared, stop).await };
    let handshake = TlsAcceptor::from(tls.server()).accept(tcp).into_fallible();
    match timeout(shared.times.first_call, handshake).await {
        Ok(Ok(stream)) => speak(stream, from, shared, stop).await,
        Ok(Err((error, tcp))) => {
            tracing::debug!(%from, %error, "a connection to the port of peers was refused");
            linger(tcp).await;
        }
        Err(_) => tracing::debug!(%from, "a connection to the port of peers brought no TLS"),
    }
}

/// Lets who was refused read why: what it sends meanwhile would reset the connection, and with it the alert.
async fn linger(mut tcp: TcpStream) {
    let _ = tcp.shutdown().await;
    let _ = timeout(LINGER, async {
        let mut rest = [0; 1024];
        while let Ok(1..) = tcp.read(&mut rest).await {}
    })
    .await;
}

async fn speak<S>(io: S, from: SocketAddr, shared: Arc<Shared>, mut stop: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let times = shared.times;
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(times.keep_alive_every)
        .keep_alive_timeout(times.keep_alive_timeout)
        .max_concurrent_streams(MAX_IN_FLIGHT as u32)
        .max_header_list_size(HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let called = AtomicBool::new(false);
    let service = service_fn(|request| {
        called.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    let mut first_call = pin!(sleep(times.first_call));
    let (mut waiting, mut stopping) = (true, false);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%from, %error, "the connection of a peer ended");
                }
                return;
            }
            () = &mut first_call, if waiting => {
                waiting = false;
                if !called.load(Ordering::Relaxed) {
                    tracing::debug!(%from, "a connection to the port of peers brought no call");
                    return;
                }
            }
            // The other end is dropped when the server stops.
            _ = stop.changed(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(shared: &Shared, request: http::Request<Incoming>) -> http::Response<Body> {
    let Ok(_place) = shared.places.try_acquire() else {
        return Status::resource_exhausted("too many calls are under way").into_http();
    };
    let span = spans::server(shared.handler.tracer(), request.uri().path(), request.headers());
    let dispatched = traces::within(span.as_ref().map(Span::context), dispatch(&*shared.handler, request));
    let answered = timeout(shared.times.deadline, dispatched).await;
    answered.unwrap_or_else(|_| Status::deadline_exceeded("the call did not come whole in time").into_http())
}

async fn dispatch(node: &dyn PeerHandler, request: http::Request<Incoming>) -> http::Response<Body> {
    match request.uri().path() {
        wire::RING => {
            let ring = |call: DeviceCall| {
                let (device, epoch) = call.read()?;
                Ok(match node.ring(&device, epoch) {
                    Rung::Delivered => DeviceAnswer { done: true, known: None },
                    Rung::NotHere { known } => not_done(known),
                })
            };
            unary(node, request, ring).await
        }
        wire::EVICT => {
            let evict = |call: DeviceCall| {
                let (device, epoch) = call.read()?;
                Ok(match node.evict(&device, epoch) {
                    Evicted::Closed => DeviceAnswer { done: true, known: None },
                    Evicted::Absent => not_done(None),
                    Evicted::Newer(epoch) => not_done(Some(epoch)),
                })
            };
            unary(node, request, evict).await
        }
        wire::ENDED => {
            let ended = |call: EndingCall| {
                node.ended(call.read()?);
                Ok(Done {})
            };
            unary(node, request, ended).await
        }
        wire::SWEEP => {
            let sweep = |_: SweepCall| {
                node.sweep();
                Ok(Done {})
            };
            unary(node, request, sweep).await
        }
        wire::TRACE => {
            let trace = |call: TraceCall| {
                let (device, epoch, for_s) = call.read()?;
                Ok(TraceAnswer::from(node.trace(&device, epoch, for_s)))
            };
            unary(node, request, trace).await
        }
        _ => Status::unimplemented("there is no such call").into_http(),
    }
}

fn not_done(known: Option<Epoch>) -> DeviceAnswer {
    DeviceAnswer { done: false, known: known.map(|epoch| epoch.0) }
}

async fn unary<Q, A, F>(node: &dyn PeerHandler, request: http::Request<Incoming>, act: F) -> http::Response<Body>
where
    Q: Addressed + prost::Message + Default + 'static,
    A: prost::Message + 'static,
    F: FnMut(Q) -> Result<A, Status>,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    grpc.unary(Call { node, act }, request).await
}

/// One call, whose message has come whole: asked of the node if it is the one that is meant.
struct Call<'a, F> {
    node: &'a dyn PeerHandler,
    act: F,
}

impl<Q, A, F> UnaryService<Q> for Call<'_, F>
where
    Q: Addressed,
    F: FnMut(Q) -> Result<A, Status>,
{
    type Response = A;
    type Future = Ready<Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let call = request.into_inner();
        let meant = call.to().and_then(Life::read).is_some_and(|life| self.node.is_me(&life));
        if !meant {
            return ready(Err(Status::failed_precondition("this is another node, or another life of it")));
        }
        ready((self.act)(call).map(tonic::Response::new))
    }
}
