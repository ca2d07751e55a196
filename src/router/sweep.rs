//! What came due: ends that are not in the event log, commands past their deadlines, and doorbells nobody heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior};

use super::Router;
use crate::commands::{Due, Ripe, Row, SHARDS};
use crate::ownership::{Member, NodeState, View, rendezvous};
use crate::peer::PeerHandler;

/// How often it is seen which shards are to be looked at: so late comes at most what comes due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards at once.
const AT_ONCE: usize = 8;
/// Entries taken from a shard at once, and how often in one look.
const ENTRIES: usize = 100;
const ROUNDS: usize = 10;

/// Until when nothing comes due in which shard. Moments are not later than what was read: a directory's clock that jumps
/// makes what comes due late by [`ACCEPT_MS`](crate::commands::ACCEPT_MS) at most.
#[derive(Default)]
pub(super) struct Quiet(HashMap<u8, Instant>);

impl Quiet {
    /// Those of this node's shards that are to be looked at. Of others nothing is known when they come here.
    fn over(&mut self, mine: &[u8], now: Instant) -> Vec<u8> {
        self.0.retain(|shard, until| mine.contains(shard) && now < *until);
        mine.iter().copied().filter(|shard| !self.0.contains_key(shard)).collect()
    }

    /// What was found in the shards that were looked at.
    fn note(&mut self, looked: &[u8], ripe: &Ripe, asked: Instant) {
        let until = asked + Duration::from_millis(u64::try_from(ripe.quiet_ms).unwrap_or_default());
        // What is due now is looked at again behind its sweep.
        self.0.extend(looked.iter().filter(|shard| !ripe.shards.contains(shard)).map(|shard| (*shard, until)));
    }
}

impl Router {
    /// Sweeps the shards that are this node's.
    pub(super) async fn sweep_due(self: Arc<Self>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = Quiet::default();
        loop {
            every.tick().await;
            self.sweep_ripe(&mut quiet).await;
        }
    }

    /// Sweeps those of this node's shards in which something is due.
    pub(super) async fn sweep_ripe(self: &Arc<Self>, quiet: &mut Quiet) {
        let asked = Instant::now();
        let wanted = quiet.over(&self.shards(), asked);
        if wanted.is_empty() {
            return;
        }
        let ripe = match self.parts.courier.commands().ripe(&wanted).await {
            Ok(ripe) => ripe,
            Err(error) => {
                tracing::debug!(%error, "it cannot be seen whether something came due");
                return;
            }
        };
        quiet.note(&wanted, &ripe, asked);
        for some in ripe.shards.chunks(AT_ONCE) {
            join_all(some.iter().map(|shard| self.sweep_shard(*shard))).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ACCEPT_MS;

    #[test]
    fn a_quiet_shard_is_looked_at_again_when_something_new_could_be_due_and_a_ripe_one_at_once() {
        let (mut quiet, began) = (Quiet::default(), Instant::now());
        let after = |ms: i64| began + Duration::from_millis(ms.unsigned_abs());
        assert_eq!(quiet.over(&[1, 2, 3], began), [1, 2, 3]);
        quiet.note(&[1, 2, 3], &Ripe { shards: vec![2], quiet_ms: ACCEPT_MS }, began);
        assert_eq!(quiet.over(&[1, 2, 3], after(1)), [2]);
        quiet.note(&[2], &Ripe { shards: vec![], quiet_ms: 700 }, after(1));
        assert_eq!(quiet.over(&[1, 2, 3], after(700)), Vec::<u8>::new());
        assert_eq!(quiet.over(&[1, 2, 3], after(701)), [2]);
        assert_eq!(quiet.over(&[1, 2, 3], after(ACCEPT_MS - 1)), [2]);
        assert_eq!(quiet.over(&[1, 2, 3], after(ACCEPT_MS)), [1, 2, 3]);
    }

    #[test]
    fn of_a_shard_that_was_another_nodes_meanwhile_nothing_is_known() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        quiet.note(&[1, 2], &Ripe { shards: vec![], quiet_ms: ACCEPT_MS }, now);
        assert_eq!(quiet.over(&[2], now), Vec::<u8>::new());
        assert_eq!(quiet.over(&[1, 2], now), [1]);
    }
}
