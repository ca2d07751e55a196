//! From text to a threshold, with the place of what cannot be read.

use super::{Bound, LEDGER, OPERATORS, Operator, STATISTICS, Threshold, ThresholdError, What};
use crate::figures::{Count, Timing};

/// Two names are alike enough to suggest one for the other.
const ALIKE: f64 = 0.75;

/// Reads from the left.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Reads the whole of a threshold.
pub(super) fn threshold(text: &str) -> Result<Threshold, ThresholdError> {
    let mut reader = Reader { text, at: 0 };
    let what = reader.figure()?;
    let operator = reader.operator()?;
    let (bound, unit) = reader.bound(what)?;
    reader.skip_blanks();
    if reader.at < text.len() {
        return Err(reader.error(reader.at, format!("`{}` is too much here", reader.rest())));
    }
    Ok(Threshold { text: text.to_owned(), what, operator, bound, unit })
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The next run of such characters, with its place.
    fn take(&mut self, part: impl Fn(char) -> bool) -> (usize, &'a str) {
        self.skip_blanks();
        let (start, rest) = (self.at, self.rest());
        let length = rest.find(|character| !part(character)).unwrap_or(rest.len());
        self.at += length;
        (start, &rest[..length])
    }

    fn name(&mut self) -> (usize, &'a str) {
        self.take(|character| character.is_alphanumeric() || matches!(character, '_' | '.'))
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn error(&self, place: usize, problem: String) -> ThresholdError {
        let column = self.text[..place].chars().count() + 1;
        ThresholdError { text: self.text.to_owned(), column, problem }
    }

    fn figure(&mut self) -> Result<What, ThresholdError> {
        let (start, name) = self.name();
        if name.is_empty() {
            let problem = "a figure is wanted here, such as `p99(ack)`, `rate(acked)` or `lost`".to_owned();
            return Err(self.error(start, problem));
        }
        if !self.eat("(") {
            return number(name).ok_or_else(|| self.error(start, unknown_figure(name)));
        }
        let (inner, of) = self.name();
        let what = if name == "rate" {
            let count = Count::ALL.iter().find(|count| count.name() == of);
            count.map(|count| What::Rate(*count)).ok_or_else(|| self.error(inner, unknown("count", of, &counts())))?
        } else {
            let known = STATISTICS.iter().find(|(known, _)| *known == name);
            let Some((_, statistic)) = known else { return Err(self.error(start, unknown_statistic(name))) };
            let timing = Timing::ALL.iter().find(|timing| timing.name() == of);
            let timing = timing.ok_or_else(|| self.error(inner, unknown("timing", of, &timings())))?;
            What::Timing(*statistic, *timing)
        };
        if self.eat(")") { Ok(what) } else { Err(self.error(self.at, "`)` is missing".to_owned())) }
    }

    fn operator(&mut self) -> Result<Operator, ThresholdError> {
        let found = OPERATORS.iter().find(|(token, _)| self.eat(token)).map(|(_, operator)| *operator);
        found.ok_or_else(|| {
            let hint = if self.rest().starts_with('=') { "; equality is `==`" } else { "" };
            self.error(self.at, format!("one of `<`, `<=`, `==`, `!=`, `>=`, `>` is wanted here{hint}"))
        })
    }

    fn bound(&mut self, what: What) -> Result<(f64, Bound), ThresholdError> {
        let (start, digits) = self.take(|character| character.is_ascii_digit() || matches!(character, '.' | '_'));
        let Ok(value) = digits.replace('_', "").parse::<f64>() else {
            return Err(self.error(start, "a number is wanted here, such as `250ms`, `0` or `100/s`".to_owned()));
        };
        let (place, unit) = self.take(|character| character.is_alphabetic() || character == '/');
        match (what, unit) {
            (What::Timing(..), "us" | "µs") => Ok((value, Bound::Us)),
            (What::Timing(..), "ms") => Ok((value, Bound::Ms)),
            (What::Timing(..), "s") => Ok((value, Bound::S)),
            (What::Timing(..), _) => Err(self.error(place, format!("a time wants `us`, `ms` or `s`: `{digits}ms`?"))),
            (What::Rate(_), "/s" | "") => Ok((value, Bound::PerSecond)),
            (What::Rate(_), _) => Err(self.error(place, format!("a rate is counted a second: `{digits}/s`"))),
            (_, "") => Ok((value, Bound::Number)),
            _ => Err(self.error(place, "this figure is a plain number: without a unit".to_owned())),
        }
    }
}

/// The figure of a name without brackets.
fn number(name: &str) -> Option<What> {
    match name {
        "errors" => return Some(What::Errors),
        "connected" => return Some(What::Connected),
        _ => {}
    }
    let count = Count::ALL.iter().find(|count| count.name() == name).map(|count| What::Count(*count));
    count.or_else(|| LEDGER.iter().position(|(known, _)| *known == name).map(What::Ledger))
}

fn counts() -> Vec<&'static str> {
    Count::ALL.iter().map(|count| count.name()).collect()
}

