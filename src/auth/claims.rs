//! A token taken apart, strictly: whatever could be read in two ways is not read at all.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::config::{AuthConfig, IssuerConfig, TokenAlgorithm};
use super::identity::{AppIdentity, DeviceGlob, DeviceIdentity, Identity, Scope, Scopes};
use super::why::Why;
use crate::id::DeviceKey;

/// Longest `kid`, in bytes.
pub(super) const MAX_KID_BYTES: usize = 256;

/// Decodes base64url: no padding, no blanks, no bits left over.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A JSON object in which no name stands twice, however it is escaped. Deeper than 128 levels is an error.
struct Object(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name twice"));
                    }
                }
                Ok(Object(members))
            }
        }
        from.deserialize_map(Names)
    }
}

impl Object {
    fn from_part(part: &str) -> Option<Self> {
        serde_json::from_slice(&base64url(part)?).ok()
    }

    /// A text, or nothing where the member is absent.
    fn text(&self, name: &str, why: Why) -> Result<Option<&str>, Why> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(why),
        }
    }

    /// A NumericDate without a fraction, in milliseconds.
    fn date_ms(&self, name: &str) -> Result<Option<i64>, Why> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => {
                let seconds = value.as_i64().filter(|seconds| *seconds >= 0).ok_or(Why::Claims)?;
                seconds.checked_mul(1_000).map(Some).ok_or(Why::Claims)
            }
        }
    }

    /// Texts, from an array of nothing else.
    fn texts(value: &Value) -> Option<Vec<&str>> {
        value.as_array()?.iter().map(Value::as_str).collect()
    }
}

/// A token whose parts can be read. Nothing of it is verified.
pub(super) struct Parsed<'a> {
    /// Header and payload as they were signed.
    pub(super) signed: &'a str,
    /// The signature in base64url.
    pub(super) signature: &'a str,
    pub(super) algorithm: TokenAlgorithm,
    pub(super) kid: Option<String>,
    payload: Object,
}

/// What a payload says, once the claims are in order.
pub(super) struct Judged {
    pub(super) identity: Identity,
    pub(super) expires_at_ms: i64,
    pub(super) issued_at_ms: Option<i64>,
}

impl<'a> Parsed<'a> {
    /// Takes a token apart.
    pub(super) fn new(token: &'a str) -> Result<Self, Why> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Why::Encoding)?;
        let (header, payload) = signed.split_once('.').ok_or(Why::Encoding)?;
        if payload.contains('.') || signature.is_empty() {
            return Err(Why::Encoding);
        }
        base64url(signature).ok_or(Why::Encoding)?;
        let header = Object::from_part(header).ok_or(Why::Header)?;
        let (algorithm, kid) = judge_header(&header)?;
        let payload = Object::from_part(payload).ok_or(Why::Claims)?;
        Ok(Self { signed, signature, algorithm, kid, payload })
    }

    /// Who says to have issued it.
    pub(super) fn issuer(&self) -> Result<&str, Why> {
        self.payload.text("iss", Why::Issuer)?.ok_or(Why::Issuer)
    }

    /// Checks every claim. It holds only once the signature is verified too.
    pub(super) fn judge(&self, config: &AuthConfig, issuer: &IssuerConfig, now_ms: i64) -> Result<Judged, Why> {
        self.check_audience(&issuer.audience)?;
        let (expires_at_ms, issued_at_ms) = self.check_times(config, issuer, now_ms)?;
        let key = self.key(config, issuer)?;
        let scopes = self.scopes(&config.scope_claim)?;
        let identity = if scopes.has(Scope::Device) {
            Identity::Device(DeviceIdentity::new(key))
        } else {
            Identity::App(AppIdentity::new(key, scopes, self.devices()?))
        };
        Ok(Judged { identity, expires_at_ms, issued_at_ms })
    }

    fn check_audience(&self, ours: &str) -> Result<(), Why> {
        let named = match self.payload.0.get("aud") {
            Some(Value::String(one)) => one == ours,
            Some(several) => Object::texts(several).is_some_and(|several| several.contains(&ours)),
            None => false,
        };
        if named { Ok(()) } else { Err(Why::Audience) }
    }

