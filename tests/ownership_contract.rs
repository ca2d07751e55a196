//! One suite for every directory of owners: the memory twin, one Redis, a Redis Cluster of three primaries found through
//! one address, Redis under sentinels with a failover, and a Redis that forbids `CONFIG`, `CLUSTER` and `KEYS` as managed
//! services do. Then random histories, whose checker is shown a directory that does it wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![cfg(feature = "redis")]

#[path = "ownership_contract/histories.rs"]
mod histories;
#[path = "support/spoilt.rs"]
mod spoilt;
#[path = "ownership_contract/suite.rs"]
mod suite;
#[path = "support/support.rs"]
mod support;
#[path = "ownership_contract/twins.rs"]
mod twins;

use std::time::Duration;

use spoilt::Bug;
use support::redis::{Cluster, Redis, Sentinels};
use tidegate::ownership::{Fence, OwnershipError, Reasserted};
use tidegate::store::{Mode, RedisConfig};
use tidegate::telemetry::metrics::{OwnershipOp, OwnershipOutcome};
use twins::{Device, MemoryTwin, RedisTwin, Twin, held};

fn config(urls: Vec<String>) -> RedisConfig {
    RedisConfig { urls, ..RedisConfig::default() }
}

#[tokio::test]
async fn the_memory_twin_keeps_the_contract() {
    suite::run(&MemoryTwin::new()).await;
}

