//! How a run went, as text for a terminal or a log.

use std::fmt::Write;

use super::harmless;
use crate::figures::{Count, Outcome, Timing};
use crate::judgement::{Judgement, findings};
use crate::summary::Latency;
use crate::threshold::found_text;
use crate::units::{digits, grouped};

/// How many errors are named.
const ERRORS: usize = 10;
/// How many of each finding are named; the report has a hundred.
const NAMED: usize = 5;

/// A table of everything that matters. Ends with whether the run passed, where a reader looks first.
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::from("\n");
    latencies(&mut text, outcome);
    counts(&mut text, outcome);
    ends(&mut text, outcome);
    ledger(&mut text, outcome);
    for (place, judged) in outcome.thresholds.iter().enumerate() {
        let head = if place == 0 { "thresholds" } else { "" };
        let held = if judged.holds { "held" } else { "BREACHED" };
        let _ = writeln!(text, "{head:<12}{held:<9} {:<28} {}", judged.text, found_text(judged));
    }
    for warning in &outcome.warnings {
        let _ = writeln!(text, "warning: {}", harmless(warning));
    }
    let judgement = Judgement::of(outcome);
    let _ = writeln!(text, "\n{}  {}", judgement.word(), harmless(&judgement.sentence));
    text
}

fn latencies(text: &mut String, outcome: &Outcome) {
    let columns: String = Latency::COLUMNS.iter().map(|column| format!("{column:>9}")).collect();
    let _ = writeln!(text, "{:<16}{:>12}{columns}", "latency, ms", "count");
    for timing in Timing::ALL {
        let (count, values) = Latency::of(&outcome.figures, *timing).row();
        if count == 0 {
            continue;
        }
        let values: String = values.iter().map(|ms| format!("{:>9}", digits(ms.unwrap_or(f64::NAN)))).collect();
        let _ = writeln!(text, "{:<16}{:>12}{values}", timing.name(), grouped(count));
    }
    text.push('\n');
}

/// Three columns; what there was none of is left out.
fn counts(text: &mut String, outcome: &Outcome) {
    let counted = Count::ALL.iter().map(|count| (count.name(), outcome.figures.counted(*count)));
    let cells: Vec<String> = counted
        .filter(|(name, count)| *count > 0 || *name == Count::Acked.name())
        .map(|(name, count)| format!("{name:<18}{:>14}", grouped(count)))
        .collect();
    for line in cells.chunks(3) {
        let _ = writeln!(text, "{}", line.join("    "));
    }
    text.push('\n');
}

fn ends(text: &mut String, outcome: &Outcome) {
    let figures = &outcome.figures;
    if !figures.closes.is_empty() {
        let closes = figures.closes.iter().map(|(code, count)| format!("{code} × {}", grouped(*count)));
        let _ = writeln!(text, "{:<12}{}", "closes", closes.collect::<Vec<_>>().join(", "));
    }
    let mut errors: Vec<(&String, &u64)> = figures.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (place, (error, count)) in errors.iter().take(ERRORS).enumerate() {
        let head = if place == 0 { "errors" } else { "" };
        let _ = writeln!(text, "{head:<12}{:>9} × {}", grouped(**count), harmless(error));
    }
    if errors.len() > ERRORS {
        let _ = writeln!(text, "{:<12}{} other kinds: see the report", "", errors.len() - ERRORS);
    }
}

fn ledger(text: &mut String, outcome: &Outcome) {
    let Some(verdict) = &outcome.ledger else { return };
    let (acked, stored) = (grouped(verdict.acked), grouped(verdict.stored));
    let end = if verdict.complete { "" } else { "; KAFKA WAS NOT READ TO ITS END" };
    let _ = writeln!(text, "{:<12}{acked} acked, {stored} of them in Kafka{end}", "ledger");
    for row in findings(verdict).iter().filter(|row| row.finding.count > 0) {
        let _ = writeln!(text, "{:<12}{} {}: {}", "", grouped(row.finding.count), row.name, row.meaning);
        for name in row.finding.first.iter().take(NAMED) {
            let _ = writeln!(text, "{:<16}{}", "", harmless(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_table_ends_with_the_verdict_and_names_what_was_found() {
        let text = table(&sample::failed());
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("FAILED  2 of 4 thresholds were breached: p99(ack) < 40ms came to 50.7 ms"), "{text}");
        for wanted in [
            "3 lost: acked, and not in Kafka",
            "device-000017 b1:311 acked at 5:01, not in the topic",
            "1006 × 40, 1012 × 412, 4000 × 188",
            "310 × connection refused",
            "held      p99(reconnect) < 10s         5.29 s",
            "thresholds  BREACHED  p99(ack) < 40ms              50.7 ms",
            "warning: The generator",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 320), "{text}");
    }

    #[test]
    fn a_run_of_nothing_is_a_table_too() {
        let text = table(&Outcome::default());
        assert!(text.contains("latency, ms") && text.ends_with("FAILED  No device got a connection.\n"), "{text}");
    }
}
