//! The cloud as fleet sees it: one listing for all who ask at the same time, and prices, quotas and templates that are
//! kept warm, so that no launch waits for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::{Lifecycle, Place, Seen};
use spotreel_domain::fleet::observation::Market;
use spotreel_domain::fleet::policy::Policy;
use spotreel_ec2::{CallError, Ec2, Listing};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Findings};
use crate::conditions::Conditions;
use crate::config::PricesConfig;
use crate::metrics;

/// A question that failed is asked again after so long.
const RETRY: Duration = Duration::from_secs(5);

pub struct Cloud {
    pub ec2: Ec2,
    env: String,
    prices: PricesConfig,
    conditions: Arc<Conditions>,
    /// Held while the cloud is listed: who comes meanwhile waits for the next listing, and shares it.
    listing: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    listed: Option<Listed>,
    quotes: Option<(Instant, BTreeMap<Place, spotreel_domain::Usd>)>,
    /// vCPUs.
    quotas: BTreeMap<Lifecycle, u32>,
    findings: Findings,
    /// Why the pools could not be held against the cloud when that was last tried.
    unchecked: Option<String>,
}

#[derive(Clone)]
pub struct Listed {
    began: Instant,
    at: Instant,
    listing: Arc<Listing>,
}

impl Listed {
    pub fn instances(&self) -> &[Seen] {
        &self.listing.instances
    }

    /// The cloud's clock at the listing.
    pub fn cloud_now(&self) -> Timestamp {
        self.listing.cloud_now
    }

