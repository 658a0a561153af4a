//! Server-sent events: a task's, or all that the caller may see, from where the client left off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Deserialize;
use spotreel_api::ApiError;
use spotreel_bus::names;
use spotreel_domain::Owner;

use super::api::Api;
use super::feed::{Following, Told};
use super::lines::{UNBUFFERED, one_line};
use super::problem::Problem;
use super::query::Named;
use super::shares::Share;
use crate::error;
use crate::keys::Caller;

const LAST_EVENT_ID: &str = "last-event-id";
/// Below the minute after which proxies give up on a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often the key of an open stream is looked at: what docs/http.md promises of a revoked one.
const KEY_CHECK: Duration = Duration::from_secs(1);
/// When a browser comes back after a connection was lost.
const COME_BACK: Duration = Duration::from_secs(1);

/// A task's events, from the first on, and its progress; ends with the task.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/events", tag = "events", operation_id = "follow_task",
    params(("id" = String, Path), ("Last-Event-ID" = Option<u64>, Header, description = "Id of the newest event that the client has.")),
    responses(
        (status = 200, description = "Each event is a CloudEvent; `progress` has no id and may be lost.", content_type = "text/event-stream", body = String),
        (status = 204, description = "The task has ended, and there is no event after `Last-Event-ID`. A browser does not reconnect."),
        super::openapi::Refusals
    )
)]
pub(super) async fn of_task(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = api.followers.take(Some(&caller))?;
    let task = api.intake.newest(&caller, &id).await?.task;
    let ended = task.is_terminal();
    let given = last_event_id(&headers)?;
    let unknown = is_unknown(&api, given).await?;
    let after = given.filter(|_| !unknown).unwrap_or(0);
    let client = api.intake.log.client();
    let progress = client.subscribe(names::progress(&id)).await;
    let progress = progress.map_err(|_| error::unavailable("progress cannot be heard now"))?;
    let mut following = api.feed.follow(names::events_of(&id), after, task.born);
    let first = following
        .next_stored()
        .await
        .map_err(|failure| unread(&failure))?;
    if ended && first.is_none() && after > 0 {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let follower = Follower {
        following,
        first,
        progress: Some(progress),
        caller,
        ends: true,
        reset: unknown.then_some(0),
        api,
        _place: place,
    };
    Ok(follower.answer())
}

/// What happens to all tasks that the caller may see, from now on or from `Last-Event-ID` on.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "follow_all",
    params(("Last-Event-ID" = Option<u64>, Header, description = "Id of the newest event that the client has. Default: only new events.")),
    responses(
        (status = 200, description = "Each event is a CloudEvent.", content_type = "text/event-stream", body = String),
        super::openapi::Refusals
    )
)]
pub(super) async fn of_all(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = api.followers.take(Some(&caller))?;
    let newest = api.feed.newest().await;
    let newest = newest.map_err(|failure| unread(&failure))?;
    let given = last_event_id(&headers)?;
    let unknown = given.is_some_and(|given| given > newest);
    let after = given.filter(|_| !unknown).unwrap_or(newest);
    let follower = Follower {
        following: api.feed.follow_all(after),
        first: None,
        progress: None,
        caller,
        ends: false,
        reset: unknown.then_some(newest),
        api,
        _place: place,
    };
    Ok(follower.answer())
}

/// Whether an id was never given by this stream: it has begun anew, on an empty disk or from a backup.
async fn is_unknown(api: &Api, given: Option<u64>) -> Result<bool, ApiError> {
    let Some(given) = given else { return Ok(false) };
    let newest = api.feed.newest().await;
    Ok(given > newest.map_err(|failure| unread(&failure))?)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    // One more must still be a number.
    let id = id.filter(|id| *id < u64::MAX);
    let message = "Last-Event-ID is the id of an event that was sent here: a number";
    id.map(Some)
        .ok_or_else(|| error::broken("Last-Event-ID", "format", message))
}

fn unread(failure: &spotreel_bus::jetstream::JetStreamError) -> ApiError {
    tracing::warn!(error = %spotreel_domain::chain(failure), "reading EVENTS failed");
    error::unavailable("events cannot be read now")
}

struct Follower {
    following: Following,
    /// Read already.
    first: Option<Arc<Told>>,
    progress: Option<Subscriber>,
    caller: Caller,
    /// With the task; or never.
    ends: bool,
    /// The client's place is unknown here: it is told so, and goes on from this one.
    reset: Option<u64>,
    api: Api,
    _place: Share,
}

impl Follower {
    fn answer(self) -> Response {
        let hello = Event::default().retry(COME_BACK);
        let reset = self.reset.map(|place| {
            let data = "{\"detail\":\"Last-Event-ID was never given by this stream, which has begun anew: read the tasks again\"}";
            Event::default().id(place.to_string()).event("reset").data(data)
        });
        let hello = stream::iter(std::iter::once(hello).chain(reset));
        let events = stream::unfold(Some(self), |follower| async {
            let mut follower = follower?;
            let (event, more) = follower.next().await?;
            Some((event, more.then_some(follower)))
        });
        let events = hello.chain(events).map(Ok::<_, Infallible>);
        let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
        (UNBUFFERED, sse).into_response()
    }

    /// The next event, and whether others may follow it. None: the program stops, the key is not valid any more, or the stream cannot be read; the
    /// client comes back with the id of the last one.
    async fn next(&mut self) -> Option<(Event, bool)> {
        loop {
            if let Some(first) = self.first.take() {
                if let Some(event) = self.tell(&first).await {
                    return Some(event);
                }
                continue;
            }
            if !self.api.is_live(&self.caller) {
                return None;
            }
            let stopping = self.api.ctx.stopping.clone();
            tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                () = tokio::time::sleep(KEY_CHECK) => {}
                told = self.following.next() => {
                    let told = told.inspect_err(|failure| drop(unread(failure))).ok()?;
                    if let Some(event) = self.tell(&told).await {
                        return Some(event);
                    }
                }
                progress = heard(&mut self.progress) => {
                    let text = String::from_utf8(progress.payload.into()).ok()?;
                    return Some((Event::default().event("progress").data(one_line(&text)), true));
                }
            }
        }
    }

    /// None: the caller may not see it.
    async fn tell(&self, told: &Told) -> Option<(Event, bool)> {
        let text = std::str::from_utf8(&told.payload).ok()?;
        if !self.caller.may_see_of(owner(text).as_ref()) {
            return None;
        }
        let event = Event::default()
            .id(told.sequence.to_string())
            .event(told.event())
            .data(one_line(text));
        let may_end = self.ends
            && spotreel_domain::Event::parse(told.event())
                .is_some_and(spotreel_domain::Event::is_terminal);
        Some((event, !(may_end && self.following.is_at_end().await)))
    }
}

async fn heard(progress: &mut Option<Subscriber>) -> async_nats::Message {
    if let Some(subscriber) = progress
        && let Some(message) = subscriber.next().await
    {
        return message;
    }
    *progress = None;
    std::future::pending().await
}

/// Whose task an event tells of.
fn owner(event: &str) -> Option<Owner> {
    #[derive(Deserialize)]
    struct Told {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        owner: Option<Owner>,
    }
    serde_json::from_str::<Told>(event).ok()?.data.owner
}
