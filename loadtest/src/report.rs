//! `report.html`: a run for people. The first screen is for who decides: did it pass, why, and the few figures behind that.
//! Below come the thresholds, what the ledger found by name, the curves, and what is needed to run it again.
//!
//! One file that asks the network for nothing. It reads at 400 pixels and at 1280, in light and dark, and without script.

mod curves;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::figures::{Count, Outcome, Timing, Verdict, close_name};
use crate::judgement::{Judgement, Row, findings};
use crate::page::{Cell, badge, document, escaped, table};
use crate::summary::{Latency, Machine, WriteError, rfc3339, write_file};
use crate::threshold::found_text;
use crate::units::{Unit, clock, digits, grouped, latency, short};

/// Its name within the directory of results.
pub const FILE: &str = "report.html";

/// Writes `report.html` into a directory, which is made where it is missing. Blocks.
pub fn write(dir: &Path, outcome: &Outcome) -> Result<PathBuf, WriteError> {
    write_file(dir, FILE, &html(outcome))
}

/// The page.
pub fn html(outcome: &Outcome) -> String {
    let judgement = Judgement::of(outcome);
    let title = format!("Load test {}: {}", outcome.profile, judgement.word().to_lowercase());
    let body = [
        head(outcome, &judgement),
        tiles(outcome),
        format!(
            "<div class=\"pair\">\n<section>{}</section>\n<section>{}</section>\n</div>\n",
            thresholds(outcome),
            ledger(outcome.ledger.as_ref())
        ),
        section("Over the run", &curves::over_time(outcome)),
        section("How long things took", &(latencies(outcome) + &curves::by_percentile(outcome))),
        section("What went wrong", &curves::faults(outcome)),
        section("Totals", &counts(outcome)),
        section("This run", &details(outcome)),
    ];
    document(&title, &format!("<main>\n{}</main>", body.concat()))
}

fn section(title: &str, content: &str) -> String {
    if content.is_empty() { String::new() } else { format!("<h2>{}</h2>\n{content}", escaped(title)) }
}

fn head(outcome: &Outcome, judgement: &Judgement) -> String {
    let class = if judgement.passed { "good" } else { "bad" };
    let mut html = format!(
        "<h1>Load test: {}</h1>\n<p class=\"soft\">{}</p>\n\
         <p class=\"verdict {class}\"><strong>{}</strong> {}</p>\n",
        escaped(&outcome.profile),
        escaped(&outcome.about),
        judgement.word(),
        escaped(&judgement.sentence)
    );
    if !outcome.warnings.is_empty() {
        let items: String = outcome.warnings.iter().map(|text| format!("<li>{}</li>", escaped(text))).collect();
        let _ = writeln!(html, "<ul class=\"warnings\" aria-label=\"Warnings\">{items}</ul>");
    }
    html
}

/// The few figures that everybody asks for.
fn tiles(outcome: &Outcome) -> String {
    let figures = &outcome.figures;
    let peak = outcome.series.iter().map(|moment| moment.connected).max().unwrap_or(0);
    let acked = figures.counted(Count::Acked);
    let seconds = outcome.took.as_secs_f64();
    let rate = if seconds > 0.0 { acked as f64 / seconds } else { 0.0 };
    let acks = figures.timing(Timing::Ack);
    let ack = |quantile: f64| {
        if acks.is_empty() { "-".to_owned() } else { latency(acks.value_at_quantile(quantile) as f64 / 1e3) }
    };
    let lost = outcome.ledger.as_ref().filter(|verdict| verdict.complete).map(|verdict| grouped(verdict.lost.count));
    let checked = if lost.is_some() { "acked and not in Kafka" } else { "Kafka was not read" };
    let tile = |name: &str, value: String, note: String| {
        let (name, value, note) = (escaped(name), escaped(&value), escaped(&note));
        format!("<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>")
    };
    let tiles = [
        tile("Devices at once", grouped(peak), format!("of {} in {}", grouped(outcome.devices), clock(seconds))),
        tile("Updates acked", short(acked as f64), format!("{} a second", short(rate))),
        tile("Ack, 99 of 100 within", ack(0.99), format!("half within {}", ack(0.5))),
        tile("Lost", lost.unwrap_or_else(|| "not checked".to_owned()), checked.to_owned()),
        tile(
            "Failed connects",
            short(figures.counted(Count::ConnectFailures) as f64),
            format!("{} disconnects", short(figures.counted(Count::Disconnects) as f64)),
        ),
    ];
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.concat())
}