    /// The cloud's clock by now, as far as ours can tell.
    pub fn cloud_clock(&self) -> Timestamp {
        let now = self.listing.cloud_now.saturating_add(self.at.elapsed());
        now.unwrap_or(self.listing.cloud_now)
    }

    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

impl Cloud {
    pub fn new(ec2: Ec2, env: &str, prices: PricesConfig, conditions: Arc<Conditions>) -> Self {
        conditions.expect(check::LISTING);
        conditions.expect(check::PRICES);
        conditions.expect(check::POOLS);
        Self {
            ec2,
            env: env.to_owned(),
            prices,
            conditions,
            listing: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// A listing that was begun after this call was made.
    pub async fn list(&self) -> Result<Listed, CallError> {
        let asked = Instant::now();
        let _turn = self.listing.lock().await;
        if let Some(listed) = self.last_listed().filter(|listed| listed.began >= asked) {
            return Ok(listed);
        }
        let began = Instant::now();
        let listing = self.ec2.list(&self.env).await;
        let said = listing.as_ref().map(drop).map_err(ToString::to_string);
        self.conditions.set(check::LISTING, said);
        let listed = Listed {
            began,
            at: Instant::now(),
            listing: Arc::new(listing?),
        };
        self.lock().listed = Some(listed.clone());
        Ok(listed)
    }

    pub fn last_listed(&self) -> Option<Listed> {
        self.lock().listed.clone()
    }

    /// Prices, if they are young enough to be relied on.
    pub fn market(&self) -> Option<Market> {
        let known = self.lock();
        let (_, spot) = known
            .quotes
            .as_ref()
            .filter(|(at, _)| at.elapsed() <= self.prices.good_for)?;
        Some(Market {
            spot: spot.clone(),
            on_demand: self.prices.on_demand.clone(),
        })
    }

    /// The pool's policy, in the words of what the cloud has.
    pub fn fitted(&self, policy: &Policy) -> Policy {
        let known = self.lock();
        let mut fitted = known.findings.fit(policy);
        fitted.problem = fitted.problem.or_else(|| known.unchecked.clone());
        fitted
    }

    /// Instances of the pool that the account's quotas leave beside what the other pools run.
    pub fn quota(&self, policy: &Policy, listing: &[Seen]) -> BTreeMap<Lifecycle, u32> {
        let known = self.lock();
        let vcpus = |kind: &str| known.findings.vcpus.get(kind).copied();
        // The smallest type: what does not fit beside it the cloud refuses by itself, place by place.
        let kinds = policy.kinds.iter();
        let Some(unit) = kinds
            .filter_map(|k| vcpus(&k.name))
            .min()
            .filter(|v| *v > 0)
        else {
            return BTreeMap::new();
        };
        let pool = policy.pool.as_str();
        let others = |lifecycle: Lifecycle| -> u32 {
            let others = listing.iter().filter(|seen| {
                seen.is_alive()
                    && seen.lifecycle == lifecycle
                    && seen.tag(spotreel_domain::fleet::cloud::tag::POOL) != Some(pool)
            });
            others.filter_map(|seen| vcpus(&seen.kind)).sum()
        };
        let quotas = known.quotas.iter();
        quotas
            .map(|(lifecycle, limit)| {
                let left = limit.saturating_sub(others(*lifecycle));
                (*lifecycle, left / unit)
            })
            .collect()
    }

    /// Keeps prices warm until told to stop.
    pub async fn keep_prices(self: Arc<Self>, kinds: Vec<String>, stopping: CancellationToken) {
        let mut failing = Duration::ZERO;
        loop {
            let pause = match self.ec2.spot_prices(&kinds, Some(ambient::now())).await {
                Ok(changes) => {
                    // In order of time: the last of a place is in force.
                    let spot = changes
                        .into_iter()
                        .map(|change| (change.place, change.price));
                    self.lock().quotes = Some((Instant::now(), spot.collect()));
                    self.conditions.set(check::PRICES, Ok(()));
                    failing = Duration::ZERO;
                    self.prices.every
                }
                Err(error) => {
                    if self.market().is_none() {
                        self.conditions.set(check::PRICES, Err(error.to_string()));
                    }
                    let most = match error.retryable() {
                        true => RETRY.min(self.prices.every),
                        false => self.prices.check_every,
                    };
                    failing = rarer(failing, most);
                    failing
                }
            };
            self.measure();
            if rest(pause, &stopping).await.is_none() {
                return;
            }
        }
    }

    /// Holds the pools against what the cloud has, again and again: what is wrong may be mended.
    pub async fn keep_checked(
        self: Arc<Self>,
        policies: BTreeMap<PoolName, (Policy, check::TemplateName)>,
        stopping: CancellationToken,
    ) {
        let mut failing = Duration::ZERO;
        loop {
            let (findings, spot, on_demand) = tokio::join!(
                check::look(&self.ec2, &policies),
                self.ec2.quota(Lifecycle::Spot),
                self.ec2.quota(Lifecycle::OnDemand)
            );
            for (lifecycle, quota) in [(Lifecycle::Spot, spot), (Lifecycle::OnDemand, on_demand)] {
                match quota {
                    Ok(Some(vcpus)) => drop(self.lock().quotas.insert(lifecycle, vcpus)),
                    Ok(None) => drop(self.lock().quotas.remove(&lifecycle)),
                    Err(error) => tracing::debug!(%error, "the quota is not known now"),
                }
            }
            let most = self.prices.check_every;
            let pause = match findings {
                Ok(findings) => {
                    let quotas = self.lock().quotas.clone();
                    check::report(
                        &findings,
                        &policies,
                        &quotas,
                        self.market().as_ref(),
                        &self.conditions,
                    );
                    self.conditions.set(check::POOLS, Ok(()));
                    let whole = findings.is_clean() && self.market().is_some();
                    let mut known = self.lock();
                    known.findings = findings;
                    known.unchecked = None;
                    failing = match whole {
                        true => Duration::ZERO,
                        false => rarer(failing, most),
                    };
                    if whole { most } else { failing }
                }
                Err(error) => {
                    let said = error.to_string();
                    self.conditions.set(check::POOLS, Err(said.clone()));
                    self.lock().unchecked = Some(said);
                    let most = if error.retryable() {
                        RETRY.min(most)
                    } else {
                        most
                    };
                    failing = rarer(failing, most);
                    failing
                }
            };
            if rest(pause, &stopping).await.is_none() {
                return;
            }
        }
    }

    fn measure(&self) {
        let known = self.lock();
        metrics::ages(
            known.listed.as_ref().map(Listed::age),
            known.quotes.as_ref().map(|(at, _)| at.elapsed()),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after one more failure: what passes by itself is tried again soon (`most` is short), what only a person
/// can mend less and less often.
fn rarer(before: Duration, most: Duration) -> Duration {
    (before * 2).max(RETRY).min(most)
}

async fn rest(pause: Duration, stopping: &CancellationToken) -> Option<()> {
    stopping
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_person_can_mend_is_looked_at_less_and_less_often() {
        let most = Duration::from_secs(600);
        let mut waits = vec![rarer(Duration::ZERO, most)];
        for _ in 0..8 {
            waits.push(rarer(waits[waits.len() - 1], most));
        }
        let seconds: Vec<_> = waits.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(rarer(most, RETRY), RETRY, "once it passes by itself");
    }
}
