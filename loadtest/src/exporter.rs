//! `/metrics` of a run while it goes on, for Prometheus. Every name begins with `tidegate_loadtest_`.
//!
//! | metric | |
//! | --- | --- |
//! | `…_<count>_total` | a counter for each [`Count`]: `connects`, `acked`, `refused`, … |
//! | `…_errors_total` | errors of every kind; the report has their texts |
//! | `…_closes_total{code}` | connections the gateway ended, by close code; 1006 where there was none |
//! | `…_devices_wanted`, `…_devices_connected`, `…_devices_paused` | gauges of the last second |
//! | `…_updates_in_flight` | written and not settled |
//! | `…_elapsed_seconds`, `…_planned_seconds` | how far the run is |
//! | `…_warnings` | how many warnings stand |
//! | `…_duration_seconds{timing}` | a histogram for each [`Timing`] in which something was timed; its sum is exact to a thousandth |
//! | `…_info{profile, target, version}` | 1 |
//!
//! Before the first second of a run it answers with nothing but a comment.

mod families;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::figures::Progress;
#[cfg(doc)]
use crate::figures::{Count, Timing};

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for /metrics: {source}; give another address with --metrics")]
pub struct ExporterError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// Why it does not.
    pub source: std::io::Error,
}

type Shown = Arc<Mutex<Option<Arc<Progress>>>>;

/// The server of `/metrics`; it ends when this is dropped.
pub struct Exporter {
    address: SocketAddr,
    shown: Shown,
    server: JoinHandle<()>,
}

impl Exporter {
    /// Listens. Port 0 is any free one: [`Exporter::address`] says which.
    pub async fn start(address: SocketAddr) -> Result<Self, ExporterError> {
        let error = |source| ExporterError { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let bound = listener.local_addr().map_err(error)?;
        let shown = Shown::default();
        let app = Router::new().route("/metrics", get(metrics)).with_state(Arc::clone(&shown));
        let server = tokio::spawn(async move {
            // Ends only with the task: what goes wrong with one connection ends that one.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address: bound, shown, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is answered from now on.
    pub fn show(&self, progress: &Progress) {
        let progress = Arc::new(progress.clone());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exporter").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let progress = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text(progress.as_deref()))
}

fn text(progress: Option<&Progress>) -> String {
    let Some(progress) = progress else { return "# the run has not begun\n".to_owned() };
    TextEncoder::new().encode_to_string(&families::of(progress)).unwrap_or_else(|error| format!("# {error}\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::figures::{Count, Timing};
    use crate::sample;

    /// Every sample by its name with labels; asserts that each family is described before its first sample.
    fn parsed(text: &str) -> BTreeMap<String, f64> {
        let (mut described, mut samples) = (BTreeSet::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                assert!(matches!(kind, "HELP" | "TYPE") && !rest.is_empty(), "{line}");
                described.insert(name.to_owned());
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end)).unwrap_or(bare);
            assert!(described.contains(family) || described.contains(bare), "{line}");
            assert!(bare.starts_with("tidegate_loadtest_"), "{line}");
            assert_eq!(samples.insert(name.to_owned(), value.parse().unwrap()), None, "{line}");
        }
        samples
    }

    #[test]
    fn every_count_gauge_and_timing_is_there_and_parses() {
        let progress = sample::progress();
        let samples = parsed(&text(Some(&progress)));
        for count in Count::ALL {
            let name = format!("tidegate_loadtest_{}_total", count.name());
            assert_eq!(samples[&name], progress.figures.counted(*count) as f64, "{name}");
        }
        assert_eq!(samples["tidegate_loadtest_devices_connected"], progress.now.connected as f64);
        assert_eq!(samples["tidegate_loadtest_closes_total{code=\"4000\"}"], progress.figures.closes[&4000] as f64);
        let info = samples.keys().find(|name| name.starts_with("tidegate_loadtest_info{")).unwrap();
        assert!(info.contains("profile=\"steady\""), "{info}");
        for timing in Timing::ALL.iter().filter(|timing| !progress.figures.timing(**timing).is_empty()) {
            let name = format!("tidegate_loadtest_duration_seconds_count{{timing=\"{}\"}}", timing.name());
            assert_eq!(samples[&name], progress.figures.timing(*timing).len() as f64, "{name}");
        }
    }

    #[test]
    fn buckets_only_grow_up_to_the_count() {
        let progress = sample::progress();
        let all = text(Some(&progress));
        let head = "tidegate_loadtest_duration_seconds_bucket{timing=\"ack\",le=\"";
        let buckets: Vec<(f64, f64)> = all
            .lines()
            .filter_map(|line| line.strip_prefix(head))
            .map(|rest| rest.split_once("\"} ").unwrap())
            .map(|(bound, count)| (bound.parse().unwrap(), count.parse().unwrap()))
            .collect();
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{buckets:?}");
        let acks = progress.figures.timing(Timing::Ack);
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, acks.len() as f64));
        let below = buckets.iter().find(|bucket| bucket.0 == 0.25).unwrap().1;
        let exact = acks.iter_recorded().filter(|value| value.value_iterated_to() <= 250_000);
        assert_eq!(below, exact.map(|value| value.count_at_value()).sum::<u64>() as f64);
        assert!(below > 0.0 && below <= acks.len() as f64);
    }

    async fn asked(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_answers_before_and_during_a_run_and_is_gone_after_it() {
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = exporter.address();
        assert!(asked(address, "/metrics").await.ends_with("# the run has not begun\n"));
        exporter.show(&sample::progress());
        let answer = asked(address, "/metrics").await;
        assert!(answer.contains("text/plain") && answer.contains("tidegate_loadtest_acked_total"), "{answer}");
        assert!(asked(address, "/").await.starts_with("HTTP/1.1 404"));
        let error = Exporter::start(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--metrics"), "{error}");
    }
}
