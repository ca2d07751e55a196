//! Who asks, and about which device.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::StatusCode;
use http::request::Parts;

use super::fault::Fault;
use crate::api::Gate;
use crate::auth::{AppIdentity, AuthError, Identity, Scope};
use crate::id::{CommandId, DeviceKey};
use crate::socket::upgrade;

const NO_DEVICE: &str = "there is no such device, or the token does not reach it";

/// An application whose token holds.
pub(super) struct Caller(pub(super) AppIdentity);

impl FromRequestParts<Arc<Gate>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, gate: &Arc<Gate>) -> Result<Self, Fault> {
        let refused = |fault: Fault, why: &'static str| {
            let peer = parts.extensions.get::<IpAddr>().map(|peer| gate.hops.client(*peer, &parts.headers));
            tracing::info!(status = fault.status.as_u16(), why, ?peer, "a request was refused");
            fault
        };
        // One answer for whatever is wrong with a token: the reason is for the log.
        let unauthorized = || Fault::new(StatusCode::UNAUTHORIZED, "a valid token is needed");
        let token = upgrade::bearer(&parts.headers).map_err(|problem| refused(problem.into(), "Authorization"))?;
        let Some(token) = token else { return Err(refused(unauthorized(), "no token")) };
        let Some(auth) = &gate.node.auth else { return Err(refused(unauthorized(), "nobody judges tokens here")) };
        match auth.verify(&token, gate.node.now().unix_ms).await {
            Ok(verified) => match verified.identity {
                Identity::App(app) => Ok(Self(app)),
                Identity::Device(_) => {
                    let detail = "this is a device's token: the API is for applications";
                    Err(refused(Fault::new(StatusCode::FORBIDDEN, detail), detail))
                }
            },
            Err(AuthError::Unauthorized(why)) => Err(refused(unauthorized(), why.label())),
            // Of devices alone.
            Err(AuthError::Blocked) => Err(refused(unauthorized(), "blocked")),
            Err(AuthError::KeysUnavailable { retry_after_s }) => {
                let detail = "tokens cannot be verified just now";
                Err(refused(Fault::later(StatusCode::SERVICE_UNAVAILABLE, detail, retry_after_s), detail))
            }
        }
    }
}

impl Caller {
    /// Whether its token has one of these scopes.
    pub(super) fn needs(&self, scopes: &[Scope]) -> Result<(), Fault> {
        if scopes.iter().any(|scope| self.0.has(*scope)) {
            return Ok(());
        }
        let words: Vec<_> = scopes.iter().map(|scope| format!("`{}`", scope.word())).collect();
        Err(Fault::new(StatusCode::FORBIDDEN, format!("the token's scope has no {}", words.join(" or "))))
    }

    /// For what is about the whole tenant.
    pub(super) fn needs_all_devices(&self) -> Result<(), Fault> {
        if self.0.reaches_all() {
            return Ok(());
        }
        Err(Fault::new(StatusCode::FORBIDDEN, "the token is narrowed to some devices, and this is about all of them"))
    }

    /// The device of that name in the token's tenant.
    ///
    /// # Errors
    /// 400 for what is no name, 404 where the token does not reach it.
    pub(super) fn device(&self, name: &str) -> Result<DeviceKey, Fault> {
        let (key, reaches) = self.device_maybe(name)?;
        if reaches { Ok(key) } else { Err(lost()) }
    }

    /// The same where something is looked up: whether the token reaches it is to be asked after that, so that what is not
    /// reached takes as long as what is not there.
    pub(super) fn device_maybe(&self, name: &str) -> Result<(DeviceKey, bool), Fault> {
        // Names as any other to the gateway, and not to whatever lies in front of it.
        let plain = !matches!(name, "." | "..");
        match DeviceKey::new(self.0.tenant(), name) {
            Ok(key) if plain => {
                let reaches = self.0.may_reach(&key);
                Ok((key, reaches))
            }
            _ => Err(Fault::bad("a device's id is 1 to 128 of A-Z a-z 0-9 . _ - and neither `.` nor `..`")),
        }
    }
}

/// 404 of a device.
pub(super) fn lost() -> Fault {
    Fault::lost(NO_DEVICE)
}

/// The names in a path, decoded.
pub(super) struct Named(HashMap<String, String>);

impl FromRequestParts<Arc<Gate>> for Named {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, gate: &Arc<Gate>) -> Result<Self, Fault> {
        match Path::from_request_parts(parts, gate).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(_) => Err(Fault::bad("the path holds what is no percent-encoded UTF-8")),
        }
    }
}

impl Named {
    /// The device's id, unchecked.
    pub(super) fn device(&self) -> &str {
        self.0.get("device").map(String::as_str).unwrap_or_default()
    }

    /// The command's id.
    pub(super) fn command(&self) -> Result<CommandId, Fault> {
        let id = self.0.get("id").map(String::as_str).unwrap_or_default();
        CommandId::parse(id).map_err(|error| Fault::bad(error.to_string()))
    }
}
