//! What was found, as Markdown, and the sections of the documentation that are made of it.

use std::fmt::Write;
use std::path::Path;

use super::BenchError;
use super::beside::{COLUMNS, lines};
use super::machine::Machine;
use super::report::{Report, Row, number};

/// A section of the documentation that a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Every target.
    Targets,
    /// The gateway beside its peers.
    Peers,
}

impl Section {
    /// The lines between which it stands.
    fn marks(self) -> [String; 2] {
        let name = match self {
            Self::Targets => "targets",
            Self::Peers => "peers",
        };
        [format!("<!-- bench {name}: written by bench --update-docs -->"), format!("<!-- bench {name}: end -->")]
    }

    fn text(self, report: &Report, machine: &Machine) -> String {
        match self {
            Self::Targets => targets(report, machine),
            Self::Peers => peers(report, machine),
        }
    }
}

/// Writes sections anew into a file that has their marks.
///
/// # Errors
/// When the file cannot be read or written, or a mark is missing.
pub fn update(file: &Path, sections: &[Section], report: &Report, machine: &Machine) -> Result<(), BenchError> {
    let name = || file.display().to_string();
    let mut text = std::fs::read_to_string(file).map_err(BenchError::io(name()))?;
    for section in sections {
        text = replaced(&text, &section.marks(), &section.text(report, machine))
            .ok_or_else(|| BenchError::failed(format!("{} has no lines {:?}", name(), section.marks())))?;
    }
    std::fs::write(file, text).map_err(BenchError::io(name()))
}

/// A text with something else between its marks; none where they are not both there, in order.
fn replaced(text: &str, [begin, end]: &[String; 2], with: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin.as_str())?;
    let (_, after) = rest.split_once(end.as_str())?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", with.trim()))
}

fn heading(machine: &Machine) -> String {
    let mut text = format!("`{}` of {}: {}.", machine.command, machine.day, machine.text());
    for remark in &machine.remarks {
        let _ = write!(text, " {}.", capital(remark));
    }
    text + "\n"
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn targets(report: &Report, machine: &Machine) -> String {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.beside.is_none()).collect();
    let (judged, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.met.is_some());
    let met = judged.iter().filter(|row| row.met == Some(true)).count();
    let mut text = heading(machine);
    let _ = writeln!(
        text,
        "\n{met} of {} targets met. Figures are minimum / median / maximum of the rounds.",
        judged.len()
    );
    text += "\n| figure | gateway | baseline | | ratio | target | |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for row in &judged {
        let (ratio, target, met) = (row.judged_text(), row.target_text().replace('<', "\\<"), row.met_text());
        let figure = format!("`{}`, {}", row.name, row.unit);
        let (ours, theirs) = (row.spread.text(), row.baseline_spread.text());
        let met = if row.met == Some(false) { format!("**{met}**") } else { met.to_owned() };
        let _ = writeln!(text, "| {figure} | {ours} | {} | {theirs} | {ratio} | {target} | {met} |", row.against);
    }
    if !others.is_empty() {
        text += "\nFor information:\n\n| figure | gateway | baseline | | ratio |\n| --- | --- | --- | --- | --- |\n";
    }
    for row in &others {
        let (ours, theirs, ratio) = (row.spread.text(), row.baseline_spread.text(), row.judged_text());
        let _ = writeln!(text, "| `{}`, {} | {ours} | {} | {theirs} | {ratio} |", row.name, row.unit, row.against);
    }
    text + &notes(&rows) + &failures(report, false)
}

/// What one has to know to read them; figures with the same note share it.
fn notes(rows: &[&Row]) -> String {
    let mut noted: Vec<(Vec<String>, &str)> = Vec::new();
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        let name = format!("`{}`", row.name);
        match noted.iter_mut().find(|(_, note)| *note == row.note) {
            Some((names, _)) => names.push(name),
            None => noted.push((vec![name], &row.note)),
        }
    }
    let lines: String = noted.iter().map(|(names, note)| format!("- {}: {note}.\n", names.join(", "))).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

