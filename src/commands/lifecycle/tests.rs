//! Every event in every state, as a table; and what must hold whatever happens in whatever order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use proptest::prelude::*;

use super::*;

const DEADLINE: i64 = 1_000;
/// The epoch of the connection that asks, in the table; the older one has sent before.
const OLD: Epoch = Epoch(4);
const MINE: Epoch = Epoch(5);
const NEW: Epoch = Epoch(6);

fn life(state: State, reason: Option<Reason>, attempts: u32, epoch: Option<Epoch>) -> Life {
    Life { state, reason, version: 7, attempts, max_attempts: 3, epoch, deadline_ms: DEADLINE }
}

/// The rows: every state, and those that differ by who sent it and how often.
fn rows() -> Vec<(&'static str, Life)> {
    let sent = |attempts, epoch| life(State::Sent, None, attempts, Some(epoch));
    let ended = |state| life(state, None, 1, Some(OLD));
    vec![
        ("queued", life(State::Queued, None, 0, None)),
        ("sent by an older one", sent(1, OLD)),
        ("sent by an older one, spent", sent(3, OLD)),
        ("sent by an older one, one allowed", Life { max_attempts: 1, ..sent(1, OLD) }),
        ("sent here", sent(1, MINE)),
        ("sent here, spent", sent(3, MINE)),
        ("sent by a newer one", sent(1, NEW)),
        ("received", life(State::Received, None, 1, Some(OLD))),
        ("running", life(State::Running, None, 3, Some(OLD))),
        ("succeeded", ended(State::Succeeded)),
        ("failed", ended(State::Failed)),
        ("rejected", ended(State::Rejected)),
        ("expired, sent", life(State::Expired, Some(Reason::OutcomeUnknown), 1, Some(OLD))),
        ("expired, unsent", life(State::Expired, Some(Reason::Unsent), 0, None)),
        ("canceled", life(State::Canceled, None, 0, None)),
    ]
}

/// The columns.
fn columns() -> Vec<(&'static str, Event, i64)> {
    use CommandStatus::*;
    let send = |row, again| Event::Send { epoch: MINE, row, again };
    let before = DEADLINE - 1;
    vec![
        ("send", send(Some(MINE), false), before),
        ("again", send(Some(MINE), true), before),
        ("fenced", send(Some(NEW), false), before),
        ("norow", send(None, false), before),
        ("late", send(Some(MINE), false), DEADLINE),
        ("recv", Event::Answer(Received), before),
        ("run", Event::Answer(Running), before),
        ("succ", Event::Answer(Succeeded), before),
        ("fail", Event::Answer(Failed), DEADLINE),
        ("rej", Event::Answer(Rejected), before),
        ("cancel", Event::Cancel, before),
        ("repl", Event::Replace, before),
        ("early", Event::Deadline, before),
        ("due", Event::Deadline, DEADLINE),
    ]
}

/// What each comes to. `n+1`: sent once more. `same`: written, no transition. Other words in lower case: the state that
/// follows; those with a capital: why nothing happens.
const TABLE: &str = "
row                               | send          again         fenced late         recv      run       succ      fail      rej       cancel          repl            due
queued                            | n+1           n+1           Fenced PastDeadline NeverSent NeverSent NeverSent NeverSent NeverSent canceled        canceled:replaced expired:unsent
sent by an older one              | n+1           n+1           Fenced PastDeadline received  running   succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
sent by an older one, spent       | failed:undeliverable failed:undeliverable Fenced PastDeadline received running succeeded failed rejected AlreadySent AlreadySent expired:outcome_unknown
sent by an older one, one allowed | failed:outcome_unknown failed:outcome_unknown Fenced PastDeadline received running succeeded failed rejected AlreadySent AlreadySent expired:outcome_unknown
sent here                         | same          same          Fenced PastDeadline received  running   succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
sent here, spent                  | same          Spent         Fenced PastDeadline received  running   succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
sent by a newer one               | Fenced        Fenced        Fenced PastDeadline received  running   succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
received                          | same          same          Fenced PastDeadline Known     running   succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
running                           | same          same          Fenced PastDeadline Known     Known     succeeded failed    rejected  AlreadySent     AlreadySent     expired:outcome_unknown
succeeded                         | Ended         Ended         Ended  Ended        Known     Known     Late      Late      Late      AlreadySent     AlreadySent     Ended
failed                            | Ended         Ended         Ended  Ended        Known     Known     Late      Late      Late      AlreadySent     AlreadySent     Ended
rejected                          | Ended         Ended         Ended  Ended        Known     Known     Late      Late      Late      AlreadySent     AlreadySent     Ended
expired, sent                     | Ended         Ended         Ended  Ended        Known     Known     Late      Late      Late      AlreadySent     AlreadySent     Ended
expired, unsent                   | Ended         Ended         Ended  Ended        NeverSent NeverSent NeverSent NeverSent NeverSent Ended           Ended           Ended
canceled                          | Ended         Ended         Ended  Ended        NeverSent NeverSent NeverSent NeverSent NeverSent AlreadyCanceled AlreadyCanceled Ended
";

