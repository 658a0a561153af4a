//! The receipt of a finished batch: history and cost.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Batch, Charges, Ending, InstanceState, Residency};
use crate::fleet::cloud::{Lifecycle, Place};
use crate::money::Usd;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub total: Usd,
    pub instance_seconds: u64,
    pub interruptions: u32,
    pub tasks_done: u64,
    /// Cost and savings of instances that stayed without work; absent: none had to stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
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
    /// How long it was `running`.
    pub seconds: u64,
    /// The sum of the charges.
    pub cost: Usd,
    #[serde(default)]
    pub charges: Charges,
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
                let charges = instance.charges_at(now);
                ReceiptLine {
                    instance: instance.id.clone(),
                    place: instance.place.clone(),
                    lifecycle: instance.lifecycle,
                    launched_at: instance.launched_at,
                    ready_at: instance.ready_at,
                    ended_at: end.map(|(_, at)| at),
                    ending: end.map(|(ending, _)| ending),
                    seconds: instance.ran_by(now).as_secs(),
                    cost: charges.total(),
                    charges,
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
            residency: batch
                .residency
                .as_ref()
                .map(|books| books.at(&batch.instances, now)),
            lines,
        }
    }
}
