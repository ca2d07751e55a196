//! Several nodes in one process, on the memory twins, with a network that can be cut.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code")]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::{Net, device, submission};
use tokio::time::Instant;

use super::{RING_AGAIN, TraceError};
use crate::commands::{
    Answer, Answered, Command, CommandError, Commands, RING_MS, SHARDS, State, Submission, shard_of,
};
use crate::eventlog::Topic;
use crate::id::{CommandId, Epoch};
use crate::limits::fixed::WAITERS;
use crate::mailbox::{Letter, Order, Standing};
use crate::ownership::{LEASE_MS, NodeState};
use crate::peer::memory::Faults;
use crate::peer::{Ending, Evicted, PeerHandler};
use crate::protocol::close::CloseReason;
use crate::protocol::message::CommandStatus;
use crate::protocol::{Encoding, write_message};
use crate::registrar::evicts::Evict;
use crate::telemetry::metrics::{CommandOutcome, CommandRoute, ProbePath};

/// What only a fault takes.
const LONG: Duration = Duration::from_secs(30);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn a_command_rings_at_the_node_that_has_its_device() {
    let net = Net::of(3).await;
    let held = net.connects(1, "d").await;
    let submitted = net.nodes[0].router.submit(submission("k")).await.unwrap();
    assert!(submitted.new && submitted.command.origin == Some(net.nodes[0].life().to_string()));
    until("the owner hears it", || net.nodes[1].heard() == [format!("ring t/d {}", held.epoch())]).await;
    // What is sent already needs no doorbell.
    net.sends(&submitted.command, held.epoch()).await;
    assert!(!net.nodes[0].router.submit(submission("k")).await.unwrap().new);
    net.nodes[0].router.submit(submission("k2")).await.unwrap();
    until("the second is heard", || net.nodes[1].heard().len() == 2).await;
    assert_eq!(net.nodes[2].heard(), [""; 0], "nobody else is asked");
}

#[tokio::test]
async fn a_stale_row_is_looked_up_once_more() {
    let net = Net::of(3).await;
    let first = net.connects(1, "d").await;
    let stale = net.row("d");
    net.leaves(1, &first);
    let second = net.connects(2, "d").await;
    Arc::clone(&net.nodes[0].router).ring_owner(&device("d"), stale).await;
    assert_eq!(net.nodes[1].heard(), [format!("ring t/d {}", first.epoch())]);
    assert_eq!(net.nodes[2].heard(), [format!("ring t/d {}", second.epoch())]);
}

#[tokio::test]
async fn a_connection_on_its_way_into_the_roster_is_rung_again() {
    let net = Net::of(2).await;
    let mailbox = net.claims(1, "d").await;
    let (began, row) = (Instant::now(), net.row("d"));
    let ringing = tokio::spawn({
        let (router, row) = (Arc::clone(&net.nodes[0].router), row.clone());
        async move { router.ring_owner(&device("d"), row).await }
    });
    until("the first ring finds nobody", || net.nodes[1].heard().len() == 1).await;
    assert!(net.nodes[1].roster.install(&device("d"), Arc::clone(&mailbox), row.epoch));
    ringing.await.unwrap();
    assert_eq!(net.nodes[1].heard().len(), 2);
    assert!(began.elapsed() >= RING_AGAIN);
}

