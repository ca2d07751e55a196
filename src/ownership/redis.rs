//! The directory on Redis. The scripts beside this file are the protocol; here is what goes in and comes out.

mod member;
mod read;
mod turns;

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Claim, Claimed, DEAD_KEPT_MS, Fence, GONE_KEPT_MS, Held, Inspection, LAST_KEPT_S, LEASE_MS, Last, Listed, NodeLife,
    NodeState, Ownership, OwnershipError, OwnershipFuture, Page, Past, Profile, Reasserted, Renewed, Row,
    SETTLE_AFTER_MS, Stretch, TAKEOVER_WINDOW_MS, TAKEOVERS, TAKEOVERS_WITHOUT_BOOT, View,
};
use crate::id::{DeviceKey, Epoch};
use crate::store::{Arg, CALL_WITHIN, Primary, Script, Store, StoreError, Value, keys};
use crate::telemetry::metrics::{Metrics, OwnershipOp, OwnershipOutcome};
use turns::Turns;

static RENEW: Script = Script::new("renew", include_str!("renew.lua"));
static BURY: Script = Script::new("bury", include_str!("bury.lua"));
static CLAIM: Script = Script::new("claim", include_str!("claim.lua"));
static RELEASE: Script = Script::new("release", include_str!("release.lua"));
static REASSERT: Script = Script::new("reassert", include_str!("reassert.lua"));
static SETTLE: Script = Script::new("settle", include_str!("settle.lua"));

/// The fields of a row, in the order in which scripts give them.
const ROW: [&str; 7] = ["node", "incarnation", "epoch", "connection", "boot", "settled", "max"];
/// Rows of one page that are settled at once.
const SETTLED_AT_ONCE: usize = 64;

/// The directory on Redis.
pub struct RedisOwnership {
    store: Arc<Store>,
    metrics: Metrics,
    /// One at a time of what changes the row and the entry of a device: the two lie in different slots.
    turns: Turns,
}

impl RedisOwnership {
    /// On a store that is connected.
    pub fn new(store: Arc<Store>, metrics: Metrics) -> Self {
        Self { store, metrics, turns: Turns::default() }
    }

    /// Does something and counts how it went.
    async fn counted<T>(
        &self,
        op: OwnershipOp,
        call: impl Future<Output = Result<T, OwnershipError>>,
    ) -> Result<T, OwnershipError> {
        let since = Instant::now();
        let result = call.await;
        let outcome = match &result {
            Ok(_) => OwnershipOutcome::Ok,
            Err(OwnershipError::Contested { .. } | OwnershipError::Buried) => OwnershipOutcome::Denied,
            Err(OwnershipError::Unavailable(_)) => OwnershipOutcome::Unavailable,
            Err(OwnershipError::Unknown(_)) => OwnershipOutcome::Unknown,
            Err(OwnershipError::Broken(_)) => OwnershipOutcome::Error,
        };
        self.metrics.owned(op, outcome, since.elapsed());
        result
    }

    /// Runs `renew.lua`; without a profile it only reads.
    async fn members(&self, me: Option<&Profile>, highest: Epoch) -> Result<Renewed, OwnershipError> {
        let member = me.map(member::encode).unwrap_or_default();
        let prefix = me.map(|me| format!("{},", me.life)).unwrap_or_default();
        let (nodes, epoch) = (keys::cluster("nodes"), keys::cluster("epoch"));
        let args: [Arg<'_>; 6] = [
            (&member).into(),
            (&prefix).into(),
            LEASE_MS.into(),
            highest.0.into(),
            DEAD_KEPT_MS.into(),
            GONE_KEPT_MS.into(),
        ];
        read::renewed(self.store.run(&RENEW, &[&nodes, &epoch], &args).await?)
    }

    async fn claim_row(&self, claim: &Claim<'_>) -> Result<Claimed, OwnershipError> {
        let own = keys::device(claim.device, "own");
        let (last, queue) = (keys::device(claim.device, "last"), keys::device(claim.device, "q"));
        let takeovers = match (claim.insist, claim.boot_given) {
            (true, _) => 0,
            (false, true) => TAKEOVERS,
            (false, false) => TAKEOVERS_WITHOUT_BOOT,
        };
        let (incarnation, connection) = (claim.life.incarnation.to_string(), claim.connection.to_string());
        let max_bytes = digits(claim.max_bytes);
        let args: [Arg<'_>; 8] = [
            claim.life.node.as_str().into(),
            (&incarnation).into(),
            (&connection).into(),
            claim.boot.as_str().into(),
            claim.floor.0.into(),
            takeovers.into(),
            TAKEOVER_WINDOW_MS.into(),
            (&max_bytes).into(),
        ];
        read::claimed(self.store.run(&CLAIM, &[&own, &last, &queue], &args).await?)
    }

