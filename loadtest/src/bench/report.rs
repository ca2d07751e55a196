//! What was found: one row a figure, its baseline of the same run beside it, as a table and as JSON.

use serde::Serialize;

use super::BenchError;

/// How a figure is held against its target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "bound")]
pub enum Rule {
    /// `value / baseline` is at most this.
    RatioAtMost(f64),
    /// `value / baseline` is at least this.
    RatioAtLeast(f64),
    /// `value - baseline` is at most this.
    OverAtMost(f64),
    /// `value` is at most this, whatever the baseline.
    AtMost(f64),
    /// For information.
    None,
}

/// A figure in the making: our rounds and the baseline's.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    /// Ours.
    pub ours: Vec<f64>,
    /// The baseline's.
    pub baseline: Vec<f64>,
}

/// Smallest, middle and largest of some rounds; NaN of none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest round.
    pub minimum: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub maximum: f64,
}

/// What a row of the comparison with peers is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// The peer whose figure the baseline is.
    pub peer: &'static str,
    /// The figure, the same for all peers.
    pub figure: &'static str,
    /// What the peer says by its ack.
    pub ack: &'static str,
    /// What the gateway says by its.
    pub own_ack: &'static str,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Median of the rounds.
    pub value: f64,
    /// Median of the baseline's rounds.
    pub baseline: f64,
    /// `value / baseline`.
    pub ratio: f64,
    /// The bound alone, null where there is none.
    pub target: Option<f64>,
    /// Whether it was met, null where there is no target.
    pub met: Option<bool>,
    /// What the bound bounds.
    pub rule: Rule,
    /// What the baseline is.
    pub against: String,
    /// The figure's unit, and the baseline's.
    pub unit: &'static str,
    /// The rounds.
    #[serde(flatten)]
    pub spread: Spread,
    /// The baseline's rounds.
    pub baseline_spread: Spread,
    /// What one has to know to read it.
    pub note: String,
    /// Set where the baseline is a peer's figure of the comparison with peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

impl Spread {
    /// Of these rounds.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self { minimum: at(0), median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), maximum: at(last) }
    }
}

impl Row {
    /// A figure from its rounds and its baseline's.
    pub fn new(name: &str, against: &str, unit: &'static str, pair: &Pair, rule: Rule) -> Self {
        let (spread, baseline_spread) = (Spread::of(&pair.ours), Spread::of(&pair.baseline));
        let (value, baseline) = (spread.median, baseline_spread.median);
        let ratio = value / baseline;
        let (target, met) = match rule {
            Rule::RatioAtMost(bound) => (Some(bound), Some(ratio <= bound)),
            Rule::RatioAtLeast(bound) => (Some(bound), Some(ratio >= bound)),
            Rule::OverAtMost(bound) => (Some(bound), Some(value - baseline <= bound)),
            Rule::AtMost(bound) => (Some(bound), Some(value <= bound)),
            Rule::None => (None, None),
        };
        Self {
            name: name.to_owned(),
            value,
            baseline,
            ratio,
            target,
            met,
            rule,
            against: against.to_owned(),
            unit,
            spread,
            baseline_spread,
            note: String::new(),
            beside: None,
        }
    }

    /// With something one has to know to read it.
    pub fn noted(self, note: String) -> Self {
        Self { note, ..self }
    }

    /// The target with its sign, as `<= 0.25`; `-` where there is none.
    pub fn target_text(&self) -> String {
        match self.rule {
            Rule::RatioAtMost(bound) | Rule::AtMost(bound) => format!("<= {bound}"),
            Rule::RatioAtLeast(bound) => format!(">= {bound}"),
            Rule::OverAtMost(bound) => format!("<= +{bound}"),
            Rule::None => "-".to_owned(),
        }
    }

    /// What is held against the target, as a text: the ratio, what it is over the baseline, or the figure itself.
    pub fn judged_text(&self) -> String {
        match self.rule {
            Rule::OverAtMost(_) => format!("{:+.2}", self.value - self.baseline),
            Rule::AtMost(_) => number(self.value),
            _ if self.ratio.is_finite() => format!("{:.3}", self.ratio),
            _ => "-".to_owned(),
        }
    }

    /// How much of its target the figure takes: 1 is just met, less is better. None where there is no target.
    pub fn of_target(&self) -> Option<f64> {
        match self.rule {
            Rule::RatioAtMost(bound) => Some(self.ratio / bound),
            Rule::RatioAtLeast(bound) => Some(bound / self.ratio),
            Rule::OverAtMost(bound) => Some((self.value - self.baseline).max(0.0) / bound),
            Rule::AtMost(bound) => Some(self.value.max(0.0) / bound),
            Rule::None => None,
        }
    }

    /// Whether the target was met, in a word.
    pub fn met_text(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }

    /// The row as one line of the table.
    pub fn line(&self) -> String {
        let (target, judged, met) = (self.target_text(), self.judged_text(), self.met_text());
        let (ours, base) = (self.spread.text(), self.baseline_spread.text());
        let line = format!(
            "{:<37} {:<22} {:<12} {ours:>29} {base:>29} {judged:>7} {target:>8} {met:<6}",
            self.name, self.against, self.unit
        );
        line.trim_end().to_owned()
    }
}

