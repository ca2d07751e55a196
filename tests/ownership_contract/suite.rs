//! What every directory promises.

use tidegate::id::{Epoch, NodeName};
use tidegate::ownership::{
    Directory, Fence, LEASE_MS, Last, Lease, Listed, NodeLife, NodeState, OwnershipError, Reasserted, SETTLE_AFTER_MS,
    Stretch, TAKEOVER_WINDOW_MS, TAKEOVERS, TAKEOVERS_WITHOUT_BOOT, Whereabouts,
};

use super::twins::{Device, Twin, held, profile};

/// Everything, each part on an empty directory.
pub(crate) async fn run(twin: &impl Twin) {
    twin.flush().await;
    newest_wins(twin).await;
    twin.flush().await;
    a_release_removes_only_what_is_its(twin).await;
    twin.flush().await;
    a_release_by_connection(twin).await;
    twin.flush().await;
    what_is_left_behind_can_be_read(twin).await;
    twin.flush().await;
    a_nodes_devices_are_listed_by_name(twin).await;
    twin.flush().await;
    membership(twin).await;
    twin.flush().await;
    a_dead_node_is_settled(twin).await;
    twin.flush().await;
    a_node_that_says_it_is_dead_is_settled_at_once(twin).await;
    twin.flush().await;
    the_same_life_twice_keeps_its_entry(twin).await;
    twin.flush().await;
    what_was_lost_is_written_again(twin).await;
    twin.flush().await;
    a_row_says_what_its_connection_can_take(twin).await;
    twin.flush().await;
    takeovers_are_limited(twin).await;
    twin.flush().await;
    epochs_grow_past_a_flush(twin).await;
    twin.flush().await;
    losses_are_seen(twin).await;
    twin.flush().await;
    rows_are_judged_by_who_lives(twin).await;
    twin.flush().await;
    a_crowd_leaves_one_owner(twin).await;
}

async fn newest_wins(twin: &impl Twin) {
    let (a, b) = (twin.life("gw-a"), twin.life("gw-b"));
    let device = Device::new("d");
    let first = device.claim(twin, &a).await.unwrap();
    assert_eq!((&first.previous, &first.last, first.commands_wait), (&None, &None, false));
    let again = device.again(None);
    twin.queue(&device.key).await;
    let second = again.claim(twin, &b).await.unwrap();
    assert!(second.epoch > first.epoch && second.commands_wait);
    let previous = second.previous.unwrap();
    assert_eq!((previous.owner, previous.epoch, previous.connection), (a, first.epoch, device.connection));
    assert_eq!((&previous.boot, previous.settled), (&device.boot, false));
    let row = twin.ownership().row(&device.key).await.unwrap().unwrap();
    assert_eq!((row.owner, row.epoch, row.connection), (b, second.epoch, again.connection));
    assert_eq!(twin.ownership().row(&Device::new("other").key).await.unwrap(), None);
}

async fn a_release_removes_only_what_is_its(twin: &impl Twin) {
    let (a, device) = (twin.life("gw-a"), Device::new("d"));
    let restarted = NodeLife::begin(NodeName::new("gw-a").unwrap());
    let old = device.claim(twin, &a).await.unwrap();
    let new = device.again(None).claim(twin, &a).await.unwrap();
    let directory = twin.ownership();
    let last = Last { boot: device.boot.clone(), acked: Some(41), at_ms: 0, end: Some((4001, "gateway".into())) };
    for (life, epoch) in [(&a, old.epoch), (&restarted, new.epoch), (&a, Epoch(new.epoch.0 + 1))] {
        assert!(!directory.release(life, &device.key, Fence::Epoch(epoch), Some(&last)).await.unwrap());
        assert_eq!(directory.row(&device.key).await.unwrap().unwrap().epoch, new.epoch);
    }
    assert!(directory.release(&a, &device.key, Fence::Epoch(new.epoch), Some(&last)).await.unwrap());
    assert_eq!(directory.row(&device.key).await.unwrap(), None);
    assert!(!directory.release(&a, &device.key, Fence::Epoch(new.epoch), None).await.unwrap(), "twice");
    let back = device.claim(twin, &restarted).await.unwrap();
    assert!(back.epoch > new.epoch);
    let hints = back.last.unwrap();
    assert_eq!((hints.boot, hints.acked), (device.boot.clone(), Some(41)));
    assert!(hints.at_ms.abs_diff(back.epoch.0 / 1_000) < 600_000, "{} is no time of now", hints.at_ms);
    // Nothing was ever acked: said so, and not with what went before.
    let none = Last { acked: None, ..last };
    assert!(directory.release(&restarted, &device.key, Fence::Epoch(back.epoch), Some(&none)).await.unwrap());
    assert_eq!(device.claim(twin, &a).await.unwrap().last.unwrap().acked, None);
}