#[tokio::test]
async fn who_waits_hears_the_end_from_the_node_that_has_the_device() {
    let net = Net::of(2).await;
    let held = net.connects(1, "d").await;
    let (a, b) = (&net.nodes[0], &net.nodes[1]);
    let mut watch = a.router.watch(&device("d"), submission("k").id());
    let command = a.router.submit(submission("k")).await.unwrap().command;
    let waiting = tokio::spawn({
        let (router, id) = (Arc::clone(&a.router), command.id);
        async move { router.wait(&device("d"), id, soon()).await }
    });
    // It is rung for, and sent; how much of that one look sees depends on when it looks.
    let mut seen = watch.next().await.unwrap();
    while seen.life.state == State::Queued {
        seen = watch.next().await.unwrap();
    }
    assert_eq!((seen.life.state, seen.life.epoch), (State::Sent, Some(held.epoch())));
    b.courier.tell(net.answers(&command).await);
    let ended = watch.next().await.unwrap();
    assert_eq!((ended.life.state, ended.result.as_deref()), (State::Succeeded, Some(&b"7"[..])));
    assert_eq!(waiting.await.unwrap().unwrap().history, ended.history);
    until("the origin is told both", || a.heard() == ["ended 2", "ended 3"]).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err(), "nothing follows an end");
    drop(watch);
    assert_eq!(a.router.waiters.len(), 0);
    until("the end is published where it was made", || {
        b.events() == [format!("{}:2", command.id), format!("{}:3", command.id)]
    })
    .await;
    until("and its acceptance where that was", || a.events() == [format!("{}:1", command.id)]).await;
    until("and counted", || b.metrics.commands.of(CommandRoute::Peer, CommandOutcome::Succeeded).get() == 1).await;
    let took = [&b.metrics.command_delivery, &b.metrics.command_answer].map(|family| family.of(CommandRoute::Peer));
    assert_eq!(took.map(|took| took.get_sample_count()), [1, 1], "how long it took to be sent, and to be answered");
    assert!(net.commands.get(&device("d"), command.id).await.unwrap().published);
}

#[tokio::test]
async fn who_waits_believes_what_it_is_told_in_whole_and_reads_what_it_is_not() {
    let net = Net::of(1).await;
    let router = &net.nodes[0].router;
    let command = router.submit(submission("k")).await.unwrap().command;
    let waiting = |command: &Command| {
        let (watch, known) = (router.watch(&device("d"), command.id), command.clone());
        tokio::spawn(watch.end(known, soon()))
    };
    let told = |version, detail: Vec<u8>| Ending { device: device("d"), command: command.id, version, detail };
    // Nothing of this is in the directory.
    let mut end = Command { params: Vec::new(), origin: None, result: Some(b"7".to_vec()), ..command.clone() };
    (end.life.state, end.life.version) = (State::Succeeded, 3);
    let heard = waiting(&command);
    router.ended(told(3, end.event().value));
    assert_eq!(heard.await.unwrap().unwrap(), end);
    // Of another version than is said, not whole, or not there: then it is read, and there is no end.
    for detail in [end.event().value, b"{}".to_vec(), Vec::new()] {
        let mut heard = waiting(&command);
        router.ended(told(2, detail));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut heard).await.is_err());
        heard.abort();
    }
    let canceled = net.commands.cancel(&device("d"), command.id).await.unwrap().command;
    let heard = waiting(&command);
    router.ended(told(canceled.life.version, Vec::new()));
    assert_eq!(heard.await.unwrap().unwrap(), canceled);
}

/// Faults F31 and F32: what the two cannot tell each other is found by looking, and a third rings.
#[tokio::test]
async fn two_nodes_that_are_cut_from_each_other_cost_only_time() {
    for both_ways in [true, false] {
        let net = Net::of(3).await;
        let held = net.connects(1, "d").await;
        let (a, b) = (&net.nodes[0], &net.nodes[1]);
        net.network.cut("n0", "n1");
        if both_ways {
            net.network.cut("n1", "n0");
        }
        let command = a.router.submit(submission("k")).await.unwrap().command;
        let waiting = tokio::spawn({
            let (router, id) = (Arc::clone(&a.router), command.id);
            async move { router.wait(&device("d"), id, soon()).await }
        });
        net.passes(u64::try_from(RING_MS).unwrap()).await;
        net.nodes[2].router.sweep_shard(shard_of(command.id)).await;
        until("a third rings", || b.heard() == [format!("ring t/d {}", held.epoch())]).await;
        b.courier.tell(net.sends(&command, held.epoch()).await);
        b.courier.tell(net.answers(&command).await);
        assert_eq!(waiting.await.unwrap().unwrap().life.state, State::Succeeded, "both ways: {both_ways}");
        assert!(!both_ways || a.heard().is_empty(), "{:?}", a.heard());
    }
}

