//! What to launch: how many, where, at what price, and whether at all.

use super::cloud::{ErrorClass, LaunchRequest, Lifecycle, Override, Place, client_token};
use super::observation::{Market, Observation, Work};
use super::policy::{Bid, Budget, Kind, MOST_UNITS_A_LAUNCH, Policy};
use super::reconcile::{committed, elapsed};
use super::{breaker, leave, places};
use crate::batch::{Batch, Blocked, Blocker, Instance, Launch, LaunchState, Penalty};
use crate::money::Usd;

/// What a strict bid adds to the lowest price: enough for the market to move a little, and no more.
const STRICT_PERCENT: u32 = 110;

/// Adds the intent of one launch to the record, or says what stands in its way.
pub(super) fn decide(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    places::forgive(batch, seen.now, &policy.patience);
    count_replay(batch, seen, policy);
    if batch
        .launches
        .iter()
        .any(|launch| is_young(launch, seen, policy))
        || !may_buy(batch, seen, policy)
    {
        return;
    }
    let verdict = match &seen.work {
        None => Err((
            Blocker::CountsUnknown,
            "how long the queue is cannot be told for certain, so nothing is launched".to_owned(),
        )),
        Some(work) => missing(batch, work, seen, policy).map_or(Ok(None), |units| {
            let units = units.min(breaker::admits(batch, seen, policy)?);
            plan(batch, units, work, seen, policy).map(Some)
        }),
    };
    match verdict {
        Ok(launch) => {
            // Being blocked ends when something serves again or nothing is missing, not with the next attempt; nor while
            // it is open whether machines come up at all.
            let goes_on = launch.is_none() || batch.instances.iter().any(Instance::is_active);
            match breaker::is_open(batch, policy) {
                true => block(
                    batch,
                    Blocker::NeverServed,
                    breaker::sentence(batch, seen),
                    seen,
                ),
                false if goes_on => batch.blocked = None,
                false => {}
            }
            batch.launches.extend(launch);
        }
        Err((by, sentence)) => block(batch, by, sentence, seen),
    }
}

fn block(batch: &mut Batch, by: Blocker, sentence: String, seen: &Observation) {
    // What waits for machines to come up does not wait for a place.
    let before = batch.blocked.as_ref();
    let before = before.filter(|b| (b.by == Blocker::NeverServed) == (by == Blocker::NeverServed));
    let since = before.map_or(seen.now, |before| before.since);
    batch.blocked = Some(Blocked {
        by,
        sentence,
        since,
    });
}

/// A call that is made again is counted before it is made: the first one may still be under way elsewhere.
fn count_replay(batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let Some(seq) = call_for(batch, seen, policy) else {
        return;
    };
    if let Some(LaunchState::Dispatched { sends, .. }) =
        batch.launch_mut(seq).map(|launch| &mut launch.state)
    {
        *sends += 1;
    }
}

/// The launch that is to be called now: one whose intent is durable and which has no answer yet.
pub(super) fn call_for(batch: &Batch, seen: &Observation, policy: &Policy) -> Option<u32> {
    let open = batch
        .launches
        .iter()
        .find(|launch| is_young(launch, seen, policy))?;
    let wanted = may_buy(batch, seen, policy) && seen.in_flight.is_none();
    wanted.then_some(open.seq)
}

/// Without an answer, and young enough to be sent again with the same token.
fn is_young(launch: &Launch, seen: &Observation, policy: &Policy) -> bool {
    matches!(launch.state, LaunchState::Dispatched { at, sealed: false, .. }
        if elapsed(at, seen.now) < policy.patience.replay)
}

pub(super) fn may_buy(batch: &Batch, seen: &Observation, policy: &Policy) -> bool {
    batch.stop.is_none()
        && seen.now < batch.deadline
        && !leave::is_spent(batch, seen, policy)
        && configuration_error(batch).is_none()
        && breaker::gives_up(batch, policy).is_none()
}

/// What the cloud refused in a way that no retry can mend.
pub(super) fn configuration_error(batch: &Batch) -> Option<String> {
    let rejected = batch
        .launches
        .iter()
        .find_map(|launch| match &launch.state {
            LaunchState::Rejected { error, .. } if error.class == ErrorClass::Configuration => {
                Some(error)
            }
            _ => None,
        });
    rejected.map(|error| format!("{}: {}", error.code, error.message))
}

/// Units that the work asks for beyond what is there or on its way.
fn missing(batch: &Batch, work: &Work, seen: &Observation, policy: &Policy) -> Option<u32> {
    let first = if batch.launches.is_empty() {
        batch.units
    } else {
        0
    };
    // What a machine that leaves has in hand needs no other one, or scale-in would send that away at once.
    let useful = u32::try_from(work.waiting() + leave::busy(batch, seen)).unwrap_or(u32::MAX);
    let wanted = work.sized.max(first).min(useful).max(seen.keep);
    let active = batch.instances.iter().filter(|i| i.is_active()).count();
    let there = u32::try_from(active).unwrap_or(u32::MAX);
    let missing = wanted.saturating_sub(there.saturating_add(may_appear(batch, seen, policy)));
    // A pool at its limit waits for machines that leave: that is no obstacle to tell of.
    let room = policy.max_units.saturating_sub(committed(batch));
    let missing = missing.min(room);
    (missing > 0).then_some(missing)
}

