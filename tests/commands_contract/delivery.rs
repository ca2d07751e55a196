//! How commands go out.

use tidegate::commands::window::{Overdue, WINDOW, Window};
use tidegate::commands::{Reason, Sending, State, Submission, Taken};
use tidegate::id::{CommandId, DeviceKey, Epoch};
use tidegate::protocol::message::CommandStatus;

use super::bench::{Bench, MINUTE, device, order};

async fn accept_some(bench: &Bench, device: &DeviceKey, count: usize) -> Vec<CommandId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(bench.accept(&order(device, &format!("key {n}"))).await);
    }
    ids
}

/// What an owner does at a claim and at a doorbell: writes in order while there is room.
async fn drain(bench: &Bench, device: &DeviceKey, epoch: u64, window: &mut Window, written: &mut Vec<CommandId>) {
    while window.room() > 0 {
        let next = bench.pending(device, epoch).await.into_iter().find(|id| !window.holds(*id));
        let Some(id) = next else { return };
        bench.write(device, id, epoch).await;
        window.wrote(id, u64::try_from(bench.now()).unwrap());
        written.push(id);
    }
}

/// C7.
pub async fn commands_go_out_in_the_order_in_which_they_came(bench: &Bench) {
    let lamp = device("lamp");
    let ids = accept_some(bench, &lamp, 30).await;
    bench.hold(&lamp, "n1", 1).await;
    assert_eq!(bench.pending(&lamp, 1).await, ids);
    let listed: Vec<_> = bench.commands().list(&lamp, 20).await.unwrap().iter().map(|command| command.id).collect();
    assert_eq!(listed, ids[..20]);
    bench.write(&lamp, ids[0], 1).await;
    bench.commands().cancel(&lamp, ids[1]).await.unwrap();
    bench.write(&lamp, ids[4], 1).await;
    let two = bench.commands().pending(&lamp, tidegate::id::Epoch(1), 2).await.unwrap();
    assert_eq!(two, [ids[2], ids[3]]);
    assert_eq!(bench.pending(&lamp, 1).await[2..], ids[5..]);
}

/// What is taken is what waits, and the first of it is marked as if it had been asked for by itself.
pub async fn what_is_taken_is_what_waits_and_its_first_may_be_written(bench: &Bench) {
    let lamp = device("lamp");
    let take = async |epoch, limit| bench.commands().take(&lamp, Epoch(epoch), limit).await.unwrap();
    assert_eq!(take(1, 8).await, Taken::default());
    let ids = accept_some(bench, &lamp, 5).await;
    assert_eq!(take(1, 8).await, Taken { ids: ids.clone(), first: Some(Sending::Fenced) });
    assert_eq!(bench.state(&lamp, ids[0]).await, State::Queued);
    bench.hold(&lamp, "n1", 1).await;
    for turn in 0..2 {
        let Taken { ids: found, first } = take(1, 3).await;
        assert_eq!(found, ids[turn..turn + 3]);
        let Some(Sending::Write { command, changed: true }) = first else { panic!("{first:?}") };
        assert_eq!((command.id, command.life.state, command.life.epoch), (ids[turn], State::Sent, Some(Epoch(1))));
        assert_eq!((command.life.version, command.life.attempts), (2, 1));
        assert_eq!(*command, bench.get(&lamp, ids[turn]).await);
    }
    assert_eq!(bench.state(&lamp, ids[2]).await, State::Queued);
    // A later connection begins with the first again; an earlier one begins nothing.
    bench.hold(&lamp, "n2", 2).await;
    assert_eq!(take(1, 1).await, Taken { ids: vec![ids[2]], first: Some(Sending::Fenced) });
    let first = take(2, 1).await.first;
    assert!(matches!(&first, Some(Sending::Write { command, .. }) if command.life.attempts == 2), "{first:?}");
}

