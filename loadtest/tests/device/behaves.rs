//! How a device behaves when the gateway does what it seldom does.

use serde_json::json;
use tidegate_loadtest::device::{How, Malformed, Manners, NotTaken, OnFull, Reconnect, Then, TokenSource};

use super::fake::Fake;
use super::*;

#[tokio::test]
async fn what_is_unacked_is_sent_first_on_the_next_connection_without_what_the_gateway_has() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    give(&handle, 1..=4);
    let mut first = fake.welcome(json!({})).await;
    assert_eq!(first.updates(4).await, [1, 2, 3, 4]);
    first.ack(1).await;
    log.wait("acked 1", 1).await;
    drop(first);
    log.wait("closed None by Network", 1).await;
    give(&handle, 5..=5);
    let mut second = fake.welcome(json!({"resume_after": 2})).await;
    assert_eq!(second.updates(3).await, [3, 4, 5]);
    second.ack(5).await;
    assert_eq!(handle.flush(PATIENCE).await, 0);
    assert_eq!(log.count("acked"), 5);
    assert_eq!((log.count("acked 2 resumed=true"), log.count("sent 3 repeat=true")), (1, 1));
    assert!(second.request.contains(&format!("boot={}", handle.boot())));
}

#[tokio::test]
async fn it_keeps_to_the_window_and_puts_what_is_due_at_once_into_one_frame() {
    let fake = Fake::start().await;
    let (handle, _log) = device(Options { batch: 3, ..options(&fake.url()) });
    give(&handle, 1..=9);
    let mut session = fake.welcome(json!({"window": 5})).await;
    assert_eq!((session.seqs().await, session.seqs().await), (vec![1, 2, 3], vec![4, 5]));
    assert!(session.is_quiet(100).await, "the window is full");
    session.ack(4).await;
    assert_eq!(session.updates(4).await, [6, 7, 8, 9]);
}

#[tokio::test]
async fn it_holds_its_updates_while_it_is_told_to_and_goes_on_with_commands() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    let mut session = fake.welcome(json!({})).await;
    session.say(json!({"type": "pause", "reason": "log", "retry_after_ms": 5})).await;
    log.wait("paused log", 1).await;
    give(&handle, 1..=2);
    assert!(session.is_quiet(100).await);
    session.say(json!({"type": "command", "id": "c1", "name": "blink", "params": [1], "attempt": 1})).await;
    let answer = session.heard().await;
    assert_eq!(answer, [json!({"type": "ack", "id": "c1", "status": "succeeded", "result": {"done": true}})]);
    session.say(json!({"type": "resume", "reason": "log"})).await;
    assert_eq!(session.updates(2).await, [1, 2]);
}

#[tokio::test]
async fn a_command_is_run_once_and_the_same_answer_given_on_every_connection() {
    let fake = Fake::start().await;
    let (_handle, log) = device(options(&fake.url()));
    let command = json!({"type": "command", "id": "c1", "name": "blink", "params": {}, "attempt": 1,
        "expires_at": 1_060_000});
    let mut session = fake.welcome(json!({})).await;
    session.say(command.clone()).await;
    let answer = session.heard().await;
    session.say(command.clone()).await;
    assert_eq!(session.heard().await, answer);
    session.close(4000).await;
    let mut session = fake.welcome(json!({})).await;
    session.say(command).await;
    assert_eq!(session.heard().await, answer);
    assert_eq!((log.count("command"), log.count("repeated"), log.count("answered")), (1, 2, 3));
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_given_when_it_is_there_and_once() {
    let fake = Fake::start().await;
    let log = Log { answer: Some(Answer::Later), ..Log::default() };
    let handle = start(options(&fake.url()), Box::new(log.clone()));
    let mut session = fake.welcome(json!({})).await;
    session.say(json!({"type": "command", "id": "c1", "name": "drive", "params": null})).await;
    log.wait("command c1 drive null", 1).await;
    handle.answer("c1", Reply::running()).unwrap();
    assert_eq!(session.heard().await[0]["status"], "running");
    handle.answer("c1", Reply::failed("no wheels")).unwrap();
    handle.answer("c1", Reply::succeeded()).unwrap();
    handle.answer("c2", Reply::succeeded()).unwrap();
    assert_eq!(session.heard().await, [json!({"type": "ack", "id": "c1", "status": "failed", "message": "no wheels"})]);
    assert!(session.is_quiet(100).await, "the first answer counts, and nobody asked for c2");
    assert_eq!(handle.answer("c1", Reply::with_result("{")), Err(NotTaken::NotJson));

    let log = Log { answer: Some(Answer::After(Duration::from_millis(50), Reply::succeeded())), ..Log::default() };
    let _handle = start(options(&fake.url()), Box::new(log));
    let mut session = fake.welcome(json!({})).await;
    session.say(json!({"type": "command", "id": "c3", "name": "drive", "params": null})).await;
    assert_eq!(session.heard().await, [json!({"type": "ack", "id": "c3", "status": "succeeded"})]);
}

#[tokio::test]
async fn told_to_go_it_opens_the_next_connection_before_it_leaves_this_one() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    let mut old = fake.welcome(json!({})).await;
    give(&handle, 1..=2);
    assert_eq!(old.updates(2).await, [1, 2]);
    old.say(json!({"type": "goaway", "reason": "restart", "retry_after_ms": 10, "deadline_ms": 4_000})).await;
    log.wait("goaway restart", 1).await;
    // The old one works until the next is there.
    old.ack(1).await;
    give(&handle, 3..=3);
    assert_eq!(old.updates(1).await, [3]);
    let mut new = fake.welcome(json!({})).await;
    assert_eq!(new.updates(2).await, [2, 3]);
    assert_eq!(old.until_close().await, Some(1000));
    new.ack(3).await;
    assert_eq!(handle.flush(PATIENCE).await, 0);
    assert_eq!(log.count("closed None by Device: it moved; replaced"), 1);
    assert_eq!((log.count("closed"), log.count("connected first=false")), (1, 1));
}

