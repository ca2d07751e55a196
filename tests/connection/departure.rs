//! Connections that are sent away while the node works on.

use std::time::Instant;

use tidegate::connection::{Ages, Departure, GRACE_MS};
use tidegate::mailbox::Mailbox;

use super::*;

fn doors_closed(reason: CloseReason, grace_ms: u64) -> Rig {
    let rig = Rig::new(Limits::default());
    rig.node.close_doors(Departure { reason, grace_ms, until_ms: u64::MAX });
    rig
}

impl Rig {
    /// A device that was there before the doors were closed, its welcome read, and then told to leave.
    async fn told(reason: CloseReason, grace_ms: u64, entry: Entry) -> (Self, Peer, JoinHandle<End>) {
        let rig = Self::new(Limits::default());
        let (mut peer, end) = rig.enter(entry, 1 << 20);
        assert_eq!(peer.json().await["type"], "welcome");
        rig.node.close_doors(Departure { reason, grace_ms, until_ms: u64::MAX });
        assert_eq!(rig.node.send_away(0, 10), None);
        (rig, peer, end)
    }

    /// Devices that were told and are still here.
    fn leaving(&self) -> i64 {
        self.node.metrics.leaving_connections.of(PeerKind::Device).get()
    }
}

#[tokio::test]
async fn who_is_told_to_leave_is_served_until_its_deadline_and_closed_then() {
    let (rig, mut peer, end) = Rig::told(CloseReason::Restart, 1_500, Rig::entry()).await;
    let (goaway, told_at) = (peer.json().await, Instant::now());
    assert_eq!((&goaway["type"], &goaway["reason"]), (&"goaway".into(), &"restart".into()));
    assert_eq!(goaway["deadline_ms"], 1_500);
    assert!((500..=750).contains(&goaway["retry_after_ms"].as_u64().unwrap()), "before the deadline: {goaway}");
    for seq in 1..=3 {
        peer.text(&update(seq)).await;
        rig.taken(1).await;
        rig.log.store_all();
        assert_eq!(peer.json().await["seq"], seq);
    }
    let (ended, ()) = tokio::join!(rig.swept(end), async {
        assert_eq!(peer.json().await["code"], "restart");
        assert!(told_at.elapsed() >= Duration::from_millis(1_500), "closed after {:?}", told_at.elapsed());
        assert_eq!(peer.frame().await.1[..2], 1012u16.to_be_bytes());
        drop(peer);
    });
    assert_eq!(ended, End::Gateway(CloseReason::Restart));
    assert_eq!(rig.node.metrics.shed.of(ShedReason::Drain).get(), 1);
    rig.assert_nothing_left();
}

/// Else those told last would come back sooner after it than those told first: faster than they are told.
#[tokio::test]
async fn the_delay_before_a_move_is_the_same_however_many_are_still_there() {
    let mut longest = [0; 2];
    for (longest, others) in longest.iter_mut().zip([0, 5_000]) {
        let rig = Rig::new(Limits::default());
        let seat = |_| rig.node.receipts.seat("t", Arc::<Mailbox>::default());
        let _others: Vec<_> = (0..others).map(seat).collect();
        let mut peers = Vec::new();
        for number in 0..40 {
            let (mut peer, _) =
                rig.enter(Entry { key: DeviceKey::new("t", &format!("d{number}")).unwrap(), ..Rig::entry() }, 1 << 20);
            assert_eq!(peer.json().await["type"], "welcome");
            peers.push(peer);
        }
        rig.node.close_doors(Departure { reason: CloseReason::Restart, grace_ms: 30_000, until_ms: u64::MAX });
        rig.node.send_away(0, usize::MAX);
        for peer in &mut peers {
            *longest = peer.json().await["retry_after_ms"].as_u64().unwrap().max(*longest);
        }
    }
    // The longest of forty draws from 500 to 2,500.
    assert!(longest.iter().all(|longest| (1_700..=2_500).contains(longest)), "{longest:?}");
}

#[tokio::test]
async fn who_leaves_in_time_is_not_closed_by_the_node() {
    let (rig, mut peer, end) = Rig::told(CloseReason::Restart, 60_000, Rig::entry()).await;
    assert_eq!(peer.json().await["type"], "goaway");
    assert_eq!(rig.leaving(), 1);
    peer.send(8, &1000u16.to_be_bytes()).await;
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Device(1000));
    assert_eq!(rig.leaving(), 0);
    rig.assert_nothing_left();
}

