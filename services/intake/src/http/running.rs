//! What runs, why, and at what cost: asked of trigger and fleet, which answer the same over NATS.
//!
//! The answers tell of all owners' work together, so a key of one owner hears that there is nothing. Queue lengths are intake's
//! own, and each key sees them with its own part.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use spotreel_api::{
    BatchView, BatchesQuery, FleetQuery, FleetView, QueueView, Why, WhyQuery, WorkerView,
};
use spotreel_bus::names;
use spotreel_domain::TaskId;

use super::api::Api;
use super::problem::Problem;
use super::query::Asked;
use crate::error;
use crate::keys::Caller;
use crate::tasks::progress::Board;

/// Which rule will start a batch in each pool, and when at the latest; prices, budgets and what was spent.
#[utoipa::path(
    get, path = "/v1/why", tag = "fleet", operation_id = "why",
    responses((status = 200, description = "As `spotreel.why` answers over NATS.", body = Value), super::openapi::Refusals)
)]
pub(super) async fn why(State(api): State<Api>, caller: Caller) -> Result<Json<Why>, Problem> {
    caller.must_see_all("the rules of pools")?;
    let asked = api
        .recent
        .why
        .ask(&api.intake, names::WHY, WhyQuery::default());
    Ok(Json(asked.await?))
}

/// Each pool with its newest batch, instances and workers.
#[utoipa::path(
    get, path = "/v1/fleet", tag = "fleet", operation_id = "fleet",
    responses((status = 200, description = "As `spotreel.fleet` answers over NATS.", body = Value), super::openapi::Refusals)
)]
pub(super) async fn fleet(
    State(api): State<Api>,
    caller: Caller,
) -> Result<Json<FleetView>, Problem> {
    caller.must_see_all("pools and instances")?;
    let kept = &api.recent.fleet;
    let mut fleet = kept
        .ask(&api.intake, names::FLEET, FleetQuery::default())
        .await?;
    for pool in &mut fleet.pools {
        let workers = pool
            .instances
            .iter_mut()
            .filter_map(|one| one.worker.as_mut());
        for worker in workers.chain(&mut pool.own) {
            tell_progress(worker, &api.intake.progress);
        }
    }
    Ok(Json(fleet))
}

/// Batches, the newest first, each with its receipt once it has ended.
#[utoipa::path(
    get, path = "/v1/batches", tag = "fleet", operation_id = "list_batches",
    params(
        ("pool" = Option<String>, Query, description = "Only batches of this pool."),
        ("limit" = Option<u32>, Query, description = "Maximum number of batches (default 20).", minimum = 1)
    ),
    responses((status = 200, description = "As `spotreel.batches` answers over NATS.", body = Value), super::openapi::Refusals)
)]
pub(super) async fn batches(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<BatchesQuery>,
) -> Result<Json<Vec<BatchView>>, Problem> {
    caller.must_see_all("batches")?;
    if query.id.is_some() {
        let message = "ask for one batch at /v1/batches/{id}";
        return Err(error::broken("id", "unknown", message).into());
    }
    let asked = api
        .recent
        .batches
        .ask(&api.intake, names::LIST_BATCHES, query);
    Ok(Json(asked.await?))
}

/// One batch.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "fleet", operation_id = "get_batch", params(("id" = String, Path)),
    responses((status = 200, description = "As `spotreel.batches` answers over NATS.", body = Value), super::openapi::Refusals)
)]
pub(super) async fn batch(
    State(api): State<Api>,
    caller: Caller,
    named: Result<Path<String>, PathRejection>,
) -> Result<Json<BatchView>, Problem> {
    caller.must_see_all("batches")?;
    let Path(id) = named.map_err(|bad| error::broken("id", "format", bad.body_text()))?;
    let query = BatchesQuery {
        id: Some(id),
        ..BatchesQuery::default()
    };
    let found: Vec<_> = api.intake.ask(names::LIST_BATCHES, &query).await?;
    let found = found.into_iter().next();
    Ok(Json(found.ok_or_else(|| {
        error::unavailable("spotreel-trigger answered without a batch")
    })?))
}

/// Unfinished tasks by model and priority, and by owner as far as the caller may see.
#[utoipa::path(
    get, path = "/v1/queue", tag = "fleet", operation_id = "queue",
    responses((status = 200, body = QueueView), super::openapi::Refusals)
)]
pub(super) async fn queue(State(api): State<Api>, caller: Caller) -> Json<QueueView> {
    let mut queue = api.intake.limits.queue();
    queue
        .owners
        .retain(|one| caller.may_see_of(Some(&one.owner)));
    Json(queue)
}

/// A presence record is written every few seconds only; progress messages tell of each step.
fn tell_progress(worker: &mut WorkerView, progress: &Board) {
    let task = worker.task.as_deref().and_then(|id| TaskId::parse(id).ok());
    let told = task.and_then(|task| progress.told_by(&worker.worker, &task));
    if let Some((told, steps)) = told {
        (worker.step, worker.steps) = (told.step.unwrap_or_default(), steps);
        worker.progress = Some(told);
    }
}
