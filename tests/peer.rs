//! Node to node: one contract for every twin, then what only the wire can do wrong.

#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

#[path = "peer/faults.rs"]
mod faults;
#[path = "peer/fixture.rs"]
mod fixture;
#[path = "peer/tls.rs"]
mod tls;
#[path = "peer/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use fixture::{Cluster, Twin, device, ending, life, patient, quick};
use tidegate::id::{Epoch, Incarnation};
use tidegate::ownership::NodeLife;
use tidegate::peer::{Evicted, MAX_DETAIL_BYTES, Peer, PeerError, Traced};

/// Each promise of the seam, on each twin.
macro_rules! contract {
    ($($name:ident)+) => { $(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn in_memory() {
                super::promise::$name(Twin::Memory).await;
            }

            #[tokio::test]
            async fn in_the_clear() {
                super::promise::$name(Twin::Plain).await;
            }

            #[tokio::test]
            async fn by_mtls() {
                super::promise::$name(Twin::Tls).await;
            }
        }
    )+ };
}

contract! {
    a_ring_is_delivered_under_its_epoch_or_the_answer_says_which_is_known
    an_evict_closes_what_is_older_and_nothing_else
    endings_and_sweeps_arrive_whole
    a_trace_begins_under_its_epoch_or_the_answer_says_why_not
    a_node_that_left_the_view_is_gone_and_hears_nothing
    another_life_at_the_address_is_not_taken_for_the_one_meant
    a_silent_node_costs_the_deadline_and_is_asked_again_when_it_speaks
    a_node_that_is_no_more_is_unreachable
    an_ending_that_is_too_large_is_refused_and_the_next_is_not
    many_calls_at_once_are_all_answered
}

mod promise {
    use super::*;

    pub(super) async fn a_ring_is_delivered_under_its_epoch_or_the_answer_says_which_is_known(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        b.handler.holds("d1", 7);
        assert_eq!(a.link.ring(&b.life, &device("d1"), Epoch(7)).await, Ok(()));
        for other in [6, 8] {
            let known = Some(Epoch(7));
            let answer = a.link.ring(&b.life, &device("d1"), Epoch(other)).await;
            assert_eq!(answer, Err(PeerError::NotHere { known }));
        }
        let answer = a.link.ring(&b.life, &device("d2"), Epoch(7)).await;
        assert_eq!(answer, Err(PeerError::NotHere { known: None }));
        // Another tenant's device of the same name is another device.
        let foreign = tidegate::id::DeviceKey::new("other", "d1").unwrap();
        assert_eq!(a.link.ring(&b.life, &foreign, Epoch(7)).await, Err(PeerError::NotHere { known: None }));
        let heard = ["ring t/d1 7", "ring t/d1 6", "ring t/d1 8", "ring t/d2 7", "ring other/d1 7"];
        assert_eq!(b.handler.heard(), heard);
        assert_eq!(a.handler.heard(), [""; 0], "nobody asks on");
    }

    pub(super) async fn an_evict_closes_what_is_older_and_nothing_else(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        b.handler.holds("d1", 7);
        let evict = |epoch| async move { a.link.evict(&b.life, &device("d1"), Epoch(epoch)).await };
        assert_eq!(evict(7).await, Ok(Evicted::Newer(Epoch(7))));
        assert_eq!(evict(u64::MAX).await, Ok(Evicted::Closed));
        assert_eq!(evict(u64::MAX).await, Ok(Evicted::Absent), "twice is as once");
    }

    pub(super) async fn endings_and_sweeps_arrive_whole(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        let mut endings = [ending("d1", 0), ending("d2", MAX_DETAIL_BYTES)];
        endings[1].detail.iter_mut().zip((0..=255).cycle()).for_each(|(byte, value)| *byte = value);
        for ending in &endings {
            assert_eq!(a.link.ended(&b.life, ending).await, Ok(()));
        }
        assert_eq!(a.link.sweep(&b.life).await, Ok(()));
        assert_eq!(b.handler.endings(), endings);
        assert_eq!(b.handler.heard(), ["sweep"]);
    }

    pub(super) async fn a_trace_begins_under_its_epoch_or_the_answer_says_why_not(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        b.handler.holds("d", 7);
        let trace =
            async |name: &str, epoch, for_s| a.link.trace(&b.life, &device(name), Epoch(epoch), for_s).await.unwrap();
        assert_eq!(trace("d", 7, 900).await, Traced::Begun);
        assert_eq!(trace("d", 7, 0).await, Traced::Full);
        assert_eq!(trace("d", 6, 900).await, Traced::NotHere { known: Some(Epoch(7)) });
        assert_eq!(trace("other", 7, 900).await, Traced::NotHere { known: None });
        assert_eq!(b.handler.heard()[0], "trace t/d 7 900");
    }

