//! What was found as one page for a browser: the targets, the gateway beside its peers, and every figure behind both.

use super::beside::{COLUMNS, Line, lines};
use super::machine::Machine;
use super::report::{Report, Row, Spread, number};
use crate::page::{Cell, badge, document, escaped, table};
use crate::plot::{Axis, Bar, Bars};
use crate::units::Unit;

/// Colours of what stands beside each other.
const OURS: usize = 0;
const THEIRS: usize = 1;
/// What takes less of its target is shown as this: a logarithm has no place for 0.
const LEAST: f64 = 0.01;

/// The whole page.
pub fn page(report: &Report, machine: &Machine) -> String {
    let (compared, rows): (Vec<&Row>, Vec<&Row>) = report.rows.iter().partition(|row| row.beside.is_some());
    let judged = rows.iter().filter(|row| row.met.is_some()).copied().collect::<Vec<_>>();
    let mut body = format!(
        "<h1>Benchmarks</h1>\n<p class=\"soft\"><code>{}</code> of {}: {}</p>\n{}",
        escaped(&machine.command),
        machine.day,
        escaped(&machine.text()),
        verdict(&judged, report)
    );
    let said: Vec<&String> = report.failures.iter().chain(&machine.remarks).collect();
    body += &list("warnings", said.into_iter().map(|text| escaped(text)));
    if !judged.is_empty() {
        body += &format!("<h2>Targets</h2>\n<div class=\"plots\">{}</div>\n{}", of_targets(&judged), figures(&rows));
    }
    if !compared.is_empty() {
        body += &beside(&lines(&report.rows));
    }
    let noted = report.rows.iter().filter(|row| !row.note.is_empty());
    let notes = list("", noted.map(|row| format!("<code>{}</code>: {}", escaped(&row.name), escaped(&row.note))));
    if !notes.is_empty() {
        body += &format!("<h2>How to read them</h2>\n{notes}");
    }
    document("Benchmarks", &body)
}

/// The first thing to read.
fn verdict(judged: &[&Row], report: &Report) -> String {
    let missed: Vec<&str> = judged.iter().filter(|row| row.met == Some(false)).map(|row| row.name.as_str()).collect();
    let mut text = match (judged.len(), missed.len()) {
        (0, _) => "<strong>No target was measured</strong>".to_owned(),
        (all, 0) => format!("<strong>All {all} targets met</strong>"),
        (all, some) => {
            format!("<strong>{some} of {all} targets missed</strong>: {}", escaped(&missed.join(", ")))
        }
    };
    if !report.failures.is_empty() {
        text += &format!("; {} measurements failed", report.failures.len());
    }
    let good = missed.is_empty() && report.failures.is_empty();
    format!("<p class=\"verdict {}\">{text}</p>\n", if good { "good" } else { "bad" })
}

/// A list of HTML, nothing of nothing.
fn list(class: &str, items: impl Iterator<Item = String>) -> String {
    let items: String = items.map(|item| format!("<li>{item}</li>\n")).collect();
    if items.is_empty() { items } else { format!("<ul class=\"{class}\">\n{items}</ul>\n") }
}

/// One bar a target, as long as the part of it that is taken. Logarithmic: some take a tenth and some ten times.
fn of_targets(judged: &[&Row]) -> String {
    let bar = |row: &&Row| {
        let colour = if row.met == Some(true) { OURS } else { THEIRS };
        Bar::new(&row.name, row.of_target().unwrap_or(f64::NAN).max(LEAST)).coloured(colour)
    };
    let axis = Axis::log("less is better; above 1 it is missed", Unit::Number);
    let title = "How much of its target each figure takes".to_owned();
    Bars { title, axis, bars: judged.iter().map(bar).collect() }.html()
}

fn figures(rows: &[&Row]) -> String {
    let head = ["figure", "unit", "min / median / max", "against", "its min / median / max", "ratio", "target", ""];
    let line = |row: &&Row| {
        let met = row.met.map_or_else(String::new, |met| badge(met, row.met_text()));
        vec![
            Cell::text(&row.name),
            Cell::text(row.unit),
            Cell::number(&row.spread.text()),
            Cell::text(&row.against),
            Cell::number(&row.baseline_spread.text()),
            Cell::number(&row.judged_text()),
            Cell::number(&row.target_text()),
            Cell::html(met),
        ]
    };
    table("Every figure beside its baseline", &head, &rows.iter().map(line).collect::<Vec<_>>())
}

