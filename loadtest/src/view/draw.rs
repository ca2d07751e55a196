//! What the live view looks like: roomy where there is room, and everything that matters in 60 by 16.

mod parts;

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Wrap};

use crate::figures::{Moment, Progress, Timing};

/// Seconds that sparklines remember.
const REMEMBERED: usize = 240;
/// From here on there is room for all of it.
const ROOMY: (u16, u16) = (90, 28);
/// Below this there is none for anything.
const LEAST: (u16, u16) = (40, 10);

/// What is drawn.
#[derive(Default)]
pub(super) struct Screen {
    latest: Option<Progress>,
    /// The last seconds, oldest first.
    moments: VecDeque<Moment>,
    /// The reader has asked for the end.
    pub(super) ending: bool,
}

impl Screen {
    /// Takes a second more.
    pub(super) fn add(&mut self, progress: Progress) {
        if self.moments.len() == REMEMBERED {
            self.moments.pop_front();
        }
        self.moments.push_back(progress.now);
        self.latest = Some(progress);
    }
}

/// Draws the whole.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    let Some(progress) = &screen.latest else {
        frame.render_widget(Paragraph::new("starting …"), area);
        return;
    };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("window too small · {}", parts::clocks(progress));
        frame.render_widget(Paragraph::new(text), area);
    } else if area.width >= ROOMY.0 && area.height >= ROOMY.1 {
        roomy(frame, screen, progress);
    } else {
        narrow(frame, screen, progress);
    }
}

fn roomy(frame: &mut Frame<'_>, screen: &Screen, progress: &Progress) {
    let width = usize::from(frame.area().width);
    let lines = |warning: &String| (warning.chars().count() + 2).div_ceil(width.saturating_sub(8));
    let warnings = progress.warnings.iter().map(lines).sum::<usize>().min(4) as u16;
    let rows = [Constraint::Length(3), Constraint::Min(10), Constraint::Length(warnings), Constraint::Length(2)];
    let [head, middle, warned, foot] = Layout::vertical(rows).areas(frame.area());
    header(frame, head, progress);
    let [left, right] = Layout::horizontal([Constraint::Percentage(64), Constraint::Min(30)]).areas(middle);
    let timings = Timing::ALL.len() as u16 + 3;
    let [rates, latencies] = Layout::vertical([Constraint::Min(5), Constraint::Length(timings)]).areas(left);
    let inner = boxed(frame, rates, " a second ");
    parts::rates(frame, inner, screen, &parts::RATES);
    let inner = boxed(frame, latencies, " latency ");
    parts::latencies(frame, inner, progress, &[0.5, 0.9, 0.99, 0.999, 1.0], Timing::ALL.len());
    let [devices, closes, errors] =
        Layout::vertical([Constraint::Length(8), Constraint::Percentage(40), Constraint::Min(3)]).areas(right);
    let inner = boxed(frame, devices, " devices ");
    frame.render_widget(Paragraph::new(parts::devices(progress)), inner);
    let inner = boxed(frame, closes, " closes by code ");
    frame.render_widget(Paragraph::new(parts::closes(progress, inner)), inner);
    let inner = boxed(frame, errors, " errors ");
    frame.render_widget(Paragraph::new(parts::errors(progress, inner)), inner);
    let text = Paragraph::new(parts::warnings(progress, warned)).wrap(Wrap { trim: true });
    frame.render_widget(text, warned);
    frame.render_widget(Paragraph::new(vec![parts::ledger(progress), parts::help(screen)]), foot);
}