fn timings() -> Vec<&'static str> {
    Timing::ALL.iter().map(|timing| timing.name()).collect()
}

fn unknown_figure(name: &str) -> String {
    if STATISTICS.iter().any(|(known, _)| *known == name) {
        return format!("`{name}` of what? Write `{name}(ack)`");
    }
    if timings().contains(&name) {
        return format!("`{name}` is a timing: write `p99({name})`");
    }
    let ledger = LEDGER.iter().map(|(known, _)| *known);
    let known: Vec<&str> = counts().into_iter().chain(["errors", "connected"]).chain(ledger).collect();
    unknown("figure", name, &known)
}

fn unknown_statistic(name: &str) -> String {
    let known: Vec<&str> = STATISTICS.iter().map(|(known, _)| *known).chain(["rate"]).collect();
    unknown("statistic", name, &known)
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    // One slip makes three letters look unlike: counted apart.
    let slip = |other: &str| if strsim::osa_distance(name, other) == 1 { ALIKE } else { 0.0 };
    let scored = known.iter().map(|other| (strsim::jaro_winkler(name, other).max(slip(other)), other));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness >= ALIKE) {
        Some((_, nearest)) => format!("no {kind} is called `{name}`; did you mean `{nearest}`?"),
        None => format!("no {kind} is called `{name}`; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, String) {
        let error = threshold(text).map_or_else(|error| error, |read| unreachable!("{read:?}"));
        (error.column, error.problem)
    }

    #[test]
    fn every_figure_that_is_documented_is_read() {
        for (statistic, _) in STATISTICS {
            for timing in timings() {
                assert!(threshold(&format!("{statistic}({timing}) < 1ms")).is_ok(), "{statistic} {timing}");
            }
        }
        for count in counts() {
            assert!(threshold(&format!("{count} < 1")).is_ok() && threshold(&format!("rate({count})>1/s")).is_ok());
        }
        for (name, _) in LEDGER {
            assert!(threshold(&format!("{name} == 0")).is_ok(), "{name}");
        }
    }

    #[test]
    fn blanks_do_not_matter() {
        let (wide, narrow) = (threshold(" p99.9 ( ack )  <=  1.5 s "), threshold("p99.9(ack)<=1.5s"));
        let parts = |read: Result<Threshold, _>| read.map(|read| (read.what, read.operator, read.bound, read.unit));
        assert_eq!(parts(wide), parts(narrow));
    }

    #[test]
    fn a_wrong_name_suggests_the_nearest() {
        assert_eq!(problem("p99(akc) < 1ms"), (5, "no timing is called `akc`; did you mean `ack`?".to_owned()));
        assert_eq!(problem("losst == 0"), (1, "no figure is called `losst`; did you mean `lost`?".to_owned()));
        assert_eq!(problem("rate(aked) > 1"), (6, "no count is called `aked`; did you mean `acked`?".to_owned()));
        assert_eq!(problem("p999(ack) < 1ms").1, "no statistic is called `p999`; did you mean `p99.9`?");
        assert_eq!(problem("ack < 1ms").1, "`ack` is a timing: write `p99(ack)`");
        assert_eq!(problem("p99 < 1ms").1, "`p99` of what? Write `p99(ack)`");
        assert!(problem("zzz == 0").1.contains("there are connects, "));
    }

    #[test]
    fn every_other_mistake_has_its_place() {
        assert_eq!(problem("").0, 1);
        assert_eq!(problem("p99(ack < 1ms"), (9, "`)` is missing".to_owned()));
        assert_eq!(problem("lost = 0").0, 6);
        assert!(problem("lost = 0").1.ends_with("equality is `==`"));
        assert_eq!(problem("lost == ").0, 9);
        assert_eq!(problem("lost == 1.2.3").0, 9);
        assert_eq!(problem("p99(ack) < 250"), (15, "a time wants `us`, `ms` or `s`: `250ms`?".to_owned()));
        assert_eq!(problem("lost == 0ms").0, 10);
        assert_eq!(problem("rate(acked) > 5ms").0, 16);
        assert_eq!(problem("lost == 0 and more").0, 11);
        assert_eq!(problem("lost == 0 0"), (11, "`0` is too much here".to_owned()));
        assert_eq!(problem("löst == 0").0, 1);
    }
}
