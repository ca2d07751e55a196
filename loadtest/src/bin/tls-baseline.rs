//! Baselines over TLS. `echo`: hyper's upgrade, fastwebsockets and tokio-rustls put together as in their examples, for
//! memory per connection. `handshake`: rustls and nothing else, for connects per core.
//!
//! `tls-baseline echo|handshake ADDRESS CERTIFICATE KEY`

use std::sync::Arc;

use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, address, certificate, key] = arguments.as_slice() else {
        return Err("usage: tls-baseline echo|handshake ADDRESS CERTIFICATE KEY".into());
    };
    let echoes = mode == "echo";
    let acceptor = acceptor(certificate, key)?;
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let _ = serve(acceptor, stream, echoes).await;
        });
    }
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // As the gateway: resumption saves nothing with an ECDSA certificate, and tickets cost.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, echoes: bool) -> Result<(), Failure> {
    let mut stream = acceptor.accept(stream).await?;
    if echoes {
        return serve_http(stream).await;
    }
    // Held until the client leaves: only the handshake is to be counted.
    let mut byte = [0];
    let _ended = stream.read(&mut byte).await?;
    Ok(())
}

async fn serve_http(stream: TlsStream<TcpStream>) -> Result<(), Failure> {
    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades().await?;
    Ok(())
}

async fn answer(
    mut request: Request<Incoming>,
) -> Result<Response<http_body_util::Empty<hyper::body::Bytes>>, WebSocketError> {
    let (response, socket) = upgrade::upgrade(&mut request)?;
    tokio::spawn(async move {
        let _ = echo(socket).await;
    });
    Ok(response)
}

async fn echo(socket: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
