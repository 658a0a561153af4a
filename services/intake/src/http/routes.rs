//! The routes, the description made from them, and what goes around every request.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, LINK, LOCATION};
use axum::http::{HeaderName, Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use spotreel_api::schema;
use spotreel_bus::reply::guarded;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::api::Api;
use super::body::{Place, Placed};
use super::problem::Problem;
use super::tasks::IDEMPOTENCY_KEY;
use super::{alarms, costs, events, images, jsonl, openapi, page, quotes, running, search, tasks};
use crate::config::ApiConfig;
use crate::keys::Caller;
use crate::{error, metrics};

/// Posts whose bodies are read.
const READ_BODIES: [&str; 3] = ["/v1/tasks", "/v1/images", "/v1/quotes"];

/// Every route with its description.
fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(tasks::submit, tasks::list, tasks::cancel_many))
        .routes(routes!(tasks::get, tasks::cancel))
        .routes(routes!(tasks::retry))
        .routes(routes!(tasks::video))
        .routes(routes!(events::of_task))
        .routes(routes!(events::of_all))
        .routes(routes!(images::upload))
        .routes(routes!(quotes::quote))
        .routes(routes!(running::queue))
        .routes(routes!(running::why))
        .routes(routes!(running::fleet))
        .routes(routes!(running::batches))
        .routes(routes!(running::batch))
        .routes(routes!(search::search))
        .routes(routes!(alarms::show))
        .routes(routes!(costs::of_task))
        .routes(routes!(costs::of_batch))
        .routes(routes!(costs::sums))
        .routes(routes!(show))
}

/// The whole description, OpenAPI 3.1.
pub fn document() -> Value {
    let described = described().into_openapi();
    let mut document = serde_json::to_value(described).expect("a description has string keys only");
    for (name, schema) in schema::written() {
        document["components"]["schemas"][name.as_ref()] = schema;
    }
    document
}

/// This description.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "description", operation_id = "describe", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Value))
)]
async fn show() -> Json<Value> {
    Json(document())
}

pub(super) fn router(api: &Api) -> Router {
    let (router, _) = described().split_for_parts();
    let router = router
        .route("/", get(page::index))
        .route("/ui/{version}/{*file}", get(page::file))
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        // Bodies have bounds of their own, in body.rs.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(api.clone(), attend))
        .layer(middleware::from_fn_with_state(
            api.clone(),
            page::check_host,
        ))
        .with_state(api.clone());
    match cors(&api.config) {
        Some(cors) => router.layer(cors),
        None => router,
    }
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

/// For the pages of other sites that may call this API.
fn cors(config: &ApiConfig) -> Option<CorsLayer> {
    let allowed = config.origins().filter(|allowed| !allowed.is_empty())?;
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
    Some(layer)
}
