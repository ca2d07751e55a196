//! Who is let in by mTLS, and certificates that are replaced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tidegate::ownership::NodeLife;
use tidegate::peer::{PeerError, PeerLink, PeerTimes, PeerTls};
use tidegate::socket::tls::Reload;
use tidegate::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{Authority, Certificates, Recorder, life, link_to, patient, quick, serve};

/// Asks a server with these certificates from a client with those.
async fn ask(server: &Certificates, client: &Certificates) -> (Result<(), PeerError>, usize) {
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, Some(server.load()), patient()).await;
    let (link, _) = link_to(&node, address, Some(client.load()), patient());
    (link.sweep(&node).await, handler.heard().len())
}

fn refused_for(answer: &Result<(), PeerError>, words: &str) {
    let Err(PeerError::Unreachable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.contains(words), "{why}");
}

#[tokio::test]
async fn the_right_certificate_is_let_in() {
    let certificates = Certificates::new();
    assert_eq!(ask(&certificates, &certificates).await, (Ok(()), 1));
    // Another node of the same authority, with a certificate of its own.
    let other = Certificates::new();
    other.write_leaf(&certificates.authority, "tidegate-peer", 2090);
    other.write_authorities(&[&certificates.authority]);
    assert_eq!(ask(&certificates, &other).await, (Ok(()), 1));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (server, client) = (Certificates::new(), Certificates::new());
    let (answer, heard) = ask(&server, &client).await;
    refused_for(&answer, "UnknownIssuer");
    assert_eq!(heard, 0);
    // The client takes the server's, the server does not take the client's.
    client.write_authorities(&[&server.authority]);
    let (answer, heard) = ask(&server, &client).await;
    refused_for(&answer, "alert: UnknownCA");
    assert_eq!(heard, 0);
}

#[tokio::test]
async fn a_certificate_with_another_name_is_refused_on_both_sides() {
    let (good, odd) = (Certificates::new(), Certificates::new());
    odd.write_leaf(&good.authority, "somebody-else", 2090);
    odd.write_authorities(&[&good.authority]);
    let mistaken = PeerTls::load(&odd.config()).err().expect("it does not carry its own configuration's name");
    assert!(mistaken.to_string().contains("tidegate-peer"), "{mistaken}");
    let mut config = odd.config();
    config.server_name = "somebody-else".into();
    let somebody = Arc::new(PeerTls::load(&config).unwrap().unwrap());

    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, Some(Arc::clone(&somebody)), patient()).await;
    let (link, _) = link_to(&node, address, Some(good.load()), patient());
    refused_for(&link.sweep(&node).await, "not valid for name");

    // As a client it would not look for `tidegate-peer` either, so a bare client shows its certificate.
    let (address, _server) = serve(&handler, Some(good.load()), patient()).await;
    assert!(!shown(address, &good, Some(&odd)).await, "the server let in who is no peer");
    assert!(shown(address, &good, Some(&good)).await);
    assert_eq!(handler.heard().len(), 0);
}

#[tokio::test]
async fn no_certificate_is_refused_and_so_is_no_tls() {
    let certificates = Certificates::new();
    let node = life("server");
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, Some(certificates.load()), patient()).await;
    assert!(!shown(address, &certificates, None).await);
    let (link, _) = link_to(&node, address, None, patient());
    let answer = link.sweep(&node).await;
    assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
    assert_eq!(handler.heard().len(), 0);
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_on_both_sides() {
    let (good, old) = (Certificates::new(), Certificates::new());
    old.write_leaf(&good.authority, "tidegate-peer", 2001);
    old.write_authorities(&[&good.authority]);
    let (answer, heard) = ask(&old, &good).await;
    refused_for(&answer, "certificate expired");
    assert_eq!(heard, 0);
    let (answer, heard) = ask(&good, &old).await;
    refused_for(&answer, "alert: CertificateExpired");
    assert_eq!(heard, 0);
}

#[test]
fn when_the_certificate_for_peers_expires_is_shown_and_follows_its_file() {
    let (certificates, metrics) = (Certificates::new(), Metrics::new().unwrap());
    let tls = PeerTls::load(&certificates.config()).unwrap().unwrap().shown_in(&metrics);
    let year = |year: i64| (year - 1970) * 31_556_952;
    let shown = || metrics.peer_certificate_expiry.get();
    assert!((shown() - year(2090)).abs() < 86_400 * 2, "{}", shown());
    certificates.write_leaf(&certificates.authority, "tidegate-peer", 2050);
    assert_eq!(tls.look(), Reload::Loaded);
    assert!((shown() - year(2050)).abs() < 86_400 * 2, "{}", shown());
}

