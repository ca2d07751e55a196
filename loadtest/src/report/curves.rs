//! The report's plots.

use super::{Outcome, Timing, Unit, close_name};
use crate::figures::{Count, Moment};
use crate::plot::{Axis, Bar, Bars, Lines, Look, Series, percentiles};
use crate::threshold::Threshold;

/// How many kinds of errors have a bar.
const ERRORS: usize = 8;

fn plots(plots: &[String]) -> String {
    if plots.is_empty() { String::new() } else { format!("<div class=\"plots\">\n{}</div>\n", plots.concat()) }
}

/// A series over the run.
fn over(outcome: &Outcome, name: &str, look: Look, part: impl Fn(&Moment) -> f64) -> Series {
    Series::new(name, look, outcome.series.iter().map(|moment| (moment.at_s, part(moment))).collect())
}

fn timeline(title: &str, y: Axis, series: Vec<Series>) -> Lines {
    Lines::new(title, Axis::new("run time", Unit::Clock), y, series)
}

/// Devices, rates, and latencies second by second.
pub(super) fn over_time(outcome: &Outcome) -> String {
    let line = |name, part: fn(&Moment) -> u64| over(outcome, name, Look::Line, move |moment| part(moment) as f64);
    let with = |name, look, part: fn(&Moment) -> u64| over(outcome, name, look, move |moment| part(moment) as f64);
    let number = |label| Axis::new(label, Unit::Number);
    let devices = vec![
        with("connected", Look::Area, |moment| moment.connected),
        with("wanted", Look::Dashed, |moment| moment.wanted),
        line("paused", |moment| moment.paused),
    ];
    let mut updates =
        vec![with("acked", Look::Area, |moment| moment.acked), with("sent", Look::Dashed, |moment| moment.sent)];
    if outcome.figures.counted(Count::Refused) > 0 {
        updates.push(line("refused", |moment| moment.refused));
    }
    let connections =
        vec![line("connects", |moment| moment.connects), line("failures and ends", |moment| moment.failures)];
    let mut all = vec![
        timeline("Devices", number("devices"), devices).html(),
        timeline("Updates a second", number("updates / s"), updates).html(),
        latency(outcome).html(),
        timeline("Connections a second", number("connections / s"), connections).html(),
        timeline(
            "Updates in flight",
            number("updates"),
            vec![with("in flight", Look::Area, |moment| moment.in_flight)],
        )
        .html(),
    ];
    if outcome.figures.counted(Count::CommandsAsked) > 0 {
        let commands = vec![line("succeeded", |moment| moment.commands)];
        all.push(timeline("Commands a second", number("commands / s"), commands).html());
    }
    plots(&all)
}

/// A second without acks has no latency: a gap, as 0 has no place on a logarithmic axis. Thresholds are drawn as levels.
fn latency(outcome: &Outcome) -> Lines {
    let series = vec![
        over(outcome, "p50", Look::Line, |moment| moment.ack_p50_ms),
        over(outcome, "p99", Look::Line, |moment| moment.ack_p99_ms),
    ];
    let plot = timeline("Publish to ack, second by second", Axis::log("from the due moment", Unit::Ms), series);
    let levels = outcome.thresholds.iter().filter_map(|judged| {
        let threshold: Threshold = judged.text.parse().ok()?;
        let level = [0.5, 0.99].into_iter().find_map(|quantile| threshold.most_ms(Timing::Ack, quantile));
        Some((judged.text.clone(), level?))
    });
    levels.fold(plot, |plot, (text, level)| plot.marked(&text, level))
}

/// The whole of each latency's distribution.
pub(super) fn by_percentile(outcome: &Outcome) -> String {
    let curve = |title: &str, timings: &[(Timing, &str, Look)]| {
        let timed = timings.iter().filter(|(timing, _, _)| !outcome.figures.timing(*timing).is_empty());
        let series =
            timed.map(|(timing, name, look)| Series::new(name, *look, percentiles(outcome.figures.timing(*timing))));
        let (x, y) = (Axis::log("percentile", Unit::Quantile), Axis::log("at most", Unit::Ms));
        Lines::new(title, x, y, series.collect()).html()
    };
    let updates = [
        (Timing::Ack, "ack, from the due moment", Look::Line),
        (Timing::AckUncorrected, "from the real sending", Look::Dashed),
        (Timing::Lateness, "the generator's lateness", Look::Line),
    ];
    let others = [
        (Timing::Connect, "connect", Look::Line),
        (Timing::Tls, "TLS handshake", Look::Line),
        (Timing::Command, "command round trip", Look::Line),
        (Timing::Reconnect, "reconnect, with back-off", Look::Line),
    ];
    plots(&[curve("Publish to ack, by percentile", &updates), curve("The rest, by percentile", &others)])
}

/// Closes and errors; nothing where there were none.
pub(super) fn faults(outcome: &Outcome) -> String {
    let figures = &outcome.figures;
    if figures.closes.is_empty() && figures.errors.is_empty() {
        return "<p>No connection was closed by the gateway, and nothing failed.</p>\n".to_owned();
    }
    let closes = figures.closes.iter().map(|(code, count)| (format!("{code} {}", close_name(*code)), *count));
    let errors = figures.errors.iter().map(|(text, count)| (text.clone(), *count));
    let bars = |title, counts: Vec<(String, u64)>, colour| {
        let bars =
            largest(counts).into_iter().map(|(name, count)| Bar::new(name.trim(), count as f64).coloured(colour));
        Bars::new(title, Unit::Number, bars.collect()).html()
    };
    plots(&[bars("Closes by code", closes.collect(), 0), bars("Errors", errors.collect(), 1)])
}

/// By falling count; what is too many, together.
fn largest(mut counts: Vec<(String, u64)>) -> Vec<(String, u64)> {
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if counts.len() > ERRORS {
        let rest = counts.split_off(ERRORS - 1);
        let all = rest.iter().map(|(_, count)| count).sum();
        counts.push((format!("{} others", rest.len()), all));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_are_told_together() {
        let counts: Vec<(String, u64)> = (1..=10).map(|count| (format!("e{count}"), count)).collect();
        let largest = largest(counts);
        assert_eq!(largest.len(), ERRORS);
        assert_eq!((largest[0].clone(), largest[7].clone()), (("e10".into(), 10), ("3 others".into(), 6)));
    }
}
