//! TLS without buffers against rustls' own client; what a listener refuses, by the numbers of the list of bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tls/doors.rs"]
mod doors;
#[path = "tls/fixture.rs"]
mod fixture;
#[path = "tls/records.rs"]
mod records;
#[path = "tls/refusals.rs"]
mod refusals;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use fixture::{Controls, Gate, client, connect, leaf, pair, served, served_with};
use rustls::SupportedProtocolVersion;
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};
use tidegate::socket::listener::Stream;
use tidegate::socket::tls::{Reload, TlsStream, accept};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio::net::TcpStream;

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// One look: what a read brings now, where it brings anything.
async fn read_now<S: AsyncRead + Unpin>(stream: &mut S, room: usize) -> Poll<io::Result<Vec<u8>>> {
    let mut bytes = vec![0; room];
    let mut into = ReadBuf::new(&mut bytes);
    let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut into))).await;
    read.map_ok(|()| into.filled().to_vec())
}

async fn write_now<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, bytes))).await
}

async fn flush_now<S: AsyncWrite + Unpin>(stream: &mut S) -> Poll<io::Result<()>> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_flush(cx))).await
}

/// Sends back what it reads, in reads of all sizes, until the end.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut server: TlsStream<S>, seed: u64) -> TlsStream<S> {
    let mut sizes = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; 40_000];
    loop {
        let room = sizes.usize(1..=bytes.len()).min(sizes.usize(1..=bytes.len()));
        let count = server.read(&mut bytes[..room]).await.unwrap();
        if count == 0 {
            server.shutdown().await.unwrap();
            return server;
        }
        server.write_all(&bytes[..count]).await.unwrap();
        server.flush().await.unwrap();
    }
}

#[tokio::test]
async fn everything_comes_back_however_it_is_cut() {
    let served = served();
    for (version, pipe_bytes, step) in
        [(&TLS12, 700, 333), (&TLS13, 700, 333), (&TLS12, 100_000, usize::MAX), (&TLS13, 100_000, usize::MAX)]
    {
        let (client, server, controls) = pair(&served, client(&served.authority, &[version], None), pipe_bytes).await;
        controls.step.store(step, Ordering::Relaxed);
        let echoed = tokio::spawn(echo(server, 1));
        let sent: Vec<u8> = (0..1_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(client);
        let source = sent.clone();
        let written = tokio::spawn(async move {
            let (mut rest, mut sizes) = (source.as_slice(), fastrand::Rng::with_seed(2));
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.usize(1..=50_000).min(rest.len()));
                writer.write_all(now).await.unwrap();
                rest = later;
            }
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{version:?}: {} of {} bytes", received.len(), sent.len());
        written.await.unwrap();
        assert_eq!(echoed.await.unwrap().held_bytes(), 0);
    }
}

#[tokio::test]
async fn a_byte_at_a_time_is_enough() {
    let served = served();
    for version in BOTH {
        let (near, far) = duplex(65_536);
        let controls = Arc::new(Controls::default());
        controls.step.store(1, Ordering::Relaxed);
        let gate = Gate { inner: far, controls };
        let config = client(&served.authority, &[version], None);
        let (client, server) = tokio::join!(connect(near, config), accept(gate, served.reloader.current(), Vec::new()));
        let (mut client, server) = (client.unwrap(), server.unwrap());
        let echoed = tokio::spawn(echo(server, 3));
        client.write_all(b"one byte at a time").await.unwrap();
        client.flush().await.unwrap();
        let mut back = [0; 18];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"one byte at a time");
        client.shutdown().await.unwrap();
        echoed.await.unwrap();
    }
}

#[tokio::test]
async fn what_came_with_the_proxy_header_or_the_handshake_is_not_lost() {
    let served = served();
    let (near, mut far) = duplex(65_536);
    let config = client(&served.authority, BOTH, None);
    let client = tokio::spawn(async move {
        let mut client = connect(near, config).await.unwrap();
        // Before the server has looked at what ended the handshake.
        client.write_all(b"at once").await.unwrap();
        client
    });
    let mut early = vec![0; 20];
    far.read_exact(&mut early).await.unwrap();
    let mut server = accept(far, served.reloader.current(), early).await.unwrap();
    let mut first = [0; 7];
    server.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"at once");
    assert_eq!(server.held_bytes(), 0);
    drop(client.await.unwrap());
}

