//! Redis: the one place that speaks to it. A script is run where its keys are, every call ends in time, and an error says
//! whether anything may have been done.
//!
//! There is one primary, or one that sentinels know, or a cluster of several found through any of its addresses. Each
//! has one connection that all calls share; answers are matched by their order on it, so one that comes late meets
//! nobody else's question. Commands used are those of Redis 7.0, and neither `CONFIG` nor `KEYS` is among them.

mod config;
pub mod keys;
mod link;
mod rights;
mod topology;
mod value;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

pub use config::{Mode, RedisConfig};
pub use value::{Arg, Value};

use link::{Failed, Link};
use topology::{Finder, Map, Server};

/// For an answer to one command.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// For one call: a connection, the command, and once more where the first server sent it on.
pub const CALL_WITHIN: Duration = Duration::from_millis(600);
/// How long a call may wait for replicas.
const REPLICAS_WITHIN_MS: u64 = 400;
/// How long a call that waits for replicas may take.
const REPLICATED_WITHIN: Duration = Duration::from_millis(1_100);
/// Servers are looked for again this often without any sign that they changed: an old primary that lost its sentinels
/// gives none.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// And no sooner after the last time than this.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was done: no connection, or Redis said that it takes no writes for now. The text names the server.
    #[error("Redis is away: {0}")]
    Unavailable(String),
    /// It was sent and not answered: it may have been done, it may yet be done. Read again, never assume.
    #[error("Redis did not answer: {0}")]
    Unknown(String),
    /// Nothing was written: Redis is at `maxmemory`.
    #[error("Redis is full (maxmemory): give it more memory")]
    Full,
    /// Redis said no and would again: a right that is missing, a fault in a script.
    #[error("Redis refused: {code} {text}")]
    Refused {
        /// The first word of the answer, as `NOPERM`.
        code: String,
        /// The rest.
        text: String,
    },
    /// The answer was not what the command or script gives: another version, or somebody else's key.
    #[error("Redis answered with {0}")]
    Malformed(&'static str),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_) | Self::Full)
    }

    /// Whether it was refused for its keys' lying in several slots.
    pub fn is_cross_slot(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "CROSSSLOT")
    }

    /// Whether what was asked for may have been done.
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Why the store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The section `redis` is wrong: exit 78.
    #[error("{0}")]
    Config(String),
    /// Redis would drop keys that are alive: exit 78.
    #[error(
        "Redis at {server} has maxmemory-policy `{policy}`, which drops the rows of connected devices and queued \
         commands when memory is short: set it to `noeviction` (or a `volatile-*` policy) there and start again"
    )]
    Policy {
        /// Host and port.
        server: String,
        /// The policy, as `allkeys-lru`.
        policy: String,
    },
    /// The gateway's user may not do what it has to: exit 78.
    #[error(
        "the user of Redis at {server} lacks rights: ACL SETUSER {user} {rules} gives it them (docs/secured-neighbours.md \
         has all it needs)"
    )]
    Rights {
        /// Host and port.
        server: String,
        /// The user.
        user: String,
        /// What is missing, as rules of `ACL SETUSER`.
        rules: String,
    },
    /// Nobody answered in time: exit 69.
    #[error("no Redis at {urls} within {waited:?}: {reason}")]
    Unreachable {
        /// `redis.urls` without credentials.
        urls: String,
        /// How long it was tried.
        waited: Duration,
        /// The last reason heard.
        reason: String,
    },
}

impl ConnectError {
    /// Whether trying again later may help (exit 69), where nobody has to change anything (exit 78).
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A Lua script: sent by its hash, and whole where the server does not know it.
pub struct Script {
    name: &'static str,
    text: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    /// A script of a `.lua` file (`include_str!`); `name` is for people.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, sha: OnceLock::new() }
    }

    /// What people call it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn sha(&self) -> &str {
        self.sha.get_or_init(|| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, self.text.as_bytes());
            digest.as_ref().iter().fold(String::with_capacity(40), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        })
    }

    fn call(&self, whole: bool, keys: &[&str], args: &[Arg<'_>]) -> Cmd {
        let mut command = cmd(if whole { "EVAL" } else { "EVALSHA" });
        command.arg(if whole { self.text } else { self.sha() }).arg(keys.len());
        keys.iter().for_each(|key| {
            command.arg(key);
        });
        add(&mut command, args);
        command
    }
}

