//! The decision alone, and clusters of it with load balancers of all kinds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;
use crate::id::NodeName;
use crate::ownership::memory::MemoryOwnership;
use crate::ownership::{Ownership, Profile};

const TURN_MS: u64 = 100;

fn scales() -> Scales {
    Scales::new(&RebalanceConfig::default())
}

fn sight(now_s: u64, devices: u64, leaving: u64, cluster: Cluster) -> Sight {
    Sight { now_ms: now_s * 1_000, cluster, devices, leaving }
}

/// So many nodes with so many devices in all, `mine` of them on one and the rest on the next.
fn cluster(nodes: usize, devices: u64, mine: u64) -> Cluster {
    let mut counts = vec![0; nodes];
    (counts[0], counts[1]) = (mine, devices - mine);
    Cluster::Weighed(counts)
}

/// A look at three nodes with 30,000.
fn of_three(now_s: u64, devices: u64, leaving: u64) -> Sight {
    sight(now_s, devices, leaving, cluster(3, 30_000, devices))
}

/// Tells everybody it may, at once.
fn tell_all(scales: &mut Scales, sight: &Sight) -> u64 {
    let may = scales.look(sight);
    scales.told(may);
    may
}

#[test]
fn it_begins_above_the_threshold_after_a_while_and_stops_halfway_to_the_mean() {
    let mut scales = scales();
    for now_s in 0..100 {
        assert_eq!((scales.look(&of_three(now_s, 11_000, 0)), scales.state()), (0, RebalanceState::Balanced));
    }
    assert_eq!(scales.mean(), 10_000);
    assert_eq!((scales.look(&of_three(100, 11_001, 0)), scales.state()), (0, RebalanceState::Waiting));
    assert_eq!(scales.look(&of_three(129, 11_001, 0)), 0);
    assert_eq!((scales.look(&of_three(130, 11_001, 0)), scales.state()), (501, RebalanceState::Shedding));
    scales.told(500);
    assert_eq!(scales.look(&of_three(131, 11_001, 500)), 1);
    scales.told(1);
    // Those who come meanwhile are no reason to tell more than were too many.
    assert_eq!((scales.look(&of_three(132, 12_000, 501)), scales.state()), (0, RebalanceState::Resting));
}

#[test]
fn an_imbalance_that_goes_by_itself_moves_nobody() {
    let mut scales = scales();
    for round in 0..20 {
        assert_eq!(scales.look(&of_three(round * 40, 15_000, 0)), 0);
        assert_eq!(scales.look(&of_three(round * 40 + 29, 15_000, 0)), 0);
        assert_eq!(scales.look(&of_three(round * 40 + 30, 11_000, 0)), 0);
    }
}

#[test]
fn nobody_is_told_while_a_node_drains_and_what_was_begun_is_over() {
    let mut scales = scales();
    scales.look(&of_three(0, 15_000, 0));
    assert_eq!(scales.look(&of_three(30, 15_000, 0)), 4_500);
    assert_eq!((scales.look(&sight(31, 15_000, 20, Cluster::Unsettled)), scales.state()), (0, RebalanceState::Held));
    assert_eq!((scales.look(&of_three(32, 15_000, 20)), scales.state()), (0, RebalanceState::Waiting));
    assert_eq!(scales.look(&of_three(61, 15_000, 0)), 0, "as long as the first time");
    assert_eq!(scales.look(&of_three(62, 15_000, 0)), 4_500);
    assert_eq!((scales.look(&sight(63, 15_000, 0, Cluster::Alone)), scales.state()), (0, RebalanceState::Alone));
}

#[test]
fn a_node_with_few_devices_tells_none_whatever_the_others_have() {
    let mut scales = scales();
    let few = |now_s, devices| sight(now_s, devices, 0, cluster(9, devices, devices));
    assert!((0..200).all(|now_s| scales.look(&few(now_s, 1_000)) == 0));
    scales.look(&few(200, 1_200));
    assert_eq!(scales.look(&few(230, 1_200)), 200, "down to the minimum and no further");
}

