//! The end of a run: what is under way is waited for, then every device closes as it should.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Order, Shard};
use crate::device::Handle;
use crate::profile::Manners;

/// Between two looks at what is still under way.
const LOOK: Duration = Duration::from_millis(50);
/// How long closing takes at most, all in all.
const CLOSING: Duration = Duration::from_secs(8);
/// Devices that close at once.
const AT_ONCE: usize = 2_000;

pub(super) async fn close(mut shard: Shard, mut orders: watch::Receiver<Order>) {
    let now = shard.plan.now_s();
    shard.tally.lock().gauges.wanted = 0;
    // Who is away on purpose comes once more, to bring what it has measured.
    for index in 0..shard.slots.len() {
        let slot = &mut shard.slots[index];
        let brings = slot.handle.as_ref().is_some_and(|handle| handle.unacked() > 0);
        if brings && slot.place != super::Place::Here {
            slot.come_back((now * 1e6) as u64);
        }
    }
    let patience = Instant::now() + Duration::from_secs_f64(shard.plan.profile.drain_s);
    let aborted = async {
        // Whoever gives the orders may be gone.
        let _ = orders.wait_for(|order| *order == Order::Abort).await;
    };
    tokio::select! {
        _ = timeout_at(patience, settled(&shard)) => {}
        () = aborted => {}
    }
    shard.tally.lock().ending = true;
    let handles = shard.slots.iter_mut().filter_map(|slot| slot.handle.take());
    let _late = timeout_at(Instant::now() + CLOSING, stop(handles)).await;
}

/// Waits until everything that well-mannered devices sent and callers asked for is settled.
async fn settled(shard: &Shard) {
    let groups = &shard.plan.profile.groups;
    let waits = |slot: &&super::Slot| matches!(groups[slot.group].manners, Manners::Good | Manners::Stock);
    let mut open: Vec<&Handle> = shard.slots.iter().filter(waits).filter_map(|slot| slot.handle.as_ref()).collect();
    loop {
        open.retain(|handle| handle.unacked() > 0);
        let busy = shard.caller.as_ref().map_or(0, |caller| caller.busy());
        if open.is_empty() && busy == 0 {
            return;
        }
        sleep(LOOK).await;
    }
}

async fn stop(handles: impl Iterator<Item = Handle>) {
    let mut closing = JoinSet::new();
    for handle in handles {
        if closing.len() >= AT_ONCE {
            closing.join_next().await;
        }
        closing.spawn(handle.stop());
    }
    while closing.join_next().await.is_some() {}
}
