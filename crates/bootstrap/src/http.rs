//! The listener every program has: `/livez`, `/readyz` and `/metrics`, and the pages that a program adds.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::pages::Pages;

/// How often histograms are drained into their buckets: between two scrapes of a usual Prometheus (15 s), so that
/// neither a fast scraper nor none at all lets samples pile up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct ListenerState {
    health: Health,
    pages: Pages,
    metrics: PrometheusHandle,
}

/// Takes the port. Done before anything else starts, so that a taken port fails at once and tests learn the number.
///
/// # Errors
/// When the address is taken or not ours.
pub(crate) async fn bind(listen: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        anyhow::Error::new(error).context(format!(
            "can't listen on {listen}: set http.listen to a free address, or to port 0 for any"
        ))
    })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Answers until the process ends: health must be visible while the program drains.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Health,
    pages: Pages,
    metrics: PrometheusHandle,
) {
    tokio::spawn(upkeep(metrics.clone()));
    let shared = ListenerState {
        health,
        pages,
        metrics,
    };
    if let Err(error) = axum::serve(listener, router(shared)).await {
        tracing::error!(%error, "health listener failed");
    }
}

fn router(shared: ListenerState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .fallback(page)
        .with_state(shared)
}

async fn readyz(State(shared): State<ListenerState>) -> Response {
    let readiness = shared.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn render(State(shared): State<ListenerState>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        shared.metrics.render(),
    )
        .into_response()
}

async fn page(State(shared): State<ListenerState>, method: Method, uri: Uri) -> Response {
    match shared.pages.find(uri.path()) {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(_) if method != Method::GET => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        Some(page) => Json(page().await).into_response(),
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP_EVERY);
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}