#[test]
fn where_those_who_are_told_come_back_it_is_tried_less_and_less_often() {
    let (mut scales, mut tries) = (scales(), Vec::new());
    for now_s in 0..7_200 {
        // They are gone at once, and back a second later.
        if tell_all(&mut scales, &of_three(now_s, 15_000, 0)) > 0 {
            tries.push(now_s);
        }
    }
    let waits: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.is_sorted() && tries.len() < 20, "{tries:?}");
    assert!(*waits.last().unwrap() >= LONGEST_MS / 1_000, "{waits:?}");
    assert!(scales.futile() > 3);
    // A balance that lasts is a new beginning.
    for now_s in 7_200..7_400 {
        scales.look(&of_three(now_s, 10_000, 0));
    }
    assert_eq!((scales.futile(), scales.patience_ms()), (0, 30_000));
}

#[test]
fn who_moves_is_not_missing_from_the_mean() {
    let mut scales = scales();
    scales.look(&of_three(0, 10_900, 0));
    let fewer = |now_s, devices| sight(now_s, devices, 0, cluster(3, 27_000, devices));
    scales.look(&fewer(50, 10_900));
    assert_eq!(scales.mean(), 10_000);
    scales.look(&fewer(110, 9_000));
    assert_eq!(scales.mean(), 10_000);
    scales.look(&fewer(171, 9_000));
    assert_eq!(scales.mean(), 9_000, "they are gone for good");
}

// ---- what the membership says --------------------------------------------------------------------------------------

fn profile(node: &str, state: NodeState, sees_kafka: bool, devices: Option<u64>) -> Profile {
    let life = NodeLife::begin(NodeName::new(node).unwrap());
    Profile { life, address: node.into(), state, version: "1".into(), sees_kafka, devices }
}

fn weighed(others: &[Profile]) -> Cluster {
    let directory = MemoryOwnership::new(std::sync::Arc::new(|| 1_000_000_000), std::sync::Arc::new(|_| false));
    let me = profile("me", NodeState::Ready, true, Some(7));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let view = runtime.block_on(async {
        for profile in others {
            directory.renew(profile, crate::id::Epoch(0)).await.unwrap();
        }
        directory.renew(&me, crate::id::Epoch(0)).await.unwrap().view
    });
    Cluster::weigh(&view, &me.life, 100)
}

#[test]
fn only_nodes_that_are_ready_count_and_one_that_drains_holds_everybody() {
    use NodeState::{Draining, Ready, Starting};
    let ready = |node, devices| profile(node, Ready, true, Some(devices));
    assert_eq!(weighed(&[]), Cluster::Alone);
    let all = Cluster::Weighed(vec![100, 50, 10]);
    assert_eq!(weighed(&[ready("a", 50), ready("b", 10)]), all);
    assert_eq!(weighed(&[ready("a", 50), ready("b", 10), profile("c", Starting, false, Some(0))]), all);
    assert_eq!(weighed(&[profile("c", Starting, true, Some(0))]), Cluster::Alone);
    for odd in [
        profile("c", Draining, true, Some(3)),
        profile("c", Ready, false, Some(3)),
        // Of a version that does not say.
        profile("c", Ready, true, None),
    ] {
        assert_eq!(weighed(&[ready("a", 50), odd]), Cluster::Unsettled);
    }
    let stranger = profile("me", Ready, true, None).life;
    assert_eq!(Cluster::weigh(&View::default(), &stranger, 1), Cluster::Unsettled, "it is not a member");
}

// ---- whole clusters ------------------------------------------------------------------------------------------------

/// What gives new connections to nodes.
#[derive(Debug, Clone, Copy)]
enum Balancer {
    RoundRobin,
    LeastConnections,
    Random,
}

