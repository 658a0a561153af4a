//! The market as it was when it was last asked: Spot prices, the account's quota, what types are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::{Context, ambient};
use spotreel_domain::batch::{Batch, PoolName};
use spotreel_domain::fleet::cloud::{ErrorClass, Lifecycle, Place};
use spotreel_domain::pool::{Cloud, PoolConfig, Pools};
use spotreel_domain::trigger::{Market, Prices, Quote};
use spotreel_domain::{Usd, fleet::policy::Kind};
use spotreel_ec2::{CallError, Ec2};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::config::PricesConfig;

pub struct Feed {
    ec2: Ec2,
    pools: Arc<Pools>,
    config: PricesConfig,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    as_of: Option<Timestamp>,
    spot: BTreeMap<Place, Usd>,
    /// vCPUs on Spot that the account may have.
    quota: Option<u32>,
    vcpus: BTreeMap<String, u32>,
    /// Since when the cloud has not answered, and what came instead.
    failing: Option<(Timestamp, String)>,
}

impl Feed {
    pub fn new(ec2: Ec2, pools: Arc<Pools>, config: PricesConfig, now: Timestamp) -> Self {
        let known = Known {
            failing: Some((now, "they have not been asked for yet".into())),
            ..Known::default()
        };
        Self {
            ec2,
            pools,
            config,
            known: Mutex::new(known),
        }
    }

    /// Asks again and again until told to stop; wakes whoever decides.
    pub async fn run(&self, wake: &Notify, ctx: &Context) {
        let mut tick = tokio::time::interval(self.config.every);
        // A cloud that was slow is not asked the more for it.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut warned, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        while ctx
            .stopping
            .run_until_cancelled(tick.tick())
            .await
            .is_some()
        {
            self.refresh().await;
            self.warn_of_caps(&mut warned);
            self.warn_of_zones(&mut unknown);
            wake.notify_one();
        }
    }

    async fn refresh(&self) {
        let now = ambient::now();
        let asked = self.ask(now).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok((spot, quota, vcpus)) => {
                if known.failing.take().is_some() {
                    tracing::info!(places = spot.len(), ?quota, "prices are known");
                }
                // A place that is missing from one answer keeps its price.
                known.spot.extend(spot);
                known.vcpus.extend(vcpus);
                known.quota = quota;
                known.as_of = Some(now);
            }
            Err(error) => {
                let reason = error.to_string();
                if known
                    .failing
                    .as_ref()
                    .is_none_or(|(_, last)| *last != reason)
                {
                    tracing::warn!(reason, "prices cannot be asked for");
                }
                let since = known.failing.take().map_or(now, |(since, _)| since);
                known.failing = Some((since, reason));
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "read in the next lines only")]
    async fn ask(
        &self,
        now: Timestamp,
    ) -> Result<(BTreeMap<Place, Usd>, Option<u32>, BTreeMap<String, u32>), CallError> {
        let kinds = self.pools.kinds();
        let (changes, quota, described) = futures::try_join!(
            self.ec2.spot_prices(&kinds, Some(now)),
            self.ec2.quota(Lifecycle::Spot),
            self.ec2.kinds(&kinds)
        )?;
        // Oldest first: the newest change of a place stays.
        let spot = changes
            .into_iter()
            .map(|change| (change.place, change.price));
        let vcpus = described.into_iter().map(|kind| (kind.kind, kind.vcpus));
        Ok((spot.collect(), quota, vcpus.collect()))
    }

    fn warn_of_caps(&self, warned: &mut BTreeSet<PoolName>) {
        for (name, pool) in &self.pools.pool {
            let Prices::Known(market) = self.of(pool, None, ambient::now()) else {
                continue;
            };
            if market.usable.is_some() || pool.cloud == Cloud::None {
                warned.remove(name);
            } else if warned.insert(name.clone()) {
                match market.cheapest {
                    Some(Quote { pool, price, cap }) => tracing::warn!(
                        pool = %name, cheapest = pool, %price, %cap,
                        "no instance type is under its cap: nothing can be launched until the market falls or caps rise"
                    ),
                    None => tracing::warn!(
                        pool = %name,
                        "no instance type of the pool has a price in its zones: check kinds and subnets"
                    ),
                }
            }
        }
    }

    /// A zone in which no type has a price is misspelt or does not offer them: the others are used all the same.
    fn warn_of_zones(&self, warned: &mut BTreeSet<String>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_of.is_none() {
            return;
        }
        for (name, pool) in &self.pools.pool {
            let priced: BTreeSet<_> = quotes(pool, &known.spot)
                .into_iter()
                .map(|(place, _)| place.zone)
                .collect();
            let bought = pool.subnets.iter().filter(|_| pool.cloud == Cloud::Aws);
            for subnet in bought.filter(|subnet| !priced.contains(&subnet.zone)) {
                if warned.insert(subnet.id.clone()) {
                    tracing::warn!(pool = %name, subnet = subnet.id, zone = subnet.zone,
                        "no instance type of the pool has a price in this zone: check kinds and subnets");
                }
            }
        }
    }

