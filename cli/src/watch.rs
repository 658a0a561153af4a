//! Tasks as they are rendered: bars for people, JSON lines for programs.
//!
//! Events come over core NATS, which promises nothing: what is asked for by id is also looked up now and then.

mod board;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, stream};
use serde_json::Value;
use spotreel_api::{CloudEvent, Progress, TaskRef, TaskView};
use spotreel_bus::names;

use self::board::WatchBoard;
pub use self::board::sentence;
use crate::args::WatchArgs;
use crate::connection::{Api, CallError, Settings};
use crate::done::Done;
use crate::print;

const TASK_EVENTS: &str = "spotreel.task.*.*";
/// How often tasks are looked up, and how many of them each time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOKED_UP_AT_ONCE: usize = 16;
const LOOKED_UP_EACH_TIME: usize = 200;
/// How often the bars are drawn anew though nothing came.
const DRAW_EVERY: Duration = Duration::from_millis(250);

pub async fn run(settings: &Settings, args: WatchArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    if args.ids.is_empty() {
        if !args.json {
            eprintln!("watching all tasks; Ctrl-C ends");
        }
        follow(&api, None, args.json).await?;
        return Ok(Done::Well);
    }
    let mut ids = Vec::new();
    for id in args.ids {
        ids.push(api.whole_id(id).await?);
    }
    let well = until_ended(&api, ids, args.json).await?;
    Ok(if well { Done::Well } else { Done::Failed })
}

/// Follows the tasks until each has ended; whether all of them have a video.
pub async fn until_ended(api: &Api, ids: Vec<String>, json: bool) -> anyhow::Result<bool> {
    let goes_on = match ids.as_slice() {
        [id] => format!(
            "the task goes on: `spotreel watch {id}` follows it, `spotreel cancel {id}` ends it"
        ),
        ids => format!("the {} tasks go on: `spotreel list` shows them", ids.len()),
    };
    tokio::select! {
        well = follow(api, Some(ids), json) => well,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\nstopped watching; {goes_on}");
            Ok(false)
        }
    }
}

async fn follow(api: &Api, ids: Option<Vec<String>>, json: bool) -> anyhow::Result<bool> {
    let lost = "cannot subscribe";
    let mut events = api.client.subscribe(TASK_EVENTS).await.context(lost)?;
    let mut progress = api
        .client
        .subscribe(names::ALL_PROGRESS)
        .await
        .context(lost)?;
    // Only now is the server sure to know both: what ends after the look-up below will be heard.
    api.client.flush().await.context(lost)?;

    let mut waiting: Option<BTreeSet<String>> = ids.map(|ids| ids.into_iter().collect());
    let mut board = WatchBoard::new(waiting.as_ref().map(BTreeSet::len), json);
    let mut well = true;
    let mut first = true;
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut draw = tokio::time::interval(DRAW_EVERY);
    while waiting.as_ref().is_none_or(|waiting| !waiting.is_empty()) {
        tokio::select! {
            Some(message) = events.next() => {
                let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else { continue };
                let mine = event["subject"].as_str().is_some_and(|id| {
                    waiting.as_ref().is_none_or(|waiting| waiting.contains(id))
                });
                if !mine { continue }
                if json { print::json(&event) }
                if let Ok(event) = serde_json::from_value::<CloudEvent<TaskView>>(event) {
                    settle(&mut board, &mut waiting, &mut well, &event.data);
                }
            }
            Some(message) = progress.next() => {
                let Ok(step) = serde_json::from_slice::<Progress>(&message.payload) else { continue };
                if waiting.as_ref().is_none_or(|waiting| waiting.contains(step.id.as_str())) {
                    if json { print::json(&step) }
                    board.progress(&step);
                }
            }
            _ = look.tick(), if waiting.is_some() => {
                let most = if first { usize::MAX } else { LOOKED_UP_EACH_TIME };
                let ids: Vec<String> = waiting.iter().flatten().take(most).cloned().collect();
                for (id, found) in look_up(api, ids).await {
                    match found {
                        Ok(task) => {
                            if json && ended(&task) { print::json(&task) }
                            settle(&mut board, &mut waiting, &mut well, &task);
                        }
                        // It has just been asked for: nothing will ever be heard of it.
                        Err(error @ CallError::Refused(_)) if first => {
                            well = false;
                            board.complain(&print::named(&id, &error));
                            if let Some(waiting) = &mut waiting { waiting.remove(&id); }
                        }
                        Err(error) if first => return Err(error.into()),
                        // The next look may do better.
                        Err(_) => {}
                    }
                }
                first = false;
            }
            _ = draw.tick() => board.draw(),
        }
    }
    board.finish();
    Ok(well)
}

fn ended(task: &TaskView) -> bool {
    has_ended(&task.state)
}

/// Whether a task of this state is over. An unnamed one comes from an older server, which does not say.
pub fn has_ended(state: &str) -> bool {
    !matches!(state, "queued" | "started" | "")
}

fn settle(
    board: &mut WatchBoard,
    waiting: &mut Option<BTreeSet<String>>,
    well: &mut bool,
    task: &TaskView,
) {
    board.task(task);
    if ended(task)
        && let Some(waiting) = waiting
    {
        waiting.remove(task.id.as_str());
        *well &= task.state == "succeeded";
    }
}

async fn look_up(api: &Api, ids: Vec<String>) -> Vec<(String, Result<TaskView, CallError>)> {
    let asked = ids.into_iter().map(|id| async move {
        let found = api.call(names::GET, &TaskRef { id: id.clone() }).await;
        (id, found)
    });
    stream::iter(asked)
        .buffer_unordered(LOOKED_UP_AT_ONCE)
        .collect()
        .await
}