/// What has no attempt left is ended by whoever takes it, and what is over is not taken.
pub async fn what_has_no_attempt_left_is_not_taken_a_second_time(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let once = bench.accept(&Submission { max_attempts: 1, ..order(&lamp, "once") }).await;
    bench.accept(&Submission { ttl_ms: 6_000, ..order(&lamp, "soon over") }).await;
    bench.write(&lamp, once, 1).await;
    bench.hold(&lamp, "n1", 2).await;
    bench.pass(6_000);
    let Taken { ids, first } = bench.commands().take(&lamp, Epoch(2), 8).await.unwrap();
    assert_eq!(ids, [once]);
    let Some(Sending::Undeliverable(command)) = first else { panic!("{first:?}") };
    assert_eq!((command.life.state, command.life.reason), (State::Failed, Some(Reason::OutcomeUnknown)));
    assert_eq!(bench.commands().take(&lamp, Epoch(2), 8).await.unwrap(), Taken::default());
}

pub async fn eight_are_unheard_of_at_most_and_each_word_lets_the_next_go(bench: &Bench) {
    let lamp = device("lamp");
    let ids = accept_some(bench, &lamp, 20).await;
    bench.hold(&lamp, "n1", 1).await;
    let (mut window, mut written) = (Window::default(), Vec::new());
    drain(bench, &lamp, 1, &mut window, &mut written).await;
    assert_eq!(written, ids[..WINDOW]);
    // `received` frees the place, and the command stays in the queue.
    bench.answer(&lamp, ids[2], CommandStatus::Received).await;
    assert!(window.heard(ids[2]));
    drain(bench, &lamp, 1, &mut window, &mut written).await;
    assert_eq!(written, ids[..=WINDOW]);
    assert_eq!(bench.commands().list(&lamp, 100).await.unwrap().len(), 20);
    for id in ids.iter().copied().filter(|id| *id != ids[2]) {
        bench.answer(&lamp, id, CommandStatus::Succeeded).await;
        assert!(window.heard(id));
        drain(bench, &lamp, 1, &mut window, &mut written).await;
    }
    assert_eq!(written, ids);
}

/// O5.
pub async fn nothing_is_written_but_by_the_connection_whose_row_it_is(bench: &Bench) {
    let lamp = device("lamp");
    let id = bench.accept(&order(&lamp, "k")).await;
    assert_eq!(bench.mark(&lamp, id, 1).await, Sending::Fenced);
    bench.hold(&lamp, "n1", 2).await;
    assert_eq!(bench.mark(&lamp, id, 1).await, Sending::Fenced);
    assert_eq!(bench.mark(&lamp, id, 3).await, Sending::Fenced);
    assert_eq!(bench.state(&lamp, id).await, State::Queued);
    bench.write(&lamp, id, 2).await;
    bench.hold(&lamp, "n2", 5).await;
    assert_eq!(bench.mark_again(&lamp, id, 2).await, Sending::Fenced);
    assert_eq!(bench.mark(&lamp, CommandId::of(&lamp, "console", "none"), 5).await, Sending::Gone);
    // A row that went back, as after a flush: what a newer connection sent is not the older one's.
    bench.write(&lamp, id, 5).await;
    bench.hold(&lamp, "n1", 2).await;
    assert_eq!(bench.mark(&lamp, id, 2).await, Sending::Fenced);
    bench.let_go(&lamp).await;
    assert_eq!(bench.mark(&lamp, id, 5).await, Sending::Fenced);
    bench.hold(&lamp, "n2", 5).await;
    bench.settle_row(&lamp).await;
    assert_eq!(bench.mark(&lamp, id, 5).await, Sending::Fenced);
}

