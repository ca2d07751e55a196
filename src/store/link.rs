//! One connection to one server: made when it is first needed, shared by all calls, replaced when it breaks or falls
//! silent.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    ServerErrorKind, TlsCertificates,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{RedisConfig, Seed};
use super::{ANSWER_WITHIN, StoreError, Value};
use crate::sync::lock;

/// For TCP, TLS and the first commands; callers do not wait that long, the connection is made all the same.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// After a connection failed the next is tried no sooner than this; twice as late each time.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// So many calls in a row without an answer, and so long without one: the connection is given up.
const SILENT_CALLS: u32 = 3;
const SILENT_FOR: Duration = Duration::from_millis(1_500);
/// Calls under way at once on one connection; further ones wait, and give up when their time is over.
const CALLS_AT_ONCE: usize = 4_096;
const QUEUED_CALLS: usize = 1_024;

/// Host and port of a server.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who the gateway says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Credentials {
    /// `redis.username` and `redis.password`, else what the first url says.
    Data,
    /// What the first url says: sentinels have users of their own.
    Url,
}

/// How connections are made.
pub(super) struct Dialer {
    config: RedisConfig,
    /// The first address, for what all have in common.
    first: Seed,
    ca: Option<Vec<u8>>,
}

impl Dialer {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, String> {
        let first = config.urls.first().ok_or("redis.urls is empty")?;
        let first = Seed::parse(first).map_err(|error| format!("redis.urls {error}"))?;
        let ca = match config.ca.as_str() {
            "" => None,
            path => Some(std::fs::read(path).map_err(|error| format!("redis.ca: `{path}` cannot be read: {error}"))?),
        };
        Ok(Self { config: config.clone(), first, ca })
    }

    fn client(&self, address: &Address, credentials: Credentials) -> Result<Client, String> {
        let (host, port) = (address.host.clone(), address.port);
        let addr = if self.first.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let (mut username, mut password) = (self.first.username.clone(), self.first.password.clone());
        if credentials == Credentials::Data {
            let configured = self.config.current_password()?;
            if !configured.is_empty() {
                password = Some(configured);
                username = None;
            }
            if !self.config.username.is_empty() {
                username = Some(self.config.username.clone());
            }
        }
        // Sentinels have no databases, and what names the client's library is not for every user to send.
        let db = if credentials == Credentials::Data { self.first.db } else { 0 };
        let mut settings = RedisConnectionInfo::default().set_db(db).set_skip_set_lib_name();
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        // Calls are small and somebody waits for each: held back until the one before is acknowledged, those that could go
        // side by side would go one after the other.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = addr.into_connection_info().map_err(|error| error.to_string())?;
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = match (&self.ca, self.first.tls) {
            (Some(ca), true) => {
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) })
            }
            _ => Client::open(info),
        };
        client.map_err(|error| error.to_string())
    }
}

enum State {
    /// Not connected. Nobody tries before the moment; the text says what the last try came to.
    Idle {
        not_before: Instant,
        pause: Duration,
        reason: String,
    },
    /// Somebody is trying; the channel ends when that is over.
    Connecting(watch::Receiver<()>),
    Ready(Ready),
}

#[derive(Clone)]
struct Ready {
    connection: MultiplexedConnection,
    /// Which of the link's connections it is.
    number: u64,
}

struct Silence {
    calls: u32,
    since: Instant,
}

/// What a command came to, apart from an answer.
pub(super) enum Failed {
    /// To be told to the caller.
    Error(StoreError),
    /// The server does not know the script.
    NoScript,
    /// The slot is elsewhere, for good.
    Moved(Address),
    /// This key is elsewhere, for the moment.
    Ask(Address),
    /// This server takes no writes, or the cluster is not whole: nothing was done, and the map may be old.
    NotHere(StoreError),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Error(error) | Failed::NotHere(error) => error,
            Failed::NoScript => Self::Unavailable("the script was forgotten as it was loaded".into()),
            Failed::Moved(to) | Failed::Ask(to) => Self::Unavailable(format!("the slot is moving to {to}")),
        }
    }
}

