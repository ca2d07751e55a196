//! What is done to a cluster, drawn from a seed.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;

use super::support::cluster::NODES;

/// Shorter than the lease, and longer.
const PAUSES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(20)];

/// One thing that is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    Kill(usize),
    Drain(usize),
    Start(usize),
    Pause(usize, Duration),
    Flush,
    EmptyRedis(Duration),
    PauseRedis(Duration),
    FailOver(Duration),
    PauseKafka(Duration),
    Move,
    Vanish,
    Quiet(Duration),
}

/// A history as it is meant to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) sentinels: bool,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// So many steps. `long`: pauses longer than the lease among them.
    pub(super) fn draw(seed: u64, steps: usize, long: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let sentinels = seed % 3 == 2;
        let (mut down, mut failed_over, mut slept) = (BTreeSet::new(), false, false);
        let mut plan = Self { seed, sentinels, steps: Vec::new() };
        while plan.steps.len() < steps {
            let node = rng.usize(..NODES);
            let is_up = !down.contains(&node);
            let short = Duration::from_millis(rng.u64(300..4_000));
            let step = match rng.u8(..16) {
                // Somebody is left to go to.
                0 | 1 if is_up && down.is_empty() => Step::Kill(node),
                2 if is_up && down.is_empty() => Step::Drain(node),
                3..=5 if !is_up => Step::Start(node),
                6 if is_up => Step::Pause(node, PAUSES[0]),
                // One for each history: it takes its time.
                7 if is_up && long && !slept => Step::Pause(node, PAUSES[1]),
                8 => Step::Flush,
                9 if !sentinels => Step::EmptyRedis(short),
                // Sentinels take a primary that stands still for a dead one.
                10 if !sentinels => Step::PauseRedis(short),
                9 | 10 if sentinels && !failed_over => Step::FailOver(Duration::from_secs(2)),
                11 => Step::PauseKafka(short),
                12 => Step::Move,
                13 | 14 => Step::Vanish,
                15 => Step::Quiet(short),
                _ => continue,
            };
            match step {
                Step::Kill(node) | Step::Drain(node) => drop(down.insert(node)),
                Step::Start(node) => drop(down.remove(&node)),
                Step::FailOver(_) => failed_over = true,
                Step::Pause(_, time) => slept |= time == PAUSES[1],
                _ => {}
            }
            plan.steps.push(step);
        }
        plan
    }

    /// Whether it needs a Kafka of its own.
    pub(super) fn needs_kafka(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::PauseKafka(_)))
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_seed_and_does_everything_in_some() {
    let plans: Vec<_> = (0..200).map(|seed| Plan::draw(seed, 10, true)).collect();
    assert!(plans.iter().all(|plan| *plan == Plan::draw(plan.seed, 10, true) && plan.steps.len() == 10));
    let has = |wanted: fn(&Step) -> bool| plans.iter().filter(|plan| plan.steps.iter().any(wanted)).count();
    let counts = [
        has(|step| matches!(step, Step::Kill(_))),
        has(|step| matches!(step, Step::Drain(_))),
        has(|step| matches!(step, Step::Start(_))),
        has(|step| matches!(step, Step::Pause(_, time) if *time == PAUSES[0])),
        has(|step| matches!(step, Step::Pause(_, time) if *time == PAUSES[1])),
        has(|step| matches!(step, Step::Flush)),
        has(|step| matches!(step, Step::EmptyRedis(_))),
        has(|step| matches!(step, Step::PauseRedis(_))),
        has(|step| matches!(step, Step::FailOver(_))),
        has(|step| matches!(step, Step::PauseKafka(_))),
    ];
    assert!(counts.iter().all(|count| *count >= 20), "{counts:?}");
}
