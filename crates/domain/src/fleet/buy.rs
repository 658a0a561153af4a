//! Decides launches: how many instances, in which capacity pools, at what price.

use std::borrow::Cow;

use super::cloud::{LaunchRequest, Lifecycle, Override, client_token};
use super::observation::{Need, Observation, Quota, Work};
use super::offers::{self, PlaceOffer};
use super::policy::{MOST_UNITS_A_LAUNCH, Policy};
use super::{breaker, leave, places, refusals};
use crate::batch::{Batch, Blocked, BlockedBy, Instance, Launch, LaunchState};
use crate::purchase::Purchase;
use crate::spend::{self, Spend};
use crate::time::elapsed;

/// Adds one launch to the record, or says what blocks it. Returns the launch to call now: the new one, or one without an
/// answer that is sent again.
pub(super) fn decide(batch: &mut Batch, seen: &Observation, policy: &Policy) -> Option<Launch> {
    places::forgive(batch, seen.now, &policy.patience);
    let may_buy = may_buy(batch, seen, policy);
    let calls = may_buy && seen.in_flight.is_none();
    let mut launches = batch.launches.iter_mut();
    if let Some(launch) = launches.find(|launch| is_young(launch, seen, policy)) {
        if !calls {
            return None;
        }
        // A repeated call is counted before it is made: the first one may still be under way elsewhere.
        if let LaunchState::Unanswered { sends, .. } = &mut launch.state {
            *sends += 1;
        }
        return Some(launch.clone());
    }
    if !may_buy {
        return None;
    }
    let verdict = match &seen.work {
        None => Err((
            BlockedBy::CountsUnknown,
            "the queue length is unknown: launches are blocked until it can be read".to_owned(),
        )),
        Some(work) => missing(batch, work, seen, policy),
    };
    match verdict {
        Ok(launch) => {
            // Launches are unblocked once an instance is active again or none is missing, not by the next attempt, and not
            // while the breaker is open.
            let goes_on = launch.is_none() || batch.instances.iter().any(Instance::is_active);
            match breaker::is_open(batch, policy) {
                true => block(
                    batch,
                    BlockedBy::NeverServed,
                    breaker::sentence(batch, seen),
                    seen,
                ),
                false if goes_on => batch.blocked = None,
                false => {}
            }
            batch.launches.extend(launch.clone());
            launch.filter(|_| calls)
        }
        Err((by, sentence)) => {
            block(batch, by, sentence, seen);
            None
        }
    }
}

fn block(batch: &mut Batch, by: BlockedBy, sentence: String, seen: &Observation) {
    // Waiting for instances to serve and waiting for capacity are two reasons, each with its own start.
    let before = batch.blocked.as_ref();
    let before =
        before.filter(|b| (b.by == BlockedBy::NeverServed) == (by == BlockedBy::NeverServed));
    let since = before.map_or(seen.now, |before| before.since);
    batch.blocked = Some(Blocked {
        by,
        sentence,
        since,
    });
}

/// Whether it has no answer and may be sent again with the same token.
fn is_young(launch: &Launch, seen: &Observation, policy: &Policy) -> bool {
    matches!(launch.state, LaunchState::Unanswered { at, sealed: false, .. }
        if elapsed(at, seen.now) < policy.patience.replay)
}

fn may_buy(batch: &Batch, seen: &Observation, policy: &Policy) -> bool {
    batch.stop.is_none()
        && !batch.is_overdue(seen.now)
        && !leave::is_spent(batch, seen, policy)
        && refusals::are_final(batch, &policy.patience).is_none()
        && breaker::gives_up(batch, policy).is_none()
}

/// The missing launch. Levels are met one by one, the hardest first, since an instance that can render the hardest task can
/// render all. Each level includes all harder ones:
///
/// ```text
/// level 1   tasks for 48 GB                wanted 2, there 1: lacks 1
/// level 2   all tasks, any type            wanted 5, there 3: lacks 2
///           without level 1                wanted 3, there 2: lacks 1
/// ```
///
/// Here one instance with 48 GB is launched; in the next pass both levels have one more, and level 2 launches the other.
/// If none with 48 GB is available, level 2 launches one at once, since its own tasks lack no more.
fn missing(
    batch: &Batch,
    work: &Work,
    seen: &Observation,
    policy: &Policy,
) -> Result<Option<Launch>, (BlockedBy, String)> {
    let (mut harder, mut obstacle) = (Level::default(), None);
    for (need, keep) in levels(batch, work, seen) {
        let level = Level::of(&need, keep, batch, seen, policy);
        let missing = level.missing(&harder, &need, keep);
        harder = level;
        // A pool at its limit waits for instances to leave: that is no reason to report.
        let units = missing.min(policy.max_units.saturating_sub(batch.committed()));
        if units == 0 {
            continue;
        }
        let policy = match need.kinds.is_empty() {
            true => Cow::Borrowed(policy),
            false => policy.of_kinds(&need.kinds),
        };
        let planned = breaker::admits(batch, seen, &policy)
            .and_then(|most| plan(batch, units.min(most), work, seen, &policy));
        match planned {
            Ok(launch) => return Ok(Some(launch)),
            Err(first) => obstacle = obstacle.or(Some(first)),
        }
    }
    obstacle.map_or(Ok(None), Err)
}

