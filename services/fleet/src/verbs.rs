//! Answers to requests: the list of instances, and orders.

use std::sync::Arc;

use spotreel_api::{
    ApiError, BatchRef, DrainOrder, Drained, FleetQuery, FleetView, PoolView, StopOrder, WorkerView,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::batches::RecordedBatch;
use spotreel_bus::log::AppendError;
use spotreel_bus::reply::unavailable;
use spotreel_domain::batch::{BadBatchId, Batch, BatchId, MAX_POOL_NAME, PoolName, Stop};
use spotreel_domain::fleet::DrainAnswer;
use spotreel_domain::pool::Cloud;
use spotreel_pool::spend;
use spotreel_proto::worker::v1::Presence;

use crate::act::tell_to_drain;
use crate::error::{invalid, not_allowed, not_found};
use crate::fleet::Fleet;
use crate::observe::Counted;
use crate::pool::CAS_TRIES;
use crate::{gone, observe};

/// Of what people write, as trigger takes it.
const LONGEST_TEXT: usize = 200;

pub async fn show(
    fleet: Arc<Fleet>,
    FleetQuery { pool }: FleetQuery,
) -> Result<FleetView, ApiError> {
    let pool = pool.map(|pool| named(&fleet, &pool)).transpose()?;
    let presences = observe::presences(fleet.batches.client()).await;
    let presences = presences.map_err(|error| unavailable("the bucket of workers", &error))?;
    let client = fleet.batches.client();
    let (counted, marks, newest) = tokio::join!(
        Counted::read(client, &fleet.pools, &fleet.samples),
        observe::marks(client),
        spend::newest(&fleet.batches, fleet.pools.pool.keys())
    );
    let newest = newest.map_err(|error| unavailable("the batch log", &error))?;
    let (counted, marks) = (counted.ok(), marks.ok());
    let mut ledger = fleet.ledger.lock().await;
    let batches: Vec<_> = newest.values().map(|last| &last.batch).collect();
    if let Err(error) = ledger
        .update(&fleet.batches, &batches, ambient::now())
        .await
    {
        tracing::debug!(error = %spotreel_domain::chain(&error), "correction of the cost model cannot be read");
    }
    let mut pools = Vec::new();
    for (name, config) in &fleet.pools.pool {
        if pool.as_ref().is_some_and(|pool| pool != name) {
            continue;
        }
        let record = newest.get(name);
        let left = counted
            .as_ref()
            .zip(marks.as_ref())
            .and_then(|(counted, marks)| {
                let tasks = counted.runnable(config, marks).ok()?;
                let demand = counted.demand(&tasks, &presences);
                let load = config.workload(&demand, &marks.pace(name));
                let measured = ledger.seconds_per_task(name);
                let pace = config.rules.sizing.pace(measured, load.seconds);
                Some((load.tasks, pace.seconds))
            });
        let batch = record.map(|record| &record.batch);
        let workers: Vec<_> = presences.iter().map(worker).collect();
        let mut view = PoolView::of(name, batch, &workers, left, ambient::now());
        view.cloud = config.cloud;
        let own = presences
            .iter()
            .filter(|presence| is_own(presence, &config.models));
        view.own = own.map(worker).collect();
        if config.cloud == Cloud::None {
            view.note =
                Some("this pool uses your own machines: no instance is launched".to_owned());
        }
        pools.push(view);
    }
    let is_gone = |name: &&PoolName| !fleet.pools.pool.contains_key(*name);
    for name in newest.keys().filter(is_gone).filter(|_| pool.is_none()) {
        let batch = Some(&newest[name].batch).filter(|batch| batch.is_active());
        if batch.is_none() {
            continue;
        }
        let workers: Vec<_> = presences.iter().map(worker).collect();
        let mut view = PoolView::of(name, batch, &workers, None, ambient::now());
        view.note = Some(format!(
            "{}: its batch is drained",
            gone::reason(&fleet, name)
        ));
        pools.push(view);
    }
    let listed = fleet.cloud.as_ref().and_then(|cloud| cloud.last_listed());
    Ok(FleetView {
        pools,
        leads: fleet.is_leader(),
        listing_age_s: listed.map(|listed| listed.age().as_secs()),
    })
}

/// Whether the worker runs on a machine of one's own, which names no pool, and renders one of these models.
fn is_own(presence: &Presence, models: &[spotreel_domain::Model]) -> bool {
    let renders =
        |model: &spotreel_domain::Model| presence.models.iter().any(|name| name == model.as_str());
    presence.pool.is_empty() && models.iter().any(renders)
}

fn worker(presence: &Presence) -> WorkerView {
    let state = presence.state().as_str_name();
    let task = Some(presence.task.clone());
    WorkerView {
        worker: presence.worker.clone(),
        instance: presence.instance.clone(),
        pool: presence.pool.clone(),
        state: state.trim_start_matches("STATE_").to_lowercase(),
        task: task.filter(|task| !task.is_empty()),
        step: presence.step,
        steps: presence.steps,
        progress: None,
    }
}

pub async fn stop(fleet: Arc<Fleet>, order: StopOrder) -> Result<BatchRef, ApiError> {
    let fleet = fleet.as_ref();
    let pool = order.pool.map(|pool| named(fleet, &pool)).transpose()?;
    let wanted = order.batch.map(|batch| batch_id(&batch)).transpose()?;
    let pool = match (pool, &wanted) {
        (Some(pool), None) => pool,
        (None, Some(batch)) => batch.pool.clone(),
        (Some(pool), Some(batch)) if pool == batch.pool => pool,
        (Some(pool), Some(batch)) => {
            return Err(invalid(format!("batch {batch} is not one of pool {pool}")));
        }
        (None, None) => only_pool(fleet)?,
    };
    let stop = Stop {
        mode: order.mode,
        by: one_line("by", order.by)?,
        reason: order
            .reason
            .filter(|reason| !reason.is_empty())
            .map(|reason| one_line("reason", reason))
            .transpose()?,
        at: ambient::now(),
    };
    let batch = change(fleet, &pool, |batch| {
        if wanted.as_ref().is_some_and(|id| *id != batch.id) {
            return Err(not_allowed(format!(
                "the active batch of pool {pool} is {}",
                batch.id
            )));
        }
        Ok(batch.stopped(stop.clone()))
    })
    .await?;
    tracing::info!(batch = %batch.id, mode = ?order.mode, by = stop.by, "stop ordered");
    Ok(BatchRef::of(&batch))
}

pub async fn drain(fleet: Arc<Fleet>, order: DrainOrder) -> Result<Drained, ApiError> {
    let (fleet, DrainOrder { instance, mode }) = (fleet.as_ref(), order);
    for pool in fleet.pools.pool.keys() {
        let Some(record) = last(fleet, pool).await? else {
            continue;
        };
        let ours = record
            .batch
            .instance(&instance)
            .is_some_and(|i| !i.is_gone());
        if !record.batch.is_active() || !ours {
            continue;
        }
        let now = ambient::now();
        // One that leaves already is on the way that was ordered.
        let order = |batch: &Batch| {
            Ok(batch
                .ordered_out(&instance, mode, now)
                .unwrap_or_else(|| batch.clone()))
        };
        let batch = change(fleet, pool, order).await?;
        return Ok(Drained {
            instance,
            batch: Some(batch.id.to_string()),
            answer: "ordered".to_owned(),
        });
    }
    // A machine of one's own: its worker is told, and the machine stays.
    let answer = tell_to_drain(fleet.batches.client(), &instance, mode, "ordered").await;
    let answer = match answer {
        DrainAnswer::Drained => "drained",
        DrainAnswer::Draining => "draining",
        DrainAnswer::NobodyThere => {
            return Err(not_found(format!(
                "no active batch has an instance {instance}, and no worker answers there"
            )));
        }
        DrainAnswer::Unknown => {
            return Err(not_allowed(format!(
                "the worker on {instance} does not answer"
            )));
        }
    };
    Ok(Drained {
        instance,
        batch: None,
        answer: answer.to_owned(),
    })
}

fn named(fleet: &Fleet, pool: &str) -> Result<PoolName, ApiError> {
    let name = PoolName::parse(pool).ok();
    name.filter(|name| fleet.pools.pool.contains_key(name))
        .ok_or_else(|| not_found(format!("there is no pool {}", shown(pool))))
}

fn batch_id(text: &str) -> Result<BatchId, ApiError> {
    BatchId::parse(text).ok_or_else(|| {
        let text = shown(text);
        not_found(format!("there is no batch {text}: {BadBatchId}"))
    })
}

/// It travels in every event of the batch.
fn one_line(field: &str, value: String) -> Result<String, ApiError> {
    match value.len() > LONGEST_TEXT || value.contains(char::is_control) {
        true => Err(invalid(format!(
            "{field} is one line of at most {LONGEST_TEXT} bytes"
        ))),
        false => Ok(value),
    }
}

/// As it may stand in an answer.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(MAX_POOL_NAME).collect();
    format!("{start:?}")
}

