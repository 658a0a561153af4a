//! Decides which instances leave, and why. A busy one leaves only if it is interrupted, at the end of its life, or by an order.

use super::cloud::{ErrorClass, Lifecycle, PlaceError};
use super::observation::{Need, Observation};
use super::policy::Policy;
use super::{places, refund};
use crate::batch::{Batch, DrainMode, Instance, InstanceState, Leaving};
use crate::money::Usd;
use crate::time::elapsed;

pub(super) fn decide(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    end_lives(batch, seen, policy);
    let order = order_of_all(batch, seen, policy);
    for instance in batch.instances.iter_mut().filter(|i| !i.is_gone()) {
        if let Some((why, mode)) = order {
            follow_order(instance, why, mode, seen);
        }
        if is_overpriced(instance, seen, policy) {
            instance.drain(Leaving::Price, DrainMode::Finish, seen.now);
        }
    }
    fit_the_hour(batch, seen, policy);
    scale_in(batch, seen);
}

/// Ends instances whatever they do.
fn end_lives(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let patience = &policy.patience;
    for instance in &mut batch.instances {
        let age = instance.age(seen.cloud_now);
        match instance.state {
            InstanceState::Terminating { .. } | InstanceState::Gone { .. } => {}
            _ if age >= patience.life => instance.terminate(Leaving::Deadline, seen.now),
            _ if refund::is_awaited(instance, seen, policy) => {}
            // While the presence records cannot be read, no worker is missing.
            InstanceState::Booting if seen.workers.is_some() && age >= patience.boot => {
                // Asked first: its worker may have just started to serve.
                instance.drain(Leaving::BootLimit, DrainMode::Now, seen.now);
            }
            InstanceState::Serving | InstanceState::Draining { .. }
                if instance
                    .silent_since
                    .is_some_and(|at| elapsed(at, seen.now) >= patience.silence) =>
            {
                instance.terminate(Leaving::Silent, seen.now);
            }
            InstanceState::Draining { why, mode, since }
                if (mode == DrainMode::Now || why == Leaving::Interruption)
                    && elapsed(since, seen.now) >= patience.drain =>
            {
                instance.terminate(why, seen.now);
            }
            _ => {}
        }
    }
}

/// The order to all instances of the batch.
fn order_of_all(
    batch: &Batch,
    seen: &Observation,
    policy: &Policy,
) -> Option<(Leaving, DrainMode)> {
    if let Some(stop) = &batch.stop {
        return Some((Leaving::Ordered, stop.mode));
    }
    if batch.is_overdue(seen.now) {
        return Some((Leaving::Deadline, DrainMode::Now));
    }
    is_spent(batch, seen, policy).then_some((Leaving::Budget, DrainMode::Now))
}

/// Whether a budget is used up: then all workers hand back their tasks, with checkpoints. A spend that cannot be read ends
/// nothing.
pub(super) fn is_spent(batch: &Batch, seen: &Observation, policy: &Policy) -> bool {
    let over = |cap: Option<Usd>, spent: Usd| cap.is_some_and(|cap| spent >= cap);
    let of_all = seen.spend_with(batch);
    over(policy.budget.per_batch, batch.cost_at(seen.cloud_now))
        || of_all.is_some_and(|spend| {
            over(policy.budget.per_day, spend.today)
                || over(policy.budget.per_month, spend.this_month)
        })
}

/// If prices have risen above the hourly budget of all pools, drains the most expensive instances of this pool, whose
/// workers hand back their tasks, until the rest fits. Counts known prices only, and neither launches without an answer nor
/// instances that already leave. The capacity pools of the drained instances get a penalty.
fn fit_the_hour(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let (Some(cap), Some(market), Some(others)) = (policy.most_per_hour, &seen.market, seen.spent)
    else {
        return;
    };
    let running = batch.instances.iter().enumerate();
    let priced = running.filter(|(_, instance)| instance.runs_on());
    let mut priced: Vec<_> = priced
        .filter_map(|(at, i)| Some((market.price(&i.place, i.lifecycle)?, at)))
        .collect();
    // At the same price, booting instances leave first, then those without a task.
    priced.sort_by_key(|(price, at)| {
        let instance = &batch.instances[*at];
        let boots = instance.state == InstanceState::Booting;
        (*price, boots, seen.is_idle(instance))
    });
    let own: Usd = priced.iter().map(|(price, _)| *price).sum();
    let mut rate = others.kept_per_hour + own;
    while rate > cap
        && let Some((price, at)) = priced.pop()
    {
        let instance = &mut batch.instances[at];
        instance.drain(Leaving::Budget, DrainMode::Now, seen.now);
        let (place, lifecycle) = (instance.place.clone(), instance.lifecycle);
        let error = PlaceError {
            message: format!(
                "machines cost {rate} an hour, more than budgets.per_hour of {cap}, and {place} was the dearest at {price}"
            ),
            place: Some(place),
            class: ErrorClass::Price,
            code: places::OVER_HOUR.to_owned(),
        };
        places::penalise(batch, lifecycle, &error, seen.now, &policy.patience);
        rate = rate.saturating_sub(price);
    }
}

