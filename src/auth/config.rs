//! The section `auth` of the configuration, and what can be wrong with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::is_id;

/// Most seconds two clocks may be configured to differ by.
const MAX_LEEWAY_S: u64 = 300;
/// Longest configurable lifetime of a token: a year.
const MAX_LIFETIME_H: u64 = 8_784;

/// A signature algorithm of RFC 7518 or RFC 8037 that the gateway takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TokenAlgorithm {
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits at least.
    RS256,
    /// Ed25519.
    EdDSA,
    /// HMAC with SHA-256 and a shared secret of 32 bytes at least. Never on unless named.
    HS256,
}

impl TokenAlgorithm {
    /// The name as it stands in a token's header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::RS256 => "RS256",
            Self::EdDSA => "EdDSA",
            Self::HS256 => "HS256",
        }
    }

    /// The algorithm of a name, in exactly this spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ES256, Self::RS256, Self::EdDSA, Self::HS256].into_iter().find(|alg| alg.name() == name)
    }
}

/// One issuer of tokens: whose keys, for whom, and for which tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its JWKS: an `https://` or `http://` URL, the path of a file, or the set itself (a text that begins with `{`).
    pub jwks: String,
    /// `iss` of its tokens, compared byte by byte.
    pub issuer: String,
    /// What `aud` of its tokens must be or contain.
    pub audience: String,
    /// The signature algorithms it may use.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The tenants it may name; empty: any.
    pub tenants: Vec<String>,
    /// The longest lifetime of a token, from `iat` (or from now where there is none) to `exp`, in hours.
    pub max_lifetime_h: u64,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            jwks: String::new(),
            issuer: "tidegate".into(),
            audience: "tidegate".into(),
            algorithms: vec![TokenAlgorithm::ES256, TokenAlgorithm::RS256, TokenAlgorithm::EdDSA],
            tenants: Vec::new(),
            max_lifetime_h: 24,
        }
    }
}

/// The section `auth`: either is itself the only issuer, or lists several as `[[auth.issuers]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The JWKS: an `https://` or `http://` URL, the path of a file, or the set itself (a text that begins with `{`). Empty
    /// where `issuers` is used.
    pub jwks: String,
    /// `iss` of tokens, compared byte by byte.
    pub issuer: String,
    /// What `aud` of tokens must be or contain.
    pub audience: String,
    /// The signature algorithms that are taken.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The tenants tokens may name; empty: any.
    pub tenants: Vec<String>,
    /// The longest lifetime of a token, from `iat` (or from now where there is none) to `exp`, in hours.
    pub max_lifetime_h: u64,
    /// Several issuers, in place of the six keys above.
    pub issuers: Vec<IssuerConfig>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that lists the scopes: words between blanks, or an array.
    pub scope_claim: String,
    /// The tenant of tokens that name none; empty: such tokens are refused, unless their issuer has exactly one tenant.
    pub default_tenant: String,
    /// How far the issuer's clock and ours may differ, in seconds.
    pub leeway_s: u64,
    /// Whether a token may come as `?access_token=`, where it ends in other people's logs.
    pub query_token: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let issuer = IssuerConfig::default();
        Self {
            jwks: issuer.jwks,
            issuer: issuer.issuer,
            audience: issuer.audience,
            algorithms: issuer.algorithms,
            tenants: issuer.tenants,
            max_lifetime_h: issuer.max_lifetime_h,
            issuers: Vec::new(),
            tenant_claim: "tenant".into(),
            scope_claim: "scope".into(),
            default_tenant: String::new(),
            leeway_s: 30,
            query_token: false,
        }
    }
}

