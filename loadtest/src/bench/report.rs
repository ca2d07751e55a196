//! What was found: one row a figure, its baseline of the same run beside it, as a table and as JSON.

use serde::Serialize;

/// How a figure is held against its target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "bound")]
pub enum Target {
    /// `value / baseline` is at most this.
    RatioAtMost(f64),
    /// `value / baseline` is at least this.
    RatioAtLeast(f64),
    /// `value - baseline` is at most this.
    OverAtMost(f64),
    /// For information.
    None,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// What the baseline is.
    pub against: String,
    /// The figure's unit, and the baseline's.
    pub unit: &'static str,
    /// Median of the rounds.
    pub value: f64,
    /// Smallest round.
    pub min: f64,
    /// Largest round.
    pub max: f64,
    /// Median of the baseline's rounds.
    pub baseline: f64,
    /// Its smallest round.
    pub baseline_min: f64,
    /// Its largest round.
    pub baseline_max: f64,
    /// `value / baseline`.
    pub ratio: f64,
    /// The bound alone, null where there is none.
    pub target: Option<f64>,
    /// What the bound bounds.
    pub rule: Target,
    /// Whether it was met, null where there is none.
    pub met: Option<bool>,
}

fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    };
    (sorted.first().copied().unwrap_or(f64::NAN), median, sorted.last().copied().unwrap_or(f64::NAN))
}

impl Row {
    /// A figure from its rounds and its baseline's.
    pub fn new(name: &str, against: &str, unit: &'static str, ours: &[f64], baseline: &[f64], rule: Target) -> Self {
        let (min, value, max) = spread(ours);
        let (baseline_min, base, baseline_max) = spread(baseline);
        let ratio = value / base;
        let (target, met) = match rule {
            Target::RatioAtMost(bound) => (Some(bound), Some(ratio <= bound)),
            Target::RatioAtLeast(bound) => (Some(bound), Some(ratio >= bound)),
            Target::OverAtMost(bound) => (Some(bound), Some(value - base <= bound)),
            Target::None => (None, None),
        };
        Self {
            name: name.to_owned(),
            against: against.to_owned(),
            unit,
            value,
            min,
            max,
            baseline: base,
            baseline_min,
            baseline_max,
            ratio,
            target,
            rule,
            met,
        }
    }

    /// The row as one line of the table.
    pub fn line(&self) -> String {
        let target = match self.rule {
            Target::RatioAtMost(bound) => format!("<= {bound}"),
            Target::RatioAtLeast(bound) => format!(">= {bound}"),
            Target::OverAtMost(bound) => format!("<= +{bound}"),
            Target::None => "-".to_owned(),
        };
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let ours = format!("{:.2} / {:.2} / {:.2}", self.min, self.value, self.max);
        let base = format!("{:.2} / {:.2} / {:.2}", self.baseline_min, self.baseline, self.baseline_max);
        format!(
            "{:<34} {:<22} {:<10} {ours:>32} {base:>32} {:>8.3} {target:>8} {met}",
            self.name, self.against, self.unit, self.ratio
        )
    }
}

/// The table's heading.
pub fn heading() -> String {
    format!(
        "{:<34} {:<22} {:<10} {:>32} {:>32} {:>8} {:>8}",
        "figure", "against", "unit", "ours min / median / max", "baseline min / median / max", "ratio", "target"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_medians_and_judges_by_its_rule() {
        let row = Row::new("a", "b", "µs", &[3.0, 1.0, 2.0], &[4.0, 8.0], Target::RatioAtMost(0.3));
        assert_eq!((row.min, row.value, row.max, row.baseline), (1.0, 2.0, 3.0, 6.0));
        assert_eq!(row.met, Some(false));
        assert_eq!(Row::new("a", "b", "ms", &[2.0], &[1.0], Target::OverAtMost(1.0)).met, Some(true));
        assert_eq!(Row::new("a", "b", "1/s", &[2.0], &[4.0], Target::RatioAtLeast(0.55)).met, Some(false));
    }
}
