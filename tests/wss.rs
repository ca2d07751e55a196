//! TLS of a real node: versions, application protocol, a slow handshake, and a certificate that is replaced.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "support/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use support::gateway::{Gateway, write_certificate};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A handshake, then what a plain request is answered; or why there was no handshake.
fn request(
    gateway: &Gateway,
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut tcp = TcpStream::connect(gateway.public_addr())?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.write_all(GET)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn both_versions_are_served_and_a_changed_certificate_is_taken_up() {
    let gateway = Gateway::build().tls().start();
    let old_ca = gateway.dir().join("old-ca.pem");
    std::fs::copy(gateway.ca_file(), &old_ca).unwrap();
    for version in ALL {
        let answer = request(&gateway, &old_ca, &[version], &[b"http/1.1"]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{version:?}: {answer}");
    }
    write_certificate(gateway.dir());
    let until = Instant::now() + Duration::from_secs(60);
    while request(&gateway, &gateway.ca_file(), ALL, &[]).is_err() {
        assert!(Instant::now() < until, "the new certificate is not served");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(request(&gateway, &old_ca, ALL, &[]).is_err(), "the old certificate is still served");
    // A key that is another certificate's: what was served is served on.
    std::fs::write(gateway.dir().join("cert-key.pem"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(request(&gateway, &gateway.ca_file(), ALL, &[]).is_ok());
}

#[test]
fn case_10_a_client_that_speaks_only_h2_is_told_by_alert() {
    let gateway = Gateway::build().tls().start();
    let error = request(&gateway, &gateway.ca_file(), ALL, &[b"h2"]).unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    assert!(request(&gateway, &gateway.ca_file(), ALL, &[b"h2", b"http/1.1"]).is_ok());
}

#[test]
fn case_1_and_2_silence_and_a_client_hello_that_trickles_end_in_time() {
    let gateway = Gateway::build().tls().set("limits.handshake_timeout_ms", "1500").start();
    let silent = TcpStream::connect(gateway.public_addr()).unwrap();
    let mut slow = TcpStream::connect(gateway.public_addr()).unwrap();
    let begin = Instant::now();
    let mut written = 0;
    // The head of a handshake record that announces 512 bytes, and then one byte at a time.
    slow.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).unwrap();
    while slow.write_all(&[0]).is_ok() {
        written += 1;
        assert!(written < 400, "the trickle was listened to for {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!((&silent).read(&mut [0; 16]).unwrap_or(0), 0, "silence is answered by an end");
    assert!(request(&gateway, &gateway.ca_file(), ALL, &[]).is_ok(), "others are served");
}