#[tokio::test]
async fn at_the_deadline_what_is_outstanding_is_acked_before_the_close() {
    let (rig, mut peer, end) = Rig::told(CloseReason::Moved, 0, Rig::entry()).await;
    assert_eq!(peer.json().await["reason"], "moved");
    peer.text(&update(7)).await;
    rig.taken(1).await;
    let (ended, ()) = tokio::join!(rig.swept(end), async {
        // Well past the deadline.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        rig.log.store_all();
        assert_eq!(peer.json().await["seq"], 7);
        assert_eq!(peer.json().await["code"], "moved");
        assert_eq!(peer.frame().await.1[..2], 4002u16.to_be_bytes());
        drop(peer);
    });
    assert_eq!(ended, End::Gateway(CloseReason::Moved));
}

#[tokio::test]
async fn with_close_drop_the_deadline_ends_without_a_close_frame() {
    let (rig, mut peer, end) = Rig::told(CloseReason::Restart, 0, Entry { close_drop: true, ..Rig::entry() }).await;
    assert_eq!(peer.json().await["type"], "goaway");
    let (_, ()) = tokio::join!(rig.swept(end), async {
        assert_eq!(peer.json().await["code"], "restart");
        assert_eq!(peer.rest().await, [0; 0]);
        drop(peer);
    });
}

#[tokio::test]
async fn a_stop_ends_every_deadline_and_announces_nothing_twice() {
    let (rig, mut peer, end) = Rig::told(CloseReason::Moved, 60_000, Rig::entry()).await;
    assert_eq!(peer.json().await["type"], "goaway");
    rig.node.stop();
    assert_eq!(peer.json().await["code"], "restart");
    assert_eq!(peer.frame().await.1[..2], 1012u16.to_be_bytes());
    drop(peer);
    assert_eq!(end.await.unwrap(), End::Gateway(CloseReason::Restart));
    assert_eq!(rig.node.metrics.shed.of(ShedReason::CutOff).get(), 1);
}

#[tokio::test]
async fn they_are_told_a_few_at_a_time() {
    let rig = Rig::new(Limits::default());
    let mut peers: Vec<_> = (0..5).map(|number| rig.enter(numbered(number), 1 << 16).0).collect();
    for peer in &mut peers {
        assert_eq!(peer.json().await["type"], "welcome");
    }
    rig.node.close_doors(Departure { reason: CloseReason::Restart, grace_ms: 60_000, until_ms: u64::MAX });
    let next = rig.node.send_away(0, 3);
    for peer in &mut peers[..3] {
        assert_eq!(peer.json().await["type"], "goaway");
    }
    assert_eq!((rig.node.metrics.shed.of(ShedReason::Drain).get(), next), (3, Some(3)));
    assert_eq!(rig.node.send_away(3, 3), None);
    for peer in &mut peers[3..] {
        assert_eq!(peer.json().await["type"], "goaway");
    }
    assert_eq!(rig.node.metrics.shed.of(ShedReason::Drain).get(), 5);
}

fn numbered(number: usize) -> Entry {
    Entry { key: DeviceKey::new("acme", &format!("d{number}")).unwrap(), ..Rig::entry() }
}

#[tokio::test]
async fn who_was_on_its_way_in_when_the_doors_closed_is_told_behind_its_welcome() {
    let rig = doors_closed(CloseReason::Restart, 60_000);
    assert!(!rig.node.lets_in());
    let mut peer = rig.connect();
    assert_eq!(peer.json().await["type"], "welcome");
    assert_eq!(peer.json().await["type"], "goaway");
    peer.text(&update(1)).await;
    rig.taken(1).await;
}

#[tokio::test]
async fn doors_open_again_only_for_the_reason_they_were_closed_for_last() {
    let rig = doors_closed(CloseReason::Moved, 1);
    rig.node.open_doors(CloseReason::Moved);
    assert!(rig.node.lets_in());
    rig.node.close_doors(Departure { reason: CloseReason::Restart, grace_ms: 1, until_ms: 1 });
    rig.node.open_doors(CloseReason::Moved);
    assert!(!rig.node.lets_in());
}

