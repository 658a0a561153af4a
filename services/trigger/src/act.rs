//! Carries out decisions: requests a batch, completes an order, stores the mode.

use jiff::{SignedDuration, Timestamp};
use spotreel_bus::RecordedBatch;
use spotreel_bus::controls::{self, RunRecord, StandingOrder};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::AppendError;
use spotreel_domain::batch::{Batch, PoolName, Wanted};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::trigger::{Decision, Fire, Mode, ModeState};
use spotreel_pool::marks::{self, Marks, ModeMark};

use crate::error::ActError;
use crate::observe::{Snapshot, StateReader, mode_differs};

/// What became of a batch that was wanted.
#[derive(Debug)]
pub enum RequestOutcome {
    Requested(Box<Batch>),
    /// Somebody else wrote to the pool's log first: what was decided is void.
    Late,
}

/// Asks for a batch, if nothing has been written to the pool's log since it was read.
pub async fn request(
    reader: &StateReader,
    seen: &mut Snapshot,
    name: &PoolName,
    pool: &PoolConfig,
    fire: &Fire,
) -> Result<RequestOutcome, ActError> {
    let last = seen.newest.get(name);
    // The batch answers the order, however our clock stands to that of whoever took it: an order that is no younger
    // than the newest batch is done.
    let order = seen.controls.runs.get(name);
    let now = order.map_or(seen.at, |run| seen.at.max(next_millisecond(run.order.at)));
    let wanted = Wanted {
        rule: fire.rule.to_string(),
        why: fire.why.clone(),
        units: fire.units,
        slot: fire.slot.as_ref().map(ToString::to_string),
        deadline: later(now, pool),
    };
    let batch = Batch::request(name, last.map(|last| &last.batch), wanted, now)?;
    let expected = last.map_or(0, |last: &RecordedBatch| last.sequence);
    // Whatever the answer: without one it may be in the log, and after a conflict another trigger's batch is.
    seen.requested.push(batch.clone());
    match reader.batches.append(&batch, expected).await {
        Ok(_) => Ok(RequestOutcome::Requested(Box::new(batch))),
        Err(AppendError::Conflict(_)) => Ok(RequestOutcome::Late),
        Err(error) => Err(error.into()),
    }
}

/// Takes back an order to run that a batch has answered. Whoever asked for the batch may have died before it did so.
pub async fn forget_order(
    reader: &StateReader,
    name: &PoolName,
    order: &StandingOrder<RunRecord>,
) -> Result<(), ActError> {
    match controls::remove_run(&reader.client, name, order.revision).await {
        // A newer order stands there, or another trigger was first.
        Ok(()) | Err(JetStreamError::Conflict) => Ok(()),
        Err(error) => Err(ActError::Order(error)),
    }
}

/// Writes the mode down where it differs from what stands there, or where that grows old; fleet reads it.
pub async fn keep_mode(
    reader: &StateReader,
    name: &PoolName,
    marks: &Marks,
    decision: &Decision,
) -> Result<(), ActError> {
    let (mode, before) = (&decision.mode, marks.mode(name));
    let differs = mode_differs(&before, mode.mode, mode.resident_units);
    if !differs && !marks.mode_is_due(name, decision.at) {
        return Ok(());
    }
    let state = if mode.changed {
        ModeState {
            mode: mode.mode,
            since: Some(decision.at),
        }
    } else {
        before.state
    };
    let mark = ModeMark {
        state,
        resident_units: mode.resident_units,
    };
    if differs {
        let resident = mode.mode == Mode::Resident;
        tracing::info!(pool = %name, resident, units = mode.resident_units, "{}", mode.sentence);
    }
    let put = marks::put_mode(&reader.client, name, &mark).await;
    put.map_err(ActError::Mode)
}

/// The log keeps milliseconds: a batch at the very time of its order would be read as older than that.
fn next_millisecond(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond().saturating_add(1)).unwrap_or(at)
}

fn later(now: Timestamp, pool: &PoolConfig) -> Timestamp {
    SignedDuration::try_from(pool.batch_deadline)
        .ok()
        .and_then(|span| now.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}
