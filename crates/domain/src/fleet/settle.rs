//! The status of the batch, and its settlement: only when two listings show no instance of it.

use super::cloud::SeenInstance;
use super::observation::Observation;
use super::policy::Policy;
use super::{breaker, leave, refusals};
use crate::batch::{Batch, BlockedBy, Instance, InstanceState, LaunchState, Status};
use crate::time::elapsed;

/// Listings in a row without an instance of the batch, before it settles.
const EMPTY_LISTINGS: u32 = 2;

pub(super) fn decide(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let ending = ending(batch, seen, policy);
    let is_left = |s: &SeenInstance| s.batch().as_ref() == Some(&batch.id) && s.is_alive();
    let nothing_left = batch.instances.iter().all(Instance::is_gone)
        && batch.launches.iter().all(|launch| !launch.is_open())
        && seen.in_flight.is_none()
        && !seen.listing.iter().any(is_left);
    if ending.is_none() || !nothing_left {
        batch.empty_listings = 0;
        batch.status = underway(batch, ending.is_some());
        return;
    }
    batch.status = Status::Draining;
    batch.empty_listings += 1;
    if batch.empty_listings >= EMPTY_LISTINGS && finished_fleets(batch).is_empty() {
        batch.tasks_done = seen.tasks_done.unwrap_or(batch.tasks_done);
        batch.ended_at = Some(seen.now);
        batch.blocked = None;
        batch.status = match ending.flatten() {
            Some(reason) => Status::Failed { reason },
            None => Status::Settled,
        };
    }
}

/// Whether the batch has to end; with the reason, if it has failed.
fn ending(batch: &Batch, seen: &Observation, policy: &Policy) -> Option<Option<String>> {
    if let Some(refused) = refusals::are_final(batch, &policy.patience) {
        return Some(Some(refused));
    }
    if batch.stop.is_some() {
        return Some(None);
    }
    if batch.is_overdue(seen.now) {
        return Some(Some(
            "its deadline passed before the queue was empty".to_owned(),
        ));
    }
    if leave::is_spent(batch, seen, policy) {
        return Some(Some("its budget is spent".to_owned()));
    }
    // The breaker decides how often instances are tried that never serve.
    let idle_market = batch.instances.iter().all(Instance::is_gone);
    if let Some(blocked) = batch.blocked.as_ref().filter(|_| idle_market)
        && blocked.by != BlockedBy::NeverServed
        && elapsed(blocked.since, seen.now) >= policy.patience.blocked
    {
        let reason = format!("nothing could be launched: {}", blocked.sentence);
        return Some(Some(reason));
    }
    let empty = seen.work.is_some_and(|work| work.runnable == 0) && seen.keep == 0;
    if empty {
        return Some(None);
    }
    breaker::gives_up(batch, policy).map(Some)
}

fn underway(batch: &Batch, ending: bool) -> Status {
    let serving = |i: &Instance| matches!(i.state, InstanceState::Serving);
    if ending && !batch.instances.iter().any(Instance::is_active) {
        return Status::Draining;
    }
    match batch.status {
        _ if batch.instances.iter().any(serving) => Status::Running,
        Status::Requested if batch.launches.is_empty() => Status::Requested,
        Status::Running if batch.instances.iter().any(|i| !i.is_gone()) => Status::Running,
        _ => Status::Launching,
    }
}

/// Answered launches without running instances, each with the id of its fleet object in EC2.
pub(super) fn finished_fleets(batch: &Batch) -> Vec<(u32, String)> {
    let all_gone = |seq: u32| {
        batch
            .instances
            .iter()
            .filter(|i| i.launch == seq)
            .all(Instance::is_gone)
    };
    let finished = batch
        .launches
        .iter()
        .filter_map(|launch| match &launch.state {
            LaunchState::Answered {
                fleet: Some(fleet), ..
            } if all_gone(launch.seq) => Some((launch.seq, fleet.clone())),
            _ => None,
        });
    finished.collect()
}
