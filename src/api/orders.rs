//! Commands that applications send on their sockets: accepted, watched, and every transition told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::commands::{ATTEMPTS, Command, CommandError, Submission};
use crate::connection::AppOrder;
use crate::mailbox::{Letter, Mailbox, PostError};
use crate::protocol::message::{CommandState, GatewayMessage, RefusalCode};
use crate::router::Router;

/// Commands of sockets that are watched at once on this node. Beyond these they wait, and then are refused.
const WATCHED: usize = 4_096;
/// When a full mailbox is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Rest after the directory did not answer.
const REST: Duration = Duration::from_secs(1);
/// How often it is looked whether the socket is there still.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Brings what comes out of [`Apps`](crate::connection::Apps) to its devices, for as long as it is polled.
pub async fn bring(router: Arc<Router>, mut orders: mpsc::Receiver<AppOrder>) {
    let watched = Arc::new(Semaphore::new(WATCHED));
    while let Ok(place) = Arc::clone(&watched).acquire_owned().await {
        let Some(order) = orders.recv().await else { return };
        let router = Arc::clone(&router);
        tokio::spawn(async move {
            // Gone is gone: nobody is left to be told.
            let _ = one(&router, &order).await;
            drop((order, place));
        });
    }
}

/// One command, from its acceptance to its end.
async fn one(router: &Arc<Router>, order: &AppOrder) -> Result<(), PostError> {
    let asked = &order.command;
    let submission = Submission {
        device: &order.device,
        application: &order.application,
        key: &asked.key,
        name: &asked.name,
        params: &asked.params,
        ttl_ms: asked.ttl_s * 1_000,
        since_ms: None,
        max_attempts: asked.max_attempts.unwrap_or(ATTEMPTS),
        replace: asked.replace,
        only_epoch: None,
        origin: None,
    };
    let mut watch = router.watch(&order.device, submission.id());
    let submitted =
        if asked.ttl_s == 0 { router.submit_now(submission).await } else { router.submit(submission).await };
    let mut command = match submitted {
        Ok(submitted) => submitted.command,
        Err(error) => return say(&order.mailbox, refused(order, &error)).await,
    };
    let mut told = 0;
    loop {
        if command.life.version > told {
            told = command.life.version;
            say(&order.mailbox, state(order, &command)).await?;
        }
        if command.life.state.is_terminal() {
            return Ok(());
        }
        command = match tokio::time::timeout(LOOK_EVERY, watch.next()).await {
            Ok(Ok(command)) => command,
            Ok(Err(error @ CommandError::NotFound)) => return say(&order.mailbox, refused(order, &error)).await,
            // The directory is away: what has become of it is told when it is back.
            Ok(Err(_)) => {
                tokio::time::sleep(REST).await;
                command
            }
            Err(_) => command,
        };
        if order.mailbox.is_closed() {
            return Err(PostError::Gone);
        }
    }
}

/// Leaves a message in a mailbox, as soon as there is room.
async fn say(mailbox: &Mailbox, message: GatewayMessage<'static>) -> Result<(), PostError> {
    let letter = Letter::Say(Box::new(message));
    loop {
        match mailbox.post(letter.clone()) {
            Err(PostError::Full) => tokio::time::sleep(AGAIN_AFTER).await,
            other => return other,
        }
    }
}

fn state(order: &AppOrder, command: &Command) -> GatewayMessage<'static> {
    let result = command.result.clone().and_then(|json| String::from_utf8(json).ok());
    GatewayMessage::CommandState(CommandState {
        key: Some(order.command.key.clone()),
        id: command.id.to_string().into(),
        device_id: order.command.device_id.clone(),
        state: command.life.state.as_str(),
        version: command.life.version,
        reason: command.life.reason.map(crate::commands::Reason::as_str),
        result: result.map(Into::into),
        message: command.message.clone().map(Into::into),
    })
}

fn refused(order: &AppOrder, error: &CommandError) -> GatewayMessage<'static> {
    let (code, message) = match error {
        CommandError::Invalid(_) | CommandError::Expired | CommandError::TooLate(_) => {
            (RefusalCode::Malformed, error.to_string())
        }
        CommandError::Conflict => (RefusalCode::Conflict, error.to_string()),
        CommandError::QueueFull => (RefusalCode::Rate, error.to_string()),
        CommandError::TooLarge(_) => (RefusalCode::TooLarge, error.to_string()),
        CommandError::NotConnected => (RefusalCode::NotConnected, error.to_string()),
        CommandError::NotFound => (RefusalCode::Unavailable, error.to_string()),
        CommandError::Unavailable(reason) => {
            tracing::warn!(reason, "a command of an application's socket cannot be taken");
            let text = "commands cannot be taken just now: send it again with the same key";
            (RefusalCode::Unavailable, text.to_owned())
        }
    };
    let id = Some(order.command.key.clone());
    GatewayMessage::Refused { seq: None, id, code, message: format!("command: {message}").into() }
}