    /// What the pool would pay. Places that gave its newest batch nothing are left out until their penalty ends.
    pub fn of(&self, pool: &PoolConfig, newest: Option<&Batch>, now: Timestamp) -> Prices {
        if pool.cloud == Cloud::None {
            return Prices::NoCloud;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known
            .as_of
            .filter(|at| age(*at, now) <= self.config.good_for);
        let Some(as_of) = fresh else {
            let (since, reason) = known.failing.clone().unwrap_or((
                known.as_of.unwrap_or(now),
                "the last answer is too old".into(),
            ));
            return Prices::Unknown { since, reason };
        };
        let quotes = quotes(pool, &known.spot);
        let usable: Vec<_> = quotes
            .iter()
            .filter(|(place, quote)| {
                // Where on demand follows, the batch that waits for Spot has to begin.
                let may_wait = pool.on_demand_after.is_some();
                quote.price <= quote.cap && (may_wait || !penalised(newest, place, now))
            })
            .map(|(_, quote)| quote)
            .collect();
        let cheaper = |a: &&Quote, b: &&Quote| a.price.cmp(&b.price);
        let count = u32::try_from(usable.len()).unwrap_or(u32::MAX);
        let total: Usd = usable.iter().map(|quote| quote.price).sum();
        Prices::Known(Market {
            as_of,
            usable_pools: count,
            // A fleet spreads over what it may use.
            expected: (count > 0).then(|| Usd::from_micros(total.micros() / i64::from(count))),
            usable: usable.iter().copied().min_by(cheaper).cloned(),
            cheapest: quotes
                .iter()
                .map(|(_, quote)| quote)
                .min_by(cheaper)
                .cloned(),
        })
    }

    /// Of each type of the pool the price in its cheapest zone; nothing that is too old to be said.
    pub fn cheapest(&self, pool: &PoolConfig, now: Timestamp) -> BTreeMap<String, Usd> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cheapest = BTreeMap::new();
        if known
            .as_of
            .is_none_or(|at| age(at, now) > self.config.good_for)
        {
            return cheapest;
        }
        for (place, quote) in quotes(pool, &known.spot) {
            let price = cheapest.entry(place.kind).or_insert(quote.price);
            *price = quote.price.min(*price);
        }
        cheapest
    }

    /// Units that the quota still admits, where it is known. `running`: the batches that hold machines now.
    pub fn quota_units<'a>(
        &self,
        pool: &PoolConfig,
        running: impl IntoIterator<Item = &'a Batch>,
    ) -> Option<u32> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = known.quota.filter(|_| pool.cloud == Cloud::Aws)?;
        let of = |kind: &str| known.vcpus.get(kind).copied();
        let used: u32 = running
            .into_iter()
            .flat_map(|batch| &batch.instances)
            .filter(|instance| !instance.is_gone() && instance.lifecycle == Lifecycle::Spot)
            .filter_map(|instance| of(&instance.place.kind))
            .sum();
        let smallest = pool.kinds.iter().filter_map(|kind| of(&kind.name)).min()?;
        Some(quota.saturating_sub(used) / smallest.max(1))
    }
}

fn quotes(pool: &PoolConfig, spot: &BTreeMap<Place, Usd>) -> Vec<(Place, Quote)> {
    let zones: BTreeSet<&str> = pool.subnets.iter().map(|s| s.zone.as_str()).collect();
    let mut quotes = Vec::new();
    for kind in pool.kinds.iter().map(Kind::from) {
        for zone in &zones {
            let place = Place {
                kind: kind.name.clone(),
                zone: (*zone).to_owned(),
            };
            if let Some(price) = spot.get(&place) {
                let quote = Quote {
                    pool: place.to_string(),
                    price: *price,
                    cap: kind.cap,
                };
                quotes.push((place, quote));
            }
        }
    }
    quotes
}

fn penalised(newest: Option<&Batch>, place: &Place, now: Timestamp) -> bool {
    newest.is_some_and(|batch| {
        batch.penalties.iter().any(|penalty| {
            penalty.place.as_ref() == Some(place)
                && penalty.lifecycle == Lifecycle::Spot
                // Fleet prefers others to it, and takes it where there are none.
                && penalty.class != ErrorClass::Doubtful
                && penalty.until > now
        })
    })
}

fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}