async fn a_release_by_connection(twin: &impl Twin) {
    let (a, device) = (twin.life("gw-a"), Device::new("d"));
    device.claim(twin, &a).await.unwrap();
    let fence = |device: &Device| Fence::Connection(device.connection);
    let directory = twin.ownership();
    assert!(!directory.release(&a, &device.key, fence(&device.again(None)), None).await.unwrap());
    assert!(!directory.release(&twin.life("gw-b"), &device.key, fence(&device), None).await.unwrap());
    assert!(directory.release(&a, &device.key, fence(&device), None).await.unwrap());
    assert_eq!(directory.row(&device.key).await.unwrap(), None);
}

async fn what_is_left_behind_can_be_read(twin: &impl Twin) {
    let (a, device) = (twin.life("gw-a"), Device::new("d"));
    let directory = twin.ownership();
    assert_eq!(directory.past(&device.key).await.unwrap(), None);
    let first = device.claim(twin, &a).await.unwrap();
    assert_eq!(directory.past(&device.key).await.unwrap(), None, "it is still here");
    directory.release(&a, &device.key, Fence::Epoch(first.epoch), None).await.unwrap();
    let past = directory.past(&device.key).await.unwrap().unwrap();
    assert_eq!((past.epoch, past.last), (first.epoch, None));
    let second = device.claim(twin, &a).await.unwrap();
    let end = Some((4000, "gateway".into()));
    let last = Last { boot: device.boot.clone(), acked: None, at_ms: 0, end: end.clone() };
    directory.release(&a, &device.key, Fence::Epoch(second.epoch), Some(&last)).await.unwrap();
    let past = directory.past(&device.key).await.unwrap().unwrap();
    let left = past.last.unwrap();
    assert_eq!((past.epoch, left.boot, left.acked, left.end), (second.epoch, device.boot.clone(), None, end.clone()));
    assert!(left.at_ms.abs_diff(second.epoch.0 / 1_000) < 600_000, "{}", left.at_ms);
    let ended = past.ended.unwrap();
    assert_eq!((ended.node.as_str(), ended.epoch, ended.at_ms), ("gw-a", second.epoch, left.at_ms));
    assert_eq!(ended.end, end);
    // A claim of which nothing came says nothing of how the device was lost.
    let third = device.claim(twin, &a).await.unwrap();
    directory.release(&a, &device.key, Fence::Epoch(third.epoch), None).await.unwrap();
    let past = directory.past(&device.key).await.unwrap().unwrap();
    assert_eq!((past.epoch, past.ended.map(|ended| ended.epoch)), (third.epoch, Some(second.epoch)));
}