#[tokio::test]
async fn nothing_is_held_while_it_is_quiet() {
    let served = served();
    for version in BOTH {
        let (mut client, mut server, controls) =
            pair(&served, client(&served.authority, &[version], None), 1 << 20).await;
        assert_eq!(server.held_bytes(), 0, "after the handshake");
        client.write_all(&[1; 60_000]).await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut vec![0; 60_000]).await.unwrap();
        assert_eq!(server.held_bytes(), 0, "after a large message");
        server.write_all(&[2; 60_000]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(server.held_bytes(), 0, "after a large answer");
        // Half a record.
        client.write_all(&[3; 2_000]).await.unwrap();
        client.flush().await.unwrap();
        controls.read.store(500, Ordering::Relaxed);
        assert!(read_now(&mut server, 4_096).await.is_pending());
        assert!((500..2_000).contains(&server.held_bytes()), "{}", server.held_bytes());
        controls.read.store(usize::MAX, Ordering::Relaxed);
        let Poll::Ready(Ok(read)) = read_now(&mut server, 4_096).await else { panic!("the record is here") };
        assert_eq!(read, [3; 2_000]);
        assert_eq!(server.held_bytes(), 0, "after half a record and its other half");
    }
}

#[tokio::test]
async fn a_reader_with_little_room_costs_a_record_and_no_more() {
    let served = served();
    let (mut client, mut server, _) = pair(&served, client(&served.authority, BOTH, None), 1 << 20).await;
    let sent: Vec<u8> = (0..50_000_u32).map(|i| i as u8).collect();
    client.write_all(&sent).await.unwrap();
    client.flush().await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let Poll::Ready(Ok(some)) = read_now(&mut server, 7).await else { panic!("it was all sent") };
        received.extend_from_slice(&some);
        // A record, and what its buffer grew to on the way.
        assert!(server.held_bytes() < 40_000, "{}", server.held_bytes());
    }
    assert!(received == sent);
    assert_eq!(server.held_bytes(), 0);
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_held_bounded_and_sent_first() {
    let served = served();
    let (mut client, mut server, controls) = pair(&served, client(&served.authority, BOTH, None), 1 << 20).await;
    controls.write.store(10, Ordering::Relaxed);
    let Poll::Ready(Ok(accepted)) = write_now(&mut server, &[7; 200_000]).await else { panic!("there was room") };
    assert!((1_000..=32 * 1024).contains(&accepted), "{accepted}");
    assert!(server.held_bytes() < 40 * 1024, "{}", server.held_bytes());
    assert!(write_now(&mut server, b"more").await.is_pending());
    assert!(flush_now(&mut server).await.is_pending());
    // It reads meanwhile.
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    assert!(matches!(read_now(&mut server, 100).await, Poll::Ready(Ok(read)) if read == b"hello"));
    controls.write.store(usize::MAX, Ordering::Relaxed);
    assert!(matches!(flush_now(&mut server).await, Poll::Ready(Ok(()))));
    assert_eq!(server.held_bytes(), 0);
    server.write_all(b"more").await.unwrap();
    let mut received = vec![0; accepted + 4];
    client.read_exact(&mut received).await.unwrap();
    assert!(received[..accepted].iter().all(|byte| *byte == 7));
    assert_eq!(&received[accepted..], b"more");
}

#[tokio::test]
async fn no_record_sent_is_larger_than_configured() {
    let served = served_with(512, None);
    for version in BOTH {
        let (mut client, mut server, controls) =
            pair(&served, client(&served.authority, &[version], None), 1 << 20).await;
        server.write_all(&[9; 100_000]).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut vec![0; 100_000]).await.unwrap();
        let wire = controls.written.lock().unwrap().clone();
        let (mut at, mut largest, mut count) = (0, 0, 0);
        while at < wire.len() {
            let length = usize::from(u16::from_be_bytes([wire[at + 3], wire[at + 4]]));
            (at, largest, count) = (at + 5 + length, largest.max(length), count + 1);
        }
        // What encryption adds lies on top: at most a type or a nonce, and a tag.
        assert!(largest <= 512 + 24, "{largest}");
        assert!(count > 190, "{count}");
    }
}

