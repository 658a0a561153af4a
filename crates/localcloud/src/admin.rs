//! The admin listener: health, faults on order, and the cloud as its operator sees it.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ec2::{BillLine, Call, Ec2, InstanceReport, Interruption, PoolReport, UnknownPool};
use crate::faults::{FaultPlan, FaultReport, Faults};

#[derive(Clone)]
struct AdminState {
    faults: Arc<Faults>,
    ec2: Arc<Ec2>,
}

pub(crate) fn router(faults: Arc<Faults>, ec2: Arc<Ec2>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/faults", get(list).post(set).delete(clear))
        .route("/instances", get(instances))
        .route("/bill", get(bill))
        .route("/calls", get(calls))
        .route("/market", get(market))
        .route("/market/price", post(set_price))
        .route("/market/capacity", post(set_capacity))
        .route("/market/interrupt", post(interrupt))
        .with_state(AdminState { faults, ec2 })
}

type Refused = (StatusCode, String);

async fn list(State(cloud): State<AdminState>) -> Json<Vec<FaultReport>> {
    Json(cloud.faults.report())
}

async fn set(
    State(cloud): State<AdminState>,
    Json(plan): Json<FaultPlan>,
) -> Result<StatusCode, Refused> {
    for rule in &plan.rules {
        if !(0.0..=1.0).contains(&rule.probability) {
            let message = format!("probability {} is not in 0..1\n", rule.probability);
            return Err((StatusCode::BAD_REQUEST, message));
        }
    }
    cloud.faults.set(plan);
    Ok(StatusCode::NO_CONTENT)
}

async fn clear(State(cloud): State<AdminState>) -> StatusCode {
    cloud.faults.clear();
    StatusCode::NO_CONTENT
}

async fn instances(State(cloud): State<AdminState>) -> Json<Vec<InstanceReport>> {
    Json(cloud.ec2.reports())
}

#[derive(Serialize)]
struct BillAnswer {
    lines: Vec<BillLine>,
    seconds: i64,
    micros: i64,
}

async fn bill(State(cloud): State<AdminState>) -> Json<BillAnswer> {
    let lines = cloud.ec2.bill();
    Json(BillAnswer {
        seconds: lines.iter().map(|line| line.seconds).sum(),
        micros: lines.iter().map(|line| line.micros).sum(),
        lines,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since_us: u64,
}

async fn calls(State(cloud): State<AdminState>, Query(since): Query<Since>) -> Json<Vec<Call>> {
    Json(cloud.ec2.calls(since.since_us))
}

async fn market(State(cloud): State<AdminState>) -> Json<Vec<PoolReport>> {
    Json(cloud.ec2.pools())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    instance_type: String,
    zone: String,
    price_micros: i64,
}

async fn set_price(
    State(cloud): State<AdminState>,
    Json(order): Json<Price>,
) -> Result<StatusCode, Refused> {
    if order.price_micros <= 0 {
        let message = "price_micros must be more than 0\n".to_owned();
        return Err((StatusCode::BAD_REQUEST, message));
    }
    let set = cloud
        .ec2
        .set_price(&order.instance_type, &order.zone, order.price_micros);
    set.map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| no_pool(&error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capacity {
    instance_type: String,
    zone: String,
    capacity: u32,
}

async fn set_capacity(
    State(cloud): State<AdminState>,
    Json(order): Json<Capacity>,
) -> Result<StatusCode, Refused> {
    let set = cloud
        .ec2
        .set_capacity(&order.instance_type, &order.zone, order.capacity);
    set.map(|()| StatusCode::NO_CONTENT)
        .map_err(|error| no_pool(&error))
}

fn no_pool(error: &UnknownPool) -> Refused {
    (StatusCode::NOT_FOUND, format!("{error}\n"))
}

async fn interrupt(
    State(cloud): State<AdminState>,
    Json(order): Json<Interruption>,
) -> Result<Json<Value>, Refused> {
    match cloud.ec2.interrupt(&order) {
        Some(id) => Ok(Json(json!({ "instance": id }))),
        None => {
            let message = "no such Spot instance runs\n".to_owned();
            Err((StatusCode::NOT_FOUND, message))
        }
    }
}