fn follow_order(instance: &mut Instance, why: Leaving, mode: DrainMode, seen: &Observation) {
    match instance.state {
        InstanceState::Booting | InstanceState::Serving => instance.drain(why, mode, seen.now),
        InstanceState::Draining {
            mode: DrainMode::Finish,
            why: before,
            ..
        } if mode == DrainMode::Now && before != Leaving::Interruption => {
            instance.drain(why, mode, seen.now);
        }
        _ => {}
    }
}

fn is_overpriced(instance: &Instance, seen: &Observation, policy: &Policy) -> bool {
    let price = seen.price_of(instance);
    let cap = policy
        .kind(&instance.place.kind)
        .and_then(|kind| match instance.lifecycle {
            Lifecycle::Spot => Some(kind.cap),
            Lifecycle::OnDemand => kind.on_demand_cap,
        });
    instance.is_active() && price.zip(cap).is_some_and(|(price, cap)| price > cap)
}

/// Instances without work that have to stay. Fleet tells their workers so in each pass; a worker leaves by itself only if
/// fleet is silent for a long time. While the queue cannot be counted, only those of hybrid mode are told: fleet could not
/// drain the others.
pub fn idle_that_stay(batch: &Batch, seen: &Observation) -> Vec<String> {
    let is_resident = batch.residency.as_ref().is_some_and(|r| r.until.is_none());
    if seen.work.is_none() && !is_resident {
        return Vec::new();
    }
    let stay = batch.instances.iter().filter(|i| seen.is_idle(i));
    stay.map(|instance| instance.id.clone()).collect()
}

/// Drains instances that no remaining task needs: idle ones with a rebalance recommendation first, then the most expensive,
/// then booting ones.
fn scale_in(batch: &mut Batch, seen: &Observation) {
    let (Some(work), Some(_)) = (seen.work, &seen.workers) else {
        return;
    };
    let instances = &batch.instances;
    let busy = instances.iter().filter(|i| seen.is_busy(i)).count() as u64;
    let mut idle: Vec<_> = (0..instances.len())
        .filter(|at| seen.is_idle(&instances[*at]))
        .collect();
    idle.sort_by_key(|at| (instances[*at].hinted, instances[*at].rate));
    let mut booting: Vec<_> = (0..instances.len())
        .filter(|at| instances[*at].state == InstanceState::Booting)
        .collect();
    booting.sort_by_key(|at| instances[*at].launched_at);
    // Each waiting task keeps an instance that can render it, and the pool's number of resident instances stays.
    let stay = u64::from(seen.keep).saturating_sub(busy);
    let mut room = Room::of(seen, work.waiting(), stay.saturating_sub(work.waiting()));
    let kinds = idle.into_iter().chain(booting);
    let surplus: Vec<_> = kinds
        .filter(|at| !room.admits(&instances[*at].place.kind))
        .collect();
    for at in surplus {
        batch.instances[at].drain(Leaving::ScaleIn, DrainMode::Finish, seen.now);
    }
}

/// Number of further instances, by type, that find a waiting task of their own.
struct Room<'a> {
    needs: &'a [Need],
    /// For each level, the tasks that are at most as hard: they are for instances that can render no harder ones. The last
    /// number is for types that can render none at all.
    left: Vec<u64>,
}

impl<'a> Room<'a> {
    /// `more`: instances that stay without a task.
    fn of(seen: &'a Observation, waiting: u64, more: u64) -> Self {
        let harder = seen.needs.iter().map(|need| need.waiting);
        let left = [0].into_iter().chain(harder);
        let left = left.map(|harder| waiting.saturating_sub(harder) + more);
        let (needs, left) = (seen.needs.as_slice(), left.collect::<Vec<_>>());
        Self { needs, left }
    }

    /// Takes a place for one more instance of this type, if there is one: on its own level and on all harder ones.
    fn admits(&mut self, kind: &str) -> bool {
        let level = self.needs.iter().position(|need| need.kinds.contains(kind));
        let level = level.unwrap_or(self.needs.len());
        let taken = &mut self.left[..=level];
        let admits = taken.iter().all(|left| *left > 0);
        if admits {
            taken.iter_mut().for_each(|left| *left -= 1);
        }
        admits
    }
}
