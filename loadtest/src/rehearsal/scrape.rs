//! Questions to the internal port of a node and to the load tester's: readiness and metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

/// Status and body of a GET.
fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    let (status, (_, body)) = status.zip(text.split_once("\r\n\r\n")).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// Whether `/readyz` says so.
pub(super) fn is_ready(address: SocketAddr) -> bool {
    get(address, "/readyz").is_ok_and(|(status, _)| status == 200)
}

/// What `/metrics` says; none where nobody answers.
pub(super) fn metrics(address: SocketAddr) -> Option<Metrics> {
    get(address, "/metrics").ok().filter(|(status, _)| *status == 200).map(|(_, text)| Metrics(text))
}

/// A page of metrics.
pub(super) struct Metrics(String);

impl Metrics {
    /// The sum of a metric's samples whose labels contain this text.
    pub(super) fn sum(&self, name: &str, label: &str) -> u64 {
        let samples = self.0.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_are_summed_by_label_and_others_left_alone() {
        let text = "# TYPE a counter\na{k=\"x\",l=\"1\"} 3\na{k=\"x\",l=\"2\"} 4\na{k=\"y\"} 5\na_total 9\nb 1.5e1\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!((metrics.sum("a", "k=\"x\""), metrics.sum("a", ""), metrics.sum("b", "")), (7, 12, 15));
        assert_eq!(metrics.sum("c", ""), 0);
    }
}
