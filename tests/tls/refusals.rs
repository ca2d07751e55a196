//! Section A of the list of bad input: handshakes that are not completed, and why.

use std::sync::atomic::Ordering;
use std::task::Poll;

use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use tidegate::socket::tls::{TlsError, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::fixture::{
    Authority, Leaf, Served, authority, client, client_hello, connect, leaf, pair, served, served_with,
};
use super::records::{Records, open_hearted};
use super::{BOTH, read_now};

const ECDHE_ECDSA_AES_128_GCM: u16 = 0xc02b;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Sends `bytes`; returns what came back before the connection ended, and why it did.
async fn handshake_of(served: &Served, bytes: &[u8]) -> (Vec<u8>, TlsError) {
    let (mut near, far) = duplex(65_536);
    near.write_all(bytes).await.unwrap();
    let raw = async move {
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (answer, accepted) = tokio::join!(raw, accept(far, served.reloader.current(), Vec::new()));
    (answer, accepted.unwrap_err())
}

/// The description of the fatal alert that is all of an answer.
fn alert(answer: &[u8]) -> u8 {
    let [ALERT, 3, _, 0, 2, 2, description] = answer else { panic!("no fatal alert: {answer:?}") };
    *description
}

#[tokio::test]
async fn case_4_a_client_of_tls_1_0_or_1_1_is_told_protocol_version() {
    let served = served();
    for version in [0x0301, 0x0302] {
        let (answer, error) = handshake_of(&served, &client_hello(version, &[0xc009, 0xc013, 0x002f])).await;
        assert_eq!(alert(&answer), u8::from(AlertDescription::ProtocolVersion), "{error}");
    }
}

#[tokio::test]
async fn case_5_static_rsa_and_cbc_suites_are_told_handshake_failure() {
    let served = served();
    for suites in [&[0x009c, 0x009d, 0x002f][..], &[0xc009, 0xc013, 0xc023]] {
        let (answer, error) = handshake_of(&served, &client_hello(0x0303, suites)).await;
        assert_eq!(alert(&answer), u8::from(AlertDescription::HandshakeFailure), "{error}");
    }
}

#[tokio::test]
async fn case_7_a_goodbye_in_the_middle_of_the_handshake_ends_it_at_once() {
    let served = served();
    let hello = client_hello(0x0303, &[ECDHE_ECDSA_AES_128_GCM]);
    let goodbye = [ALERT, 3, 3, 0, 2, 1, 0];
    for bytes in [[&hello[..], &goodbye].concat(), goodbye.to_vec()] {
        let (_, error) = handshake_of(&served, &bytes).await;
        assert!(matches!(error, TlsError::Goodbye), "{error}");
    }
    let (near, far) = duplex(65_536);
    drop(near);
    let error = accept(far, served.reloader.current(), hello[..50].to_vec()).await.unwrap_err();
    assert!(matches!(error, TlsError::Gone(_)), "{error}");
}

#[tokio::test]
async fn case_8_renegotiation_is_refused_and_the_connection_goes_on() {
    let served = served();
    let (client, mut server, _) = pair(&served, open_hearted(&served.authority), 65_536).await;
    let mut client = Records::of(client);
    let hello = client_hello(0x0303, &[ECDHE_ECDSA_AES_128_GCM]);
    // In two records, and something is sent between them: what rustls has seen of the message stays in its place.
    let (first, second) = hello[5..].split_at(30);
    client.send(HANDSHAKE, first).await;
    assert!(read_now(&mut server, 100).await.is_pending());
    assert!(server.held_bytes() > 0);
    server.write_all(b"between").await.unwrap();
    assert_eq!(client.receive().await, (DATA, b"between".to_vec()));
    client.send(HANDSHAKE, second).await;
    client.send(DATA, b"and on").await;
    assert!(matches!(read_now(&mut server, 100).await, Poll::Ready(Ok(read)) if read == b"and on"));
    assert_eq!(server.held_bytes(), 0);
    assert_eq!(client.receive().await, (ALERT, vec![1, u8::from(AlertDescription::NoRenegotiation)]));
    server.write_all(b"behind").await.unwrap();
    assert_eq!(client.receive().await, (DATA, b"behind".to_vec()));
}

#[tokio::test]
async fn case_8_a_flood_of_renegotiations_ends_the_connection() {
    let served = served();
    let (client, mut server, controls) = pair(&served, open_hearted(&served.authority), 1 << 20).await;
    let mut client = Records::of(client);
    let hello = client_hello(0x0303, &[ECDHE_ECDSA_AES_128_GCM]);
    for _ in 0..100 {
        client.send(HANDSHAKE, &hello[5..]).await;
    }
    let before = controls.written.lock().unwrap().len();
    let mut looks = 0;
    while read_now(&mut server, 4_096).await.is_pending() {
        looks += 1;
        assert!(looks < 200, "it goes on for ever");
    }
    assert!(matches!(read_now(&mut server, 4_096).await, Poll::Ready(Err(_))));
    assert!(controls.written.lock().unwrap().len() - before < 4_096, "few are answered");
}

#[tokio::test]
async fn case_10_a_client_that_speaks_only_h2_is_told_no_application_protocol() {
    let served = served();
    for version in BOTH {
        for (offered, agreed) in [(&["h2"][..], None), (&["h2", "http/1.1"], Some("http/1.1"))] {
            let mut config = client(&served.authority, &[version], None);
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let (near, far) = duplex(65_536);
            let (connected, accepted) =
                tokio::join!(connect(near, config), accept(far, served.reloader.current(), Vec::new()));
            match agreed {
                Some(name) => assert_eq!(connected.unwrap().get_ref().1.alpn_protocol(), Some(name.as_bytes())),
                None => {
                    assert!(matches!(accepted, Err(TlsError::Refused(_))));
                    let error = connected.unwrap_err().to_string();
                    assert!(error.contains("NoApplicationProtocol"), "{error}");
                }
            }
        }
    }
}

/// How a client with `chain` fares: what it reads, and whether it was let in.
async fn with_identity(served: &Served, chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> Vec<Result<(), String>> {
    let mut outcomes = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = client(&served.authority, &[version], Some((chain.clone(), leaf.key_der())));
        let (near, far) = duplex(65_536);
        let client = async move {
            // TLS 1.3 tells the client with its first answer.
            let mut client = connect(near, config).await?;
            client.read_exact(&mut [0; 7]).await.map(|_| ())
        };
        let server = async {
            let mut server = accept(far, served.reloader.current(), Vec::new()).await?;
            assert_eq!(server.peer_certificates().map(<[_]>::len), Some(chain.len()));
            server.write_all(b"welcome").await?;
            Ok::<_, TlsError>(())
        };
        let (client, server) = tokio::join!(client, server);
        assert_eq!(client.is_ok(), server.is_ok(), "{client:?} {server:?}");
        outcomes.push(client.map_err(|error| error.to_string()));
    }
    outcomes
}

fn chain_of(leaf: &Leaf, above: &[&Authority]) -> Vec<CertificateDer<'static>> {
    let above = above.iter().map(|authority| authority.cert.der().clone());
    std::iter::once(leaf.cert.der().clone()).chain(above).collect()
}

#[tokio::test]
async fn case_11_a_client_certificate_that_does_not_hold_is_told_so() {
    let (devices, others) = (authority("devices", None), authority("others", None));
    let served = served_with(4_096, Some(&devices));
    let good = leaf(&devices, 2090);
    assert_eq!(with_identity(&served, chain_of(&good, &[]), &good).await, [Ok(()), Ok(())]);
    let expired = leaf(&devices, 2001);
    for outcome in with_identity(&served, chain_of(&expired, &[]), &expired).await {
        assert!(outcome.as_ref().is_err_and(|error| error.contains("CertificateExpired")), "{outcome:?}");
    }
    let foreign = leaf(&others, 2090);
    for outcome in with_identity(&served, chain_of(&foreign, &[&others]), &foreign).await {
        assert!(outcome.as_ref().is_err_and(|error| error.contains("UnknownCA")), "{outcome:?}");
    }
    let mut chain = vec![authority("level 0", Some(&devices))];
    for level in 1..20 {
        chain.push(authority(&format!("level {level}"), chain.last()));
    }
    let deep = leaf(chain.last().unwrap(), 2090);
    let above: Vec<&Authority> = chain.iter().rev().collect();
    for outcome in with_identity(&served, chain_of(&deep, &above), &deep).await {
        assert!(
            outcome.as_ref().is_err_and(|error| error.contains("AlertReceived") || error.contains("alert")),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_where_one_is_asked_for() {
    let served = served_with(4_096, Some(&authority("devices", None)));
    for version in BOTH {
        let (_client, server, _) = pair(&served, client(&served.authority, &[version], None), 65_536).await;
        assert_eq!(server.peer_certificates(), None);
    }
}

#[tokio::test]
async fn a_handshake_message_without_an_end_is_read_no_further_than_its_bound() {
    let served = served();
    // A message that announces 64,000 bytes, in records of 1,000.
    let record = |body: &[u8]| [&[HANDSHAKE, 3, 3][..], &1_000_u16.to_be_bytes(), body].concat();
    let mut flood = record(&[&[1, 0, 0xfa, 0][..], &[0; 996]].concat());
    for _ in 0..60 {
        flood.extend(record(&[0; 1_000]));
    }
    let (near, far) = duplex(1 << 20);
    let controls = std::sync::Arc::<super::fixture::Controls>::default();
    controls.read.store(60_000, Ordering::Relaxed);
    let gate = super::fixture::Gate { inner: far, controls: std::sync::Arc::clone(&controls) };
    let mut near = near;
    near.write_all(&flood).await.unwrap();
    let error = accept(gate, served.reloader.current(), Vec::new()).await.unwrap_err();
    assert!(matches!(error, TlsError::TooLarge), "{error}");
    assert!(controls.read.load(Ordering::Relaxed) > 20_000, "the rest was not read");
}
