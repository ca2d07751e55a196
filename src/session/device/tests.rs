//! What a session answers, without a socket, a log or a clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is test code")]

use super::*;
use crate::protocol::message::{CommandAck, CommandStatus, ReportKind};
use proptest::prelude::*;

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, unix_ms: 1_000_000 + mono_ms as i64 }
}

fn session(expires: Option<i64>) -> Session {
    Session::new(PeerKind::Device, 25_000, expires, 30_000, at(0))
}

fn key() -> DeviceKey {
    DeviceKey::new("acme", "d1").unwrap()
}

fn report(device: Option<&str>) -> Result<DeviceMessage<'_>, Refusal> {
    Ok(DeviceMessage::Report(Report {
        kind: ReportKind::Update,
        seq: Some(7),
        timestamp_ms: None,
        device_id: device.map(Cow::Borrowed),
        tenant: None,
        traceparent: None,
        json: Cow::Borrowed(b"{}"),
    }))
}

fn step<'a>(session: &mut Session, item: Result<DeviceMessage<'a>, Refusal>, mono_ms: u64) -> Step<'a> {
    session.message(item, &key(), &Limits::default(), at(mono_ms))
}

#[test]
fn case_121_a_message_that_names_another_device_is_refused_and_never_appended() {
    let mut session = session(None);
    assert!(matches!(step(&mut session, report(Some("d1")), 1), Step::Append(_)));
    assert!(matches!(step(&mut session, report(None), 1), Step::Append(_)));
    let step = step(&mut session, report(Some("d2")), 1);
    let Step::Refuse { message: GatewayMessage::Refused { seq, code, .. }, line: true } = step else {
        panic!("{step:?}");
    };
    assert_eq!((seq, code), (Some(7), RefusalCode::Forbidden));
}

#[test]
fn the_tenth_fault_of_a_minute_is_the_last() {
    let mut session = session(None);
    for _ in 0..9 {
        assert!(matches!(step(&mut session, report(Some("x")), 59_000), Step::Refuse { .. }));
    }
    let last = step(&mut session, report(Some("x")), 61_000);
    assert!(matches!(last, Step::Last(_, CloseReason::PolicyViolation)), "{last:?}");
    assert!(matches!(step(&mut session, report(Some("x")), 119_000), Step::Refuse { .. }));
}

#[test]
fn case_125_a_guessed_answer_changes_nothing_and_is_written_down_once_a_minute() {
    let mut session = session(None);
    let guess = || {
        let id = "c".into();
        Ok(DeviceMessage::CommandAck(CommandAck { id, status: CommandStatus::Succeeded, result: None, message: None }))
    };
    let steps: Vec<_> = [1, 2, 60_001].map(|ms| step(&mut session, guess(), ms)).into();
    assert_eq!(steps, [true, false, true].map(|line| Step::Guess { line }));
    let flood = (0..200).map(|_| step(&mut session, guess(), 70_000)).find(|step| !matches!(step, Step::Guess { .. }));
    assert_eq!(flood, Some(Step::Close(CloseReason::PolicyViolation)));
}

#[test]
fn an_answer_with_the_id_of_a_command_is_handed_over_however_often_it_comes() {
    let mut session = session(None);
    let id = CommandId::of(&key(), "console", "k").to_string();
    let (status, result, message) = (CommandStatus::Running, None, None);
    let ack = CommandAck { id: Cow::Borrowed(id.as_str()), status, result, message };
    for _ in 0..1_000 {
        let item = Ok(DeviceMessage::CommandAck(ack.clone()));
        assert_eq!(step(&mut session, item, 1), Step::Answer(ack.clone()));
    }
    let upper = CommandAck { id: id.to_uppercase().into(), ..ack };
    assert_eq!(step(&mut session, Ok(DeviceMessage::CommandAck(upper)), 1), Step::Guess { line: true });
}

#[test]
fn a_flood_of_ping_messages_ends_like_one_of_ping_frames() {
    let mut session = session(None);
    let ping = || Ok(DeviceMessage::Ping { id: None });
    let answered = (0..200).take_while(|_| matches!(step(&mut session, ping(), 5), Step::Reply(_))).count();
    assert_eq!(answered, Limits::default().control_frames_per_s as usize);
    assert_eq!(step(&mut session, ping(), 6), Step::Close(CloseReason::PolicyViolation));
}

#[test]
fn an_application_may_ping_and_renew_its_token_and_is_told_what_it_may_not() {
    let mut session = Session::new(PeerKind::App, 25_000, None, 0, at(0));
    assert!(matches!(step(&mut session, Ok(DeviceMessage::Ping { id: None }), 1), Step::Reply(_)));
    let unknown = Refusal { code: RefusalCode::UnknownType, message: "x".into(), seq: None, id: Some("s".to_owned()) };
    for (item, wanted) in [(report(None), None), (Err(unknown), Some("s"))] {
        let Step::Refuse { message: GatewayMessage::Refused { code, message, id, .. }, .. } =
            step(&mut session, item, 1)
        else {
            panic!("not refused");
        };
        assert_eq!((code, id.as_deref()), (RefusalCode::UnknownType, wanted));
        assert!(message.contains("not available yet"), "{message}");
    }
    assert!(session.flow(true, None).is_none());
}