async fn a_nodes_devices_are_listed_by_name(twin: &impl Twin) {
    let (a, b) = (twin.life("gw-a"), twin.life("gw-b"));
    let directory = twin.ownership();
    for name in ["d-3", "d-1", "d-2"] {
        Device::new(name).claim(twin, &a).await.unwrap();
    }
    Device::new("e").claim(twin, &b).await.unwrap();
    let tenant = Device::new("d").key.tenant().to_owned();
    let (first, end) = (format!("{tenant}/"), format!("{tenant}0"));
    let names = |listed: Listed| listed.devices.iter().map(|key| key.device().to_owned()).collect::<Vec<_>>();
    let some =
        async |above: &str, below: &str, limit| directory.list(&a, Stretch { above, below, limit }).await.unwrap();
    let page = some(&first, &end, 2).await;
    assert_eq!((page.all, names(page)), (3, vec!["d-1".to_owned(), "d-2".to_owned()]));
    assert_eq!(names(some(&format!("{tenant}/d-2"), &end, 10).await), ["d-3"]);
    assert_eq!(names(some(&first, &format!("{tenant}/d-3"), 10).await), ["d-1", "d-2"]);
    let count = some(&first, &end, 0).await;
    assert_eq!((count.all, count.devices.len()), (3, 0));
    assert_eq!(some("zz/", "zz0", 10).await.devices, []);
    let nobody = twin.life("gw-c");
    assert_eq!(directory.list(&nobody, Stretch { above: "", below: "~", limit: 9 }).await.unwrap(), Listed::default());
}

async fn membership(twin: &impl Twin) {
    let (a, b) = (twin.life("gw-a"), twin.life("gw-b"));
    let directory = twin.ownership();
    let first = directory.renew(&profile(&a, NodeState::Starting), Epoch(7)).await.unwrap();
    assert_eq!((first.lease, first.view.highest, first.view.live.len()), (Lease::Absent, 7, 1));
    directory.renew(&profile(&b, NodeState::Ready), Epoch(3)).await.unwrap();
    let second = directory.renew(&profile(&a, NodeState::Ready), Epoch(5)).await.unwrap();
    assert_eq!((second.lease, second.view.highest), (Lease::Held, 7));
    let profiles: Vec<_> = second.view.live.iter().map(|member| member.profile.clone()).collect();
    assert_eq!(profiles, [profile(&a, NodeState::Ready), profile(&b, NodeState::Ready)], "one entry a node");
    assert_eq!(second.view.live[0].expires_ms, second.view.now_us / 1_000 + LEASE_MS);

    twin.age(LEASE_MS - 5_000).await;
    directory.renew(&profile(&a, NodeState::Ready), Epoch(0)).await.unwrap();
    twin.age(5_000).await;
    let view = directory.view().await.unwrap();
    assert!(view.member(&a).is_some() && view.member(&b).is_none() && view.dead.is_empty());
    assert!(!directory.bury(&b, false).await.unwrap(), "dead for too short");
    // A pause that was longer than the lease, and not so long that anything was settled.
    let late = directory.renew(&profile(&b, NodeState::Ready), Epoch(0)).await.unwrap();
    assert!(matches!(late.lease, Lease::Lapsed(ms) if ms < LEASE_MS), "{:?}", late.lease);
}