fn thresholds(outcome: &Outcome) -> String {
    if outcome.thresholds.is_empty() {
        return section("Thresholds", "<p>None was set.</p>\n");
    }
    let rows: Vec<Vec<Cell>> = outcome
        .thresholds
        .iter()
        .map(|judged| {
            let word = if judged.holds { "held" } else { "breached" };
            vec![Cell::text(&judged.text), Cell::number(&found_text(judged)), Cell::html(badge(judged.holds, word))]
        })
        .collect();
    section("Thresholds", &table("Thresholds and what was found", &["threshold", "found", "result"], &rows))
}

fn ledger(verdict: Option<&Verdict>) -> String {
    let Some(verdict) = verdict else {
        let text = "<p>Not asked. With <code>--kafka</code> every acked update is looked for in its topic.</p>\n";
        return section("Ledger", text);
    };
    let mut html = String::new();
    if !verdict.complete {
        let warning = "Kafka was not read to its end: what follows says nothing about what was stored.";
        let _ = writeln!(html, "<ul class=\"warnings\"><li>{warning}</li></ul>");
    }
    let commands = &verdict.commands;
    let _ = writeln!(
        html,
        "<p>Of {} acked updates {} were found in Kafka. Of {} accepted commands {} succeeded.</p>",
        grouped(verdict.acked),
        grouped(verdict.stored),
        grouped(commands.accepted),
        grouped(commands.succeeded)
    );
    let all = findings(verdict);
    let rows: Vec<Vec<Cell>> = all.iter().map(|row| finding(row, verdict.complete)).collect();
    html += &table("What the ledger looked for", &["", "count", "result"], &rows);
    for row in all.iter().filter(|row| !row.finding.first.is_empty()) {
        let items: String = row.finding.first.iter().map(|name| format!("<li>{}</li>", escaped(name))).collect();
        let (count, named) = (row.finding.count, row.finding.first.len());
        let head =
            if count > named as u64 { format!("the first {named} of {}", grouped(count)) } else { grouped(count) };
        let _ = writeln!(
            html,
            "<details open><summary>{} by name: {head}</summary><ul class=\"named\" tabindex=\"0\">{items}</ul></details>",
            escaped(&row.name.replace('_', " "))
        );
    }
    section("Ledger", &html)
}

fn finding(row: &Row<'_>, complete: bool) -> Vec<Cell> {
    let clean = row.finding.count == 0;
    let mark = match (complete, clean) {
        (false, true) => "not known".to_owned(),
        (_, true) => badge(true, "clean"),
        (_, false) => badge(false, "found"),
    };
    let (name, meaning) = (escaped(&row.name.replace('_', " ")), escaped(row.meaning));
    // What is clean needs no more than its line; a pointer still reads what it is.
    let name = if clean {
        format!("<span title=\"{meaning}\">{name}</span>")
    } else {
        format!("<b>{name}</b><br><span class=\"soft\">{meaning}</span>")
    };
    vec![Cell::html(name), Cell::number(&grouped(row.finding.count)), Cell::html(mark)]
}