/// What devices do that are told to go.
#[derive(Debug, Clone, Copy)]
enum Manners {
    /// At the hint, and are elsewhere at once.
    Obedient,
    /// At once, and come back at the hint.
    Hasty,
    /// Not before the deadline.
    Stubborn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Leaves(usize),
    Comes,
}

struct World {
    now_ms: u64,
    scales: Vec<Scales>,
    devices: Vec<u64>,
    leaving: Vec<u64>,
    /// What each node said last, and what each heard of that when.
    said: Vec<u64>,
    heard: Vec<(u64, Vec<u64>)>,
    renews_ms: Vec<u64>,
    events: BinaryHeap<Reverse<(u64, Happens)>>,
    balancer: Balancer,
    manners: Manners,
    next: usize,
    random: fastrand::Rng,
    /// Times at which somebody was told, and how many in all.
    last_told_ms: u64,
    told: u64,
}

impl World {
    fn new(devices: &[u64], balancer: Balancer, manners: Manners, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            now_ms: 0,
            scales: devices.iter().map(|_| scales()).collect(),
            leaving: vec![0; devices.len()],
            said: devices.to_vec(),
            heard: devices.iter().map(|_| (0, devices.to_vec())).collect(),
            renews_ms: devices.iter().map(|_| random.u64(..5_000)).collect(),
            devices: devices.to_vec(),
            events: BinaryHeap::new(),
            balancer,
            manners,
            next: 0,
            random,
            last_told_ms: 0,
            told: 0,
        }
    }

    fn all(&self) -> u64 {
        let coming = self.events.iter().filter(|event| event.0.1 == Happens::Comes).count();
        self.devices.iter().sum::<u64>() + coming as u64
    }

    fn comes(&mut self) {
        let node = match self.balancer {
            Balancer::RoundRobin => {
                self.next = (self.next + 1) % self.devices.len();
                self.next
            }
            Balancer::Random => self.random.usize(..self.devices.len()),
            Balancer::LeastConnections => {
                (0..self.devices.len()).min_by_key(|node| self.devices[*node]).unwrap_or_default()
            }
        };
        self.devices[node] += 1;
    }

    fn tell(&mut self, node: usize) {
        self.leaving[node] += 1;
        self.told += 1;
        self.last_told_ms = self.now_ms;
        let hint_ms = 500 + self.random.u64(..=(2 * self.devices[node]).clamp(1_000, GRACE_MS / 2 - 500));
        let mut at = |after_ms: u64, what| self.events.push(Reverse((self.now_ms + after_ms, what)));
        match self.manners {
            Manners::Obedient => {
                at(hint_ms, Happens::Leaves(node));
                at(hint_ms, Happens::Comes);
            }
            Manners::Hasty => {
                at(0, Happens::Leaves(node));
                at(hint_ms, Happens::Comes);
            }
            Manners::Stubborn => {
                at(GRACE_MS, Happens::Leaves(node));
                at(GRACE_MS + hint_ms / 10, Happens::Comes);
            }
        }
    }

    /// A tenth of a second. `devices`: as many as there are in all.
    fn turn(&mut self, devices: u64) {
        self.now_ms += TURN_MS;
        while let Some(Reverse((_, what))) = self.events.peek().copied().filter(|event| event.0.0 <= self.now_ms) {
            self.events.pop();
            match what {
                Happens::Leaves(node) => {
                    self.devices[node] -= 1;
                    self.leaving[node] -= 1;
                }
                Happens::Comes => self.comes(),
            }
        }
        let nodes = self.devices.len() as u64;
        for node in 0..self.devices.len() {
            if self.renews_ms[node] <= self.now_ms {
                self.said[node] = self.devices[node];
                self.heard[node] = (self.now_ms, self.said.clone());
                self.renews_ms[node] = self.now_ms + 4_500 + self.random.u64(..500);
            }
            let mut counts = self.heard[node].1.clone();
            counts[node] = self.devices[node];
            let cluster = Cluster::Weighed(counts);
            let (held, leaving) = (self.devices[node], self.leaving[node]);
            let may = self.scales[node].look(&Sight { now_ms: self.now_ms, cluster, devices: held, leaving });
            // 20 a second.
            for _ in 0..may.min(2) {
                let staying = self.devices[node] - self.leaving[node];
                assert!(staying * nodes > devices, "{staying} stay, and {} is the mean", devices / nodes);
                self.scales[node].told(1);
                self.tell(node);
            }
        }
    }
}