#[tokio::test]
async fn one_redis_keeps_the_contract() {
    let redis = Redis::start();
    let twin = RedisTwin::open(&config(vec![redis.url()])).await;
    suite::run(&twin).await;
    let count = |op, outcome| twin.metrics.ownership_operations.of(op, outcome).get();
    assert!(count(OwnershipOp::Claim, OwnershipOutcome::Ok) > 100);
    assert!(count(OwnershipOp::Claim, OwnershipOutcome::Denied) > 0, "takeovers");
    assert!(count(OwnershipOp::Renew, OwnershipOutcome::Denied) > 0, "a buried node");
    assert!(twin.metrics.ownership_lost.get() > 0, "rows written again");
    redis.signal("STOP");
    let lost = Device::new("d").claim(&twin, &twin.life("gw-a")).await;
    redis.signal("CONT");
    assert!(matches!(lost, Err(OwnershipError::Unknown(_))), "{lost:?}");
    assert_eq!(count(OwnershipOp::Claim, OwnershipOutcome::Unknown), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_found_through_one_address_keeps_the_contract() {
    let cluster = Cluster::start();
    let twin = RedisTwin::open(&config(vec![cluster.nodes[1].url()])).await;
    assert_eq!(twin.store.primaries().len(), 3);
    suite::run(&twin).await;
    // A slot that moves is followed, at the first call and ever after.
    let device = Device::new("moves");
    let life = twin.life("gw-1");
    let first = device.claim(&twin, &life).await.unwrap();
    let port: u16 = twin.ownership().primary_of(&device.key).rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(twin.ownership().release(&life, &device.key, Fence::Epoch(first.epoch), None).await.unwrap());
    let to = cluster.nodes.iter().find(|node| node.port != port).unwrap();
    let slot = to.cli(&["CLUSTER", "KEYSLOT", &format!("tg:{{{}}}:own", device.key)]).parse().unwrap();
    cluster.move_slot(slot, to);
    let second = device.claim(&twin, &life).await.unwrap();
    assert!(second.epoch > first.epoch && second.previous.is_none());
    let name = format!("127.0.0.1:{}", to.port);
    support::wait_until("the slot's new place is known", Duration::from_secs(10), || {
        twin.ownership().primary_of(&device.key) == name
    });
}

#[tokio::test]
async fn a_redis_that_forbids_config_cluster_and_keys_keeps_the_contract() {
    let user = "user tide on >secret ~tg:* ~{tg}* ~{tg:due:*} &* +@all -config -cluster -keys -acl -debug";
    let redis = Redis::with(&["user default off", user]);
    let config = RedisConfig { username: "tide".into(), password: "secret".into(), ..config(vec![redis.url()]) };
    let twin = RedisTwin::open(&config).await;
    suite::run(&twin).await;
    let wrong = RedisConfig { password: "not-it".into(), ..config };
    let Err(error) = tidegate::store::Store::connect(&wrong, Duration::from_millis(700)).await else {
        panic!("a wrong password is let in")
    };
    assert!(!error.to_string().contains("not-it") && error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_the_primary_and_a_failover_that_loses_the_tail_is_survived() {
    let mut sentinels = Sentinels::start();
    let config = RedisConfig { sentinel_master: "tide".into(), mode: Mode::Sentinel, ..config(sentinels.urls()) };
    let twin = RedisTwin::open(&config).await;
    suite::run(&twin).await;

    let (life, kept, lost) = (twin.life("gw-1"), Device::new("kept"), Device::new("lost"));
    let of_kept = kept.claim(&twin, &life).await.unwrap();
    let before = twin.ownership().inspect(&life, &[]).await.unwrap();
    assert_eq!(sentinels.primary.cli(&["WAIT", "1", "5000"]), "1");
    // The link is cut: what is written from here on only the primary has.
    sentinels.replica.signal("STOP");
    sentinels.primary.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    let of_lost = lost.claim(&twin, &life).await.unwrap();
    sentinels.primary.kill();
    sentinels.replica.signal("CONT");
    sentinels.wait_failed_over();
    let name = format!("127.0.0.1:{}", sentinels.replica.port);
    support::wait_until("the new primary is found", Duration::from_secs(20), || {
        twin.store.look_again();
        twin.ownership().primary_of(&lost.key) == name
    });

    // A new primary is told from the old one, which is what makes a node write its rows again.
    let sample = [held(&kept, &of_kept), held(&lost, &of_lost)];
    let after = twin.ownership().inspect(&life, &sample).await.unwrap();
    assert_ne!(after[0].identity, before[0].identity);
    assert_eq!(after[0].wrong.as_slice(), std::slice::from_ref(&lost.key), "the tail was not lost: {after:?}");
    assert_eq!(twin.ownership().reassert(&life, &sample[0]).await.unwrap(), Reasserted::Kept);
    assert!(matches!(twin.ownership().reassert(&life, &sample[1]).await.unwrap(), Reasserted::Written { .. }));
    let again = lost.claim(&twin, &twin.life("gw-2")).await.unwrap();
    assert!(again.epoch > of_lost.epoch);
}

#[tokio::test]
async fn histories_on_the_memory_twin_keep_epochs_growing_and_rows_whole() {
    let mut told = String::new();
    for seed in histories::seeds(400) {
        match histories::run(&MemoryTwin::new(), seed, histories::STEPS).await {
            Ok(history) => told.push_str(&history),
            Err(broken) => panic!("{broken}"),
        }
    }
    // They are worth nothing where nothing happened.
    for what in ["is born again", "buries", "is offline", "writes", "loses", "anew", "gives up", "the tail is lost"] {
        let count = told.matches(what).count();
        eprintln!("{what}: {count}");
        assert!(count > 0 || std::env::var_os("TIDEGATE_TEST_SEED").is_some(), "{what}: never");
    }
}

#[tokio::test]
async fn histories_on_one_redis_keep_epochs_growing_and_rows_whole() {
    let redis = Redis::start();
    let twin = RedisTwin::open(&config(vec![redis.url()])).await;
    for seed in histories::seeds(12) {
        twin.flush().await;
        histories::run(&twin, seed, histories::STEPS).await.unwrap_or_else(|broken| panic!("{broken}"));
    }
}

#[tokio::test]
async fn the_checker_names_planted_bugs() {
    for (bug, invariant) in
        [(Bug::ReleaseByNode, "O2"), (Bug::ReleaseUnfenced, "O2"), (Bug::NoFloor, "O1"), (Bug::BuriedComesBack, "O3")]
    {
        let mut found = 0;
        for seed in histories::seeds(400) {
            if let Err(broken) = histories::run(&MemoryTwin::with(bug), seed, histories::STEPS).await {
                found += usize::from(broken.contains(invariant));
            }
        }
        assert!(found >= 1, "{bug:?} was never named {invariant} in 400 histories");
        eprintln!("{bug:?}: {invariant} named in {found} of 400 histories");
    }
}
