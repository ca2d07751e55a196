//! Bars: one figure each, beside each other to compare. They lie, so that their names can be long.

use std::fmt::Write;

use super::axis::{Axis, Range};
use super::{COLOURS, WIDTH, figure, no_data};
use crate::page::escaped;
use crate::units::Unit;

const ROW: f64 = 46.0;
const LEFT: f64 = 2.0;
const RIGHT: f64 = 6.0;
const BAR: f64 = 14.0;
/// Longer names are cut: they would run into the value. The whole is in the bar's own title.
const NAME_CHARS: usize = 44;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is.
    pub name: String,
    /// How long it is.
    pub value: f64,
    /// Its colour, from 0: the same for what belongs together.
    pub colour: usize,
    /// Between which values it lies, drawn as a whisker.
    pub spread: Option<(f64, f64)>,
}

impl Bar {
    /// A bar of the first colour without a whisker.
    pub fn new(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, colour: 0, spread: None }
    }

    /// With another colour.
    pub fn coloured(self, colour: usize) -> Self {
        Self { colour, ..self }
    }

    /// With a whisker from the smallest to the largest.
    pub fn spread(self, smallest: f64, largest: f64) -> Self {
        Self { spread: Some((smallest, largest)), ..self }
    }
}

/// A plot of bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What it shows: unlike others on the page.
    pub title: String,
    /// What the values are; a logarithmic one begins at the power of ten below the smallest.
    pub axis: Axis,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

impl Bars {
    /// Bars from zero.
    pub fn new(title: &str, unit: Unit, bars: Vec<Bar>) -> Self {
        Self { title: title.to_owned(), axis: Axis::new("", unit), bars }
    }

    /// The figure. A bar whose value has no place on the axis says "no data" in its row.
    pub fn html(&self) -> String {
        let whiskers = |bar: &Bar| bar.spread.map_or([bar.value; 2], |(low, high)| [low, high]);
        let values = self.bars.iter().flat_map(|bar| [bar.value].into_iter().chain(whiskers(bar)));
        let Some(range) = Range::upwards(&self.axis, values.filter(|value| self.axis.shows(*value))) else {
            return no_data(&self.title, 2.0 * ROW);
        };
        let height = self.bars.len() as f64 * ROW + 4.0;
        let rows: String =
            self.bars.iter().enumerate().map(|(place, bar)| self.row(bar, place as f64 * ROW, &range)).collect();
        figure(&self.title, &self.about(), &self.axis.label, height, &rows, "")
    }

    fn about(&self) -> String {
        let texts: Vec<String> = self.bars.iter().map(|bar| format!("{}: {}", bar.name, self.text(bar))).collect();
        texts.join("; ")
    }

    fn text(&self, bar: &Bar) -> String {
        if self.axis.shows(bar.value) { self.axis.unit.text(bar.value) } else { "no data".to_owned() }
    }

    fn row(&self, bar: &Bar, top: f64, range: &Range) -> String {
        let span = WIDTH - LEFT - RIGHT;
        let length = |value: f64| if self.axis.shows(value) { range.place(value) * span } else { 0.0 };
        let (text, middle) = (top + 20.0, top + 28.0 + BAR / 2.0);
        let mut svg = format!(
            "<g class=\"bar\"><title>{name}: {value}</title><text class=\"strong\" x=\"{LEFT}\" y=\"{text}\">{cut}</text>\
             <text class=\"strong\" x=\"{right}\" y=\"{text}\" text-anchor=\"end\">{value}</text>\
             <rect class=\"track\" x=\"{LEFT}\" y=\"{y}\" width=\"{span}\" height=\"{BAR}\" rx=\"3\"/>\
             <rect class=\"f{colour}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\"/>",
            name = escaped(&bar.name),
            cut = escaped(&cut(&bar.name)),
            value = escaped(&self.text(bar)),
            right = WIDTH - RIGHT,
            y = top + 28.0,
            colour = bar.colour % COLOURS + 1,
            width = length(bar.value),
        );
        if let Some((low, high)) = bar.spread.filter(|(low, high)| self.axis.shows(*low) && self.axis.shows(*high)) {
            let (low, high) = (LEFT + length(low), LEFT + length(high));
            let _ = write!(
                svg,
                "<path class=\"whisker\" d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {0}v8M{high:.1} {0}v8\"/>",
                middle - 4.0
            );
        }
        svg + "</g>\n"
    }
}

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bars = vec![Bar::new("4000 heartbeat_lost", 10.0), Bar::new("1006", 5.0).coloured(1).spread(4.0, 6.0)];
        let html = Bars::new("Closes", Unit::Number, bars).html();
        assert!(html.contains("class=\"f1\" x=\"2\" y=\"28\" width=\"552.0\""), "{html}");
        assert!(html.contains("class=\"f2\" x=\"2\" y=\"74\" width=\"276.0\""), "{html}");
        assert!(html.contains("class=\"whisker\" d=\"M222.8 81H333.2"), "{html}");
        assert!(html.contains("4000 heartbeat_lost: 10; 1006: 5</desc>"), "{html}");
    }

    #[test]
    fn a_bar_without_a_value_says_so_and_spoils_no_other() {
        let bars = vec![Bar::new("ours", 2.0), Bar::new("theirs", f64::NAN).spread(f64::NAN, f64::NAN)];
        let html = Bars::new("CPU", Unit::Ms, bars).html();
        assert!(html.contains("theirs: no data") && !html.contains("NaN"), "{html}");
        assert!(Bars::new("CPU", Unit::Ms, vec![]).html().contains(">no data</text>"));
    }

    #[test]
    fn a_long_name_is_cut_and_whole_in_its_title() {
        let name = "x".repeat(60);
        let html = Bars::new("Errors", Unit::Number, vec![Bar::new(&name, 1.0)]).html();
        assert!(html.contains(&format!("<title>{name}: 1</title>")), "{html}");
        assert!(html.contains(&format!("{}…</text>", "x".repeat(43))), "{html}");
    }
}
