//! Thresholds: what a run has to come to. Written as `FIGURE OPERATOR BOUND`, judged when it is over.
//!
//! | figure | bound | |
//! | --- | --- | --- |
//! | `p50(T)`, `p90(T)`, `p95(T)`, `p99(T)`, `p99.9(T)`, `min(T)`, `mean(T)`, `max(T)` | a time: `250ms`, `1.5s`, `800us` | of a [`Timing`] `T`: `ack`, `connect`, … |
//! | `C` | a number: `0`, `10_000` | a [`Count`] over the whole run: `refused`, `connect_failures`, … |
//! | `rate(C)` | a number a second: `100/s` | a count over the time the run took |
//! | `errors` | a number | errors of every kind |
//! | `connected` | a number | the most devices that were connected at one time |
//! | `stored`, `lost`, `doubled`, `reordered`, `altered`, `acked_and_refused` | a number | what the ledger found about updates |
//! | `commands_accepted`, `commands_succeeded`, `unfounded`, `answered_twice`, `misdelivered`, `without_end` | a number | what it found about commands |
//!
//! Operators: `<`, `<=`, `==`, `!=`, `>=`, `>`. What there is nothing to judge by is a breach: a percentile of nothing, and what the
//! ledger finds where it did not look or could not read to the end.
//!
//! ```
//! use tidegate_loadtest::figures::Outcome;
//! use tidegate_loadtest::threshold::{Threshold, judge};
//!
//! let thresholds: Vec<Threshold> = vec!["p99(ack) < 250ms".parse()?, "refused == 0".parse()?];
//! let judged = judge(&thresholds, &Outcome::default());
//! assert!(!judged[0].holds && judged[1].holds);
//! # Ok::<(), tidegate_loadtest::threshold::ThresholdError>(())
//! ```

mod parse;

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::figures::{Count, Judged, Outcome, Timing, Verdict};
use crate::units::{self, digits};

/// One threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    text: String,
    what: What,
    operator: Operator,
    bound: f64,
    unit: Bound,
}

/// Why a text is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("threshold `{text}`, column {column}: {problem}")]
pub struct ThresholdError {
    /// The whole of it.
    pub text: String,
    /// Where it cannot be read, in characters from 1.
    pub column: usize,
    /// What is wrong, and what could stand there.
    pub problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Timing(Statistic, Timing),
    Rate(Count),
    Count(Count),
    Errors,
    Connected,
    /// An index into [`LEDGER`].
    Ledger(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistic {
    Min,
    Mean,
    Max,
    Quantile(f64),
}

/// Names of statistics.
const STATISTICS: &[(&str, Statistic)] = &[
    ("p50", Statistic::Quantile(0.5)),
    ("p90", Statistic::Quantile(0.9)),
    ("p95", Statistic::Quantile(0.95)),
    ("p99", Statistic::Quantile(0.99)),
    ("p99.9", Statistic::Quantile(0.999)),
    ("min", Statistic::Min),
    ("mean", Statistic::Mean),
    ("max", Statistic::Max),
];

type Found = fn(&Verdict) -> u64;

/// What the ledger finds, by name.
const LEDGER: &[(&str, Found)] = &[
    ("stored", |verdict| verdict.stored),
    ("lost", |verdict| verdict.lost.count),
    ("doubled", |verdict| verdict.doubled.count),
    ("reordered", |verdict| verdict.reordered.count),
    ("altered", |verdict| verdict.altered.count),
    ("acked_and_refused", |verdict| verdict.acked_and_refused.count),
    ("commands_accepted", |verdict| verdict.commands.accepted),
    ("commands_succeeded", |verdict| verdict.commands.succeeded),
    ("unfounded", |verdict| verdict.commands.unfounded.count),
    ("answered_twice", |verdict| verdict.commands.answered_twice.count),
    ("misdelivered", |verdict| verdict.commands.misdelivered.count),
    ("without_end", |verdict| verdict.commands.without_end.count),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    More,
}

const OPERATORS: &[(&str, Operator)] = &[
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<", Operator::Less),
    (">", Operator::More),
];

/// What a bound is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Us,
    Ms,
    S,
    PerSecond,
    Number,
}

impl Operator {
    fn holds(self, found: f64, bound: f64) -> bool {
        match self {
            Self::Less => found < bound,
            Self::AtMost => found <= bound,
            Self::Equal => found == bound,
            Self::Unequal => found != bound,
            Self::AtLeast => found >= bound,
            Self::More => found > bound,
        }
    }
}

impl Bound {
    /// How many µs it is.
    fn us(self) -> f64 {
        match self {
            Self::Us | Self::PerSecond | Self::Number => 1.0,
            Self::Ms => 1e3,
            Self::S => 1e6,
        }
    }
}

impl Threshold {
    /// What it comes to after a run.
    pub fn judge(&self, outcome: &Outcome) -> Judged {
        let found = self.what.found(outcome).map(|found| found / self.unit.us());
        let holds = found.is_some_and(|found| self.operator.holds(found, self.bound));
        Judged { text: self.text.clone(), found, holds }
    }

    /// Its bound in ms where it is one from above for this percentile of a timing: a level to draw.
    pub(crate) fn most_ms(&self, timing: Timing, quantile: f64) -> Option<f64> {
        let bounds = matches!(self.operator, Operator::Less | Operator::AtMost);
        let asked = self.what == What::Timing(Statistic::Quantile(quantile), timing);
        (asked && bounds).then_some(self.bound * self.unit.us() / 1e3)
    }