/// The gateway beside the peers: a table, and a plot of each figure.
fn beside(lines: &[Line]) -> String {
    let names = COLUMNS.iter().map(|(_, _, few)| *few);
    let head: Vec<&str> = ["", "what its ack says of an update"].into_iter().chain(names).collect();
    let cell = |cell: &Option<Spread>| Cell::number(&cell.map_or_else(|| "-".to_owned(), |cell| number(cell.median)));
    let row = |line: &Line| {
        let figures = line.cells.iter().map(cell);
        [Cell::text(line.name), Cell::text(line.ack)].into_iter().chain(figures).collect()
    };
    let rows: Vec<Vec<Cell>> = lines.iter().map(row).collect();
    let plots: String =
        COLUMNS.iter().enumerate().map(|(place, (_, name, few))| plot(place, name, few, lines)).collect();
    format!(
        "<h2>Beside its peers</h2>\n<p>Medians. CPU is that of all processes of a server, for an acked update; latency counts from \
         the moment an update was due, at 2,000 updates a second.</p>\n{}<div class=\"plots\">{plots}</div>\n",
        table("The gateway beside its peers", &head, &rows)
    )
}

fn plot(place: usize, name: &str, few: &str, lines: &[Line]) -> String {
    let bar = |(number, line): (usize, &Line)| {
        let colour = if number == 0 { OURS } else { THEIRS };
        match line.cells.get(place).copied().flatten() {
            Some(cell) => Bar::new(line.name, cell.median).coloured(colour).spread(cell.minimum, cell.maximum),
            None => Bar::new(line.name, f64::NAN).coloured(colour),
        }
    };
    let unit = if few.ends_with(", ms") { Unit::Ms } else { Unit::Number };
    Bars::new(name, unit, lines.iter().enumerate().map(bar).collect()).html()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Beside, Pair, Rule};

    fn row(name: &str, rule: Rule) -> Row {
        Row::new(name, "mosquitto", "KiB", &Pair { ours: vec![1.0, 2.0, 3.0], baseline: vec![4.0] }, rule)
    }

    #[test]
    fn the_page_says_first_what_was_missed_and_shows_every_figure() {
        let rows =
            vec![row("idle", Rule::RatioAtMost(0.5)), row("slow", Rule::RatioAtMost(0.1)), row("other", Rule::None)];
        let report = Report { rows, failures: vec!["cpu: <broken>".to_owned()] };
        let page = page(&report, &Machine::here("make bench".to_owned()));
        assert!(page.contains("1 of 2 targets missed</strong>: slow; 1 measurements failed"), "{page}");
        assert!(page.contains("cpu: &lt;broken&gt;"), "{page}");
        assert!(page.contains("<td>other</td>") && page.contains(">MISSED</span>"), "{page}");
        assert!(!page.contains("Beside its peers"), "nobody was compared");
        assert!(!page.contains("NaN"), "{page}");
    }

    #[test]
    fn every_peer_has_its_bar_and_what_its_ack_says() {
        let beside = Beside { peer: "nats", figure: "idle_rss", ack: "before fsync", own_ack: "in Kafka" };
        let other = Beside { peer: "mosquitto", figure: "cpu_at_2000_per_s", ..beside };
        let rows = [beside, other].map(|beside| Row { beside: Some(beside), ..row("peer", Rule::None) }).to_vec();
        let page = page(&Report { rows, failures: Vec::new() }, &Machine::here("make bench-peers".to_owned()));
        assert!(page.contains("<td>before fsync</td>") && page.contains("<td>in Kafka</td>"), "{page}");
        assert!(page.contains("<title>tidegate: 2</title>") && page.contains("<title>nats: 4</title>"), "{page}");
        assert!(page.contains("nats: no data"), "the figures that were not taken: {page}");
    }
}
