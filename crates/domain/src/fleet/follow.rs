//! Updates the record from the listing and the workers' presence records.

use std::time::Duration;

use super::cloud::{CloudState, SeenInstance};
use super::observation::{Observation, WorkerState};
use super::policy::Policy;
use super::{meter, refund};
use crate::batch::{Batch, DrainMode, Ending, Instance, InstanceState, LaunchState, Leaving};
use crate::money::Usd;
use crate::time::elapsed;

/// Listings in a row that do not show an instance until it is missing, and again until it counts as ended.
const ABSENCES: u32 = 3;
/// More than the time before the end of its life at which an instance leaves.
const LAST_MINUTES: Duration = Duration::from_secs(3 * 60);

pub(super) fn listing(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let id = batch.id.clone();
    let of_batch = || {
        let ours = |s: &&SeenInstance| s.batch().as_ref() == Some(&id);
        seen.listing.iter().filter(ours)
    };
    for shown in of_batch() {
        if batch.instance(&shown.id).is_none() {
            adopt(batch, shown, seen, policy);
        }
        if let Some(instance) = batch.instance_mut(&shown.id) {
            follow(instance, shown, seen);
            reprice(instance, seen);
        }
    }
    for instance in batch.instances.iter_mut().filter(|i| !i.is_gone()) {
        if !seen.listing.iter().any(|shown| shown.id == instance.id) {
            miss(instance, seen, policy);
        }
    }
    for launch in &mut batch.launches {
        let alive = |s: &&SeenInstance| s.is_alive() && s.launch() == Some(launch.seq);
        let LaunchState::Unanswered {
            at, empty_listings, ..
        } = &mut launch.state
        else {
            continue;
        };
        if of_batch().any(|seen| alive(&seen)) {
            *empty_listings = 0;
        } else if elapsed(*at, seen.now)
            >= policy.patience.unknown_launch / 3 * (*empty_listings + 1)
        {
            *empty_listings += 1;
        }
        if elapsed(*at, seen.now) >= policy.patience.unknown_launch && *empty_listings >= ABSENCES {
            launch.state = LaunchState::Closed { at: seen.now };
        }
    }
}

/// Adds an instance that the record does not name yet, by its tags: the answer of its launch was lost.
fn adopt(batch: &mut Batch, shown: &SeenInstance, seen: &Observation, policy: &Policy) {
    let Some(launch) = shown.launch().filter(|seq| batch.launch(*seq).is_some()) else {
        return;
    };
    let place = super::cloud::Place {
        kind: shown.kind.clone(),
        zone: shown.zone.clone(),
    };
    let market = seen
        .market
        .as_ref()
        .and_then(|m| m.price(&place, shown.lifecycle));
    // If the price is unknown: the most that it can be.
    let cap = policy.kind(&shown.kind).map_or(Usd::ZERO, |kind| kind.cap);
    batch.instances.push(Instance::bought(
        shown.id.clone(),
        place,
        shown.lifecycle,
        launch,
        shown.launched_at,
        market.unwrap_or(cap),
    ));
}

fn follow(instance: &mut Instance, shown: &SeenInstance, seen: &Observation) {
    is_there(instance);
    if instance.launched_at != shown.launched_at && instance.ready_at.is_none() {
        instance.launched_at = shown.launched_at;
        instance.billed_to = shown.launched_at;
        instance.cost = Usd::ZERO;
    }
    meter::read(instance, shown, seen);
    // An instance that shut itself down after an interruption notice counts as interrupted: it had no other reason.
    let taken = instance.is_taken() || shown.is_taken();
    match shown.state {
        CloudState::Terminated if !instance.is_gone() => {
            let by_itself = shown
                .reason
                .as_deref()
                .is_some_and(|r| r.contains("InstanceInitiated"));
            let ending = match taken {
                true => Ending::Interrupted,
                false if by_itself => Ending::ShutDown,
                false => Ending::Terminated,
            };
            gone(instance, ending, seen);
        }
        CloudState::Terminated => {}
        // It is ending; a later listing will show it as terminated.
        CloudState::ShuttingDown if is_here(instance) => {
            let why = if taken {
                Leaving::Interruption
            } else {
                Leaving::Itself
            };
            instance.state = InstanceState::Terminating {
                why,
                since: seen.now,
                called_at: Some(seen.now),
            };
        }
        CloudState::Stopped if is_here(instance) => {
            instance.terminate(Leaving::Itself, seen.now);
        }
        // It counted as ended, and is listed again.
        CloudState::Pending | CloudState::Running | CloudState::Stopped if instance.is_gone() => {
            instance.terminate(Leaving::Orphan, seen.now);
        }
        _ => {}
    }
}

fn is_here(instance: &Instance) -> bool {
    instance.is_active() || matches!(instance.state, InstanceState::Draining { .. })
}

fn reprice(instance: &mut Instance, seen: &Observation) {
    let price = seen.price_of(instance);
    if let Some(price) = price.filter(|price| *price != instance.rate && !instance.is_gone()) {
        // Nothing is booked while no price is known, so the first price counts from the launch.
        if instance.cost != Usd::ZERO {
            instance.bill(seen.cloud_now);
        }
        instance.rate = price;
    }
}

