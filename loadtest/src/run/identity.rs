//! Who the devices are: their ids, and tokens that are signed here or read from a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use tidegate::auth::TokenAlgorithm;
use tidegate::auth::signing::SigningKey;

use crate::device::TokenSource;

/// How long a token lives that is signed here, s: devices that stay longer are told to bring another, and do.
pub(super) const TOKEN_LIFE_S: u64 = 3_600;
/// Who a device without a token is taken for by `tidegate dev`: one and the same for all.
const NOBODY: (&str, &str) = ("dev", "sensor-001");

/// Why devices have no identities.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file.
    #[error("--signing-key: {0}")]
    Key(String),
    /// The tokens' file.
    #[error("--tokens {path}: {reason}")]
    Tokens {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither of both.
    #[error(
        "{0} devices need tokens: give --signing-key PEM (with --issuer, --audience, --kid and --tenant as the gateway \
         expects them) or --tokens FILE. Only `tidegate dev` takes a device without one, and all of them for the same: \
         --devices 1"
    )]
    Nobody(u32),
    /// Fewer tokens than devices.
    #[error("--tokens: there are {there} tokens, and device number {wanted} needs one: set --devices accordingly")]
    Few {
        /// In the file.
        there: usize,
        /// The last device.
        wanted: u32,
    },
}

/// What tokens that are signed here say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `tenant`.
    pub tenant: String,
    /// `kid` in the header, where it is not to be the key's thumbprint.
    pub kid: Option<String>,
}

/// Where identities come from.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// From nowhere.
    #[default]
    None,
    /// Signed here.
    Key {
        /// The key, PEM.
        file: PathBuf,
        /// What the tokens say.
        claims: Claims,
    },
    /// One token a line.
    Tokens(PathBuf),
}

/// Identities of a run's devices.
#[derive(Clone)]
pub(super) enum Identities {
    Nobody,
    Signed(Arc<Signer>),
    Given(Arc<[Given]>),
}

/// A device's name: tenant and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) tenant: Arc<str>,
    pub(super) device: Arc<str>,
}

/// A token from a file, and whose it is.
pub(super) struct Given {
    name: Name,
    token: Arc<str>,
}

/// Signs tokens.
pub(super) struct Signer {
    key: EncodingKey,
    header: Header,
    claims: Claims,
    tenant: Arc<str>,
    prefix: String,
}

#[derive(Serialize)]
struct Body<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    tenant: &'a str,
    scope: &'a str,
    iat: u64,
    exp: u64,
}

/// What is read of a token that was given.
#[derive(Deserialize)]
struct Payload {
    sub: String,
    #[serde(default)]
    tenant: Option<String>,
}

impl Signer {
    fn read(file: &Path, claims: &Claims, prefix: &str) -> Result<Self, IdentityError> {
        let wrong = |reason: String| IdentityError::Key(reason);
        let pem = std::fs::read_to_string(file).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        let known = SigningKey::from_pem(&pem).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        let (algorithm, key) = match known.algorithm() {
            TokenAlgorithm::ES256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem.as_bytes())),
            TokenAlgorithm::RS256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.as_bytes())),
            TokenAlgorithm::EdDSA => (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem.as_bytes())),
            TokenAlgorithm::HS256 => {
                return Err(wrong("a shared secret; ES256, RS256 and EdDSA are signed here".into()));
            }
        };
        let key = key.map_err(|error| wrong(format!("{}: {error}", file.display())))?;
        let kid = claims.kid.clone().unwrap_or_else(|| known.kid().to_owned());
        let header = Header { kid: Some(kid), ..Header::new(algorithm) };
        Ok(Self { key, header, claims: claims.clone(), tenant: claims.tenant.as_str().into(), prefix: prefix.into() })
    }

    pub(super) fn sign(&self, sub: &str, scope: &str) -> Result<String, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs();
        let Claims { issuer, audience, tenant, .. } = &self.claims;
        // A little in the past: clocks differ.
        let (iat, exp) = (now.saturating_sub(5), now + TOKEN_LIFE_S);
        let body = Body { iss: issuer, aud: audience, sub, tenant, scope, iat, exp };
        jsonwebtoken::encode(&self.header, &body, &self.key).map_err(|error| error.to_string())
    }
}

impl Identities {
    /// Reads what there is; `last` is one more than the highest number of a device.
    pub(super) fn of(credentials: &Credentials, prefix: &str, last: u32) -> Result<Self, IdentityError> {
        match credentials {
            Credentials::None if last > 1 => Err(IdentityError::Nobody(last)),
            Credentials::None => Ok(Self::Nobody),
            Credentials::Key { file, claims } => Ok(Self::Signed(Arc::new(Signer::read(file, claims, prefix)?))),
            Credentials::Tokens(file) => given(file, last).map(Self::Given),
        }
    }