#[tokio::test]
async fn while_no_other_connection_can_be_had_it_works_on_with_the_one_it_has() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    let mut old = fake.welcome(json!({})).await;
    log.wait("connected", 1).await;
    old.say(json!({"type": "goaway", "reason": "restart", "retry_after_ms": 0, "deadline_ms": 1_000})).await;
    fake.accept().await.raw(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    assert!(log.wait("failed", 1).await.ends_with("tries again"));
    give(&handle, 1..=1);
    assert_eq!(old.updates(1).await, [1]);
    old.ack(1).await;
    log.wait("acked 1", 1).await;
    // The gateway has no more time, whether or not the next connection is being opened by now.
    old.close(1012).await;
    assert_eq!(log.wait("closed", 1).await, "closed Some(1012) by Gateway: ; comes back");
    let _new = fake.welcome(json!({})).await;
    log.wait("connected first=false", 1).await;
    assert_eq!(log.count("closed"), 1);
}

#[tokio::test]
async fn what_is_refused_is_settled_and_the_ack_goes_over_it() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    give(&handle, 1..=3);
    let mut session = fake.welcome(json!({})).await;
    session.updates(3).await;
    session.say(json!({"type": "refused", "seq": 2, "code": "malformed", "message": "no"})).await;
    log.wait("refused Some(2) malformed unsent=false", 1).await;
    drop(session);
    let mut session = fake.welcome(json!({})).await;
    assert_eq!(session.updates(2).await, [1, 3]);
    session.ack(3).await;
    assert_eq!(handle.flush(PATIENCE).await, 0);
    assert_eq!(log.count("acked 2"), 0);
}

#[tokio::test]
async fn a_full_buffer_drops_its_oldest_or_takes_no_more_as_it_was_told() {
    let fake = Fake::start().await;
    let away = Options { buffer: 3, starts_offline: true, ..options(&fake.url()) };
    let (handle, log) = device(away.clone());
    give(&handle, 1..=3);
    tokio::task::yield_now().await;
    give(&handle, 4..=5);
    log.wait("dropped", 2).await;
    handle.connect();
    assert_eq!(fake.welcome(json!({})).await.updates(3).await, [3, 4, 5]);
    assert_eq!((log.count("dropped 1 sent=false"), log.count("dropped 2 sent=false")), (1, 1));

    let (handle, log) = device(Options { on_full: OnFull::Refuse, ..away });
    give(&handle, 1..=3);
    tokio::task::yield_now().await;
    assert_eq!(handle.update(update(4)), Err(NotTaken::Full));
    assert_eq!((handle.unacked(), log.lines().len()), (3, 0));
}