#[test]
fn case_100_and_140_a_token_is_announced_to_end_then_ends_once_and_a_new_one_moves_both() {
    let mut session = session(Some(1_000_000 + 100_000));
    assert_eq!(session.due_ms(at(0)), 25_000, "the heartbeat comes first");
    session.heard(at(40_000));
    assert_eq!(session.due(at(40_000)), Some(Due::Send(GatewayMessage::AuthDue { token_expires_at: 1_100_000 })));
    assert_eq!(session.due(at(40_001)), None);
    let step = session.verified(None, Verdict::Good { expires_at_ms: 1_200_000 }, &Limits::default(), at(50_000));
    assert_eq!(step, Step::Reply(GatewayMessage::AuthAck { id: None, expires_at: 1_200_000 }));
    session.heard(at(139_000));
    assert_eq!(session.due(at(139_000)), None, "the old end has gone by");
    session.heard(at(229_000));
    assert!(matches!(session.due(at(229_000)), Some(Due::Send(_))));
    assert_eq!(session.due(at(229_999)), None);
    assert_eq!(session.due(at(230_000)), Some(Due::Close(CloseReason::TokenExpired)));
}

#[test]
fn case_130_a_failed_auth_leaves_the_old_end() {
    let mut session = session(Some(1_100_000));
    let limits = Limits::default();
    let bad = session.verified(Some("a".into()), Verdict::Bad, &limits, at(1));
    let Step::Refuse { message: GatewayMessage::Refused { code, .. }, .. } = bad else { panic!("{bad:?}") };
    assert_eq!(code, RefusalCode::InvalidToken);
    session.heard(at(129_999));
    assert!(matches!(session.due(at(129_999)), Some(Due::Send(_))));
    assert_eq!(session.due(at(130_000)), Some(Due::Close(CloseReason::TokenExpired)));
}

#[test]
fn a_token_of_another_identity_ends_it_and_one_that_cannot_be_judged_does_not() {
    let mut session = session(None);
    let limits = Limits::default();
    for ms in 0..20 {
        let step = session.verified(None, Verdict::Unknown { retry_after_s: 5 }, &limits, at(ms));
        assert!(matches!(step, Step::Refuse { .. }), "an outage of ours is nobody's fault: {step:?}");
    }
    let step = session.verified(None, Verdict::Foreign, &limits, at(21));
    assert!(matches!(step, Step::Last(_, CloseReason::IdentityChanged)), "{step:?}");
}

#[test]
fn case_131_a_hundred_auths_in_a_second_are_verified_once_and_one_line_says_so() {
    let mut session = session(None);
    let auth = || Ok(DeviceMessage::Auth { token: "t".into(), id: None });
    let steps: Vec<_> = (0..100).map(|_| step(&mut session, auth(), 5)).collect();
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Verify { .. })).count(), 1);
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Refuse { line: true, .. })).count(), 1);
    assert!(matches!(step(&mut session, auth(), 2_000), Step::Refuse { .. }), "the first is not answered yet");
    let _ = session.verified(None, Verdict::Bad, &Limits::default(), at(2_001));
    assert!(matches!(step(&mut session, auth(), 4_000), Step::Verify { .. }));
}

#[test]
fn a_pause_is_told_once_and_so_is_its_end() {
    let mut session = session(None);
    assert!(session.flow(false, None).is_none());
    assert!(matches!(session.flow(true, None), Some(GatewayMessage::Pause { reason: PauseReason::Log, .. })));
    assert!(session.flow(true, None).is_none() && session.is_paused(PauseReason::Log));
    assert!(matches!(session.flow(false, None), Some(GatewayMessage::Resume { .. })));
    assert!(matches!(session.rate(Some(9)), Some(GatewayMessage::Pause { retry_after_ms: Some(9), .. })));
    assert!(session.rate(Some(5)).is_none() && session.is_paused(PauseReason::Rate));
    assert!(!session.is_paused(PauseReason::Log));
}

#[test]
fn a_full_window_has_no_room_and_an_empty_one_always_has() {
    let limits = Limits { window_bytes: 10, ..Limits::default() };
    let mut session = session(None);
    assert_eq!(session.room(1_000, &limits, at(0)), Room::Yes);
    session.taken(Some(1), 8, &limits, at(0));
    assert_eq!(session.room(3, &limits, at(0)), Room::Full);
    assert!(!session.has_half_room(&limits));
    let mut sent = Vec::new();
    session.settled(Settled { ended: 1, refused: 0 }, |message| sent.push(message));
    assert_eq!(sent, [GatewayMessage::Ack { seq: 1 }]);
    assert_eq!(session.room(3, &limits, at(0)), Room::Yes);
    assert!(session.has_half_room(&limits));
}

#[test]
fn what_finds_no_room_for_another_reason_costs_nothing_of_the_rate() {
    let limits = Limits { messages_per_s: 2, ..Limits::default() };
    let mut session = session(None);
    for _ in 0..10 {
        assert_eq!(session.room(1, &limits, at(0)), Room::Yes);
    }
    session.taken(None, 1, &limits, at(0));
    session.taken(None, 1, &limits, at(0));
    assert_eq!(session.room(1, &limits, at(0)), Room::After(500));
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 80, "{}", size_of::<Session>());
}

proptest! {
    /// Whoever is ended for faults had ten of them within a minute, and nobody lives on with nineteen.
    #[test]
    fn faults_end_a_session_when_they_are_many_and_only_then(
        gaps in proptest::collection::vec(0u64..20_000, 1..60),
    ) {
        let mut session = session(None);
        let (mut now, mut faults) = (0, Vec::new());
        for gap in gaps {
            now += gap;
            faults.push(now);
            let ended = matches!(step(&mut session, report(Some("x")), now), Step::Last(..));
            let recent = faults.iter().filter(|fault| now - **fault < MINUTE_MS).count();
            if ended {
                prop_assert!(recent >= 10, "ended after {recent}");
                break;
            }
            prop_assert!(recent < 19, "lives with {recent}");
        }
    }
}