async fn a_dead_node_is_settled(twin: &impl Twin) {
    let (dead, a) = (twin.life("gw-dead"), twin.life("gw-a"));
    let directory = twin.ownership();
    directory.renew(&profile(&dead, NodeState::Ready), Epoch(0)).await.unwrap();
    let devices: Vec<_> = (0..25).map(|at| Device::new(&format!("d-{at:02}"))).collect();
    let mut epochs = Vec::new();
    for device in &devices {
        epochs.push(device.claim(twin, &dead).await.unwrap().epoch);
    }
    // These moved before anybody knew that their node is dead.
    let moved = [3, 17];
    for at in moved {
        devices[at].again(None).claim(twin, &a).await.unwrap();
    }
    twin.age(LEASE_MS + SETTLE_AFTER_MS + 1).await;
    directory.renew(&profile(&a, NodeState::Ready), Epoch(0)).await.unwrap();
    let view = directory.view().await.unwrap();
    assert_eq!(view.dead.iter().map(|member| &member.profile.life).collect::<Vec<_>>(), [&dead]);
    assert!(!directory.bury(&a, false).await.unwrap(), "it lives");
    assert!(directory.bury(&dead, false).await.unwrap());
    assert_eq!(directory.renew(&profile(&dead, NodeState::Ready), Epoch(0)).await, Err(OwnershipError::Buried));

    let (mut after, mut settled) = (None, Vec::new());
    loop {
        let page = directory.settle(&dead, after.as_ref(), 10).await.unwrap();
        assert!(page.settled.len() <= 10);
        settled.extend(page.settled);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).filter(|at| !moved.contains(at)).collect();
    let names: Vec<_> = settled.iter().map(|held| held.device.clone()).collect();
    assert_eq!(names, expected.iter().map(|at| devices[*at].key.clone()).collect::<Vec<_>>());
    for (held, at) in settled.iter().zip(&expected) {
        assert_eq!((held.epoch, held.connection, &held.boot), {
            (epochs[*at], devices[*at].connection, &devices[*at].boot)
        });
        assert!(directory.row(&held.device).await.unwrap().unwrap().settled);
    }
    // One connects while its `offline` is on its way: the row is the connection's, and stays so.
    let back = devices[0].again(None).claim(twin, &a).await.unwrap();
    assert!(back.previous.unwrap().settled);
    for held in &settled {
        let removed = directory.release(&dead, &held.device, Fence::Epoch(held.epoch), None).await.unwrap();
        assert_eq!(removed, held.device != devices[0].key);
    }
    let past = directory.past(&devices[1].key).await.unwrap().unwrap();
    let ended = past.ended.unwrap();
    assert_eq!((ended.node, ended.epoch, ended.end), (dead.node.clone(), epochs[1], None), "its node died");
    assert_eq!((past.epoch, past.last), (epochs[1], None));
    let row = directory.row(&devices[0].key).await.unwrap().unwrap();
    assert_eq!((row.owner, row.epoch, row.settled), (a.clone(), back.epoch, false));
    let none = directory.settle(&dead, None, 10).await.unwrap();
    assert_eq!((none.settled.len(), none.next), (0, None), "entries stayed behind");
    assert!(directory.bury(&dead, true).await.unwrap());
    assert!(directory.view().await.unwrap().dead.is_empty());
    assert_eq!(directory.renew(&profile(&dead, NodeState::Ready), Epoch(0)).await, Err(OwnershipError::Buried));
}

async fn a_node_that_says_it_is_dead_is_settled_at_once(twin: &impl Twin) {
    let (leaver, device) = (twin.life("gw-a"), Device::new("d"));
    let directory = twin.ownership();
    directory.renew(&profile(&leaver, NodeState::Draining), Epoch(0)).await.unwrap();
    let left_behind = device.claim(twin, &leaver).await.unwrap();
    let last = directory.renew(&profile(&leaver, NodeState::Dead), Epoch(0)).await.unwrap();
    assert_eq!((last.lease, last.view.member(&leaver)), (Lease::Held, None));
    let view = directory.view().await.unwrap();
    assert_eq!(view.dead.iter().map(|member| &member.profile.life).collect::<Vec<_>>(), [&leaver]);
    assert_eq!(directory.renew(&profile(&leaver, NodeState::Draining), Epoch(0)).await, Err(OwnershipError::Buried));
    assert!(directory.bury(&leaver, false).await.unwrap());
    let page = directory.settle(&leaver, None, 10).await.unwrap();
    assert_eq!(page.settled.iter().map(|held| held.epoch).collect::<Vec<_>>(), [left_behind.epoch]);
    assert!(directory.bury(&leaver, true).await.unwrap());
    assert!(directory.view().await.unwrap().dead.is_empty());
}

async fn the_same_life_twice_keeps_its_entry(twin: &impl Twin) {
    let (a, device) = (twin.life("gw-a"), Device::new("d"));
    let directory = twin.ownership();
    directory.renew(&profile(&a, NodeState::Ready), Epoch(0)).await.unwrap();
    let old = device.claim(twin, &a).await.unwrap();
    let new = device.again(None).claim(twin, &a).await.unwrap();
    assert!(!directory.release(&a, &device.key, Fence::Epoch(old.epoch), None).await.unwrap());
    twin.age(LEASE_MS + SETTLE_AFTER_MS + 1).await;
    assert!(directory.bury(&a, false).await.unwrap());
    let page = directory.settle(&a, None, 10).await.unwrap();
    assert_eq!(page.settled.iter().map(|held| held.epoch).collect::<Vec<_>>(), [new.epoch]);
}

