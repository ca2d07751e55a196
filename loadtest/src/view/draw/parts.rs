//! The pieces of the live view.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Row, Sparkline, Table};

use super::Screen;
use crate::figures::{Count, Moment, Progress, Timing, close_name};
use crate::units::{clock, grouped, latency, short};
use crate::view::harmless;

type Rate = (&'static str, fn(&Moment) -> u64, Color);

/// What is drawn as a sparkline.
pub(super) const RATES: [Rate; 7] = [
    ("connected", |moment| moment.connected, Color::Blue),
    ("connects", |moment| moment.connects, Color::Cyan),
    ("failures", |moment| moment.failures, Color::Red),
    ("sent", |moment| moment.sent, Color::Yellow),
    ("acked", |moment| moment.acked, Color::Green),
    ("refused", |moment| moment.refused, Color::Red),
    ("commands", |moment| moment.commands, Color::Magenta),
];

/// The same where lines are few.
pub(super) const RATES_IN_SHORT: [Rate; 3] = [RATES[3], RATES[4], RATES[2]];

/// `0:34 / 1:00`.
pub(super) fn clocks(progress: &Progress) -> String {
    format!("{} / {}", clock(progress.elapsed.as_secs_f64()), clock(progress.total.as_secs_f64()))
}

/// How far the run is.
pub(super) fn bar(progress: &Progress) -> LineGauge<'static> {
    let total = progress.total.as_secs_f64();
    let ratio = if total > 0.0 { (progress.elapsed.as_secs_f64() / total).clamp(0.0, 1.0) } else { 0.0 };
    LineGauge::default()
        .ratio(ratio)
        .label(format!("{:>3.0}%", ratio * 100.0))
        .filled_symbol("█")
        .unfilled_symbol("░")
        .filled_style(Style::new().fg(Color::Blue))
        .unfilled_style(Style::new().dim())
}

/// A line, or more where there is room, for each rate.
pub(super) fn rates(frame: &mut Frame<'_>, area: Rect, screen: &Screen, rates: &[Rate]) {
    let areas = Layout::vertical(rates.iter().map(|_| Constraint::Fill(1))).split(area);
    for ((name, part, colour), area) in rates.iter().zip(areas.iter()) {
        let columns = [Constraint::Length(10), Constraint::Length(8), Constraint::Min(0)];
        // Where there is room, a line between curves tells them apart.
        let height = if area.height > 2 { area.height - 1 } else { area.height };
        let [label, value, curve] = Layout::horizontal(columns).areas(Rect { height, ..*area });
        let values: Vec<u64> = screen.moments.iter().map(part).collect();
        let last = values.last().copied().unwrap_or(0);
        frame.render_widget(Line::from(*name).dim(), label);
        frame.render_widget(Line::from(short(last as f64)).bold(), value);
        let shown = values.len().saturating_sub(usize::from(curve.width));
        frame.render_widget(Sparkline::default().data(&values[shown..]).style(Style::new().fg(*colour)), curve);
    }
}

/// A table of percentiles of at most so many timings: those that there are, the most telling first.
pub(super) fn latencies(frame: &mut Frame<'_>, area: Rect, progress: &Progress, quantiles: &[f64], most: usize) {
    const TELLING: [Timing; 7] = [
        Timing::Ack,
        Timing::Connect,
        Timing::Command,
        Timing::Reconnect,
        Timing::Lateness,
        Timing::AckUncorrected,
        Timing::Tls,
    ];
    let name = |quantile: &f64| match *quantile {
        1.0 => "max".to_owned(),
        quantile => format!("p{}", (quantile * 1000.0).round() / 10.0),
    };
    let timed = |timing: &Timing| !progress.figures.timing(*timing).is_empty();
    let mut shown: Vec<Timing> = TELLING.into_iter().filter(timed).take(most).collect();
    shown.sort();
    if shown.is_empty() {
        frame.render_widget(Line::from("nothing yet").dim(), area);
        return;
    }
    let right = |text: String| Line::from(text).right_aligned();
    let head = ["".to_owned(), "count".to_owned()].into_iter().chain(quantiles.iter().map(name)).map(right);
    let rows = shown.iter().map(|timing| {
        let histogram = progress.figures.timing(*timing);
        let ms = |quantile: &f64| latency(histogram.value_at_quantile(*quantile) as f64 / 1e3);
        let cells = quantiles.iter().map(ms).map(right);
        Row::new([Line::from(timing.name()), right(short(histogram.len() as f64))].into_iter().chain(cells))
    });
    let widths = [Constraint::Length(15), Constraint::Length(6)];
    let widths = widths.into_iter().chain(quantiles.iter().map(|_| Constraint::Fill(1)));
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).dim()), area);
}

