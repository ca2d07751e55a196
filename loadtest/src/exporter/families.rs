//! From a run's figures to Prometheus' families. Made anew at each scrape: the figures are totals already.

use hdrhistogram::Histogram;
use prometheus::proto;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::figures::{Count, Moment, Progress, Timing};

/// Upper bounds, seconds; those of the service level objectives (0.25 and 1) are among them.
const BOUNDS_S: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Everything there is to say. A family without samples is left out.
pub(super) fn of(progress: &Progress) -> Vec<MetricFamily> {
    let figures = &progress.figures;
    let mut families: Vec<MetricFamily> = Count::ALL
        .iter()
        .map(|count| {
            let help = format!("Total of {}.", count.name().replace('_', " "));
            counter(&format!("{}_total", count.name()), &help, figures.counted(*count))
        })
        .collect();
    families.push(counter("errors_total", "Errors of every kind.", figures.errors.values().sum()));
    let closes = figures.closes.iter().map(|(code, count)| counted(&[("code", &code.to_string())], *count));
    families.push(family("closes_total", "Connections the gateway ended.", MetricType::COUNTER, closes.collect()));
    families.extend(gauges(progress));
    let timings = Timing::ALL.iter().map(|timing| (timing, figures.timing(*timing)));
    let durations =
        timings.filter(|(_, times)| !times.is_empty()).map(|(timing, times)| histogram(timing.name(), times));
    let help = "What is timed, from the moment it was due.";
    families.push(family("duration_seconds", help, MetricType::HISTOGRAM, durations.collect()));
    let labels =
        [("profile", progress.profile.as_str()), ("target", &progress.target), ("version", env!("CARGO_PKG_VERSION"))];
    families.push(family("info", "What runs.", MetricType::GAUGE, vec![gauged(&labels, 1.0)]));
    families.retain(|family| !family.get_metric().is_empty());
    families
}

fn gauges(progress: &Progress) -> Vec<MetricFamily> {
    let Moment { wanted, connected, paused, in_flight, .. } = progress.now;
    let all = [
        ("devices_wanted", "Devices that the profile wants connected now.", wanted as f64),
        ("devices_connected", "Devices that are connected now.", connected as f64),
        ("devices_paused", "Of them those that were told to hold their updates.", paused as f64),
        ("updates_in_flight", "Updates that are written and not settled.", in_flight as f64),
        ("elapsed_seconds", "How long the run has gone on.", progress.elapsed.as_secs_f64()),
        ("planned_seconds", "How long it will, all in all.", progress.total.as_secs_f64()),
        ("warnings", "How many warnings stand.", progress.warnings.len() as f64),
    ];
    all.into_iter().map(|(name, help, value)| family(name, help, MetricType::GAUGE, vec![gauged(&[], value)])).collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("tidegate_loadtest_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![counted(&[], value)])
}

fn counted(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

fn gauged(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

fn histogram(timing: &str, times: &Histogram<u64>) -> Metric {
    let mut buckets = Vec::with_capacity(BOUNDS_S.len());
    let mut below = 0;
    let mut recorded = times.iter_recorded().peekable();
    for bound in BOUNDS_S {
        // The encoder adds the one without a bound.
        while let Some(value) = recorded.next_if(|value| value.value_iterated_to() as f64 <= bound * 1e6) {
            below += value.count_at_value();
        }
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(times.len());
    histogram.set_sample_sum(times.mean() * times.len() as f64 / 1e6);
    histogram.set_bucket(buckets);
    let mut metric = Metric::from_label(pairs(&[("timing", timing)]));
    metric.set_histogram(histogram);
    metric
}
