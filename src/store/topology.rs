//! Which servers there are and which slot is whose: found at the start, and again when an answer shows that it changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::Instant;

use super::config::{Mode, RedisConfig, Seed};
use super::link::{Address, Credentials, Dialer, Failed, Link};
use super::{StoreError, Value};
use crate::sync::lock;

/// Slots of a Redis Cluster.
const SLOTS: u16 = 16_384;
/// For each question that finding the servers takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A slot that no server has.
const NOBODY: u16 = u16::MAX;

/// The slot of a key: that of its hash tag, where it has one.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// One server that takes writes.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) link: Arc<Link>,
    /// The same server by a connection on which calls may wait for replicas.
    pub(super) slow: Arc<Link>,
    /// The smallest number that, as a hash tag, lies in a slot of this server.
    pub(super) tag: u32,
}

/// Every server that takes writes, and the slots of each.
pub(super) struct Map {
    pub(super) servers: Vec<Server>,
    /// The server of each slot; `None` where one has all.
    slots: Option<Box<[u16]>>,
}

impl Map {
    pub(super) fn of_slot(&self, slot: u16) -> Option<&Server> {
        let at = match &self.slots {
            None => 0,
            Some(slots) => *slots.get(usize::from(slot))?,
        };
        self.servers.get(usize::from(at))
    }

    fn is_like(&self, other: &Self) -> bool {
        let addresses = |map: &Self| map.servers.iter().map(|s| s.link.address.clone()).collect::<Vec<_>>();
        self.slots == other.slots && addresses(self) == addresses(other)
    }
}

/// Finds servers and keeps one link to each.
pub(super) struct Finder {
    mode: Mode,
    master: String,
    seeds: Vec<Address>,
    dialer: Arc<Dialer>,
    links: Mutex<HashMap<(Address, Lane), Arc<Link>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Data,
    Slow,
    /// To a sentinel.
    Url,
}

impl Finder {
    /// From a configuration without mistakes; `mode` `auto` is found out by [`Finder::settle`].
    pub(super) fn new(config: &RedisConfig) -> Result<Self, String> {
        let seeds = config.urls.iter().map(|url| Seed::parse(url).map(|s| Address { host: s.host, port: s.port }));
        let mode = match config.mode {
            Mode::Auto if !config.sentinel_master.is_empty() => Mode::Sentinel,
            mode => mode,
        };
        Ok(Self {
            mode,
            master: config.sentinel_master.clone(),
            seeds: seeds.collect::<Result<_, _>>()?,
            dialer: Arc::new(Dialer::new(config)?),
            links: Mutex::default(),
        })
    }

