//! Every metric of the gateway, its name spelt once.
//!
//! Each series is made when the program starts and found by the index of a closed enum, so counting on the hot path is
//! one atomic addition: no label is hashed and no lock taken. Nothing here takes a device, a tenant or an address.

mod labels;
mod make;
mod tally;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

pub use labels::{
    AnswerOutcome, AttemptOutcome, CommandOutcome, CommandRoute, ConnectionState, CutShort, DisconnectReason,
    EventLoss, Initiator, Label, OwnershipOp, OwnershipOutcome, PausedCode, PeerKind, PeerOutcome, ProbePath,
    PublishOutcome, PublishTopic, ReadOutcome, Readiness, RebalanceState, ReceivedType, RefusedCode, SecurityEvent,
    SentType, ShedReason, SpanOutcome,
};
use make::Maker;
pub use make::{Family, Grid, Metric};
pub use tally::Tally;

use super::traces::Tracer;

/// Why the metrics could not be made: two of one name, a mistake in this file.
pub type MetricsError = prometheus::Error;

/// Boundaries of what should take well under a second; 0.25 s and 1 s are the service level objectives.
const LATENCY_S: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Boundaries of how long connections live: a second to a week.
const LIFETIME_S: &[f64] = &[1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0, 604_800.0];

/// Boundaries of how long commands take: a loopback round trip to a day.
const COMMAND_S: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3_600.0, 86_400.0];

/// Something tried over and over.
pub struct Probe {
    success: IntGauge,
    age_s: Gauge,
    last_success_ms: AtomicU64,
}

/// All metrics of a node. Cheap to clone; the fields are the series.
#[derive(Clone)]
pub struct Metrics(Arc<Series>);

impl std::ops::Deref for Metrics {
    type Target = Series;

    fn deref(&self) -> &Series {
        &self.0
    }
}

