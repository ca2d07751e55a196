//! Why a request was not done, as problem+json (RFC 9457).

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::commands::CommandError;
use crate::ownership::OwnershipError;
use crate::socket::upgrade::Problem;

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) detail: Cow<'static, str>,
    pub(super) retry_after_s: Option<u64>,
}

impl Fault {
    /// One that waiting does not help.
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after_s: None }
    }

    /// One that waiting may help.
    pub(super) fn later(status: StatusCode, detail: impl Into<Cow<'static, str>>, retry_after_s: u64) -> Self {
        Self { status, detail: detail.into(), retry_after_s: Some(retry_after_s) }
    }

    /// 400.
    pub(super) fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404, the same whatever is not there: nothing, somebody else's, or what the token does not reach.
    pub(super) fn lost(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, what)
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self { status: problem.status, detail: problem.detail.into(), retry_after_s: problem.retry_after_s }
    }
}

impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        let (status, retry_after_s) = match &error {
            CommandError::Invalid(_) => (StatusCode::BAD_REQUEST, None),
            CommandError::Conflict | CommandError::Expired | CommandError::NotConnected | CommandError::TooLate(_) => {
                (StatusCode::CONFLICT, None)
            }
            CommandError::QueueFull => (StatusCode::TOO_MANY_REQUESTS, Some(5)),
            CommandError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, None),
            CommandError::NotFound => (StatusCode::NOT_FOUND, None),
            CommandError::Unavailable(reason) => {
                tracing::warn!(reason, "commands cannot be taken or read");
                // What exactly is away is the operator's.
                let detail = "commands cannot be taken or read just now: repeat with the same Idempotency-Key";
                return Self::later(StatusCode::SERVICE_UNAVAILABLE, detail, 1);
            }
        };
        Self { status, detail: error.to_string().into(), retry_after_s }
    }
}

impl From<OwnershipError> for Fault {
    fn from(error: OwnershipError) -> Self {
        tracing::warn!(%error, "the directory could not be read for a request");
        Self::later(StatusCode::SERVICE_UNAVAILABLE, "where devices are cannot be read just now", 1)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = serde_json::json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