    /// What was found, with its unit.
    fn written(&self, found: f64) -> String {
        match self.unit {
            Bound::Us => format!("{} µs", digits(found)),
            Bound::Ms => format!("{} ms", digits(found)),
            Bound::S => format!("{} s", digits(found)),
            Bound::PerSecond => format!("{}/s", units::short(found)),
            Bound::Number => units::grouped(found as u64),
        }
    }
}

impl What {
    /// Times in µs.
    fn found(self, outcome: &Outcome) -> Option<f64> {
        let figures = &outcome.figures;
        match self {
            Self::Timing(statistic, timing) => statistic.of(figures.timing(timing)),
            Self::Rate(count) => {
                let seconds = outcome.took.as_secs_f64();
                (seconds > 0.0).then(|| figures.counted(count) as f64 / seconds)
            }
            Self::Count(count) => Some(figures.counted(count) as f64),
            Self::Errors => Some(figures.errors.values().sum::<u64>() as f64),
            Self::Connected => outcome.series.iter().map(|moment| moment.connected as f64).max_by(f64::total_cmp),
            Self::Ledger(place) => {
                let verdict = outcome.ledger.as_ref().filter(|verdict| verdict.complete)?;
                LEDGER.get(place).map(|(_, found)| found(verdict) as f64)
            }
        }
    }
}

impl Statistic {
    fn of(self, histogram: &Histogram<u64>) -> Option<f64> {
        (!histogram.is_empty()).then(|| match self {
            Self::Min => histogram.min() as f64,
            Self::Mean => histogram.mean(),
            Self::Max => histogram.max() as f64,
            Self::Quantile(quantile) => histogram.value_at_quantile(quantile) as f64,
        })
    }
}

/// Judges a run by all of them, in their order.
pub fn judge(thresholds: &[Threshold], outcome: &Outcome) -> Vec<Judged> {
    thresholds.iter().map(|threshold| threshold.judge(outcome)).collect()
}

/// What was found, as people read it: with its unit, or that there was nothing.
pub fn found_text(judged: &Judged) -> String {
    let Some(found) = judged.found else { return "no data".to_owned() };
    judged.text.parse::<Threshold>().map_or_else(|_| digits(found), |threshold| threshold.written(found))
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        parse::threshold(text.trim())
    }
}

impl TryFrom<String> for Threshold {
    type Error = ThresholdError;

    fn try_from(text: String) -> Result<Self, ThresholdError> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.text
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::figures::{Finding, Moment};

    fn outcome() -> Outcome {
        let mut outcome = Outcome { took: Duration::from_secs(10), ..Outcome::default() };
        outcome.figures.count(Count::Acked, 1000);
        for ms in 1..=100 {
            outcome.figures.time(Timing::Ack, Duration::from_millis(ms));
        }
        outcome.figures.error("connection reset");
        outcome.series = [5, 9, 2].map(|connected| Moment { connected, ..Moment::default() }).to_vec();
        outcome
    }

    fn judged(text: &str, outcome: &Outcome) -> (Option<f64>, bool) {
        let judged = text.parse::<Threshold>().unwrap().judge(outcome);
        (judged.found, judged.holds)
    }

    #[test]
    fn latencies_are_judged_in_their_own_unit() {
        let outcome = outcome();
        let (found, holds) = judged("p99(ack) < 250ms", &outcome);
        assert!(holds && (found.unwrap() - 99.0).abs() < 0.1, "{found:?}");
        assert!((judged("p50(ack)<=0.05s", &outcome).0.unwrap() - 0.05).abs() < 1e-4);
        assert!((judged("max(ack) > 99_000us", &outcome).0.unwrap() - 100_000.0).abs() < 100.0);
        assert!(!judged("mean(ack) < 50ms", &outcome).1);
        assert_eq!(judged("p99(command) < 1s", &outcome), (None, false));
    }

    #[test]
    fn counts_rates_and_peaks_are_judged() {
        let outcome = outcome();
        assert_eq!(judged("acked == 1000", &outcome), (Some(1000.0), true));
        assert_eq!(judged("rate(acked) > 100/s", &outcome), (Some(100.0), false));
        assert_eq!(judged("rate(acked) >= 100", &outcome), (Some(100.0), true));
        assert_eq!(judged("errors != 1", &outcome), (Some(1.0), false));
        assert_eq!(judged("connected >= 9", &outcome), (Some(9.0), true));
    }

    #[test]
    fn what_the_ledger_did_not_see_to_its_end_holds_for_nothing() {
        let mut outcome = outcome();
        assert_eq!(judged("lost == 0", &outcome), (None, false));
        outcome.ledger = Some(Verdict::default());
        assert_eq!(judged("lost == 0", &outcome), (None, false));
        let lost = Finding { count: 2, first: vec![] };
        outcome.ledger = Some(Verdict { complete: true, lost, ..Verdict::default() });
        assert_eq!(judged("lost == 0", &outcome), (Some(2.0), false));
        assert_eq!(judged("doubled == 0", &outcome), (Some(0.0), true));
    }

    #[test]
    fn what_was_found_is_written_with_its_unit() {
        let text = |text: &str, found| found_text(&Judged { text: text.to_owned(), found, holds: true });
        assert_eq!(text("p99(ack) < 250ms", Some(99.04)), "99 ms");
        assert_eq!(text("rate(acked) > 100/s", Some(12_345.6)), "12.3k/s");
        assert_eq!(text("acked > 1", Some(12_345.0)), "12,345");
        assert_eq!(text("lost == 0", None), "no data");
    }

    #[test]
    fn a_level_is_drawn_for_bounds_from_above_only() {
        let level = |text: &str| text.parse::<Threshold>().unwrap().most_ms(Timing::Ack, 0.99);
        assert_eq!(level("p99(ack) < 0.25s"), Some(250.0));
        assert_eq!((level("p99(ack) > 1ms"), level("p50(ack) < 1ms"), level("p99(connect) < 1ms")), (None, None, None));
    }
}