async fn what_was_lost_is_written_again(twin: &impl Twin) {
    let (a, b, device) = (twin.life("gw-a"), twin.life("gw-b"), Device::new("d"));
    let directory = twin.ownership();
    directory.renew(&profile(&a, NodeState::Ready), Epoch(0)).await.unwrap();
    let mine = held(&device, &device.claim(twin, &a).await.unwrap());
    assert_eq!(directory.reassert(&a, &mine).await.unwrap(), Reasserted::Kept);
    twin.flush().await;
    assert_eq!(directory.reassert(&a, &mine).await.unwrap(), Reasserted::Written { commands_wait: false });
    assert_eq!(directory.row(&device.key).await.unwrap().unwrap().connection, device.connection);
    twin.flush().await;
    twin.queue(&device.key).await;
    assert_eq!(directory.reassert(&a, &mine).await.unwrap(), Reasserted::Written { commands_wait: true });

    // An older row, as a failover that lost the tail brings back.
    twin.save().await;
    let moved = device.again(None);
    let newer = held(&moved, &moved.claim(twin, &b).await.unwrap());
    twin.go_back().await;
    assert!(matches!(directory.reassert(&b, &newer).await.unwrap(), Reasserted::Written { .. }));
    let Reasserted::Newer(row) = directory.reassert(&a, &mine).await.unwrap() else { panic!("the older one won") };
    assert_eq!((row.owner, row.epoch), (b.clone(), newer.epoch));
    // Of one epoch there is one owner, even where two were given the same.
    let twin_of_it = tidegate::ownership::Held { epoch: newer.epoch, ..mine.clone() };
    assert!(matches!(directory.reassert(&a, &twin_of_it).await.unwrap(), Reasserted::Newer(_)));

    // Its list was written again too, and a settled row is not simply taken back.
    directory.renew(&profile(&b, NodeState::Ready), Epoch(0)).await.unwrap();
    twin.age(LEASE_MS + SETTLE_AFTER_MS + 1).await;
    assert!(directory.bury(&b, false).await.unwrap());
    assert_eq!(directory.settle(&b, None, 10).await.unwrap().settled, std::slice::from_ref(&newer));
    assert_eq!(directory.reassert(&b, &newer).await.unwrap(), Reasserted::Settled);
    // Nor is one that was said to be offline, though nothing stands there any more.
    assert!(directory.release(&b, &device.key, Fence::Epoch(newer.epoch), None).await.unwrap());
    for ended in [&newer, &mine] {
        assert_eq!(directory.reassert(&b, ended).await.unwrap(), Reasserted::Settled);
        assert_eq!(directory.row(&device.key).await.unwrap(), None);
    }
    assert!(device.claim(twin, &b).await.unwrap().epoch > newer.epoch);
}

async fn a_row_says_what_its_connection_can_take(twin: &impl Twin) {
    let (a, device) = (twin.life("gw-a"), Device::new("d"));
    let directory = twin.ownership();
    let of_row = async || directory.row(&device.key).await.unwrap().unwrap().max_bytes;
    let small = held(&device, &device.claim(twin, &a).await.unwrap());
    assert_eq!((small.max_bytes, of_row().await), (Some(600), Some(600)));
    let any = tidegate::ownership::Claim { max_bytes: None, ..device.asks(&a) };
    let claimed = directory.claim(&any).await.unwrap();
    assert_eq!((claimed.previous.unwrap().max_bytes, of_row().await), (Some(600), None));
    let of_any = tidegate::ownership::Held { epoch: claimed.epoch, max_bytes: None, ..small.clone() };
    for (held, expected) in [(&small, Some(600)), (&of_any, None)] {
        // The first finds no row, the second the first one's.
        if expected.is_some() {
            twin.flush().await;
        }
        assert!(matches!(directory.reassert(&a, held).await.unwrap(), Reasserted::Written { .. }));
        assert_eq!(of_row().await, expected);
    }
}

