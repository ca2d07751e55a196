//! How commands come in.

use futures_util::future::join_all;
use tidegate::commands::{Canceled, CommandError, Life, MAX_QUEUED, Reason, State, Submission, Turn};
use tidegate::id::{CommandId, DeviceKey, Epoch};
use tidegate::protocol::message::CommandStatus;

use super::bench::{Bench, LIFE, START, device, order};

pub async fn a_command_is_kept_as_it_was_asked_for(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 7).await;
    let asked = Submission { origin: Some("n2 00aa"), params: b"[1, \"\xc3\xa4\x22\"]", ..order(&lamp, "k1") };
    let submitted = bench.submit(&asked).await.unwrap();
    let row = submitted.row.clone().unwrap();
    assert_eq!((row.node.as_str(), row.incarnation.to_string().as_str(), row.epoch), ("n1", LIFE, Epoch(7)));
    assert!(submitted.new && submitted.replaced.is_empty());
    let command = bench.get(&lamp, CommandId::of(&lamp, "console", "k1")).await;
    assert_eq!(command, submitted.command);
    assert_eq!(command.life, Life::accepted(3, START + 3_600_000));
    assert_eq!((command.name.as_str(), &*command.params), ("blink", asked.params));
    assert_eq!((command.requested_by.as_str(), command.key.as_str()), ("console", "k1"));
    assert_eq!((command.origin.as_deref(), command.created_ms), (Some("n2 00aa"), START));
    let first = Turn { version: 1, state: State::Queued, at_ms: START, attempts: 0, epoch: None, reason: None };
    assert_eq!(command.history, [first]);
    assert_eq!((command.result, command.message, command.late, command.published), (None, None, None, false));
}

/// C8.
pub async fn a_thousand_posts_of_one_key_make_one_command(bench: &Bench) {
    let lamp = device("lamp");
    let asked = order(&lamp, "same");
    let commands = bench.commands();
    // Whoever gets no answer in time repeats, as the error says; that one may have been the first.
    let post = async || {
        let mut lost = false;
        loop {
            match commands.submit(&asked).await {
                Err(CommandError::Unavailable(_)) => lost = true,
                other => return (other.unwrap(), lost),
            }
        }
    };
    let (answers, lost): (Vec<_>, Vec<_>) = join_all((0..1_000).map(|_| post())).await.into_iter().unzip();
    let new = answers.iter().filter(|answer| answer.new).count();
    assert!(new == 1 || (new == 0 && lost.contains(&true)), "{new} were new");
    assert!(answers.iter().all(|answer| answer.command.id == asked.id()));
    assert_eq!(commands.list(&lamp, 10).await.unwrap().len(), 1);
    assert_eq!(bench.due_entries().await, 1);
    // A repeat tells how far it is, also when it has ended.
    bench.hold(&lamp, "n1", 1).await;
    bench.write(&lamp, asked.id(), 1).await;
    bench.answer(&lamp, asked.id(), CommandStatus::Failed).await;
    let again = bench.submit(&asked).await.unwrap();
    assert_eq!((again.new, again.command.life.state), (false, State::Failed));
}

pub async fn another_body_under_the_same_key_is_a_conflict(bench: &Bench) {
    let lamp = device("lamp");
    let asked = order(&lamp, "k");
    let id = bench.accept(&asked).await;
    let others = [
        Submission { params: b"{\"times\":3}", ..asked.clone() },
        Submission { name: "blin", ..asked.clone() },
        Submission { ttl_ms: 1, ..asked.clone() },
        Submission { max_attempts: 1, ..asked.clone() },
        Submission { replace: true, ..asked.clone() },
    ];
    for other in &others {
        assert_eq!(bench.submit(other).await, Err(CommandError::Conflict), "{other:?}");
    }
    assert_eq!(bench.get(&lamp, id).await.life.version, 1);
    // Another application's key is its own.
    let theirs = Submission { application: "other", params: b"1", ..asked };
    assert_ne!(bench.accept(&theirs).await, id);
}

pub async fn what_breaks_a_bound_is_refused(bench: &Bench) {
    let lamp = device("lamp");
    let asked = order(&lamp, "k");
    let (long_key, long_name, long_origin) = ("k".repeat(257), "n".repeat(129), "o".repeat(513));
    let broken = [
        Submission { key: "", ..asked.clone() },
        Submission { key: &long_key, ..asked.clone() },
        Submission { key: "a\nb", ..asked.clone() },
        Submission { name: "", ..asked.clone() },
        Submission { name: &long_name, ..asked.clone() },
        Submission { application: "a/b", ..asked.clone() },
        Submission { ttl_ms: 0, ..asked.clone() },
        Submission { ttl_ms: 8 * 86_400_000, ..asked.clone() },
        Submission { max_attempts: 0, ..asked.clone() },
        Submission { max_attempts: 21, ..asked.clone() },
        Submission { origin: Some(&long_origin), ..asked.clone() },
    ];
    for submission in &broken {
        let refused = bench.submit(submission).await;
        assert!(matches!(refused, Err(CommandError::Invalid(_))), "{submission:?}: {refused:?}");
    }
    assert_eq!(bench.due_entries().await, 0);
}