#[tokio::test]
async fn an_end_that_was_announced_is_an_end_and_another_is_an_error() {
    let served = served();
    for version in BOTH {
        let config = || client(&served.authority, &[version], None);
        let (mut client, mut server, _) = pair(&served, config(), 65_536).await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last words");
        // Our own direction is still open.
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(
            write_now(&mut server, b"x").await.map(|r| r.unwrap_err().kind()),
            Poll::Ready(io::ErrorKind::BrokenPipe)
        );
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");

        let (client, mut server, _) = pair(&served, config(), 65_536).await;
        drop(client);
        let error = server.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn keys_are_changed_when_the_client_asks() {
    let served = served();
    let (mut client, server, _) = pair(&served, client(&served.authority, &[&TLS13], None), 65_536).await;
    let echoed = tokio::spawn(echo(server, 5));
    for round in 0..5_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round; 1_000]).await.unwrap();
        let mut back = [0; 1_000];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, [round; 1_000]);
    }
    client.shutdown().await.unwrap();
    assert_eq!(echoed.await.unwrap().held_bytes(), 0);
}

#[tokio::test]
async fn a_forged_record_ends_the_connection_behind_what_was_genuine() {
    let served = served();
    let (mut client, mut server, controls) = pair(&served, client(&served.authority, BOTH, None), 65_536).await;
    client.write_all(b"genuine").await.unwrap();
    client.flush().await.unwrap();
    client.get_mut().0.write_all(&[&[23, 3, 3, 0, 40][..], &[0; 40]].concat()).await.unwrap();
    let before = controls.written.lock().unwrap().len();
    assert!(matches!(read_now(&mut server, 100).await, Poll::Ready(Ok(read)) if read == b"genuine"));
    assert!(matches!(read_now(&mut server, 100).await, Poll::Ready(Err(_))));
    assert!(matches!(write_now(&mut server, b"x").await, Poll::Ready(Err(_))));
    assert!(controls.written.lock().unwrap().len() > before, "an alert went out");
    assert!(client.read(&mut [0; 10]).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_replaced_when_its_files_change_and_not_by_what_cannot_be_used() {
    let served = served();
    let config = || client(&served.authority, BOTH, None);
    let shown = |client: &fixture::Client<_>| client.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (mut before, mut server, _) = pair(&served, config(), 65_536).await;
    let expiry = || served.metrics.certificate_expiry.get();
    assert_eq!(expiry(), 3_786_912_000, "2090-01-01");
    assert_eq!(served.reloader.look(), Reload::Unchanged);

    let next = leaf(&served.authority, 2091);
    std::fs::write(served.dir.path().join("cert.pem"), next.cert.pem()).unwrap();
    assert_eq!(served.reloader.look(), Reload::Kept, "the key is the old one's");
    assert_eq!(served.reloader.look(), Reload::Unchanged, "said once");
    assert_eq!(shown(&pair(&served, config(), 65_536).await.0), shown(&before));
    next.write(served.dir.path());
    assert_eq!(served.reloader.look(), Reload::Loaded);
    assert_eq!(expiry(), 3_818_448_000, "2091-01-01");
    assert_eq!(shown(&pair(&served, config(), 65_536).await.0), *next.cert.der());

    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(served.dir.path().join("cert.pem"), broken).unwrap();
        assert_eq!(served.reloader.look(), Reload::Kept, "{broken:?}");
    }
    std::fs::remove_file(served.dir.path().join("cert.pem")).unwrap();
    assert_eq!(served.reloader.look(), Reload::Kept);
    assert_eq!(shown(&pair(&served, config(), 65_536).await.0), *next.cert.der());

    // As Kubernetes does it: the name is a link, and the link is what changes.
    let (secret, last) = (served.dir.path().join("..data"), leaf(&served.authority, 2092));
    std::fs::create_dir(&secret).unwrap();
    last.write(&secret);
    for name in ["cert.pem", "key.pem"] {
        let _ = std::fs::remove_file(served.dir.path().join(name));
        std::os::unix::fs::symlink(secret.join(name), served.dir.path().join(name)).unwrap();
    }
    assert_eq!(served.reloader.look(), Reload::Loaded);
    assert_eq!(shown(&pair(&served, config(), 65_536).await.0), *last.cert.der());

    server.write_all(b"still here").await.unwrap();
    server.flush().await.unwrap();
    before.read_exact(&mut [0; 10]).await.unwrap();
}

#[test]
fn a_stream_is_small() {
    // TLS lies apart, in one piece: rustls' session, the socket, a pointer and three flags.
    let own = size_of::<TlsStream<TcpStream>>() - size_of::<UnbufferedServerConnection>();
    assert!(own <= size_of::<TcpStream>() + 16, "{own}");
    assert!(size_of::<Stream>() <= size_of::<TcpStream>() + 8, "{}", size_of::<Stream>());
}