impl Spread {
    /// Smallest, middle and largest.
    pub fn text(&self) -> String {
        [self.minimum, self.median, self.maximum].map(number).join(" / ")
    }
}

/// A figure with three or more digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// What a run found, and what it could not find.
#[derive(Debug, Default)]
pub struct Report {
    /// The figures.
    pub rows: Vec<Row>,
    /// Why others are missing.
    pub failures: Vec<String>,
}

impl Report {
    /// Takes what a part found, or why it found nothing.
    pub fn add(&mut self, part: &str, found: Result<Vec<Row>, BenchError>) {
        match found {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => self.failures.push(format!("{part}: {error}")),
        }
    }
}

/// The table: a heading, a line each, the notes, and which targets were missed.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<37} {:<22} {:<12} {:>29} {:>29} {:>7} {:>8}\n",
        "figure", "against", "unit", "min / median / max", "the baseline's", "ratio", "target"
    );
    for row in rows {
        text += &row.line();
        text.push('\n');
    }
    let noted: Vec<&Row> = rows.iter().filter(|row| !row.note.is_empty()).collect();
    if !noted.is_empty() {
        text.push('\n');
    }
    for row in noted {
        text += &format!("{}: {}\n", row.name, row.note);
    }
    let missed: Vec<&str> = rows.iter().filter(|row| row.met == Some(false)).map(|row| row.name.as_str()).collect();
    text += &format!("\ntargets missed: {}\n", if missed.is_empty() { "none".to_owned() } else { missed.join(", ") });
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(ours: &[f64], baseline: &[f64], rule: Rule) -> Row {
        Row::new("a", "b", "µs", &Pair { ours: ours.to_vec(), baseline: baseline.to_vec() }, rule)
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_two_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { minimum: 1.0, median: 2.0, maximum: 3.0 });
        assert_eq!(Spread::of(&[8.0, 1.0, 2.0, 4.0]), Spread { minimum: 1.0, median: 3.0, maximum: 8.0 });
        assert_eq!(Spread::of(&[5.0]), Spread { minimum: 5.0, median: 5.0, maximum: 5.0 });
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn a_row_takes_medians_and_judges_by_its_rule() {
        let found = row(&[3.0, 1.0, 2.0], &[4.0, 8.0], Rule::RatioAtMost(0.3));
        assert_eq!((found.value, found.baseline, found.met), (2.0, 6.0, Some(false)));
        assert_eq!(row(&[2.0], &[1.0], Rule::OverAtMost(1.0)).met, Some(true));
        assert_eq!(row(&[2.0], &[0.9], Rule::OverAtMost(1.0)).met, Some(false));
        assert_eq!(row(&[2.0], &[4.0], Rule::RatioAtLeast(0.55)).met, Some(false));
        assert_eq!(row(&[2.0], &[4.0], Rule::RatioAtLeast(0.5)).met, Some(true));
        assert_eq!(row(&[2.0], &[4.0], Rule::None).met, None);
        assert_eq!(row(&[0.01], &[f64::NAN], Rule::AtMost(0.01)).met, Some(true));
        assert_eq!(row(&[0.02], &[0.0], Rule::AtMost(0.01)).met, Some(false));
    }

    #[test]
    fn a_row_says_how_much_of_its_target_it_takes() {
        let of = |ours: f64, baseline: f64, rule| row(&[ours], &[baseline], rule).of_target();
        assert_eq!(of(1.0, 4.0, Rule::RatioAtMost(0.5)), Some(0.5));
        assert_eq!(of(1.0, 4.0, Rule::RatioAtLeast(0.5)), Some(2.0));
        assert_eq!(of(7.0, 4.0, Rule::OverAtMost(1.5)), Some(2.0));
        assert_eq!(of(1.0, 4.0, Rule::OverAtMost(1.5)), Some(0.0), "less than nothing is nothing");
        assert_eq!(of(0.02, 0.0, Rule::AtMost(0.01)), Some(2.0));
        assert_eq!(of(1.0, 4.0, Rule::None), None);
    }

    #[test]
    fn a_figure_that_could_not_be_taken_never_meets_its_target() {
        assert_eq!(row(&[], &[1.0], Rule::RatioAtMost(0.3)).met, Some(false));
        assert_eq!(row(&[1.0], &[], Rule::RatioAtLeast(0.3)).met, Some(false));
    }

    #[test]
    fn the_summary_has_the_names_that_others_read() {
        let json = serde_json::to_value(row(&[1.0, 2.0, 3.0], &[4.0], Rule::RatioAtMost(0.6))).unwrap();
        let wanted = serde_json::json!({"name": "a", "value": 2.0, "baseline": 4.0, "ratio": 0.5, "target": 0.6,
            "met": true, "minimum": 1.0, "median": 2.0, "maximum": 3.0});
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&json[key], value, "{key}");
        }
    }
}
