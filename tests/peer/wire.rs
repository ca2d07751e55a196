//! Peers that are silent, frozen, greedy or strange.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate::id::Epoch;
use tidegate::peer::{MAX_ANSWERING, MAX_DETAIL_BYTES, MAX_IN_FLIGHT, Peer, PeerError, PeerLink, PeerTimes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Recorder, device, ending, life, link_to, patient, quick, serve, until};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_costs_the_deadline() {
    let (_listener, address) = listener().await;
    let node = life("silent");
    let (link, metrics) = link_to(&node, address, None, quick());
    assert_eq!(link.sweep(&node).await, Err(PeerError::Deadline));
    assert_eq!(link.ring(&node, &device("d"), Epoch(1)).await, Err(PeerError::Deadline));
    let text = metrics.render();
    assert!(text.contains("tidegate_peer_requests_total{outcome=\"deadline\"} 2"), "{text}");
    assert!(text.contains("tidegate_peers 1"), "{text}");
}

#[tokio::test]
async fn a_frozen_peer_whose_buffers_are_full_costs_the_deadline() {
    let (listener, address) = listener().await;
    let node = life("frozen");
    let (link, _) = link_to(&node, address, None, quick());
    let big = ending("d", MAX_DETAIL_BYTES);
    // Its kernel takes what it can; nobody ever reads it.
    let calls = futures_util::future::join_all((0..MAX_IN_FLIGHT).map(|_| link.ended(&node, &big)));
    let (answers, accepted) = tokio::join!(calls, listener.accept());
    assert!(answers.iter().all(|answer| *answer == Err(PeerError::Deadline)), "{answers:?}");
    drop(accepted);
}

#[tokio::test]
async fn keep_alive_ends_the_connection_of_a_silent_peer_long_before_the_deadline() {
    let (listener, address) = listener().await;
    let node = life("silent");
    let soon = Duration::from_millis(50);
    let times = PeerTimes { keep_alive_every: soon, keep_alive_timeout: soon, ..patient() };
    let (link, _) = link_to(&node, address, None, times);
    let silent = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // Reads all there is and never answers; ends when the other side has closed.
        tcp.read_to_end(&mut Vec::new()).await
    };
    let (answer, _) = tokio::join!(link.sweep(&node), silent);
    assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
}

#[tokio::test]
async fn an_idle_connection_is_proved_to_live_and_stands() {
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, None, patient()).await;
    let (front, at) = listener().await;
    let often = PeerTimes { keep_alive_every: Duration::from_millis(10), ..patient() };
    let (link, _) = link_to(&node, at, None, often);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let between = tokio::spawn(async move {
        let (near, _) = front.accept().await.unwrap();
        // Takes one connection and no second.
        drop(front);
        let far = TcpStream::connect(address).await.unwrap();
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        let up = async {
            let mut buffer = [0; 512];
            while let Ok(count @ 1..) = near_in.read(&mut buffer).await {
                counted.fetch_add(count, Ordering::Relaxed);
                far_out.write_all(&buffer[..count]).await.unwrap();
            }
        };
        tokio::join!(up, tokio::io::copy(&mut far_in, &mut near_out)).1
    });
    assert_eq!(link.sweep(&node).await, Ok(()));
    // A ping is 17 bytes.
    let enough = sent.load(Ordering::Relaxed) + 17 * 10;
    until("ten pings without a call", async || sent.load(Ordering::Relaxed) >= enough).await;
    // The next view has the same peer: its connection is kept, for a second is not to be had.
    link.set_live(vec![Peer { life: node.clone(), address: at.to_string() }]);
    assert_eq!(link.sweep(&node).await, Ok(()));
    drop(link);
    let _ = between.await.unwrap();
}

#[tokio::test]
async fn failed_connections_are_not_tried_again_with_every_call() {
    let (listener, address) = listener().await;
    let node = life("slammer");
    let times = PeerTimes { backoff: Duration::from_secs(600), longest_backoff: Duration::from_secs(600), ..patient() };
    let (link, _) = link_to(&node, address, None, times);
    let count = tokio::spawn(async move {
        let mut count = 0;
        // The second accept would be a second attempt; the test ends before there is one.
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await {
            count += 1;
        }
        count
    });
    for _ in 0..50 {
        let answer = link.sweep(&node).await;
        assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
    }
    assert_eq!(count.await.unwrap(), 1);
}

#[tokio::test]
async fn the_connection_to_a_node_that_left_the_view_is_closed() {
    let (listener, address) = listener().await;
    let node = life("leaver");
    let (link, metrics) = link_to(&node, address, None, quick());
    let (answer, accepted) = tokio::join!(link.sweep(&node), listener.accept());
    assert_eq!(answer, Err(PeerError::Deadline));
    link.set_live(Vec::new());
    // Ends only when the other side has closed.
    accepted.unwrap().0.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(metrics.render().contains("tidegate_peers 0"));
}

type Stranger = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

