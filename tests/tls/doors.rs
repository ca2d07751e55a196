//! The listener: deadlines, PROXY headers, heads, places, and what it does when there is nothing to accept with.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tidegate::limits::Limits;
use tidegate::socket::listener::{Incoming, ListenerSettings, bind, serve};
use tidegate::telemetry::metrics::{AttemptOutcome, Metrics};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::BOTH;
use super::fixture::{Served, client, client_hello, connect, served};

const REQUEST: &[u8] = b"GET /v1/device HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LONG: Duration = Duration::from_secs(20);

struct Door {
    address: SocketAddr,
    metrics: Metrics,
    requests: mpsc::Receiver<Incoming>,
}

fn quick() -> Limits {
    Limits { handshake_timeout_ms: 400, ..Limits::default() }
}

/// A listener whose requests end up in a queue.
fn door(limits: Limits, tls: Option<&Served>, proxy_protocol: bool) -> Door {
    let metrics = Metrics::new().unwrap();
    let tls = tls.map(|served| Arc::clone(&served.reloader));
    let settings = Arc::new(ListenerSettings::new(limits, metrics.clone(), tls, proxy_protocol));
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel(16);
    tokio::spawn(serve(listener, settings, move |incoming| {
        let sender = sender.clone();
        async move { sender.send(incoming).await.unwrap_or_default() }
    }));
    Door { address, metrics, requests }
}

impl Door {
    async fn knock(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn request(&mut self) -> Incoming {
        timeout(LONG, self.requests.recv()).await.expect("a request came").unwrap()
    }

    /// Nothing was let in, this was counted once, and the place is free again.
    async fn refused(&mut self, outcome: AttemptOutcome) {
        let counted = || self.metrics.connection_attempts.of(outcome).get();
        let busy = || self.metrics.handshakes.get();
        let deadline = Instant::now() + LONG;
        while (counted() != 1 || busy() != 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((counted(), busy()), (1, 0), "{outcome:?}");
        assert!(self.requests.try_recv().is_err());
    }
}

/// What is read until the connection ends, by an end or a reset.
async fn rest_of<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut all)).await.expect("the connection ends");
    all
}

#[tokio::test]
async fn case_1_a_connection_without_a_word_is_closed_at_the_deadline() {
    let served = served();
    for (tls, proxy) in [(None, false), (Some(&served), false), (None, true)] {
        let mut door = door(quick(), tls, proxy);
        let mut tcp = door.knock().await;
        assert_eq!(rest_of(&mut tcp).await, b"");
        door.refused(AttemptOutcome::Timeout).await;
    }
}

#[tokio::test]
async fn case_2_a_hello_byte_by_byte_is_closed_at_the_deadline_in_total() {
    let served = served();
    let mut door = door(quick(), Some(&served), false);
    let mut tcp = door.knock().await;
    let (mut sent, began) = (0, Instant::now());
    for byte in client_hello(0x0303, &[0xc02b]) {
        if tcp.write_all(&[byte]).await.is_err() || began.elapsed() > LONG {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent > 1 && began.elapsed() < LONG);
    assert_eq!(rest_of(&mut tcp).await, b"");
    door.refused(AttemptOutcome::Timeout).await;
}

#[tokio::test]
async fn case_2_the_deadline_is_one_for_tls_and_head() {
    let served = served();
    let mut door = door(quick(), Some(&served), false);
    let mut tls = connect(door.knock().await, client(&served.authority, BOTH, None)).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    assert_eq!(rest_of(&mut tls).await, b"");
    door.refused(AttemptOutcome::Timeout).await;
}

#[tokio::test]
async fn case_13_what_is_no_proxy_header_gets_no_answer() {
    for bytes in [
        REQUEST.to_vec(),
        vec![0x16; 300],
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(), &vec![0; 65_535]].concat(),
        [b"PROXY TCP4 ".as_slice(), &vec![b'1'; 65_536]].concat(),
    ] {
        let mut door = door(Limits::default(), None, true);
        let mut tcp = door.knock().await;
        let _ = tcp.write_all(&bytes).await;
        assert_eq!(rest_of(&mut tcp).await, b"");
        door.refused(AttemptOutcome::Proxy).await;
    }
}