#[tokio::test]
async fn answers_that_are_lost_ring_twice_and_harm_nothing() {
    let net = Net::of(2).await;
    net.connects(1, "d").await;
    net.network.set_faults(Faults { answers_lost: 1.0, ..Faults::default() });
    let submitted = net.nodes[0].router.submit(submission("k")).await.unwrap();
    until("it is rung", || !net.nodes[1].heard().is_empty()).await;
    let again = net.nodes[0].router.submit(submission("k")).await.unwrap();
    assert_eq!((again.new, again.command.id), (false, submitted.command.id));
}

#[tokio::test]
async fn a_command_for_now_needs_the_device() {
    let net = Net::of(2).await;
    let a = &net.nodes[0].router;
    assert_eq!(a.submit_now(submission("k")).await, Err(CommandError::NotConnected));
    let held = net.connects(1, "d").await;
    let taken = a.submit_now(submission("k")).await.unwrap();
    assert_eq!(taken.command.life.deadline_ms - taken.command.created_ms, 5_000);
    until("it is rung", || net.nodes[1].heard().len() == 1).await;
    // The same key tells the same when the device is gone, and another one finds it gone.
    net.leaves(1, &held);
    net.releases(1, "d", held.epoch()).await;
    let again = a.submit_now(submission("k")).await.unwrap();
    assert_eq!((again.new, again.command.id), (false, taken.command.id));
    assert_eq!(a.submit_now(submission("other")).await, Err(CommandError::NotConnected));
}

#[tokio::test]
async fn an_event_is_published_once_however_often_it_comes_due() {
    let net = Net::of(1).await;
    let (node, device) = (&net.nodes[0], device("d"));
    node.log.hold();
    let command = node.router.submit(submission("k")).await.unwrap().command;
    node.router.cancel(&device, command.id).await.unwrap();
    for _ in 0..3 {
        net.passes(u64::try_from(RING_MS).unwrap()).await;
        node.router.sweep_shard(shard_of(command.id)).await;
    }
    assert!(!net.commands.get(&device, command.id).await.unwrap().published);
    node.log.release();
    until("its end is settled", || net.commands.due_entries() == 0).await;
    assert_eq!(node.events(), [format!("{}:1", command.id), format!("{}:2", command.id)]);
    until("and counted", || node.metrics.commands.of(CommandRoute::Queued, CommandOutcome::Canceled).get() == 1).await;
    assert_eq!(node.metrics.command_delivery.of(CommandRoute::Queued).get_sample_count(), 0, "it was never sent");
    assert_eq!(node.receipts.node_budget().used(), 0);
}

/// Fault F44: the node that made the transition died before the event was stored.
#[tokio::test]
async fn an_end_that_nobody_published_is_published_by_the_sweep() {
    let net = Net::of(2).await;
    let command = net.commands.submit(&submission("k")).await.unwrap().command;
    net.commands.cancel(&device("d"), command.id).await.unwrap();
    net.passes(u64::try_from(RING_MS).unwrap()).await;
    net.nodes[1].router.sweep_shard(shard_of(command.id)).await;
    until("its end is settled", || net.commands.due_entries() == 0).await;
    assert_eq!(net.nodes[1].events(), [format!("{}:2", command.id)]);
}

#[tokio::test]
async fn what_the_log_refuses_is_settled_all_the_same() {
    let net = Net::of(1).await;
    net.nodes[0].log.refuse_next(2);
    let command = net.nodes[0].router.submit(submission("k")).await.unwrap().command;
    net.nodes[0].router.cancel(&device("d"), command.id).await.unwrap();
    until("its end is settled", || net.commands.due_entries() == 0).await;
    assert_eq!(net.nodes[0].events(), [""; 0]);
}

