//! The capacity pools in which instances may be bought now, with prices. Fleet launches in them, trigger decides by them, and
//! a quote names no other type.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::cloud::{ErrorClass, Lifecycle, Place};
use super::observation::{Market, Quota};
use super::places;
use super::policy::{Bid, Kind, Policy};
use crate::batch::{BlockedBy, Penalty};
use crate::money::Usd;
use crate::trigger;

/// What a strict bid adds to the lowest price: enough for the market to move a little, and no more.
const STRICT_PERCENT: u32 = 110;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceOffer {
    pub place: Place,
    pub subnet: String,
    pub price: Usd,
    /// The most that its type may cost.
    pub cap: Usd,
    /// What is bid for it on Spot; on demand its cap.
    pub max_price: Option<Usd>,
}

/// The capacity pools that may be asked now, or why there is none.
pub fn find(
    policy: &Policy,
    penalties: &[Penalty],
    market: &Market,
    lifecycle: Lifecycle,
    now: Timestamp,
) -> Result<Vec<PlaceOffer>, (BlockedBy, String)> {
    // The account's penalty goes before the capacity pool's.
    let held_back = |place: &Place| {
        let hits = |p: &&Penalty| {
            p.lifecycle == lifecycle && p.until > now && p.place.as_ref().is_none_or(|p| p == place)
        };
        let penalties = penalties.iter().filter(hits);
        penalties.min_by_key(|p| (p.place.is_some(), p.class == ErrorClass::Doubtful))
    };
    let near = places::budgets_near_the_limit(policy, penalties, now);
    let near = near.and_then(|budgets| budgets.per_hour);
    let mut too_near = false;
    let (mut offers, mut doubtful) = (Vec::new(), Vec::new());
    let (mut penalty, mut nearest) = (None::<&Penalty>, None::<(Usd, Usd, Place)>);
    for offer in priced(policy, market, lifecycle) {
        if offer.price > offer.cap {
            let gap = offer.price - offer.cap;
            if nearest.as_ref().is_none_or(|(least, ..)| gap < *least) {
                nearest = Some((gap, offer.price, offer.place));
            }
            continue;
        }
        let is_near = near.is_some_and(|most| offer.price > most);
        match held_back(&offer.place) {
            None if is_near => too_near = true,
            None => offers.push(offer),
            Some(hit) if hit.class == ErrorClass::Doubtful => doubtful.push(offer),
            Some(hit) if penalty.is_none_or(|first| hit.until < first.until) => {
                penalty = Some(hit);
            }
            Some(_) => {}
        }
    }
    if offers.is_empty() {
        offers = doubtful;
    }
    if offers.is_empty()
        && let Some(most) = near.filter(|_| too_near)
    {
        let sentence = format!(
            "prices have been above budgets.per_hour: for a while no machine is bought that costs more than {most} an hour; raise budgets.per_hour or wait"
        );
        return Err((BlockedBy::Budget, sentence));
    }
    if offers.is_empty() {
        return Err(no_offer(penalty, nearest, policy));
    }
    if policy.bid == Bid::Strict && lifecycle == Lifecycle::Spot {
        let lowest = offers.iter().map(|offer| offer.price).min();
        let bid = lowest.unwrap_or_default().percent(STRICT_PERCENT);
        offers.retain(|offer| offer.price <= bid);
        for offer in &mut offers {
            offer.max_price = offer.max_price.map(|cap| cap.min(bid));
        }
    }
    Ok(offers)
}

/// Each type of the pool in each of its zones, if it has a price there, even above the cap.
fn priced(policy: &Policy, market: &Market, lifecycle: Lifecycle) -> Vec<PlaceOffer> {
    let cap_of = |kind: &Kind| match lifecycle {
        Lifecycle::Spot => Some(kind.cap),
        Lifecycle::OnDemand => kind.on_demand_cap,
    };
    let places = policy
        .kinds
        .iter()
        .flat_map(|kind| policy.subnets.iter().map(move |subnet| (kind, subnet)));
    let offer = |(kind, subnet): (&Kind, &super::policy::Subnet)| {
        let place = Place {
            kind: kind.name.clone(),
            zone: subnet.zone.clone(),
        };
        let cap = cap_of(kind)?;
        Some(PlaceOffer {
            price: market.price(&place, lifecycle)?,
            place,
            subnet: subnet.id.clone(),
            cap,
            max_price: Some(cap),
        })
    };
    places.filter_map(offer).collect()
}