    pub(super) async fn a_node_that_left_the_view_is_gone_and_hears_nothing(twin: Twin) {
        let cluster = Cluster::start(twin, 3, patient()).await;
        let [a, b, c] = cluster.nodes.as_slice() else { panic!() };
        assert_eq!(a.link.sweep(&b.life).await, Ok(()));
        a.link.set_live(vec![c.peer()]);
        assert_eq!(a.link.sweep(&b.life).await, Err(PeerError::Gone));
        assert_eq!(a.link.ended(&b.life, &ending("d", 1)).await, Err(PeerError::Gone));
        assert_eq!(a.link.sweep(&c.life).await, Ok(()));
        assert_eq!((b.handler.heard().len(), c.handler.heard().len()), (1, 1));
        a.link.set_live(vec![c.peer(), b.peer()]);
        assert_eq!(a.link.sweep(&b.life).await, Ok(()));
    }

    pub(super) async fn another_life_at_the_address_is_not_taken_for_the_one_meant(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        b.handler.holds("d1", 7);
        let before = NodeLife { incarnation: Incarnation::draw(), ..b.life.clone() };
        let stranger = life("n9");
        let at_b = |life: &NodeLife| Peer { life: life.clone(), address: b.address.clone() };
        a.link.set_live(vec![at_b(&before), at_b(&stranger), b.peer()]);
        for wrong in [&before, &stranger] {
            assert_eq!(a.link.ring(wrong, &device("d1"), Epoch(7)).await, Err(PeerError::OtherLife));
        }
        assert_eq!(b.handler.heard(), [""; 0]);
        assert_eq!(a.link.ring(&b.life, &device("d1"), Epoch(7)).await, Ok(()));
    }

    pub(super) async fn a_silent_node_costs_the_deadline_and_is_asked_again_when_it_speaks(twin: Twin) {
        let cluster = Cluster::start(twin, 3, quick()).await;
        let [a, b, c] = cluster.nodes.as_slice() else { panic!() };
        assert_eq!(a.link.sweep(&b.life).await, Ok(()), "the connection stands before it falls silent");
        cluster.silence(b, true);
        let calls = (0..20).map(|_| a.link.sweep(&b.life));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer, Err(PeerError::Deadline));
        }
        assert_eq!(a.link.sweep(&c.life).await, Ok(()), "the others are not held up");
        cluster.silence(b, false);
        cluster.until_it_answers(a, b).await;
    }

    pub(super) async fn a_node_that_is_no_more_is_unreachable(twin: Twin) {
        let mut cluster = Cluster::start(twin, 2, patient()).await;
        assert_eq!(cluster.nodes[0].link.sweep(&cluster.nodes[1].life).await, Ok(()));
        cluster.end(1).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        for _ in 0..3 {
            let answer = a.link.sweep(&b.life).await;
            assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");
        }
    }

    pub(super) async fn an_ending_that_is_too_large_is_refused_and_the_next_is_not(twin: Twin) {
        let cluster = Cluster::start(twin, 2, patient()).await;
        let [a, b] = cluster.nodes.as_slice() else { panic!() };
        let too_large = ending("d1", MAX_DETAIL_BYTES + 1);
        assert_eq!(a.link.ended(&b.life, &too_large).await, Err(PeerError::TooLarge));
        assert_eq!(a.link.ended(&b.life, &ending("d1", 1)).await, Ok(()));
        assert_eq!(b.handler.endings().len(), 1);
    }

    pub(super) async fn many_calls_at_once_are_all_answered(twin: Twin) {
        let cluster = Arc::new(Cluster::start(twin, 3, patient()).await);
        for at in 0..300 {
            cluster.nodes[1 + at % 2].handler.holds(&format!("d{at}"), at as u64);
        }
        let calls: Vec<_> = (0..300)
            .map(|at| {
                let cluster = Arc::clone(&cluster);
                tokio::spawn(async move {
                    let (a, b) = (&cluster.nodes[0], &cluster.nodes[1 + at % 2]);
                    a.link.ring(&b.life, &device(&format!("d{at}")), Epoch(at as u64)).await
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
        assert_eq!(cluster.nodes[1].handler.heard().len(), 150);
    }
}

#[test]
fn what_a_peer_may_cost_is_bounded() {
    let times = tidegate::peer::PeerTimes::default();
    assert!(times.keep_alive_every + times.keep_alive_timeout <= Duration::from_secs(15), "a silent peer (F35)");
    assert!(times.connect < times.deadline && times.deadline <= Duration::from_secs(2));
}
