//! A key set over HTTP: one GET.

use crate::auth::config::AuthSetupError;
use crate::https::{Endpoint, EndpointError};

/// One URL and the client for it.
pub(super) struct Fetcher(Endpoint);

impl Fetcher {
    pub(super) fn new(text: &str) -> Result<Self, AuthSetupError> {
        let endpoint = Endpoint::new(text, None).map_err(|error| match error {
            EndpointError::Url => AuthSetupError::Url(text.to_owned()),
            EndpointError::Roots(reason) => AuthSetupError::Roots { url: text.to_owned(), reason },
        })?;
        if !endpoint.is_https() {
            tracing::warn!(
                "auth.jwks is a plain http:// URL: whoever sits on the way can put a key of their own in it"
            );
        }
        Ok(Self(endpoint))
    }

    /// Fetches the set.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, String> {
        let (status, body) = self.0.get("application/jwk-set+json, application/json").await?;
        if status != http::StatusCode::OK {
            return Err(format!("answered {status}"));
        }
        Ok(body)
    }
}
