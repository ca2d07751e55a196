//! A device that is known by its certificate instead of by a token.
//!
//! TLS has checked the chain, the dates and that the device has the key; what is left is whose it is: `CN` of the subject is
//! the device, `O` its tenant. Certificates for people and servers rarely look like that, and what is no id is nobody's.

use rustls_pki_types::CertificateDer;
use x509_parser::x509::AttributeTypeAndValue;

use super::identity::DeviceIdentity;
use super::why::Why;
use super::{Authenticator, claims};
use crate::id::DeviceKey;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The device.
    pub identity: DeviceIdentity,
    /// Its `notAfter`, in Unix milliseconds.
    pub expires_at_ms: i64,
}

impl Authenticator {
    /// Whose a certificate is that TLS has accepted. `tenants` are those it may name; empty: any. Without an `O` the tenant is
    /// `auth.default_tenant`, or the only one of `tenants`.
    ///
    /// # Errors
    /// [`Why::Certificate`], [`Why::Subject`] or [`Why::Tenant`]: it is no device's.
    pub fn certified(&self, certificate: &CertificateDer<'_>, tenants: &[String]) -> Result<Certified, Why> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| Why::Certificate)?;
        let subject = parsed.subject();
        let device = only(subject.iter_common_name(), Why::Subject)?.ok_or(Why::Subject)?;
        let fallback = claims::fallback_tenant(&self.config, tenants);
        let tenant = only(subject.iter_organization(), Why::Tenant)?.or(fallback).ok_or(Why::Tenant)?;
        if !tenants.is_empty() && !tenants.iter().any(|allowed| allowed == tenant) {
            return Err(Why::Tenant);
        }
        let key = DeviceKey::new(tenant, device).map_err(|_| Why::Subject)?;
        let expires_at_ms = parsed.validity().not_after.timestamp().saturating_mul(1_000);
        Ok(Certified { identity: DeviceIdentity::new(key), expires_at_ms })
    }
}

/// The value of an attribute that may stand once.
fn only<'a>(
    mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
    otherwise: Why,
) -> Result<Option<&'a str>, Why> {
    let first = values.next();
    if values.next().is_some() {
        return Err(otherwise);
    }
    first.map(|value| value.as_str().map_err(|_| otherwise)).transpose()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;
    use crate::auth::AuthConfig;

    /// Reads a certificate with these names, where `default_tenant` is that of tokens.
    fn read(names: &[(DnType, &str)], tenants: &[&str], default_tenant: &str) -> Result<Certified, Why> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        names.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), *value));
        params.not_after = date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let config = AuthConfig {
            jwks: r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#.into(),
            default_tenant: default_tenant.into(),
            ..AuthConfig::default()
        };
        let auth = Authenticator::new(config, 8_192, 16).unwrap();
        let tenants: Vec<String> = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
        auth.certified(der.der(), &tenants)
    }

    #[test]
    fn the_common_name_is_the_device_and_the_organization_its_tenant() {
        let both = [(DnType::CommonName, "pump-7"), (DnType::OrganizationName, "acme")];
        let certified = read(&both, &[], "").unwrap();
        assert_eq!(certified.identity.key(), &DeviceKey::new("acme", "pump-7").unwrap());
        assert_eq!(certified.expires_at_ms, 1_893_456_000_000);
        let tenant = |result: Result<Certified, Why>| result.unwrap().identity.key().tenant().to_owned();
        assert_eq!(tenant(read(&both, &["acme", "other"], "elsewhere")), "acme");
        assert_eq!(tenant(read(&both[..1], &[], "house")), "house");
        assert_eq!(tenant(read(&both[..1], &["acme"], "")), "acme");
    }

    #[test]
    fn what_names_no_device_is_nobodys() {
        let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
        for (names, tenants, why) in [
            (vec![(o.clone(), "acme")], vec![], Why::Subject),
            (vec![(cn.clone(), "pump 7"), (o.clone(), "acme")], vec![], Why::Subject),
            (vec![(cn.clone(), "a/b"), (o.clone(), "acme")], vec![], Why::Subject),
            (vec![(cn.clone(), "pump-7"), (o.clone(), "Acme Ltd.")], vec![], Why::Subject),
            (vec![(cn.clone(), "pump-7")], vec![], Why::Tenant),
            (vec![(cn.clone(), "pump-7")], vec!["a", "b"], Why::Tenant),
            (vec![(cn.clone(), "pump-7"), (o.clone(), "other")], vec!["acme"], Why::Tenant),
        ] {
            assert_eq!(read(&names, &tenants, "").unwrap_err(), why, "{names:?}");
        }
    }
}