#[tokio::test]
async fn while_nothing_is_stored_a_stop_waits_for_no_ack() {
    let rig = Rig::new(Limits::default());
    let (mut peer, end) = rig.enter(Rig::entry(), 1 << 20);
    peer.json().await;
    peer.text(&update(9)).await;
    rig.taken(1).await;
    rig.log.stalled_ms.store(60_000, Ordering::Relaxed);
    rig.node.watch_flow();
    assert_eq!(peer.json().await["type"], "pause");
    let begun = Instant::now();
    rig.node.stop();
    let (ended, ()) = tokio::join!(rig.swept(end), async {
        assert_eq!(peer.json().await["type"], "goaway");
        assert_eq!(peer.json().await["code"], "restart", "without the ack: the device has the update still");
        drop(peer);
    });
    assert_eq!(ended, End::Gateway(CloseReason::Restart));
    assert!(begun.elapsed() < Duration::from_millis(tidegate::connection::STOP_WITHIN_MS / 2));
}

#[tokio::test]
async fn some_devices_are_told_to_move_while_the_node_goes_on_and_applications_stay() {
    let rig = Rig::new(Limits::default());
    let app = Entry { kind: PeerKind::App, ..numbered(99) };
    let (mut app, _) = rig.enter(app, 1 << 16);
    assert_eq!(app.json().await["type"], "welcome");
    let mut devices: Vec<_> = (0..3).map(|number| rig.enter(numbered(number), 1 << 16)).collect();
    for (device, _) in &mut devices {
        assert_eq!(device.json().await["type"], "welcome");
    }
    assert_eq!(rig.node.shed(0, 2), Some(3), "the application lies before them and does not count");
    for (device, _) in &mut devices[..2] {
        let goaway = device.json().await;
        assert_eq!((&goaway["type"], &goaway["reason"]), (&"goaway".into(), &"moved".into()));
        assert_eq!(goaway["deadline_ms"], GRACE_MS);
        assert!(goaway["retry_after_ms"].as_u64().unwrap() <= GRACE_MS / 2, "{goaway}");
    }
    assert_eq!((rig.node.metrics.shed.of(ShedReason::Rebalance).get(), rig.leaving()), (2, 2));
    assert!(rig.node.lets_in());
    // Who was told works on, and is not told again; the others heard nothing.
    assert_eq!((rig.node.shed(0, 2), rig.node.shed(4, 2)), (Some(3), None));
    for (number, device) in devices.iter_mut().map(|(device, _)| device).chain([&mut app]).enumerate() {
        device.text(r#"{"type":"ping","id":"p"}"#).await;
        assert_eq!(device.json().await["type"], "pong", "{number}");
    }
    let (mut first, end) = devices.remove(0);
    first.send(8, &1000u16.to_be_bytes()).await;
    drop(first);
    assert_eq!(end.await.unwrap(), End::Device(1000));
    assert_eq!((rig.node.metrics.shed.of(ShedReason::Rebalance).get(), rig.leaving()), (2, 1));
}

#[tokio::test]
async fn a_device_that_is_connected_for_too_long_is_told_to_connect_anew_and_an_application_is_not() {
    let mut rig = Rig::new(Limits::default());
    Arc::get_mut(&mut rig.node).expect("nobody else has it").ages = Ages::new(1, 20);
    let (mut device, _) = rig.enter(numbered(0), 1 << 16);
    let (mut app, _) = rig.enter(Entry { kind: PeerKind::App, ..numbered(1) }, 1 << 16);
    let begun = Instant::now();
    for peer in [&mut device, &mut app] {
        assert_eq!(peer.json().await["type"], "welcome");
    }
    let goaway = loop {
        rig.node.sweep();
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(20), device.json()).await {
            break message;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never told");
    };
    assert_eq!((&goaway["type"], &goaway["reason"]), (&"goaway".into(), &"max_age".into()));
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!((rig.node.metrics.shed.of(ShedReason::MaxAge).get(), rig.leaving()), (1, 1));
    app.text(r#"{"type":"ping","id":"p"}"#).await;
    assert_eq!(app.json().await["type"], "pong");
}
