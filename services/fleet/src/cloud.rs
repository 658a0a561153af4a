//! The cloud as fleet sees it: one listing for all who ask at the same time, and prices, quotas and templates that are
//! kept warm, so that no launch waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::SeenInstance;
use spotreel_domain::fleet::observation::{Market, Quota};
use spotreel_domain::fleet::policy::Policy;
use spotreel_ec2::{CallError, Ec2, Listing};
use spotreel_pool::market::{MarketFeed, MarketFeedConfig, rarer, rest};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{self, CheckFindings};
use crate::conditions::Conditions;
use crate::config::PricesConfig;
use crate::metrics;

/// Delay before a failed check is repeated.
const RETRY: Duration = Duration::from_secs(5);
/// A month of 30 days, as AWS reckons its examples of EBS.
const HOURS_OF_A_MONTH: u32 = 30 * 24;

pub struct Cloud {
    pub ec2: Ec2,
    env: String,
    feed: MarketFeed,
    /// Quotas were asked for.
    hinted: Notify,
    /// How often the pools are held against the cloud.
    check_every: Duration,
    /// What a month of a GB of a volume costs, and an hour of a public address.
    volume_gb_month: Usd,
    public_address: Usd,
    conditions: Arc<Conditions>,
    /// Notified where a launch was refused for what a check may find.
    recheck: Notify,
    /// Held while the cloud is listed: who comes meanwhile waits for the next listing, and shares it.
    listing: tokio::sync::Mutex<()>,
    known: Mutex<LastKnown>,
}

#[derive(Default)]
struct LastKnown {
    listed: Option<SharedListing>,
    findings: CheckFindings,
    /// Why the pools could not be held against the cloud when that was last tried.
    unchecked: Option<String>,
}

#[derive(Clone)]
pub struct SharedListing {
    began: Instant,
    at: Instant,
    listing: Arc<Listing>,
}

impl SharedListing {
    pub fn instances(&self) -> &[SeenInstance] {
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
    pub fn new(
        ec2: Ec2,
        env: &str,
        kinds: Vec<String>,
        prices: PricesConfig,
        conditions: Arc<Conditions>,
    ) -> Self {
        conditions.expect(check::LISTING);
        conditions.expect(check::PRICES);
        conditions.expect(check::POOLS);
        let feed = MarketFeedConfig {
            every: prices.every,
            good_for: prices.good_for,
            hints_every: prices.check_every,
            on_demand: prices.on_demand,
        };
        Self {
            feed: MarketFeed::new(ec2.clone(), kinds, feed),
            hinted: Notify::new(),
            ec2,
            env: env.to_owned(),
            check_every: prices.check_every,
            volume_gb_month: prices.volume_gb_month,
            public_address: prices.public_address,
            conditions,
            recheck: Notify::new(),
            listing: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// A listing that was begun after this call was made.
    pub async fn list(&self) -> Result<SharedListing, CallError> {
        let asked = Instant::now();
        let _turn = self.listing.lock().await;
        if let Some(listed) = self.last_listed().filter(|listed| listed.began >= asked) {
            return Ok(listed);
        }
        let began = Instant::now();
        let listing = self.ec2.list(&self.env).await;
        let said = listing.as_ref().map(drop).map_err(ToString::to_string);
        self.conditions.set(check::LISTING, said);
        let listed = SharedListing {
            began,
            at: Instant::now(),
            listing: Arc::new(listing?),
        };
        self.lock().listed = Some(listed.clone());
        Ok(listed)
    }

    pub fn last_listed(&self) -> Option<SharedListing> {
        self.lock().listed.clone()
    }

    /// Prices, if they are young enough to be relied on.
    pub fn market(&self) -> Option<Market> {
        self.feed.market().ok().map(|(_, market)| market)
    }

    /// The same for machines of a pool, with what is billed beside them.
    pub fn market_of(&self, policy: &Policy) -> Option<Market> {
        let market = self.market()?;
        let gib = self.lock().findings.volume_gib(&policy.template);
        let month = self.volume_gb_month.times(gib.unwrap_or_default());
        Some(Market {
            volume: month.per_hour_for(Duration::from_secs(3_600) / HOURS_OF_A_MONTH),
            address: self.public_address,
            ..market
        })
    }

    /// The pool's policy, in the words of what the cloud has.
    pub fn fitted(&self, policy: &Policy) -> Policy {
        let known = self.lock();
        let mut fitted = known.findings.fit(policy);
        fitted.problem = fitted.problem.or_else(|| known.unchecked.clone());
        fitted
    }

    /// What the account's quotas leave beside all that is listed.
    pub fn quota(&self, listing: &[SeenInstance]) -> Quota {
        let alive = listing.iter().filter(|seen| seen.is_alive());
        self.feed
            .quota(alive.map(|seen| (seen.lifecycle, seen.kind.as_str())))
    }

    /// Keeps prices warm until told to stop.
    pub async fn keep_prices(self: Arc<Self>, stopping: CancellationToken) {
        let asked = |answer: Result<(), &CallError>| {
            match answer {
                Ok(()) => self.conditions.set(check::PRICES, Ok(())),
                Err(error) if self.market().is_none() => {
                    self.conditions.set(check::PRICES, Err(error.to_string()));
                }
                Err(_) => {}
            }
            let listed = self.lock().listed.as_ref().map(SharedListing::age);
            metrics::ages(listed, self.feed.age());
        };
        self.feed.keep_prices(&stopping, asked).await;
    }

    /// Keeps quotas and the sizes of types warm until told to stop.
    pub async fn keep_hints(self: Arc<Self>, stopping: CancellationToken) {
        self.feed
            .keep_hints(&stopping, || self.hinted.notify_one())
            .await;
    }

    /// The pools are held against the cloud at once.
    pub fn check_again(&self) {
        self.recheck.notify_one();
    }

    /// Holds the pools against what the cloud has, again and again: what is wrong may be mended.
    pub async fn keep_checked(
        self: Arc<Self>,
        policies: BTreeMap<PoolName, (Policy, check::TemplateName)>,
        stopping: CancellationToken,
    ) {
        let mut failing = Duration::ZERO;
        loop {
            let findings = check::look(&self.ec2, &policies).await;
            let most = self.check_every;
            let pause = match findings {
                Ok(findings) => {
                    self.report(&findings, &policies);
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
            let mut resting = std::pin::pin!(rest(pause, &stopping));
            loop {
                tokio::select! {
                    rested = &mut resting => match rested {
                        Some(()) => break,
                        None => return,
                    },
                    () = self.recheck.notified() => break,
                    // What stands in a quota's way is said as soon as it is known.
                    () = self.hinted.notified() => {
                        let (findings, unchecked) = {
                            let known = self.lock();
                            (known.findings.clone(), known.unchecked.is_some())
                        };
                        if !unchecked {
                            self.report(&findings, &policies);
                        }
                    }
                }
            }
        }
    }

    fn report(
        &self,
        findings: &CheckFindings,
        policies: &BTreeMap<PoolName, (Policy, check::TemplateName)>,
    ) {
        let (quotas, market) = (self.feed.limits(), self.market());
        check::report(
            findings,
            policies,
            &quotas,
            market.as_ref(),
            &self.conditions,
        );
    }

    fn lock(&self) -> MutexGuard<'_, LastKnown> {
        self.known.lock()
    }
}
