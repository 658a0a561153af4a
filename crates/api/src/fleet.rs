//! `spotreel.fleet`: each pool with its batch, instances and workers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::Usd;
use spotreel_domain::batch::{
    Batch, Blocked, InstanceState, PoolName, Receipt, ReceiptLine, Status,
};
use spotreel_domain::fleet::cloud::{Lifecycle, Place};
use spotreel_domain::pool::Cloud;

use crate::task::RenderProgress;

/// What `spotreel.fleet` is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetQuery {
    /// Absent: every pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetView {
    pub pools: Vec<PoolView>,
    /// Whether the fleet that answers is the one that acts.
    pub leads: bool,
    /// Since it last saw the cloud; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing_age_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    pub pool: PoolName,
    pub cloud: Cloud,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The newest batch, ended or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Without those that are gone.
    pub instances: Vec<InstanceView>,
    /// Every instance of the batch with its times and what it has cost so far; those that are gone, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<ReceiptLine>,
    /// Workers on machines of one's own that render models of this pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<WorkerView>,
    /// What an hour of all that runs costs.
    pub rate: Usd,
    /// What the batch has cost.
    pub cost: Usd,
    /// Tasks that are not finished; absent: not known for certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Until they are, with the machines that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchRef {
    pub id: String,
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub rule: String,
    pub why: String,
    pub requested_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    pub id: String,
    #[serde(flatten)]
    pub place: Place,
    pub lifecycle: Lifecycle,
    pub state: InstanceState,
    pub launched_at: Timestamp,
    pub age_s: u64,
    pub rate: Usd,
    pub cost: Usd,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerView>,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    pub worker: String,
    pub instance: String,
    pub pool: String,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    pub step: u32,
    pub steps: u32,
    /// Over HTTP only: what it told last of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RenderProgress>,
}

impl BatchRef {
    pub fn of(batch: &Batch) -> Self {
        let reason = match &batch.status {
            Status::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        Self {
            id: batch.id.to_string(),
            status: batch.status.name().to_owned(),
            reason,
            rule: batch.rule.clone(),
            why: batch.why.clone(),
            requested_at: batch.requested_at,
        }
    }
}

impl PoolView {
    /// `work`: tasks that are not finished, and the seconds that a unit takes for one.
    pub fn of(
        pool: &PoolName,
        batch: Option<&Batch>,
        workers: &[WorkerView],
        work: Option<(u64, f64)>,
        now: Timestamp,
    ) -> Self {
        let books = batch.map(|batch| Receipt::of(batch, now));
        let there = batch.map_or(&[][..], |batch| &batch.instances).iter();
        let there: Vec<_> = there.filter(|instance| !instance.is_gone()).collect();
        let active = there.iter().filter(|instance| instance.is_active()).count();
        let instances = there.iter().map(|instance| InstanceView {
            id: instance.id.clone(),
            place: instance.place.clone(),
            lifecycle: instance.lifecycle,
            state: instance.state.clone(),
            launched_at: instance.launched_at,
            age_s: instance.age(now).as_secs(),
            rate: instance.rate,
            cost: instance.cost_at(now),
            worker: workers.iter().find(|w| w.instance == instance.id).cloned(),
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "seconds of a queue are far below 2^53, and as casts saturate"
        )]
        let eta = |(tasks, each): (u64, f64)| (tasks as f64 * each / active as f64) as u64;
        Self {
            pool: pool.clone(),
            cloud: Cloud::Aws,
            note: None,
            batch: batch.map(BatchRef::of),
            blocked: batch.and_then(|batch| batch.blocked.clone()),
            instances: instances.collect(),
            own: Vec::new(),
            rate: there.iter().map(|instance| instance.rate).sum(),
            cost: books.as_ref().map_or(Usd::ZERO, |books| books.total),
            lines: books.map_or_else(Vec::new, |books| books.lines),
            tasks: work.map(|(tasks, _)| tasks),
            eta_s: work.filter(|_| active > 0).map(eta),
        }
    }
}