#[tokio::test]
async fn the_loser_is_told_why_by_what_the_row_says() {
    let net = Net::of(2).await;
    let b = &net.nodes[1];
    for (device_name, winner_boot, reason) in
        [("same", "boot", CloseReason::Moved), ("other", "new", CloseReason::Superseded)]
    {
        let held = net.connects(1, device_name).await;
        assert_eq!(b.router.evict(&device(device_name), held.epoch()), Evicted::Newer(held.epoch()));
        let epoch = net.takes_over(0, device_name, winner_boot).await;
        assert_eq!(b.router.evict(&device(device_name), epoch), Evicted::Closed);
        let mut told = None;
        until("the connection is told", || {
            told = held.take_letter();
            told.is_some()
        })
        .await;
        assert_eq!(told, Some(Letter::Close(reason)), "{device_name}");
    }
    assert_eq!(b.router.evict(&device("nobody"), Epoch(9)), Evicted::Absent);
    let waiting = net.connects_as(1, "waits", Standing::Provisional).await;
    assert_eq!(b.router.evict(&device("waits"), Epoch(u64::MAX)), Evicted::Newer(waiting.epoch()));
}

/// Fault F32: nobody hears the evict for a while; it is told again, and once it is answered no more.
#[tokio::test]
async fn an_evict_is_repeated_until_it_is_answered() {
    let net = Net::of(3).await;
    let held = net.connects(1, "d").await;
    net.network.cut("n0", "n1");
    let epoch = net.takes_over(0, "d", "boot").await;
    let evicts = net.nodes[0].registrar.evicts();
    evicts.note(Evict { from: net.nodes[1].life(), device: device("d"), epoch });
    // Others are told meanwhile.
    evicts.note(Evict { from: net.nodes[2].life(), device: device("x"), epoch });
    until("the third answers", || evicts.len() == 1).await;
    assert_eq!((net.nodes[1].heard().len(), held.take_letter()), (0, None));
    net.network.heal();
    until("it is answered", || evicts.is_empty()).await;
    assert_eq!(net.nodes[1].heard(), [format!("evict t/d {epoch}")]);
    until("the connection is told", || held.take_letter() == Some(Letter::Close(CloseReason::Moved))).await;
}

#[tokio::test]
async fn a_node_that_missed_too_much_is_asked_to_sweep() {
    let net = Net::of(2).await;
    let evicts = net.nodes[0].registrar.evicts();
    evicts.note_sweep(net.nodes[1].life());
    until("it is asked", || net.nodes[1].heard() == ["sweep"]).await;
    assert_eq!(evicts.take_sweeps(), []);
}

#[tokio::test]
async fn each_shard_is_one_nodes_and_none_a_leaving_ones() {
    let net = Net::of(3).await;
    let shares = |net: &Net| net.nodes.iter().map(|node| node.router.shards()).collect::<Vec<_>>();
    let all = |shares: &[Vec<u8>]| {
        let mut all = shares.concat();
        all.sort_unstable();
        all
    };
    let before = shares(&net);
    assert_eq!(all(&before), (0..SHARDS).collect::<Vec<_>>());
    assert!(before.iter().all(|share| !share.is_empty()), "{before:?}");
    net.renew(0, NodeState::Draining).await;
    net.renew_all_but(0).await;
    let after = shares(&net);
    assert_eq!((all(&after), after[0].len()), ((0..SHARDS).collect::<Vec<_>>(), 0));
}

#[tokio::test]
async fn peers_that_do_not_answer_show_in_the_probe() {
    let net = Net::of(2).await;
    let fine = || net.nodes[0].metrics.probe_state(ProbePath::Peer).0;
    until("the first probe is answered", fine).await;
    net.network.leave("n1");
    net.nodes[0].router.probe_each(&device("nobody")).await;
    assert!(!fine());
}

