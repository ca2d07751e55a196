//! What the samples of every second come to: progress to be shown, curves, and whether the run is worth going on with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tally::Sample;
use crate::figures::{Count, Figures, Moment, Progress, Timing};

/// Seconds of a curve before every other one is left out.
const SERIES: usize = 7_200;
/// A generator that is later than this with one in a hundred of what is due falsifies what it measures.
const LATE_MS: f64 = 50.0;
/// The same for the share of its threads' time that it uses.
const BUSY: f64 = 0.9;
/// Seconds for which it must be so, of the last ten.
const OFTEN: u32 = 3;
/// Failures at the beginning after which a gateway that takes no token is believed.
const UNWELCOME: u64 = 3;
/// How long fewer are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a run is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Trouble {
    /// The gateway takes none of the tokens.
    Unwelcome(String),
    /// The gateway's certificate is not trusted.
    Untrusted(String),
    /// Nobody answers any more.
    Gone(String),
}

/// The run as it is known so far.
pub(super) struct Collector {
    pub(super) profile: String,
    pub(super) target: String,
    pub(super) total: Duration,
    pub(super) began: Instant,
    pub(super) figures: Arc<Figures>,
    pub(super) series: Vec<Moment>,
    pub(super) warnings: Vec<String>,
    give_up: Duration,
    /// One of so many samples goes into the curve.
    stride: usize,
    samples: usize,
    /// Bits of the last seconds: late, busy.
    late: u32,
    busy: u32,
    unwelcome: Option<Trouble>,
    /// When a device was last connected.
    heard: Instant,
    /// When one could not connect.
    failed: Option<Instant>,
}

impl Collector {
    pub(super) fn new(profile: &str, target: &str, total: Duration, began: Instant, give_up: Duration) -> Self {
        Self {
            profile: profile.to_owned(),
            target: target.to_owned(),
            total,
            began,
            figures: Arc::default(),
            series: Vec::new(),
            warnings: Vec::new(),
            give_up,
            stride: 1,
            samples: 0,
            late: 0,
            busy: 0,
            unwelcome: None,
            heard: began,
            failed: None,
        }
    }

    /// Says something once.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Takes what was counted since the last time.
    pub(super) fn take(&mut self, sample: &Sample, phase: &str, now: Instant) -> Progress {
        Arc::make_mut(&mut self.figures).merge(&sample.figures);
        self.judge(sample);
        if sample.unwelcome.is_some() {
            self.unwelcome.clone_from(&sample.unwelcome);
        }
        if sample.gauges.connected > 0 || sample.counted(Count::Connects) > 0 {
            self.heard = now;
        }
        if sample.counted(Count::ConnectFailures) > 0 {
            self.failed = Some(now);
        }
        let moment = self.moment(sample, now);
        if self.samples.is_multiple_of(self.stride) {
            self.series.push(moment);
        }
        self.samples += 1;
        if self.series.len() >= SERIES {
            let mut number = 0;
            self.series.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.stride *= 2;
        }
        self.progress(moment, phase, now)
    }

    /// How it stands while nothing is counted.
    pub(super) fn progress(&self, moment: Moment, phase: &str, now: Instant) -> Progress {
        Progress {
            profile: self.profile.clone(),
            target: self.target.clone(),
            phase: phase.to_owned(),
            elapsed: now.saturating_duration_since(self.began),
            total: self.total,
            now: moment,
            figures: Arc::clone(&self.figures),
            warnings: self.warnings.clone(),
        }
    }

    fn moment(&self, sample: &Sample, now: Instant) -> Moment {
        let ack = sample.figures.timing(Timing::Ack);
        let at = |percent| if ack.is_empty() { 0.0 } else { ack.value_at_percentile(percent) as f64 / 1e3 };
        Moment {
            at_s: now.saturating_duration_since(self.began).as_secs_f64(),
            wanted: sample.gauges.wanted,
            connected: sample.gauges.connected,
            paused: sample.gauges.paused,
            in_flight: sample.gauges.in_flight,
            connects: sample.counted(Count::Connects),
            failures: sample.counted(Count::ConnectFailures) + sample.counted(Count::Disconnects),
            sent: sample.counted(Count::Sent),
            acked: sample.counted(Count::Acked),
            refused: sample.counted(Count::Refused),
            commands: sample.counted(Count::CommandsDone),
            ack_p50_ms: at(50.0),
            ack_p99_ms: at(99.0),
        }
    }

