//! Who is speaking, and what it may do. Only this directory can make one of these.

use std::fmt;
use std::sync::Arc;

use crate::id::{DeviceKey, MAX_ID_BYTES};

/// One of the words a token's scope claim may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Connect as the device the token names.
    Device,
    /// Subscribe to and read what devices sent.
    TelemetryRead,
    /// Send commands to devices.
    CommandsWrite,
    /// Disconnect, block, revoke, trace.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Device, Self::TelemetryRead, Self::CommandsWrite, Self::Admin];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::TelemetryRead => "telemetry:read",
            Self::CommandsWrite => "commands:write",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Device => 1,
            Self::TelemetryRead => 2,
            Self::CommandsWrite => 4,
            Self::Admin => 8,
        }
    }
}

/// The scopes of a token that mean something here. None implies another.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scopes(u8);

impl Scopes {
    /// Adds one word; a word that means nothing here is somebody else's and changes nothing.
    pub(super) fn add(&mut self, word: &str) {
        if let Some(scope) = Scope::ALL.into_iter().find(|scope| scope.word() == word) {
            self.0 |= scope.bit();
        }
    }

    pub(super) const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::word)).finish()
    }
}

/// A pattern over device ids: `*` stands for any text, also none, `?` for one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGlob(Box<str>);

impl DeviceGlob {
    /// Checks a pattern: 1 to 128 of `A-Z a-z 0-9 . _ - * ?`.
    pub fn new(pattern: &str) -> Option<Self> {
        let fits = (1..=MAX_ID_BYTES).contains(&pattern.len())
            && pattern.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*' | b'?'));
        fits.then(|| Self(pattern.into()))
    }

    /// Whether a device id matches. At most pattern times id steps, whatever the pattern.
    pub fn matches(&self, device: &str) -> bool {
        let (mut pattern, mut text) = (self.0.as_bytes(), device.as_bytes());
        // Where to go on when the text after the last `*` did not fit: one byte further.
        let mut retry: Option<(&[u8], &[u8])> = None;
        while !text.is_empty() || !pattern.is_empty() {
            match (pattern.split_first(), text.split_first()) {
                (Some((b'*', after)), _) => {
                    retry = Some((after, text));
                    pattern = after;
                }
                (Some((p, after)), Some((t, rest))) if p == t || *p == b'?' => (pattern, text) = (after, rest),
                _ => match retry.and_then(|(after, from)| Some((after, from.split_first()?.1))) {
                    Some((after, from)) => {
                        retry = Some((after, from));
                        (pattern, text) = (after, from);
                    }
                    None => return false,
                },
            }
        }
        true
    }
}

/// A device, known by its token or its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIdentity {
    key: DeviceKey,
}

impl DeviceIdentity {
    pub(super) const fn new(key: DeviceKey) -> Self {
        Self { key }
    }

    /// A device without a token: only for `tidegate dev` on loopback, where nothing is anybody's.
    pub const fn for_development(key: DeviceKey) -> Self {
        Self::new(key)
    }

    /// Tenant and device.
    pub const fn key(&self) -> &DeviceKey {
        &self.key
    }
}

/// An application (a person's console, a backend), known by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIdentity {
    key: DeviceKey,
    scopes: Scopes,
    /// None: all devices of the tenant.
    devices: Option<Arc<[DeviceGlob]>>,
}

impl AppIdentity {
    pub(super) fn new(key: DeviceKey, scopes: Scopes, devices: Option<Vec<DeviceGlob>>) -> Self {
        Self { key, scopes, devices: devices.map(Into::into) }
    }

    /// Tenant and application (`key().device()` is the application's id).
    pub const fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// Its tenant.
    pub fn tenant(&self) -> &str {
        self.key.tenant()
    }

    /// Whether its token has this scope. Scopes imply nothing: `admin` alone reads no telemetry.
    pub const fn has(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }

    /// Whether it may know of a device at all: of its own tenant, and within the token's `devices` where it has them.
    pub fn may_reach(&self, device: &DeviceKey) -> bool {
        device.tenant() == self.key.tenant() && self.may_reach_id(device.device())
    }

    /// The same for a device id of its own tenant.
    pub fn may_reach_id(&self, device: &str) -> bool {
        self.devices.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(device)))
    }

    /// Whether it may reach every device of its tenant.
    pub const fn reaches_all(&self) -> bool {
        self.devices.is_none()
    }
}

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The token's scope has `device`, whatever else it has.
    Device(DeviceIdentity),
    /// Everybody else.
    App(AppIdentity),
}

impl Identity {
    /// Tenant, and device or application.
    pub const fn key(&self) -> &DeviceKey {
        match self {
            Self::Device(device) => device.key(),
            Self::App(app) => app.key(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_whole_ids_only() {
        for (pattern, yes, no) in [
            ("sensor-*", vec!["sensor-", "sensor-1"], vec!["sensor", "xsensor-1"]),
            ("*", vec!["a", ""], vec![]),
            ("a?c", vec!["abc"], vec!["ac", "abbc"]),
            ("*-a*b", vec!["x-ab", "-a-ab", "x-a-ab"], vec!["x-a", "ab", "x-abc"]),
            ("a", vec!["a"], vec!["aa", ""]),
        ] {
            let glob = DeviceGlob::new(pattern).unwrap();
            yes.into_iter().for_each(|id| assert!(glob.matches(id), "{pattern} {id}"));
            no.into_iter().for_each(|id| assert!(!glob.matches(id), "{pattern} {id}"));
        }
    }

    #[test]
    fn a_glob_of_many_stars_ends_soon() {
        let glob = DeviceGlob::new(&format!("{}b", "*a".repeat(60))).unwrap();
        assert!(!glob.matches(&"a".repeat(128)));
    }

    #[test]
    fn a_pattern_has_only_characters_of_ids_and_wildcards() {
        for bad in ["", "a/b", "[a]", "{a}", "ä*", &"*".repeat(129)] {
            assert!(DeviceGlob::new(bad).is_none(), "{bad}");
        }
    }
}