    async fn claim_both(&self, claim: &Claim<'_>) -> Result<Claimed, OwnershipError> {
        let _turn = self.turn(claim.device).await?;
        let (row, entry) = tokio::join!(self.claim_row(claim), self.list(claim.life, claim.device));
        match (row, entry) {
            (Ok(claimed), Ok(())) => Ok(claimed),
            (Ok(claimed), Err(error)) => {
                // A row without an entry would outlive its node unnoticed.
                let undone = self.release_row(claim.life, claim.device, Fence::Epoch(claimed.epoch), None).await;
                tracing::debug!(device = %claim.device, ?undone, "a claim is undone: its entry could not be written");
                Err(error)
            }
            (Err(error @ OwnershipError::Contested { .. }), _) => {
                let OwnershipError::Contested { holder, .. } = &error else { return Err(error) };
                if holder != claim.life {
                    let _ = self.unlist(claim.life, claim.device).await;
                }
                Err(error)
            }
            // The entry may stay: one without a row is passed over, and removed by whoever settles.
            (Err(error), _) => Err(error),
        }
    }

    /// 1: removed; 2: a newer one of the same life; 0: not this life's.
    async fn release_row(
        &self,
        life: &NodeLife,
        device: &DeviceKey,
        fence: Fence,
        last: Option<&Last>,
    ) -> Result<u64, OwnershipError> {
        let (own, hints) = (keys::device(device, "own"), keys::device(device, "last"));
        let (field, value) = match fence {
            Fence::Epoch(epoch) => ("epoch", epoch.to_string()),
            Fence::Connection(connection) => ("connection", connection.to_string()),
        };
        let boot = last.map(|last| last.boot.as_str()).unwrap_or_default();
        let acked = last.and_then(|last| last.acked).map(|seq| seq.to_string()).unwrap_or_default();
        let end = last.and_then(|last| last.end.as_ref());
        let code = end.map(|(code, _)| code.to_string()).unwrap_or_default();
        let initiator = end.map(|(_, initiator)| initiator.as_ref()).unwrap_or_default();
        let incarnation = life.incarnation.to_string();
        let args: [Arg<'_>; 9] = [
            life.node.as_str().into(),
            (&incarnation).into(),
            field.into(),
            (&value).into(),
            boot.into(),
            (&acked).into(),
            LAST_KEPT_S.into(),
            (&code).into(),
            initiator.into(),
        ];
        Ok(self.store.run(&RELEASE, &[&own, &hints], &args).await?.unsigned()?)
    }

    async fn release_both(
        &self,
        life: &NodeLife,
        device: &DeviceKey,
        fence: Fence,
        last: Option<&Last>,
    ) -> Result<bool, OwnershipError> {
        let _turn = self.turn(device).await?;
        let removed = self.release_row(life, device, fence, last).await?;
        // The row first and then the entry, so that no row is ever without one.
        if removed != 2
            && let Err(error) = self.unlist(life, device).await
        {
            tracing::debug!(%device, %error, "an entry stays behind its row");
        }
        Ok(removed == 1)
    }

    async fn reassert_both(&self, life: &NodeLife, held: &Held) -> Result<Reasserted, OwnershipError> {
        let _turn = self.turn(&held.device).await?;
        let own = keys::device(&held.device, "own");
        let (last, queue) = (keys::device(&held.device, "last"), keys::device(&held.device, "q"));
        let (incarnation, connection) = (life.incarnation.to_string(), held.connection.to_string());
        let epoch = held.epoch.to_string();
        let max_bytes = digits(held.max_bytes);
        let args: [Arg<'_>; 6] = [
            life.node.as_str().into(),
            (&incarnation).into(),
            (&epoch).into(),
            (&connection).into(),
            held.boot.as_str().into(),
            (&max_bytes).into(),
        ];
        let own_keys = [own.as_str(), last.as_str(), queue.as_str()];
        // The list lies elsewhere and may be what was lost.
        let (answer, listed) = tokio::join!(self.store.run(&REASSERT, &own_keys, &args), self.list(life, &held.device));
        let reasserted = read::reasserted(answer?)?;
        listed?;
        if matches!(reasserted, Reasserted::Written { .. } | Reasserted::Newer(_)) {
            self.metrics.ownership_lost.inc();
        }
        if let Reasserted::Newer(row) = &reasserted
            && row.owner != *life
        {
            let _ = self.unlist(life, &held.device).await;
        }
        Ok(reasserted)
    }

    async fn list(&self, life: &NodeLife, device: &DeviceKey) -> Result<(), OwnershipError> {
        let held = held_key(life);
        self.store.command("ZADD", &held, &[(&held).into(), 0_u64.into(), device.as_str().into()]).await?;
        Ok(())
    }