async fn takeovers_are_limited(twin: &impl Twin) {
    let (a, b) = (twin.life("gw-a"), twin.life("gw-b"));
    let device = Device::new("d");
    // The same boot may come as often as it likes.
    for _ in 0..3 * TAKEOVERS {
        device.again(None).claim(twin, &a).await.unwrap();
    }
    // Two devices with one identity may not.
    for at in 0..TAKEOVERS {
        let (boot, life) = if at % 2 == 0 { ("other", &b) } else { (device.boot.as_str(), &a) };
        device.again(Some(boot)).claim(twin, life).await.unwrap();
    }
    let row = twin.ownership().row(&device.key).await.unwrap().unwrap();
    let Err(OwnershipError::Contested { wait_ms, holder }) = device.again(None).claim(twin, &a).await else {
        panic!("one takeover too many")
    };
    assert!((1..=TAKEOVER_WINDOW_MS).contains(&wait_ms) && holder == b, "{wait_ms} {holder}");
    assert_eq!(twin.ownership().row(&device.key).await.unwrap().unwrap(), row, "a refusal changes nothing");
    // The holder itself is not disturbed.
    device.again(Some("other")).claim(twin, &b).await.unwrap();
    twin.age(TAKEOVER_WINDOW_MS).await;
    device.again(None).claim(twin, &a).await.unwrap();

    // Without a boot each connection looks like another.
    let device = Device::new("no-boot");
    let life = &a;
    let mut granted = 0;
    for at in 0..TAKEOVERS_WITHOUT_BOOT + 5 {
        let again = device.again(Some(&format!("session-{at}")));
        let claim = tidegate::ownership::Claim { boot_given: false, ..again.asks(life) };
        granted += u32::from(twin.ownership().claim(&claim).await.is_ok());
    }
    assert_eq!(granted, TAKEOVERS_WITHOUT_BOOT + 1, "the first takes over nobody");
    // A holder that is known to be dead does not count.
    let again = device.again(Some("insists"));
    let claim = tidegate::ownership::Claim { insist: true, ..again.asks(&b) };
    assert!(twin.ownership().claim(&claim).await.is_ok());
}

async fn epochs_grow_past_a_flush(twin: &impl Twin) {
    let (a, b, device) = (twin.life("gw-a"), twin.life("gw-b"), Device::new("d"));
    let (of_a, of_b) = (Directory::new(twin.ownership()), Directory::new(twin.ownership()));
    // An epoch far ahead of every clock, as one of a primary that was.
    let far = Epoch(9_000_000_000_000_000);
    let claim = tidegate::ownership::Claim { floor: far, ..device.asks(&a) };
    let first = of_a.claim(&claim).await.unwrap();
    assert_eq!(first.epoch, Epoch(far.0 + 1), "to the last digit");
    assert_eq!(device.claim(twin, &b).await.unwrap().epoch, Epoch(far.0 + 2));
    of_a.renew(&profile(&a, NodeState::Ready)).await.unwrap();
    of_b.renew(&profile(&b, NodeState::Ready)).await.unwrap();
    assert_eq!((of_a.highest(), of_b.highest()), (first.epoch, first.epoch));
    twin.flush().await;
    let after = of_b.claim(&device.again(None).asks(&b)).await.unwrap();
    assert!(after.epoch > first.epoch, "{} after {}", after.epoch, first.epoch);
}