fn only_pool(fleet: &Fleet) -> Result<PoolName, ApiError> {
    let mut pools = fleet.pools.pool.keys();
    match (pools.next(), pools.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => Err(invalid(
            "name the pool or the batch: there is more than one",
        )),
    }
}

/// Writes what an order makes of the pool's active batch, whoever else writes meanwhile.
async fn change(
    fleet: &Fleet,
    pool: &PoolName,
    order: impl Fn(&Batch) -> Result<Batch, ApiError>,
) -> Result<Batch, ApiError> {
    named(fleet, pool.as_str())?;
    let mut record = last(fleet, pool).await?;
    for _ in 0..CAS_TRIES {
        let Some(active) = record.filter(|record| record.batch.is_active()) else {
            return Err(not_allowed(format!("pool {pool} has no active batch")));
        };
        let batch = order(&active.batch)?;
        if batch == active.batch {
            return Ok(batch);
        }
        match fleet.batches.append(&batch, active.sequence).await {
            Ok(_) => {
                if let Some(waker) = fleet.waker(pool) {
                    waker.wake();
                }
                return Ok(batch);
            }
            Err(AppendError::Conflict(newer)) => record = newer.map(|newer| *newer),
            Err(error) => return Err(unavailable("the batch log", &error)),
        }
    }
    Err(not_allowed(
        "the batch is being modified concurrently; retry",
    ))
}

async fn last(fleet: &Fleet, pool: &PoolName) -> Result<Option<RecordedBatch>, ApiError> {
    let last = fleet.batches.last(pool).await;
    last.map_err(|error| unavailable("the batch log", &error))
}