fn balancers() -> impl Strategy<Value = Balancer> {
    prop_oneof![Just(Balancer::RoundRobin), Just(Balancer::LeastConnections), Just(Balancer::Random)]
}

fn manners() -> impl Strategy<Value = Manners> {
    prop_oneof![Just(Manners::Obedient), Just(Manners::Hasty), Just(Manners::Stubborn)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the devices are spread at first: within an hour no node has more than 1.1 times the mean (or 1,000), nobody
    /// was told by a node below the mean, and then nobody is told any more.
    #[test]
    fn every_cluster_comes_to_rest_with_fair_shares(
        devices in prop::collection::vec(prop_oneof![1 => Just(0_u64), 3 => 0..4_000_u64], 2..7),
        balancer in balancers(),
        manners in manners(),
        seed in any::<u64>(),
    ) {
        let (all, nodes) = (devices.iter().sum::<u64>(), devices.len() as u64);
        let level = |percent: u64| (all * percent).div_ceil(100 * nodes).max(1_000);
        let excess: u64 = devices.iter().map(|devices| devices.saturating_sub(level(100))).sum();
        let mut world = World::new(&devices, balancer, manners, seed);
        let hour_ms = 3_600_000;
        while world.now_ms < hour_ms {
            world.turn(all);
        }
        prop_assert_eq!(world.all(), all);
        prop_assert!(world.devices.iter().all(|devices| *devices <= level(110)), "{:?}", world.devices);
        prop_assert!(world.last_told_ms <= hour_ms - 600_000, "told at {} ms, {:?}", world.last_told_ms, world.devices);
        // Behind a load balancer that knows no difference each must be told about n / (n - k) times where k of n tell.
        prop_assert!(world.told <= 8 * excess + 100, "{} told, {excess} too many, {devices:?}", world.told);
    }
}

#[test]
fn two_nodes_do_not_send_devices_to_each_other_for_ever_where_the_third_gets_none() {
    let mut world = World::new(&[6_000, 6_000], Balancer::RoundRobin, Manners::Hasty, 7);
    // The load balancer knows two nodes; the membership has a third.
    world.said.push(0);
    let mut told = Vec::new();
    for hour in 0..3 {
        let before = world.told;
        while world.now_ms < (hour + 1) * 3_600_000 {
            turn_with_an_empty_third(&mut world);
        }
        told.push(world.told - before);
    }
    assert!(world.scales.iter().all(|scales| scales.futile() > 3), "{told:?}");
    // Without an end to it 20 a second and node would be 144,000 an hour.
    assert!(told[2] <= 3 * 2 * 1_800, "told by the hour: {told:?}");
}

fn turn_with_an_empty_third(world: &mut World) {
    world.now_ms += TURN_MS;
    while let Some(Reverse((_, what))) = world.events.peek().copied().filter(|event| event.0.0 <= world.now_ms) {
        world.events.pop();
        match what {
            Happens::Leaves(node) => {
                world.devices[node] -= 1;
                world.leaving[node] -= 1;
            }
            Happens::Comes => world.comes(),
        }
    }
    for node in 0..2 {
        let cluster = Cluster::Weighed(vec![world.devices[0], world.devices[1], 0]);
        let sight = Sight { now_ms: world.now_ms, cluster, devices: world.devices[node], leaving: world.leaving[node] };
        for _ in 0..world.scales[node].look(&sight).min(2) {
            world.scales[node].told(1);
            world.tell(node);
        }
    }
}