    async fn unlist(&self, life: &NodeLife, device: &DeviceKey) -> Result<(), OwnershipError> {
        let held = held_key(life);
        self.store.command("ZREM", &held, &[(&held).into(), device.as_str().into()]).await?;
        Ok(())
    }

    async fn turn(&self, device: &DeviceKey) -> Result<turns::Turn<'_>, OwnershipError> {
        let turn = tokio::time::timeout(CALL_WITHIN, self.turns.take(device)).await;
        turn.map_err(|_| OwnershipError::Unavailable("an earlier call for this device is not done".into()))
    }

    /// Marks one row; nothing where it is not the dead node's any more, of which its list is told.
    async fn settle_row(&self, dead: &NodeLife, device: DeviceKey) -> Result<Option<Held>, OwnershipError> {
        let own = keys::device(&device, "own");
        let incarnation = dead.incarnation.to_string();
        let args: [Arg<'_>; 2] = [dead.node.as_str().into(), (&incarnation).into()];
        match self.store.run(&SETTLE, &[&own], &args).await? {
            Value::Nil => {
                self.unlist(dead, &device).await?;
                Ok(None)
            }
            answer => read::settled(device, answer).map(Some),
        }
    }

    async fn settle_page(
        &self,
        dead: &NodeLife,
        after: Option<&DeviceKey>,
        limit: u32,
    ) -> Result<Page, OwnershipError> {
        let held = held_key(dead);
        let from = after.map_or_else(|| "-".to_owned(), |device| format!("({device}"));
        let args: [Arg<'_>; 7] =
            [(&held).into(), (&from).into(), "+".into(), "BYLEX".into(), "LIMIT".into(), 0_u64.into(), limit.into()];
        let names = self.store.command("ZRANGE", &held, &args).await?.list()?;
        let full = u32::try_from(names.len()).is_ok_and(|count| count == limit);
        let devices = names.into_iter().map(read::device).collect::<Result<Vec<_>, _>>()?;
        let next = devices.last().filter(|_| full).cloned();
        let mut settled = Vec::with_capacity(devices.len());
        for some in devices.chunks(SETTLED_AT_ONCE) {
            let rows = some.iter().map(|device| self.settle_row(dead, device.clone()));
            settled.extend(futures_util::future::try_join_all(rows).await?.into_iter().flatten());
        }
        Ok(Page { settled, next })
    }

    async fn list_some(&self, life: &NodeLife, stretch: Stretch<'_>) -> Result<Listed, OwnershipError> {
        let held = held_key(life);
        let count = [(&held).into()];
        let all = self.store.command("ZCARD", &held, &count);
        if stretch.limit == 0 {
            return Ok(Listed { devices: Vec::new(), all: all.await?.unsigned()? });
        }
        let (above, below) = (format!("({}", stretch.above), format!("({}", stretch.below));
        let args: [Arg<'_>; 7] = [
            (&held).into(),
            (&above).into(),
            (&below).into(),
            "BYLEX".into(),
            "LIMIT".into(),
            0_u64.into(),
            stretch.limit.into(),
        ];
        let (names, all) = tokio::try_join!(self.store.command("ZRANGE", &held, &args), all)?;
        let devices = names.list()?.into_iter().map(read::device).collect::<Result<_, _>>()?;
        Ok(Listed { devices, all: all.unsigned()? })
    }

    async fn inspect_one(&self, primary: &Primary, life: &NodeLife, sample: &[&Held]) -> Inspection {
        let gen_key = format!("tg:gen:{}", primary.tag());
        let fresh = format!("{:032x}", fastrand::u128(..));
        let generation = async {
            self.store.on(primary, "SET", &[(&gen_key).into(), (&fresh).into(), "NX".into()]).await?;
            self.store.on(primary, "GET", &[(&gen_key).into()]).await?.text()
        };
        let rows = sample.iter().map(|held| self.is_mine(primary, life, held));
        let rows = futures_util::future::join_all(rows);
        let (generation, replication, rows) = tokio::join!(generation, self.store.replication_id(primary), rows);
        let identity = match (generation, replication) {
            (Ok(generation), Ok(replication)) => Some(format!("{generation} {}", replication.unwrap_or_default())),
            (generation, replication) => {
                let primary = primary.name();
                tracing::debug!(primary, ?generation, ?replication, "a primary could not be inspected");
                None
            }
        };
        // What could not be read is not wrong.
        let wrong = sample.iter().zip(rows).filter(|(_, mine)| matches!(mine, Ok(false)));
        Inspection { primary: primary.name(), identity, wrong: wrong.map(|(held, _)| held.device.clone()).collect() }
    }

    async fn is_mine(&self, primary: &Primary, life: &NodeLife, held: &Held) -> Result<bool, StoreError> {
        let own = keys::device(&held.device, "own");
        let row = read::row(self.store.on(primary, "HMGET", &row_args(&own)).await?)?;
        Ok(row.is_some_and(|row| row.owner == *life && row.epoch == held.epoch && !row.settled))
    }
}

fn held_key(life: &NodeLife) -> String {
    keys::node(life.node.as_str(), &life.incarnation.to_string(), "held")
}

/// A number as a script's argument; nothing is empty.
fn digits(number: Option<usize>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn row_args(own: &str) -> Vec<Arg<'_>> {
    std::iter::once(own).chain(ROW).map(Arg::from).collect()
}

impl Ownership for RedisOwnership {
    fn renew<'a>(&'a self, me: &'a Profile, highest: Epoch) -> OwnershipFuture<'a, Renewed> {
        Box::pin(self.counted(OwnershipOp::Renew, self.members(Some(me), highest)))
    }

    fn view(&self) -> OwnershipFuture<'_, View> {
        Box::pin(self.counted(OwnershipOp::Renew, async { Ok(self.members(None, Epoch(0)).await?.view) }))
    }

    fn claim<'a>(&'a self, claim: &'a Claim<'a>) -> OwnershipFuture<'a, Claimed> {
        Box::pin(self.counted(OwnershipOp::Claim, self.claim_both(claim)))
    }

    fn release<'a>(
        &'a self,
        life: &'a NodeLife,
        device: &'a DeviceKey,
        fence: Fence,
        last: Option<&'a Last>,
    ) -> OwnershipFuture<'a, bool> {
        Box::pin(self.counted(OwnershipOp::Release, self.release_both(life, device, fence, last)))
    }

    fn row<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Row>> {
        let own = keys::device(device, "own");
        let read = async move { Ok(read::row(self.store.command("HMGET", &own, &row_args(&own)).await?)?) };
        Box::pin(self.counted(OwnershipOp::Lookup, read))
    }

    fn past<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Past>> {
        let read = async move {
            let last = keys::device(device, "last");
            let args: Vec<Arg<'_>> = std::iter::once(last.as_str()).chain(read::PAST).map(Arg::from).collect();
            Ok(read::past(self.store.command("HMGET", &last, &args).await?)?)
        };
        Box::pin(self.counted(OwnershipOp::Lookup, read))
    }

    fn list<'a>(&'a self, life: &'a NodeLife, stretch: Stretch<'a>) -> OwnershipFuture<'a, Listed> {
        Box::pin(self.counted(OwnershipOp::Lookup, self.list_some(life, stretch)))
    }

    fn reassert<'a>(&'a self, life: &'a NodeLife, held: &'a Held) -> OwnershipFuture<'a, Reasserted> {
        Box::pin(self.counted(OwnershipOp::Reassert, self.reassert_both(life, held)))
    }

    fn inspect<'a>(&'a self, life: &'a NodeLife, sample: &'a [Held]) -> OwnershipFuture<'a, Vec<Inspection>> {
        let inspect = async move {
            let primaries = self.store.primaries();
            let theirs: Vec<(&Held, String)> =
                sample.iter().map(|held| (held, self.primary_of(&held.device))).collect();
            let each = primaries.iter().map(|primary| {
                let name = primary.name();
                let on_it: Vec<&Held> = theirs.iter().filter(|(_, of)| *of == name).map(|(held, _)| *held).collect();
                async move { self.inspect_one(primary, life, &on_it).await }
            });
            Ok(futures_util::future::join_all(each).await)
        };
        Box::pin(self.counted(OwnershipOp::Inspect, inspect))
    }

    fn primary_of(&self, device: &DeviceKey) -> String {
        self.store.primary_of(&keys::device(device, "own"))
    }

    fn bury<'a>(&'a self, dead: &'a NodeLife, done: bool) -> OwnershipFuture<'a, bool> {
        let bury = async move {
            let state = if done { NodeState::Gone } else { NodeState::Dead };
            let prefix = format!("{dead},");
            let args: [Arg<'_>; 3] = [(&prefix).into(), state.as_str().into(), SETTLE_AFTER_MS.into()];
            Ok(self.store.run(&BURY, &[&keys::cluster("nodes")], &args).await?.unsigned()? == 1)
        };
        Box::pin(self.counted(OwnershipOp::Settle, bury))
    }

    fn settle<'a>(&'a self, dead: &'a NodeLife, after: Option<&'a DeviceKey>, limit: u32) -> OwnershipFuture<'a, Page> {
        Box::pin(self.counted(OwnershipOp::Settle, self.settle_page(dead, after, limit)))
    }
}

impl From<StoreError> for OwnershipError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => Self::Unavailable(reason),
            StoreError::Unknown(reason) => Self::Unknown(reason),
            StoreError::Full => Self::Unavailable(error.to_string()),
            StoreError::Refused { .. } | StoreError::Malformed(_) => Self::Broken(error.to_string()),
        }
    }
}
