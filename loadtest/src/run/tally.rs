//! What one thread's devices and callers count: one lock for the thread, which only the collector contends once a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::collector::Trouble;
use crate::figures::{Count, Figures};

/// What is counted in one thread.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) figures: Figures,
    pub(super) gauges: Gauges,
    /// Set once the run's own end begins: connections that end from now on are not counted.
    pub(super) ending: bool,
    /// What no further attempt would mend: refused with 401 or 403, or a certificate that is not trusted.
    pub(super) unwelcome: Option<Trouble>,
}

/// What is there at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Gauges {
    /// Devices that are to be there.
    pub(super) wanted: u64,
    /// Devices with a connection.
    pub(super) connected: u64,
    /// Of them those that are told to pause.
    pub(super) paused: u64,
    /// Updates written and not settled.
    pub(super) in_flight: u64,
}

impl Gauges {
    pub(super) fn add(&mut self, other: &Self) {
        self.wanted += other.wanted;
        self.connected += other.connected;
        self.paused += other.paused;
        self.in_flight += other.in_flight;
    }
}

/// A tally that devices, callers and the collector share.
#[derive(Clone, Default)]
pub(super) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was counted since the last time.
    pub(super) fn take(&self) -> Sample {
        // Made before the lock is taken: the thread's devices wait for no allocation.
        let mut figures = Figures::default();
        let mut tally = self.lock();
        std::mem::swap(&mut figures, &mut tally.figures);
        Sample { figures, gauges: tally.gauges, unwelcome: tally.unwelcome.clone(), cpu: 0.0 }
    }
}

/// What was counted in a second, or since the last sample.
#[derive(Clone, Default)]
pub(super) struct Sample {
    /// What was counted in it.
    pub(super) figures: Figures,
    /// How things stand at its end.
    pub(super) gauges: Gauges,
    /// What no further attempt would mend.
    pub(super) unwelcome: Option<Trouble>,
    /// CPU time the generator used in it, as a share of the threads it has.
    pub(super) cpu: f64,
}

impl Sample {
    /// Adds another thread's or worker's.
    pub(super) fn add(&mut self, other: &Self) {
        self.figures.merge(&other.figures);
        self.gauges.add(&other.gauges);
        if self.unwelcome.is_none() {
            self.unwelcome.clone_from(&other.unwelcome);
        }
        // The busiest generator is the one to know of.
        self.cpu = self.cpu.max(other.cpu);
    }

    pub(super) fn counted(&self, what: Count) -> u64 {
        self.figures.counted(what)
    }
}
