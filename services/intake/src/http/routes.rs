//! The routes: each reads what it is asked, lets the doors' common paths answer, and says it in HTTP's words.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, LINK, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use spotreel_api::schema::{Filters, Listed, Submittable, TaskRequestSchema, Unwanted};
use spotreel_api::{
    Accepted, AcceptedMany, ApiError, CancelledMany, ListPage, ListQuery, SubmitResult, TaskView,
};
use spotreel_bus::reply::guarded;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Place, Placed};
use super::problem::Problem;
use super::query::{Asked, Named};
use super::{Api, body, events, images, jsonl, openapi, quotes};
use crate::caller::Caller;
pub(super) use crate::config::LARGEST_BODY;
use crate::error;
use crate::metrics;
use crate::parse::{self, Submission};
use crate::submit::Door;

/// Posts whose bodies are read.
const READ_BODIES: [&str; 3] = ["/v1/tasks", "/v1/images", "/v1/quotes"];
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Every route with its description.
pub(super) fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(submit, list, cancel_many))
        .routes(routes!(get, cancel))
        .routes(routes!(retry))
        .routes(routes!(video))
        .routes(routes!(events::of_task))
        .routes(routes!(events::of_all))
        .routes(routes!(images::upload))
        .routes(routes!(quotes::quote))
        .routes(routes!(openapi::show))
}

pub(super) fn router(api: &Api) -> anyhow::Result<Router> {
    let (router, _) = described().split_for_parts();
    let router = router
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        // Bodies have bounds of their own, in body.rs.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(api.clone(), attend))
        .with_state(api.clone());
    Ok(match origins(&api.config.allow_origins)? {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

impl Api {
    /// Whether this caller may submit this number of tasks now, or other requests of the same weight.
    pub fn admit(&self, caller: &Caller, tasks: usize) -> Result<(), ApiError> {
        self.pace(caller, tasks)?;
        self.intake.limits.pace(tasks)
    }

    /// By the caller's own rate alone.
    pub fn pace(&self, caller: &Caller, tasks: usize) -> Result<(), ApiError> {
        match caller {
            Caller::Trusted => Ok(()),
            Caller::Key(key) => self.pace.check(key, tasks),
        }
    }
}

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
        openapi::Refusals
    )
)]
async fn submit(
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
    let submission = parse::submission(held.as_slice(), None)?;
    match submission {
        Submission::One(mut request) => {
            if let Some(key) = key {
                if request.id.is_some() || request.idempotency_key.is_some() {
                    let message = "give the header Idempotency-Key or the task's own id or idempotency_key, not both";
                    return Err(error::broken("Idempotency-Key", "either", message).into());
                }
                request.name(key);
            }
            api.admit(&caller, 1)?;
            let mut outcomes = api
                .intake
                .submit(vec![Ok(*request)], Door::Http, &caller)
                .await;
            let accepted = outcomes.remove(0)?;
            let location = format!("/v1/tasks/{}", accepted.id);
            Ok((StatusCode::CREATED, [(LOCATION, location)], Json(accepted)).into_response())
        }
        Submission::Many(mut requests) => {
            if let Some(key) = key {
                for (index, request) in requests.iter_mut().enumerate() {
                    if let Ok(request) = request {
                        request.name(format!("{key}/{index}"));
                    }
                }
            }
            api.admit(&caller, requests.len())?;
            let outcomes = api.intake.submit(requests, Door::Http, &caller).await;
            Ok(Json(crate::submit::sum(outcomes)).into_response())
        }
    }
}

