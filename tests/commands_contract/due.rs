//! What comes due, and who looks after it.

use futures_util::future::join;
use tidegate::commands::{
    ACCEPT_MS, CommandError, DANGLING_MS, Due, MAX_QUEUED, RING_MS, Reason, Ripe, SHARDS, State, Submission, shard_of,
};
use tidegate::id::{CommandId, Epoch};
use tidegate::protocol::message::CommandStatus::Succeeded;

use super::bench::{Bench, MINUTE, START, device, order};

/// The ids of what is to be published, and of what is to be rung for.
fn kinds(work: &[Due]) -> (Vec<CommandId>, Vec<CommandId>) {
    let (mut publish, mut ring) = (Vec::new(), Vec::new());
    for due in work {
        match due {
            Due::Publish(command) => publish.push(command.id),
            Due::Ring { id, .. } => ring.push(*id),
        }
    }
    (publish, ring)
}

pub async fn what_nobody_fetched_expires_unsent(bench: &Bench) {
    let lamp = device("lamp");
    let id = bench.accept(&Submission { ttl_ms: 10_000, ..order(&lamp, "k") }).await;
    bench.pass(9_999);
    assert!(bench.sweep().await.is_empty());
    assert_eq!(bench.state(&lamp, id).await, State::Queued);
    bench.pass(1);
    bench.hold(&lamp, "n1", 1).await;
    assert_eq!(bench.mark(&lamp, id, 1).await, tidegate::commands::Sending::PastDeadline);
    let [Due::Publish(command)] = &*bench.sweep().await else { panic!("nothing expired") };
    assert_eq!((command.life.state, command.life.reason), (State::Expired, Some(Reason::Unsent)));
    assert_eq!((command.life.version, command.event().terminal), (2, true));
    assert!(bench.commands().list(&lamp, 10).await.unwrap().is_empty());
}

pub async fn what_was_sent_expires_with_its_outcome_unknown(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let id = bench.accept(&Submission { ttl_ms: 10_000, ..order(&lamp, "k") }).await;
    bench.write(&lamp, id, 1).await;
    bench.pass(10_000);
    let [Due::Publish(command)] = &*bench.sweep().await else { panic!("nothing expired") };
    assert_eq!((command.life.state, command.life.reason), (State::Expired, Some(Reason::OutcomeUnknown)));
}

/// F44: whoever made the transition may be dead.
pub async fn an_ended_command_is_published_until_that_is_settled(bench: &Bench) {
    let lamp = device("lamp");
    // The device was away for long, so that the entry waits for the deadline; then it answers.
    let id = bench.accept(&order(&lamp, "k")).await;
    bench.pass(RING_MS);
    assert!(bench.sweep().await.is_empty());
    bench.pass(10 * MINUTE);
    bench.hold(&lamp, "n1", 1).await;
    bench.write(&lamp, id, 1).await;
    bench.answer(&lamp, id, Succeeded).await;
    for _ in 0..3 {
        bench.pass(RING_MS);
        let [Due::Publish(command)] = &*bench.sweep().await else { panic!("not published") };
        assert_eq!((command.id, command.life.state, command.life.version), (id, State::Succeeded, 3));
        assert!(bench.sweep().await.is_empty());
    }
    let commands = bench.commands();
    // Only the end settles it.
    commands.settle_published(&lamp, id, 2).await.unwrap();
    assert!(!bench.get(&lamp, id).await.published);
    commands.settle_published(&lamp, id, 3).await.unwrap();
    commands.settle_published(&lamp, id, 3).await.unwrap();
    assert!(bench.get(&lamp, id).await.published);
    assert_eq!(bench.due_entries().await, 0);
    // A repeat of the key makes an entry again, which goes when it is looked at.
    assert!(!bench.submit(&order(&lamp, "k")).await.unwrap().new);
    bench.pass(RING_MS);
    assert!(bench.sweep().await.is_empty());
    assert_eq!(bench.due_entries().await, 0);
}

/// The entry waits for a distant deadline, and the command ends without a frame before.
pub async fn an_end_out_of_nowhere_is_published_soon(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let (answered, canceled) = (bench.accept(&order(&lamp, "a")).await, bench.accept(&order(&lamp, "b")).await);
    bench.write(&lamp, answered, 1).await;
    bench.let_go(&lamp).await;
    bench.pass(RING_MS);
    assert!(bench.sweep().await.is_empty());
    bench.pass(10 * MINUTE);
    bench.answer(&lamp, answered, Succeeded).await;
    bench.commands().cancel(&lamp, canceled).await.unwrap();
    bench.pass(RING_MS);
    let (mut published, _) = kinds(&bench.sweep().await);
    published.sort();
    let mut both = vec![answered, canceled];
    both.sort();
    assert_eq!(published, both);
}

