//! Figures as people read them: three digits that count, a unit that fits.

/// What a value is, and so how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// A plain number: `12.3k`.
    #[default]
    Number,
    /// Milliseconds, written in the unit that fits: `850 µs`, `12.3 ms`, `1.20 s`.
    Ms,
    /// Seconds since a beginning: `1:05`, `1:02:03`.
    Clock,
    /// Bytes: `12.3 kB`.
    Bytes,
    /// `1 / (1 - p)` of a quantile p, for the axis of a percentile curve: 100 is `99%`.
    Quantile,
}

impl Unit {
    /// A value of this unit as text.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Number => short(value),
            Self::Ms => latency(value),
            Self::Clock => clock(value),
            Self::Bytes => format!("{}B", spaced(value)),
            Self::Quantile => quantile(value),
        }
    }
}

/// Three digits that count, without zeros that say nothing: `0.125`, `12.3`, `999`.
pub fn digits(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    let places = match size {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A number in few characters: `999`, `12.3k`, `1.5M`.
pub fn short(value: f64) -> String {
    let (scaled, prefix) = scaled(value);
    digits(scaled) + prefix
}

fn spaced(value: f64) -> String {
    let (scaled, prefix) = scaled(value);
    format!("{} {prefix}", digits(scaled))
}

fn scaled(value: f64) -> (f64, &'static str) {
    // 999.5 is where three digits would become four.
    match value.abs() {
        999.5e6.. => (value / 1e9, "G"),
        999.5e3.. => (value / 1e6, "M"),
        999.5.. => (value / 1e3, "k"),
        _ => (value, ""),
    }
}

/// A whole number with its thousands apart: `12,345`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A latency, given in ms.
pub fn latency(ms: f64) -> String {
    match ms.abs() {
        999.5.. => format!("{} s", digits(ms / 1e3)),
        size if size == 0.0 || size >= 1.0 => format!("{} ms", digits(ms)),
        _ => format!("{} µs", digits(ms * 1e3)),
    }
}

/// Seconds as a clock shows them.
pub fn clock(seconds: f64) -> String {
    let all = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `100` is `99%`, `1000` is `99.9%`.
fn quantile(inverse: f64) -> String {
    let percent = 100.0 - 100.0 / inverse.max(1.0);
    let places = (inverse.log10().ceil().max(2.0) as usize).saturating_sub(2).min(6);
    format!("{percent:.places$}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_change_their_prefix_in_time() {
        let wanted = [(0.0, "0"), (0.5, "0.5"), (12.34, "12.3"), (999.4, "999"), (999.6, "1k"), (12_345.0, "12.3k")];
        for (value, text) in wanted {
            assert_eq!(short(value), text);
        }
        assert_eq!((short(1.5e6), short(2.0e9)), ("1.5M".to_owned(), "2G".to_owned()));
        assert_eq!(short(f64::NAN), "-");
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }

    #[test]
    fn latencies_have_the_unit_that_fits() {
        let wanted = [(0.0, "0 ms"), (0.0125, "12.5 µs"), (0.85, "850 µs"), (1.0, "1 ms"), (12.34, "12.3 ms")];
        for (value, text) in wanted {
            assert_eq!(latency(value), text);
        }
        assert_eq!((latency(999.9), latency(61_234.0)), ("1 s".to_owned(), "61.2 s".to_owned()));
    }

    #[test]
    fn clocks_and_quantiles_read_as_one_writes_them() {
        assert_eq!((clock(5.0), clock(65.0), clock(3_723.0)), ("0:05".into(), "1:05".into(), "1:02:03".into()));
        let wanted = [(1.0, "0%"), (2.0, "50%"), (10.0, "90%"), (100.0, "99%"), (1e3, "99.9%"), (1e5, "99.999%")];
        for (value, text) in wanted {
            assert_eq!(Unit::Quantile.text(value), text);
        }
        assert_eq!(Unit::Bytes.text(12_300.0), "12.3 kB");
    }
}
