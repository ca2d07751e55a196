//! What the tests that run the real program share. Use it in a test file by:
//!
//! ```ignore
//! #[path = "support/support.rs"]
//! mod support;
//! ```
//!
//! Everything here blocks and may be called from a plain test or from a blocking part of an async one. A failure of the
//! scaffolding panics with what was expected and the log of the program it was about.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "this is test code")]

pub mod after;
pub mod callers;
pub mod checker;
pub mod cluster;
pub mod devices;
pub mod fleet;
pub mod gateway;
pub mod haproxy;
pub mod history;
pub mod kafka;
pub mod ledger;
pub mod monitor;
pub mod pki;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod ws;

use std::time::{Duration, Instant, SystemTime};

use tidegate::auth::signing::{SigningKey, TokenRequest};

/// A token for an hour, made without a process of its own.
pub fn sign(key: &SigningKey, sub: &str, tenant: &str, scopes: &[&str]) -> String {
    let request = TokenRequest {
        sub: sub.into(),
        tenant: Some(tenant.into()),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        devices: Vec::new(),
        ttl_s: 3_600,
        issuer: "tidegate".into(),
        audience: "tidegate".into(),
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
    key.sign_token(&request, now.as_secs()).expect("it signs")
}

/// Looks every 20 ms until `found` gives something.
///
/// # Panics
/// Naming `what` when there is nothing within `timeout`.
pub fn wait_for<T>(what: &str, timeout: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "not within {timeout:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `wait_for` of a condition.
pub fn wait_until(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, timeout, || holds().then_some(()));
}
