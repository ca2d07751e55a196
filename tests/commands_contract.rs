//! One suite for both keepers of commands: the memory twin, and Redis: one, a cluster of three primaries found through
//! one address, and one that forbids what is not needed. Then random histories, in which memory and Redis must give the
//! same answers to everything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]
#![allow(unreachable_pub, reason = "the parts of one test file")]
#![cfg(feature = "redis")]

#[path = "commands_contract/bench.rs"]
mod bench;
#[path = "commands_contract/delivery.rs"]
mod delivery;
#[path = "commands_contract/differential.rs"]
mod differential;
#[path = "commands_contract/due.rs"]
mod due;
#[path = "commands_contract/endings.rs"]
mod endings;
#[path = "commands_contract/intake.rs"]
mod intake;
#[path = "support/support.rs"]
mod support;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench::Bench;
use support::ports;
use support::redis::{Cluster, Redis};
use tidegate::commands::redis::RedisCommands;
use tidegate::commands::{Answered, CommandError, Commands, Due, Reason, Sending, State, Submission, shard_of};
use tidegate::protocol::message::CommandStatus;
use tidegate::store::Mode;

type Case = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Every case by its name.
macro_rules! cases {
    ($($module:ident :: $case:ident,)+) => {
        &[$((stringify!($case), (|bench| Box::pin($module::$case(bench))) as Case),)+]
    };
}

const CASES: &[(&str, Case)] = cases![
    intake::a_command_is_kept_as_it_was_asked_for,
    intake::a_thousand_posts_of_one_key_make_one_command,
    intake::another_body_under_the_same_key_is_a_conflict,
    intake::what_breaks_a_bound_is_refused,
    intake::the_hundred_and_first_finds_the_queue_full,
    intake::a_replacement_cancels_what_is_queued_under_its_name_and_no_more,
    intake::now_or_never_needs_the_connection_it_was_thought_for,
    intake::a_backlog_opens_no_stale_doors,
    intake::two_tenants_with_the_same_ids_see_nothing_of_each_other,
    delivery::commands_go_out_in_the_order_in_which_they_came,
    delivery::what_is_taken_is_what_waits_and_its_first_may_be_written,
    delivery::what_has_no_attempt_left_is_not_taken_a_second_time,
    delivery::eight_are_unheard_of_at_most_and_each_word_lets_the_next_go,
    delivery::nothing_is_written_but_by_the_connection_whose_row_it_is,
    delivery::a_claim_sends_everything_again_that_has_not_ended,
    delivery::an_attempt_counts_once_for_each_connection,
    delivery::a_command_for_one_attempt_is_never_written_twice,
    delivery::a_silent_device_hears_it_again_and_then_a_ping,
    endings::an_answer_ends_a_command_once,
    endings::of_many_answers_at_once_one_ends_it,
    endings::a_late_result_is_recorded_and_changes_nothing,
    endings::states_never_go_back,
    endings::who_guesses_an_id_changes_nothing,
    endings::only_what_was_never_sent_can_be_canceled,
    endings::of_a_cancel_and_a_send_at_once_one_wins,
    due::what_nobody_fetched_expires_unsent,
    due::what_was_sent_expires_with_its_outcome_unknown,
    due::an_ended_command_is_published_until_that_is_settled,
    due::an_end_out_of_nowhere_is_published_soon,
    due::a_repeat_puts_no_deadline_off,
    due::what_expired_leaves_its_place_in_the_queue,
    due::a_waiting_command_rings_every_half_minute_while_its_device_is_held,
    due::a_command_for_an_absent_device_waits_for_its_deadline,
    due::an_entry_without_a_command_goes_after_ten_minutes,
    due::refusals_leave_nothing_behind,
    due::every_shard_is_swept_by_itself,
    due::a_shard_is_ripe_from_when_something_is_due_and_quiet_before,
    due::two_sweepers_of_one_shard_do_no_harm,
];

/// Runs every case on a bench that is empty before each.
async fn run_all(bench: &Bench) {
    for (name, case) in CASES {
        bench.empty().await;
        eprintln!("{}: {name}", bench.name);
        case(bench).await;
    }
}

#[tokio::test]
async fn the_memory_twin_keeps_the_contract() {
    run_all(&bench::memory()).await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let redis = Redis::start();
    run_all(&bench::redis("redis", &redis.url()).await).await;
}

#[tokio::test]
async fn a_cluster_of_three_primaries_keeps_the_contract() {
    let cluster = Cluster::start();
    run_all(&bench::redis("cluster", &cluster.nodes[1].url()).await).await;
}

/// One address that says nothing of a cluster and has one behind it, as proxies do: steps that could be one are two.
#[tokio::test]
async fn a_single_redis_that_refuses_keys_of_several_slots_keeps_the_contract() {
    let redis = Redis::with(&["cluster-enabled yes", &format!("cluster-port {}", ports::free())]);
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    while !redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let bench = bench::redis_as("split", &redis.url(), Mode::Single).await;
    run_all(&bench).await;
}

