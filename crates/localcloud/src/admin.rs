//! The admin listener: health, and faults on order.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use crate::faults::{Faults, Plan, Report};

pub(crate) fn router(faults: Arc<Faults>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/faults", get(list).post(set).delete(clear))
        .with_state(faults)
}

async fn list(State(faults): State<Arc<Faults>>) -> Json<Vec<Report>> {
    Json(faults.report())
}

async fn set(
    State(faults): State<Arc<Faults>>,
    Json(plan): Json<Plan>,
) -> Result<StatusCode, (StatusCode, String)> {
    for rule in &plan.rules {
        if !(0.0..=1.0).contains(&rule.probability) {
            let message = format!("probability {} is not in 0..1\n", rule.probability);
            return Err((StatusCode::BAD_REQUEST, message));
        }
    }
    faults.set(plan);
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(State(faults): State<Arc<Faults>>) -> StatusCode {
    faults.clear();
    StatusCode::NO_CONTENT
}
