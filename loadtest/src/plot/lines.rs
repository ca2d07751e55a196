//! Lines: several series over one x axis.

use std::fmt::Write;

use super::axis::{Axis, Range};
use super::{COLOURS, WIDTH, figure, no_data};
use crate::page::escaped;

const HEIGHT: f64 = 310.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 32.0;
const BOTTOM: f64 = 36.0;
/// What lies closer than this many steps over the width is drawn as its smallest and largest value.
const STEPS: usize = 240;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// A line.
    #[default]
    Line,
    /// A line, and what is below it filled.
    Area,
    /// A dashed line: what was wanted, beside what came.
    Dashed,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// How it is drawn.
    pub look: Look,
    /// (x, y), by rising x. A y that has no place on its axis (NaN; 0 on a logarithmic one) is a gap.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// One line; of `points` as [`Series::points`] says.
    pub fn new(name: &str, look: Look, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), look, points }
    }
}

/// A level that matters, such as a threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// What it is.
    pub name: String,
    /// On the y axis.
    pub value: f64,
}

/// A plot of lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What it shows: unlike others on the page.
    pub title: String,
    /// What goes to the right.
    pub x: Axis,
    /// What goes up.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// Levels that matter.
    pub marks: Vec<Mark>,
}

/// Where the axes put values.
struct Frame<'a> {
    plot: &'a Lines,
    x: Range,
    y: Range,
}

impl Lines {
    /// A plot without marks.
    pub fn new(title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Self { title: title.to_owned(), x, y, series, marks: Vec::new() }
    }

    /// With a level that matters.
    pub fn marked(mut self, name: &str, value: f64) -> Self {
        self.marks.push(Mark { name: name.to_owned(), value });
        self
    }

    /// The figure.
    pub fn html(&self) -> String {
        let shown = |point: &&(f64, f64)| self.x.shows(point.0) && self.y.shows(point.1);
        let points = || self.series.iter().flat_map(|series| series.points.iter()).filter(shown);
        let marks = self.marks.iter().map(|mark| mark.value).filter(|value| self.y.shows(*value));
        let x = Range::across(&self.x, points().map(|point| point.0));
        let y = Range::upwards(&self.y, points().map(|point| point.1).chain(marks));
        // Marks alone make a y axis, but nothing to see.
        let (Some(x), Some(y)) = (x, y) else { return no_data(&self.title, HEIGHT) };
        let frame = Frame { plot: self, x, y };
        let reduced: Vec<Vec<(f64, f64)>> = self.series.iter().map(|series| frame.reduced(&series.points)).collect();
        let lines: String = self.series.iter().zip(&reduced).enumerate().map(|(n, line)| frame.line(n, line)).collect();
        let cursor = format!("<line class=\"cursor\" x1=\"0\" x2=\"0\" y1=\"{TOP}\" y2=\"{}\"/>\n", HEIGHT - BOTTOM);
        let body = frame.axes() + &lines + &frame.marks() + &cursor;
        let rest = frame.legend() + &frame.points(&reduced);
        figure(&self.title, &self.about(), &self.last_x(), HEIGHT, &body, &rest)
    }

    /// In words: where each line begins, ends, and what is its highest.
    fn about(&self) -> String {
        let mut about = format!("{} over {}.", self.y.label, self.x.label);
        for series in &self.series {
            let shown = || series.points.iter().filter(|point| self.y.shows(point.1)).map(|point| point.1);
            let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| self.y.unit.text(value));
            let highest = shown().max_by(f64::total_cmp);
            let (first, last) = (text(shown().next()), text(shown().next_back()));
            let _ = match highest {
                Some(_) => write!(about, " {}: from {first} to {last}, at most {}.", series.name, text(highest)),
                None => write!(about, " {}: no data.", series.name),
            };
        }
        about
    }

    fn last_x(&self) -> String {
        let ends = self.series.iter().filter_map(|series| series.points.last()).map(|point| point.0);
        ends.max_by(f64::total_cmp).map_or_else(String::new, |last| self.x.unit.text(last))
    }
}

