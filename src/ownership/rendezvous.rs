//! Which of several nodes does what only one needs to: all of them come to the same answer without asking.

use super::{Member, NodeLife};

/// The live member with the highest mark for `task`. Another life is another candidate; when one dies only its own tasks
/// move.
pub fn pick<'a>(live: impl IntoIterator<Item = &'a Member>, task: &str) -> Option<&'a NodeLife> {
    let lives = live.into_iter().map(|member| &member.profile.life);
    lives.max_by_key(|life| (mark(&life.to_string(), task), *life))
}

/// FNV-1a of both, mixed: the same on every node whatever its version.
fn mark(candidate: &str, task: &str) -> u64 {
    let bytes = candidate.bytes().chain([b'/']).chain(task.bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::id::NodeName;
    use crate::ownership::{NodeState, Profile};

    fn members(count: usize) -> Vec<Member> {
        let member = |number: usize| {
            let life = NodeLife::begin(NodeName::new(&format!("gw-{number}")).unwrap());
            let (address, version) = (String::new(), String::new());
            let profile = Profile { life, address, state: NodeState::Ready, version, sees_kafka: true, devices: None };
            Member { profile, expires_ms: 1 }
        };
        (0..count).map(member).collect()
    }

    #[test]
    fn the_order_does_not_count_and_tasks_are_shared_evenly() {
        let live = members(4);
        let backwards: Vec<_> = live.iter().rev().cloned().collect();
        let mut shares = std::collections::HashMap::new();
        for task in (0..4_000).map(|number| number.to_string()) {
            let picked = pick(&live, &task).unwrap();
            assert_eq!(Some(picked), pick(&backwards, &task));
            *shares.entry(picked.clone()).or_insert(0) += 1;
        }
        assert!(shares.len() == 4 && shares.values().all(|share| (800..1_200).contains(share)), "{shares:?}");
        assert_eq!(pick(&[], "x"), None);
    }

    #[test]
    fn only_the_tasks_of_who_goes_move() {
        let live = members(5);
        let fewer = &live[1..];
        for task in (0..1_000).map(|number| number.to_string()) {
            let before = pick(&live, &task).unwrap();
            if *before != live[0].profile.life {
                assert_eq!(pick(fewer, &task), Some(before));
            }
        }
    }
}