/// The levels, the hardest first, each with the number of instances that stay without a task. The last level is the whole
/// queue, and only there instances stay.
fn levels(batch: &Batch, work: &Work, seen: &Observation) -> Vec<(Need, u32)> {
    let (all, hard) = match seen.needs.split_last() {
        Some((all, hard)) => (Some(all), hard),
        None => (None, &[][..]),
    };
    // The first launch has the size that trigger requested.
    let first = if batch.launches.is_empty() {
        batch.units
    } else {
        0
    };
    let all = Need {
        kinds: all.map(|all| all.kinds.clone()).unwrap_or_default(),
        waiting: work.waiting(),
        sized: work.sized.max(first),
        own: all.map_or(u32::MAX, |all| all.own),
    };
    let hard = hard.iter().map(|need| (need.clone(), 0));
    hard.chain([(all, seen.keep)]).collect()
}

/// The counts of one level and all harder ones.
#[derive(Default)]
struct Level {
    /// Instances that it should have.
    wanted: u32,
    /// Instances that can render its tasks and are active, or may appear.
    there: u32,
    /// Waiting tasks.
    waiting: u32,
    /// Tasks that such instances have in hand.
    busy: u32,
}

impl Level {
    fn of(need: &Need, keep: u32, batch: &Batch, seen: &Observation, policy: &Policy) -> Self {
        let is_able = |i: &Instance| need.kinds.is_empty() || need.kinds.contains(&i.place.kind);
        let count = |of: &dyn Fn(&Instance) -> bool| {
            let able = batch.instances.iter().filter(|i| is_able(i) && of(i));
            u32::try_from(able.count()).unwrap_or(u32::MAX)
        };
        let there = count(&Instance::is_active)
            .saturating_add(batch.may_appear(seen.now, policy.patience.unknown_launch));
        // A task on a leaving instance needs no new one: scale-in would drain that at once.
        let busy = count(&|i| seen.is_busy(i));
        let waiting = u32::try_from(need.waiting).unwrap_or(u32::MAX);
        Self {
            wanted: need.sized.min(waiting.saturating_add(busy)).max(keep),
            there,
            waiting,
            busy,
        }
    }

    /// Instances to buy: those that the whole level lacks, but no more than its own tasks lack. Instances for harder tasks that
    /// are not available are not replaced by others. A task that an instance of a harder level has in hand is not the level's
    /// own: scale-in would drain the new instance at once.
    fn missing(&self, harder: &Self, need: &Need, keep: u32) -> u32 {
        let own = Self {
            wanted: self.wanted.saturating_sub(harder.wanted),
            there: self.there.saturating_sub(harder.there),
            waiting: self.waiting.saturating_sub(harder.waiting),
            busy: self.busy.saturating_sub(harder.busy),
        };
        let idle = keep.saturating_sub(self.waiting);
        let tasks = own.waiting.saturating_add(own.busy).max(idle);
        let own_wanted = need.own.max(own.wanted).min(tasks);
        let lacking = self.wanted.saturating_sub(self.there);
        lacking.min(own_wanted.saturating_sub(own.there))
    }
}

fn plan(
    batch: &Batch,
    missing: u32,
    work: &Work,
    seen: &Observation,
    policy: &Policy,
) -> Result<Launch, (BlockedBy, String)> {
    let Some(market) = &seen.market else {
        let sentence = "prices are unknown: launches are blocked until they can be read".to_owned();
        return Err((BlockedBy::PricesUnknown, sentence));
    };
    if policy.template.id.is_empty() {
        let problem = policy.problem.clone();
        let sentence = problem
            .unwrap_or_else(|| "the launch template of the pool is still being checked".into());
        return Err((BlockedBy::Configuration, sentence));
    }
    let units = missing.min(MOST_UNITS_A_LAUNCH);
    let offers = |lifecycle| {
        let found = offers::find(policy, &batch.penalties, market, lifecycle, seen.now)?;
        within_quota(batch, units, found, lifecycle, seen, policy)
    };
    let (lifecycle, (units, offers)) = match offers(Lifecycle::Spot) {
        Ok(offers) => (Lifecycle::Spot, offers),
        Err(blocked) => {
            let waited = batch
                .blocked
                .as_ref()
                .map(|before| elapsed(before.since, seen.now));
            let patience = policy.on_demand_after;
            match patience.filter(|patience| waited.unwrap_or_default() >= *patience) {
                Some(_) => {
                    let offers = offers(Lifecycle::OnDemand).map_err(|_| blocked)?;
                    (Lifecycle::OnDemand, offers)
                }
                None => return Err(blocked),
            }
        }
    };
    let (units, offers) = within_budget(batch, units, offers, work, seen, policy)?;
    Ok(freeze(batch, units, lifecycle, &offers, seen, policy))
}

