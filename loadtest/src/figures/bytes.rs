//! Figures as bytes, for workers: counts as they are, histograms by their filled cells only.

use std::collections::BTreeMap;

use super::{Count, Figures, Timing};

/// Of what follows. Another version of the load tester may have other counts and timings.
const VERSION: u64 = 1;

/// Bytes that are no figures, or those of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not figures of this version of the load tester: run one version everywhere")]
pub struct BytesError;

impl Figures {
    /// All of it, some kilobytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        for number in [VERSION, Count::ALL.len() as u64, Timing::ALL.len() as u64] {
            put(&mut out, number);
        }
        self.counts.iter().for_each(|count| put(&mut out, *count));
        for timing in &self.timings {
            let cells: Vec<_> = timing.iter_recorded().collect();
            put(&mut out, cells.len() as u64);
            let mut before = 0;
            for cell in cells {
                put(&mut out, cell.value_iterated_to() - before);
                put(&mut out, cell.count_at_value());
                before = cell.value_iterated_to();
            }
        }
        put(&mut out, self.closes.len() as u64);
        for (code, n) in &self.closes {
            put(&mut out, u64::from(*code));
            put(&mut out, *n);
        }
        put(&mut out, self.errors.len() as u64);
        for (text, n) in &self.errors {
            put(&mut out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
            put(&mut out, *n);
        }
        out
    }

    /// What [`Figures::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`BytesError`] for anything else.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, BytesError> {
        let read = read(&mut bytes).filter(|_| bytes.is_empty());
        read.ok_or(BytesError)
    }
}

fn read(bytes: &mut &[u8]) -> Option<Figures> {
    let expected = [VERSION, Count::ALL.len() as u64, Timing::ALL.len() as u64];
    for number in expected {
        (take(bytes)? == number).then_some(())?;
    }
    let mut figures = Figures::default();
    for count in &mut figures.counts {
        *count = take(bytes)?;
    }
    for timing in &mut figures.timings {
        let mut value = 0_u64;
        for _ in 0..take(bytes)? {
            value = value.checked_add(take(bytes)?)?;
            timing.record_n(value, take(bytes)?).ok()?;
        }
    }
    let mut closes = BTreeMap::new();
    for _ in 0..take(bytes)? {
        closes.insert(u16::try_from(take(bytes)?).ok()?, take(bytes)?);
    }
    figures.closes = closes;
    for _ in 0..take(bytes)? {
        let length = usize::try_from(take(bytes)?).ok()?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        figures.errors_of(std::str::from_utf8(text).ok()?, take(bytes)?);
    }
    Some(figures)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // The tenth byte has one bit of room.
        (shift < 63 || part < 2).then_some(())?;
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        figures.count(Count::Acked, 12_345_678_901);
        for n in 0..5_000_u64 {
            figures.time(Timing::Ack, Duration::from_micros(n * n));
        }
        figures.time(Timing::Reconnect, Duration::from_secs(90_000));
        figures.closed(Some(4001));
        figures.closed(None);
        figures.error("connect: refused");
        figures
    }

    #[test]
    fn what_was_counted_and_timed_comes_back_from_bytes() {
        let before = figures();
        let bytes = before.to_bytes();
        assert!(bytes.len() < 16_000, "{} bytes", bytes.len());
        let after = Figures::from_bytes(&bytes).unwrap();
        assert_eq!(after.counted(Count::Acked), 12_345_678_901);
        for timing in Timing::ALL {
            let (before, after) = (before.timing(*timing), after.timing(*timing));
            assert_eq!((before.len(), before.max()), (after.len(), after.max()));
            for percent in [1.0, 50.0, 99.0, 99.9, 100.0] {
                assert_eq!(before.value_at_percentile(percent), after.value_at_percentile(percent));
            }
        }
        assert_eq!((before.closes, before.errors), (after.closes, after.errors));
    }

    #[test]
    fn bytes_that_are_cut_or_of_another_version_are_refused() {
        let bytes = figures().to_bytes();
        for length in 0..bytes.len() {
            assert!(Figures::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut other = bytes.clone();
        other[0] += 1;
        assert!(Figures::from_bytes(&other).is_err());
        assert!(Figures::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Figures::from_bytes(&[0xff; 200]).is_err());
    }
}