fn latencies(outcome: &Outcome) -> String {
    let rows: Vec<Vec<Cell>> = Timing::ALL
        .iter()
        .map(|timing| (timing, Latency::of(&outcome.figures, *timing).row()))
        .filter(|(_, (count, _))| *count > 0)
        .map(|(timing, (count, values))| {
            let values = values.iter().map(|ms| Cell::number(&digits(ms.unwrap_or(f64::NAN))));
            let name = Cell::text(&timing.name().replace('_', " "));
            [name, Cell::number(&grouped(count))].into_iter().chain(values).collect()
        })
        .collect();
    if rows.is_empty() {
        return "<p>Nothing was timed.</p>\n".to_owned();
    }
    let head: Vec<&str> = ["milliseconds", "count"].into_iter().chain(Latency::COLUMNS).collect();
    table("Latencies in milliseconds", &head, &rows)
}

fn counts(outcome: &Outcome) -> String {
    let seconds = outcome.took.as_secs_f64();
    let rows: Vec<Vec<Cell>> = Count::ALL
        .iter()
        .map(|count| {
            let total = outcome.figures.counted(*count);
            let rate = if seconds > 0.0 { digits(total as f64 / seconds) } else { "-".to_owned() };
            vec![Cell::text(&count.name().replace('_', " ")), Cell::number(&grouped(total)), Cell::number(&rate)]
        })
        .collect();
    let table = table("Totals over the run", &["", "total", "a second"], &rows);
    format!("<details><summary>All that was counted</summary>\n{table}</details>\n")
}

/// What one needs to know to do it again.
fn details(outcome: &Outcome) -> String {
    let machine = Machine::here();
    let memory = Unit::Bytes.text(machine.memory_bytes as f64);
    let row = |name: &str, value: &str| vec![Cell::text(name), Cell::text(value)];
    let rows = [
        row("target", &outcome.target),
        row("began", &rfc3339(outcome.began_ms)),
        row("took", &clock(outcome.took.as_secs_f64())),
        row("devices", &grouped(outcome.devices)),
        row("workers", &grouped(outcome.workers)),
        row("load tester", &format!("tidegate-loadtest {}", outcome.version)),
        row("its machine", &format!("{} cores, {memory} memory, {}", machine.cores, machine.processor)),
        row("its kernel", &machine.kernel),
    ];
    let mut html = table("About this run", &["", ""], &rows);
    if !outcome.command.is_empty() {
        let _ = writeln!(html, "<h3>Command line</h3>\n<pre>{}</pre>", escaped(&outcome.command));
    }
    if !outcome.profile_text.is_empty() {
        let _ = writeln!(
            html,
            "<details><summary>The profile as it was run</summary><pre>{}</pre></details>",
            escaped(&outcome.profile_text)
        );
    }
    html
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sample;

    #[test]
    fn a_failed_run_says_so_first_and_names_what_was_found() {
        let page = html(&sample::failed());
        let place = |text: &str| page.find(text).unwrap_or_else(|| unreachable!("{text} is not in the report"));
        assert!(place("<strong>FAILED</strong>") < place("<h2>Thresholds</h2>"));
        assert!(place("<h2>Thresholds</h2>") < place("<h2>Ledger</h2>"));
        assert!(place("<h2>Ledger</h2>") < place("<h2>Over the run</h2>"));
        place("device-000017 b1:311 acked at 5:01, not in the topic");
        place("<td>p99(ack) &lt; 40ms</td><td class=\"n\">50.7 ms</td>");
        place("503 with &lt;b&gt;Retry-After: 4&lt;/b&gt; &amp;");
        place("1012 restart");
        place("--threshold &#39;p99(ack) &lt; 40ms&#39;");
        assert!(!page.contains("<b>Retry") && !page.contains("NaN"));
    }

    #[test]
    fn a_run_of_nothing_is_a_page_that_says_so() {
        let page = html(&Outcome::default());
        assert!(page.contains("No device got a connection.") && page.contains("no data</text>"));
        assert!(page.contains("None was set.") && page.contains("Not asked."));
    }

    #[test]
    fn a_ledger_that_was_not_read_to_its_end_calls_nothing_clean() {
        let outcome = Outcome { ledger: Some(Verdict::default()), ..Outcome::default() };
        let page = html(&outcome);
        assert!(page.contains("Kafka was not read to its end") && !page.contains(">clean<"));
    }
}