#[tokio::test]
async fn what_the_gateway_would_never_take_is_not_sent() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    let mut session = fake.welcome(json!({"max_message_bytes": 200})).await;
    let large = Update { value: format!("\"{}\"", "x".repeat(200)), ..update(1) };
    handle.update(large).unwrap();
    give(&handle, 2..=2);
    assert_eq!(session.updates(1).await, [2]);
    assert_eq!(log.count("refused Some(1) too_large unsent=true"), 1);
    assert_eq!(handle.update(Update { value: "{".into(), ..update(3) }), Err(NotTaken::NotJson));
    assert_eq!(handle.update(Update { name: Some(String::new()), ..update(3) }), Err(NotTaken::Name));
}

#[tokio::test]
async fn close_codes_are_followed_by_their_advice() {
    for (code, comes_back) in [(4000, true), (1012, true), (4302, false), (1008, false)] {
        let fake = Fake::start().await;
        let (handle, log) = device(options(&fake.url()));
        fake.welcome(json!({})).await.close(code).await;
        let said = log.wait("closed", 1).await;
        assert!(said.starts_with(&format!("closed Some({code}) by Gateway")), "{said}");
        assert_eq!(said.ends_with("comes back"), comes_back, "{said}");
        if comes_back {
            fake.welcome(json!({})).await;
            log.wait("connected", 2).await;
        } else {
            assert!(fake.is_left_alone(1_200).await, "{code}");
            handle.connect();
            fake.welcome(json!({})).await;
        }
    }
}

