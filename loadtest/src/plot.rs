//! Plots as HTML figures around inline SVG, made here: lines over time, percentile curves, bars.
//!
//! A figure says what it shows without its colours or a pointer too: a title and a description for those who hear it, a
//! legend with values for those who see it; [`page`](crate::page) brings the style and the script that reads values under
//! the pointer. The text within grows where the figure gets narrow. What has no data says so.
//!
//! ```
//! use tidegate_loadtest::plot::{Axis, Lines, Look, Series};
//! use tidegate_loadtest::units::Unit;
//!
//! let acked = Series::new("acked", Look::Line, vec![(0.0, 900.0), (1.0, 1010.0)]);
//! let plot = Lines::new("Updates a second", Axis::new("run time", Unit::Clock), Axis::new("a second", Unit::Number), vec![acked]);
//! let page = tidegate_loadtest::page::document("One plot", &plot.html());
//! assert!(page.contains("<svg"));
//! ```

pub mod axis;
mod bars;
mod lines;

use hdrhistogram::Histogram;

use crate::page::escaped;

pub use axis::{Axis, Scale};
pub use bars::{Bar, Bars};
pub use lines::{Lines, Look, Mark, Series};

/// How wide a figure's own coordinates are; CSS scales it to its column.
const WIDTH: f64 = 560.0;

/// Series of a plot that have a colour of their own; from there on colours come again.
pub const COLOURS: usize = 6;

/// The curve of a histogram of µs for [`Lines`] with an x axis of [`Unit::Quantile`](crate::units::Unit::Quantile) on
/// [`Scale::Log`]: (`1 / (1 - p)`, ms) for each quantile p, as far as its count goes. Empty of an empty one.
pub fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS_PER_DECADE: f64 = 12.0;
    if histogram.is_empty() {
        return Vec::new();
    }
    let most = histogram.len() as f64;
    let steps = (most.log10() * STEPS_PER_DECADE).floor() as u32;
    let inverses = (0..=steps).map(|step| 10f64.powf(f64::from(step) / STEPS_PER_DECADE)).chain([most]);
    inverses.map(|inverse| (inverse, histogram.value_at_quantile(1.0 - 1.0 / inverse) as f64 / 1e3)).collect()
}

/// The frame of a figure. `legend` and `points` are HTML and JSON; both may be empty.
fn figure(title: &str, about: &str, at: &str, height: f64, body: &str, rest: &str) -> String {
    let (title, about, id) = (escaped(title), escaped(about), slug(title));
    format!(
        "<figure class=\"plot\"><figcaption><span>{title}</span><span class=\"at\">{}</span></figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-labelledby=\"{id}-title {id}-about\">\
         <title id=\"{id}-title\">{title}</title><desc id=\"{id}-about\">{about}</desc>\n{body}</svg>\n{rest}</figure>\n",
        escaped(at)
    )
}

fn no_data(title: &str, height: f64) -> String {
    let text = format!(
        "<text class=\"empty\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">no data</text>",
        WIDTH / 2.0,
        height / 2.0
    );
    figure(title, "no data", "", height, &text, "")
}

/// An id from a title. Titles on one page differ, and so do these.
fn slug(title: &str) -> String {
    let words: Vec<String> = title
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    format!("plot-{}", words.join("-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_percentile_curve_ends_at_the_largest_value() {
        let mut histogram = Histogram::new(3).unwrap();
        assert!(percentiles(&histogram).is_empty());
        for us in 1..=1000u64 {
            histogram.record(us * 1000).unwrap();
        }
        let curve = percentiles(&histogram);
        let near = |inverse: f64| curve.iter().find(|point| (point.0 - inverse).abs() < 1e-6).unwrap().1;
        assert!((near(10.0) - 900.0).abs() < 2.0 && (near(100.0) - 990.0).abs() < 2.0, "{curve:?}");
        assert!(curve.last().unwrap().0 == 1000.0 && curve.last().unwrap().1 >= 999.0);
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn a_histogram_of_one_value_is_a_curve_of_one_point_at_least() {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(5000).unwrap();
        assert!(percentiles(&histogram).iter().all(|point| point.0 == 1.0 && (point.1 - 5.0).abs() < 0.01));
    }

    #[test]
    fn figures_are_named_for_who_hears_them() {
        let html = figure("Acks & <more>", "about \"it\"", "", 100.0, "", "");
        assert!(html.contains("aria-labelledby=\"plot-acks-more-title plot-acks-more-about\""), "{html}");
        assert!(html.contains("Acks &amp; &lt;more&gt;</title>"), "{html}");
        assert!(html.contains("about &quot;it&quot;</desc>"), "{html}");
    }
}
