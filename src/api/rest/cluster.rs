//! The nodes of the cluster.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use futures_util::future::try_join_all;
use http::StatusCode;
use serde_json::json;

use super::caller::Caller;
use super::fault::Fault;
use super::router;
use crate::api::Gate;
use crate::auth::Scope;
use crate::ownership::{Member, NodeState, Stretch};

/// `GET /v1/cluster`
pub(super) async fn show(State(gate): State<Arc<Gate>>, caller: Caller) -> Result<Response, Fault> {
    caller.needs(&[Scope::Admin])?;
    let registrar = router(&gate)?.registrar();
    let directory = registrar.directory();
    let (view, me) = (directory.ownership().view().await?, registrar.life());
    let count = Stretch { above: "", below: "", limit: 0 };
    let node = async |member: &Member| {
        let profile = &member.profile;
        let devices = directory.ownership().list(&profile.life, count).await?.all;
        Ok::<_, Fault>(json!({
            "name": profile.life.node.as_str(),
            "incarnation": profile.life.incarnation.to_string(),
            "state": profile.state.as_str(),
            "draining": profile.state == NodeState::Draining,
            "version": profile.version,
            "sees_kafka": profile.sees_kafka,
            "connections": devices,
            "answers": profile.life == *me,
        }))
    };
    let nodes = try_join_all(view.live.iter().map(node)).await?;
    Ok(super::json(StatusCode::OK, json!({ "nodes": nodes }).to_string()))
}
