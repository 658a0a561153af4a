//! The listener every program has: `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Health;

/// How often histograms are drained into their buckets: between two scrapes of a usual Prometheus (15 s), so that
/// neither a fast scraper nor none at all lets samples pile up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    health: Health,
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
pub(crate) async fn serve(listener: TcpListener, health: Health, metrics: PrometheusHandle) {
    tokio::spawn(upkeep(metrics.clone()));
    if let Err(error) = axum::serve(listener, router(health, metrics)).await {
        tracing::error!(%error, "the health listener stopped");
    }
}

fn router(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Shared { health, metrics })
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn render(State(shared): State<Shared>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        shared.metrics.render(),
    )
        .into_response()
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP_EVERY);
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}