fn narrow(frame: &mut Frame<'_>, screen: &Screen, progress: &Progress) {
    // Everything keeps its line; what room is left goes to the latencies.
    let warned = u16::from(!progress.warnings.is_empty());
    let rows = [
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Min(0),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(warned),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [head, devices, rates, latencies, closes, errors, warning, ledger, help] =
        Layout::vertical(rows).areas(frame.area());
    header(frame, head, progress);
    frame.render_widget(parts::devices_line(progress), devices);
    parts::rates(frame, rates, screen, &parts::RATES_IN_SHORT);
    let room = usize::from(latencies.height.saturating_sub(1));
    parts::latencies(frame, latencies, progress, &[0.5, 0.99, 1.0], room);
    frame.render_widget(parts::closes_line(progress), closes);
    frame.render_widget(parts::errors_line(progress), errors);
    frame.render_widget(Paragraph::new(parts::warnings(progress, warning)), warning);
    frame.render_widget(parts::ledger(progress), ledger);
    frame.render_widget(parts::help(screen), help);
}

fn header(frame: &mut Frame<'_>, area: Rect, progress: &Progress) {
    let [words, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let state = format!(" {}  {}", progress.phase, parts::clocks(progress));
    let width = state.chars().count().min(usize::from(words.width)) as u16;
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(words);
    let what = Line::from(vec![progress.profile.clone().bold(), " → ".dim(), progress.target.clone().into()]);
    frame.render_widget(what, left);
    frame.render_widget(Line::from(state).bold(), right);
    frame.render_widget(parts::bar(progress), bar);
}

/// Draws a border with a title; returns what is inside.
fn boxed(frame: &mut Frame<'_>, area: Rect, title: &'static str) -> Rect {
    let block = Block::bordered().title(title).border_style(ratatui::style::Style::new().dim());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::sample;

    fn drawn(width: u16, height: u16, screen: &Screen) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let cells = terminal.backend().buffer().content();
        let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(usize::from(width)).map(line).collect()
    }

    fn screen() -> Screen {
        let mut screen = Screen::default();
        let outcome = sample::failed();
        for moment in &outcome.series[..300] {
            screen.add(Progress { now: *moment, ..sample::progress_of(&outcome) });
        }
        screen.add(sample::progress());
        screen
    }

    fn has(lines: &[String], wanted: &[&str]) {
        for text in wanted {
            assert!(lines.iter().any(|line| line.contains(text)), "{text} is not in\n{}", lines.join("\n"));
        }
    }

    #[test]
    fn a_roomy_terminal_shows_everything() {
        let lines = drawn(120, 40, &screen());
        has(&lines, &["steady → wss://gateway.example:8443", "running  5:05 / 10:00", "51%"]);
        has(&lines, &["connected", "acked", "failures", "p99.9", "ack_uncorrected", "lateness"]);
        has(&lines, &["wanted", "1,500", "paused", "in flight", "1012 restart", "412", "connection refused", "310"]);
        has(
            &lines,
            &["The generator was the bottleneck", "machine of its own", "acked so far", "q or Ctrl-C ends the run"],
        );
        assert!(lines.iter().any(|line| line.contains('█')), "{}", lines.join("\n"));
    }

    #[test]
    fn sixty_by_sixteen_shows_what_matters() {
        let lines = drawn(60, 16, &screen());
        has(&lines, &["steady → wss://gateway", "running  5:05 / 10:00", "51%", "of 1,500", "acked", "failures"]);
        has(&lines, &["p50", "p99", "max", "ack ", "1012", "310", "! The generator", "acked so far", "q or Ctrl-C"]);
    }

    #[test]
    fn no_size_breaks_it() {
        let (screen, empty) = (screen(), Screen::default());
        for width in [1, 2, 20, 39, 40, 59, 60, 89, 90, 91, 200] {
            for height in [1, 2, 9, 10, 15, 16, 27, 28, 29, 80] {
                drawn(width, height, &screen);
                drawn(width, height, &empty);
            }
        }
        has(&drawn(38, 10, &screen), &["window too small · 5:05 / 10:00"]);
    }

    #[test]
    fn a_run_that_is_ending_says_so() {
        let mut screen = screen();
        screen.ending = true;
        has(&drawn(120, 40, &screen), &["ending"]);
    }

    #[test]
    fn a_run_of_nothing_yet_is_drawn() {
        let mut screen = Screen::default();
        let progress = sample::progress();
        screen.add(Progress { figures: std::sync::Arc::default(), now: Moment::default(), ..progress });
        has(&drawn(120, 40, &screen), &["nothing yet"]);
        has(&drawn(60, 16, &screen), &["errors none", "closes none"]);
    }
}
