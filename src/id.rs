//! Names that cannot be mistaken for one another, and none of which can be made from an unchecked string.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest;

/// Longest tenant, device or application id, in bytes (`^[A-Za-z0-9._-]{1,128}$`).
pub const MAX_ID_BYTES: usize = 128;
/// Longest `boot`, in bytes (`^[A-Za-z0-9_-]{1,64}$`).
pub const MAX_BOOT_BYTES: usize = 64;
/// Highest `seq`: 2^53 - 1, the largest integer every JSON library keeps exact.
pub const MAX_SEQ: u64 = (1 << 53) - 1;

/// Why a string is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A tenant, device or application id does not match `^[A-Za-z0-9._-]{1,128}$`.
    #[error("an id is 1 to 128 of A-Z a-z 0-9 . _ -")]
    Id,
    /// A node's name does not match `^[A-Za-z0-9._-]{1,128}$`.
    #[error("a node's name is 1 to 128 of A-Z a-z 0-9 . _ -")]
    Node,
    /// A boot does not match `^[A-Za-z0-9_-]{1,64}$`.
    #[error("a boot is 1 to 64 of A-Z a-z 0-9 _ -")]
    Boot,
    /// A command id does not match `^[0-9a-f]{32}$`.
    #[error("a command id is 32 hex digits in lower case")]
    Command,
}

/// Whether `text` is a well-formed tenant, device or application id.
pub fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// One device (or application) of one tenant. Kept as the single string `<tenant>/<device>`, which is the key of its
/// records in Kafka and of its row in the roster, so that a connection holds one allocation for all three.
#[derive(Clone)]
pub struct DeviceKey {
    text: Arc<str>,
    tenant_len: u8,
}

impl DeviceKey {
    /// Checks both parts and joins them.
    ///
    /// # Errors
    /// [`IdError::Id`] when either part is not an id.
    pub fn new(tenant: &str, device: &str) -> Result<Self, IdError> {
        if !is_id(tenant) || !is_id(device) {
            return Err(IdError::Id);
        }
        let tenant_len = u8::try_from(tenant.len()).map_err(|_| IdError::Id)?;
        Ok(Self { text: format!("{tenant}/{device}").into(), tenant_len })
    }

    /// `<tenant>/<device>`: the Kafka key.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tenant.
    pub fn tenant(&self) -> &str {
        self.text.get(..usize::from(self.tenant_len)).unwrap_or_default()
    }

    /// The device or application within its tenant.
    pub fn device(&self) -> &str {
        self.text.get(usize::from(self.tenant_len) + 1..).unwrap_or_default()
    }
}

impl PartialEq for DeviceKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for DeviceKey {}
impl Hash for DeviceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The scope of a device's `seq`: drawn by the device at each of its boots, or the session's id where it gave none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boot(Box<str>);

impl Boot {
    /// Checks a boot given by a device.
    ///
    /// # Errors
    /// [`IdError::Boot`] when it does not match `^[A-Za-z0-9_-]{1,64}$`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let fits = (1..=MAX_BOOT_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(IdError::Boot) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SessionId> for Boot {
    fn from(session: SessionId) -> Self {
        Self(session.to_string().into())
    }
}

/// One connection's own name: 64 random bits, printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(u64);

impl SessionId {
    /// Draws a new one.
    pub fn draw() -> Self {
        Self(fastrand::u64(..))
    }

    /// A given one, for tests that compare bytes.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits. They are evenly spread.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads one as it is printed.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 16 { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A device's ownership epoch: grows with each connection of that device, and fences what an older one left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One command: 128 bits that follow from whom it is for, who sent it and under which key, so that a caller who repeats
/// it meets the same command, even after the directory was lost. Printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId([u8; 16]);

impl CommandId {
    /// The first 128 bits of SHA-256 over tenant, device, application and `key`, with a NUL behind each but the last.
    pub fn of(device: &DeviceKey, application: &str, key: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [device.tenant(), device.device(), application] {
            hash.update(part.as_bytes());
            hash.update(b"\0");
        }
        hash.update(key.as_bytes());
        let mut bits = [0; 16];
        bits.iter_mut().zip(hash.finish().as_ref()).for_each(|(bit, byte)| *bit = *byte);
        Self(bits)
    }

    /// The id that is printed as `text`.
    ///
    /// # Errors
    /// [`IdError::Command`] when it is not 32 hex digits in lower case.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = if fits { u128::from_str_radix(text, 16).ok() } else { None };
        bits.map(|bits| Self(bits.to_be_bytes())).ok_or(IdError::Command)
    }

    /// Its bits. They are evenly spread: a shard may be a part of them.
    pub const fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.bits())
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's own name, the same across its restarts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`IdError::Node`] when it does not match `^[A-Za-z0-9._-]{1,128}$`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if is_id(text) { Ok(Self(text.into())) } else { Err(IdError::Node) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a node: 128 random bits drawn when it starts, and again when the others declared it dead; 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Incarnation(u128);

impl Incarnation {
    /// Draws a new one from the system's source of random bits.
    pub fn draw() -> Self {
        let mut bits = [0; 16];
        match aws_lc_rs::rand::fill(&mut bits) {
            Ok(()) => Self(u128::from_le_bytes(bits)),
            Err(_) => Self(fastrand::u128(..)),
        }
    }

    /// Reads one as it is printed.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 32 { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_id_follows_from_its_four_parts() {
        let device = DeviceKey::new("acme", "sensor-001").unwrap();
        let id = CommandId::of(&device, "console", "k1");
        // printf 'acme\0sensor-001\0console\0k1' | sha256sum | head -c 32
        assert_eq!(id.to_string(), "6569b1128f2de97997906fcaf49c3cf0");
        assert_eq!(CommandId::parse(&id.to_string()), Ok(id));
        let other = DeviceKey::new("acme", "sensor-00").unwrap();
        assert_ne!(CommandId::of(&other, "1console", "k1"), id);
        for bad in ["", "0", &id.to_string().to_uppercase(), &format!("{id}0"), &"+".repeat(32)] {
            assert_eq!(CommandId::parse(bad), Err(IdError::Command), "{bad:?}");
        }
    }

    #[test]
    fn a_key_is_its_parts() {
        let key = DeviceKey::new("acme", "sensor-001").unwrap();
        assert_eq!((key.tenant(), key.device(), key.as_str()), ("acme", "sensor-001", "acme/sensor-001"));
    }

    #[test]
    fn drawn_names_are_read_as_they_are_printed() {
        let (life, session) = (Incarnation::draw(), SessionId::from_bits(0xff));
        assert_eq!(Incarnation::parse(&life.to_string()), Some(life));
        assert_eq!(SessionId::parse(&session.to_string()), Some(session));
        assert_ne!(Incarnation::draw(), life);
        assert_eq!((Incarnation::parse("ff"), SessionId::parse("")), (None, None));
        assert!(NodeName::new("gw-1.eu").is_ok() && NodeName::new("gw,1").is_err() && NodeName::new("").is_err());
    }

    #[test]
    fn what_could_be_mistaken_is_no_id() {
        for bad in ["", "a/b", "a{b", "a:b", "a\0", "a\n", "ä", "а", &"x".repeat(129)] {
            assert!(DeviceKey::new("t", bad).is_err(), "{bad:?}");
            assert!(DeviceKey::new(bad, "d").is_err(), "{bad:?}");
        }
        assert!(DeviceKey::new(&"x".repeat(128), &"y".repeat(128)).is_ok());
    }
}
