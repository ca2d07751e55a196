//! Three real nodes with their Redis and a Kafka, everything that may go wrong with them by hand, and the history of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidegate::auth::signing::SigningKey;

use super::checker::{self, Verdict};
use super::devices::{Place, Places};
use super::gateway::{Builder, Gateway};
use super::history::{Entry, Event, Fault, History, Micros, Recorder, Step, now_us};
use super::kafka::Broker;
use super::monitor::Monitor;
use super::redis::{Redis, Sentinels};
use super::sign;

/// How many nodes there are.
pub const NODES: usize = 3;

/// Where the directory is.
pub enum Directory {
    /// One server.
    One(Redis),
    /// A primary and a replica that takes over, known to sentinels.
    Watched(Sentinels),
}

impl Directory {
    /// What answers now.
    pub fn primary(&self, failed_over: bool) -> &Redis {
        match self {
            Self::One(redis) => redis,
            Self::Watched(sentinels) if failed_over => &sentinels.replica,
            Self::Watched(sentinels) => &sentinels.primary,
        }
    }
}

/// The whole of it. Everything ends with it.
pub struct Cluster {
    /// The nodes; one that does not run is here too.
    pub nodes: Vec<Gateway>,
    /// Where devices and callers may go.
    pub places: Places,
    /// What happened.
    pub recorder: Arc<Recorder>,
    directory: Directory,
    failed_over: bool,
    monitors: Vec<Monitor>,
}

impl Cluster {
    /// Starts it with `set` on each node; `broker`: with this Kafka instead of the shared one.
    pub fn start(directory: Directory, broker: Option<&Broker>, set: impl Fn(Builder) -> Builder) -> Self {
        let recorder = Arc::new(Recorder::default());
        let monitors = match &directory {
            Directory::One(redis) => vec![Monitor::start(redis.port)],
            Directory::Watched(both) => vec![Monitor::start(both.primary.port), Monitor::start(both.replica.port)],
        };
        let mut nodes: Vec<Gateway> = Vec::new();
        for _ in 0..NODES {
            let mut builder = set(Gateway::build());
            if let Some(broker) = broker {
                builder = builder.brokers(&broker.brokers());
            }
            builder = match (nodes.first(), &directory) {
                (Some(first), _) => builder.beside(first),
                (None, Directory::One(redis)) => builder.redis(&redis.url()),
                (None, Directory::Watched(both)) => builder.redis(&both.primary.url()),
            };
            if let Directory::Watched(both) = &directory {
                let urls = format!("{:?}", both.urls());
                builder = builder.set("redis.urls", &urls).set("redis.mode", "'sentinel'");
                builder = builder.set("redis.sentinel_master", "'tide'");
            }
            nodes.push(builder.start());
        }
        let place = |node: &Gateway| Place { node: node.name(), addr: node.public_addr(), up: true };
        let places = Arc::new(std::sync::Mutex::new(nodes.iter().map(place).collect()));
        Self { nodes, places, recorder, directory, failed_over: false, monitors }
    }

    /// A token for an hour, made without a process of its own.
    pub fn token(&self, sub: &str, tenant: &str, scopes: &[&str]) -> String {
        let key = SigningKey::from_pem_file(&self.nodes[0].dir().join("signing-key.pem")).expect("the signing key");
        sign(&key, sub, tenant, scopes)
    }

    /// The Redis that has the rows.
    pub fn redis(&self) -> &Redis {
        self.directory.primary(self.failed_over)
    }

    fn begins(&self, fault: Fault, target: &str) {
        self.recorder.note(Event::Fault { fault, target: target.to_owned() });
    }

    fn is_over(&self, fault: Fault, target: &str) {
        self.recorder.note(Event::Over { fault, target: target.to_owned() });
    }