/// Whether a bare client that shows this certificate is let in. In TLS 1.3 a client hears that only afterwards.
async fn shown(address: SocketAddr, trusts: &Certificates, shows: Option<&Certificates>) -> bool {
    let Ok((_, mut stream)) = bare(address, trusts, shows).await else { return false };
    // An HTTP/2 server's first word is its settings, which it sends when it has let the client in.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.is_ok() && stream.read_u8().await.is_ok()
}

/// A TLS connection, and the certificate the server showed.
async fn bare(
    address: SocketAddr,
    trusts: &Certificates,
    shows: Option<&Certificates>,
) -> std::io::Result<(Vec<u8>, tokio_rustls::client::TlsStream<TcpStream>)> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(trusts.authority.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(shows) => {
            let config = shows.config();
            let cert = rustls_pki_types::CertificateDer::from_pem_file(config.tls_cert).unwrap();
            let key = rustls_pki_types::PrivateKeyDer::from_pem_file(config.tls_key).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("tidegate-peer").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let cert = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((cert, stream))
}

/// Calls without end, each over a link of its own, until told to stop: how many, and that none failed.
async fn load(node: NodeLife, address: SocketAddr, tls: Arc<PeerTls>, stop: Arc<AtomicBool>) -> u64 {
    let (standing, _) = link_to(&node, address, Some(Arc::clone(&tls)), patient());
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let (fresh, _) = link_to(&node, address, Some(Arc::clone(&tls)), patient());
        assert_eq!(fresh.sweep(&node).await, Ok(()));
        assert_eq!(standing.sweep(&node).await, Ok(()));
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_their_authority_are_replaced_under_load_without_a_failed_call() {
    let certificates = Certificates::new();
    let (node, tls) = (life("server"), certificates.load());
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, Some(Arc::clone(&tls)), patient()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load(node, address, Arc::clone(&tls), Arc::clone(&stop)));
    let step = async || {
        let before = handler.heard().len();
        super::fixture::until("calls go on", async || handler.heard().len() > before + 4).await;
    };
    step().await;
    assert_eq!(tls.look(), Reload::Unchanged);
    let second = certificates.write_leaf(&certificates.authority, "tidegate-peer", 2080);
    assert_eq!(tls.look(), Reload::Loaded);
    step().await;
    assert_eq!(bare(address, &certificates, Some(&certificates)).await.unwrap().0, second);
    // Another authority: both are trusted, then the new one signs, then the old one goes.
    let next = Authority::new();
    certificates.write_authorities(&[&certificates.authority, &next]);
    assert_eq!(tls.look(), Reload::Loaded);
    step().await;
    certificates.write_leaf(&next, "tidegate-peer", 2090);
    assert_eq!(tls.look(), Reload::Loaded);
    step().await;
    certificates.write_authorities(&[&next]);
    assert_eq!(tls.look(), Reload::Loaded);
    step().await;
    // What cannot be used changes nothing.
    std::fs::write(certificates.config().tls_key, "no key").unwrap();
    assert_eq!(tls.look(), Reload::Kept);
    step().await;
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
}

#[tokio::test]
async fn who_was_refused_is_let_in_when_its_certificate_is_right() {
    let (server, client) = (Certificates::new(), Certificates::new());
    client.write_authorities(&[&server.authority]);
    let (node, tls) = (life("server"), client.load());
    let handler = Recorder::new(node.clone());
    let (address, _server) = serve(&handler, Some(server.load()), patient()).await;
    let (link, _) =
        link_to(&node, address, Some(Arc::clone(&tls)), PeerTimes { deadline: patient().deadline, ..quick() });
    assert!(matches!(link.sweep(&node).await, Err(PeerError::Unreachable(_))));
    client.write_leaf(&server.authority, "tidegate-peer", 2090);
    assert_eq!(tls.look(), Reload::Loaded);
    super::fixture::until("it is let in", async || link.sweep(&node).await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_never_ends_its_handshake_is_unreachable_and_not_a_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = life("server");
    let times = PeerTimes { connect: Duration::from_millis(100), ..patient() };
    let tls = Some(Certificates::new().load());
    let (link, _) = link_to(&node, listener.local_addr().unwrap(), tls, times);
    refused_for(&link.sweep(&node).await, "within");
}
