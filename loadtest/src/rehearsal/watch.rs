//! Once a second: how many connections each node has, how many handshakes it took and refused, and how the devices fare.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::scrape::{Metrics, metrics};

const EVERY: Duration = Duration::from_secs(1);
/// Seconds that are kept: no rehearsal is longer.
const SECONDS: usize = 7_200;

/// A node in one second; counters since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Devices that are connected.
    pub(super) connections: u64,
    /// Handshakes that became connections.
    pub(super) accepted: u64,
    /// Handshakes refused because it leaves.
    pub(super) turned_away: u64,
}

/// The devices in one second, as the load tester sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) connected: u64,
    /// Attempts to connect that failed, since the beginning.
    pub(super) failures: u64,
}

/// One second.
#[derive(Debug, Clone)]
pub(super) struct Second {
    at: Instant,
    pub(super) nodes: BTreeMap<String, Seen>,
    pub(super) devices: Option<Devices>,
}

#[derive(Default)]
struct Shared {
    nodes: Mutex<BTreeMap<String, SocketAddr>>,
    load: Mutex<Option<SocketAddr>>,
    seconds: Mutex<Vec<Second>>,
    stops: AtomicBool,
}

/// Watches until it is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins with nobody to watch.
    pub(super) fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let watching = Arc::clone(&shared);
        let thread = std::thread::spawn(move || watching.run());
        Self { shared, thread: Some(thread) }
    }

    /// A node that is there from now on.
    pub(super) fn add(&self, name: &str, internal: SocketAddr) {
        lock(&self.shared.nodes).insert(name.to_owned(), internal);
    }

    /// A node that is gone.
    pub(super) fn remove(&self, name: &str) {
        lock(&self.shared.nodes).remove(name);
    }

    /// Where the load tester has its metrics.
    pub(super) fn load(&self, metrics: SocketAddr) {
        *lock(&self.shared.load) = Some(metrics);
    }

    /// How many seconds there are: a place to look back to.
    pub(super) fn mark(&self) -> usize {
        lock(&self.shared.seconds).len()
    }

    /// The last second, if there is one yet.
    pub(super) fn last(&self) -> Option<Second> {
        lock(&self.shared.seconds).last().cloned()
    }

    /// The seconds since a mark.
    pub(super) fn since(&self, mark: usize) -> Vec<Second> {
        lock(&self.shared.seconds).get(mark..).unwrap_or_default().to_vec()
    }

    /// The most handshakes a second that were taken since a mark, of any stretch of so many seconds.
    pub(super) fn peak(&self, mark: usize, stretch: usize) -> f64 {
        let arrivals = arrivals(&lock(&self.shared.seconds));
        peak(arrivals.get(mark.saturating_sub(1)..).unwrap_or_default(), stretch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut due = Instant::now();
        while !self.stops.load(Ordering::Relaxed) {
            let second = self.look();
            let mut seconds = lock(&self.seconds);
            if seconds.len() < SECONDS {
                seconds.push(second);
            }
            drop(seconds);
            due = (due + EVERY).max(Instant::now());
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    fn look(&self) -> Second {
        let at = Instant::now();
        let (nodes, load) = (lock(&self.nodes).clone(), *lock(&self.load));
        let nodes = nodes.into_iter().filter_map(|(name, address)| Some((name, Seen::of(&metrics(address)?))));
        Second { at, nodes: nodes.collect(), devices: load.and_then(metrics).map(|metrics| Devices::of(&metrics)) }
    }
}

impl Seen {
    fn of(metrics: &Metrics) -> Self {
        let attempts = |outcome| metrics.sum("tidegate_connection_attempts_total", outcome);
        Self {
            connections: metrics.sum("tidegate_connections", "kind=\"device\""),
            accepted: attempts("\"accepted\""),
            turned_away: attempts("\"draining\""),
        }
    }
}

impl Devices {
    fn of(metrics: &Metrics) -> Self {
        Self {
            connected: metrics.sum("tidegate_loadtest_devices_connected", ""),
            failures: metrics.sum("tidegate_loadtest_connect_failures_total", ""),
        }
    }
}

/// Handshakes taken between each second and the one before it: how many, and in how long, s.
fn arrivals(seconds: &[Second]) -> Vec<(f64, f64)> {
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    let mut arrivals = Vec::new();
    for (number, second) in seconds.iter().enumerate() {
        let mut count = 0;
        for (name, seen) in &second.nodes {
            // Of one that did not answer for a second it is the last that is known.
            let last = before.insert(name.clone(), seen.accepted).unwrap_or(0);
            count += seen.accepted.saturating_sub(last);
        }
        if let Some(last) = number.checked_sub(1).and_then(|number| seconds.get(number)) {
            arrivals.push((count as f64, second.at.duration_since(last.at).as_secs_f64()));
        }
    }
    arrivals
}

/// The highest rate of any so many neighbours; of all where there are fewer.
fn peak(arrivals: &[(f64, f64)], stretch: usize) -> f64 {
    let rates = arrivals.windows(stretch.clamp(1, arrivals.len().max(1))).map(|window| {
        let (count, time) = window.iter().fold((0.0, 0.0), |(count, time), (more, took)| (count + more, time + took));
        if time > 0.0 { count / time } else { 0.0 }
    });
    rates.fold(0.0, f64::max)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_what_all_nodes_took_since_the_second_before() {
        let began = Instant::now();
        let second = |at: u64, nodes: &[(&str, u64)]| Second {
            at: began + Duration::from_secs(at),
            nodes: nodes
                .iter()
                .map(|(name, accepted)| ((*name).to_owned(), Seen { accepted: *accepted, ..Seen::default() }))
                .collect(),
            devices: None,
        };
        let seconds = [
            second(0, &[("a", 100), ("b", 50)]),
            second(1, &[("a", 110), ("b", 50)]),
            // One does not answer for a moment, and a new one is there.
            second(2, &[("b", 55), ("c", 7)]),
            second(4, &[("a", 130), ("b", 55), ("c", 7)]),
        ];
        assert_eq!(arrivals(&seconds), [(10.0, 1.0), (12.0, 1.0), (20.0, 2.0)]);
    }

    #[test]
    fn a_peak_is_of_a_stretch_of_seconds() {
        let arrivals = [(10.0, 1.0), (30.0, 1.0), (20.0, 2.0)];
        assert_eq!((peak(&arrivals, 1), peak(&arrivals, 2), peak(&arrivals, 9), peak(&[], 3)), (30.0, 20.0, 15.0, 0.0));
    }
}