    fn set_up(&self, node: usize, up: bool) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[node].up = up;
    }

    /// Ends a node as a crash does.
    pub fn kill(&mut self, node: usize) {
        self.begins(Fault::Killed, &self.nodes[node].name());
        self.set_up(node, false);
        self.nodes[node].process.kill();
    }

    /// Starts a node that was killed or told to leave; Redis and Kafka must be there.
    pub fn start_again(&mut self, node: usize) {
        let name = self.nodes[node].name();
        self.nodes[node].start_again();
        self.set_up(node, true);
        self.is_over(Fault::Killed, &name);
        self.is_over(Fault::Drained, &name);
    }

    /// Tells a node to leave and waits until it has: its exit code.
    pub fn drain(&mut self, node: usize, patience: Duration) -> Option<i32> {
        self.begins(Fault::Drained, &self.nodes[node].name());
        self.set_up(node, false);
        self.nodes[node].sigterm_and_wait(patience)
    }

    /// Lets a node stand still.
    pub fn pause(&self, node: usize) {
        self.begins(Fault::Paused, &self.nodes[node].name());
        self.nodes[node].process.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self, node: usize) {
        self.nodes[node].process.signal("CONT");
        self.is_over(Fault::Paused, &self.nodes[node].name());
    }

    /// `FLUSHALL`.
    pub fn flush(&self) {
        self.begins(Fault::Flushed, "redis");
        self.redis().cli(&["FLUSHALL"]);
        self.is_over(Fault::Flushed, "redis");
    }

    /// Kills the one Redis and starts it empty after `away`.
    pub fn empty_redis(&mut self, away: Duration) {
        self.begins(Fault::RedisEmptied, "redis");
        if let Directory::One(redis) = &mut self.directory {
            redis.kill();
            std::thread::sleep(away);
            redis.restart();
            self.monitors.iter_mut().for_each(Monitor::start_again);
        }
        self.is_over(Fault::RedisEmptied, "redis");
    }

    /// Lets the one Redis stand still.
    pub fn pause_redis(&self, time: Duration) {
        self.begins(Fault::RedisPaused, "redis");
        self.redis().signal("STOP");
        std::thread::sleep(time);
        self.redis().signal("CONT");
        self.is_over(Fault::RedisPaused, "redis");
    }

    /// Lets Kafka stand still.
    pub fn pause_kafka(&self, broker: &Broker, time: Duration) {
        self.begins(Fault::KafkaPaused, "kafka");
        broker.freeze();
        std::thread::sleep(time);
        broker.thaw();
        self.is_over(Fault::KafkaPaused, "kafka");
    }

    /// Cuts the replica off, lets writes get lost for `tail`, kills the primary, and waits until the replica took over.
    pub fn fail_over(&mut self, tail: Duration) {
        if let (Directory::Watched(both), false) = (&mut self.directory, self.failed_over) {
            self.recorder.note(Event::Fault { fault: Fault::RedisLostTail, target: "redis".into() });
            both.replica.signal("STOP");
            both.primary.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
            std::thread::sleep(tail);
            both.primary.kill();
            both.replica.signal("CONT");
            both.wait_failed_over();
            self.failed_over = true;
            // Sentinel cuts every client of the new primary off, and so whoever watches it.
            self.monitors.iter_mut().skip(1).for_each(Monitor::start_again);
            self.recorder.note(Event::Over { fault: Fault::RedisLostTail, target: "redis".into() });
        }
    }

    /// Waits until Kafka has an end of each of these commands; `false`: it has not in time.
    pub fn ends_are_published(&self, ids: &[String], patience: Duration) -> bool {
        let end = std::time::Instant::now() + patience;
        loop {
            let records = self.nodes[0].records("command-events");
            let ended = |id: &String| {
                records.iter().any(|record| {
                    let event = record.json();
                    event["id"] == *id && event["state"].as_str().is_some_and(checker::is_terminal)
                })
            };
            let all = ids.iter().all(ended);
            if all || std::time::Instant::now() > end {
                return all;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Adds what Kafka and Redis have to say, and gives the whole history. Once.
    pub fn collect(&self) -> History {
        let devices = self.devices();
        self.recorder.add(self.presence());
        self.recorder.add(self.changes());
        let rows = self.rows(&devices);
        for event in rows {
            self.recorder.note(event);
        }
        self.recorder.note(Event::Collected);
        self.monitors.iter().for_each(|monitor| self.recorder.add(monitor.entries()));
        self.recorder.history()
    }

    fn devices(&self) -> Vec<String> {
        let history = self.recorder.history();
        let mut devices: Vec<_> = history
            .entries
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Welcome { device, .. } => Some(device.clone()),
                _ => None,
            })
            .collect();
        devices.sort();
        devices.dedup();
        devices
    }

    fn presence(&self) -> Vec<Entry> {
        let records = self.nodes[0].records("status").into_iter();
        let events = records.filter(|record| record.header("ce_type") == "tidegate.presence.v1").map(|record| {
            let event = record.json();
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let presence = Event::Presence {
                device: record.key.clone(),
                online: event["online"] == true,
                epoch: event["epoch"].as_u64().expect("an epoch"),
                node: text("node"),
                reason: text("reason"),
            };
            Entry { at_us: millis(&event["at"]), event: presence }
        });
        events.collect()
    }

    fn changes(&self) -> Vec<Entry> {
        let mut seen = BTreeMap::new();
        for record in self.nodes[0].records("command-events") {
            let event = record.json();
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let number = |value: &serde_json::Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            let steps = event["history"].as_array().into_iter().flatten();
            let history = steps.clone().map(|step| Step {
                version: number(&step["version"]),
                state: step["state"].as_str().unwrap_or_default().to_owned(),
                reason: step["reason"].as_str().map(str::to_owned),
            });
            let at_us = steps.map(|step| millis(&step["at"])).max().unwrap_or_default();
            let change = Event::Change {
                device: record.key.clone(),
                id: text("id"),
                key: text("key"),
                requested_by: text("requested_by"),
                version: number(&event["version"]),
                history: history.collect(),
            };
            // The same event may be there twice.
            seen.entry(format!("{change:?}")).or_insert(Entry { at_us, event: change });
        }
        seen.into_values().collect()
    }

    fn rows(&self, devices: &[String]) -> Vec<Event> {
        let redis = self.redis();
        let members = redis.cli(&["ZRANGEBYSCORE", "{tg}:nodes", &(now_us() / 1_000).to_string(), "+inf"]);
        let live: Vec<String> = members
            .lines()
            .filter_map(|member| {
                let mut parts = member.split(',');
                Some(format!("{},{}", parts.next()?, parts.next()?))
            })
            .collect();
        let row = |device: &String| {
            let key = format!("tg:{{{device}}}:own");
            let fields = redis.cli(&["HMGET", &key, "node", "incarnation", "epoch", "connection"]);
            let mut fields = fields.lines();
            let owner = format!("{},{}", fields.next()?, fields.next()?);
            let (epoch, session) = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
            let live = live.contains(&owner);
            Some(Event::Row { device: device.clone(), owner, epoch, session, live })
        };
        devices.iter().filter_map(row).collect()
    }

    /// Judges the history; one in which something is broken is kept, and its file named.
    pub fn judge(history: &History, name: &str) -> Verdict {
        let mut verdict = checker::check(history);
        if !verdict.violations.is_empty() {
            let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
            let file = dir.join(format!("{name}.jsonl"));
            history.save(&file).expect("the history is written");
            eprintln!("{name}: the history is kept in {}", file.display());
        }
        verdict.counts.insert("events", history.entries.len());
        verdict
    }
}

fn millis(value: &serde_json::Value) -> Micros {
    value.as_u64().unwrap_or_default() * 1_000
}