/// The series, by name without `tidegate_`.
pub struct Series {
    /// Connections held.
    pub connections: Grid<ConnectionState, PeerKind, IntGauge>,
    /// Connections that were told to leave and are still here; they are counted as open, too.
    pub leaving_connections: Family<PeerKind, IntGauge>,
    /// Connections in TLS or HTTP.
    pub handshakes: IntGauge,
    /// How many of those there may be (`limits.max_handshakes`).
    pub handshakes_capacity: IntGauge,
    /// The most connections this node takes.
    pub connections_capacity: IntGauge,
    /// Attempts to connect, by how they ended.
    pub connection_attempts: Family<AttemptOutcome, IntCounter>,
    /// From accept to the 101, seconds; accepted ones only.
    pub handshake_duration: Histogram,
    /// From the 101 to the end, seconds.
    pub connection_lifetime: Histogram,
    /// From a WebSocket ping to its pong, seconds.
    pub ping_rtt: Histogram,
    /// Connections that ended.
    pub disconnects: Grid<Initiator, DisconnectReason, IntCounter>,
    /// Messages and control frames received.
    pub messages_received: Family<ReceivedType, IntCounter>,
    /// Payload bytes of the same, inflated.
    pub received_bytes: Family<ReceivedType, IntCounter>,
    /// Messages and control frames sent.
    pub messages_sent: Family<SentType, IntCounter>,
    /// Payload bytes of the same, before compression.
    pub sent_bytes: Family<SentType, IntCounter>,
    /// Commands that ended.
    pub commands: Grid<CommandRoute, CommandOutcome, IntCounter>,
    /// From a command's acceptance to its end, seconds.
    pub command_duration: Grid<CommandRoute, CommandOutcome, Histogram>,
    /// From a command's acceptance to its first sending, seconds, of those that ended; with the time its device was away.
    pub command_delivery: Family<CommandRoute, Histogram>,
    /// From a command's first sending to the first answer of its device, seconds, of those that ended.
    pub command_answer: Family<CommandRoute, Histogram>,
    /// Events of commands that will not be in the log. Ends that did not find room come again by the due sweep.
    pub command_events_dropped: Family<EventLoss, IntCounter>,
    /// Answers of devices to commands.
    pub command_answers: Family<AnswerOutcome, IntCounter>,
    /// Records that ended.
    pub publish: Grid<PublishTopic, PublishOutcome, IntCounter>,
    /// From a record's receipt to its end, seconds.
    pub publish_duration: Grid<PublishTopic, PublishOutcome, Histogram>,
    /// Records taken and not yet stored, by the topic they wait for.
    pub publish_topic_pending: Family<PublishTopic, IntGauge>,
    /// How long nothing was stored in a topic although something waits for it, seconds; 0 where nothing waits.
    pub publish_stalled_s: Family<PublishTopic, Gauge>,
    /// Records taken from devices and not yet stored.
    pub publish_pending_messages: IntGauge,
    /// How many there may be.
    pub publish_pending_messages_capacity: IntGauge,
    /// Bytes of the values of records taken and not yet stored.
    pub publish_pending_bytes: IntGauge,
    /// How many there may be (`limits.node_budget_bytes`).
    pub publish_pending_bytes_capacity: IntGauge,
    /// Producers replaced after a fatal error.
    pub producer_replacements: IntCounter,
    /// Messages refused for good.
    pub refused: Family<RefusedCode, IntCounter>,
    /// Connections told to hold their updates and not yet told to go on.
    pub paused_connections: Family<PausedCode, IntGauge>,
    /// What was asked of the directory of owners.
    pub ownership_operations: Grid<OwnershipOp, OwnershipOutcome, IntCounter>,
    /// How long it took, seconds.
    pub ownership_duration: Grid<OwnershipOp, OwnershipOutcome, Histogram>,
    /// Rows of connected devices found missing, older or another's.
    pub ownership_lost: IntCounter,
    /// Bytes received beyond the windows, unfinished, or waiting to be written.
    pub parked_bytes: IntGauge,
    /// How many there may be (`limits.parked_bytes`); above it the connection that brings more is ended (4100).
    pub parked_bytes_capacity: IntGauge,
    /// 1 while the node drains.
    pub draining: IntGauge,
    /// When the node began to drain, Unix seconds; 0 while it does not.
    pub drain_began: IntGauge,
    /// How long a drain may take, from unready to the last close: `drain.propagation_s` and `drain.budget_s`.
    pub drain_budget_s: IntGauge,
    /// Connections that were closed before their time to leave was over.
    pub drain_cut_short: Family<CutShort, IntCounter>,
    /// Connections the node itself sent away: told to leave by `goaway`, or ended at its memory cap (4100).
    pub shed: Family<ShedReason, IntCounter>,
    /// 1 for how it stands with this node's share of the devices, 0 for the others.
    pub rebalance_state: Family<RebalanceState, IntGauge>,
    /// Devices a node that is ready has on average, as this node hears with its lease; 0 where it compares with nobody.
    pub rebalance_mean: IntGauge,
    /// 1 for what `/readyz` says and why, 0 for the others.
    pub readiness: Family<Readiness, IntGauge>,
    /// Updates taken and not stored when the node had to stop; their devices send them again.
    pub shutdown_unacked: IntCounter,
    /// What somebody should look at who watches for attacks.
    pub security_events: Family<SecurityEvent, IntCounter>,
    /// Fetches of a JWKS that failed.
    pub jwks_refresh_failures: IntCounter,
    /// When the served certificate expires, Unix seconds; 0 where there is none.
    pub certificate_expiry: IntGauge,
    /// When the certificate that peers are shown expires, Unix seconds; 0 where there is none.
    pub peer_certificate_expiry: IntGauge,
    /// Records of the topic of commands, by what became of them; all but the accepted are in the topic of dead letters.
    pub commands_read: Family<ReadOutcome, IntCounter>,
    /// Blocked devices and revocations in force.
    pub revocations: IntGauge,
    /// Whether their topic could be read when it was tried last (1) or not (0); then the last state holds.
    pub revocations_readable: IntGauge,
    /// Calls to peers, by how they ended.
    pub peer_requests: Family<PeerOutcome, IntCounter>,
    /// How long they took, seconds.
    pub peer_request_duration: Family<PeerOutcome, Histogram>,
    /// Live nodes that this one can ask.
    pub peers: IntGauge,
    /// Log lines that could not be written.
    pub log_lines_lost: IntCounter,
    /// Spans of traces, by what became of them.
    pub trace_spans: Family<SpanOutcome, IntCounter>,
    /// What makes them; it goes where the metrics go.
    tracer: OnceLock<Tracer>,
    probes: Family<ProbePath, Arc<Probe>>,
    runtime_busy_s: Gauge,
    runtime_workers: IntGauge,
    runtime_tasks: IntGauge,
    runtimes: Mutex<Vec<tokio::runtime::Handle>>,
    started: Instant,
    registry: Registry,
}

