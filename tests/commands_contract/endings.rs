//! How commands end: once.

use futures_util::future::{join, join_all};
use tidegate::commands::{Answer, Answered, Canceled, CommandError, Late, Reason, Sending, State};
use tidegate::id::{CommandId, DeviceKey, Epoch};
use tidegate::protocol::message::CommandStatus::{self, Failed, Received, Rejected, Running, Succeeded};

use super::bench::{Bench, START, device, order};

async fn sent(bench: &Bench, device: &DeviceKey, key: &str) -> CommandId {
    let id = bench.accept(&order(device, key)).await;
    bench.hold(device, "n1", 1).await;
    bench.write(device, id, 1).await;
    id
}

pub async fn an_answer_ends_a_command_once(bench: &Bench) {
    let lamp = device("lamp");
    for (status, state) in [(Succeeded, State::Succeeded), (Failed, State::Failed), (Rejected, State::Rejected)] {
        let id = sent(bench, &lamp, status.as_str()).await;
        let long = "ä".repeat(200);
        let answer = Answer { status, result: Some(b"[1]"), message: Some(&long) };
        // Whatever the epoch: the device has moved on meanwhile.
        bench.hold(&lamp, "n2", 9).await;
        let Answered::Changed(command) = bench.commands().answer(&lamp, id, answer).await.unwrap() else {
            panic!("{status:?}")
        };
        assert_eq!((command.life.state, command.life.version, command.life.reason), (state, 3, None));
        assert_eq!(command.result.as_deref(), Some(&b"[1]"[..]));
        assert_eq!(command.message, Some("ä".repeat(128)));
        assert_eq!(bench.get(&lamp, id).await, *command);
        // The same once more, and less than it, is known; it is no late result.
        assert_eq!(bench.commands().answer(&lamp, id, answer).await, Ok(Answered::Known));
        assert_eq!(bench.answer(&lamp, id, Running).await, Answered::Known);
        assert_eq!(bench.get(&lamp, id).await, *command);
    }
    assert!(bench.commands().list(&lamp, 10).await.unwrap().is_empty());
}

/// C1.
pub async fn of_many_answers_at_once_one_ends_it(bench: &Bench) {
    let lamp = device("lamp");
    let id = sent(bench, &lamp, "k").await;
    let commands = bench.commands();
    let answers = join_all((0..60).map(|n| {
        let status = [Succeeded, Failed, Rejected][n % 3];
        commands.answer(&lamp, id, Answer { status, result: None, message: None })
    }))
    .await;
    let count = |wanted: fn(&Answered) -> bool| answers.iter().filter(|a| wanted(a.as_ref().unwrap())).count();
    assert_eq!(count(|answer| matches!(answer, Answered::Changed(_))), 1);
    assert_eq!(count(|answer| matches!(answer, Answered::Known)), 19);
    assert_eq!(count(|answer| matches!(answer, Answered::Late)), 40);
    let command = bench.get(&lamp, id).await;
    assert_eq!((command.life.version, command.history.len(), command.late.unwrap().count), (3, 3, 40));
}

pub async fn a_late_result_is_recorded_and_changes_nothing(bench: &Bench) {
    let lamp = device("lamp");
    let id = sent(bench, &lamp, "k").await;
    bench.pass(3_600_000);
    bench.sweep().await;
    let expired = bench.get(&lamp, id).await;
    assert_eq!((expired.life.state, expired.life.reason), (State::Expired, Some(Reason::OutcomeUnknown)));
    bench.pass(1_000);
    let answer = |status, result| Answer { status, result, message: Some("done") };
    let first = answer(Succeeded, Some(&b"42"[..]));
    assert_eq!(bench.commands().answer(&lamp, id, first).await, Ok(Answered::Late));
    assert_eq!(bench.commands().answer(&lamp, id, answer(Failed, None)).await, Ok(Answered::Late));
    let late = Late {
        count: 2,
        status: Succeeded,
        at_ms: START + 3_601_000,
        result: Some(b"42".to_vec()),
        message: Some("done".to_owned()),
    };
    let now = bench.get(&lamp, id).await;
    assert_eq!(now.late, Some(late));
    assert_eq!((now.life, now.history, now.result), (expired.life, expired.history, None));
}