pub async fn a_repeat_puts_no_deadline_off(bench: &Bench) {
    let lamp = device("lamp");
    let asked = Submission { ttl_ms: 30_000, ..order(&lamp, "k") };
    let id = bench.accept(&asked).await;
    for _ in 0..10 {
        bench.pass(3_000);
        assert!(!bench.submit(&asked).await.unwrap().new);
    }
    assert_eq!(kinds(&bench.sweep().await), (vec![id], vec![]));
}

pub async fn what_expired_leaves_its_place_in_the_queue(bench: &Bench) {
    let lamp = device("lamp");
    for n in 0..MAX_QUEUED {
        bench.accept(&Submission { ttl_ms: 10_000, ..order(&lamp, &n.to_string()) }).await;
    }
    bench.pass(10_000);
    assert_eq!(bench.submit(&order(&lamp, "new")).await, Err(CommandError::QueueFull));
    assert_eq!(bench.sweep().await.len(), MAX_QUEUED);
    bench.accept(&order(&lamp, "new")).await;
}

/// C11.
pub async fn a_waiting_command_rings_every_half_minute_while_its_device_is_held(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 3).await;
    let id = bench.accept(&Submission { ttl_ms: 100_000, ..order(&lamp, "k") }).await;
    let mut rings = Vec::new();
    for _ in 0..99 {
        bench.pass(1_000);
        for due in bench.sweep().await {
            let Due::Ring { device, id: rung, row } = due else { panic!("{due:?}") };
            assert_eq!((device, rung, row.node.as_str(), row.epoch), (lamp.clone(), id, "n1", Epoch(3)));
            rings.push(bench.now() - START);
        }
    }
    assert_eq!(rings, [30_000, 60_000, 90_000]);
}

pub async fn a_command_for_an_absent_device_waits_for_its_deadline(bench: &Bench) {
    let (lamp, lost) = (device("lamp"), device("lost"));
    let id = bench.accept(&order(&lamp, "k")).await;
    bench.hold(&lost, "dead", 1).await;
    let other = bench.accept(&order(&lost, "k")).await;
    for _ in 0..20 {
        bench.pass(MINUTE);
        assert!(bench.sweep().await.is_empty());
    }
    // It comes back: from its first frame on it is looked at again.
    bench.hold(&lamp, "n1", 1).await;
    bench.write(&lamp, id, 1).await;
    bench.pass(RING_MS);
    assert_eq!(kinds(&bench.sweep().await), (vec![], vec![id]));
    bench.let_go(&lamp).await;
    bench.pass(RING_MS);
    assert!(bench.sweep().await.is_empty());
    bench.pass(39 * MINUTE);
    let (mut publish, ring) = kinds(&bench.sweep().await);
    publish.sort();
    let mut both = vec![id, other];
    both.sort();
    assert_eq!((publish, ring), (both, vec![]));
}

/// A crash, or a directory that was away, between the entry and the command.
pub async fn an_entry_without_a_command_goes_after_ten_minutes(bench: &Bench) {
    let lamp = device("lamp");
    let asked = order(&lamp, "k");
    bench.pass_within_next_call(ACCEPT_MS + 1);
    let refused = bench.submit(&asked).await;
    assert!(matches!(refused, Err(CommandError::Unavailable(_))), "{refused:?}");
    assert_eq!(bench.commands().get(&lamp, asked.id()).await, Err(CommandError::NotFound));
    bench.pass(RING_MS);
    assert!(bench.sweep().await.is_empty());
    bench.pass(DANGLING_MS);
    assert!(bench.sweep().await.is_empty());
    assert_eq!(bench.due_entries().await, 1);
    bench.pass(1);
    assert!(bench.sweep().await.is_empty());
    assert_eq!(bench.due_entries().await, 0);
    // The caller repeats: the entry that dangled is brought forward and is the command's.
    bench.pass_within_next_call(ACCEPT_MS + 1);
    bench.submit(&asked).await.unwrap_err();
    bench.pass(RING_MS);
    bench.sweep().await;
    bench.accept(&asked).await;
    bench.hold(&lamp, "n1", 1).await;
    bench.pass(RING_MS);
    assert_eq!(kinds(&bench.sweep().await), (vec![], vec![asked.id()]));
}