impl Frame<'_> {
    fn across(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn up(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - BOTTOM - TOP)
    }

    /// Few enough points to draw: of each step's many the smallest and the largest, so that no peak is lost.
    fn reduced(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let inside = points.iter().filter(|point| self.plot.x.shows(point.0)).copied();
        if points.len() <= 2 * STEPS {
            return inside.collect();
        }
        let mut kept: Vec<(f64, f64)> = Vec::new();
        let all: Vec<(f64, f64)> = inside.collect();
        for step in all.chunk_by(|a, b| self.step(a.0) == self.step(b.0)) {
            let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let shown = || step.iter().filter(|point| self.plot.y.shows(point.1));
            let mut both: Vec<(f64, f64)> =
                shown().min_by(by_y).into_iter().chain(shown().max_by(by_y)).copied().collect();
            both.sort_by(|a, b| a.0.total_cmp(&b.0));
            both.dedup();
            // Nothing to show in a whole step: a gap.
            kept.extend(if both.is_empty() { vec![step[0]] } else { both });
        }
        kept
    }

    fn step(&self, x: f64) -> usize {
        (self.x.place(x) * STEPS as f64) as usize
    }

    fn axes(&self) -> String {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = String::new();
        for tick in &self.y.ticks {
            let y = self.up(*tick);
            let text = escaped(&self.plot.y.unit.text(*tick));
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                y + 5.0
            );
        }
        for tick in &self.x.ticks {
            let x = self.across(*tick);
            let text = escaped(&self.plot.x.unit.text(*tick));
            // At the right edge a text in the middle would be cut.
            let anchor = if x > right - 20.0 { "end" } else { "middle" };
            let x_text = if anchor == "end" { right } else { x };
            let _ = writeln!(
                svg,
                "<line class=\"base\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor}\" y2=\"{}\"/>\
                 <text x=\"{x_text:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>",
                floor + 5.0,
                floor + 24.0
            );
        }
        let label = escaped(&self.plot.y.label);
        svg + &format!(
            "<line class=\"base\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\"/>\
             <text x=\"{LEFT}\" y=\"18\">{label}</text>\n"
        )
    }

    /// A path for each stretch without a gap; a lone point is a dot.
    fn line(&self, number: usize, (series, points): (&Series, &Vec<(f64, f64)>)) -> String {
        let colour = number % COLOURS + 1;
        let dashed = if series.look == Look::Dashed { " dashed" } else { "" };
        let mut svg = String::new();
        for stretch in points.split(|point| !self.plot.y.shows(point.1)).filter(|stretch| !stretch.is_empty()) {
            let places: Vec<String> =
                stretch.iter().map(|point| format!("{:.1} {:.1}", self.across(point.0), self.up(point.1))).collect();
            if let [only] = stretch {
                let (x, y) = (self.across(only.0), self.up(only.1));
                let _ = writeln!(svg, "<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>");
                continue;
            }
            let path = places.join("L");
            if series.look == Look::Area {
                let (first, last) = (self.across(stretch[0].0), self.across(stretch[stretch.len() - 1].0));
                let floor = HEIGHT - BOTTOM;
                let _ = writeln!(
                    svg,
                    "<path class=\"area f{colour}\" d=\"M{first:.1} {floor}L{path}L{last:.1} {floor}Z\"/>"
                );
            }
            let _ = writeln!(svg, "<path class=\"line s{colour}{dashed}\" d=\"M{path}\"/>");
        }
        svg
    }

    fn marks(&self) -> String {
        let mut svg = String::new();
        for mark in self.plot.marks.iter().filter(|mark| self.plot.y.shows(mark.value)) {
            let (y, right) = (self.up(mark.value), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<line class=\"mark\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"strong\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                // Above the line, or below it at the very top.
                if y < TOP + 16.0 { y + 16.0 } else { y - 5.0 },
                escaped(&mark.name)
            );
        }
        svg
    }

    fn legend(&self) -> String {
        let mut html = "<ul class=\"legend\">".to_owned();
        for (number, series) in self.plot.series.iter().enumerate() {
            let colour = number % COLOURS + 1;
            let dashed = if series.look == Look::Dashed { " dashed" } else { "" };
            let last = series.points.iter().rev().find(|point| self.plot.y.shows(point.1));
            let last = last.map_or_else(|| "-".to_owned(), |point| self.plot.y.unit.text(point.1));
            let _ = write!(
                html,
                "<li><svg viewBox=\"0 0 22 10\" aria-hidden=\"true\"><line class=\"line s{colour}{dashed}\" x1=\"0\" \
                 x2=\"22\" y1=\"5\" y2=\"5\"/></svg>{} <b>{}</b></li>",
                escaped(&series.name),
                escaped(&last)
            );
        }
        html + "</ul>\n"
    }

    /// What the script reads: for each series a list of [place, x in words, y in words].
    fn points(&self, reduced: &[Vec<(f64, f64)>]) -> String {
        let place = |x: f64| (self.across(x) * 10.0).round() / 10.0;
        let (x, y) = (self.plot.x.unit, self.plot.y.unit);
        let points = |series: &Vec<(f64, f64)>| -> Vec<(f64, String, String)> {
            let shown = series.iter().filter(|point| self.plot.y.shows(point.1));
            shown.map(|point| (place(point.0), x.text(point.0), y.text(point.1))).collect()
        };
        let all: Vec<_> = reduced.iter().map(points).collect();
        let json = serde_json::to_string(&all).unwrap_or_default().replace('<', "\\u003c");
        format!("<script type=\"application/json\" class=\"points\">{json}</script>\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::units::Unit;

    fn plot(points: Vec<(f64, f64)>) -> Lines {
        let (x, y) = (Axis::new("run time", Unit::Clock), Axis::new("devices", Unit::Number));
        Lines::new("Devices", x, y, vec![Series::new("connected", Look::Line, points)])
    }

    /// The points of the first path, as numbers.
    fn path(html: &str) -> Vec<(f64, f64)> {
        let line = html.split("d=\"M").nth(1).unwrap().split('"').next().unwrap();
        let pair = |text: &str| {
            let (x, y) = text.split_once(' ').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        };
        line.split('L').map(pair).collect()
    }

    #[test]
    fn a_line_goes_from_the_lower_left_to_the_upper_right() {
        let html = plot(vec![(0.0, 0.0), (30.0, 500.0), (60.0, 1000.0)]).html();
        assert_eq!(
            path(&html),
            [
                (LEFT, HEIGHT - BOTTOM),
                ((LEFT + WIDTH - RIGHT) / 2.0, (HEIGHT - BOTTOM + TOP) / 2.0),
                (WIDTH - RIGHT, TOP)
            ]
        );
        assert!(html.contains("connected: from 0 to 1k, at most 1k."), "{html}");
        assert!(html.contains(">0:30</text>") && html.contains(">400</text>"), "{html}");
    }

    #[test]
    fn nothing_to_show_says_so() {
        for points in [vec![], vec![(1.0, f64::NAN)], vec![(f64::NAN, 1.0)]] {
            assert!(plot(points).html().contains(">no data</text>"));
        }
        assert!(plot(vec![]).marked("most", 5.0).html().contains(">no data</text>"));
    }

    #[test]
    fn a_gap_is_no_line() {
        let html =
            plot(vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, f64::NAN), (5.0, 1.0), (6.0, 3.0)])
                .html();
        assert_eq!(html.matches("<path class=\"line").count(), 2, "{html}");
        assert_eq!(html.matches("<circle").count(), 1, "{html}");
        assert!(!html.contains("NaN"), "{html}");
    }

    #[test]
    fn a_day_of_seconds_keeps_its_peak_and_is_small() {
        let mut points: Vec<(f64, f64)> = (0..86_400).map(|second| (f64::from(second), 100.0)).collect();
        points[50_000].1 = 1000.0;
        let html = plot(points).html();
        assert!(html.len() < 40_000, "{}", html.len());
        assert!(path(&html).iter().any(|point| point.1 == TOP), "{html}");
    }

    #[test]
    fn a_mark_widens_the_axis_to_be_seen() {
        let html = plot(vec![(0.0, 10.0), (1.0, 20.0)]).marked("p99 < 250 & more", 250.0).html();
        assert!(html.contains("p99 &lt; 250 &amp; more</text>"), "{html}");
        assert!(path(&html).iter().all(|point| point.1 > 240.0), "{html}");
    }

    #[test]
    fn names_of_strangers_break_nothing() {
        let mut plot = plot(vec![(0.0, 1.0), (1.0, 2.0)]);
        plot.series[0].name = "</script><b>".to_owned();
        plot.title = "<i>\"".to_owned();
        let html = plot.html();
        assert!(!html.contains("<b>\"") && !html.contains("</script><b>") && !html.contains("<i>"), "{html}");
    }
}
