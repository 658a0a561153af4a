//! The handlers of tasks: each reads the request, calls the path that it shares with the NATS API, and answers in HTTP's terms.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use spotreel_api::{
    Accepted, AcceptedMany, ApiError, CancelledMany, ListPage, ListQuery, SubmitResult, TaskView,
};

use super::api::Api;
use super::body::{self, Place};
use super::jsonl;
use super::problem::Problem;
use super::query::{Asked, Named, paged};
use crate::config::LARGEST_BODY;
use crate::error;
use crate::keys::Caller;
use crate::submit::parse::{self, Submission};
use crate::submit::{Origin, sum};
use spotreel_api::schema::{Filters, Listed, Submittable, TaskRequestSchema, Unwanted};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Accepts a task, a list of tasks, or a stream of them, one a line.
///
/// With the header `Idempotency-Key` the same request is safe to send again: the tasks of a list are then named by the
/// key, a slash and their index.
#[utoipa::path(
    post, path = "/v1/tasks", tag = "tasks", operation_id = "submit",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable characters. For one task it is the same as its `idempotency_key`.")),
    request_body(content((Submittable = "application/json"), (TaskRequestSchema = "application/jsonl"))),
    responses(
        (status = 201, description = "The task is accepted, or was accepted before.", body = Accepted,
         headers(("Location" = String, description = "The task."))),
        (status = 200, description = "One result per task of the list; as JSON lines if the request was.",
         content((AcceptedMany = "application/json"), (SubmitResult = "application/jsonl"))),
        super::openapi::Refusals
    )
)]
pub(super) async fn submit(
    State(api): State<Api>,
    caller: Caller,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let kind = body::media_type(&headers)?;
    match kind.as_deref() {
        Some("application/json") => {}
        Some(kind) if jsonl::MEDIA_TYPES.contains(&kind) => {
            return Ok(jsonl::submit(api, caller, key, body)?);
        }
        _ => {
            let message =
                "Content-Type is application/json, or application/jsonl for a task a line";
            return Err(error::unsupported(message.into()).into());
        }
    }
    let held = body::read(&api, &caller, &place, &headers, body, LARGEST_BODY).await?;
    // The body's share is held to the end: what was read out of it is as large.
    let mut submission = parse::submission(held.as_slice(), None)?;
    if let Some(key) = key {
        if let Submission::One(request) = &submission
            && (request.id.is_some() || request.idempotency_key.is_some())
        {
            let message =
                "give the header Idempotency-Key or the task's own id or idempotency_key, not both";
            return Err(error::broken("Idempotency-Key", "either", message).into());
        }
        submission.name(&key);
    }
    match submission {
        Submission::One(request) => {
            api.admit(&caller, 1)?;
            let mut outcomes = api
                .intake
                .submit(vec![Ok(*request)], Origin::Http, &caller)
                .await;
            let accepted = outcomes.remove(0)?;
            let location = format!("/v1/tasks/{}", accepted.id);
            Ok((StatusCode::CREATED, [(LOCATION, location)], Json(accepted)).into_response())
        }
        Submission::Many(requests) => {
            api.admit(&caller, requests.len())?;
            let outcomes = api.intake.submit(requests, Origin::Http, &caller).await;
            Ok(Json(sum(outcomes)).into_response())
        }
    }
}

/// Tasks, newest change first. A page may be short or empty before the last one: go on until there is no `next_cursor`.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", operation_id = "list_tasks", params(Listed, Filters),
    responses(
        (status = 200, body = ListPage, headers(("Link" = String, description = "`rel=\"next\"`: the next page, if there is one (RFC 8288)."))),
        super::openapi::Refusals
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Response, Problem> {
    let page = crate::tasks::list::page(&api.intake, &caller, &query).await?;
    let next = page.next_cursor.map(|cursor| ListQuery {
        cursor: Some(cursor),
        ..query
    });
    Ok(paged("/v1/tasks", page, next))
}

/// Cancels the tasks that the query names and that have not ended. While the answer has a `next_cursor`, more may remain: repeat the call with it.
#[utoipa::path(
    delete, path = "/v1/tasks", tag = "tasks", operation_id = "cancel_tasks", params(Unwanted, Filters),
    responses((status = 200, body = CancelledMany), super::openapi::Refusals)
)]
pub(super) async fn cancel_many(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<CancelledMany>, Problem> {
    Ok(Json(api.intake.cancel_many(&caller, &query).await?))
}

/// One task, with a fresh link to its video. While it is rendered, `worker`, `step`, `phase` and `eta_s` tell how far it is.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "get_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), super::openapi::Refusals)
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(api.intake.get(&caller, &id).await?))
}

/// Cancels a task that has not ended. Again is no error.
#[utoipa::path(
    delete, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "cancel_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), super::openapi::Refusals)
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(api.intake.cancel(&caller, &id).await?))
}

/// A task that failed, was cancelled or expired begins a new round.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/retry", tag = "tasks", operation_id = "retry_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), super::openapi::Refusals)
)]
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskView>, Problem> {
    // Over all callers, the retry itself counts.
    api.pace(&caller, 1)?;
    Ok(Json(api.intake.retry(&caller, &id).await?))
}

/// Redirects to a fresh link to the video, which lies in S3.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/video", tag = "tasks", operation_id = "get_video", params(("id" = String, Path)),
    responses(
        (status = 307, description = "To the MP4.", headers(("Location" = String, description = "A link that expires; this address stays valid."))),
        super::openapi::Refusals
    )
)]
pub(super) async fn video(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
    method: Method,
) -> Result<Response, Problem> {
    let task = api.intake.get(&caller, &id).await?;
    let Some(video) = task.video else {
        let message = format!("task {id} is {}: there is no video of it", task.state);
        return Err(error::no_video(message).into());
    };
    // The signature covers the method.
    let url = match method {
        Method::HEAD => api.intake.images.link_for_head(&video.artifact.key).await,
        _ => video.url,
    };
    let url = url.ok_or_else(|| error::unavailable("no link can be made now"))?;
    // The link ends: it is for this time only.
    let headers = [(LOCATION, url), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    /// The longest that still fits `idempotency_key` with an index behind it.
    const LONGEST: usize = 200;
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if given.next().is_some() || key.is_empty() || key.len() > LONGEST {
        let message = format!(
            "Idempotency-Key stands there once and has 1 to {LONGEST} printable ASCII characters"
        );
        return Err(error::broken("Idempotency-Key", "length", message));
    }
    Ok(Some(key.to_owned()))
}
