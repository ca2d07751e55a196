//! Whether a run passed, and why, in a sentence that a reader needs no other for.
//!
//! A run passes where it is whole, every threshold holds, the ledger, if it was asked, was read to its end and is clean, and at
//! least one device got through. What the ledger finds fails a run also where no threshold asks for it: an ack that was no promise is
//! never all right.

use crate::figures::{Count, Finding, Outcome, Verdict};
use crate::threshold::found_text;
use crate::units::{clock, grouped};

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it passed.
    pub passed: bool,
    /// Why, in one or two sentences.
    pub sentence: String,
}

/// One kind of finding: its name as in thresholds and the summary, what it means, and how much of it there is.
pub(crate) struct Row<'a> {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) finding: &'a Finding,
}

/// Everything of a verdict that has to be zero, in the order it is shown.
pub(crate) fn findings(verdict: &Verdict) -> [Row<'_>; 9] {
    let row = |name, meaning, finding| Row { name, meaning, finding };
    let commands = &verdict.commands;
    [
        row("lost", "acked, and not in Kafka", &verdict.lost),
        row("doubled", "in Kafka twice with unlike payloads, or twice though sent once", &verdict.doubled),
        row("reordered", "in Kafka behind a later one of its device, though sent once", &verdict.reordered),
        row("altered", "in Kafka with another payload than was sent", &verdict.altered),
        row("acked_and_refused", "acked and refused, both", &verdict.acked_and_refused),
        row("unfounded", "commands that succeeded, and no device had them", &commands.unfounded),
        row("answered_twice", "commands run more than once, or answered in two ways", &commands.answered_twice),
        row("misdelivered", "commands received by another device than theirs", &commands.misdelivered),
        row("without_end", "commands accepted, and no end was heard in time", &commands.without_end),
    ]
}

impl Judgement {
    /// Of a run that is over.
    pub fn of(outcome: &Outcome) -> Self {
        let reasons = reasons(outcome);
        let passed = reasons.is_empty();
        let mut sentence = if passed { praise(outcome) } else { format!("{}.", capital(&reasons.join("; "))) };
        if outcome.cut_short {
            sentence += &format!(" The run was cut short after {}.", clock(outcome.took.as_secs_f64()));
        }
        Self { passed, sentence }
    }

    /// `PASSED` or `FAILED`.
    pub fn word(&self) -> &'static str {
        if self.passed { "PASSED" } else { "FAILED" }
    }
}

/// Why a run failed; none where it passed.
fn reasons(outcome: &Outcome) -> Vec<String> {
    let mut reasons = Vec::new();
    if let [first, others @ ..] = outcome.incomplete.as_slice() {
        let more = if others.is_empty() { String::new() } else { format!(" (and {} more like that)", others.len()) };
        reasons.push(format!("{first}{more}"));
    }
    if outcome.figures.counted(Count::Connects) == 0 {
        reasons.push("no device got a connection".to_owned());
    }
    let breached: Vec<String> = outcome
        .thresholds
        .iter()
        .filter(|judged| !judged.holds)
        .map(|judged| match judged.found {
            Some(_) => format!("{} came to {}", judged.text, found_text(judged)),
            None => format!("{} had nothing to be judged by", judged.text),
        })
        .collect();
    if !breached.is_empty() {
        let (count, all) = (breached.len(), outcome.thresholds.len());
        let was = if count == 1 { "was" } else { "were" };
        reasons.push(format!("{count} of {} {was} breached: {}", plural(all as u64, "threshold"), breached.join(", ")));
    }
    if let Some(verdict) = &outcome.ledger {
        reasons.extend(ledger_reasons(verdict, outcome.cut_short));
    }
    reasons
}

fn ledger_reasons(verdict: &Verdict, cut_short: bool) -> Vec<String> {
    if !verdict.complete {
        return vec!["Kafka could not be read to the end, so nothing is known of what was stored".to_owned()];
    }
    // Whoever cuts a run short hears of fewer ends.
    let counts = |row: &Row<'_>| row.finding.count > 0 && !(cut_short && row.name == "without_end");
    let found: Vec<String> = findings(verdict)
        .iter()
        .filter(|row| counts(row))
        .map(|row| format!("{} {}", grouped(row.finding.count), row.name.replace('_', " ")))
        .collect();
    if found.is_empty() { Vec::new() } else { vec![format!("the ledger found {}", found.join(", "))] }
}

