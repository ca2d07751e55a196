//! A profile's stages as curves: how many devices, how fast, since the run began. Nothing here depends on the target.

use crate::profile::{Profile, Stage};

/// The stages one after the other.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    /// Begins, s since the run began.
    at: f64,
    /// Share of the devices as it begins.
    from: f64,
    /// What devices' own clocks show as it begins: a clock runs as fast as the rate of sending.
    clock: f64,
    stage: Stage,
}

impl Part {
    fn end(&self) -> f64 {
        self.at + self.stage.for_s
    }
}

impl Timeline {
    /// The curves of a profile.
    pub(super) fn of(profile: &Profile) -> Self {
        let (mut at, mut from, mut clock) = (0.0, 0.0, 0.0);
        let mut parts = Vec::with_capacity(profile.stages.len());
        for stage in &profile.stages {
            parts.push(Part { at, from, clock, stage: stage.clone() });
            at += stage.for_s;
            clock += stage.for_s * stage.rate;
            from = stage.devices;
        }
        Self { parts }
    }

    /// How long all of it takes, s.
    pub(super) fn total_s(&self) -> f64 {
        self.parts.last().map_or(0.0, Part::end)
    }

    fn index(&self, at: f64) -> usize {
        self.parts.partition_point(|part| part.at <= at).saturating_sub(1)
    }

    /// The number of the stage at a moment, and the stage.
    pub(super) fn stage(&self, at: f64) -> Option<(usize, &Stage)> {
        let index = self.index(at);
        self.parts.get(index).map(|part| (index, &part.stage))
    }

    /// The share of the devices that are to be there at a moment.
    pub(super) fn share(&self, at: f64) -> f64 {
        let Some(part) = self.parts.get(self.index(at)) else { return 0.0 };
        let way = ((at - part.at) / part.stage.for_s).clamp(0.0, 1.0);
        part.from + (part.stage.devices - part.from) * way
    }

    /// What a device's clock shows at a moment.
    pub(super) fn clock(&self, at: f64) -> f64 {
        let Some(part) = self.parts.get(self.index(at)) else { return at };
        part.clock + (at - part.at).max(0.0) * part.stage.rate
    }

    /// When a device's clock shows this, s since the run began; none where it never does.
    pub(super) fn when(&self, clock: f64) -> Option<f64> {
        let index = self.parts.partition_point(|part| part.clock <= clock).saturating_sub(1);
        let part = self.parts.get(index)?;
        let at = if part.stage.rate > 0.0 { part.at + (clock - part.clock) / part.stage.rate } else { part.end() };
        (at < self.total_s()).then_some(at.max(part.at))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn timeline(stages: &[(f64, f64, f64)]) -> Timeline {
        let stage = |(for_s, devices, rate): &(f64, f64, f64)| {
            format!("[[stages]]\nname = 's'\nfor_s = {for_s:?}\ndevices = {devices:?}\nrate = {rate:?}\n")
        };
        let stages: String = stages.iter().map(stage).collect();
        let text = format!("name = 'x'\nabout = 'y'\n{stages}[[groups]]\nname = 'g'\nevery_s = 1\n");
        Timeline::of(&Profile::parse(&text, "x").unwrap())
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn devices_come_and_go_on_straight_lines() {
        let timeline = timeline(&[(10.0, 1.0, 1.0), (10.0, 1.0, 1.0), (10.0, 0.0, 1.0)]);
        for (at, share) in [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0), (15.0, 1.0), (25.0, 0.5), (30.0, 0.0), (99.0, 0.0)] {
            assert!(near(timeline.share(at), share), "at {at}");
        }
        assert!(near(timeline.total_s(), 30.0));
        assert_eq!(timeline.stage(19.9).unwrap().0, 1);
    }

    #[test]
    fn a_clock_runs_as_fast_as_the_rate_and_back_again() {
        let timeline = timeline(&[(10.0, 1.0, 1.0), (5.0, 1.0, 20.0), (5.0, 1.0, 0.0), (10.0, 1.0, 1.0)]);
        for (at, clock) in [(4.0, 4.0), (10.0, 10.0), (12.0, 50.0), (21.0, 111.0)] {
            assert!(near(timeline.clock(at), clock), "at {at}: {}", timeline.clock(at));
            assert!(near(timeline.when(clock).unwrap(), at), "clock {clock}: {:?}", timeline.when(clock));
        }
        // While the rate is zero nothing is due.
        assert!(near(timeline.when(110.0).unwrap(), 20.0));
        assert_eq!(timeline.when(121.0), None);
    }
}
