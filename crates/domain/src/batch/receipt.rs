//! What a batch was and what it cost, when it is over.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Batch, Ending, InstanceState};
use crate::fleet::cloud::{Lifecycle, Place};
use crate::money::Usd;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub total: Usd,
    pub instance_seconds: u64,
    pub interruptions: u32,
    pub tasks_done: u64,
    pub lines: Vec<ReceiptLine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceiptLine {
    pub instance: String,
    #[serde(flatten)]
    pub place: Place,
    pub lifecycle: Lifecycle,
    pub launched_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub ending: Option<Ending>,
    pub seconds: u64,
    pub cost: Usd,
}

impl Receipt {
    /// The books at `now`; final once every instance is gone.
    pub fn of(batch: &Batch, now: Timestamp) -> Self {
        let lines: Vec<_> = batch
            .instances
            .iter()
            .map(|instance| {
                let end = match &instance.state {
                    InstanceState::Gone { ending, at } => Some((*ending, *at)),
                    _ => None,
                };
                let until = end.map_or(now, |_| instance.billed_to);
                let ran = Duration::try_from(until.duration_since(instance.launched_at));
                ReceiptLine {
                    instance: instance.id.clone(),
                    place: instance.place.clone(),
                    lifecycle: instance.lifecycle,
                    launched_at: instance.launched_at,
                    ready_at: instance.ready_at,
                    ended_at: end.map(|(_, at)| at),
                    ending: end.map(|(ending, _)| ending),
                    seconds: ran.unwrap_or_default().as_secs(),
                    cost: instance.cost_at(now),
                }
            })
            .collect();
        Self {
            total: lines.iter().map(|line| line.cost).sum(),
            instance_seconds: lines.iter().map(|line| line.seconds).sum(),
            interruptions: u32::try_from(
                lines
                    .iter()
                    .filter(|line| line.ending == Some(Ending::Interrupted))
                    .count(),
            )
            .unwrap_or(u32::MAX),
            tasks_done: batch.tasks_done,
            lines,
        }
    }
}
