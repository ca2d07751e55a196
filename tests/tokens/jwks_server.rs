//! A JWKS endpoint on loopback that counts who asks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The endpoint. Ends with the test's runtime.
pub(crate) struct JwksServer {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    fetches: AtomicUsize,
    status: AtomicU16,
    body: Mutex<String>,
}

impl JwksServer {
    pub(crate) async fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state =
            Arc::new(State { fetches: AtomicUsize::new(0), status: AtomicU16::new(200), body: Mutex::new(body) });
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let answer = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(state.answer())));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    pub(crate) fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    pub(crate) fn answer_with(&self, status: u16, body: &str) {
        self.state.status.store(status, Ordering::SeqCst);
        body.clone_into(&mut self.state.body.lock().unwrap());
    }
}

impl State {
    fn answer(&self) -> http::Response<Full<Bytes>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let body = Full::from(self.body.lock().unwrap().clone());
        http::Response::builder().status(self.status.load(Ordering::SeqCst)).body(body).unwrap()
    }
}