#[tokio::test]
async fn the_hint_of_an_error_is_waited_out_though_no_close_frame_comes() {
    let fake = Fake::start().await;
    let (_handle, log) = device(Options { close_drop: true, ..options(&fake.url()) });
    let mut session = fake.welcome(json!({})).await;
    assert!(session.request.contains("&close=drop"));
    session.say(json!({"type": "error", "code": "overloaded", "message": "too much", "retry_after_ms": 1_500})).await;
    let told = Instant::now();
    drop(session);
    assert_eq!(log.wait("closed", 1).await, "closed None by Gateway: overloaded: too much; comes back");
    fake.welcome(json!({})).await;
    assert!(told.elapsed() >= Duration::from_millis(1_450), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_fresh_token_is_fetched_when_it_is_due_and_when_it_was_refused() {
    let fake = Fake::start().await;
    let token = TokenSource::Make(Arc::new(|request| Ok(format!("{}-{}", request.device_id, request.fresh))));
    let (_handle, log) = device(Options { token, ..options(&fake.url()) });
    let mut session = fake.welcome(json!({})).await;
    assert!(session.request.contains("Authorization: Bearer d1-false\r\n"));
    session.say(json!({"type": "auth_due", "token_expires_at": 1_030_000})).await;
    assert_eq!(session.heard().await, [json!({"type": "auth", "id": "auth", "token": "d1-true"})]);
    session.say(json!({"type": "ack", "id": "auth", "expires_at": 2_000_000})).await;
    session.close(4201).await;
    let session = fake.welcome(json!({})).await;
    assert!(session.request.contains("Authorization: Bearer d1-true\r\n"));
    assert_eq!(log.count("violation"), 0);
}

#[tokio::test]
async fn a_refused_handshake_is_told_and_tried_again() {
    let fake = Fake::start().await;
    let (_handle, log) = device(options(&fake.url()));
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 20\r\n\r\n{\"detail\":\"full up\"}";
    fake.accept().await.raw(answer.as_bytes()).await;
    assert_eq!(log.wait("failed", 1).await, "failed refused with 503: full up; tries again");
    let mut session = fake.accept().await;
    session.upgrade().await;
    session.close(4302).await;
    assert_eq!(log.wait("failed", 2).await, "failed closed with Some(4302) before the welcome: ; gives up");
}

#[tokio::test]
async fn without_an_ack_in_time_it_connects_again() {
    let fake = Fake::start().await;
    let (handle, log) = device(Options { ack_timeout: Duration::from_millis(200), ..options(&fake.url()) });
    give(&handle, 1..=1);
    let mut session = fake.welcome(json!({})).await;
    session.updates(1).await;
    assert_eq!(session.until_close().await, Some(1000));
    assert_eq!(fake.welcome(json!({})).await.updates(1).await, [1]);
    assert_eq!(log.count("closed None by Device: no ack came in time; comes back"), 1);
}

#[tokio::test]
async fn silence_of_the_gateway_is_noticed_by_its_heartbeat() {
    let fake = Fake::start().await;
    let (_handle, log) = device(options(&fake.url()));
    let mut session = fake.welcome(json!({"heartbeat_s": 1})).await;
    session.raw(&[0x89, 2, b'h', b'i']).await;
    assert_eq!(session.frame().await, Some((10, b"hi".to_vec())), "a ping is answered");
    log.wait("closed None by Device: nothing was heard for two heartbeats; comes back", 1).await;
    fake.welcome(json!({})).await;
}

#[tokio::test]
async fn what_a_gateway_must_not_do_ends_the_connection_with_the_right_code() {
    let nonsense: [(&[u8], u16); 4] = [
        (&[0x81, 2, b'[', b']'], 1007),
        (&[0x82, 1, 0], 1003),
        (&[0xf1, 0], 1002),
        (&[0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0], 1009),
    ];
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    for (bytes, code) in nonsense {
        let mut session = fake.welcome(json!({})).await;
        session.raw(bytes).await;
        assert_eq!(session.until_close().await, Some(code));
    }
    let mut session = fake.welcome(json!({})).await;
    give(&handle, 1..=1);
    session.updates(1).await;
    session.ack(2).await;
    assert_eq!(session.until_close().await, Some(1002), "nobody sent that");
    assert_eq!((log.count("violation"), log.count("acked")), (5, 0));
}

#[tokio::test]
async fn it_comes_and_goes_as_it_is_told() {
    let fake = Fake::start().await;
    let (handle, log) = device(options(&fake.url()));
    let mut session = fake.welcome(json!({})).await;
    log.wait("connected", 1).await;
    handle.disconnect(How::Close, Then::StayAway);
    assert_eq!(session.until_close().await, Some(1000));
    assert_eq!(log.wait("closed", 1).await, "closed None by Device: it was told to; stays away");
    give(&handle, 1..=1);
    assert!(fake.is_left_alone(1_200).await);
    handle.connect();
    let mut session = fake.welcome(json!({})).await;
    assert_eq!(session.updates(1).await, [1]);
    handle.disconnect(How::Cut, Then::ComeBack);
    assert_eq!(session.until_close().await, None, "without a word");
    let mut session = fake.welcome(json!({})).await;
    assert_eq!(session.updates(1).await, [1]);
    let stopping = tokio::spawn(handle.stop());
    assert_eq!(session.until_close().await, Some(1000));
    session.close(1000).await;
    assert_eq!(stopping.await.unwrap(), 1, "one was left");
}

#[tokio::test]
async fn a_device_that_is_not_to_come_back_does_not_and_one_without_a_handle_is_gone() {
    let fake = Fake::start().await;
    let (handle, log) = device(Options { reconnect: Reconnect::Never, ..options(&fake.url()) });
    drop(fake.welcome(json!({})).await);
    assert!(log.wait("closed", 1).await.ends_with("stays away"));
    drop(handle);
    let (handle, log) = device(options(&fake.url()));
    let mut session = fake.welcome(json!({})).await;
    log.wait("connected", 1).await;
    drop(handle);
    assert_eq!(session.until_close().await, None);
}

#[tokio::test]
async fn one_that_reads_nothing_reads_nothing_and_a_bad_one_sends_what_it_should_not() {
    let fake = Fake::start().await;
    let (handle, log) = device(Options { manners: Manners::ReadsNothing, ..options(&fake.url()) });
    give(&handle, 1..=1);
    let mut session = fake.welcome(json!({})).await;
    assert_eq!(session.updates(1).await, [1]);
    session.ack(1).await;
    assert!(session.is_quiet(100).await);
    assert_eq!(log.count("acked"), 0);

    let manners = Manners::Malformed(Malformed::UnknownType);
    let (handle, log) = device(Options { manners, ..options(&fake.url()) });
    let mut session = fake.welcome(json!({})).await;
    give(&handle, 1..=1);
    assert_eq!(session.heard().await, [json!({"type": "nonsense", "seq": 1})]);
    assert_eq!(log.wait("dropped", 1).await, "dropped 1 sent=true");
}

#[tokio::test]
async fn one_that_reads_slowly_reads_what_it_may() {
    let fake = Fake::start().await;
    let (handle, log) = device(Options { manners: Manners::ReadsSlowly { bytes_per_s: 100 }, ..options(&fake.url()) });
    give(&handle, 1..=8);
    let mut session = fake.welcome(json!({})).await;
    session.updates(8).await;
    let began = Instant::now();
    for seq in 1..=8 {
        // 25 bytes each, and two of the frame.
        session.ack(seq).await;
    }
    log.wait("acked", 8).await;
    assert!(began.elapsed() >= Duration::from_millis(1_000), "{:?}", began.elapsed());
}
