//! Bodies, read strictly: bounded in bytes and time, one JSON object, no key twice, no field nobody knows.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use http::StatusCode;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::fault::Fault;
use super::only;
use crate::protocol::json;

/// What of a body that is too large is read at most, in bytes.
const DISCARDED: usize = 1024 * 1024;

/// Reads a body of at most `limit` bytes within `timeout`.
pub(super) async fn read(request: Request, limit: usize, timeout: Duration) -> Result<Vec<u8>, Fault> {
    let kind = only(request.headers(), "content-type")?.unwrap_or("application/json");
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, and Content-Type: application/json"));
    }
    let too_large = || Fault::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body here is at most {limit} bytes"));
    match tokio::time::timeout(timeout, collect(request.into_body(), limit)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(Fault::bad("the body broke off")),
        Err(_) => Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

/// A body, or nothing where it is too large. Some of what is beyond is read all the same: a client that is still sending
/// would see its connection reset and not the answer.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let announced = body.size_hint().lower();
    let (mut all, mut seen) = (Vec::new(), 0);
    let mut fits = usize::try_from(announced).is_ok_and(|announced| announced <= limit);
    if announced > DISCARDED as u64 {
        return Ok(None);
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen += data.len();
        fits &= seen <= limit;
        if fits {
            all.extend_from_slice(&data);
        } else if seen > DISCARDED {
            break;
        } else {
            all = Vec::new();
        }
    }
    Ok(fits.then_some(all))
}

/// Takes a body apart.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let text = std::str::from_utf8(body).map_err(|_| Fault::bad("the body is not UTF-8"))?;
    json::check_object(text).map_err(|why| Fault::bad(format!("the body: {why}")))?;
    serde_json::from_str(text).map_err(|error| Fault::bad(format!("the body: {error}")))
}

/// A field that is a string.
pub(super) fn text(field: Option<&RawValue>, name: &str) -> Result<Option<String>, Fault> {
    let read = |raw: &RawValue| serde_json::from_str(raw.get());
    field.map(read).transpose().map_err(|_| Fault::bad(format!("`{name}` must be a string")))
}

/// A field that is an integer within bounds.
pub(super) fn integer(field: Option<&RawValue>, name: &str, least: u64, most: u64) -> Result<Option<u64>, Fault> {
    let Some(raw) = field else { return Ok(None) };
    match serde_json::from_str(raw.get()) {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(Fault::bad(format!("`{name}` must be an integer from {least} to {most}"))),
    }
}

/// A field that is true or false.
pub(super) fn flag(field: Option<&RawValue>, name: &str) -> Result<Option<bool>, Fault> {
    let read = |raw: &RawValue| serde_json::from_str(raw.get());
    field.map(read).transpose().map_err(|_| Fault::bad(format!("`{name}` must be true or false")))
}

/// A field that has to be there.
pub(super) fn needed<T>(field: Option<T>, name: &str) -> Result<T, Fault> {
    field.ok_or_else(|| Fault::bad(format!("`{name}` is missing")))
}
