//! How somebody is not let in: the answer, its count, its line in the log, and the wait before it.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;

use super::Gate;
use crate::id::DeviceKey;
use crate::socket::upgrade::Problem;
use crate::telemetry::metrics::AttemptOutcome;

/// Why a handshake got no connection.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    pub(super) outcome: AttemptOutcome,
    /// What exactly failed, where the answer does not tell: for the log.
    pub(super) why: &'static str,
    /// Who it is, where that is known for sure.
    pub(super) who: Option<DeviceKey>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let outcome = match problem.status {
            StatusCode::UNAUTHORIZED => AttemptOutcome::Unauthorized,
            StatusCode::FORBIDDEN => AttemptOutcome::Forbidden,
            StatusCode::NOT_FOUND => AttemptOutcome::NotFound,
            StatusCode::UPGRADE_REQUIRED => AttemptOutcome::UpgradeRequired,
            StatusCode::TOO_MANY_REQUESTS => AttemptOutcome::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE => AttemptOutcome::Overloaded,
            _ => AttemptOutcome::BadRequest,
        };
        Self { outcome, why: problem.detail, problem, who: None }
    }
}

impl Refusal {
    /// The same of somebody whose token is good.
    pub(super) fn of(self, who: &DeviceKey) -> Self {
        Self { who: Some(who.clone()), ..self }
    }

    /// Counts it and writes its line.
    pub(super) fn note(&self, gate: &Gate, peer: IpAddr) {
        gate.node.metrics.connection_attempts.of(self.outcome).inc();
        let status = self.problem.status.as_u16();
        let (tenant, device) = (self.who.as_ref().map(DeviceKey::tenant), self.who.as_ref().map(DeviceKey::device));
        tracing::info!(status, why = self.why, tenant, device, %peer, "a handshake was refused");
    }

    /// Waits where the client should not come back at once: small clients cannot read `Retry-After`, so the answer itself
    /// is late. Those that find no place to wait are answered at once.
    pub(super) async fn delay(&self, gate: &Gate) {
        let waits = matches!(self.problem.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if waits && let Ok(_place) = gate.delays.try_acquire() {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1_000..4_000))).await;
        }
    }
}

pub(super) fn answer(problem: &Problem) -> Response {
    problem.response().map(Body::new)
}