impl Metrics {
    /// Makes every series, all at zero, in a registry of their own.
    ///
    /// # Errors
    /// [`MetricsError`] where two have one name; a mistake in this file that any start of the program shows.
    pub fn new() -> Result<Self, MetricsError> {
        let make = Maker { registry: Registry::new() };
        register_process(&make)?;
        Ok(Self(Arc::new(Series::make(make)?)))
    }

    /// Counts a message or control frame that came, with its payload's bytes.
    pub fn received(&self, kind: ReceivedType, bytes: usize) {
        self.messages_received.of(kind).inc();
        self.received_bytes.of(kind).inc_by(bytes as u64);
    }

    /// Counts a message or control frame that went, with its payload's bytes.
    pub fn sent(&self, kind: SentType, bytes: usize) {
        self.messages_sent.of(kind).inc();
        self.sent_bytes.of(kind).inc_by(bytes as u64);
    }

    /// Counts a record that ended `after` its receipt.
    pub fn published(&self, topic: PublishTopic, outcome: PublishOutcome, after: Duration) {
        self.publish.of(topic, outcome).inc();
        self.publish_duration.of(topic, outcome).observe(after.as_secs_f64());
    }

    /// Counts a command that ended `after` its acceptance.
    pub fn command_ended(&self, route: CommandRoute, outcome: CommandOutcome, after: Duration) {
        self.commands.of(route, outcome).inc();
        self.command_duration.of(route, outcome).observe(after.as_secs_f64());
    }

    /// Notes of a command that ended how long it took to be sent first, and from then to its first answer.
    pub fn command_answered(&self, route: CommandRoute, delivery: Option<Duration>, answer: Option<Duration>) {
        if let Some(after) = delivery {
            self.command_delivery.of(route).observe(after.as_secs_f64());
        }
        if let Some(after) = answer {
            self.command_answer.of(route).observe(after.as_secs_f64());
        }
    }

    /// Counts a call to the directory of owners that took so long.
    pub fn owned(&self, op: OwnershipOp, outcome: OwnershipOutcome, took: Duration) {
        self.ownership_operations.of(op, outcome).inc();
        self.ownership_duration.of(op, outcome).observe(took.as_secs_f64());
    }

    /// Notes how a probe ended; its age is measured from here.
    pub fn probed(&self, path: ProbePath, success: bool) {
        let probe = self.probes.of(path);
        probe.success.set(i64::from(success));
        if success {
            probe.last_success_ms.store(self.uptime_ms(), Ordering::Relaxed);
        }
    }

    /// Whether the last probe came back, and since when one last did; before the first, since the start.
    pub fn probe_state(&self, path: ProbePath) -> (bool, Duration) {
        let probe = self.probes.of(path);
        let age_ms = self.uptime_ms().saturating_sub(probe.last_success_ms.load(Ordering::Relaxed));
        (probe.success.get() == 1, Duration::from_millis(age_ms))
    }

    /// Counts a call to a peer that took so long.
    pub fn asked_peer(&self, outcome: PeerOutcome, took: Duration) {
        self.peer_requests.of(outcome).inc();
        self.peer_request_duration.of(outcome).observe(took.as_secs_f64());
    }

