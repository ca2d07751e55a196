//! Tokens for brokers that want OAUTHBEARER: asked for with the client's id and secret (OpenID Connect's client
//! credentials), kept fresh on a thread of their own, and given to every client of librdkafka that wants one.
//!
//! librdkafka asks on the threads that handle delivery reports, which must not wait for somebody else's service: it gets
//! the token there is, and waits only as long as there was never one.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

use super::{KafkaConfig, StartError};
use crate::clock::unix_ms;
use crate::https::Endpoint;
use crate::sync::lock;

/// How long a client waits for the very first token: a little longer than one request takes at most.
const FIRST_WITHIN: Duration = Duration::from_secs(6);
/// After a request that failed the next comes after this, twice as late each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// A new one is fetched when this much of a token's time is over: before librdkafka asks, which it does at 80 %.
const FRESH_PERCENT: u64 = 70;
/// No sooner after the last one than this, however short its life.
const LEAST: Duration = Duration::from_secs(1);

/// Where a configuration keeps its tokens, for all its clones together. It is no part of what was configured.
#[derive(Clone, Default)]
pub struct TokenCell(Arc<OnceLock<Result<Arc<Tokens>, String>>>);

impl fmt::Debug for TokenCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCell")
    }
}

impl PartialEq for TokenCell {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TokenCell {}

/// The tokens of one client; fetched until this is dropped.
pub(super) struct Tokens(Arc<Shared>);

struct Shared {
    source: Source,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Why the last request failed.
    trouble: Option<String>,
    over: bool,
}

#[derive(Clone)]
struct Token {
    text: String,
    principal: String,
    expires_ms: i64,
}

/// Who is asked, and how.
struct Source {
    endpoint: Endpoint,
    client: String,
    authorization: String,
    form: String,
}

impl KafkaConfig {
    /// The tokens, where the mechanism is OAUTHBEARER. The first call begins to fetch them.
    pub(super) fn tokens(&self) -> Result<Option<Arc<Tokens>>, StartError> {
        if !self.is_oauth() {
            return Ok(None);
        }
        let made = self.oauth_tokens.0.get_or_init(|| Source::new(self).and_then(Tokens::start));
        made.clone().map(Some).map_err(StartError::Config)
    }
}

/// What librdkafka's callback answers.
pub(super) fn give(tokens: Option<&Arc<Tokens>>) -> Result<OAuthToken, Box<dyn Error>> {
    let Some(tokens) = tokens else { return Err("kafka.sasl_mechanism is not OAUTHBEARER".into()) };
    let Token { text, principal, expires_ms } = tokens.current()?;
    Ok(OAuthToken { token: text, principal_name: principal, lifetime_ms: expires_ms })
}

impl Tokens {
    fn start(source: Source) -> Result<Arc<Self>, String> {
        let shared = Arc::new(Shared { source, state: Mutex::default(), changed: Condvar::new() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime to fetch tokens in: {error}"))?;
        let own = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("kafka-oauth".to_owned()).spawn(move || own.keep(&runtime));
        spawned.map_err(|error| format!("no thread to fetch tokens on: {error}"))?;
        Ok(Arc::new(Self(shared)))
    }

    /// The token there is, or why there is none.
    fn current(&self) -> Result<Token, String> {
        let waiting = |state: &mut State| state.token.is_none() && state.trouble.is_none() && !state.over;
        let state = self.0.changed.wait_timeout_while(lock(&self.0.state), FIRST_WITHIN, waiting);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        match (&state.token, &state.trouble) {
            (Some(token), _) if token.expires_ms > unix_ms() => Ok(token.clone()),
            (_, Some(trouble)) => Err(trouble.clone()),
            _ => Err("kafka.oauth_token_url: no token yet".to_owned()),
        }
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        lock(&self.0.state).over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Fetches until it is over.
    fn keep(&self, runtime: &tokio::runtime::Runtime) {
        let mut retry = RETRY_FIRST;
        loop {
            let fetched = runtime.block_on(self.source.fetch());
            let mut state = lock(&self.state);
            let pause = match fetched {
                Ok(token) => {
                    retry = RETRY_FIRST;
                    if state.trouble.take().is_some() {
                        tracing::info!("tokens for Kafka can be had again");
                    }
                    let left = u64::try_from(token.expires_ms - unix_ms()).unwrap_or_default();
                    state.token = Some(token);
                    Duration::from_millis(left / 100 * FRESH_PERCENT).max(LEAST)
                }
                Err(reason) => {
                    if state.trouble.as_ref() != Some(&reason) {
                        tracing::warn!(reason, "no token for Kafka could be had; it is tried again");
                    }
                    state.trouble = Some(reason);
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                    pause
                }
            };
            self.changed.notify_all();
            let waited = self.changed.wait_timeout_while(state, pause, |state| !state.over);
            if waited.unwrap_or_else(PoisonError::into_inner).0.over {
                return;
            }
        }
    }
}

impl Source {
    fn new(config: &KafkaConfig) -> Result<Self, String> {
        let ca = Some(Path::new(&config.oauth_ca)).filter(|path| !path.as_os_str().is_empty());
        let endpoint = Endpoint::new(&config.oauth_token_url, ca);
        let endpoint = endpoint.map_err(|error| format!("kafka.oauth_token_url: {error}"))?;
        let pair = format!("{}:{}", escaped(&config.username), escaped(&config.password));
        let mut form = "grant_type=client_credentials".to_owned();
        if !config.oauth_scope.is_empty() {
            form = format!("{form}&scope={}", escaped(&config.oauth_scope));
        }
        Ok(Self {
            endpoint,
            client: config.username.clone(),
            authorization: format!("Basic {}", STANDARD.encode(pair)),
            form,
        })
    }

    async fn fetch(&self) -> Result<Token, String> {
        let asked = self.endpoint.post_form(&self.authorization, self.form.clone()).await;
        let told = asked.and_then(|(status, body)| self.read(status, &body, unix_ms()));
        told.map_err(|reason| format!("kafka.oauth_token_url: {reason}"))
    }

    fn read(&self, status: StatusCode, body: &[u8], now_ms: i64) -> Result<Token, String> {
        if status != StatusCode::OK {
            return Err(refusal(status, body));
        }
        let granted: Granted = serde_json::from_slice(body).map_err(|_| "its answer holds no access_token")?;
        let claims = claims(&granted.access_token).unwrap_or_default();
        let by_answer = granted.expires_in.map(|seconds| now_ms.saturating_add(milliseconds(seconds)));
        let expires_ms = claims.exp.map(milliseconds).into_iter().chain(by_answer).min();
        let expires_ms = expires_ms.ok_or("its answer says neither expires_in nor, in the token, exp")?;
        if expires_ms <= now_ms {
            return Err("its token has expired already: do the clocks differ?".to_owned());
        }
        let principal = claims.sub.unwrap_or_else(|| self.client.clone());
        Ok(Token { text: granted.access_token, principal, expires_ms })
    }
}

/// What a token endpoint answers (RFC 6749, 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<f64>,
}

/// What is read in a token that is a JWT. It is not verified: that is the brokers' part.
#[derive(Default, Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Seconds as they stand in JSON; what is out of all bounds ends up at the largest or smallest number.
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1_000.0) as i64
}

/// What a refusal means: the status, the error's name (RFC 6749, 5.2) and the key to look at.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let named = serde_json::from_slice(body).map(|Refused { error }| error).unwrap_or_default();
    // Anything else is somebody's page, of which nothing belongs into a log.
    let is_name = !named.is_empty() && named.len() <= 64 && named.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let remedy = match (named.as_str(), status) {
        ("invalid_scope", _) => "check kafka.oauth_scope",
        ("invalid_client" | "unauthorized_client" | "invalid_grant", _) | (_, StatusCode::UNAUTHORIZED) => {
            "check kafka.username and kafka.password, the client's id and secret"
        }
        (_, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => "is it the token endpoint's URL?",
        _ => "see the issuer's log",
    };
    format!("answered {}{}: {remedy}", status.as_u16(), if is_name { format!(" {named}") } else { String::new() })
}

/// A text as forms and the credentials of RFC 6749 have it.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source() -> Source {
        let config = KafkaConfig {
            username: "gate way".to_owned(),
            password: "s:cret/+".to_owned(),
            oauth_token_url: "http://127.0.0.1:1/token".to_owned(),
            oauth_scope: "kafka write".to_owned(),
            ..KafkaConfig::default()
        };
        Source::new(&config).unwrap()
    }

    #[test]
    fn the_client_says_who_it_is_as_rfc_6749_wants_it() {
        let source = source();
        let pair = source.authorization.strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(pair).unwrap(), b"gate%20way:s%3Acret%2F%2B");
        assert_eq!(source.form, "grant_type=client_credentials&scope=kafka%20write");
    }

    #[test]
    fn a_token_lives_as_long_as_the_shorter_of_what_is_said_of_it() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let read = |body: String| source().read(StatusCode::OK, body.as_bytes(), 1_000_000);
        let both = read(format!(r#"{{"access_token":"{}","expires_in":300}}"#, jwt(r#"{"exp":1100,"sub":"me"}"#)));
        let both = both.unwrap();
        assert_eq!((both.expires_ms, both.principal.as_str()), (1_100_000, "me"));
        let opaque = read(r#"{"access_token":"opaque","expires_in":"soon"}"#.to_owned());
        assert!(opaque.is_err(), "a life that is no number");
        let opaque = read(r#"{"access_token":"opaque","expires_in":60}"#.to_owned()).unwrap();
        assert_eq!((opaque.expires_ms, opaque.principal.as_str()), (1_060_000, "gate way"));
        for (body, why) in [
            (r#"{"access_token":"opaque"}"#.to_owned(), "expires_in"),
            ("<html>".to_owned(), "access_token"),
            (format!(r#"{{"access_token":"{}"}}"#, jwt(r#"{"exp":999}"#)), "expired"),
        ] {
            let error = read(body).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_refusal_names_the_key_to_look_at_and_quotes_no_page() {
        let of = |status: u16, body: &str| refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert!(of(401, r#"{"error":"invalid_client"}"#).contains("401 invalid_client: check kafka.username"));
        assert!(of(400, r#"{"error":"invalid_scope"}"#).contains("kafka.oauth_scope"));
        assert!(of(404, "<html>hunter2</html>").contains("token endpoint"));
        assert!(!of(500, r#"{"error":"HUNTER2 hunter2"}"#).to_lowercase().contains("hunter2"));
    }

    #[test]
    fn who_asks_is_told_why_there_is_no_token() {
        // Nobody listens at the first port.
        let tokens = Tokens::start(source()).unwrap();
        let error = give(Some(&tokens)).err().unwrap().to_string();
        assert!(error.starts_with("kafka.oauth_token_url: ") && !error.contains("s:cret"), "{error}");
    }
}