/// Tasks, newest change first. A page may be short or empty before the last one: go on until there is no `next_cursor`.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", operation_id = "list_tasks", params(Listed, Filters),
    responses(
        (status = 200, body = ListPage, headers(("Link" = String, description = "`rel=\"next\"`: the next page, if there is one (RFC 8288)."))),
        openapi::Refusals
    )
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Response, Problem> {
    let page = crate::list::page(&api.intake, &caller, &query).await?;
    let link = page.next_cursor.map(|cursor| {
        let next = ListQuery {
            cursor: Some(cursor),
            ..query
        };
        let next = serde_urlencoded::to_string(next).expect("every field is a word or a number");
        format!("</v1/tasks?{next}>; rel=\"next\"")
    });
    let mut response = Json(page).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// Cancels the tasks that the query names and that have not ended. While the answer has a `next_cursor`, more may remain: repeat the call with it.
#[utoipa::path(
    delete, path = "/v1/tasks", tag = "tasks", operation_id = "cancel_tasks", params(Unwanted, Filters),
    responses((status = 200, body = CancelledMany), openapi::Refusals)
)]
async fn cancel_many(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<CancelledMany>, Problem> {
    Ok(Json(api.intake.cancel_many(&caller, &query).await?))
}

/// One task, with a fresh link to its video. While it is rendered, `worker`, `step`, `phase` and `eta_s` tell how far it is.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "get_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), openapi::Refusals)
)]
async fn get(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(api.intake.get(&caller, &id).await?))
}

/// Cancels a task that has not ended. Again is no error.
#[utoipa::path(
    delete, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "cancel_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), openapi::Refusals)
)]
async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(api.intake.cancel(&caller, &id).await?))
}

/// A task that failed, was cancelled or expired begins a new round.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/retry", tag = "tasks", operation_id = "retry_task", params(("id" = String, Path)),
    responses((status = 200, body = TaskView), openapi::Refusals)
)]
async fn retry(
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
        openapi::Refusals
    )
)]
async fn video(
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

/// Around every request: a place, a span, a measure.
async fn attend(State(api): State<Api>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("unknown", MatchedPath::as_str).to_owned();
    let place = Place::default();
    let (mut parts, body) = request.into_parts();
    // These take a place once their body has arrived.
    if parts.method != Method::POST || !READ_BODIES.contains(&path.as_str()) {
        // Whoever is nobody's caller is refused by the handler.
        let caller = Caller::from_request_parts(&mut parts, &api).await.ok();
        match api.places.take(caller.as_ref()) {
            Ok(share) => place.put(share),
            Err(refused) => return Problem(refused).into_response(),
        }
    }
    parts.extensions.insert(place.clone());
    let request = Request::from_parts(parts, body);
    let span = tracing::info_span!("http", method = %request.method(), path);
    let mut trace = async_nats::HeaderMap::new();
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
        {
            trace.insert(name, value);
        }
    }
    spotreel_bus::trace::adopt(&span, &trace);
    let method = request.method().clone();
    let running = async { Ok(next.run(request).await) };
    let response = guarded(running.instrument(span)).await;
    let response = response.unwrap_or_else(|fault| Problem(fault).into_response());
    metrics::http(&method, path, response.status(), began.elapsed());
    if is_stream(&response) {
        return response;
    }
    response.map(|body| {
        let placed = Placed {
            body,
            _place: place.take(),
        };
        Body::new(placed)
    })
}

/// Followers and uploads have places of their own.
fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind == "text/event-stream" || kind == jsonl::MEDIA_TYPE)
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem(error::no_such_page(uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem(error::method_not_allowed(method.as_str(), uri.path()))
}

fn origins(allowed: &[String]) -> anyhow::Result<Option<CorsLayer>> {
    if allowed.is_empty() {
        return Ok(None);
    }
    let parse = |origin: &String| {
        let fits = origin.contains("://") && !origin.ends_with('/');
        let value = HeaderValue::try_from(origin.as_str()).ok().filter(|_| fits);
        value.ok_or_else(|| {
            anyhow::anyhow!(
                "`api.allow_origins`: {origin:?} is no origin such as https://studio.example"
            )
        })
    };
    let allowed = allowed
        .iter()
        .map(parse)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            IDEMPOTENCY_KEY,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([LOCATION, LINK, ALLOW]);
    Ok(Some(layer))
}