pub async fn a_claim_sends_everything_again_that_has_not_ended(bench: &Bench) {
    let lamp = device("lamp");
    let ids = accept_some(bench, &lamp, 5).await;
    bench.hold(&lamp, "n1", 1).await;
    for id in &ids[..4] {
        bench.write(&lamp, *id, 1).await;
    }
    bench.answer(&lamp, ids[0], CommandStatus::Received).await;
    bench.answer(&lamp, ids[1], CommandStatus::Running).await;
    bench.answer(&lamp, ids[2], CommandStatus::Rejected).await;
    assert_eq!(bench.pending(&lamp, 1).await, [ids[4]]);
    bench.hold(&lamp, "n2", 2).await;
    assert_eq!(bench.pending(&lamp, 2).await, [ids[0], ids[1], ids[3], ids[4]]);
    // What the device has costs no attempt, and is no transition.
    let before = bench.get(&lamp, ids[1]).await;
    let Sending::Write { command, changed } = bench.mark(&lamp, ids[1], 2).await else { panic!("not allowed") };
    assert_eq!((changed, command.life.state, command.life.attempts), (false, State::Running, 1));
    assert_eq!((command.life.version, &command.history), (before.life.version, &before.history));
    assert_eq!(bench.write(&lamp, ids[3], 2).await, 2);
    assert_eq!(bench.pending(&lamp, 2).await, [ids[0], ids[4]]);
}

pub async fn an_attempt_counts_once_for_each_connection(bench: &Bench) {
    let lamp = device("lamp");
    let id = bench.accept(&order(&lamp, "k")).await;
    for epoch in 1..=3 {
        bench.hold(&lamp, "n1", epoch).await;
        let attempt = u32::try_from(epoch).unwrap();
        assert_eq!(bench.write(&lamp, id, epoch).await, attempt);
        // Once more before the frame was written, as after 2 s: no attempt and no transition.
        let Sending::Write { command, changed: false } = bench.mark(&lamp, id, epoch).await else { panic!("{epoch}") };
        assert_eq!((command.life.attempts, command.life.version), (attempt, attempt + 1));
    }
    assert_eq!(bench.mark_again(&lamp, id, 3).await, Sending::Spent);
    bench.hold(&lamp, "n1", 4).await;
    let Sending::Undeliverable(command) = bench.mark(&lamp, id, 4).await else { panic!("a fourth attempt") };
    assert_eq!((command.life.state, command.life.reason), (State::Failed, Some(Reason::Undeliverable)));
    assert_eq!((command.life.version, command.history.len()), (5, 5));
    assert_eq!(bench.mark(&lamp, id, 4).await, Sending::Ended);
    assert!(bench.pending(&lamp, 4).await.is_empty());
}

pub async fn a_command_for_one_attempt_is_never_written_twice(bench: &Bench) {
    let door = device("door");
    let id = bench.accept(&Submission { max_attempts: 1, ..order(&door, "k") }).await;
    bench.hold(&door, "n1", 1).await;
    assert_eq!(bench.write(&door, id, 1).await, 1);
    assert_eq!(bench.mark_again(&door, id, 1).await, Sending::Spent);
    bench.hold(&door, "n2", 2).await;
    let Sending::Undeliverable(command) = bench.mark(&door, id, 2).await else { panic!("written twice") };
    assert_eq!((command.life.state, command.life.reason), (State::Failed, Some(Reason::OutcomeUnknown)));
}

pub async fn a_silent_device_hears_it_again_and_then_a_ping(bench: &Bench) {
    let lamp = device("lamp");
    let id = bench.accept(&order(&lamp, "k")).await;
    bench.hold(&lamp, "n1", 1).await;
    let (mut window, mut written) = (Window::default(), Vec::new());
    drain(bench, &lamp, 1, &mut window, &mut written).await;
    let now = |bench: &Bench| u64::try_from(bench.now()).unwrap();
    assert_eq!(window.overdue(now(bench)), None);
    bench.pass(MINUTE);
    assert_eq!(window.overdue(now(bench)), Some(Overdue { id, probe: false }));
    let Sending::Write { command, changed: false } = bench.mark_again(&lamp, id, 1).await else { panic!("not again") };
    assert_eq!(command.life.attempts, 1);
    window.wrote(id, now(bench));
    bench.pass(MINUTE);
    assert_eq!(window.overdue(now(bench)), Some(Overdue { id, probe: true }));
    bench.answer(&lamp, id, CommandStatus::Received).await;
    window.heard(id);
    assert_eq!((window.overdue(now(bench)), window.is_empty()), (None, true));
}
