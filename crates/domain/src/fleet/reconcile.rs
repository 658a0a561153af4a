//! One reconcile pass of fleet: from the observation and the record to the next record and the effects.
//!
//! Safety comes from the order. The service lists the instances, then reads the record, then calls [`reconcile`]; it writes
//! the new record, by compare-and-set, and only then carries out the effects. So no launch is called before its request is
//! durable, and a fleet that was overtaken loses at the write and calls nothing. The results of the effects are written,
//! too ([`learn`](super::learn)); a crash in between loses nothing, since the next pass sees the same instances.

use std::time::Duration;

use super::observation::{Observation, WorkerState};
use super::policy::Policy;
use super::{breaker, buy, follow, leave, places, residency, settle};
use crate::batch::{Batch, DrainMode, InstanceState, Launch, Leaving, Status};
use crate::time::elapsed;

/// A night of trying one capacity pool after the other makes as many; few enough to be part of every event.
const LAUNCHES_KEPT: usize = 48;

#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub batch: Batch,
    /// To be carried out in this order, once `batch` is durable.
    pub effects: Vec<Effect>,
    pub look_again: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Terminate {
        instances: Vec<String>,
    },
    Drain {
        instance: String,
        mode: DrainMode,
        why: Leaving,
    },
    /// Call CreateFleet with the frozen request of this launch: the first time, or again with the same token.
    Launch(Launch),
    /// No instance of these launches runs any more: their fleet objects may go.
    DeleteFleets {
        launches: Vec<(u32, String)>,
    },
    /// Read the console output of this instance, which ended before it served.
    ReadConsole {
        instance: String,
    },
}

/// The next record and the effects. If nothing changes, the record is returned as it was.
pub fn reconcile(before: &Batch, seen: &Observation, policy: &Policy) -> Round {
    let mut batch = before.clone();
    let mut call = None;
    if batch.is_active() {
        follow::listing(&mut batch, seen, policy);
        follow::workers(&mut batch, seen, policy);
        residency::follow(&mut batch, seen);
        leave::decide(&mut batch, seen, policy);
        residency::count(&mut batch, seen);
        places::remember(before, &mut batch, seen, policy);
        breaker::count(before, &mut batch, seen, policy);
        call = buy::decide(&mut batch, seen, policy);
        settle::decide(&mut batch, seen, policy);
        forget_old_launches(&mut batch);
    }
    if batch != *before {
        batch.at = seen.now;
        let there = batch.instances.iter_mut().filter(|i| !i.is_gone());
        for instance in there.filter(|i| seen.price_of(i).is_some()) {
            instance.bill(seen.cloud_now);
        }
    }
    Round {
        effects: effects(&batch, call, seen, policy),
        look_again: look_again(&batch, policy),
        batch,
    }
}

/// Terminations that the record demands.
pub fn terminations(batch: &Batch, now: jiff::Timestamp, policy: &Policy) -> Vec<String> {
    let due = |called_at: Option<jiff::Timestamp>| {
        called_at.is_none_or(|at| elapsed(at, now) >= policy.patience.terminate_again)
    };
    let demanded = batch.instances.iter().filter(
        |i| matches!(i.state, InstanceState::Terminating { called_at, .. } if due(called_at)),
    );
    demanded.map(|instance| instance.id.clone()).collect()
}

/// Instances of the record that are too old: they are terminated even while listings fail.
pub fn outlived(batch: &Batch, cloud_now: jiff::Timestamp, policy: &Policy) -> Vec<String> {
    let there = batch.instances.iter().filter(|i| !i.is_gone());
    let old = there.filter(|instance| instance.age(cloud_now) >= policy.patience.life);
    old.map(|instance| instance.id.clone()).collect()
}

/// Why the pool has to be put on hold: its batch has failed because instances end before they serve. An operator or another
/// configuration ends the hold.
pub fn holds_its_pool(batch: &Batch, policy: &Policy) -> Option<String> {
    match &batch.status {
        Status::Failed { reason } if breaker::gives_up(batch, policy).is_some() => {
            Some(format!("batch {} failed: {reason}", batch.id))
        }
        _ => None,
    }
}

/// The record is part of every event, so of launches without running instances it keeps only the newest.
fn forget_old_launches(batch: &mut Batch) {
    for launch in batch.launches.iter_mut().filter(|launch| !launch.is_open()) {
        launch.request.clear();
    }
    let surplus = batch.launches.len().saturating_sub(LAUNCHES_KEPT);
    let (mut at, instances) = (0, &batch.instances);
    batch.launches.retain(|launch| {
        at += 1;
        let old = at <= surplus && !launch.is_open();
        !old || instances
            .iter()
            .any(|i| i.launch == launch.seq && !i.is_gone())
    });
}

fn effects(
    batch: &Batch,
    call: Option<Launch>,
    seen: &Observation,
    policy: &Policy,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    if !batch.is_active() {
        return effects;
    }
    let instances = terminations(batch, seen.now, policy);
    if !instances.is_empty() {
        effects.push(Effect::Terminate { instances });
    }
    for instance in &batch.instances {
        let InstanceState::Draining { why, mode, .. } = instance.state else {
            continue;
        };
        let heeds = seen
            .worker_of(instance)
            .is_some_and(|w| w.state == WorkerState::Draining);
        let worker_knows = match why {
            Leaving::Interruption | Leaving::Itself => true,
            _ => heeds && mode == DrainMode::Finish,
        };
        if !worker_knows {
            effects.push(Effect::Drain {
                instance: instance.id.clone(),
                mode,
                why,
            });
        }
    }
    effects.extend(call.map(Effect::Launch));
    let launches = settle::finished_fleets(batch);
    if !launches.is_empty() {
        effects.push(Effect::DeleteFleets { launches });
    }
    if let Some(instance) = breaker::unread(batch, policy) {
        effects.push(Effect::ReadConsole { instance });
    }
    effects
}

fn look_again(batch: &Batch, policy: &Policy) -> Duration {
    let calm = batch.blocked.is_none()
        && batch.launches.iter().all(|launch| !launch.is_open())
        && batch
            .instances
            .iter()
            .all(|i| matches!(i.state, InstanceState::Serving | InstanceState::Gone { .. }))
        && batch.instances.iter().any(|i| !i.is_gone());
    if calm {
        policy.patience.calm
    } else {
        policy.patience.moving
    }
}