    /// Has spans made from here on; to be told once.
    pub fn trace_with(&self, tracer: Tracer) {
        // Told twice the first counts.
        let _ = self.tracer.set(tracer);
    }

    /// What makes spans; nothing where nobody wants any.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    /// Adds a runtime whose busy time is reported.
    pub fn watch_runtime(&self, runtime: tokio::runtime::Handle) {
        if let Ok(mut runtimes) = self.runtimes.lock() {
            runtimes.push(runtime);
        }
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.refresh();
        let mut text = String::with_capacity(64 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be written as text");
        }
        text
    }

    /// Brings what is computed only when asked for up to date.
    fn refresh(&self) {
        for path in ProbePath::ALL {
            self.probes.of(*path).age_s.set(self.probe_state(*path).1.as_secs_f64());
        }
        if let Ok(runtimes) = self.runtimes.lock() {
            let metrics = || runtimes.iter().map(tokio::runtime::Handle::metrics);
            let workers: usize = metrics().map(|m| m.num_workers()).sum();
            let busy: Duration =
                metrics().flat_map(|m| (0..m.num_workers()).map(move |i| m.worker_total_busy_duration(i))).sum();
            self.runtime_busy_s.set(busy.as_secs_f64());
            self.runtime_workers.set(i64::try_from(workers).unwrap_or(i64::MAX));
            let tasks: usize = metrics().map(|m| m.num_alive_tasks()).sum();
            self.runtime_tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Series {
    #[rustfmt::skip] // One metric a line reads as the table it is.
    fn make(make: Maker) -> Result<Self, MetricsError> {
        Ok(Self {
            connections: make.grid("connections", "Connections held.", ("state", "kind"), &[])?,
            leaving_connections: make.family("leaving_connections", "Connections told to leave that are still here; also among the open ones.", "kind")?,
            handshakes: make.plain("handshakes", "Connections in TLS or HTTP.")?,
            handshakes_capacity: make.plain("handshakes_capacity", "How many connections may be in TLS or HTTP.")?,
            connections_capacity: make.plain("connections_capacity", "The most connections this node takes.")?,
            connection_attempts: make.family("connection_attempts_total", "Attempts to connect, by how they ended.", "outcome")?,
            handshake_duration: make.one("handshake_duration_seconds", "From accept to the 101.", &[], LATENCY_S)?,
            connection_lifetime: make.one("connection_lifetime_seconds", "From the 101 to the end.", &[], LIFETIME_S)?,
            ping_rtt: make.one("ping_rtt_seconds", "From a ping to its pong.", &[], LATENCY_S)?,
            disconnects: make.grid("disconnects_total", "Connections that ended.", ("initiator", "reason"), &[])?,
            messages_received: make.family("messages_received_total", "Messages and control frames received.", "type")?,
            received_bytes: make.family("messages_received_bytes_total", "Payload bytes received, inflated.", "type")?,
            messages_sent: make.family("messages_sent_total", "Messages and control frames sent.", "type")?,
            sent_bytes: make.family("messages_sent_bytes_total", "Payload bytes sent, before compression.", "type")?,
            commands: make.grid("commands_total", "Commands that ended.", ("route", "outcome"), &[])?,
            command_duration: make.grid("command_duration_seconds", "From a command's acceptance to its end.", ("route", "outcome"), COMMAND_S)?,
            command_delivery: make.timed("command_delivery_seconds", "From a command's acceptance to its first sending.", "route", COMMAND_S)?,
            command_answer: make.timed("command_answer_seconds", "From a command's first sending to the first answer.", "route", COMMAND_S)?,
            command_events_dropped: make.family("command_events_dropped_total", "Events of commands that will not be in the log.", "reason")?,
            command_answers: make.family("command_answers_total", "Answers of devices to commands, by what became of them.", "outcome")?,
            publish: make.grid("publish_total", "Records that ended.", ("topic", "outcome"), &[])?,
            publish_duration: make.grid("publish_duration_seconds", "From a record's receipt to its end.", ("topic", "outcome"), LATENCY_S)?,
            publish_topic_pending: make.family("publish_topic_pending_messages", "Records taken and not yet stored, by topic.", "topic")?,
            publish_stalled_s: make.family("publish_stalled_seconds", "How long nothing was stored in a topic although something waits.", "topic")?,
            publish_pending_messages: make.plain("publish_pending_messages", "Records taken from devices and not yet stored.")?,
            publish_pending_messages_capacity: make.plain("publish_pending_messages_capacity", "How many records may be pending.")?,
            publish_pending_bytes: make.plain("publish_pending_bytes", "Bytes taken from devices and not yet stored.")?,
            publish_pending_bytes_capacity: make.plain("publish_pending_bytes_capacity", "How many bytes may be pending.")?,
            producer_replacements: make.plain("producer_replacements_total", "Producers replaced after a fatal error.")?,
            refused: make.family("refused_total", "Messages refused for good.", "code")?,
            paused_connections: make.family("paused_connections", "Connections told to hold their updates.", "code")?,
            ownership_operations: make.grid("ownership_operations_total", "What was asked of the directory of owners.", ("op", "outcome"), &[])?,
            ownership_duration: make.grid("ownership_duration_seconds", "How long that took.", ("op", "outcome"), LATENCY_S)?,
            ownership_lost: make.plain("ownership_lost_total", "Rows of connected devices found missing, older or another's.")?,
            parked_bytes: make.plain("parked_bytes", "Bytes received beyond the windows, unfinished, or waiting to be written.")?,
            parked_bytes_capacity: make.plain("parked_bytes_capacity", "How many bytes may be parked.")?,
            draining: make.plain("draining", "1 while the node drains.")?,
            drain_began: make.plain("drain_began_timestamp_seconds", "When the node began to drain; 0 while it does not.")?,
            drain_budget_s: make.plain("drain_budget_seconds", "How long a drain may take, from unready to the last close.")?,
            drain_cut_short: make.family("drain_cut_short_total", "Connections closed before their time to leave was over.", "cause")?,
            shed: make.family("shed_total", "Connections told to leave (goaway), or ended at the memory cap (4100).", "reason")?,
            rebalance_state: make.family("rebalance_state", "1 for how it stands with this node's share of the devices.", "state")?,
            rebalance_mean: make.plain("rebalance_mean_connections", "Devices a ready node has on average; 0 where this one compares with nobody.")?,
            readiness: make.family("readiness", "1 for what /readyz says and why, 0 for the others.", "reason")?,
            shutdown_unacked: make.plain("shutdown_unacked_total", "Updates taken and not stored when the node had to stop.")?,
            security_events: make.family("security_events_total", "What somebody should look at who watches for attacks.", "event")?,
            jwks_refresh_failures: make.plain("jwks_refresh_failures_total", "Fetches of a JWKS that failed.")?,
            certificate_expiry: make.plain("certificate_expiry_timestamp_seconds", "When the served certificate expires; 0 without one.")?,
            peer_certificate_expiry: make.plain("peer_certificate_expiry_timestamp_seconds", "When the certificate for peers expires; 0 without one.")?,
            commands_read: make.family("commands_read_total", "Records of the topic of commands; all but the accepted are dead letters.", "outcome")?,
            revocations: make.plain("revocations", "Blocked devices and revocations in force.")?,
            revocations_readable: make.plain("revocations_readable", "1 while their topic can be read; else the last state holds.")?,
            peer_requests: make.family("peer_requests_total", "Calls to peers, by how they ended.", "outcome")?,
            peer_request_duration: make.timed("peer_request_duration_seconds", "How long they took.", "outcome", LATENCY_S)?,
            peers: make.plain("peers", "Live nodes that this one can ask.")?,
            log_lines_lost: make.plain("log_lines_lost_total", "Log lines that could not be written.")?,
            trace_spans: make.family("trace_spans_total", "Spans of traces, by what became of them.", "outcome")?,
            tracer: OnceLock::new(),
            probes: Family {
                series: ProbePath::ALL.iter().map(|path| probe(&make, *path)).collect::<Result<_, _>>()?,
                label: PhantomData,
            },
            runtime_busy_s: make.plain("runtime_busy_seconds", "Time the runtime's workers were busy; its rate over the workers is the busy ratio.")?,
            runtime_workers: make.plain("runtime_workers", "Worker threads of the runtime.")?,
            runtime_tasks: make.plain("runtime_tasks", "Tasks alive: about one a connection, and those of the node itself.")?,
            runtimes: Mutex::new(Vec::new()),
            started: Instant::now(),
            registry: make.registry,
        })
    }
}

/// What is tried over and over on one path.
fn probe(make: &Maker, path: ProbePath) -> Result<Arc<Probe>, MetricsError> {
    let labels = [("path", path.as_str())];
    Ok(Arc::new(Probe {
        success: make.one("probe_success", "Whether the last probe came back (1) or not (0).", &labels, &[])?,
        age_s: make.one("probe_age_seconds", "Since the last probe that came back.", &labels, &[])?,
        last_success_ms: AtomicU64::new(0),
    }))
}

fn register_process(make: &Maker) -> Result<(), MetricsError> {
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    make.one::<IntGauge>("build_info", "The version that runs.", &build, &[])?.set(1);
    #[cfg(target_os = "linux")]
    make.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn series(text: &str) -> usize {
        text.lines().filter(|line| !line.starts_with('#')).count()
    }

    /// What `devices` devices do to the metrics, each with a name of its own.
    fn busy_node(devices: u64) -> Metrics {
        let metrics = Metrics::new().unwrap();
        for device in 0..devices {
            metrics.connection_attempts.of(AttemptOutcome::Accepted).inc();
            metrics.connections.of(ConnectionState::Open, PeerKind::Device).inc();
            metrics.received(ReceivedType::Update, 150);
            metrics.published(PublishTopic::Telemetry, PublishOutcome::Stored, Duration::from_millis(device));
            let code = 4900 + u16::try_from(device % 100).unwrap();
            metrics.disconnects.of(Initiator::Client, DisconnectReason::from_code(code)).inc();
        }
        metrics
    }

    #[test]
    fn five_thousand_devices_make_no_more_series_than_fifty() {
        let (few, many) = (busy_node(50).render(), busy_node(5_000).render());
        assert_eq!(series(&few), series(&many));
        assert!(many.contains("tidegate_connections{kind=\"device\",state=\"open\"} 5000"), "{many}");
        assert!(many.contains("tidegate_disconnects_total{initiator=\"client\",reason=\"other\"} 5000"), "{many}");
    }

    #[test]
    fn every_label_value_stands_at_its_own_index_and_is_unlike_the_others() {
        fn check<L: Label + std::fmt::Debug>() {
            let names: std::collections::HashSet<_> = L::ALL.iter().map(|l| l.as_str()).collect();
            assert_eq!(names.len(), L::ALL.len());
            L::ALL.iter().enumerate().for_each(|(at, label)| assert_eq!(label.index(), at, "{label:?}"));
        }
        check::<DisconnectReason>();
        check::<AttemptOutcome>();
        check::<ReceivedType>();
        check::<SentType>();
        check::<RefusedCode>();
        check::<SecurityEvent>();
        check::<CommandOutcome>();
        check::<AnswerOutcome>();
        check::<ShedReason>();
        check::<RebalanceState>();
        check::<Readiness>();
        check::<CutShort>();
        check::<EventLoss>();
        check::<SpanOutcome>();
    }

    #[test]
    fn the_names_that_dashboards_hold_on_to_are_there() {
        let metrics = Metrics::new().unwrap();
        let text = metrics.render();
        for name in [
            "tidegate_connections{kind=\"app\",state=\"closing\"}",
            "tidegate_connection_attempts_total{outcome=\"unauthorized\"}",
            "tidegate_handshake_duration_seconds_bucket{le=\"0.25\"}",
            "tidegate_connection_lifetime_seconds_count",
            "tidegate_ping_rtt_seconds_count",
            "tidegate_disconnects_total{initiator=\"gateway\",reason=\"heartbeat_lost\"}",
            "tidegate_messages_received_total{type=\"update\"}",
            "tidegate_messages_received_bytes_total{type=\"update\"}",
            "tidegate_messages_sent_total{type=\"ack\"}",
            "tidegate_messages_sent_bytes_total{type=\"ack\"}",
            "tidegate_publish_total{outcome=\"stored\",topic=\"telemetry\"}",
            "tidegate_publish_duration_seconds_bucket{outcome=\"stored\",topic=\"telemetry\",le=\"0.25\"}",
            "tidegate_publish_duration_seconds_bucket{outcome=\"stored\",topic=\"telemetry\",le=\"1\"}",
            "tidegate_publish_pending_messages 0",
            "tidegate_publish_pending_bytes_capacity 0",
            "tidegate_commands_total{outcome=\"succeeded\",route=\"local\"} 0",
            "tidegate_command_duration_seconds_bucket{outcome=\"outcome_unknown\",route=\"queued\",le=\"0.25\"} 0",
            "tidegate_command_answers_total{outcome=\"late\"} 0",
            "tidegate_refused_total{code=\"malformed\"}",
            "tidegate_paused_connections{code=\"log\"}",
            "tidegate_probe_success{path=\"kafka\"} 0",
            "tidegate_probe_age_seconds{path=\"kafka\"}",
            "tidegate_ownership_operations_total{op=\"claim\",outcome=\"ok\"} 0",
            "tidegate_ownership_duration_seconds_bucket{op=\"claim\",outcome=\"ok\",le=\"1\"} 0",
            "tidegate_ownership_lost_total 0",
            "tidegate_draining 0",
            "tidegate_shed_total{reason=\"rebalance\"} 0",
            "tidegate_rebalance_state{state=\"shedding\"} 0",
            "tidegate_rebalance_mean_connections 0",
            "tidegate_leaving_connections{kind=\"device\"} 0",
            "tidegate_drain_budget_seconds 0",
            "tidegate_drain_cut_short_total{cause=\"budget\"} 0",
            "tidegate_command_delivery_seconds_bucket{route=\"peer\",le=\"1\"} 0",
            "tidegate_command_answer_seconds_bucket{route=\"local\",le=\"1\"} 0",
            "tidegate_command_events_dropped_total{reason=\"queue\"} 0",
            "tidegate_publish_topic_pending_messages{topic=\"status\"} 0",
            "tidegate_publish_stalled_seconds{topic=\"telemetry\"} 0",
            "tidegate_peer_certificate_expiry_timestamp_seconds 0",
            "tidegate_handshakes_capacity 0",
            "tidegate_parked_bytes_capacity 0",
            "tidegate_readiness{reason=\"starting\"} 0",
            "tidegate_peer_requests_total{outcome=\"unreachable\"} 0",
            "tidegate_peer_request_duration_seconds_bucket{outcome=\"ok\",le=\"0.25\"} 0",
            "tidegate_peers 0",
            "tidegate_commands_read_total{outcome=\"queue_full\"} 0",
            "tidegate_revocations 0",
            "tidegate_revocations_readable 0",
            "tidegate_trace_spans_total{outcome=\"dropped\"} 0",
            "tidegate_build_info{version=",
            "tidegate_runtime_busy_seconds",
            "tidegate_runtime_tasks",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }

    #[test]
    fn a_probe_that_came_back_is_young_and_one_that_failed_keeps_its_age() {
        let metrics = Metrics::new().unwrap();
        assert!(!metrics.probe_state(ProbePath::Kafka).0, "no probe yet is no success");
        metrics.probed(ProbePath::Kafka, true);
        let at_success = metrics.probes.of(ProbePath::Kafka).last_success_ms.load(Ordering::Relaxed);
        metrics.probed(ProbePath::Kafka, false);
        assert!(!metrics.probe_state(ProbePath::Kafka).0);
        assert_eq!(metrics.probes.of(ProbePath::Kafka).last_success_ms.load(Ordering::Relaxed), at_success);
    }
}
