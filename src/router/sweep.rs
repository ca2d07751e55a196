//! What came due: ends that are not in the event log, commands past their deadlines, and doorbells nobody heard.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::Router;
use crate::commands::{Due, Row, SHARDS};
use crate::ownership::{Member, NodeState, View, rendezvous};
use crate::peer::PeerHandler;

/// How often each shard is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards at once.
const AT_ONCE: usize = 8;
/// Entries taken from a shard at once, and how often in one look.
const ENTRIES: usize = 100;
const ROUNDS: usize = 10;

impl Router {
    /// Sweeps the shards that are this node's.
    pub(super) async fn sweep_due(self: Arc<Self>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let mine = self.shards();
            for some in mine.chunks(AT_ONCE) {
                join_all(some.iter().map(|shard| self.sweep_shard(*shard))).await;
            }
        }
    }

    /// The shards that fall to this node among those that are ready; where none is, among all that live.
    pub(super) fn shards(&self) -> Vec<u8> {
        let view: Arc<View> = self.parts.registrar.directory().view();
        let is_ready = |member: &&Member| member.profile.state == NodeState::Ready;
        let some_ready = view.live.iter().any(|member| is_ready(&member));
        let takes_part = |member: &&Member| !some_ready || is_ready(member);
        let is_mine = |shard: &u8| {
            let live = view.live.iter().filter(takes_part);
            rendezvous::pick(live, &format!("due/{shard}")).is_some_and(|life| self.is_me(life))
        };
        (0..SHARDS).filter(is_mine).collect()
    }

    /// Does what is due in one shard, up to a bound.
    pub(super) async fn sweep_shard(self: &Arc<Self>, shard: u8) {
        // Whoever has a row may yet live: a node that is unknown here has come just now, and one whose lease has ended may
        // extend it and still have its devices, which no claim would tell of what waits. Until its rows are settled it is
        // looked at again; whether it is rung for is judged by `ring_at`.
        let held = |_: &Row| true;
        for _ in 0..ROUNDS {
            let swept = match self.parts.courier.commands().sweep(shard, ENTRIES, &held).await {
                Ok(swept) => swept,
                Err(error) => {
                    tracing::debug!(shard, %error, "what came due could not be looked at");
                    return;
                }
            };
            for due in swept.work {
                match due {
                    Due::Publish(command) => self.parts.courier.tell(*command),
                    Due::Ring { device, row, .. } => self.bring(&device, &row),
                }
            }
            if swept.looked < ENTRIES {
                return;
            }
        }
    }
}