/// What state devices are in.
pub(super) fn devices(progress: &Progress) -> Vec<Line<'static>> {
    let Moment { wanted, connected, paused, in_flight, .. } = progress.now;
    let reconnects = progress.figures.counted(Count::Reconnects);
    [
        ("wanted", wanted),
        ("connected", connected),
        ("missing", wanted.saturating_sub(connected)),
        ("paused", paused),
        ("in flight", in_flight),
        ("reconnects", reconnects),
    ]
    .map(|(name, count)| counted(name, count))
    .to_vec()
}

/// The same in a line.
pub(super) fn devices_line(progress: &Progress) -> Line<'static> {
    let Moment { wanted, connected, paused, in_flight, .. } = progress.now;
    let connected = format!("{} of {}", grouped(connected), grouped(wanted));
    let rest = format!(" connected · {} paused · {} in flight", grouped(paused), grouped(in_flight));
    Line::from(vec![connected.bold(), rest.into()])
}

fn counted(name: &str, count: u64) -> Line<'static> {
    Line::from(vec![Span::from(format!("{name:<12}")).dim(), Span::from(format!("{:>12}", grouped(count))).bold()])
}

/// Close codes with their words, the most frequent first, as many as fit.
pub(super) fn closes(progress: &Progress, area: Rect) -> Vec<Line<'static>> {
    let lines = sorted(progress.figures.closes.iter());
    let line = |(code, count): (&u16, u64)| numbered(count, format!("{code} {}", close_name(*code)), area);
    fitting(lines.into_iter().map(line).collect(), area)
}

/// Errors, the most frequent first, as many as fit.
pub(super) fn errors(progress: &Progress, area: Rect) -> Vec<Line<'static>> {
    let lines = sorted(progress.figures.errors.iter());
    fitting(lines.into_iter().map(|(text, count)| numbered(count, harmless(text), area)).collect(), area)
}

pub(super) fn closes_line(progress: &Progress) -> Line<'static> {
    let lines = sorted(progress.figures.closes.iter());
    let texts: Vec<String> = lines.iter().map(|(code, count)| format!("{code}×{}", short(*count as f64))).collect();
    let text = if texts.is_empty() { "none".to_owned() } else { texts.join(" ") };
    Line::from(vec!["closes ".dim(), text.into()])
}

pub(super) fn errors_line(progress: &Progress) -> Line<'static> {
    let errors = sorted(progress.figures.errors.iter());
    let all: u64 = errors.iter().map(|(_, count)| count).sum();
    let text = match errors.first() {
        Some((text, count)) => format!("{} · {}× {}", grouped(all), short(*count as f64), harmless(text)),
        None => "none".to_owned(),
    };
    Line::from(vec!["errors ".dim(), text.into()])
}

/// By falling count; equal ones in their own order.
fn sorted<'a, K: Ord>(counts: impl Iterator<Item = (&'a K, &'a u64)>) -> Vec<(&'a K, u64)> {
    let mut all: Vec<(&K, u64)> = counts.map(|(key, count)| (key, *count)).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    all
}

fn numbered(count: u64, text: String, area: Rect) -> Line<'static> {
    // The count first: what is cut is the end of a long text.
    let room = usize::from(area.width).saturating_sub(9);
    let text: String = text.chars().take(room).collect();
    Line::from(vec![Span::from(format!("{:>7}  ", short_count(count))).bold(), text.into()])
}

fn short_count(count: u64) -> String {
    if count < 100_000 { grouped(count) } else { short(count as f64) }
}

/// As many lines as there is room for; the last says how many are not shown.
fn fitting(mut lines: Vec<Line<'static>>, area: Rect) -> Vec<Line<'static>> {
    let room = usize::from(area.height);
    if lines.is_empty() {
        return vec![Line::from("none").dim()];
    }
    if lines.len() > room {
        let hidden = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::from(format!("{hidden} more")).dim());
    }
    lines
}

/// The newest warnings, as many as fit.
pub(super) fn warnings(progress: &Progress, area: Rect) -> Vec<Line<'static>> {
    let hidden = progress.warnings.len().saturating_sub(usize::from(area.height));
    let style = Style::new().fg(Color::Yellow);
    let line = |warning: &String| Line::styled(format!("! {}", harmless(warning)), style);
    progress.warnings[hidden..].iter().map(line).collect()
}

/// What the ledger will have to look for.
pub(super) fn ledger(progress: &Progress) -> Line<'static> {
    let acked = grouped(progress.figures.counted(Count::Acked));
    let refused = grouped(progress.figures.counted(Count::Refused));
    Line::from(vec!["ledger ".dim(), format!("{acked} acked so far, {refused} refused; checked at the end").into()])
}

pub(super) fn help(screen: &Screen) -> Line<'static> {
    if screen.ending {
        return Line::from("ending the run: the report comes when devices are gone").bold();
    }
    Line::from("q or Ctrl-C ends the run; it still reports").dim()
}