fn add(command: &mut Cmd, args: &[Arg<'_>]) {
    for arg in args {
        match arg {
            Arg::Bytes(bytes) => command.arg(bytes),
            Arg::Unsigned(number) => command.arg(number),
            Arg::Signed(number) => command.arg(number),
        };
    }
}

/// A server that takes writes, as it was when [`Store::primaries`] was called.
#[derive(Clone)]
pub struct Primary(Server);

impl Primary {
    /// `host:port`: another one after a failover.
    pub fn name(&self) -> String {
        self.0.link.address.to_string()
    }

    /// A hash tag that lies in a slot of this server: the same for every node that sees the same cluster.
    pub fn tag(&self) -> String {
        format!("{{{}}}", self.0.tag)
    }
}

struct Inner {
    finder: Finder,
    map: watch::Sender<Arc<Map>>,
    look: Notify,
    wait_replicas: u32,
    /// It is not called a cluster and refused keys of several slots all the same, as proxies in front of one do.
    is_split: AtomicBool,
}

/// The connection to Redis. Calls are independent of one another; a store that is dropped ends its connections.
pub struct Store {
    inner: Arc<Inner>,
    looking: tokio::task::JoinHandle<()>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Store {
    /// Finds the servers, checks that none of them would drop keys that are alive, and stays connected.
    ///
    /// # Errors
    /// [`ConnectError`]; for what may get better it is tried again until `timeout`.
    pub async fn connect(config: &RedisConfig, timeout: Duration) -> Result<Self, ConnectError> {
        if let Some((key, text)) = config.mistakes().into_iter().next() {
            return Err(ConnectError::Config(format!("{key} {text}")));
        }
        let mut finder = Finder::new(config).map_err(ConnectError::Config)?;
        let end = Instant::now() + timeout;
        let mut reason = "no answer".to_owned();
        loop {
            let found = async {
                finder.settle().await?;
                finder.find(None).await
            };
            match timeout_at(end, found).await {
                Ok(Ok(map)) => {
                    check_policies(&map).await?;
                    check_rights(&map, config).await?;
                    return Ok(Self::open(config, finder, map));
                }
                Ok(Err(StoreError::Refused { code, text })) => {
                    return Err(ConnectError::Config(format!(
                        "Redis refuses what is needed to find it: {code} {text}"
                    )));
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + LOOK_PAUSE >= end {
                return Err(ConnectError::Unreachable { urls: config.places().join(","), waited: timeout, reason });
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    fn open(config: &RedisConfig, finder: Finder, map: Map) -> Self {
        let servers: Vec<_> = map.servers.iter().map(|server| server.link.address.to_string()).collect();
        tracing::info!(mode = ?finder.mode(), servers = servers.join(","), "connected to Redis");
        let map = watch::Sender::new(Arc::new(map));
        let wait_replicas = config.wait_replicas;
        let inner =
            Arc::new(Inner { finder, map, look: Notify::new(), wait_replicas, is_split: AtomicBool::new(false) });
        let looking = tokio::spawn(keep_looking(Arc::clone(&inner)));
        Self { inner, looking }
    }

    /// Runs a script on the server that has `keys`, which lie in one slot but where [`Store::is_whole`]; the first says
    /// which. At most once, but for a server that sent it on undone.
    ///
    /// # Errors
    /// [`StoreError`], within [`CALL_WITHIN`].
    pub async fn run(&self, script: &Script, keys: &[&str], args: &[Arg<'_>]) -> Result<Value, StoreError> {
        let deadline = Instant::now() + CALL_WITHIN;
        self.run_on(|server| &server.link, script, keys, args, deadline).await
    }

    /// Whether one script may have keys of several slots, as far as is known: not in a cluster, nor where
    /// [`StoreError::is_cross_slot`] was answered once.
    pub fn is_whole(&self) -> bool {
        self.inner.finder.mode() != Mode::Cluster && !self.inner.is_split.load(Ordering::Relaxed)
    }

    /// [`Store::run`], and then `redis.wait_replicas` replicas have it.
    ///
    /// # Errors
    /// [`StoreError`] within 1.1 s; [`StoreError::Unknown`] also where it was done and too few replicas said so.
    pub async fn run_replicated(&self, script: &Script, keys: &[&str], args: &[Arg<'_>]) -> Result<Value, StoreError> {
        let wanted = self.inner.wait_replicas;
        if wanted == 0 {
            return self.run(script, keys, args).await;
        }
        let deadline = Instant::now() + REPLICATED_WITHIN;
        // WAIT holds up what comes behind it on its connection, and counts for what went before it on the same one.
        let value = self.run_on(|server| &server.slow, script, keys, args, deadline).await?;
        let link = self.server_of(keys)?.slow;
        let wait = cmd("WAIT").arg(wanted).arg(REPLICAS_WITHIN_MS).clone();
        let got = match link.call(&wait, false, deadline).await.map_err(StoreError::from) {
            Ok(got) => got.unsigned()?,
            Err(error) => {
                return Err(StoreError::Unknown(format!("done, but not known on how many replicas: {error}")));
            }
        };
        if got >= u64::from(wanted) {
            return Ok(value);
        }
        Err(StoreError::Unknown(format!("done, but {got} of {wanted} replicas had it in time")))
    }

    /// Sends one command to the server that has `key`; `args` are everything behind the command's name.
    ///
    /// # Errors
    /// [`StoreError`], within [`CALL_WITHIN`].
    pub async fn command(&self, name: &str, key: &str, args: &[Arg<'_>]) -> Result<Value, StoreError> {
        let mut command = cmd(name);
        add(&mut command, args);
        let deadline = Instant::now() + CALL_WITHIN;
        let link = self.server_of(&[key])?.link;
        self.follow(link, deadline, |link, asking, deadline| {
            let command = &command;
            async move { link.call(command, asking, deadline).await }
        })
        .await
    }

    /// Every server that takes writes: one, or as many as the cluster has.
    pub fn primaries(&self) -> Vec<Primary> {
        self.inner.map.borrow().servers.iter().cloned().map(Primary).collect()
    }

    /// [`Primary::name`] of the server that has a key; empty for a slot of nobody.
    pub fn primary_of(&self, key: &str) -> String {
        self.server_of(&[key]).map(|server| server.link.address.to_string()).unwrap_or_default()
    }

    /// Sends one command to one server, whoever has the keys in it: an answer that points elsewhere is an error.
    ///
    /// # Errors
    /// [`StoreError`], within [`CALL_WITHIN`].
    pub async fn on(&self, primary: &Primary, name: &str, args: &[Arg<'_>]) -> Result<Value, StoreError> {
        let mut command = cmd(name);
        add(&mut command, args);
        let called = primary.0.link.call(&command, false, Instant::now() + CALL_WITHIN).await;
        called.map_err(|failed| self.note(failed))
    }

    /// A primary's replication id (`INFO replication`): another one when a replica took its place, or it restarted.
    /// Nothing where it does not tell.
    ///
    /// # Errors
    /// [`StoreError`], within [`CALL_WITHIN`].
    pub async fn replication_id(&self, primary: &Primary) -> Result<Option<String>, StoreError> {
        match self.on(primary, "INFO", &["replication".into()]).await {
            Ok(info) => Ok(topology::field(&info.text()?, "master_replid").map(str::to_owned)),
            Err(StoreError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A round trip to every primary.
    ///
    /// # Errors
    /// The first [`StoreError`], within [`CALL_WITHIN`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        let primaries = self.primaries();
        let pings = primaries.iter().map(|primary| self.on(primary, "PING", &[]));
        futures_util::future::try_join_all(pings).await.map(|_| ())
    }

    /// Looks for the servers again, soon.
    pub fn look_again(&self) {
        self.inner.look.notify_one();
    }

    fn server_of(&self, keys: &[&str]) -> Result<Server, StoreError> {
        let slot = topology::slot_of(keys.first().copied().unwrap_or_default());
        let map = Arc::clone(&self.inner.map.borrow());
        let in_one = || keys.iter().all(|key| topology::slot_of(key) == slot);
        debug_assert!(self.is_whole() || in_one(), "keys of several slots: {keys:?}");
        match map.of_slot(slot) {
            Some(server) => Ok(server.clone()),
            None => {
                self.look_again();
                Err(StoreError::Unavailable(format!("slot {slot} has no server")))
            }
        }
    }

    async fn run_on(
        &self,
        lane: impl Fn(&Server) -> &Arc<Link>,
        script: &Script,
        keys: &[&str],
        args: &[Arg<'_>],
        deadline: Instant,
    ) -> Result<Value, StoreError> {
        let link = Arc::clone(lane(&self.server_of(keys)?));
        self.follow(link, deadline, |link, asking, deadline| async move {
            match link.call(&script.call(false, keys, args), asking, deadline).await {
                Err(Failed::NoScript) => link.call(&script.call(true, keys, args), asking, deadline).await,
                other => other,
            }
        })
        .await
    }

    /// Calls, and once more where the first answer points.
    async fn follow<F>(
        &self,
        link: Arc<Link>,
        deadline: Instant,
        call: impl Fn(Arc<Link>, bool, Instant) -> F,
    ) -> Result<Value, StoreError>
    where
        F: Future<Output = Result<Value, Failed>>,
    {
        let (to, asking) = match call(link, false, deadline).await {
            Ok(value) => return Ok(value),
            Err(Failed::Moved(to)) => {
                self.look_again();
                (to, false)
            }
            Err(Failed::Ask(to)) => (to, true),
            Err(failed) => return Err(self.note(failed)),
        };
        let again = call(self.inner.finder.elsewhere(&to), asking, deadline).await;
        again.map_err(|failed| self.note(failed))
    }

    /// Turns a failure into what the caller hears, and looks for the servers where it shows that they changed.
    fn note(&self, failed: Failed) -> StoreError {
        if matches!(failed, Failed::Moved(_) | Failed::NotHere(_)) {
            self.look_again();
        }
        let error = StoreError::from(failed);
        if error.is_cross_slot() {
            self.inner.is_split.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// Follows the servers as they change places.
async fn keep_looking(inner: Arc<Inner>) {
    if !inner.finder.can_change() {
        return;
    }
    loop {
        // Asked for, or as a matter of course.
        let _ = tokio::time::timeout(LOOK_EVERY, inner.look.notified()).await;
        let known = Arc::clone(&inner.map.borrow());
        match inner.finder.find_change(&known).await {
            Ok(Some(map)) => {
                let servers: Vec<_> = map.servers.iter().map(|server| server.link.address.to_string()).collect();
                tracing::info!(servers = servers.join(","), "Redis has other primaries or other slots");
                inner.map.send_replace(Arc::new(map));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "the primaries of Redis could not be found");
                inner.look.notify_one();
            }
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Refuses to start where keys that are alive would be dropped; where that cannot be known, warns.
async fn check_policies(map: &Map) -> Result<(), ConnectError> {
    for server in &map.servers {
        let address = server.link.address.to_string();
        let answer = topology::ask(&server.link, cmd("INFO").arg("memory")).await.and_then(Value::text);
        match answer.as_deref().map(|info| topology::field(info, "maxmemory_policy")) {
            Ok(Some(policy)) if policy.starts_with("allkeys-") => {
                return Err(ConnectError::Policy { server: address, policy: policy.to_owned() });
            }
            Ok(Some(_)) => {}
            Ok(None) => warn_about_policy(&address, "INFO does not say"),
            Err(error) => warn_about_policy(&address, &error.to_string()),
        }
    }
    Ok(())
}

/// Refuses to start where the user may not do what the gateway has to; where that cannot be known, goes on.
async fn check_rights(map: &Map, config: &RedisConfig) -> Result<(), ConnectError> {
    // Of a cluster one stands for all.
    let Some(server) = map.of_slot(topology::slot_of(rights::KEY)) else { return Ok(()) };
    let address = server.link.address.to_string();
    let rules = match rights::missing(server, config.wait_replicas > 0).await {
        Ok(rules) => rules,
        Err(StoreError::Refused { code, .. }) if code == "NOPERM" => rights::TO_ASK.to_owned(),
        Err(error) => {
            tracing::warn!(server = address, %error, "whether Redis lets this user do all it has to is not known");
            return Ok(());
        }
    };
    let user = config.user();
    if rules.is_empty() { Ok(()) } else { Err(ConnectError::Rights { server: address, user, rules }) }
}

fn warn_about_policy(server: &str, reason: &str) {
    tracing::warn!(
        server,
        reason,
        "Redis' maxmemory-policy is not known: make sure that it is noeviction or volatile-*, or rows of connected \
         devices may be dropped"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_known_by_the_hash_redis_gives_it() {
        // As `SCRIPT LOAD "return 1"` answers.
        assert_eq!(Script::new("one", "return 1").sha(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    #[test]
    fn a_call_says_how_many_keys_it_has() {
        let script = Script::new("one", "return 1");
        let call = script.call(true, &["a", "b"], &["x".into(), 7_u64.into(), (-7_i64).into()]);
        let packed = String::from_utf8(call.get_packed_command()).unwrap();
        let words: Vec<_> =
            packed.split("\r\n").filter(|line| !line.starts_with(['$', '*']) && !line.is_empty()).collect();
        assert_eq!(words, ["EVAL", "return 1", "2", "a", "b", "x", "7", "-7"]);
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_said_at_once_and_silence_after_the_time() {
        let config = RedisConfig::default();
        assert!(matches!(Store::connect(&config, Duration::ZERO).await, Err(ConnectError::Config(_))));
        // A port on which nobody listens: it is bound and closed again.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = RedisConfig { urls: vec![format!("redis://:pw@127.0.0.1:{port}")], ..config };
        let Err(error) = Store::connect(&config, Duration::from_millis(600)).await else { unreachable!() };
        assert!(error.is_retryable() && error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(!error.to_string().contains("pw@"), "{error}");
    }
}