#[tokio::test]
async fn a_peer_that_left_in_good_order_is_not_missed() {
    let net = Net::of(2).await;
    let fine = || net.nodes[0].metrics.probe_state(ProbePath::Peer).0;
    until("the first probe is answered", fine).await;
    net.network.leave("n1");
    net.renew(1, NodeState::Dead).await;
    let directory = net.nodes[0].registrar.directory();
    assert!(directory.knows(&net.nodes[1].life()), "nobody has told it");
    net.nodes[0].router.probe_each(&device("nobody")).await;
    assert!(fine() && !directory.knows(&net.nodes[1].life()));
}

#[tokio::test]
async fn no_more_than_so_many_wait() {
    let net = Net::of(1).await;
    let router = &net.nodes[0].router;
    let id = submission("k").id();
    assert_eq!(router.wait(&device("d"), id, soon()).await, Err(CommandError::NotFound));
    router.submit(submission("k")).await.unwrap();
    let others = (0..WAITERS).map(|number| CommandId::of(&device("d"), "app", &number.to_string()));
    let all: Vec<_> = others.map(|other| router.watch(&device("d"), other)).collect();
    assert!(matches!(router.wait(&device("d"), id, soon()).await, Err(CommandError::Unavailable(_))));
    drop(all);
    let command = router.wait(&device("d"), id, Instant::now() + Duration::from_millis(10)).await.unwrap();
    assert_eq!(command.life.state, State::Queued, "in time it tells how far it is");
}

#[tokio::test]
async fn a_flush_waits_until_every_event_is_stored() {
    let net = Net::of(1).await;
    let node = &net.nodes[0];
    assert!(node.router.flush(soon()).await, "there is nothing");
    node.log.hold();
    let held = net.connects(0, "d").await;
    let command = node.router.submit(submission("k")).await.unwrap().command;
    node.courier.tell(net.sends(&command, held.epoch()).await);
    node.courier.tell(net.answers(&command).await);
    assert!(!node.router.flush(Instant::now() + Duration::from_millis(50)).await, "the log stores nothing");
    assert_eq!(node.events(), [""; 0]);
    node.log.release();
    assert!(node.router.flush(soon()).await);
    assert_eq!(node.events(), [1, 2, 3].map(|version| format!("{}:{version}", command.id)));
}

#[tokio::test]
async fn a_trace_begins_on_the_node_that_has_the_device_whichever_is_asked() {
    let net = Net::of(2).await;
    let (a, b) = (&net.nodes[0], &net.nodes[1]);
    let held = net.connects(1, "d").await;
    assert_eq!(a.router.trace(&device("d"), 60).await.unwrap(), b.life().node);
    assert!(held.is_traced());
    assert_eq!(b.heard(), [format!("trace t/d {} 60", held.epoch())]);
    let here = net.connects(0, "e").await;
    assert_eq!(a.router.trace(&device("e"), 60).await.unwrap(), a.life().node);
    assert!(here.is_traced() && a.heard().is_empty(), "nobody is asked for a device that is here");
    assert!(matches!(a.router.trace(&device("nobody"), 60).await, Err(TraceError::NotConnected)));
}

#[tokio::test]
async fn a_trace_of_a_device_that_moved_meanwhile_follows_it_once() {
    let net = Net::of(3).await;
    let first = net.connects(1, "d").await;
    net.leaves(1, &first);
    let (router, asked) = (Arc::clone(&net.nodes[0].router), device("d"));
    let tracing = tokio::spawn(async move { router.trace(&asked, 60).await });
    until("the node it left is asked", || net.nodes[1].heard().len() == 1).await;
    let second = net.connects(2, "d").await;
    assert_eq!(tracing.await.unwrap().unwrap(), net.nodes[2].life().node);
    assert!(second.is_traced());
}