fn praise(outcome: &Outcome) -> String {
    let acked = grouped(outcome.figures.counted(Count::Acked));
    let stored = match &outcome.ledger {
        Some(verdict) => {
            format!("every one of the {} acked updates is in Kafka, once and in order", grouped(verdict.acked))
        }
        None => format!("{acked} updates were acked (the ledger was not asked to look for them in Kafka)"),
    };
    let thresholds = match outcome.thresholds.len() {
        0 => "no threshold was set".to_owned(),
        1 => "the threshold held".to_owned(),
        count => format!("all {count} thresholds held"),
    };
    let (devices, took) = (plural(outcome.devices, "device"), clock(outcome.took.as_secs_f64()));
    format!("{devices} for {took}: {stored}, and {thresholds}.")
}

/// `1 device`, `2 devices`.
fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::Judged;

    fn outcome() -> Outcome {
        let mut outcome = Outcome { devices: 1500, took: Duration::from_secs(90), ..Outcome::default() };
        outcome.figures.count(Count::Connects, 1500);
        outcome.figures.count(Count::Acked, 20_000);
        outcome
    }

    fn judged(text: &str, found: Option<f64>, holds: bool) -> Judged {
        Judged { text: text.to_owned(), found, holds }
    }

    #[test]
    fn a_run_that_passes_says_what_was_proven_and_what_was_not() {
        let mut outcome = outcome();
        let wanted = "1,500 devices for 1:30: 20,000 updates were acked (the ledger was not asked to look for them in \
                      Kafka), and no threshold was set.";
        assert_eq!(Judgement::of(&outcome), Judgement { passed: true, sentence: wanted.to_owned() });
        outcome.ledger = Some(Verdict { acked: 20_000, stored: 20_000, complete: true, ..Verdict::default() });
        outcome.thresholds = vec![judged("lost == 0", Some(0.0), true)];
        let wanted = "1,500 devices for 1:30: every one of the 20,000 acked updates is in Kafka, once and in order, and \
                      the threshold held.";
        assert_eq!(Judgement::of(&outcome).sentence, wanted);
    }

    #[test]
    fn a_run_that_fails_gives_every_reason() {
        let mut outcome = outcome();
        outcome.thresholds = vec![
            judged("p99(ack) < 250ms", Some(312.0), false),
            judged("p99(command) < 1s", None, false),
            judged("refused == 0", Some(0.0), true),
        ];
        let lost = Finding { count: 3, first: vec![] };
        outcome.ledger = Some(Verdict { complete: true, lost, ..Verdict::default() });
        let judgement = Judgement::of(&outcome);
        assert!(!judgement.passed);
        let wanted = "2 of 3 thresholds were breached: p99(ack) < 250ms came to 312 ms, p99(command) < 1s had \
                      nothing to be judged by; the ledger found 3 lost.";
        assert_eq!(judgement.sentence, wanted);
    }

    #[test]
    fn a_run_of_which_a_part_is_lost_did_not_pass_whatever_the_rest_says() {
        let mut outcome = outcome();
        outcome.thresholds = vec![judged("refused == 0", Some(0.0), true)];
        outcome.incomplete = vec!["the worker at 10.0.0.7:4 was lost".to_owned()];
        let wanted = |sentence: &str| Judgement { passed: false, sentence: sentence.to_owned() };
        assert_eq!(Judgement::of(&outcome), wanted("The worker at 10.0.0.7:4 was lost."));
        outcome.incomplete.push("the worker at 10.0.0.8:4 was lost".to_owned());
        assert_eq!(Judgement::of(&outcome), wanted("The worker at 10.0.0.7:4 was lost (and 1 more like that)."));
    }

    #[test]
    fn what_nobody_could_see_is_no_pass() {
        let incomplete = Outcome { ledger: Some(Verdict::default()), ..outcome() };
        assert!(Judgement::of(&incomplete).sentence.starts_with("Kafka could not be read to the end"));
        let judgement = Judgement::of(&Outcome { devices: 5, ..Outcome::default() });
        assert_eq!((judgement.passed, judgement.sentence.as_str()), (false, "No device got a connection."));
    }

    #[test]
    fn a_run_cut_short_is_not_blamed_for_commands_under_way() {
        let mut verdict = Verdict { complete: true, ..Verdict::default() };
        verdict.commands.without_end = Finding { count: 2, first: vec![] };
        let mut outcome = Outcome { ledger: Some(verdict), ..outcome() };
        assert!(!Judgement::of(&outcome).passed);
        outcome.cut_short = true;
        let judgement = Judgement::of(&outcome);
        assert!(judgement.passed && judgement.sentence.ends_with("The run was cut short after 1:30."));
    }
}