/// Units of launches without an answer that no listing has shown yet, and still may.
pub(super) fn may_appear(batch: &Batch, seen: &Observation, policy: &Policy) -> u32 {
    let may = |launch: &&Launch| {
        matches!(launch.state, LaunchState::Dispatched { at, .. }
            if elapsed(at, seen.now) < policy.patience.unknown_launch)
    };
    let unseen = |launch: &Launch| {
        let of_it = batch.instances.iter().filter(|i| i.launch == launch.seq);
        launch
            .units
            .saturating_sub(u32::try_from(of_it.count()).unwrap_or(u32::MAX))
    };
    batch.launches.iter().filter(may).map(unseen).sum()
}

fn plan(
    batch: &Batch,
    missing: u32,
    work: &Work,
    seen: &Observation,
    policy: &Policy,
) -> Result<Launch, (Blocker, String)> {
    let Some(market) = &seen.market else {
        let sentence = "prices are not known, so nothing is launched".to_owned();
        return Err((Blocker::PricesUnknown, sentence));
    };
    if policy.template.id.is_empty() {
        let problem = policy.problem.clone();
        let sentence = problem
            .unwrap_or_else(|| "the launch template of the pool is still being looked up".into());
        return Err((Blocker::Configuration, sentence));
    }
    let units = missing.min(MOST_UNITS_A_LAUNCH);
    let spot = offers(batch, Lifecycle::Spot, market, seen, policy);
    let (lifecycle, offers) = match spot {
        Ok(offers) => (Lifecycle::Spot, offers),
        Err(blocked) => {
            let waited = batch
                .blocked
                .as_ref()
                .map(|before| elapsed(before.since, seen.now));
            let patience = policy.on_demand_after;
            match patience.filter(|patience| waited.unwrap_or_default() >= *patience) {
                Some(_) => (
                    Lifecycle::OnDemand,
                    self::offers(batch, Lifecycle::OnDemand, market, seen, policy)
                        .map_err(|_| blocked)?,
                ),
                None => return Err(blocked),
            }
        }
    };
    let units = within_quota(batch, units, lifecycle, seen)?;
    let dearest = offers
        .iter()
        .map(|offer| offer.price)
        .max()
        .unwrap_or_default();
    let units = within_budget(batch, units, dearest, work, seen, &policy.budget)?;
    Ok(freeze(batch, units, lifecycle, &offers, seen, policy))
}

struct Offer {
    place: Place,
    subnet: String,
    price: Usd,
    max_price: Option<Usd>,
}

/// The places that may be asked now, or why there is none.
fn offers(
    batch: &Batch,
    lifecycle: Lifecycle,
    market: &Market,
    seen: &Observation,
    policy: &Policy,
) -> Result<Vec<Offer>, (Blocker, String)> {
    // The whole account's goes before the place's.
    let held_back = |place: &Place| {
        let hits = |p: &&Penalty| {
            p.lifecycle == lifecycle
                && p.until > seen.now
                && p.place.as_ref().is_none_or(|p| p == place)
        };
        let penalties = batch.penalties.iter().filter(hits);
        penalties.min_by_key(|p| (p.place.is_some(), p.class == ErrorClass::Doubtful))
    };
    let cap_of = |kind: &Kind| match lifecycle {
        Lifecycle::Spot => Some(kind.cap),
        Lifecycle::OnDemand => kind.on_demand_cap,
    };
    let (mut offers, mut doubtful) = (Vec::new(), Vec::new());
    let (mut penalty, mut nearest) = (None::<&Penalty>, None::<(Usd, Usd, Place)>);
    for kind in &policy.kinds {
        for subnet in &policy.subnets {
            let place = Place {
                kind: kind.name.clone(),
                zone: subnet.zone.clone(),
            };
            let (Some(cap), Some(price)) = (cap_of(kind), market.price(&place, lifecycle)) else {
                continue;
            };
            if price > cap {
                let gap = price - cap;
                if nearest.as_ref().is_none_or(|(least, ..)| gap < *least) {
                    nearest = Some((gap, price, place));
                }
                continue;
            }
            let hit = held_back(&place);
            let offer = Offer {
                place,
                subnet: subnet.id.clone(),
                price,
                max_price: (lifecycle == Lifecycle::Spot).then_some(cap),
            };
            match hit {
                None => offers.push(offer),
                Some(hit) if hit.class == ErrorClass::Doubtful => doubtful.push(offer),
                Some(hit) if penalty.is_none_or(|first| hit.until < first.until) => {
                    penalty = Some(hit);
                }
                Some(_) => {}
            }
        }
    }
    if offers.is_empty() {
        offers = doubtful;
    }
    if offers.is_empty() {
        return Err(no_offer(penalty, nearest, policy));
    }
    if policy.bid == Bid::Strict && lifecycle == Lifecycle::Spot {
        let lowest = offers
            .iter()
            .map(|offer| offer.price)
            .min()
            .unwrap_or_default();
        let bid = lowest.percent(STRICT_PERCENT);
        offers.retain(|offer| offer.price <= bid);
        for offer in &mut offers {
            offer.max_price = offer.max_price.map(|cap| cap.min(bid));
        }
    }
    Ok(offers)
}