/// Somebody who speaks HTTP/2 and keeps to none of our bounds.
async fn stranger(address: SocketAddr) -> Stranger {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (send, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(driver);
    send
}

fn request(
    path: &str,
    body: BoxBody<Bytes, std::convert::Infallible>,
) -> http::Request<BoxBody<Bytes, std::convert::Infallible>> {
    let uri = format!("http://peer/tidegate.peer.v1.Peer/{path}");
    http::Request::post(uri).header("content-type", "application/grpc").body(body).unwrap()
}

/// What the server says, from the head or the trailers: the number of a gRPC status.
async fn status(stranger: &mut Stranger, path: &str, message: &[u8]) -> String {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    let answer = stranger.send_request(request(path, Full::from(framed).boxed())).await.unwrap();
    let head = answer.headers().get("grpc-status").cloned();
    let trailers = answer.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
    head.or_else(|| trailers.get("grpc-status").cloned()).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_too_large_unknown_or_malformed_is_refused_and_the_connection_stands() {
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, None, patient()).await;
    let mut stranger = stranger(address).await;
    let out_of_range = "11";
    assert_eq!(status(&mut stranger, "Ended", &vec![0; 1 << 20]).await, out_of_range);
    let (invalid, other_life, unimplemented) = ("3", "9", "12");
    assert_eq!(status(&mut stranger, "Forward", b"").await, unimplemented);
    assert_eq!(status(&mut stranger, "Sweep", b"").await, other_life, "nobody is meant");
    let mut to_me = vec![0x0a, 0];
    for (tag, text) in [(0x0a, node.node.to_string()), (0x12, node.incarnation.to_string())] {
        to_me.extend_from_slice(&[tag, u8::try_from(text.len()).unwrap()]);
        to_me.extend_from_slice(text.as_bytes());
    }
    to_me[1] = u8::try_from(to_me.len() - 2).unwrap();
    assert_eq!(status(&mut stranger, "Ring", &to_me).await, invalid, "no device has no name");
    assert_eq!(status(&mut stranger, "Ended", &to_me).await, invalid);
    assert_ne!(status(&mut stranger, "Sweep", &[0xff; 20]).await, "0");
    assert_eq!(handler.heard(), [""; 0]);
    // A field that a later version adds is passed over.
    to_me.extend_from_slice(&[0xfa, 0x06, 1, b'x']);
    assert_eq!(status(&mut stranger, "Sweep", &to_me).await, "0");
    assert_eq!(handler.heard(), ["sweep"]);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_told_so_at_once_and_places_come_back() {
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, None, patient()).await;
    // Calls whose messages never come whole.
    let mut strangers = Vec::new();
    let mut held = Vec::new();
    for _ in 0..MAX_ANSWERING / MAX_IN_FLIGHT {
        let mut stranger = stranger(address).await;
        for _ in 0..MAX_IN_FLIGHT {
            let never = StreamBody::new(futures_util::stream::pending());
            held.push(tokio::spawn(stranger.send_request(request("Sweep", BodyExt::boxed(never)))));
        }
        strangers.push(stranger);
    }
    let (link, _) = link_to(&node, address, None, patient());
    until("every place is taken", async || link.sweep(&node).await == Err(PeerError::Busy)).await;
    held.iter().for_each(tokio::task::JoinHandle::abort);
    until("the places are free", async || link.sweep(&node).await == Ok(())).await;
}

#[tokio::test]
async fn a_link_has_no_more_calls_in_flight_than_its_bound() {
    let (listener, address) = listener().await;
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (counted, highest, closed) = (Arc::clone(&now), Arc::clone(&peak), Arc::clone(&gate));
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |_| {
            let (counted, highest, closed) = (Arc::clone(&counted), Arc::clone(&highest), Arc::clone(&closed));
            async move {
                highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                closed.acquire().await.unwrap().forget();
                counted.fetch_sub(1, Ordering::SeqCst);
                let answer = http::Response::builder().header("grpc-status", "12");
                answer.header("content-type", "application/grpc").body(Full::<Bytes>::default())
            }
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.clone().max_concurrent_streams(1_000).serve_connection(TokioIo::new(tcp), service).await;
    });
    let node = life("counter");
    let link = Arc::new(link_to(&node, address, None, patient()).0);
    let calls: Vec<_> = (0..MAX_IN_FLIGHT * 3)
        .map(|_| {
            let (link, node) = (Arc::clone(&link), node.clone());
            tokio::spawn(async move { link.sweep(&node).await })
        })
        .collect();
    until("the link is full", async || now.load(Ordering::SeqCst) == MAX_IN_FLIGHT).await;
    gate.add_permits(calls.len());
    for call in calls {
        let answer = call.await.unwrap();
        assert!(matches!(answer, Err(PeerError::Refused(_))), "{answer:?}");
    }
    assert_eq!(peak.load(Ordering::SeqCst), MAX_IN_FLIGHT);
    server.abort();
}

#[tokio::test]
async fn calls_that_never_come_whole_end_with_the_deadline() {
    let node = life("server");
    let (address, _server) = serve(&Recorder::new(node), None, quick()).await;
    let mut stranger = stranger(address).await;
    let never = StreamBody::new(futures_util::stream::pending());
    let answer = stranger.send_request(request("Sweep", BodyExt::boxed(never))).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn who_connects_and_asks_nothing_loses_the_place() {
    let times = PeerTimes { first_call: Duration::from_millis(50), ..patient() };
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (plain, _server) = serve(&handler, None, times).await;
    let (tls, _server) = serve(&handler, Some(super::fixture::Certificates::new().load()), times).await;
    for address in [plain, tls] {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // Ends only when the other side has closed.
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    }
    let (link, _) = link_to(&node, plain, None, times);
    assert_eq!(link.sweep(&node).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(link.sweep(&node).await, Ok(()), "who asked keeps it");
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_has_and_takes_no_more() {
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let server = tidegate::peer::PeerServer::bind("127.0.0.1:0", handler, None, patient()).await.unwrap();
    let address = server.local_address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    let (link, _) = link_to(&node, address, None, quick());
    assert_eq!(link.sweep(&node).await, Ok(()));
    stop.send(()).unwrap();
    serving.await.unwrap();
    let answer = link.sweep(&node).await;
    assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
}
