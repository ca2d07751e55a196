//! A revocation as a record: its key names what it is about, its value says what holds.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::id::{DeviceKey, is_id};

/// Longest `kid`, in bytes: that of a key set.
const MAX_KID_BYTES: usize = 256;
/// Longest name of an issuer, in bytes.
const MAX_ISSUER_BYTES: usize = 512;
/// Longest value read, in bytes.
const MAX_VALUE_BYTES: usize = 4_096;

/// One thing that is not to be any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// A device is blocked, or not any more.
    Device {
        /// Which.
        key: DeviceKey,
        /// Whether it is.
        blocked: bool,
    },
    /// Tokens signed with a key do not count.
    KeyId {
        /// Of this tenant's devices and applications alone; none: whoever's. Only who runs the gateway may leave it out.
        tenant: Option<String>,
        /// The key's issuer; none: any that has a key of this id.
        issuer: Option<String>,
        /// The key's `kid` in its key set, 1 to 256 bytes.
        kid: String,
    },
    /// Tokens issued (`iat`) before a moment do not count; one that does not say when counts as the oldest.
    IssuedBefore {
        /// Whose.
        tenant: String,
        /// Of one device or application (`sub`) alone; of the same tenant.
        device: Option<DeviceKey>,
        /// Unix milliseconds; 0 takes it back.
        at_ms: i64,
    },
}

/// Why a record or a revocation cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The record has no key that names anything.
    #[error("its key is none of device:TENANT/DEVICE, key:TENANT:ISSUER:KID, issued:TENANT and issued:TENANT/DEVICE")]
    Key,
    /// The value is not what was agreed.
    #[error("its value cannot be read: {0}")]
    Value(String),
    /// Key and value speak of different things.
    #[error("its key is not {0}, which is what its value speaks of")]
    Mismatch(String),
    /// A part breaks a bound.
    #[error("{0}")]
    Bound(&'static str),
}

/// The value as it is written. Names that are not known are passed over: rather too much is revoked than too little.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Value {
    Device {
        tenant: String,
        device: String,
        blocked: bool,
    },
    Key {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
        kid: String,
    },
    IssuedBefore {
        tenant: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        at_ms: i64,
    },
}

