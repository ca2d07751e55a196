//! One suite for both keepers of commands: the memory twin, and Redis as `redis-server` runs it (a private one that each
//! test starts and empties). Then random histories, in which the two must give the same answers to everything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]
#![allow(unreachable_pub, reason = "the parts of one test file")]

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

use bench::Bench;

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
    due::a_waiting_command_rings_every_half_minute_while_its_device_is_held,
    due::a_command_for_an_absent_device_waits_for_its_deadline,
    due::an_entry_without_a_command_goes_after_ten_minutes,
    due::refusals_leave_nothing_behind,
    due::every_shard_is_swept_by_itself,
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
    let server = bench::Server::start();
    run_all(&bench::redis(&server).await).await;
}