/// The offers for which the account's quota has room, and the number of units of the largest of them.
fn within_quota(
    batch: &Batch,
    units: u32,
    mut offers: Vec<PlaceOffer>,
    lifecycle: Lifecycle,
    seen: &Observation,
    policy: &Policy,
) -> Result<(u32, Vec<PlaceOffer>), (BlockedBy, String)> {
    let Some(left) = seen.quota.left.get(&lifecycle) else {
        return Ok((units, offers));
    };
    let vcpus = |offer: &PlaceOffer| seen.quota.vcpus_of(&offer.place.kind);
    let largest = |offers: &[PlaceOffer]| offers.iter().filter_map(vcpus).max().unwrap_or_default();
    // The quota that is left excludes what the listing shows; what it does not show yet is counted here.
    let unlisted = batch.instances.iter().filter(|i| {
        let listed = seen.listing.iter().any(|shown| shown.id == i.id);
        !i.is_gone() && i.lifecycle == lifecycle && !listed
    });
    let unlisted = seen.quota.used(unlisted.map(|i| i.place.kind.as_str()));
    let awaited =
        largest(&offers).saturating_mul(batch.may_appear(seen.now, policy.patience.unknown_launch));
    let left = left.saturating_sub(unlisted).saturating_sub(awaited);
    let quota = Quota {
        left: [(lifecycle, left)].into(),
        vcpus: seen.quota.vcpus.clone(),
    };
    offers.retain(|offer| quota.admits(lifecycle, &offer.place.kind));
    if offers.is_empty() {
        let (name, code) = (lifecycle.as_str(), lifecycle.quota_code());
        let sentence = format!(
            "the account's {name} quota {code} leaves {left} vCPUs, fewer than any instance type of this pool has: ask AWS for more vCPUs"
        );
        return Err((BlockedBy::Quota, sentence));
    }
    let most = left.checked_div(largest(&offers)).unwrap_or(u32::MAX);
    Ok((units.min(most), offers))
}

/// The offers that the budgets pay for, and the number of units of the most expensive of them.
fn within_budget(
    batch: &Batch,
    units: u32,
    mut offers: Vec<PlaceOffer>,
    work: &Work,
    seen: &Observation,
    policy: &Policy,
) -> Result<(u32, Vec<PlaceOffer>), (BlockedBy, String)> {
    let committed = batch.committed();
    let near = places::budgets_near_the_limit(policy, &batch.penalties, seen.now);
    let budgets = &near.filter(|_| committed > 0).unwrap_or(policy.budget);
    let spend = match seen.spend_with(batch) {
        Some(spend) => spend,
        None if budgets.count_all_pools() => {
            let sentence =
                "the spend of all pools cannot be read: launches are blocked until it can";
            return Err((BlockedBy::Budget, sentence.to_owned()));
        }
        None => Spend::default(),
    };
    let seconds = std::time::Duration::from_secs;
    let purchase = Purchase {
        budgets,
        spend,
        batch: batch.cost_at(seen.cloud_now),
        batch_rate: spend::rate([batch]),
        committed,
        work: seconds(work.seconds),
        task: seconds(work.seconds / work.runnable.max(1)),
        target: policy.target,
    };
    let cheapest = offers.iter().map(|offer| offer.price).min();
    let cheapest = cheapest.unwrap_or_default();
    if let (0, Some(limit)) = purchase.units(1, cheapest) {
        let (budget, needs) = (limit.as_str(), purchase.least(limit, cheapest));
        let sentence = format!("{budget} does not pay for one more instance, which needs {needs}");
        return Err((BlockedBy::Budget, sentence));
    }
    offers.retain(|offer| purchase.units(1, offer.price).0 > 0);
    let dearest = offers.iter().map(|offer| offer.price).max();
    let (units, _) = purchase.units(units, dearest.unwrap_or_default());
    Ok((units, offers))
}

fn freeze(
    batch: &Batch,
    units: u32,
    lifecycle: Lifecycle,
    offers: &[PlaceOffer],
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
        template: policy.template_for(lifecycle),
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
        state: LaunchState::Unanswered {
            at: seen.now,
            empty_listings: 0,
            sealed: false,
            sends: 1,
        },
    }
}