impl AuthConfig {
    /// The issuers, whichever way they are written, with everything checked that can be checked without their keys.
    ///
    /// # Errors
    /// [`AuthSetupError`], naming the key to change.
    pub fn checked_issuers(&self) -> Result<Vec<IssuerConfig>, AuthSetupError> {
        match self.errors().into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(self.all_issuers()),
        }
    }

    /// Everything that is wrong, as pairs of key (`auth.…`) and text. Key sets are not looked at.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let tell = |(key, error): (&str, AuthSetupError)| {
            let text = error.to_string();
            // The key is shown before it anyway.
            let text = text.strip_prefix(key).map_or(text.as_str(), str::trim_start);
            (key.to_owned(), text.to_owned())
        };
        self.errors().into_iter().map(tell).collect()
    }

    fn errors(&self) -> Vec<(&'static str, AuthSetupError)> {
        let mut errors = Vec::new();
        match (self.jwks.is_empty(), self.issuers.is_empty()) {
            (true, true) => errors.push(("auth.jwks", AuthSetupError::NoKeys)),
            (false, false) => errors.push(("auth.issuers", AuthSetupError::BothForms)),
            _ => {}
        }
        let issuers = self.all_issuers();
        for (at, issuer) in issuers.iter().enumerate() {
            // Of one that is listed the key is the whole list.
            let key = |own| if self.issuers.is_empty() { own } else { "auth.issuers" };
            errors.extend(issuer_errors(issuer).into_iter().map(|(own, error)| (key(own), error)));
            if issuers.iter().take(at).any(|earlier| earlier.issuer == issuer.issuer) {
                errors.push(("auth.issuers", AuthSetupError::TwiceTheSameIssuer(issuer.issuer.clone())));
            }
        }
        errors.extend(self.claim_errors());
        errors
    }

    fn all_issuers(&self) -> Vec<IssuerConfig> {
        if !self.issuers.is_empty() {
            return self.issuers.clone();
        }
        // Without a key set there is none, which is an error of its own.
        if self.jwks.is_empty() { Vec::new() } else { vec![self.own_issuer()] }
    }

    fn own_issuer(&self) -> IssuerConfig {
        IssuerConfig {
            jwks: self.jwks.clone(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: self.algorithms.clone(),
            tenants: self.tenants.clone(),
            max_lifetime_h: self.max_lifetime_h,
        }
    }

    fn claim_errors(&self) -> Vec<(&'static str, AuthSetupError)> {
        let mut errors = Vec::new();
        for (key, claim) in [("auth.tenant_claim", &self.tenant_claim), ("auth.scope_claim", &self.scope_claim)] {
            if claim.is_empty() {
                errors.push((key, AuthSetupError::Empty(key)));
            }
        }
        if self.leeway_s > MAX_LEEWAY_S {
            errors.push(("auth.leeway_s", AuthSetupError::OutOfRange("auth.leeway_s", 0, MAX_LEEWAY_S)));
        }
        if !self.default_tenant.is_empty() && !is_id(&self.default_tenant) {
            errors.push(("auth.default_tenant", AuthSetupError::Tenant(self.default_tenant.clone())));
        }
        errors
    }
}

fn issuer_errors(issuer: &IssuerConfig) -> Vec<(&'static str, AuthSetupError)> {
    let mut errors = Vec::new();
    if issuer.jwks.is_empty() {
        errors.push(("auth.jwks", AuthSetupError::Empty("jwks of an issuer in auth.issuers")));
    }
    if issuer.issuer.is_empty() {
        errors.push(("auth.issuer", AuthSetupError::Empty("issuer in auth")));
    }
    if issuer.audience.is_empty() {
        errors.push(("auth.audience", AuthSetupError::Empty("audience in auth")));
    }
    if issuer.algorithms.is_empty() {
        errors.push(("auth.algorithms", AuthSetupError::Empty("algorithms in auth")));
    }
    if !(1..=MAX_LIFETIME_H).contains(&issuer.max_lifetime_h) {
        let error = AuthSetupError::OutOfRange("max_lifetime_h in auth", 1, MAX_LIFETIME_H);
        errors.push(("auth.max_lifetime_h", error));
    }
    if let Some(bad) = issuer.tenants.iter().find(|tenant| !is_id(tenant)) {
        errors.push(("auth.tenants", AuthSetupError::Tenant(bad.clone())));
    }
    errors
}

/// Why the gateway cannot start to judge tokens.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// Neither `auth.jwks` nor `auth.issuers` is there.
    #[error(
        "auth.jwks is not set: give the URL or the file of your issuer's JWKS, or make a key with \
         `tidegate keys new --dir keys` and set auth.jwks = \"keys/jwks.json\""
    )]
    NoKeys,
    /// `auth.jwks` and `auth.issuers` at once.
    #[error("auth.jwks and auth.issuers are both set: move the one from auth.jwks into [[auth.issuers]]")]
    BothForms,
    /// Two issuers with one name.
    #[error("auth.issuers has {0:?} twice: each issuer once, with all its keys in one JWKS")]
    TwiceTheSameIssuer(String),
    /// A key that needs a value.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// A number outside of its range.
    #[error("{0} must lie between {1} and {2}")]
    OutOfRange(&'static str, u64, u64),
    /// A tenant that is no id.
    #[error("tenant {0:?} in auth is no id: 1 to 128 of A-Z a-z 0-9 . _ -")]
    Tenant(String),
    /// A URL that is none.
    #[error("auth.jwks {0:?} is not an http:// or https:// URL with a host name")]
    Url(String),
    /// The certificates to check the JWKS server's with.
    #[error("no root certificates to check {url:?} with: install ca-certificates or set SSL_CERT_FILE ({reason})")]
    Roots {
        /// The JWKS.
        url: String,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// A file that cannot be read.
    #[error("auth.jwks: cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said, or that it is too long.
        reason: std::io::Error,
    },
    /// A set that is none.
    #[error("auth.jwks of issuer {issuer:?} is not a JSON Web Key Set: {reason}")]
    Set {
        /// The issuer.
        issuer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A set without a key of use.
    #[error(
        "auth.jwks of issuer {issuer:?} has no key that fits auth.algorithms: it needs P-256, RSA of 2048 bits or more, \
         Ed25519, or (for HS256) an `oct` of 32 bytes or more"
    )]
    NoUsableKey {
        /// The issuer.
        issuer: String,
    },
}