fn no_offer(
    penalty: Option<&Penalty>,
    nearest: Option<(Usd, Usd, Place)>,
    policy: &Policy,
) -> (BlockedBy, String) {
    match (penalty, nearest) {
        (Some(penalty), _) => {
            let by = match penalty.class {
                ErrorClass::Quota => BlockedBy::Quota,
                ErrorClass::Configuration => BlockedBy::Configuration,
                _ if penalty.code == places::OVER_HOUR => BlockedBy::Budget,
                _ => BlockedBy::NoCapacity,
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
                "all Spot prices are above their caps: the nearest is {place} at {price}/h, {gap} above; raise the cap of {} or wait",
                place.kind
            );
            (BlockedBy::NoPlaceUnderCap, sentence)
        }
        (None, None) => match &policy.problem {
            Some(problem) => (BlockedBy::Configuration, problem.clone()),
            None => {
                let sentence =
                    "EC2 has no Spot price for any of the pool's types and zones: check both";
                (BlockedBy::NoPlaceUnderCap, sentence.to_owned())
            }
        },
    }
}

/// The Spot offers as trigger shows them: only those for which the quota has room, if there are any. If On-Demand follows, a
/// batch has to begin although no capacity pool may be asked, or all are above their caps: it waits for On-Demand.
pub fn summary(
    policy: &Policy,
    penalties: &[Penalty],
    market: &Market,
    quota: &Quota,
    as_of: Timestamp,
    now: Timestamp,
) -> trigger::PriceSummary {
    let find =
        |penalties| find(policy, penalties, market, Lifecycle::Spot, now).unwrap_or_default();
    let mut usable = find(penalties);
    if usable.is_empty() && policy.on_demand_after.is_some() {
        usable = find(&[]);
    }
    if usable.is_empty() && policy.on_demand_after.is_some() {
        usable = priced(policy, market, Lifecycle::Spot);
    }
    let admitted = |offer: &PlaceOffer| quota.admits(Lifecycle::Spot, &offer.place.kind);
    if usable.iter().any(admitted) {
        usable.retain(admitted);
    }
    let quote = |offer: &PlaceOffer| trigger::CapacityPoolPrice {
        pool: offer.place.to_string(),
        price: offer.price,
        cap: offer.cap,
    };
    let cheapest = |offers: &[PlaceOffer]| offers.iter().min_by_key(|offer| offer.price).map(quote);
    let count = u32::try_from(usable.len()).unwrap_or(u32::MAX);
    let total: Usd = usable.iter().map(|offer| offer.price).sum();
    trigger::PriceSummary {
        as_of,
        usable: cheapest(&usable),
        cheapest: cheapest(&priced(policy, market, Lifecycle::Spot)),
        usable_pools: count,
        // A fleet spreads over all capacity pools that it may use.
        expected: (count > 0).then(|| Usd::from_micros(total.micros() / i64::from(count))),
    }
}

/// Each instance type that may be bought on Spot now, with the price in its cheapest zone.
pub fn by_kind(
    policy: &Policy,
    penalties: &[Penalty],
    market: &Market,
    now: Timestamp,
) -> BTreeMap<String, Usd> {
    let mut cheapest = BTreeMap::new();
    let offers = find(policy, penalties, market, Lifecycle::Spot, now);
    for offer in offers.unwrap_or_default() {
        let price = cheapest.entry(offer.place.kind).or_insert(offer.price);
        *price = offer.price.min(*price);
    }
    cheapest
}