/// Counts a listing that does not show the instance. Listings may miss running instances and show new ones late. So a
/// presence record outweighs them, and absences count only after a while. A missing instance is first drained and terminated
/// by its id; it counts as ended when listings have not shown it for as long again.
fn miss(instance: &mut Instance, seen: &Observation, policy: &Policy) {
    if seen.workers.is_none() {
        // It is not known whether its worker is alive.
        return;
    }
    if seen.worker_of(instance).is_some() {
        is_there(instance);
        return;
    }
    let (told_to_end, called) = match instance.state {
        InstanceState::Terminating {
            since, called_at, ..
        } => (Some(since), called_at.is_some()),
        _ => (None, false),
    };
    let young = instance.age(seen.cloud_now) <= policy.patience.listing;
    if young && !called {
        return;
    }
    // Not counted further: each change of the record is a write.
    instance.absences = (instance.absences + 1).min(ABSENCES);
    let first = *instance.absent_since.get_or_insert(seen.now);
    let counted_from = told_to_end.map_or(first, |since| first.max(since));
    if instance.absences < ABSENCES || elapsed(counted_from, seen.now) < policy.patience.listing {
        return;
    }
    match instance.state {
        InstanceState::Terminating { .. } => {
            let ending = match called {
                true => Ending::Terminated,
                // EC2 does not know its id either.
                false => Ending::Vanished,
            };
            // Only EC2 can say that it never ran.
            instance.usage.pending &= instance.usage.left_at.is_some();
            gone(instance, ending, seen);
        }
        // It already leaves at once.
        InstanceState::Draining {
            mode: DrainMode::Now,
            ..
        } => {}
        // Asked before it is terminated: its worker may have just started.
        _ => instance.drain(Leaving::Missing, DrainMode::Now, seen.now),
    }
}

fn is_there(instance: &mut Instance) {
    instance.absences = 0;
    instance.absent_since = None;
}

fn gone(instance: &mut Instance, ending: Ending, seen: &Observation) {
    instance.usage.left_at.get_or_insert(seen.cloud_now);
    instance.usage.gone_at.get_or_insert(seen.cloud_now);
    instance.bill(seen.cloud_now);
    instance.state = InstanceState::Gone {
        ending,
        at: seen.now,
    };
}

pub(super) fn workers(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    if seen.workers.is_none() {
        return;
    }
    for instance in batch.instances.iter_mut().filter(|i| !i.is_gone()) {
        let Some(worker) = seen.worker_of(instance) else {
            unheard(instance, seen);
            continue;
        };
        instance.silent_since = None;
        instance.hinted |= worker.rebalance;
        // A worker that never takes a task has never served.
        let serves = !matches!(worker.state, WorkerState::Starting | WorkerState::Drained);
        if instance.state == InstanceState::Booting && serves {
            instance.state = InstanceState::Serving;
            instance.ready_at = Some(seen.now);
            batch.first_ready_at.get_or_insert(seen.now);
        }
        let leaving = instance.is_active();
        let noticed = worker.notice_at.map(|_| noticed(instance, seen, policy));
        match (worker.state, noticed) {
            (WorkerState::Drained, _)
                if matches!(instance.state, InstanceState::Terminating { .. }) => {}
            (WorkerState::Drained, Some(Leaving::Interruption))
                if refund::is_due(instance, seen) =>
            {
                refund::leave_to_ec2(instance, seen);
            }
            (WorkerState::Drained, _) => {
                let why = match instance.state {
                    InstanceState::Draining { why, .. } => why,
                    _ => noticed.unwrap_or(Leaving::Itself),
                };
                instance.terminate(why, seen.now);
            }
            (_, Some(why)) if leaving => instance.drain(why, DrainMode::Now, seen.now),
            _ if worker.rebalance && policy.leave_when_hinted && leaving => {
                instance.drain(Leaving::Rebalance, DrainMode::Finish, seen.now);
            }
            (WorkerState::Draining, _) if leaving => {
                instance.drain(Leaving::Itself, DrainMode::Finish, seen.now);
            }
            _ => {}
        }
    }
}

/// Why an instance leaves whose worker reports a notice. Near the end of its life the notice is the worker's own, so the
/// instance counts as capacity until it is gone.
fn noticed(instance: &Instance, seen: &Observation, policy: &Policy) -> Leaving {
    let age = instance.age(seen.cloud_now);
    match age.saturating_add(LAST_MINUTES) >= policy.patience.life {
        true => Leaving::Deadline,
        false => Leaving::Interruption,
    }
}

/// Notes that a worker that served has no presence record. A worker that leaves deletes its record and its instance ends,
/// which the listing shows; a worker that is cut off is given up after a while.
fn unheard(instance: &mut Instance, seen: &Observation) {
    let served = instance.ready_at.is_some() && is_here(instance);
    if served {
        instance.silent_since.get_or_insert(seen.now);
    }
}
