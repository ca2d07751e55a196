//! What the network in memory does to calls.

use std::sync::Arc;
use std::time::Duration;

use tidegate::ownership::NodeLife;
use tidegate::peer::memory::{Faults, MemoryLink, MemoryNetwork};
use tidegate::peer::{Peer, PeerError, PeerLink, PeerTimes};

use super::fixture::{Recorder, life, quick};

/// Two nodes, `a` and `b`, and a link from each to the other.
struct Pair {
    network: Arc<MemoryNetwork>,
    lives: [NodeLife; 2],
    handlers: [Arc<Recorder>; 2],
    links: [MemoryLink; 2],
}

fn pair(times: PeerTimes, seed: u64) -> Pair {
    let network = MemoryNetwork::new(times, seed);
    let lives = ["a", "b"].map(life);
    let handlers = [0, 1].map(|at| Recorder::new(lives[at].clone()));
    let links = [0, 1].map(|at| network.join(["a", "b"][at], Arc::clone(&handlers[at]) as _));
    let peers = [0, 1].map(|at| Peer { life: lives[at].clone(), address: ["a", "b"][at].into() });
    links.iter().for_each(|link| link.set_live(peers.to_vec()));
    Pair { network, lives, handlers, links }
}

#[tokio::test]
async fn a_one_way_cut_loses_calls_one_way_and_answers_the_other() {
    let Pair { network, lives, handlers, links } = pair(quick(), 1);
    network.cut("a", "b");
    assert_eq!(links[0].sweep(&lives[1]).await, Err(PeerError::Deadline));
    assert_eq!(handlers[1].heard(), [""; 0], "the call did not arrive");
    assert_eq!(links[1].sweep(&lives[0]).await, Err(PeerError::Deadline));
    assert_eq!(handlers[0].heard(), ["sweep"], "the call arrived, the answer did not");
    network.heal();
    assert_eq!(links[0].sweep(&lives[1]).await, Ok(()));
}

#[tokio::test]
async fn lost_calls_are_not_done_and_lost_answers_are() {
    let Pair { network, lives, handlers, links } = pair(quick(), 2);
    network.set_faults(Faults { calls_lost: 1.0, ..Faults::default() });
    assert_eq!(links[0].sweep(&lives[1]).await, Err(PeerError::Deadline));
    assert_eq!(handlers[1].heard().len(), 0);
    network.set_faults(Faults { answers_lost: 1.0, ..Faults::default() });
    assert_eq!(links[0].sweep(&lives[1]).await, Err(PeerError::Deadline));
    assert_eq!(handlers[1].heard().len(), 1);
}

#[tokio::test]
async fn a_part_of_the_calls_is_lost_and_the_same_part_for_the_same_seed() {
    let lost = async |seed| {
        let times = PeerTimes { deadline: Duration::from_millis(200), ..quick() };
        let Pair { network, lives, links, .. } = pair(times, seed);
        network.set_faults(Faults { calls_lost: 0.5, ..Faults::default() });
        // Calls draw their fate in the order in which they are first polled.
        let calls = (0..64).map(|_| links[0].sweep(&lives[1]));
        futures_util::future::join_all(calls).await.into_iter().map(|answer| answer.is_err()).collect::<Vec<_>>()
    };
    let first = lost(7).await;
    let count = first.iter().filter(|lost| **lost).count();
    assert!((10..54).contains(&count), "{count} of 64");
    assert_eq!(first, lost(7).await);
}

#[tokio::test]
async fn a_delay_is_waited_for_and_one_beyond_the_deadline_is_a_deadline() {
    let Pair { network, lives, handlers, links } = pair(quick(), 3);
    network.set_faults(Faults { delay_ms: 5..6, ..Faults::default() });
    let began = std::time::Instant::now();
    assert_eq!(links[0].sweep(&lives[1]).await, Ok(()));
    assert!(began.elapsed() >= Duration::from_millis(5));
    network.set_faults(Faults { delay_ms: 60_000..60_001, ..Faults::default() });
    assert_eq!(links[0].sweep(&lives[1]).await, Err(PeerError::Deadline));
    assert_eq!(handlers[1].heard().len(), 1);
}
