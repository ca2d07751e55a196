//! Tokens that are good by themselves and were taken back: the case 77, by key, by age; also where they were verified before.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate::auth::{AuthError, Authenticator, Why};
use tidegate::id::DeviceKey;
use tidegate::revocations::{Revocation, Revocations};

use super::{KEY, NOW, claims, gateway, verify, with};

const REVOKED: AuthError = AuthError::Unauthorized(Why::Revoked);

fn with_revocations() -> (Authenticator, Arc<Revocations>) {
    let (auth, revocations) = (gateway(), Arc::new(Revocations::default()));
    auth.obey(Arc::clone(&revocations) as _);
    (auth, revocations)
}

fn apply(revocations: &Revocations, revocation: &Revocation) {
    let value = revocation.record_value();
    revocations.apply(Some(revocation.record_key().as_bytes()), value.as_deref().map(str::as_bytes)).unwrap();
}

fn lift(revocations: &Revocations, revocation: &Revocation) {
    revocations.apply(Some(revocation.record_key().as_bytes()), None).unwrap();
}

/// The error of a token of these claims; nothing where it is taken.
async fn fault(auth: &Authenticator, claims: &Value) -> Option<AuthError> {
    verify(auth, &KEY.sign(claims)).await.err()
}

#[tokio::test]
async fn case_77_a_good_token_of_a_blocked_device_is_known_as_such_until_it_is_freed() {
    let (auth, revocations) = with_revocations();
    let token = KEY.sign(&claims());
    assert!(verify(&auth, &token).await.is_ok());
    let block = Revocation::Device { key: DeviceKey::new("acme", "sensor-001").unwrap(), blocked: true };
    apply(&revocations, &block);
    assert_eq!(verify(&auth, &token).await.unwrap_err(), AuthError::Blocked, "though it was verified before");
    assert!(!AuthError::Blocked.is_retryable());
    assert_eq!(fault(&auth, &with("tenant", json!("second"))).await, None);
    assert_eq!(fault(&auth, &with("scope", json!("telemetry:read"))).await, None, "an application of that name");
    lift(&revocations, &block);
    assert!(verify(&auth, &token).await.is_ok());
}

#[tokio::test]
async fn what_was_issued_before_a_moment_or_does_not_say_when_is_refused() {
    let (auth, revocations) = with_revocations();
    let old = KEY.sign(&with("iat", json!(NOW - 1)));
    assert!(verify(&auth, &old).await.is_ok());
    let before = Revocation::IssuedBefore { tenant: "acme".into(), device: None, at_ms: NOW * 1_000 };
    apply(&revocations, &before);
    assert_eq!(verify(&auth, &old).await.unwrap_err(), REVOKED);
    assert_eq!(fault(&auth, &with("iat", Value::Null)).await, Some(REVOKED));
    assert_eq!(fault(&auth, &claims()).await, None);
    let mut foreign = with("iat", json!(NOW - 1));
    foreign["tenant"] = json!("second");
    assert_eq!(fault(&auth, &foreign).await, None);
    lift(&revocations, &before);
    let device = Some(DeviceKey::new("acme", "sensor-001").unwrap());
    apply(&revocations, &Revocation::IssuedBefore { tenant: "acme".into(), device, at_ms: NOW * 1_000 });
    assert_eq!(verify(&auth, &old).await.unwrap_err(), REVOKED);
    let mut other = with("iat", json!(NOW - 1));
    other["sub"] = json!("sensor-002");
    assert_eq!(fault(&auth, &other).await, None);
}

#[tokio::test]
async fn a_key_is_withdrawn_for_everybody_or_for_one_tenant_or_issuer() {
    let (auth, revocations) = with_revocations();
    let kid = KEY.signing.kid().to_owned();
    let of = |tenant: Option<&str>, issuer: Option<&str>| Revocation::KeyId {
        tenant: tenant.map(Into::into),
        issuer: issuer.map(Into::into),
        kid: kid.clone(),
    };
    for (revocation, acme, second) in [
        (of(None, None), true, true),
        (of(None, Some("tidegate")), true, true),
        (of(Some("acme"), None), true, false),
        (of(Some("acme"), Some("tidegate")), true, false),
        (of(Some("second"), Some("tidegate")), false, true),
        (of(None, Some("another")), false, false),
        (Revocation::KeyId { tenant: None, issuer: None, kid: "another".into() }, false, false),
    ] {
        apply(&revocations, &revocation);
        let faults = [fault(&auth, &claims()).await, fault(&auth, &with("tenant", json!("second"))).await];
        assert_eq!(faults, [acme.then_some(REVOKED), second.then_some(REVOKED)], "{revocation:?}");
        lift(&revocations, &revocation);
    }
    assert_eq!(fault(&auth, &claims()).await, None);
}