async fn losses_are_seen(twin: &impl Twin) {
    let a = twin.life("gw-a");
    let directory = twin.ownership();
    let mut sample = Vec::new();
    for at in 0..12 {
        let device = Device::new(&format!("d-{at}"));
        sample.push(held(&device, &device.claim(twin, &a).await.unwrap()));
    }
    let before = directory.inspect(&a, &sample).await.unwrap();
    assert!(before.iter().all(|found| found.identity.is_some() && found.wrong.is_empty()), "{before:?}");
    assert_eq!(directory.inspect(&a, &sample).await.unwrap(), before, "nothing happened");
    // One that moved is found on the primary that has it.
    let moved = Device::new("d-5").again(None);
    moved.claim(twin, &twin.life("gw-b")).await.unwrap();
    let found = directory.inspect(&a, &sample).await.unwrap();
    for primary in &found {
        let expected = (primary.primary == directory.primary_of(&moved.key)).then(|| moved.key.clone());
        assert_eq!(primary.wrong, expected.into_iter().collect::<Vec<_>>());
    }
    twin.flush().await;
    let after = directory.inspect(&a, &sample).await.unwrap();
    assert_eq!(after.iter().map(|found| found.wrong.len()).sum::<usize>(), 12);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.primary, after.primary);
        assert_ne!(before.identity, after.identity);
    }
}

async fn rows_are_judged_by_who_lives(twin: &impl Twin) {
    let (a, b, device) = (twin.life("gw-a"), twin.life("gw-b"), Device::new("d"));
    let (of_a, of_b) = (Directory::new(twin.ownership()), Directory::new(twin.ownership()));
    of_a.renew(&profile(&a, NodeState::Ready)).await.unwrap();
    assert_eq!(of_a.find(&device.key).await.unwrap(), Whereabouts::Offline);
    // A node that came after the last renewal here: the membership is read once for its sake.
    of_b.renew(&profile(&b, NodeState::Ready)).await.unwrap();
    let claimed = of_b.claim(&device.asks(&b)).await.unwrap();
    let Whereabouts::At(found) = of_a.find(&device.key).await.unwrap() else { panic!("it is with b") };
    assert_eq!((found.0.epoch, found.1.profile), (claimed.epoch, profile(&b, NodeState::Ready)));
    twin.age(LEASE_MS).await;
    of_a.renew(&profile(&a, NodeState::Ready)).await.unwrap();
    assert_eq!(of_a.find(&device.key).await.unwrap(), Whereabouts::Offline, "b is dead");
    // Takeovers of a dead node's row are nobody's fault.
    for at in 0..=TAKEOVERS {
        let insist = device.again(Some(&format!("b-{at}")));
        let claim = tidegate::ownership::Claim { insist: at == 0, ..insist.asks(&b) };
        let _ = twin.ownership().claim(&claim).await;
    }
    let other = device.again(Some("other"));
    assert!(matches!(other.claim(twin, &a).await, Err(OwnershipError::Contested { .. })));
    assert!(of_a.claim(&other.asks(&a)).await.is_ok());
}

async fn a_crowd_leaves_one_owner(twin: &impl Twin) {
    let lives = ["gw-a", "gw-b", "gw-c"].map(|node| twin.life(node));
    let device = Device::new("d");
    let crowd: Vec<_> = (0..60).map(|at| (&lives[at % 3], device.again(None))).collect();
    let claims = crowd.iter().map(|(life, device)| device.claim(twin, life));
    let claimed = futures_util::future::try_join_all(claims).await.unwrap();
    let mut epochs: Vec<_> = claimed.iter().map(|claimed| claimed.epoch).collect();
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 60, "an epoch was given twice");
    let directory = twin.ownership();
    let row = directory.row(&device.key).await.unwrap().unwrap();
    assert_eq!(row.epoch, *epochs.last().unwrap());
    let releases = crowd.iter().zip(&claimed).map(|((life, device), claimed)| {
        let directory = twin.ownership();
        async move { directory.release(life, &device.key, Fence::Epoch(claimed.epoch), None).await }
    });
    let released = futures_util::future::try_join_all(releases).await.unwrap();
    assert_eq!(released.iter().filter(|released| **released).count(), 1);
    assert_eq!(directory.row(&device.key).await.unwrap(), None);
    for life in &lives {
        assert!(directory.settle(life, None, 10).await.unwrap().settled.is_empty());
    }
}