/// C2.
pub async fn states_never_go_back(bench: &Bench) {
    let lamp = device("lamp");
    let id = sent(bench, &lamp, "k").await;
    let says: [(CommandStatus, bool); 6] =
        [(Received, true), (Received, false), (Running, true), (Received, false), (Running, false), (Failed, true)];
    let mut version = 2;
    for (status, changes) in says {
        let answered = bench.answer(&lamp, id, status).await;
        assert_eq!(matches!(answered, Answered::Changed(_)), changes, "{status:?}");
        version += u32::from(changes);
        assert_eq!(bench.get(&lamp, id).await.life.version, version);
    }
    let states: Vec<_> = bench.get(&lamp, id).await.history.iter().map(|turn| turn.state).collect();
    assert_eq!(states, [State::Queued, State::Sent, State::Received, State::Running, State::Failed]);
}

pub async fn who_guesses_an_id_changes_nothing(bench: &Bench) {
    let lamp = device("lamp");
    let id = bench.accept(&order(&lamp, "k")).await;
    let before = bench.get(&lamp, id).await;
    for status in CommandStatus::ALL {
        assert_eq!(bench.answer(&lamp, id, status).await, Answered::NeverSent);
        assert_eq!(bench.answer(&lamp, order(&lamp, "none").id(), status).await, Answered::Gone);
    }
    assert_eq!(bench.get(&lamp, id).await, before);
    assert_eq!(bench.due_entries().await, 1);
    // Also where it ended without ever being sent.
    bench.commands().cancel(&lamp, id).await.unwrap();
    assert_eq!(bench.answer(&lamp, id, Succeeded).await, Answered::NeverSent);
    assert_eq!(bench.get(&lamp, id).await.late, None);
}

/// C3.
pub async fn only_what_was_never_sent_can_be_canceled(bench: &Bench) {
    let lamp = device("lamp");
    let (commands, gone) = (bench.commands(), order(&lamp, "none").id());
    let id = bench.accept(&order(&lamp, "k")).await;
    let Canceled { command, changed } = commands.cancel(&lamp, id).await.unwrap();
    assert_eq!((changed, command.life.state, command.life.reason), (true, State::Canceled, None));
    assert_eq!(commands.cancel(&lamp, id).await, Ok(Canceled { command, changed: false }));
    bench.hold(&lamp, "n1", 1).await;
    assert!(bench.pending(&lamp, 1).await.is_empty());
    assert_eq!(bench.mark(&lamp, id, 1).await, Sending::Ended);
    assert_eq!(commands.cancel(&lamp, gone).await, Err(CommandError::NotFound));
    let id = sent(bench, &lamp, "sent").await;
    assert_eq!(commands.cancel(&lamp, id).await, Err(CommandError::TooLate(State::Sent)));
    bench.answer(&lamp, id, Succeeded).await;
    assert_eq!(commands.cancel(&lamp, id).await, Err(CommandError::TooLate(State::Succeeded)));
}

pub async fn of_a_cancel_and_a_send_at_once_one_wins(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let commands = bench.commands();
    for n in 0..50 {
        let key = n.to_string();
        let id = bench.accept(&order(&lamp, &key)).await;
        let (cancel, mark) = (commands.cancel(&lamp, id), commands.mark_sent(&lamp, id, Epoch(1), false));
        let (canceled, marked) = if n % 2 == 0 {
            join(cancel, mark).await
        } else {
            let (m, c) = join(mark, cancel).await;
            (c, m)
        };
        let written = matches!(marked.unwrap(), Sending::Write { .. });
        assert_ne!(canceled.is_ok(), written);
        let state = bench.state(&lamp, id).await;
        assert_eq!(state, if written { State::Sent } else { State::Canceled });
    }
}
