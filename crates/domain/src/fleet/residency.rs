//! Accounts of instances that stay without work (hybrid mode).

use super::observation::{Observation, WorkerState};
use crate::batch::{Batch, InstanceState};

/// Whether machines are to stay, before anything is decided by it.
pub(super) fn follow(batch: &mut Batch, seen: &Observation) {
    // Not known: what was known stays.
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

/// Which machines stay that batches alone would have ended, once it is decided who leaves.
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