#[tokio::test]
async fn a_proxy_header_names_the_peer_and_tls_begins_right_behind_it() {
    let served = served();
    let mut door = door(Limits::default(), Some(&served), true);
    let mut tcp = door.knock().await;
    tcp.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 443\r\n").await.unwrap();
    let mut tls = connect(tcp, client(&served.authority, BOTH, None)).await.unwrap();
    tls.write_all(&[REQUEST, b"frames"].concat()).await.unwrap();
    let mut incoming = door.request().await;
    assert_eq!(incoming.peer, "192.0.2.7:40000".parse().unwrap());
    let mut read = vec![0; REQUEST.len() + 6];
    incoming.stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, [REQUEST, b"frames"].concat());
    incoming.stream.write_all(b"hello").await.unwrap();
    incoming.stream.flush().await.unwrap();
    let mut answer = [0; 5];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn a_bad_head_is_answered_and_goes_no_further() {
    let served = served();
    for tls in [None, Some(&served)] {
        let mut door = door(Limits::default(), tls, false);
        let tcp = door.knock().await;
        let bad = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        let answer = if let Some(served) = tls {
            let mut tls = connect(tcp, client(&served.authority, BOTH, None)).await.unwrap();
            tls.write_all(bad).await.unwrap();
            rest_of(&mut tls).await
        } else {
            let mut tcp = tcp;
            tcp.write_all(bad).await.unwrap();
            rest_of(&mut tcp).await
        };
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
        door.refused(AttemptOutcome::BadRequest).await;
    }
}

#[tokio::test]
async fn case_26_the_answer_arrives_although_the_client_is_still_sending() {
    let mut door = door(Limits::default(), None, false);
    let mut tcp = door.knock().await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ").await.unwrap();
    for _ in 0..300 {
        tcp.write_all(&[b'a'; 100]).await.unwrap();
    }
    assert!(rest_of(&mut tcp).await.starts_with(b"HTTP/1.1 431 "));
    drop(tcp);
    door.refused(AttemptOutcome::BadRequest).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_that() {
    let served = served();
    for tls in [None, Some(&served)] {
        let mut door = door(Limits::default(), tls, false);
        drop(door.knock().await);
        door.refused(AttemptOutcome::Left).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_places_wait_until_one_is_free() {
    let mut door = door(Limits { max_handshakes: 1, ..Limits::default() }, None, false);
    let (mut first, mut second) = (door.knock().await, door.knock().await);
    first.write_all(REQUEST).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let Incoming { stream, slot, peer, .. } = door.request().await;
    assert_eq!(peer, first.local_addr().unwrap());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(door.requests.try_recv().is_err(), "the only place is taken");
    assert_eq!(door.metrics.handshakes.get(), 1);
    drop(slot);
    assert_eq!(door.request().await.peer, second.local_addr().unwrap());
    drop(stream);
}

#[tokio::test]
async fn accepted_sockets_find_dead_peers_and_send_at_once() {
    let mut door = door(Limits::default(), None, false);
    let mut tcp = door.knock().await;
    tcp.write_all(REQUEST).await.unwrap();
    let incoming = door.request().await;
    let socket = SockRef::from(incoming.stream.get_ref().tcp());
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
}

/// Says to the test below that it is the process of few descriptors.
const FEW: &str = "TIDEGATE_TEST_FEW_DESCRIPTORS";

#[test]
fn case_f8_accepting_rests_without_descriptors_and_goes_on_with_them() {
    if std::env::var_os(FEW).is_some() {
        return out_of_descriptors();
    }
    let own = std::env::current_exe().unwrap();
    let name = "doors::case_f8_accepting_rests_without_descriptors_and_goes_on_with_them";
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact --nocapture \"$1\""])
        .arg(own)
        .arg(name)
        .env(FEW, "1")
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::main(flavor = "current_thread")]
async fn out_of_descriptors() {
    let mut door = door(Limits::default(), None, false);
    let mut before = door.knock().await;
    before.write_all(REQUEST).await.unwrap();
    let mut established = door.request().await;
    // Take every descriptor there is, then give one back for a client; none is left to accept it with.
    let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(taken.len() > 20, "only {} could be opened", taken.len());
    taken.pop();
    let mut waiting = door.knock().await;
    waiting.write_all(REQUEST).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(door.requests.try_recv().is_err());
    before.write_all(b"still here").await.unwrap();
    let mut read = vec![0; REQUEST.len() + 10];
    established.stream.read_exact(&mut read).await.unwrap();
    taken.clear();
    assert_eq!(door.request().await.peer, waiting.local_addr().unwrap());
}
