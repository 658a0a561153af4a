//! Current price of each pool, from the last lookup of Spot prices.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spotreel_bootstrap::{Context, ambient};
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, Penalty, PoolName};
use spotreel_domain::fleet::cloud::Lifecycle;
use spotreel_domain::fleet::observation::Quota;
use spotreel_domain::fleet::{Policy, offers};
use spotreel_domain::pool::{Cloud, PoolTemplate, Pools};
use spotreel_domain::trigger::{CapacityPoolPrice, Prices};
use spotreel_ec2::Ec2;
use spotreel_pool::market::{MarketFeed, MarketFeedConfig};
use tokio::sync::Notify;

use crate::config::PricesConfig;

pub struct PoolPrices {
    feed: MarketFeed,
    /// Of the pools that buy machines.
    policies: BTreeMap<PoolName, Policy>,
}

impl PoolPrices {
    pub fn new(ec2: Ec2, pools: &Arc<Pools>, config: &PricesConfig) -> Self {
        let feed = MarketFeedConfig {
            every: config.every,
            good_for: config.good_for,
            hints_every: config.every,
            on_demand: BTreeMap::new(),
        };
        let bought = pools.pool.iter().filter(|(_, p)| p.cloud == Cloud::Aws);
        let policies = bought.map(|(name, pool)| {
            // The template is fleet's business.
            let template = PoolTemplate {
                id: String::new(),
                version: 0,
                on_demand_version: None,
            };
            (name.clone(), pool.policy(name, "", "", template))
        });
        Self {
            feed: MarketFeed::new(ec2, pools.kinds(), feed),
            policies: policies.collect(),
        }
    }

    /// Asks again and again until told to stop; wakes whoever decides.
    pub async fn run(&self, wake: &Notify, ctx: &Context) {
        let (mut warned, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        let prices = self.feed.keep_prices(&ctx.stopping, |_| {
            self.warn_of_caps(&mut warned);
            self.warn_of_zones(&mut unknown);
            wake.notify_one();
        });
        let hints = self.feed.keep_hints(&ctx.stopping, || wake.notify_one());
        tokio::join!(prices, hints);
    }

    /// What the pool would pay. Places that gave its newest batch nothing are left out until their penalty ends.
    /// `kinds`: only these types.
    pub fn of(
        &self,
        pool: &PoolName,
        kinds: Option<&BTreeSet<String>>,
        newest: Option<&Batch>,
        quota: &Quota,
    ) -> Prices {
        let Some(policy) = self.policies.get(pool) else {
            return Prices::NoCloud;
        };
        let policy = kinds.map_or(Cow::Borrowed(policy), |kinds| policy.of_kinds(kinds));
        match self.feed.market() {
            Ok((as_of, market)) => {
                let (penalties, now) = (carried(newest), ambient::now());
                Prices::Known(offers::summary(
                    &policy, &penalties, &market, quota, as_of, now,
                ))
            }
            Err(unknown) => Prices::Unknown {
                since: unknown.since,
                reason: unknown.reason,
            },
        }
    }

    /// Of each type of the pool that may be bought now, the price in its cheapest zone. None: prices are not known.
    pub fn by_kind(
        &self,
        pool: &PoolName,
        newest: Option<&Batch>,
    ) -> Option<BTreeMap<String, Usd>> {
        let (_, market) = self.feed.market().ok()?;
        let policy = self.policies.get(pool)?;
        let (penalties, now) = (carried(newest), ambient::now());
        Some(offers::by_kind(policy, &penalties, &market, now))
    }

    /// What the account's quota leaves beside these batches, which hold machines now.
    pub fn quota<'a>(&self, running: impl IntoIterator<Item = &'a Batch>) -> Quota {
        let instances = running.into_iter().flat_map(|batch| &batch.instances);
        let alive = instances.filter(|instance| !instance.is_gone());
        self.feed
            .quota(alive.map(|instance| (instance.lifecycle, instance.place.kind.as_str())))
    }

    /// Units that the quota still admits, where it is known.
    pub fn quota_units(
        &self,
        pool: &PoolName,
        able: Option<&BTreeSet<String>>,
        newest: Option<&Batch>,
        quota: &Quota,
    ) -> Option<u32> {
        // Where on demand follows, a batch has to begin although the quota has no room.
        if self.policies.get(pool)?.on_demand_after.is_some() {
            return None;
        }
        // While no type may be bought, it is not the quota that stands in the way.
        let mut kinds = self.by_kind(pool, newest)?;
        kinds.retain(|kind, _| able.is_none_or(|able| able.contains(kind)));
        quota.units(Lifecycle::Spot, kinds.keys().map(String::as_str))
    }

    fn warn_of_caps(&self, warned: &mut BTreeSet<PoolName>) {
        for name in self.policies.keys() {
            let Prices::Known(market) = self.of(name, None, None, &Quota::default()) else {
                continue;
            };
            if market.usable.is_some() {
                warned.remove(name);
            } else if warned.insert(name.clone()) {
                match market.cheapest {
                    Some(CapacityPoolPrice { pool, price, cap }) => tracing::warn!(
                        pool = %name, cheapest = pool, %price, %cap,
                        "all Spot prices are above the price caps: launches are blocked until prices fall or caps are raised"
                    ),
                    None => tracing::warn!(
                        pool = %name,
                        "no Spot price for any instance type of the pool in its zones: check kinds and subnets"
                    ),
                }
            }
        }
    }

    /// A zone in which no type has a price is misspelt or does not offer them: the others are used all the same.
    fn warn_of_zones(&self, warned: &mut BTreeSet<String>) {
        let Ok((_, market)) = self.feed.market() else {
            return;
        };
        for (name, policy) in &self.policies {
            let priced = |zone: &str| {
                let mut places = market.spot.keys();
                places.any(|place| place.zone == zone && policy.kind(&place.kind).is_some())
            };
            for subnet in policy.subnets.iter().filter(|s| !priced(&s.zone)) {
                if warned.insert(subnet.id.clone()) {
                    tracing::warn!(pool = %name, subnet = subnet.id, zone = subnet.zone,
                        "no Spot price for any instance type of the pool in this zone: check kinds and subnets");
                }
            }
        }
    }
}

/// What the pool's next batch would know of its places.
fn carried(newest: Option<&Batch>) -> Vec<Penalty> {
    newest.map(Batch::carried_penalties).unwrap_or_default()
}