fn failures(report: &Report, of_peers: bool) -> String {
    let ours = report.failures.iter().filter(|failure| failure.starts_with("peers") == of_peers);
    let failed: Vec<String> = ours.map(|failure| format!("- Failed: {failure}\n")).collect();
    if failed.is_empty() { String::new() } else { format!("\n{}", failed.concat()) }
}

fn peers(report: &Report, machine: &Machine) -> String {
    let lines = lines(&report.rows);
    let names: Vec<&str> = COLUMNS.iter().map(|(_, _, few)| *few).collect();
    let mut text = heading(machine);
    text += "\nMedians of the rounds, smallest and largest in brackets: memory of an idle device, CPU of an acked update, and publish to ack at\n2,000 updates a second.\n";
    let _ = writeln!(text, "\n| | {} | what its ack says of an update |", names.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(names.len() + 1));
    for line in &lines {
        let cells: Vec<String> = line
            .cells
            .iter()
            .map(|cell| {
                cell.map_or_else(
                    || "-".to_owned(),
                    |cell| format!("{} ({} to {})", number(cell.median), number(cell.minimum), number(cell.maximum)),
                )
            })
            .collect();
        let _ = writeln!(text, "| {} | {} | {} |", line.name, cells.join(" | "), line.ack);
    }
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.beside.is_some()).collect();
    text + &notes(&rows) + &failures(report, true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::report::{Beside, Pair, Rule};

    fn report() -> Report {
        let pair = |ours: f64, theirs: f64| Pair { ours: vec![ours], baseline: vec![theirs] };
        let row = |name: &str, rule| Row::new(name, "mosquitto", "KiB", &pair(1.0, 4.0), rule);
        let beside = |peer, figure| Beside { peer, figure, ack: "stored nowhere", own_ack: "in Kafka" };
        let other = |peer, figure| Row { beside: Some(beside(peer, figure)), ..row("peer", Rule::None) };
        let rows = vec![
            row("idle", Rule::RatioAtMost(0.25)).noted("a note".to_owned()),
            row("missed", Rule::RatioAtMost(0.2)).noted("a note".to_owned()),
            row("information", Rule::None),
            other("mosquitto", "idle_rss"),
            other("nats", "ack_p99_at_2000_per_s"),
        ];
        Report { rows, failures: vec!["peers, rabbitmq: not there".to_owned(), "cpu: no".to_owned()] }
    }

    #[test]
    fn every_target_stands_in_the_table_with_whether_it_was_met() {
        let text = targets(&report(), &Machine::here("make bench".to_owned()));
        assert!(text.contains("1 of 2 targets met"), "{text}");
        assert!(text.contains(
            "| `idle`, KiB | 1.00 / 1.00 / 1.00 | mosquitto | 4.00 / 4.00 / 4.00 | 0.250 | \\<= 0.25 | met |"
        ));
        assert!(text.contains("| **MISSED** |"), "{text}");
        assert!(text.contains("- `idle`, `missed`: a note."), "{text}");
        assert!(text.contains("- Failed: cpu: no") && !text.contains("rabbitmq"), "{text}");
        assert!(text.contains("| `information`, KiB |") && !text.contains("`peer`"), "{text}");
    }

    #[test]
    fn every_peer_has_a_line_with_what_its_ack_says() {
        let text = peers(&report(), &Machine::here("make bench-peers".to_owned()));
        assert!(
            text.contains("| tidegate | 1.00 (1.00 to 1.00) | - | - | - | - | 1.00 (1.00 to 1.00) | in Kafka |"),
            "{text}"
        );
        assert!(text.contains("| mosquitto | 4.00 (4.00 to 4.00) | - | - | - | - | - | stored nowhere |"), "{text}");
        assert!(text.contains("- Failed: peers, rabbitmq: not there") && !text.contains("cpu: no"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let [begin, end] = Section::Peers.marks();
        let text = format!("before\n{begin}\nold\n{end}\nafter\n");
        let once = replaced(&text, &Section::Peers.marks(), "new\n").unwrap();
        assert_eq!(once, format!("before\n{begin}\n\nnew\n\n{end}\nafter\n"));
        assert_eq!(replaced(&once, &Section::Peers.marks(), "new\n").unwrap(), once);
        assert_eq!(replaced(&text, &Section::Targets.marks(), "new"), None);
    }
}
