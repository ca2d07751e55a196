//! Axes: from values to places, and where round values are.

use crate::units::Unit;

/// Ticks of a linear axis, at most.
const TICKS: f64 = 5.0;
/// Steps of an axis of seconds that are round to people.
const CLOCK_STEPS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0,
    43_200.0, 86_400.0,
];

/// How places follow values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By their logarithm; values of 0 and below are not shown.
    Log,
}

/// What one side of a plot means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// What it says beside it.
    pub label: String,
    /// How its values are written.
    pub unit: Unit,
    /// How places follow values.
    pub scale: Scale,
}

impl Axis {
    /// A linear one.
    pub fn new(label: &str, unit: Unit) -> Self {
        Self { label: label.to_owned(), unit, scale: Scale::Linear }
    }

    /// A logarithmic one.
    pub fn log(label: &str, unit: Unit) -> Self {
        Self { scale: Scale::Log, ..Self::new(label, unit) }
    }

    /// Whether a value has a place on it.
    pub(super) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }
}

/// What an axis shows: from `low` to `high`, with ticks between.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range {
    low: f64,
    high: f64,
    scale: Scale,
    pub(super) ticks: Vec<f64>,
}

impl Range {
    /// For values that lie beside each other: as wide as they are.
    pub(super) fn across(axis: &Axis, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = bounds(values)?;
        if low == high {
            (low, high) = if axis.scale == Scale::Log { (low / 2.0, high * 2.0) } else { (low - 0.5, high + 0.5) };
        }
        let ticks = match axis.scale {
            Scale::Linear => linear_ticks(low, high, step(axis.unit, high - low)),
            Scale::Log => log_ticks(axis.unit, low, high),
        };
        Some(Self { low, high, scale: axis.scale, ticks })
    }

    /// For values that lie above each other: from zero, where none is below and the scale has it, to a round value.
    pub(super) fn upwards(axis: &Axis, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = bounds(values)?;
        if axis.scale == Scale::Log {
            let (low, high) = (round_down(low), round_up(high));
            let high = if low == high { high * 10.0 } else { high };
            return Some(Self { low, high, scale: Scale::Log, ticks: log_ticks(axis.unit, low, high) });
        }
        let (low, high) = (low.min(0.0), high.max(0.0));
        let high = if low == high { 1.0 } else { high };
        let step = step(axis.unit, high - low);
        let (low, high) = ((low / step).floor() * step, (high / step - 1e-9).ceil() * step);
        Some(Self { low, high, scale: Scale::Linear, ticks: linear_ticks(low, high, step) })
    }

    /// Where a value is, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        share.clamp(0.0, 1.0)
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// The least round step that makes not too many ticks.
fn step(unit: Unit, span: f64) -> f64 {
    let least = span / TICKS;
    if unit == Unit::Clock {
        let days = (least / 86_400.0).ceil() * 86_400.0;
        return CLOCK_STEPS.iter().copied().find(|step| *step >= least).unwrap_or(days);
    }
    let decade = 10f64.powf(least.log10().floor());
    let wide = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| decade * factor >= least * (1.0 - 1e-9));
    decade * wide.unwrap_or(10.0)
}

fn linear_ticks(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|place| place as f64 * step).collect()
}

/// The powers of ten; of few, what lies between too. A quantile's axis has the median.
fn log_ticks(unit: Unit, low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let all = |factors: &[f64]| -> Vec<f64> {
        let powers = (first..=last).map(|power| 10f64.powi(power));
        let ticks = powers.flat_map(|power| factors.iter().map(move |factor| power * factor));
        ticks.filter(|tick| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(tick)).collect()
    };
    let powers = all(&[1.0]);
    if unit == Unit::Quantile {
        // From 50 % on: 0 % would stand in its way. Of very many, whose labels are long, every other one.
        let steps = if powers.len() > 6 { 2 } else { 1 };
        return [2.0].into_iter().chain(powers).filter(|tick| *tick > 1.0 && *tick <= high).step_by(steps).collect();
    }
    match powers.len() {
        0 | 1 => all(&[1.0, 2.0, 5.0]),
        2 => all(&[1.0, 3.0]),
        count => powers.into_iter().step_by(count.div_ceil(6)).collect(),
    }
}

/// The next of 1, 2, 5 by tens that is not above it.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let below = [5.0, 2.0, 1.0].into_iter().map(|lead| lead * power).find(|round| *round <= value);
    below.unwrap_or(power / 2.0)
}

/// The next of 1, 2, 5 by tens that is not below it.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let above = [1.0, 2.0, 5.0].into_iter().map(|lead| lead * power).find(|round| *round >= value);
    above.unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn upwards(axis: &Axis, values: &[f64]) -> Range {
        Range::upwards(axis, values.iter().copied()).unwrap()
    }

    #[test]
    fn ticks_are_round_and_few() {
        let number = Axis::new("", Unit::Number);
        assert_eq!(upwards(&number, &[3.0, 14_800.0]).ticks, [0.0, 5000.0, 10_000.0, 15_000.0]);
        assert_eq!(upwards(&number, &[97.0]).ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(upwards(&number, &[-3.0, 7.0]).ticks, [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0]);
        let clock = Axis::new("", Unit::Clock);
        let run = Range::across(&clock, [0.0, 600.0].into_iter()).unwrap();
        assert_eq!(run.ticks, [0.0, 120.0, 240.0, 360.0, 480.0, 600.0]);
        assert_eq!(Range::across(&clock, [1.0, 59.0].into_iter()).unwrap().ticks, [15.0, 30.0, 45.0]);
    }

    #[test]
    fn a_logarithmic_axis_has_the_powers_of_ten() {
        let ms = Axis::log("", Unit::Ms);
        assert_eq!(upwards(&ms, &[0.4, 1_300.0]).ticks, [1.0, 10.0, 100.0, 1000.0]);
        let quantile = Axis::log("", Unit::Quantile);
        let run = Range::across(&quantile, [1.0, 5000.0].into_iter()).unwrap();
        assert_eq!(run.ticks, [2.0, 10.0, 100.0, 1000.0]);
        let long = Range::across(&quantile, [1.0, 3e7].into_iter()).unwrap();
        assert_eq!(long.ticks, [2.0, 100.0, 10_000.0, 1e6]);
        assert!((run.place(1.0), run.place(5000.0)) == (0.0, 1.0));
    }

    #[test]
    fn equal_values_and_zeros_have_a_place_too() {
        for axis in [Axis::new("", Unit::Number), Axis::log("", Unit::Ms), Axis::new("", Unit::Clock)] {
            for value in [1e-9, 1.0, 5.0, 10.0, 1e12] {
                let range = upwards(&axis, &[value, value]);
                assert!(range.place(value).is_finite() && !range.ticks.is_empty(), "{axis:?} {value} {range:?}");
                let range = Range::across(&axis, [value].into_iter()).unwrap();
                assert!(range.place(value).is_finite(), "{axis:?} {value} {range:?}");
            }
        }
        assert!(upwards(&Axis::new("", Unit::Number), &[0.0]).place(0.0) == 0.0);
        assert_eq!(Range::upwards(&Axis::new("", Unit::Number), std::iter::empty()), None);
    }

    #[test]
    fn a_rounded_bound_never_cuts_a_value_off() {
        let axis = Axis::log("", Unit::Ms);
        for value in [0.99, 1.0, 1.9, 2.0, 2.1, 4.9, 5.0, 5.1, 9.9, 10.0, 123.4] {
            let range = upwards(&axis, &[value, value * 1.01]);
            assert!(range.low <= value && range.high >= value * 1.01, "{value} {range:?}");
        }
    }
}