    /// Whether servers can change places.
    pub(super) fn can_change(&self) -> bool {
        self.mode != Mode::Single
    }

    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Finds out what `auto` is: `INFO` tells, and who may not ask has a plain Redis.
    pub(super) async fn settle(&mut self) -> Result<(), StoreError> {
        if self.mode != Mode::Auto {
            return Ok(());
        }
        let mut last = StoreError::Unavailable("redis.urls is empty".into());
        for seed in &self.seeds {
            match ask(&self.link(seed, Lane::Data), &cmd("INFO")).await {
                Ok(info) => {
                    self.mode = mode_of(&info.text()?)?;
                    return Ok(());
                }
                Err(StoreError::Refused { code, text }) => {
                    tracing::warn!(code, text, "Redis does not say what it is (INFO): taken for a single one");
                    self.mode = Mode::Single;
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks around for the servers as they are now; `known` are asked first.
    pub(super) async fn find(&self, known: Option<&Map>) -> Result<Map, StoreError> {
        let map = match self.mode {
            Mode::Sentinel => self.by_sentinel().await,
            Mode::Cluster => self.by_cluster(known).await,
            Mode::Single | Mode::Auto => self.single().await,
        }?;
        self.forget_all_but(&map);
        Ok(map)
    }

    /// `Some` where they are not as in `known`.
    pub(super) async fn find_change(&self, known: &Map) -> Result<Option<Map>, StoreError> {
        let found = self.find(Some(known)).await?;
        Ok((!found.is_like(known)).then_some(found))
    }

    /// The link to where an answer pointed, which may be a server nobody knew.
    pub(super) fn elsewhere(&self, address: &Address) -> Arc<Link> {
        self.link(address, Lane::Data)
    }

    async fn single(&self) -> Result<Map, StoreError> {
        let mut last = StoreError::Unavailable("redis.urls is empty".into());
        for seed in &self.seeds {
            match self.primary_at(seed).await {
                Ok(map) => return Ok(map),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// One server for all slots, unless it says that it is a replica.
    async fn primary_at(&self, address: &Address) -> Result<Map, StoreError> {
        let server = self.server(address, 0);
        let role = match ask(&server.link, cmd("INFO").arg("replication")).await {
            Ok(info) => field(&info.text()?, "role").map(str::to_owned),
            Err(StoreError::Refused { .. }) => {
                ask(&server.link, &cmd("PING")).await?;
                None
            }
            Err(error) => return Err(error),
        };
        if role.as_deref() == Some("slave") {
            return Err(StoreError::Unavailable(format!("{address} is a replica, which takes no writes")));
        }
        Ok(Map { servers: vec![server], slots: None })
    }

    async fn by_sentinel(&self) -> Result<Map, StoreError> {
        let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master).clone();
        let mut last = StoreError::Unavailable("redis.urls is empty".into());
        for seed in &self.seeds {
            let answer = match ask(&self.link(seed, Lane::Url), &question).await {
                Ok(Value::Nil) => Err(StoreError::Unavailable(format!("{seed} knows no primary `{}`", self.master))),
                Ok(answer) => address_of(answer, &seed.host),
                Err(error) => Err(error),
            };
            let found = match answer {
                Ok(address) => self.primary_at(&address).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(map) => return Ok(map),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn by_cluster(&self, known: Option<&Map>) -> Result<Map, StoreError> {
        let known = known.into_iter().flat_map(|map| &map.servers).map(|server| &server.link.address);
        let mut last = StoreError::Unavailable("redis.urls is empty".into());
        for address in known.chain(&self.seeds) {
            match ask(&self.link(address, Lane::Data), cmd("CLUSTER").arg("SLOTS")).await {
                Ok(answer) => match self.cluster_map(answer, &address.host) {
                    Ok(map) => return Ok(map),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Reads the answer to `CLUSTER SLOTS`: for each range its first and last slot, its primary, its replicas.
    fn cluster_map(&self, answer: Value, asked: &str) -> Result<Map, StoreError> {
        let mut slots = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        let mut ranges = Vec::new();
        for range in answer.list()? {
            let mut range = range.list()?.into_iter();
            let (Some(first), Some(last), Some(primary)) = (range.next(), range.next(), range.next()) else {
                return Err(StoreError::Malformed("a range of slots without a primary"));
            };
            ranges.push((address_of(primary, asked)?, first.unsigned()?, last.unsigned()?));
        }
        // In one order for everybody, so that an unchanged cluster looks unchanged.
        let mut addresses: Vec<_> = ranges.iter().map(|(address, ..)| address.clone()).collect();
        addresses.sort();
        addresses.dedup();
        for (address, first, last) in ranges {
            let at = addresses.binary_search(&address).ok().and_then(|at| u16::try_from(at).ok()).unwrap_or(NOBODY);
            let (first, last) = (usize::try_from(first).unwrap_or(0), usize::try_from(last).unwrap_or(usize::MAX));
            slots.iter_mut().take(last.saturating_add(1)).skip(first).for_each(|slot| *slot = at);
        }
        if addresses.is_empty() {
            return Err(StoreError::Unavailable("the cluster has no primary with slots".into()));
        }
        let tags = tags(&slots, addresses.len());
        let servers = addresses.iter().zip(tags).map(|(address, tag)| self.server(address, tag)).collect();
        Ok(Map { servers, slots: Some(slots) })
    }

    fn server(&self, address: &Address, tag: u32) -> Server {
        Server { link: self.link(address, Lane::Data), slow: self.link(address, Lane::Slow), tag }
    }

    fn link(&self, address: &Address, lane: Lane) -> Arc<Link> {
        let mut links = lock(&self.links);
        let credentials = if lane == Lane::Url { Credentials::Url } else { Credentials::Data };
        let new = || Link::new(address.clone(), credentials, Arc::clone(&self.dialer));
        Arc::clone(links.entry((address.clone(), lane)).or_insert_with(new))
    }

    /// Lets go of links to servers that are neither seeds nor in use.
    fn forget_all_but(&self, map: &Map) {
        let mut links = lock(&self.links);
        links.retain(|(address, _), _| {
            self.seeds.contains(address) || map.servers.iter().any(|server| server.link.address == *address)
        });
    }
}

/// For each server the smallest number whose slot it has.
fn tags(slots: &[u16], servers: usize) -> Vec<u32> {
    let mut tags = vec![None; servers];
    let mut missing = servers;
    // Sixteen times as many numbers as slots: with one slot of all it is found all the same.
    for number in 0..u32::from(SLOTS) * 16 {
        let owner = slots.get(usize::from(slot_of(&number.to_string()))).copied().unwrap_or(NOBODY);
        if let Some(tag @ None) = tags.get_mut(usize::from(owner)) {
            *tag = Some(number);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().map(Option::unwrap_or_default).collect()
}

/// Reads host and port at the start of a list.
fn address_of(value: Value, asked: &str) -> Result<Address, StoreError> {
    let mut items = value.list()?.into_iter();
    let (Some(host), Some(port)) = (items.next(), items.next()) else {
        return Err(StoreError::Malformed("no address where an address belongs"));
    };
    // Nothing, or a question mark: the host that was asked.
    let host = host.optional_text()?.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.to_owned());
    let port = u16::try_from(port.unsigned()?).map_err(|_| StoreError::Malformed("a port above 65535"))?;
    Ok(Address { host, port })
}

/// What a server says it is.
fn mode_of(info: &str) -> Result<Mode, StoreError> {
    let mode = field(info, "redis_mode").or_else(|| field(info, "server_mode"));
    match (mode, field(info, "cluster_enabled")) {
        (Some("sentinel"), _) => Err(StoreError::Refused {
            code: "SENTINEL".into(),
            text: "redis.urls names a sentinel: set `redis.sentinel_master` to the name it knows the primary by".into(),
        }),
        (Some("cluster"), _) | (_, Some("1")) => Ok(Mode::Cluster),
        _ => Ok(Mode::Single),
    }
}

/// One line `name:value` of an answer to `INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

/// A question outside of any caller's time.
pub(super) async fn ask(link: &Arc<Link>, question: &Cmd) -> Result<Value, StoreError> {
    link.call(question, false, Instant::now() + ANSWER_WITHIN).await.map_err(|failed| match failed {
        Failed::Error(error) | Failed::NotHere(error) => error,
        other => other.into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn finder() -> Finder {
        Finder::new(&RedisConfig { urls: vec!["redis://seed:7000".into()], ..RedisConfig::default() }).unwrap()
    }

    fn node(host: Value, port: i64) -> Value {
        Value::List(vec![host, Value::Int(port), Value::Bytes(b"id".to_vec()), Value::List(vec![])])
    }

    fn range(first: i64, last: i64, primary: Value) -> Value {
        Value::List(vec![Value::Int(first), Value::Int(last), primary, node(Value::Nil, 9)])
    }

    #[test]
    fn slots_are_those_of_the_hash_tag() {
        // The figures of the cluster specification, and what `CLUSTER KEYSLOT` says.
        assert_eq!(slot_of("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot_of("tg:{acme/sensor-001}:own"), slot_of("acme/sensor-001"));
        assert_eq!(slot_of("{tg}:nodes"), slot_of("tg"));
    }

    #[tokio::test]
    async fn a_map_of_a_cluster_gives_every_slot_to_its_primary() {
        let host = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let answer = Value::List(vec![
            range(5461, 10922, node(host("b"), 7001)),
            range(0, 5460, node(Value::Nil, 7000)),
            range(10923, 16383, node(host("?"), 7002)),
        ]);
        let map = finder().cluster_map(answer, "asked").unwrap();
        let at = |slot| map.of_slot(slot).unwrap().link.address.to_string();
        assert_eq!(
            [0, 5460, 5461, 10922, 10923, 16383].map(at),
            ["asked:7000", "asked:7000", "b:7001", "b:7001", "asked:7002", "asked:7002"]
        );
        for server in &map.servers {
            let owner = map.of_slot(slot_of(&format!("tg:gen:{{{}}}", server.tag))).unwrap();
            assert_eq!(owner.link.address.to_string(), server.link.address.to_string());
        }
    }

    #[tokio::test]
    async fn slots_of_nobody_have_no_server_and_an_empty_cluster_is_no_map() {
        let answer = Value::List(vec![range(0, 99, node(Value::Nil, 7000))]);
        let map = finder().cluster_map(answer, "a").unwrap();
        assert!(map.of_slot(99).is_some() && map.of_slot(100).is_none());
        assert!(finder().cluster_map(Value::List(vec![]), "a").is_err());
    }

    #[test]
    fn info_tells_what_it_is() {
        assert_eq!(mode_of("# Server\r\nredis_mode:cluster\r\n").unwrap(), Mode::Cluster);
        assert_eq!(mode_of("redis_mode:standalone\r\ncluster_enabled:1\r\n").unwrap(), Mode::Cluster);
        assert_eq!(mode_of("redis_mode:standalone\r\ncluster_enabled:0\r\n").unwrap(), Mode::Single);
        assert_eq!(mode_of("").unwrap(), Mode::Single);
        assert!(mode_of("redis_mode:sentinel").unwrap_err().to_string().contains("sentinel_master"));
    }
}