pub async fn refusals_leave_nothing_behind(bench: &Bench) {
    let lamp = device("lamp");
    for n in 0..MAX_QUEUED {
        bench.accept(&order(&lamp, &n.to_string())).await;
    }
    for n in 0..50 {
        let key = format!("more {n}");
        assert_eq!(bench.submit(&order(&lamp, &key)).await, Err(CommandError::QueueFull));
    }
    bench.pass(7_000);
    assert!(bench.sweep().await.is_empty());
    assert_eq!(bench.due_entries().await, MAX_QUEUED as u64);
}

pub async fn every_shard_is_swept_by_itself(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let mut ids = Vec::new();
    for n in 0..90 {
        ids.push(bench.accept(&order(&lamp, &n.to_string())).await);
    }
    bench.pass(RING_MS);
    let commands = bench.commands();
    for shard in 0..SHARDS {
        let mut expected: Vec<_> = ids.iter().copied().filter(|id| shard_of(*id) == shard).collect();
        let mut found = Vec::new();
        loop {
            let swept = commands.sweep(shard, 1, &|_| true).await.unwrap();
            found.extend(kinds(&swept.work).1);
            if swept.looked == 0 {
                break;
            }
        }
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "shard {shard}");
    }
}

/// What the sweeper asks before it looks anywhere: nothing is found later for its asking less often.
pub async fn a_shard_is_ripe_from_when_something_is_due_and_quiet_before(bench: &Bench) {
    let (lamp, all) = (device("lamp"), (0..SHARDS).collect::<Vec<_>>());
    let ripe = async |shards: &[u8]| bench.commands().ripe(shards).await.unwrap();
    assert_eq!(ripe(&all).await, Ripe { shards: vec![], quiet_ms: ACCEPT_MS });
    assert_eq!(ripe(&[]).await, Ripe { shards: vec![], quiet_ms: ACCEPT_MS });
    // Whatever is asked for comes due no sooner than everybody was told that nothing would.
    let shortest = bench.accept(&Submission { ttl_ms: 1, ..order(&lamp, "short") }).await;
    let later = bench.accept(&Submission { ttl_ms: 9_000, ..order(&lamp, "later") }).await;
    let (first, second) = (shard_of(shortest), shard_of(later));
    assert_ne!(first, second);
    assert_eq!(ripe(&all).await, Ripe { shards: vec![], quiet_ms: ACCEPT_MS });
    bench.pass(ACCEPT_MS - 1);
    assert_eq!(ripe(&all).await, Ripe { shards: vec![], quiet_ms: 1 });
    assert_eq!(ripe(&[second]).await, Ripe { shards: vec![], quiet_ms: 9_000 - ACCEPT_MS + 1 });
    bench.pass(1);
    assert_eq!(ripe(&all).await, Ripe { shards: vec![first], quiet_ms: 9_000 - ACCEPT_MS });
    assert_eq!(ripe(&[second, first]).await.shards, [first]);
    bench.pass(4_000);
    let mut both = ripe(&all).await.shards;
    both.sort_unstable();
    assert_eq!(both, if first < second { [first, second] } else { [second, first] });
    bench.sweep().await;
    assert_eq!(ripe(&all).await.shards, Vec::<u8>::new());
}

pub async fn two_sweepers_of_one_shard_do_no_harm(bench: &Bench) {
    let lamp = device("lamp");
    let asked = Submission { ttl_ms: 6_000, ..order(&lamp, "k") };
    let id = bench.accept(&asked).await;
    bench.pass(6_000);
    let (commands, shard) = (bench.commands(), shard_of(id));
    let (one, two) = join(commands.sweep(shard, 10, &|_| true), commands.sweep(shard, 10, &|_| true)).await;
    let mut published = kinds(&one.unwrap().work).0;
    published.extend(kinds(&two.unwrap().work).0);
    assert!((1..=2).contains(&published.len()) && published.iter().all(|found| *found == id), "{published:?}");
    let command = bench.get(&lamp, id).await;
    assert_eq!((command.life.version, command.history.len(), bench.due_entries().await), (2, 2, 1));
}