fn no_offer(
    penalty: Option<&Penalty>,
    nearest: Option<(Usd, Usd, Place)>,
    policy: &Policy,
) -> (Blocker, String) {
    match (penalty, nearest) {
        (Some(penalty), _) => {
            let by = match penalty.class {
                ErrorClass::Quota => Blocker::Quota,
                ErrorClass::Configuration => Blocker::Configuration,
                _ => Blocker::NoCapacity,
            };
            let until = penalty.until;
            let sentence = format!(
                "{} ({}); asked again at {until:.0}",
                penalty.message, penalty.code
            );
            (by, sentence)
        }
        (None, Some((gap, price, place))) => {
            let sentence = format!(
                "no place is under its cap: the nearest is {place} at {price}/h, {gap} above; raise the cap of {} or wait",
                place.kind
            );
            (Blocker::NoPlaceUnderCap, sentence)
        }
        (None, None) => match &policy.problem {
            Some(problem) => (Blocker::Configuration, problem.clone()),
            None => {
                let sentence =
                    "the market names no price for any of the pool's types and zones: check both";
                (Blocker::NoPlaceUnderCap, sentence.to_owned())
            }
        },
    }
}

fn within_quota(
    batch: &Batch,
    units: u32,
    lifecycle: Lifecycle,
    seen: &Observation,
) -> Result<u32, (Blocker, String)> {
    let Some(limit) = seen.quota.get(&lifecycle) else {
        return Ok(units);
    };
    let used = batch
        .instances
        .iter()
        .filter(|i| !i.is_gone() && i.lifecycle == lifecycle)
        .count();
    let room = limit.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
    if room == 0 {
        let (name, code) = (lifecycle.as_str(), lifecycle.quota_code());
        let sentence = format!(
            "the account's {name} quota {code} leaves room for {limit} instances of this pool: ask AWS for more vCPUs"
        );
        return Err((Blocker::Quota, sentence));
    }
    Ok(units.min(room))
}

/// As many units as the budgets allow at the dearest price that may be paid: for the hour as a rate, for the others
/// until the work that is left is done.
fn within_budget(
    batch: &Batch,
    units: u32,
    price: Usd,
    work: &Work,
    seen: &Observation,
    budget: &Budget,
) -> Result<u32, (Blocker, String)> {
    let rate: Usd = batch
        .instances
        .iter()
        .filter(|i| !i.is_gone())
        .map(|i| i.rate)
        .sum();
    let spent = leave::spent(batch, seen);
    let allowed = |units: u32| -> Result<(), String> {
        let rate = rate + price.times(units);
        let active = u64::from(committed(batch) + units).max(1);
        let rest = std::time::Duration::from_secs((work.seconds / active).max(60));
        let ahead = rate.per_hour_for(rest);
        for (name, cap, sum) in [
            ("per_hour", budget.per_hour, rate),
            ("per_batch", budget.per_batch, spent + ahead),
            ("per_day", budget.per_day, seen.spent.day + spent + ahead),
            (
                "per_month",
                budget.per_month,
                seen.spent.month + spent + ahead,
            ),
        ] {
            if let Some(cap) = cap.filter(|cap| sum > *cap) {
                return Err(format!(
                    "the budget {name} of {cap} would be exceeded: {sum} with {units} more instances"
                ));
            }
        }
        Ok(())
    };
    let mut refusal = String::new();
    for units in (1..=units).rev() {
        match allowed(units) {
            Ok(()) => return Ok(units),
            Err(sentence) => refusal = sentence,
        }
    }
    Err((Blocker::Budget, refusal))
}

fn freeze(
    batch: &Batch,
    units: u32,
    lifecycle: Lifecycle,
    offers: &[Offer],
    seen: &Observation,
    policy: &Policy,
) -> Launch {
    let seq = batch.launches.last().map_or(0, |launch| launch.seq) + 1;
    let expires_at = seen
        .cloud_now
        .saturating_add(policy.patience.life)
        .unwrap_or(seen.cloud_now);
    let request = LaunchRequest {
        client_token: client_token(&policy.env, &batch.id, batch.requested_at, seq, lifecycle),
        template: policy.template.clone(),
        lifecycle,
        units,
        overrides: offers
            .iter()
            .map(|offer| Override {
                place: offer.place.clone(),
                subnet: offer.subnet.clone(),
                max_price: offer.max_price,
            })
            .collect(),
        tags: policy.tags(&batch.id.to_string(), seq, &format!("{expires_at:.0}")),
    };
    Launch {
        seq,
        lifecycle,
        units,
        request: serde_json::to_string(&request).expect("a request of texts and numbers is JSON"),
        state: LaunchState::Dispatched {
            at: seen.now,
            empty_listings: 0,
            sealed: false,
            sends: 1,
        },
    }
}
