//! Drain requests from fleet: the worker takes no further task, and answers once its presence record says so.

use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt;
use spotreel_api::{DrainReply, DrainRequest, DrainState};
use spotreel_bootstrap::Context;
use spotreel_bus::{kv, names};
use spotreel_domain::batch::DrainMode;
use spotreel_proto::worker::v1::State;
use tokio::sync::oneshot;

use crate::machine::leave::{By, Leave};
use crate::machine::presence::PresenceBoard;

/// Between two tries to learn whether the order was given before anybody listened.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Listens until the program ends, and says so by `listening`: nothing may be taken before. Asking again is answered
/// again; a later `now` hurries an earlier `finish`.
pub async fn listen(
    client: Client,
    instance: String,
    board: PresenceBoard,
    leave: Leave,
    ctx: Context,
    listening: oneshot::Sender<()>,
) {
    let subject = names::worker_drain(&instance);
    let mut requests = match client.subscribe(subject.clone()).await {
        Ok(requests) => requests,
        Err(error) => {
            return tracing::error!(error = %spotreel_domain::chain(&error), subject, "subscribing to drain requests failed");
        }
    };
    // Without a server it waits for ever, and this worker may have to leave.
    tokio::select! {
        () = obey_earlier_order(&client, &instance, &leave) => {}
        () = leave.leaving().cancelled() => {}
    }
    // Nobody waits any more: the worker leaves already.
    let _ = listening.send(());
    loop {
        let request = tokio::select! {
            Some(request) = requests.next() => request,
            () = ctx.stopping.cancelled() => return,
            else => return,
        };
        // Answered on the side: an answer waits for a write, and the next request must not wait for the answer.
        ctx.tasks.spawn(answer(
            client.clone(),
            board.clone(),
            leave.clone(),
            request,
        ));
    }
}

/// A machine that was told to go before its worker was there to hear it.
async fn obey_earlier_order(client: &Client, instance: &str, leave: &Leave) {
    loop {
        let asked = async {
            client.flush().await.map_err(|error| error.to_string())?;
            let ordered = kv::is_ordered_out(client, instance).await;
            ordered.map_err(|error| error.to_string())
        };
        match asked.await {
            Ok(true) => {
                return leave.order(By::AtOnce, "its machine was told to go before it was up");
            }
            Ok(false) => return,
            Err(error) => tracing::debug!(
                error,
                "stop order of this instance cannot be read yet; taking no task"
            ),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn answer(client: Client, board: PresenceBoard, leave: Leave, message: Message) {
    let answer = match serde_json::from_slice::<DrainRequest>(&message.payload) {
        Ok(request) => {
            tracing::info!(mode = ?request.mode, reason = request.reason, "drain requested");
            let by = match request.mode {
                DrainMode::Finish => By::WhenDone,
                DrainMode::Now => By::AtOnce,
            };
            leave.order(by, "told to drain");
            DrainReply::State {
                state: match board.leaving_told().await {
                    State::Drained => DrainState::Drained,
                    _ => DrainState::Draining,
                },
            }
        }
        Err(error) => DrainReply::Error {
            error: error.to_string(),
        },
    };
    let Some(reply) = message.reply else { return };
    let Ok(body) = serde_json::to_vec(&answer) else {
        return;
    };
    // The program may end next: the answer has to be on its way before that.
    if client.publish(reply, body.into()).await.is_err() || client.flush().await.is_err() {
        tracing::debug!("answer to a drain request could not be sent");
    }
}
