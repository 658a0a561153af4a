//! What a task or a batch cost, and for what.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_api::{
    ApiError, BatchReceipt, ErrorCode, MAX_RECEIPT_TASKS, ReceiptQuery, TaskCost, TaskReceipt,
    USUAL_RECEIPT_TASKS,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::Recorded;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::names::CONSUMER_LEDGER;
use spotreel_bus::reply::{json, refuse, unavailable};
use spotreel_bus::service::Request;
use spotreel_domain::TaskId;
use spotreel_domain::batch::BatchId;
use spotreel_domain::time::elapsed;

use crate::reconcile;
use crate::verbs::Requests;

/// After that, an attempt that is stored was stored before the ledgers were made.
const STORED_WITHIN: Duration = Duration::from_secs(30);

pub async fn answer(requests: Arc<Requests>, request: Request) -> Result<Vec<u8>, ApiError> {
    let query: ReceiptQuery = request.parse()?;
    match (&query.task, &query.batch) {
        (Some(task), None) => Ok(json(&of_task(&requests, task).await?)),
        (None, Some(batch)) => Ok(json(&of_batch(&requests, batch, query.tasks).await?)),
        _ => {
            let message = "name one task or one batch: {\"task\": ID} or {\"batch\": ID}";
            Err(refuse(ErrorCode::Invalid, message))
        }
    }
}

async fn of_task(requests: &Requests, text: &str) -> Result<TaskReceipt, ApiError> {
    let books = &requests.books;
    let id = TaskId::parse(text).map_err(|bad| refuse(ErrorCode::Invalid, bad.to_string()))?;
    // Open ledgers first: a batch that is closed meanwhile is then found twice, and not missed.
    let open = books.open().await;
    let open = open.map_err(|error| unavailable("the ledgers of running batches", &error))?;
    let (last, shares) = tokio::join!(requests.log.last(&id), books.stream.shares_of(&id));
    let last = last.map_err(|error| unavailable("the task log", &error))?;
    let shares = shares.map_err(|error| unavailable("the ledgers of closed batches", &error))?;
    let is_closed = |id: &BatchId| shares.iter().any(|(batch, _)| batch == id);
    let theirs = open.ledgers.iter();
    let theirs = theirs.filter(|ledger| !is_closed(&ledger.batch));
    let theirs: Vec<_> = theirs
        .filter_map(|ledger| {
            let at = ledger.tasks.binary_search_by(|task| task.task.cmp(&id));
            let share = ledger.tasks.get(at.ok()?)?;
            Some((ledger.batch.clone(), share.clone()))
        })
        .collect();
    if last.is_none() && shares.is_empty() && theirs.is_empty() {
        let message = format!("there is no task {id}");
        return Err(refuse(ErrorCode::NotFound, message));
    }
    let mut receipt = TaskReceipt::new(id);
    for (batch, share) in shares {
        receipt.add(batch, share, true);
    }
    for (batch, share) in theirs {
        receipt.add(batch, share, false);
    }
    if let Some(last) = last {
        let task = &last.task;
        let priced = receipt.batches.iter().map(|batch| batch.attempts.len());
        let priced = u32::try_from(priced.sum::<usize>()).unwrap_or(u32::MAX);
        receipt.unpriced_attempts = task.attempts_total.saturating_sub(priced);
        receipt.owner.clone_from(&task.owner);
        receipt.model = Some(task.spec.model);
        receipt.labels.clone_from(&task.spec.labels);
        receipt.is_final &= task.is_terminal();
        if receipt.is_final && receipt.unpriced_attempts > 0 {
            receipt.is_final = is_all_known(requests, &last, open.made_at).await?;
        }
    }
    Ok(receipt)
}

/// Whether all attempts of a task that has ended were stored when the open ledgers were made: then those without a price will
/// never have one.
async fn is_all_known(
    requests: &Requests,
    end: &Recorded,
    made_at: Timestamp,
) -> Result<bool, ApiError> {
    let info = reconcile::consumer(requests.log.client(), CONSUMER_LEDGER).await;
    let info = info.map_err(|error| unavailable("the state of the ledger", &error))?;
    let is_idle = info.num_pending == 0 && info.num_ack_pending == 0;
    let is_stored = is_idle || info.ack_floor.stream_sequence >= end.sequence;
    Ok(is_stored && elapsed(end.stored_at, made_at) >= STORED_WITHIN)
}

async fn of_batch(
    requests: &Requests,
    text: &str,
    tasks: Option<u32>,
) -> Result<BatchReceipt, ApiError> {
    let books = &requests.books;
    let most = tasks.unwrap_or(USUAL_RECEIPT_TASKS);
    if most > MAX_RECEIPT_TASKS {
        let message = format!("tasks is 0 to {MAX_RECEIPT_TASKS}");
        return Err(refuse(ErrorCode::Invalid, message));
    }
    let shown: String = text.chars().take(100).collect();
    let none = || refuse(ErrorCode::NotFound, format!("there is no batch {shown}"));
    let id = BatchId::parse(text).ok_or_else(none)?;
    let of_ledgers = |error: JetStreamError| unavailable("the ledgers of closed batches", &error);
    let (mut receipt, tasks) = match books.stream.ledger(&id).await.map_err(of_ledgers)? {
        Some(ledger) => {
            let tasks = books.stream.shares_in(&id).await.map_err(of_ledgers)?;
            (BatchReceipt::of(ledger, true), tasks)
        }
        None => {
            let found = books.batches.get(&id).await;
            let found = found.map_err(|error| unavailable("the batch log", &error))?;
            let batch = found.ok_or_else(none)?.batch;
            let ledger = books.of(&batch, ambient::now()).await;
            let mut ledger = ledger.map_err(of_ledgers)?;
            let tasks = std::mem::take(&mut ledger.tasks);
            let tasks = tasks.into_iter().map(TaskCost::from).collect();
            (BatchReceipt::of(ledger, false), tasks)
        }
    };
    receipt.name(tasks, most as usize);
    Ok(receipt)
}