/// A server, and the connection to it if there is one.
pub(super) struct Link {
    pub(super) address: Address,
    credentials: Credentials,
    dialer: Arc<Dialer>,
    state: Mutex<State>,
    silence: Mutex<Silence>,
}

impl Link {
    pub(super) fn new(address: Address, credentials: Credentials, dialer: Arc<Dialer>) -> Arc<Self> {
        let now = Instant::now();
        let state = State::Idle { not_before: now, pause: RETRY_FIRST, reason: String::new() };
        let silence = Mutex::new(Silence { calls: 0, since: now });
        Arc::new(Self { address, credentials, dialer, state: Mutex::new(state), silence })
    }

    /// Sends one command and waits for its answer, until `deadline` at most. `asking` goes before what is sent where
    /// another server said [`Failed::Ask`].
    pub(super) async fn call(self: &Arc<Self>, cmd: &Cmd, asking: bool, deadline: Instant) -> Result<Value, Failed> {
        let mut ready = match timeout_at(deadline, self.ready()).await {
            Ok(ready) => ready.map_err(Failed::NotHere)?,
            Err(_) => return Err(Failed::Error(self.unavailable("no connection in time"))),
        };
        let sent = async {
            if asking {
                // Only for the command that comes next on the connection: both in one piece.
                let pipeline = redis::pipe().cmd("ASKING").ignore().add_command(cmd.clone()).clone();
                let mut answers = ready.connection.send_packed_commands(&pipeline, 1, 1).await?;
                return answers.pop().unwrap_or_default().extract_error();
            }
            ready.connection.send_packed_command(cmd).await?.extract_error()
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(value)) => {
                self.heard();
                Ok(value.into())
            }
            Ok(Err(error)) => Err(self.failed(&error, ready.number)),
            Err(_) => Err(self.silent(ready.number)),
        }
    }

    /// The connection, made if need be.
    async fn ready(self: &Arc<Self>) -> Result<Ready, StoreError> {
        loop {
            let mut waiting = {
                let mut state = lock(&self.state);
                match &*state {
                    State::Ready(ready) => return Ok(ready.clone()),
                    State::Idle { not_before, reason, .. } if Instant::now() < *not_before => {
                        return Err(self.unavailable(reason));
                    }
                    // Ended without a result: the runtime it ran on is gone.
                    State::Connecting(waiting) if waiting.has_changed().is_ok() => waiting.clone(),
                    State::Connecting(_) => self.dial(&mut state, RETRY_FIRST),
                    State::Idle { pause, .. } => {
                        let pause = *pause;
                        self.dial(&mut state, pause)
                    }
                }
            };
            // Ends with an error when the one who tries is done, which is what is waited for.
            let _ = waiting.changed().await;
        }
    }

    /// Begins a connection on a task of its own, so that it is made even if nobody waits so long.
    fn dial(self: &Arc<Self>, state: &mut State, pause: Duration) -> watch::Receiver<()> {
        let (done, waiting) = watch::channel(());
        *state = State::Connecting(waiting.clone());
        let link = Arc::clone(self);
        tokio::spawn(async move {
            let made = link.connect().await;
            *lock(&link.state) = match made {
                Ok(connection) => {
                    link.heard();
                    State::Ready(Ready { connection, number: fastrand::u64(..) })
                }
                Err(reason) => {
                    tracing::debug!(server = %link.address, reason, "no connection to Redis");
                    let not_before = Instant::now() + pause;
                    State::Idle { not_before, pause: (pause * 2).min(RETRY_LAST), reason }
                }
            };
            drop(done);
        });
        waiting
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let client = self.dialer.client(&self.address, self.credentials)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN))
            .set_pipeline_buffer_size(QUEUED_CALLS)
            .set_concurrency_limit(CALLS_AT_ONCE);
        match timeout(CONNECT_WITHIN, client.get_multiplexed_async_connection_with_config(&config)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(format!("{error}: check redis.username and redis.password"))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT_WITHIN:?}")),
        }
    }

    fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable(format!("{}: {reason}", self.address))
    }

    fn heard(&self) {
        *lock(&self.silence) = Silence { calls: 0, since: Instant::now() };
    }

    /// A call was sent and not answered. Several in a row mean that the connection leads nowhere, which TCP alone would
    /// find after minutes.
    fn silent(&self, number: u64) -> Failed {
        let give_up = {
            let mut silence = lock(&self.silence);
            silence.calls = silence.calls.saturating_add(1);
            silence.calls >= SILENT_CALLS && silence.since.elapsed() >= SILENT_FOR
        };
        if give_up {
            self.discard(number, "it fell silent");
        }
        Failed::Error(StoreError::Unknown(format!("{} gave no answer in time", self.address)))
    }

    /// Forgets a connection, unless another has taken its place.
    fn discard(&self, number: u64, reason: &str) {
        let mut state = lock(&self.state);
        if matches!(&*state, State::Ready(ready) if ready.number == number) {
            tracing::debug!(server = %self.address, reason, "a connection to Redis is given up");
            *state = State::Idle { not_before: Instant::now(), pause: RETRY_FIRST, reason: reason.to_owned() };
        }
    }

    fn failed(&self, error: &RedisError, number: u64) -> Failed {
        if error.is_timeout() {
            return self.silent(number);
        }
        let here = || StoreError::Unavailable(format!("{}: {error}", self.address));
        match error.kind() {
            ErrorKind::Server(kind) => {
                self.heard();
                match kind {
                    ServerErrorKind::NoScript => Failed::NoScript,
                    ServerErrorKind::Moved | ServerErrorKind::Ask => match self.redirect(error) {
                        Some(to) if kind == ServerErrorKind::Moved => Failed::Moved(to),
                        Some(to) => Failed::Ask(to),
                        None => Failed::Error(StoreError::Malformed("a redirection to nowhere")),
                    },
                    ServerErrorKind::ReadOnly | ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown => {
                        Failed::NotHere(here())
                    }
                    ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain => Failed::Error(here()),
                    _ => Failed::Error(refused(error)),
                }
            }
            ErrorKind::Extension => {
                self.heard();
                match error.code() {
                    Some("OOM") => Failed::Error(StoreError::Full),
                    Some("BUSY" | "NOREPLICAS" | "MISCONF") => Failed::Error(here()),
                    _ => Failed::Error(refused(error)),
                }
            }
            _ => {
                // The connection broke with the command under way: whether it was done nobody knows.
                self.discard(number, "it broke");
                Failed::Error(StoreError::Unknown(format!("{}: {error}", self.address)))
            }
        }
    }

    /// Where an answer points; a server that leaves its name out means its own host.
    fn redirect(&self, error: &RedisError) -> Option<Address> {
        let (place, _) = error.redirect_node()?;
        Address::parse(place, &self.address.host)
    }
}

impl Address {
    /// Reads `host:port`, also with an IPv6 address; `own` stands in for a missing host.
    pub(super) fn parse(text: &str, own: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() || host == "?" { own } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

fn refused(error: &RedisError) -> StoreError {
    StoreError::Refused {
        code: error.code().unwrap_or("ERR").to_owned(),
        text: error.detail().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_a_server_gives() {
        let parse = |text: &str| Address::parse(text, "own").map(|address| address.to_string());
        assert_eq!(parse("10.0.0.1:7000").unwrap(), "10.0.0.1:7000");
        assert_eq!(parse("redis-1.example:7000").unwrap(), "redis-1.example:7000");
        assert_eq!(parse(":7000").unwrap(), "own:7000");
        assert_eq!(parse("?:7000").unwrap(), "own:7000");
        assert_eq!(parse("fe80::1:7000").unwrap(), "fe80::1:7000");
        for wrong in ["", "host", "host:", "host:99999"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
