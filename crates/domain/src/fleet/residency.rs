//! Accounts of instances that stay without work (hybrid mode).

use super::observation::{Observation, WorkerState};
use crate::batch::{Batch, InstanceState};

/// Updates whether instances have to stay, before the decisions.
pub(super) fn follow(batch: &mut Batch, seen: &Observation) {
    // Unknown: nothing changes.
    if seen.work.is_none() {
        return;
    }
    if seen.keep > 0 {
        let residency = batch.residency.get_or_insert_default();
        residency.units = residency.units.max(seen.keep);
        residency.until = None;
    } else if let Some(residency) = &mut batch.residency {
        residency.until.get_or_insert(seen.now);
    }
}

/// Counts the instances that stay only because of hybrid mode, after the decision which ones leave.
pub(super) fn count(batch: &mut Batch, seen: &Observation) {
    let (Some(work), Some(_)) = (seen.work, &seen.workers) else {
        return;
    };
    let Some(mut residency) = batch.residency.take() else {
        return;
    };
    let resident = residency.until.is_none();
    for instance in &batch.instances {
        let stays = instance.state == InstanceState::Serving;
        let worker = seen.worker_of(instance).map(|worker| worker.state);
        if resident && seen.is_idle(instance) {
            // While tasks wait it may be about to begin one.
            if work.waiting() == 0 {
                let id = instance.id.clone();
                residency.idle.entry(id).or_insert(seen.cloud_now);
            }
        } else if !(stays && resident && worker.is_none()) {
            let stayed = residency.close(instance, seen.cloud_now);
            if stayed && stays && worker == Some(WorkerState::Busy) {
                residency.save_boot(instance);
            }
        }
    }
    batch.residency = Some(residency);
}
