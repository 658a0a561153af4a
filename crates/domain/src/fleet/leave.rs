//! Who has to leave, and why. Never a busy one, but where its machine goes anyway, its time is over, or a person says so.

use super::cloud::Lifecycle;
use super::follow::{drain, terminate};
use super::observation::{Observation, WorkerState};
use super::policy::Policy;
use super::reconcile::elapsed;
use crate::batch::{Batch, DrainMode, Instance, InstanceState, Leaving, Receipt};
use crate::ledger::{self, Spend};
use crate::money::Usd;

pub(super) fn decide(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    end_lives(batch, seen, policy);
    let order = order_of_all(batch, seen, policy);
    for instance in batch.instances.iter_mut().filter(|i| !i.is_gone()) {
        if let Some((why, mode)) = order {
            follow_order(instance, why, mode, seen);
        }
        if is_overpriced(instance, seen, policy) {
            drain(instance, Leaving::Price, DrainMode::Finish, seen);
        }
    }
    scale_in(batch, seen);
}

/// What ends a machine whatever it does.
fn end_lives(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let patience = &policy.patience;
    for instance in &mut batch.instances {
        let age = elapsed(instance.launched_at, seen.cloud_now);
        match instance.state {
            InstanceState::Terminating { .. } | InstanceState::Gone { .. } => {}
            _ if age >= patience.life => terminate(instance, Leaving::Deadline, seen),
            // With no word from any worker there is none to miss.
            InstanceState::Booting if seen.workers.is_some() && age >= patience.boot => {
                // Asked first: it may have come up this very moment.
                drain(instance, Leaving::BootLimit, DrainMode::Now, seen);
            }
            InstanceState::Serving | InstanceState::Draining { .. }
                if instance
                    .silent_since
                    .is_some_and(|at| elapsed(at, seen.now) >= patience.silence) =>
            {
                terminate(instance, Leaving::Silent, seen);
            }
            InstanceState::Draining { why, mode, since }
                if (mode == DrainMode::Now || why == Leaving::Interruption)
                    && elapsed(since, seen.now) >= patience.drain =>
            {
                terminate(instance, why, seen);
            }
            _ => {}
        }
    }
}

/// What is said to all machines of the batch at once.
fn order_of_all(
    batch: &Batch,
    seen: &Observation,
    policy: &Policy,
) -> Option<(Leaving, DrainMode)> {
    if let Some(stop) = &batch.stop {
        return Some((Leaving::Ordered, stop.mode));
    }
    if seen.now >= batch.deadline {
        return Some((Leaving::Deadline, DrainMode::Now));
    }
    is_spent(batch, seen, policy).then_some((Leaving::Budget, DrainMode::Now))
}

/// Whether a budget is used up: what runs hands back what it has in hand, with its checkpoint. What cannot be read ends
/// nothing.
pub(super) fn is_spent(batch: &Batch, seen: &Observation, policy: &Policy) -> bool {
    let over = |cap: Option<Usd>, spent: Usd| cap.is_some_and(|cap| spent >= cap);
    let of_all = spend(batch, seen);
    over(policy.budget.per_batch, spent(batch, seen))
        || of_all.is_some_and(|spend| {
            over(policy.budget.per_day, spend.today)
                || over(policy.budget.per_month, spend.this_month)
        })
}

pub(super) fn spent(batch: &Batch, seen: &Observation) -> Usd {
    Receipt::of(batch, seen.cloud_now).total
}

/// What all pools cost, with this batch.
pub(super) fn spend(batch: &Batch, seen: &Observation) -> Option<Spend> {
    let others = seen.spent?;
    Some(others + ledger::spend([batch], seen.cloud_now))
}

fn follow_order(instance: &mut Instance, why: Leaving, mode: DrainMode, seen: &Observation) {
    match instance.state {
        InstanceState::Booting | InstanceState::Serving => drain(instance, why, mode, seen),
        InstanceState::Draining {
            mode: DrainMode::Finish,
            why: before,
            ..
        } if mode == DrainMode::Now && before != Leaving::Interruption => {
            drain(instance, why, mode, seen);
        }
        _ => {}
    }
}

fn is_overpriced(instance: &Instance, seen: &Observation, policy: &Policy) -> bool {
    let price = seen
        .market
        .as_ref()
        .and_then(|m| m.price(&instance.place, instance.lifecycle));
    let cap = policy
        .kind(&instance.place.kind)
        .and_then(|kind| match instance.lifecycle {
            Lifecycle::Spot => Some(kind.cap),
            Lifecycle::OnDemand => kind.on_demand_cap,
        });
    instance.is_active() && price.zip(cap).is_some_and(|(price, cap)| price > cap)
}

fn is_idle(instance: &Instance, seen: &Observation) -> bool {
    let idle = seen
        .worker_of(instance)
        .is_some_and(|w| w.state == WorkerState::Idle);
    idle && instance.state == InstanceState::Serving
}

/// Machines that stay and have something in hand.
pub(super) fn busy(batch: &Batch, seen: &Observation) -> u64 {
    let busy = |i: &&Instance| i.state == InstanceState::Serving && !is_idle(i, seen);
    batch.instances.iter().filter(busy).count() as u64
}

/// One by one, as soon as no task can start on a machine: first the idle ones that EC2 may take, then the dearest, and
/// machines that boot for nothing.
fn scale_in(batch: &mut Batch, seen: &Observation) {
    let (Some(work), Some(_)) = (seen.work, &seen.workers) else {
        return;
    };
    let keep = u64::from(seen.keep);
    let idle = batch.instances.iter().filter(|i| is_idle(i, seen)).count() as u64;
    let busy = busy(batch, seen);
    // Each waiting task has an idle machine, and the pool's own number stays.
    let idle_wanted = work.waiting().max(keep.saturating_sub(busy)).min(idle);
    let booting_wanted = work
        .waiting()
        .saturating_sub(idle)
        .max(keep.saturating_sub(busy + idle));

    let mut surplus: Vec<_> = (0..batch.instances.len())
        .filter(|at| is_idle(&batch.instances[*at], seen))
        .collect();
    let dear = |at: &usize| (batch.instances[*at].hinted, batch.instances[*at].rate);
    surplus.sort_by_key(|at| std::cmp::Reverse(dear(at)));
    surplus.truncate(usize::try_from(idle - idle_wanted).unwrap_or(usize::MAX));
    let booting = |at: &usize| batch.instances[*at].state == InstanceState::Booting;
    let mut young: Vec<_> = (0..batch.instances.len()).filter(booting).collect();
    young.sort_by_key(|at| std::cmp::Reverse(batch.instances[*at].launched_at));
    let surplus_young = (young.len() as u64).saturating_sub(booting_wanted);
    young.truncate(usize::try_from(surplus_young).unwrap_or(usize::MAX));
    for at in surplus.into_iter().chain(young) {
        drain(
            &mut batch.instances[at],
            Leaving::ScaleIn,
            DrainMode::Finish,
            seen,
        );
    }
}