/// Only these commands, and none of `CONFIG`, `CLUSTER` and `KEYS`: what managed services leave over.
#[tokio::test]
async fn a_redis_that_forbids_all_that_is_not_needed_keeps_the_contract() {
    let user = "user tide on >secret ~tg:* ~{tg}:* ~{tg:due:*} +@read +@write +@scripting +@connection +info +time +flushall -keys";
    let redis = Redis::with(&["user default off", user]);
    let url = format!("redis://tide:secret@127.0.0.1:{}", redis.port);
    run_all(&bench::redis("acl", &url).await).await;
}

/// Without a test's clock: the server's own is used throughout.
#[tokio::test]
async fn on_the_servers_own_time_a_command_lives_and_expires() {
    let server = Redis::start();
    let (commands, lamp) = (RedisCommands::new(bench::store(&server.url()).await), bench::device("lamp"));
    let asked = Submission { ttl_ms: 1_000, ..bench::order(&lamp, "k") };
    let command = commands.submit(&asked).await.unwrap().command;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let now_ms = i64::try_from(now_ms).unwrap();
    assert!((command.created_ms - now_ms).abs() < 60_000, "{} at {now_ms}", command.created_ms);
    assert_eq!(command.life.deadline_ms, command.created_ms + 1_000);
    let shard = shard_of(command.id);
    let end = Instant::now() + Duration::from_secs(60);
    let expired = loop {
        assert!(Instant::now() < end, "it never expired");
        let swept = commands.sweep(shard, 10, &|_| true).await.unwrap();
        if let Some(Due::Publish(command)) = swept.work.into_iter().next() {
            break command;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((expired.life.state, expired.life.reason), (State::Expired, Some(Reason::Unsent)));
    // Nothing comes due before whoever submits it must have given up.
    assert!(expired.history[1].at_ms >= command.created_ms + 4_000, "{:?}", expired.history);
    // Forgotten a day after its end is published, and neither key nor entry is left before.
    commands.settle_published(&lamp, command.id, 2).await.unwrap();
    let key = tidegate::store::keys::device(&lamp, &format!("c:{}", command.id));
    let left: i64 = server.cli(&["PTTL", &key]).parse().unwrap();
    assert!((86_000_000..=86_400_000).contains(&left), "{left}");
    assert_eq!(server.cli(&["DBSIZE"]), "1");
}

/// O10, F12: what Redis lost is not there, and the same key is the same command again.
#[tokio::test]
async fn what_redis_lost_is_not_found_and_the_key_makes_the_same_id() {
    let mut server = Redis::start();
    let (bench, lamp) = (bench::redis("redis", &server.url()).await, bench::device("lamp"));
    bench.empty().await;
    let id = bench.accept(&bench::order(&lamp, "k")).await;
    server.restart();
    let repeated = loop {
        match bench.submit(&bench::order(&lamp, "k")).await {
            Err(CommandError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(repeated.command.id, id);
    server.cli(&["FLUSHALL"]);
    assert_eq!(bench.commands().get(&lamp, id).await, Err(CommandError::NotFound));
    assert_eq!(bench.mark(&lamp, id, 1).await, Sending::Gone);
}

/// F17: what is new finds no room, what there is goes on to its end and gives the room back.
#[tokio::test]
async fn a_full_redis_takes_no_command_and_ends_those_it_has() {
    let server = Redis::start();
    let (bench, lamp) = (bench::redis("redis", &server.url()).await, bench::device("lamp"));
    bench.empty().await;
    bench.hold(&lamp, "n1", 1).await;
    let mut ids = Vec::new();
    for key in ["answered", "canceled", "expired"] {
        ids.push(bench.accept(&Submission { ttl_ms: 20_000, ..bench::order(&lamp, key) }).await);
    }
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = bench.submit(&bench::order(&lamp, "new")).await;
    assert!(matches!(refused, Err(CommandError::Unavailable(_))), "{refused:?}");
    bench.write(&lamp, ids[0], 1).await;
    let answered = bench.answer(&lamp, ids[0], CommandStatus::Succeeded).await;
    assert!(matches!(answered, Answered::Changed(_)), "{answered:?}");
    bench.commands().cancel(&lamp, ids[1]).await.unwrap();
    bench.pass(20_000);
    assert_eq!(bench.sweep().await.len(), 3);
    for id in ids {
        let version = bench.get(&lamp, id).await.life.version;
        bench.commands().settle_published(&lamp, id, version).await.unwrap();
    }
    assert_eq!(bench.due_entries().await, 0);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    bench.accept(&bench::order(&lamp, "new")).await;
}

/// F13: a directory that hangs costs nobody more than 600 ms and a little.
#[tokio::test]
async fn a_redis_that_hangs_is_unavailable_in_time() {
    let server = Redis::start();
    let (bench, lamp) = (bench::redis("redis", &server.url()).await, bench::device("lamp"));
    bench.accept(&bench::order(&lamp, "k")).await;
    server.signal("STOP");
    let asked = Instant::now();
    let refused = bench.submit(&bench::order(&lamp, "other")).await;
    let took = asked.elapsed();
    server.signal("CONT");
    assert!(matches!(refused, Err(CommandError::Unavailable(_))), "{refused:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
