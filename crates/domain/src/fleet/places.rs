//! Penalties of capacity pools: one without capacity, in which EC2 interrupted an instance or may do so, or in which an
//! instance never served, is not asked for a while, longer each time. Penalties are forgotten slowly.

use std::time::Duration;

use jiff::Timestamp;

use super::cloud::{ErrorClass, Lifecycle, PlaceError};
use super::observation::Observation;
use super::policy::{Patience, Policy};
use super::refusals;
use crate::batch::{Batch, Instance, Penalty};
use crate::time::elapsed;
use crate::trigger::Budgets;

/// The code of the penalty for an instance that exceeded the hourly budget after prices had risen.
pub(super) const OVER_HOUR: &str = "BudgetPerHour";
/// Share of the hourly budget that purchases may use while such a penalty is remembered: prices that move a little around
/// the budget would otherwise buy and drain instances in turn.
const HEADROOM_PERCENT: u32 = 90;

/// The reduced budgets while such a penalty is remembered. Trigger and fleet leave out an offer that alone costs more than
/// this an hour; if instances run, fleet buys within it.
pub(super) fn budgets_near_the_limit(
    policy: &Policy,
    penalties: &[Penalty],
    now: Timestamp,
) -> Option<Budgets> {
    let is_near = |p: &Penalty| p.code == OVER_HOUR && is_remembered(p, now, &policy.patience);
    let per_hour = policy.budget.per_hour?;
    penalties.iter().any(is_near).then(|| Budgets {
        per_hour: Some(per_hour.percent(HEADROOM_PERCENT)),
        ..policy.budget
    })
}

/// Penalises the capacity pools of instances that got an interruption notice or a rebalance recommendation since `before`.
pub(super) fn remember(before: &Batch, batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let is_new = |instance: &Instance, is: fn(&Instance) -> bool| {
        is(instance) && !before.instance(&instance.id).is_some_and(is)
    };
    let mut found = Vec::new();
    for instance in &batch.instances {
        let place = &instance.place;
        let (class, code, message) = if is_new(instance, Instance::is_taken) {
            let message = format!("EC2 interrupted an instance in {place}");
            (ErrorClass::Capacity, "Interrupted", message)
        } else if is_new(instance, |instance| instance.hinted) {
            let message = format!("rebalance recommendation in {place}");
            (ErrorClass::Doubtful, "RebalanceRecommendation", message)
        } else {
            continue;
        };
        let error = PlaceError {
            place: Some(place.clone()),
            class,
            code: code.to_owned(),
            message,
        };
        found.push((instance.lifecycle, error));
    }
    for (lifecycle, error) in found {
        penalise(batch, lifecycle, &error, seen.now, &policy.patience);
    }
}

/// Blocks the capacity pool of an error for a while: the time depends on the error's class. If the capacity pool is the
/// cause, each time is longer.
pub(super) fn penalise(
    batch: &mut Batch,
    lifecycle: Lifecycle,
    error: &PlaceError,
    now: Timestamp,
    patience: &Patience,
) {
    let (span, place) = match error.class {
        ErrorClass::Capacity | ErrorClass::Price | ErrorClass::Doubtful => {
            (patience.no_capacity, error.place.clone())
        }
        // A quota that one type exceeds may have room for a smaller type.
        ErrorClass::Quota => (patience.quota, error.place.clone()),
        ErrorClass::Unknown => (patience.throttled, error.place.clone()),
        // The limit of calls is the account's, whatever the call was about.
        ErrorClass::Throttled => (patience.throttled, None),
        ErrorClass::Configuration if error.place.is_none() => {
            (refusals::pause(batch, patience), None)
        }
        ErrorClass::Configuration => (patience.quota, error.place.clone()),
    };
    let same = |p: &Penalty| p.lifecycle == lifecycle && p.place == place;
    let at = batch.penalties.iter().position(same);
    let before = at.map(|at| batch.penalties.remove(at));
    let mut times = before.as_ref().map_or(0, |p| times_left(p, now, patience));
    let stands = before.as_ref().filter(|p| p.until > now);
    let harder = |p: &Penalty| p.class == ErrorClass::Doubtful && error.class != p.class;
    let is_its_own = matches!(error.class, ErrorClass::Capacity | ErrorClass::Doubtful)
        || error.code == OVER_HOUR;
    let is_longest = longer(span, times, patience) >= patience.longest_penalty;
    // Several instances at once are one reason. At the longest time nothing is counted: it would only be forgotten later.
    if place.is_some() && is_its_own && stands.is_none_or(harder) && !is_longest {
        times = times.saturating_add(1);
    }
    let span = match is_its_own {
        true => longer(span, times, patience),
        false => span,
    };
    let until = now.saturating_add(span).unwrap_or(Timestamp::MAX);
    let mut penalty = Penalty {
        place,
        lifecycle,
        class: error.class,
        code: error.code.clone(),
        message: error.message.clone(),
        until,
        times,
    };
    if let Some(stands) = stands {
        penalty.until = until.max(stands.until);
        // A doubt does not replace a certain error.
        if error.class == ErrorClass::Doubtful && stands.class != ErrorClass::Doubtful {
            penalty = stands.clone();
        }
    }
    batch.penalties.push(penalty);
}

/// Forgets penalties that are over and make the next one no longer.
pub(super) fn forgive(batch: &mut Batch, now: Timestamp, patience: &Patience) {
    batch.penalties.retain(|p| is_remembered(p, now, patience));
}

fn is_remembered(penalty: &Penalty, now: Timestamp, patience: &Patience) -> bool {
    penalty.until > now || times_left(penalty, now, patience) > 0
}

/// Number of times it happened, less one for each `patience.forgiven` since its last penalty was over.
fn times_left(penalty: &Penalty, now: Timestamp, patience: &Patience) -> u32 {
    let since = elapsed(penalty.until, now).as_millis();
    let forgiven = since / patience.forgiven.as_millis().max(1);
    let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
    penalty.times.saturating_sub(forgiven)
}

fn longer(span: Duration, times: u32, patience: &Patience) -> Duration {
    let doubled = span.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1)));
    doubled.min(patience.longest_penalty.max(span))
}
