//! Made-up runs for whoever shows runs: ten minutes of 1,500 devices, one that went well and one that did not.

use std::sync::Arc;
use std::time::Duration;

use tidegate_loadtest::figures::{CommandVerdict, Count, Figures, Finding, Moment, Outcome, Progress, Timing, Verdict};
use tidegate_loadtest::threshold::{Threshold, judge};

const SECONDS: u32 = 600;
const DEVICES: u64 = 1500;

/// Numbers that look like chance, and are the same each time.
struct Noise(u64);

impl Noise {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

/// One second; around the fifth minute a node goes down where `trouble` is.
fn moment(second: u32, trouble: bool, noise: &mut Noise) -> Moment {
    let wanted = DEVICES.min(u64::from(second) * 50);
    let since = f64::from(second) - 300.0;
    let hurt = if trouble && (0.0..45.0).contains(&since) { (-since / 12.0).exp() } else { 0.0 };
    let connected = (wanted as f64 * (1.0 - 0.33 * hurt)) as u64;
    let sent = (connected as f64 * (0.95 + 0.1 * noise.next())) as u64;
    let p50 = 2.4 + noise.next() + 30.0 * hurt;
    Moment {
        at_s: f64::from(second),
        wanted,
        connected,
        paused: (80.0 * hurt) as u64,
        in_flight: (sent as f64 * p50 / 1000.0 * 3.0) as u64,
        connects: if second <= 30 { 50 } else { (4.0 * noise.next() + 120.0 * hurt) as u64 },
        failures: (3.0 * noise.next() * hurt * 40.0) as u64,
        sent,
        acked: (sent as f64 * (1.0 - 0.2 * hurt)) as u64,
        refused: u64::from(hurt > 0.9) * 7,
        commands: (6.0 + 4.0 * noise.next()) as u64,
        ack_p50_ms: p50,
        ack_p99_ms: p50 * (4.0 + 6.0 * noise.next()) + 300.0 * hurt,
    }
}

fn figures(series: &[Moment], trouble: bool, noise: &mut Noise) -> Figures {
    let mut figures = Figures::default();
    let total = |part: fn(&Moment) -> u64| series.iter().map(part).sum::<u64>();
    figures.count(Count::Connects, total(|moment| moment.connects));
    figures.count(Count::ConnectFailures, total(|moment| moment.failures));
    figures.count(Count::Reconnects, total(|moment| moment.connects).saturating_sub(DEVICES));
    figures.count(Count::Sent, total(|moment| moment.sent));
    figures.count(Count::Acked, total(|moment| moment.acked));
    figures.count(Count::Refused, total(|moment| moment.refused));
    figures.count(Count::CommandsAsked, total(|moment| moment.commands));
    figures.count(Count::CommandsDone, total(|moment| moment.commands));
    figures.count(Count::BytesSent, total(|moment| moment.sent) * 142);
    figures.count(Count::BytesReceived, total(|moment| moment.acked) * 31);
    for _ in 0..60_000 {
        // A long tail, as latencies have.
        let ms = 1.2 + 3.0 * noise.next() + 0.6 / (1.0001 - noise.next()).powf(0.8) * if trouble { 2.0 } else { 0.5 };
        let late = 0.02 / (1.001 - noise.next());
        figures.time(Timing::Ack, Duration::from_secs_f64((ms + late) / 1e3));
        figures.time(Timing::AckUncorrected, Duration::from_secs_f64(ms / 1e3));
        figures.time(Timing::Lateness, Duration::from_secs_f64(late / 1e3));
    }
    for _ in 0..4000 {
        figures.time(Timing::Connect, Duration::from_secs_f64((6.0 + 4.0 / (1.01 - noise.next())) / 1e3));
        figures.time(Timing::Tls, Duration::from_secs_f64((3.0 + 1.0 / (1.01 - noise.next())) / 1e3));
        figures.time(Timing::Command, Duration::from_secs_f64((5.0 + 6.0 / (1.01 - noise.next())) / 1e3));
    }
    if trouble {
        for _ in 0..700 {
            figures.time(Timing::Reconnect, Duration::from_secs_f64(0.2 + 6.0 * noise.next() * noise.next()));
        }
        figures.count(Count::Disconnects, 700);
        [(1012, 412), (4000, 188), (4002, 60), (1006, 40)].into_iter().for_each(|(code, count)| {
            figures.closes.insert(code, count);
        });
        for (text, count) in [
            ("connection refused", 310),
            ("the gateway answered 503 with <b>Retry-After: 4</b> & asked to come back", 88),
            ("connection reset by peer", 12),
        ] {
            figures.errors.insert(text.to_owned(), count);
        }
    }
    figures
}

fn outcome(trouble: bool) -> Outcome {
    let mut noise = Noise(7);
    let series: Vec<Moment> = (0..=SECONDS).map(|second| moment(second, trouble, &mut noise)).collect();
    let figures = figures(&series, trouble, &mut noise);
    let acked = figures.counted(Count::Acked);
    let commands = figures.counted(Count::CommandsDone);
    let mut outcome = Outcome {
        profile: "steady".to_owned(),
        about: "the same load for as long as it takes, one update a second from each device".to_owned(),
        target: "wss://gateway.example:8443".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: "tidegate-loadtest run steady --target wss://gateway.example:8443 --devices 1500 --duration 600s \
                  --kafka kafka.example:9092 --threshold 'p99(ack) < 40ms'"
            .to_owned(),
        profile_text: "name = \"steady\"\n\n[devices]\ncount = 1500\nconnect_per_s = 50\n\n[updates]\nevery_s = 1.0\n"
            .to_owned(),
        began_ms: 1_772_357_400_000,
        took: Duration::from_secs(u64::from(SECONDS)),
        devices: DEVICES,
        workers: 2,
        ledger: Some(Verdict {
            acked,
            stored: acked,
            commands: CommandVerdict { accepted: commands, succeeded: commands, ..CommandVerdict::default() },
            complete: true,
            ..Verdict::default()
        }),
        figures,
        series,
        ..Outcome::default()
    };
    judged(&mut outcome);
    outcome
}

fn judged(outcome: &mut Outcome) {
    let texts = ["p99(ack) < 40ms", "p99(connect) < 2s", "p99(reconnect) < 10s", "lost == 0"];
    // What nobody had to do again in the good run is no threshold there.
    let asked = texts.into_iter().filter(|text| !outcome.figures.closes.is_empty() || !text.contains("reconnect"));
    let thresholds: Vec<Threshold> = asked.filter_map(|text| text.parse().ok()).collect();
    outcome.thresholds = judge(&thresholds, outcome);
}

/// A run in which all is well.
pub(crate) fn passed() -> Outcome {
    outcome(false)
}

/// A run in which a node went down: three updates lost, a threshold breached, a generator that was late.
pub(crate) fn failed() -> Outcome {
    let mut outcome = outcome(true);
    if let Some(verdict) = &mut outcome.ledger {
        verdict.stored -= 3;
        for (device, seq) in [("device-000017", 311), ("device-000902", 300), ("device-001311", 304)] {
            verdict.lost.add(|| format!("{device} b1:{seq} acked at 5:01, not in the topic"));
        }
        verdict.commands.answered_twice =
            Finding { count: 1, first: vec!["device-000004 c-81: succeeded, then failed".to_owned()] };
    }
    judged(&mut outcome);
    outcome.warnings = vec![
        "The generator was the bottleneck for 12 s: 1 % of what was due went out more than 10 ms late. \
                             Give it more workers or a machine of its own."
            .to_owned(),
    ];
    outcome
}

/// The troubled run as it is seen in its sixth minute.
#[allow(dead_code, reason = "not every test that shares this file needs it")]
pub(crate) fn progress() -> Progress {
    progress_of(&failed())
}

/// A run as it was in its sixth minute.
#[allow(dead_code, reason = "not every test that shares this file needs it")]
pub(crate) fn progress_of(outcome: &Outcome) -> Progress {
    Progress {
        profile: outcome.profile.clone(),
        target: outcome.target.clone(),
        phase: "running".to_owned(),
        elapsed: Duration::from_secs(305),
        total: outcome.took,
        now: outcome.series[305],
        figures: Arc::new(outcome.figures.clone()),
        warnings: outcome.warnings.clone(),
    }
}