#[tokio::test]
async fn what_a_device_cannot_take_is_refused_by_every_node_and_what_was_taken_is_not() {
    let net = Net::of(2).await;
    let (a, b) = (&net.nodes[0], &net.nodes[1]);
    let params = format!("\"{}\"", "x".repeat(500));
    let large = |key| Submission { params: params.as_bytes(), ..submission(key) };
    let before = a.router.submit(large("before")).await.unwrap().command;
    let held = net.connects_small(1, "d", 600).await;
    for router in [&a.router, &b.router] {
        assert_eq!(router.submit(large("k")).await, Err(CommandError::TooLarge(600)));
        assert_eq!(router.submit_now(large("now")).await, Err(CommandError::TooLarge(600)));
        assert!(router.submit(submission("small")).await.is_ok());
        let again = router.submit(large("before")).await.unwrap();
        assert_eq!((again.command.id, again.new), (before.id, false));
    }
    net.leaves(1, &held);
    net.releases(1, "d", held.epoch()).await;
    assert!(a.router.submit(large("k")).await.is_ok(), "nobody knows what it can take when it comes back");
}

/// The API says beforehand what the courier would find.
#[test]
fn a_submission_knows_the_size_of_its_message() {
    let asked = submission("k");
    let order = Order {
        id: asked.id(),
        name: asked.name.to_owned(),
        params: String::from_utf8(asked.params.to_vec()).unwrap(),
        expires_at_ms: 1_748_522_701_234,
        attempt: 1,
        again: false,
        asked: Instant::now(),
    };
    let mut json = Vec::new();
    order.message(|message| write_message(Encoding::Json, message, &mut json));
    assert_eq!(json.len(), asked.message_bytes(), "{}", String::from_utf8_lossy(&json));
}

/// Its lease ended and its rows were not settled yet when it came back: no claim tells it of what waits.
#[tokio::test]
async fn a_node_that_comes_back_in_time_is_rung_for_by_the_next_sweep() {
    let net = Net::of(2).await;
    let held = net.connects(1, "d").await;
    let (a, b) = (&net.nodes[0], &net.nodes[1]);
    net.moves(LEASE_MS + 1);
    net.renew(0, NodeState::Ready).await;
    let command = a.router.submit(submission("k")).await.unwrap().command;
    net.moves(u64::try_from(RING_MS).unwrap());
    net.renew(0, NodeState::Ready).await;
    a.router.sweep_shard(shard_of(command.id)).await;
    // Its errand waits for nothing but its turn.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    net.passes(u64::try_from(RING_MS).unwrap()).await;
    assert_eq!(b.heard(), [""; 0], "who is dead is not called");
    a.router.sweep_shard(shard_of(command.id)).await;
    until("it is rung for", || b.heard() == [format!("ring t/d {}", held.epoch())]).await;
}

impl Net {
    /// The connection of `epoch` may write it.
    async fn sends(&self, command: &crate::commands::Command, epoch: Epoch) -> crate::commands::Command {
        let sending = self.commands.mark_sent(&command.device, command.id, epoch, false).await.unwrap();
        let crate::commands::Sending::Write { command, .. } = sending else { panic!("{sending:?}") };
        *command
    }

    /// Its device did it.
    async fn answers(&self, command: &crate::commands::Command) -> crate::commands::Command {
        let answer = Answer { status: CommandStatus::Succeeded, result: Some(b"7"), message: None };
        let answered = self.commands.answer(&command.device, command.id, answer).await.unwrap();
        let Answered::Changed(command) = answered else { panic!("{answered:?}") };
        *command
    }
}

impl fixture::Host {
    /// The ids of the command events in its log, oldest first.
    fn events(&self) -> Vec<String> {
        let records = self.log.records().into_iter().filter(|record| record.topic == Topic::CommandEvents);
        records.map(|record| record.header("ce_id").unwrap().to_owned()).collect()
    }
}