    fn check_times(&self, config: &AuthConfig, issuer: &IssuerConfig, now_ms: i64) -> Result<(i64, Option<i64>), Why> {
        let leeway_ms = milliseconds(config.leeway_s, 1_000);
        let expires = self.payload.date_ms("exp")?.ok_or(Why::Claims)?;
        let issued = self.payload.date_ms("iat")?;
        let not_before = self.payload.date_ms("nbf")?;
        if now_ms >= expires.saturating_add(leeway_ms) {
            return Err(Why::Expired);
        }
        let latest_start = now_ms.saturating_add(leeway_ms);
        if not_before.into_iter().chain(issued).any(|start| start > latest_start) {
            return Err(Why::NotYet);
        }
        let lifetime_ms = expires.saturating_sub(issued.unwrap_or(now_ms));
        if lifetime_ms > milliseconds(issuer.max_lifetime_h, 3_600_000) || issued.is_some_and(|iat| iat >= expires) {
            return Err(Why::Lifetime);
        }
        Ok((expires, issued))
    }

    fn key(&self, config: &AuthConfig, issuer: &IssuerConfig) -> Result<DeviceKey, Why> {
        let fallback = fallback_tenant(config, &issuer.tenants);
        let tenant = self.payload.text(&config.tenant_claim, Why::Tenant)?.or(fallback).ok_or(Why::Tenant)?;
        if !issuer.tenants.is_empty() && !issuer.tenants.iter().any(|allowed| allowed == tenant) {
            return Err(Why::Tenant);
        }
        let sub = self.payload.text("sub", Why::Subject)?.ok_or(Why::Subject)?;
        DeviceKey::new(tenant, sub).map_err(|_| Why::Subject)
    }

    fn scopes(&self, claim: &str) -> Result<Scopes, Why> {
        let mut scopes = Scopes::default();
        match self.payload.0.get(claim) {
            None => {}
            Some(Value::String(words)) => words.split(' ').for_each(|word| scopes.add(word)),
            Some(array) => {
                Object::texts(array).ok_or(Why::Scope)?.into_iter().for_each(|word| scopes.add(word));
            }
        }
        Ok(scopes)
    }

    fn devices(&self) -> Result<Option<Vec<DeviceGlob>>, Why> {
        let Some(value) = self.payload.0.get("devices") else { return Ok(None) };
        let patterns = Object::texts(value).ok_or(Why::Scope)?;
        let globs: Option<Vec<_>> = patterns.into_iter().map(DeviceGlob::new).collect();
        globs.map(Some).ok_or(Why::Scope)
    }
}

/// The tenant of whoever names none, where only `tenants` may be named (empty: any).
pub(super) fn fallback_tenant<'a>(config: &'a AuthConfig, tenants: &'a [String]) -> Option<&'a str> {
    match tenants {
        _ if !config.default_tenant.is_empty() => Some(config.default_tenant.as_str()),
        [only] => Some(only.as_str()),
        _ => None,
    }
}

/// A configured time in milliseconds; the configuration's bounds keep it far from the edge.
fn milliseconds(count: u64, unit_ms: i64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(unit_ms)
}

fn judge_header(header: &Object) -> Result<(TokenAlgorithm, Option<String>), Why> {
    // We understand no extension, and RFC 7515 says that a critical one must then end it.
    if header.0.contains_key("crit") || header.0.contains_key("b64") {
        return Err(Why::Critical);
    }
    let known = |typ: &str| ["jwt", "at+jwt", "tidegate+jwt"].iter().any(|ours| typ.eq_ignore_ascii_case(ours));
    if header.text("typ", Why::Type)?.is_some_and(|typ| !known(typ)) {
        return Err(Why::Type);
    }
    let algorithm = header.text("alg", Why::Algorithm)?.and_then(TokenAlgorithm::from_name).ok_or(Why::Algorithm)?;
    let kid = header.text("kid", Why::KeyId)?;
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID_BYTES) {
        return Err(Why::KeyId);
    }
    Ok((algorithm, kid.map(str::to_owned)))
}