    /// The name of the device with this number.
    pub(super) fn name(&self, number: u32) -> Name {
        match self {
            Self::Nobody => Name { tenant: NOBODY.0.into(), device: NOBODY.1.into() },
            Self::Signed(signer) => {
                let device = format!("{}{number:06}", signer.prefix).into();
                Name { tenant: Arc::clone(&signer.tenant), device }
            }
            Self::Given(tokens) => tokens[number as usize].name.clone(),
        }
    }

    /// Where the device's tokens come from.
    pub(super) fn tokens(&self, number: u32) -> TokenSource {
        match self {
            Self::Nobody => TokenSource::None,
            Self::Signed(signer) => {
                let signer = Arc::clone(signer);
                TokenSource::Make(Arc::new(move |request| signer.sign(request.device_id, "device")))
            }
            Self::Given(tokens) => TokenSource::Fixed(Arc::clone(&tokens[number as usize].token)),
        }
    }

    /// A token that may command every device; none where none can be signed.
    pub(super) fn caller(&self) -> Option<Result<String, String>> {
        match self {
            Self::Signed(signer) => Some(signer.sign(&format!("{}caller", signer.prefix), "commands:write")),
            Self::Nobody | Self::Given(_) => None,
        }
    }
}

fn given(file: &Path, last: u32) -> Result<Arc<[Given]>, IdentityError> {
    let wrong = |reason: String| IdentityError::Tokens { path: file.display().to_string(), reason };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).take(last as usize);
    let tokens = lines.map(|(number, line)| {
        let told = || wrong(format!("line {} is no token (three parts with dots between, a `sub` inside)", number + 1));
        token(line.trim()).ok_or_else(told)
    });
    let tokens: Vec<Given> = tokens.collect::<Result<_, _>>()?;
    if tokens.len() < last as usize {
        return Err(IdentityError::Few { there: tokens.len(), wanted: last });
    }
    Ok(tokens.into())
}

fn token(text: &str) -> Option<Given> {
    let mut parts = text.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload: Payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let tenant = payload.tenant.as_deref().unwrap_or_default().into();
    Some(Given { name: Name { tenant, device: payload.sub.as_str().into() }, token: text.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidegate-identity-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_signed_token_says_who_it_is_for_with_any_kind_of_key() {
        for algorithm in [TokenAlgorithm::ES256, TokenAlgorithm::EdDSA, TokenAlgorithm::RS256] {
            let dir = scratch(algorithm.name());
            let keys = tidegate::auth::signing::generate(&dir, algorithm).unwrap();
            let claims =
                Claims { issuer: "i".into(), audience: "a".into(), tenant: "t".into(), kid: Some("k1".into()) };
            let credentials = Credentials::Key { file: keys.signing_key, claims };
            let identities = Identities::of(&credentials, "load-", 10).unwrap();
            let name = identities.name(7);
            assert_eq!((&*name.tenant, &*name.device), ("t", "load-000007"));
            let TokenSource::Make(make) = identities.tokens(7) else { panic!("it is made") };
            let text = make(crate::device::TokenRequest { device_id: &name.device, fresh: false }).unwrap();
            assert_eq!(jsonwebtoken::decode_header(&text).unwrap().kid.as_deref(), Some("k1"));
            assert_eq!(token(&text).unwrap().name, name);
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn tokens_from_a_file_are_as_many_as_there_are_devices() {
        let dir = scratch("tokens");
        let file = dir.join("tokens");
        let one = |sub: &str| format!("e30.{}.sig\n", URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{sub}\"}}")));
        std::fs::write(&file, format!("{}\n{}", one("a"), one("b"))).unwrap();
        let identities = Identities::of(&Credentials::Tokens(file.clone()), "", 2).unwrap();
        assert_eq!(&*identities.name(1).device, "b");
        let few = Identities::of(&Credentials::Tokens(file.clone()), "", 3).err().unwrap().to_string();
        assert!(few.contains("there are 2 tokens"), "{few}");
        std::fs::write(&file, "no token\n").unwrap();
        let bad = Identities::of(&Credentials::Tokens(file), "", 1).err().unwrap().to_string();
        assert!(bad.contains("line 1 is no token"), "{bad}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn without_tokens_there_is_one_device_and_no_more() {
        assert!(Identities::of(&Credentials::None, "", 1).is_ok());
        let error = Identities::of(&Credentials::None, "", 2).err().unwrap().to_string();
        assert!(error.contains("--signing-key"), "{error}");
    }
}
