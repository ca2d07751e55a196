//! WSS connects per second of the server's CPU, beside bare TLS handshakes.

use std::io;
use std::thread;
use std::time::Duration;

use super::BenchError;
use super::peers::{Bench, Peer};
use super::report::{Pair, Row, Rule};
use super::servers::{Server, Span};
use crate::crowd::many;
use crate::wire::{Connection, Pipe, Target};

const WARM: usize = 100;

impl Bench {
    /// Opens connections and keeps them until the last one stands: closing is not part of the figure.
    fn span_of<T: Send>(
        &self,
        server: &Server,
        target: &Target,
        open: impl Fn(&Target, u64) -> io::Result<T> + Sync,
    ) -> Result<f64, BenchError> {
        let count = if self.quick { 1_000 } else { 5_000 };
        let opened =
            |first, count| many(first, count, |number| open(target, number)).map_err(BenchError::io("connecting"));
        let _warm = opened(self.take(WARM), WARM)?;
        let span = Span::begin(server)?;
        let _held = opened(self.take(count), count)?;
        // The last ones are open here a moment before they are done there.
        thread::sleep(Duration::from_millis(50));
        Ok(count as f64 * 1e6 / span.end()?.server_us)
    }

    /// WSS connects (TLS 1.3, ES256 token, 101, `welcome`) against bare TLS 1.3 handshakes.
    ///
    /// # Errors
    /// When a server or connection fails.
    pub fn connects(&self) -> Result<Vec<Row>, BenchError> {
        let mut pair = Pair::default();
        for _ in 0..self.rounds() {
            let (server, target) = self.start(Peer::TlsHandshake)?;
            pair.baseline.push(self.span_of(&server, &target, |target, _| Pipe::open(target))?);
            let (server, target) = self.start(Peer::GatewayTls)?;
            pair.ours.push(self.span_of(&server, &target, Connection::open)?);
        }
        let note = "generator and server on one core each, and the generator's handshakes cost as much".to_owned();
        let row = Row::new("wss_connects", "bare rustls handshake", "1/s/core", &pair, Rule::RatioAtLeast(0.55));
        Ok(vec![row.noted(note)])
    }
}