/// What a step is in the table's words.
fn word(before: &Life, found: Result<Step, Ignored>) -> String {
    let step = match found {
        Ok(step) => step,
        Err(why) => return format!("{why:?}"),
    };
    if !step.changed {
        assert!(step.frame && step.life == Life { epoch: Some(MINE), ..*before }, "{step:?}");
        return "same".to_owned();
    }
    assert_eq!(step.life.version, before.version + 1);
    if step.frame {
        let sent = Life {
            state: State::Sent,
            attempts: before.attempts + 1,
            epoch: Some(MINE),
            version: step.life.version,
            ..*before
        };
        assert_eq!(step.life, sent);
        return "n+1".to_owned();
    }
    let unchanged = Life { state: before.state, reason: before.reason, version: before.version, ..step.life };
    assert_eq!(unchanged, *before);
    let reason = step.life.reason.map(|reason| format!(":{}", reason.as_str())).unwrap_or_default();
    format!("{}{reason}", step.life.state.as_str())
}

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let mut lines = TABLE.trim().lines();
    let heads: Vec<&str> = lines.next().unwrap().split_once('|').unwrap().1.split_whitespace().collect();
    let table: Vec<(&str, Vec<&str>)> = lines
        .map(|line| line.split_once('|').unwrap())
        .map(|(name, cells)| (name.trim(), cells.split_whitespace().collect()))
        .collect();
    let rows = rows();
    assert_eq!(
        table.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        rows.iter().map(|(n, _)| *n).collect::<Vec<_>>()
    );
    let mut faults = Vec::new();
    for ((name, life), (_, cells)) in rows.iter().zip(&table) {
        assert_eq!(cells.len(), heads.len(), "{name}");
        for (column, event, now) in columns() {
            // Without a row nobody owns the device; before its time a deadline is nothing.
            let expected = match column {
                "norow" if life.state.is_terminal() => "Ended",
                "norow" => "Fenced",
                "early" if life.state.is_terminal() => "Ended",
                "early" => "NotDue",
                _ => cells[heads.iter().position(|head| *head == column).unwrap()],
            };
            let found = word(life, transition(life, event, now));
            if found != expected {
                faults.push(format!("{name} × {column}: {found}, not {expected}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let states: std::collections::HashSet<_> = rows.iter().map(|(_, life)| life.state).collect();
    assert_eq!(states.len(), State::ALL.len());
}

#[test]
fn words_are_read_back() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(state));
    }
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(reason));
    }
    assert_eq!((State::parse("Queued"), Reason::parse("")), (None, None));
}

fn events() -> impl Strategy<Value = (Event, i64)> {
    let epoch = || (1..6u64).prop_map(Epoch);
    let row = prop_oneof![1 => Just(None), 5 => epoch().prop_map(Some)];
    let event = prop_oneof![
        4 => (epoch(), row, any::<bool>(), any::<bool>()).prop_map(|(epoch, row, mine, again)| {
            Event::Send { epoch, row: if mine { Some(epoch) } else { row }, again }
        }),
        3 => prop::sample::select(CommandStatus::ALL.to_vec()).prop_map(Event::Answer),
        1 => Just(Event::Cancel),
        1 => Just(Event::Replace),
        1 => Just(Event::Deadline),
    ];
    (event, 0..100i64)
}

proptest! {
    #[test]
    fn a_command_has_one_ending_and_never_goes_back(
        max_attempts in 0..4u32,
        history in prop::collection::vec(events(), 0..40),
    ) {
        let mut life = Life::accepted(max_attempts, 600);
        let (mut now, mut endings, mut frames) = (0, 0, 0u32);
        for (event, passed) in history {
            now += passed;
            let before = life;
            let Ok(step) = transition(&life, event, now) else { continue };
            life = step.life;
            frames += u32::from(step.frame);
            // Versions: one for each transition, none for anything else.
            prop_assert_eq!(life.version, before.version + u32::from(step.changed));
            // C1: nothing follows an ending.
            prop_assert!(!before.state.is_terminal());
            endings += u32::from(life.state.is_terminal());
            // C2: forward, or once more from sent to sent.
            let again = before.state == State::Sent && life.state == State::Sent;
            prop_assert!(!step.changed || life.state.rank() > before.state.rank() || again);
            // An attempt counts once for each epoch, and never past the most.
            prop_assert!(life.attempts <= before.attempts + u32::from(before.epoch != life.epoch));
            prop_assert!(life.attempts <= life.max_attempts);
            prop_assert!(before.epoch <= life.epoch);
            // Nothing is written past the deadline, nor by a connection whose row it is not.
            if step.frame {
                prop_assert!(now < life.deadline_ms);
                let Event::Send { epoch, row, .. } = event else { panic!("a frame without asking") };
                prop_assert_eq!(row, Some(epoch));
            }
        }
        prop_assert!(endings <= 1);
        // C3: canceled and expired-unsent were never on a socket.
        if life.state == State::Canceled || life.reason == Some(Reason::Unsent) {
            prop_assert_eq!((frames, life.attempts, life.epoch), (0, 0, None));
        }
        // A word of the device stands only behind a frame.
        if matches!(life.state, State::Received | State::Running | State::Succeeded | State::Rejected) {
            prop_assert!(frames > 0);
        }
    }

    #[test]
    fn a_command_that_may_be_sent_once_is_written_by_one_connection(history in prop::collection::vec(events(), 0..40)) {
        let mut life = Life::accepted(1, i64::MAX);
        let mut writers = std::collections::HashSet::new();
        for (event, _) in history {
            let Ok(step) = transition(&life, event, 0) else { continue };
            if let (true, Event::Send { epoch, .. }) = (step.frame && step.life.state == State::Sent, event) {
                writers.insert(epoch);
            }
            life = step.life;
        }
        prop_assert!(writers.len() <= 1);
    }

    #[test]
    fn every_command_ends_when_its_time_is_over(history in prop::collection::vec(events(), 0..40)) {
        let mut life = Life::accepted(3, 600);
        for (event, passed) in history {
            if let Ok(step) = transition(&life, event, passed) {
                life = step.life;
            }
        }
        if let Ok(step) = transition(&life, Event::Deadline, 600) {
            life = step.life;
        }
        prop_assert!(life.state.is_terminal());
    }
}
