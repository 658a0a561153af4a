//! What tasks and batches cost: asked of monitor, which keeps the ledger.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use spotreel_api::schema::CostSpan;
use spotreel_api::{BatchReceipt, CostsQuery, ReceiptQuery, TaskReceipt};
use spotreel_bus::names;
use spotreel_domain::allocation::CostReport;

use super::api::Api;
use super::problem::Problem;
use super::query::{Asked, Named};
use crate::error;
use crate::keys::Caller;

/// A report of a year reads some thousands of ledgers.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What a task cost: its own attempts, and its share of boots, idle time, volumes and addresses.
///
/// `final` is false while something may be added.
#[utoipa::path(
    get, path = "/v1/receipts/tasks/{id}", tag = "costs", operation_id = "get_task_receipt", params(("id" = String, Path)),
    responses((status = 200, body = TaskReceipt), super::openapi::Refusals)
)]
pub(super) async fn of_task(
    State(api): State<Api>,
    caller: Caller,
    Named(id): Named,
) -> Result<Json<TaskReceipt>, Problem> {
    let query = ReceiptQuery {
        task: Some(id.to_string()),
        ..ReceiptQuery::default()
    };
    let asked = api.intake.ask_within(ANSWER_WITHIN, names::RECEIPT, &query);
    let receipt: TaskReceipt = asked.await?;
    match caller.may_see_of(receipt.owner.as_ref()) {
        true => Ok(Json(receipt)),
        false => Err(error::not_found(&id).into()),
    }
}

/// What a batch cost, instance by instance, with the 100 tasks that cost most.
///
/// Only for a key that sees all tasks: a batch renders tasks of every owner.
#[utoipa::path(
    get, path = "/v1/receipts/batches/{id}", tag = "costs", operation_id = "get_batch_receipt",
    params(("id" = String, Path, description = "The pool, a dash and a number, such as `default-17`.")),
    responses((status = 200, body = BatchReceipt), super::openapi::Refusals)
)]
pub(super) async fn of_batch(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<BatchReceipt>, Problem> {
    let Path(id) = id.map_err(|bad| error::broken("id", "token", bad.body_text()))?;
    caller.must_see_all("receipts of batches")?;
    let query = ReceiptQuery {
        batch: Some(id),
        ..ReceiptQuery::default()
    };
    let asked = api.intake.ask_within(ANSWER_WITHIN, names::RECEIPT, &query);
    Ok(Json(asked.await?))
}

/// What was spent in a span of days, by day, month, batch, pool, model, owner or label.
///
/// A key that sees only its owner's tasks gets what these cost.
#[utoipa::path(
    get, path = "/v1/costs", tag = "costs", operation_id = "get_costs", params(CostSpan),
    responses((status = 200, body = CostReport), super::openapi::Refusals)
)]
pub(super) async fn sums(
    State(api): State<Api>,
    caller: Caller,
    Asked(mut query): Asked<CostsQuery>,
) -> Result<Json<CostReport>, Problem> {
    if !caller.may_see_of(query.owner.as_ref()) {
        if query.owner.is_some() {
            let message = "this key sees the costs of its own tasks only: leave owner out";
            return Err(error::broken("owner", "access", message).into());
        }
        query.owner = caller.owner().cloned();
    }
    let asked = api.intake.ask_within(ANSWER_WITHIN, names::COSTS, &query);
    Ok(Json(asked.await?))
}
