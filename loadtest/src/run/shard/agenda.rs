//! What is going to happen, by when.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use fastrand::Rng;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// An update, or several, are due.
    Update,
    /// A status report is due.
    Status,
    /// An absence begins.
    Leave,
    /// An absence ends.
    Return,
}

/// Something that happens to one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    /// s since the run began.
    pub(super) at: f64,
    pub(super) slot: usize,
    /// Whether it still holds: compared with the device's own.
    pub(super) mark: u32,
    pub(super) what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.slot.cmp(&other.slot))
    }
}

/// The events of one shard.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<Event>>);

impl Agenda {
    pub(super) fn add(&mut self, at: f64, slot: usize, mark: u32, what: What) {
        self.0.push(Reverse(Event { at, slot, mark, what }));
    }

    /// When the next one is, s since the run began.
    pub(super) fn next(&self) -> Option<f64> {
        self.0.peek().map(|event| event.0.at)
    }

    /// The next one that is due.
    pub(super) fn due(&mut self, now: f64) -> Option<Event> {
        let due = self.next().is_some_and(|at| at <= now);
        if due { self.0.pop().map(|event| event.0) } else { None }
    }
}

/// Moments that come at random and independently of each other.
#[derive(Debug, Default)]
pub(super) struct Poisson {
    /// Until when they have been drawn, s, and how much of the next distance is left, in multiples of the mean one.
    drawn: f64,
    left: Option<f64>,
}

impl Poisson {
    /// The next one not after `now`, at this many a second. The rate may change from call to call.
    pub(super) fn next(&mut self, now: f64, rate: f64, rng: &mut Rng) -> Option<f64> {
        let left = *self.left.get_or_insert_with(|| -(1.0 - rng.f64()).ln());
        let room = (now - self.drawn).max(0.0) * rate;
        if left > room {
            self.left = Some(left - room);
            self.drawn = self.drawn.max(now);
            return None;
        }
        self.drawn += left / rate;
        self.left = None;
        Some(self.drawn)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_their_order_and_not_before_they_are_due() {
        let mut agenda = Agenda::default();
        for (at, slot) in [(3.0, 1), (1.0, 2), (2.0, 3)] {
            agenda.add(at, slot, 0, What::Update);
        }
        assert!(agenda.due(0.5).is_none());
        assert_eq!(agenda.due(2.5).unwrap().slot, 2);
        assert_eq!(agenda.due(2.5).unwrap().slot, 3);
        assert!(agenda.due(2.5).is_none());
        assert_eq!(agenda.next(), Some(3.0));
    }

    #[test]
    fn random_moments_are_as_many_as_the_rate_says_whatever_the_steps() {
        for step in [0.001, 0.01, 1.7] {
            let (mut poisson, mut rng, mut count, mut last) = (Poisson::default(), Rng::with_seed(7), 0, 0.0);
            let mut now = 0.0;
            while now < 1_000.0 {
                now += step;
                // Nothing happens in the second half.
                let rate = if now < 500.0 { 20.0 } else { 0.0 };
                while let Some(at) = poisson.next(now, rate, &mut rng) {
                    assert!(at >= last && at <= now);
                    last = at;
                    count += 1;
                }
            }
            assert!((9_600..10_400).contains(&count), "{count} in steps of {step}");
        }
    }
}
