//! What a refused token failed at: for our logs and metrics, never for the client.

/// The check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Longer than `limits.token_bytes`.
    TooLong,
    /// Not three parts of unpadded base64url.
    Encoding,
    /// The header is not an object whose names stand once.
    Header,
    /// `alg` is missing, unknown, or not one of the issuer's.
    Algorithm,
    /// `crit` or `b64`.
    Critical,
    /// `typ` is that of another kind of token.
    Type,
    /// `kid` is no text of 1 to 256 bytes, or is needed and missing.
    KeyId,
    /// No key of the issuer has this `kid` and fits `alg`.
    UnknownKey,
    /// `iss` is missing or nobody we know.
    Issuer,
    /// The signature does not fit.
    Signature,
    /// The payload is not an object whose names stand once, or a date is no integer.
    Claims,
    /// `aud` does not name us.
    Audience,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies ahead.
    NotYet,
    /// Valid for longer than the issuer may say.
    Lifetime,
    /// The tenant is missing or not one of the issuer's.
    Tenant,
    /// `sub` or the tenant is no id.
    Subject,
    /// The scopes or the devices cannot be read.
    Scope,
    /// The key was removed from the issuer's set, or key or token were revoked.
    Revoked,
    /// A client's certificate cannot be read.
    Certificate,
}

impl Why {
    /// A word for a metric's label and a log's field: one of a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Encoding => "encoding",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical",
            Self::Type => "type",
            Self::KeyId => "key_id",
            Self::UnknownKey => "unknown_key",
            Self::Issuer => "issuer",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Lifetime => "lifetime",
            Self::Tenant => "tenant",
            Self::Subject => "subject",
            Self::Scope => "scope",
            Self::Revoked => "revoked",
            Self::Certificate => "certificate",
        }
    }
}