    /// Whether the generator is what is slow.
    fn judge(&mut self, sample: &Sample) {
        let lateness = sample.figures.timing(Timing::Lateness);
        let late = !lateness.is_empty() && lateness.value_at_percentile(99.0) as f64 / 1e3 > LATE_MS;
        self.late = self.late << 1 | u32::from(late);
        self.busy = self.busy << 1 | u32::from(sample.cpu > BUSY);
        let often = |bits: u32| (bits & 0x3ff).count_ones() >= OFTEN;
        if often(self.late) {
            self.warn(format!(
                "the generator was the bottleneck: one in a hundred of its updates was due more than {LATE_MS:.0} ms \
                 before it was handed over; latencies contain that. Give it more --threads or --workers, or other cores \
                 than the target's"
            ));
        }
        if often(self.busy) {
            self.warn(
                "the generator was the bottleneck: its threads had no time left. Give it more --threads or --workers",
            );
        }
    }

    /// Why there is no point in going on, if there is none.
    pub(super) fn trouble(&self, now: Instant) -> Option<Trouble> {
        let (connects, failures) =
            (self.figures.counted(Count::Connects), self.figures.counted(Count::ConnectFailures));
        if self.unwelcome.is_some()
            && connects == 0
            && (failures >= UNWELCOME || now.saturating_duration_since(self.began) > PATIENCE)
        {
            return self.unwelcome.clone();
        }
        let silent = now.saturating_duration_since(self.heard);
        // Devices that sleep are silent too, and do not fail to connect.
        let failing = self.failed.is_some_and(|at| now.saturating_duration_since(at) <= self.give_up);
        if silent < self.give_up || !failing {
            return None;
        }
        let worst = self.figures.errors.iter().filter(|(text, _)| text.starts_with("connecting:"));
        let why = worst.max_by_key(|(_, n)| **n).map_or("no device is connected", |(text, _)| text);
        Some(Trouble::Gone(format!("for {} s no device has had a connection ({why})", silent.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector() -> Collector {
        Collector::new("p", "t", Duration::from_secs(60), Instant::now(), Duration::from_secs(10))
    }

    fn sample(connected: u64, connects: u64, failures: u64) -> Sample {
        let mut sample = Sample::default();
        sample.gauges.connected = connected;
        sample.figures.count(Count::Connects, connects);
        sample.figures.count(Count::ConnectFailures, failures);
        sample
    }

    #[test]
    fn a_target_that_is_gone_for_long_is_given_up_and_one_that_comes_back_is_not() {
        let mut collector = collector();
        let at = |s| collector_start(&collector) + Duration::from_secs(s);
        let (first, second, third, fourth) = (at(1), at(8), at(10), at(14));
        collector.take(&sample(5, 5, 0), "", first);
        collector.take(&sample(0, 0, 5), "", second);
        assert_eq!(collector.trouble(third), None);
        assert!(matches!(collector.trouble(fourth), Some(Trouble::Gone(_))));
        collector.take(&sample(3, 3, 0), "", fourth);
        assert_eq!(collector.trouble(fourth), None);
    }

    fn collector_start(collector: &Collector) -> Instant {
        collector.began
    }

    #[test]
    fn a_gateway_that_takes_no_token_is_known_at_once_but_not_after_it_took_one() {
        let refused = Sample { unwelcome: Some(Trouble::Unwelcome("refused with 401".into())), ..sample(0, 0, 3) };
        let mut first = collector();
        let now = first.began;
        first.take(&refused, "", now);
        assert!(matches!(first.trouble(now), Some(Trouble::Unwelcome(_))));
        let mut later = collector();
        later.take(&sample(1, 1, 0), "", now);
        later.take(&refused, "", now);
        assert_eq!(later.trouble(now), None);
    }

    #[test]
    fn a_generator_that_is_late_for_some_seconds_says_so_once() {
        let mut collector = collector();
        let mut late = sample(1, 0, 0);
        late.figures.time(Timing::Lateness, Duration::from_millis(200));
        let now = collector.began;
        collector.take(&late, "", now);
        assert!(collector.warnings.is_empty());
        (0..5).for_each(|_| drop(collector.take(&late, "", now)));
        assert_eq!(collector.warnings.len(), 1, "{:?}", collector.warnings);
    }

    #[test]
    fn a_long_run_keeps_its_curve_bounded() {
        let mut collector = collector();
        let now = collector.began;
        for second in 0..30_000 {
            collector.take(&sample(1, 1, 0), "", now + Duration::from_secs(second));
        }
        assert!(collector.series.len() < SERIES, "{}", collector.series.len());
        assert!(collector.series.windows(2).all(|pair| pair[0].at_s < pair[1].at_s));
        assert!(collector.series.last().is_some_and(|moment| moment.at_s > 29_900.0));
    }
}