impl Revocation {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Malformed::Bound`] with what is wrong.
    pub fn check(&self) -> Result<(), Malformed> {
        let wrong = match self {
            Self::Device { .. } => None,
            Self::KeyId { tenant, issuer, kid } => {
                let bounded = |text: &str, most| (1..=most).contains(&text.len());
                if !bounded(kid, MAX_KID_BYTES) {
                    Some("a kid has 1 to 256 bytes")
                } else if !issuer.as_deref().is_none_or(|issuer| bounded(issuer, MAX_ISSUER_BYTES)) {
                    Some("an issuer has 1 to 512 bytes")
                } else {
                    (!tenant.as_deref().is_none_or(is_id)).then_some("the tenant is no id")
                }
            }
            Self::IssuedBefore { tenant, .. } if !is_id(tenant) => Some("the tenant is no id"),
            Self::IssuedBefore { at_ms, .. } if *at_ms < 0 => Some("the moment lies before 1970"),
            Self::IssuedBefore { tenant, device, .. } => {
                let foreign = device.as_ref().is_some_and(|device| device.tenant() != tenant);
                foreign.then_some("the device is another tenant's")
            }
        };
        wrong.map_or(Ok(()), |text| Err(Malformed::Bound(text)))
    }

    /// The record's key.
    pub fn record_key(&self) -> String {
        match self {
            Self::Device { key, .. } => device_key(key),
            Self::KeyId { tenant, issuer, kid } => kid_key(tenant.as_deref(), issuer.as_deref(), kid),
            Self::IssuedBefore { tenant, device, .. } => issued_key(tenant, device.as_ref()),
        }
    }

    /// The record's value; none where it takes something back.
    pub fn record_value(&self) -> Option<String> {
        let value = match self {
            Self::Device { blocked: false, .. } | Self::IssuedBefore { at_ms: ..=0, .. } => return None,
            Self::Device { key, blocked } => {
                Value::Device { tenant: key.tenant().to_owned(), device: key.device().to_owned(), blocked: *blocked }
            }
            Self::KeyId { tenant, issuer, kid } => {
                Value::Key { tenant: tenant.clone(), issuer: issuer.clone(), kid: kid.clone() }
            }
            Self::IssuedBefore { tenant, device, at_ms } => Value::IssuedBefore {
                tenant: tenant.clone(),
                device: device.as_ref().map(|device| device.device().to_owned()),
                at_ms: *at_ms,
            },
        };
        serde_json::to_string(&value).ok()
    }
}

/// What a record says: the key, and what it is about, where it is no tombstone.
pub(super) fn read(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(String, Option<Revocation>), Malformed> {
    let key = key.and_then(|key| std::str::from_utf8(key).ok()).ok_or(Malformed::Key)?;
    let (kind, _) = key.split_once(':').ok_or(Malformed::Key)?;
    if !matches!(kind, "device" | "key" | "issued") {
        return Err(Malformed::Key);
    }
    let Some(value) = value else { return Ok((key.to_owned(), None)) };
    if value.len() > MAX_VALUE_BYTES {
        return Err(Malformed::Value("it is longer than 4096 bytes".to_owned()));
    }
    let value = serde_json::from_slice(value).map_err(|error| Malformed::Value(error.to_string()))?;
    let revocation = revocation(value)?;
    revocation.check()?;
    let meant = revocation.record_key();
    if meant == key { Ok((meant, Some(revocation))) } else { Err(Malformed::Mismatch(meant)) }
}

fn revocation(value: Value) -> Result<Revocation, Malformed> {
    let key = |tenant: &str, device: &str| {
        DeviceKey::new(tenant, device).map_err(|_| Malformed::Bound("tenant or device is no id"))
    };
    Ok(match value {
        Value::Device { tenant, device, blocked } => Revocation::Device { key: key(&tenant, &device)?, blocked },
        Value::Key { tenant, issuer, kid } => Revocation::KeyId { tenant, issuer, kid },
        Value::IssuedBefore { tenant, device, at_ms } => {
            let device = device.map(|device| key(&tenant, &device)).transpose()?;
            Revocation::IssuedBefore { tenant, device, at_ms }
        }
    })
}

/// The key of a device's block.
pub(super) fn device_key(device: &DeviceKey) -> String {
    format!("device:{device}")
}

/// The key of a moment of issue.
pub(super) fn issued_key(tenant: &str, device: Option<&DeviceKey>) -> String {
    device.map_or_else(|| format!("issued:{tenant}"), |device| format!("issued:{device}"))
}

/// The key of a key's withdrawal.
pub(super) fn kid_key(tenant: Option<&str>, issuer: Option<&str>, kid: &str) -> String {
    let issuer = issuer.map_or_else(|| "*".to_owned(), encoded);
    format!("key:{}:{issuer}:{}", tenant.unwrap_or("*"), encoded(kid))
}

/// Percent-encoded but for what ids are made of, so that neither `:` nor `*` can be meant.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => encoded.push(char::from(byte)),
            // Writing into a string cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn all() -> [(Revocation, &'static str, &'static str); 5] {
        let key = DeviceKey::new("acme", "d1").unwrap();
        let whole = Revocation::KeyId {
            tenant: Some("acme".into()),
            issuer: Some("https://id.example/*".into()),
            kid: "a:b%ä".into(),
        };
        let bare = Revocation::KeyId { tenant: None, issuer: None, kid: "k1".into() };
        [
            (
                Revocation::Device { key: key.clone(), blocked: true },
                "device:acme/d1",
                r#"{"type":"device","tenant":"acme","device":"d1","blocked":true}"#,
            ),
            (
                whole,
                "key:acme:https%3A%2F%2Fid.example%2F%2A:a%3Ab%25%C3%A4",
                r#"{"type":"key","tenant":"acme","issuer":"https://id.example/*","kid":"a:b%ä"}"#,
            ),
            (bare, "key:*:*:k1", r#"{"type":"key","kid":"k1"}"#),
            (
                Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms: 7 },
                "issued:acme",
                r#"{"type":"issued_before","tenant":"acme","at_ms":7}"#,
            ),
            (
                Revocation::IssuedBefore { tenant: "acme".into(), device: Some(key), at_ms: 7 },
                "issued:acme/d1",
                r#"{"type":"issued_before","tenant":"acme","device":"d1","at_ms":7}"#,
            ),
        ]
    }

    #[test]
    fn what_is_written_is_pinned_and_read_again() {
        for (revocation, key, value) in all() {
            assert_eq!((revocation.record_key().as_str(), revocation.record_value().unwrap().as_str()), (key, value));
            assert_eq!(read(Some(key.as_bytes()), Some(value.as_bytes())), Ok((key.to_owned(), Some(revocation))));
            assert_eq!(read(Some(key.as_bytes()), None), Ok((key.to_owned(), None)));
        }
        let free = Revocation::Device { key: DeviceKey::new("acme", "d1").unwrap(), blocked: false };
        assert_eq!(free.record_value(), None);
    }

    #[test]
    fn a_record_that_says_two_things_is_not_taken() {
        let value = br#"{"type":"device","tenant":"acme","device":"d1","blocked":true}"#;
        for key in ["device:acme/d2", "issued:acme", "device:acme"] {
            let meant = Err(Malformed::Mismatch("device:acme/d1".into()));
            assert_eq!(read(Some(key.as_bytes()), Some(value)), meant, "{key}");
        }
        for key in ["", "acme/d1", "/probe/x", "nothing:acme"] {
            assert_eq!(read(Some(key.as_bytes()), Some(value)), Err(Malformed::Key), "{key}");
        }
        assert_eq!(read(None, Some(value)), Err(Malformed::Key));
        for bad in
            ["", "{}", "[]", r#"{"type":"other"}"#, r#"{"type":"device","tenant":"a/b","device":"d","blocked":true}"#]
        {
            assert!(read(Some(b"device:acme/d1"), Some(bad.as_bytes())).is_err(), "{bad}");
        }
        let deep = "[".repeat(4_000);
        assert!(matches!(read(Some(b"device:acme/d1"), Some(deep.as_bytes())), Err(Malformed::Value(_))));
        let foreign = Revocation::IssuedBefore {
            tenant: "other".into(),
            device: Some(DeviceKey::new("acme", "d1").unwrap()),
            at_ms: 1,
        };
        assert!(foreign.check().is_err());
    }
}