pub async fn the_hundred_and_first_finds_the_queue_full(bench: &Bench) {
    let lamp = device("lamp");
    for n in 0..MAX_QUEUED {
        bench.accept(&order(&lamp, &n.to_string())).await;
    }
    assert_eq!(bench.submit(&order(&lamp, "more")).await, Err(CommandError::QueueFull));
    // One that is known needs no place; another device has its own; one that replaces takes the places it frees.
    assert!(!bench.submit(&order(&lamp, "7")).await.unwrap().new);
    bench.accept(&order(&device("other"), "more")).await;
    bench.commands().cancel(&lamp, order(&lamp, "50").id()).await.unwrap();
    bench.accept(&order(&lamp, "more")).await;
    assert_eq!(bench.submit(&order(&lamp, "yet more")).await, Err(CommandError::QueueFull));
    let instead = bench.submit(&Submission { replace: true, ..order(&lamp, "instead") }).await.unwrap();
    assert_eq!(instead.replaced.len(), MAX_QUEUED);
}

pub async fn a_replacement_cancels_what_is_queued_under_its_name_and_no_more(bench: &Bench) {
    let lamp = device("lamp");
    bench.hold(&lamp, "n1", 1).await;
    let sent = bench.accept(&order(&lamp, "sent")).await;
    bench.write(&lamp, sent, 1).await;
    let old = bench.accept(&order(&lamp, "old")).await;
    let other = bench.accept(&Submission { name: "dim", ..order(&lamp, "other") }).await;
    let new = Submission { replace: true, ..order(&lamp, "new") };
    let submitted = bench.submit(&new).await.unwrap();
    let [replaced] = &*submitted.replaced else { panic!("{:?}", submitted.replaced) };
    assert_eq!((replaced.id, replaced.life.state, replaced.life.version), (old, State::Canceled, 2));
    assert_eq!(replaced.life.reason, Some(Reason::Replaced));
    assert_eq!(bench.get(&lamp, old).await, *replaced);
    assert_eq!(bench.pending(&lamp, 1).await, [other, new.id()]);
    assert_eq!(bench.state(&lamp, sent).await, State::Sent);
    // A repeat replaces nothing.
    bench.accept(&order(&lamp, "later")).await;
    let repeated = bench.submit(&new).await.unwrap();
    assert!(!repeated.new && repeated.replaced.is_empty());
}

pub async fn now_or_never_needs_the_connection_it_was_thought_for(bench: &Bench) {
    let lamp = device("lamp");
    let asked = Submission { ttl_ms: 5_000, only_epoch: Some(Epoch(3)), ..order(&lamp, "k") };
    assert_eq!(bench.submit(&asked).await, Err(CommandError::NotConnected));
    bench.hold(&lamp, "n1", 4).await;
    assert_eq!(bench.submit(&asked).await, Err(CommandError::NotConnected));
    bench.hold(&lamp, "n1", 3).await;
    bench.accept(&asked).await;
}

/// From Kafka: the time to live begins with the record.
pub async fn a_backlog_opens_no_stale_doors(bench: &Bench) {
    let door = device("door");
    let open = |key, age_ms| Submission { ttl_ms: 10_000, since_ms: Some(START - age_ms), ..order(&door, key) };
    assert_eq!(bench.submit(&open("stale", 10_000)).await, Err(CommandError::Expired));
    let submitted = bench.submit(&open("fresh", 9_000)).await.unwrap();
    assert_eq!(submitted.command.life.deadline_ms, START + 1_000);
    bench.pass(1_000);
    bench.hold(&door, "n1", 1).await;
    assert!(bench.pending(&door, 1).await.is_empty());
}

/// C10.
pub async fn two_tenants_with_the_same_ids_see_nothing_of_each_other(bench: &Bench) {
    let (ours, theirs) = (device("lamp"), DeviceKey::new("other", "lamp").unwrap());
    let id = bench.accept(&order(&ours, "k")).await;
    let commands = bench.commands();
    assert_ne!(order(&theirs, "k").id(), id);
    assert_eq!(commands.get(&theirs, id).await, Err(CommandError::NotFound));
    assert_eq!(commands.cancel(&theirs, id).await, Err(CommandError::NotFound));
    assert!(commands.list(&theirs, 10).await.unwrap().is_empty());
    bench.hold(&theirs, "n1", 1).await;
    assert!(bench.pending(&theirs, 1).await.is_empty());
    assert_eq!(bench.mark(&theirs, id, 1).await, tidegate::commands::Sending::Gone);
    assert_eq!(bench.answer(&theirs, id, CommandStatus::Succeeded).await, tidegate::commands::Answered::Gone);
    let Canceled { command, changed } = commands.cancel(&ours, id).await.unwrap();
    assert!(changed && command.id == id);
}
