//! What EC2 says of the market. Prices are needed: without them nothing is bought. Quotas and the sizes of instance types
//! are hints: they are asked for apart, and what cannot be read of them stands in nobody's way. Only the first answer, whatever
//! it is, is waited for: a batch that is requested before the quota is known may be one that it does not admit.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use spotreel_bootstrap::ambient;
use spotreel_domain::Usd;
use spotreel_domain::fleet::cloud::{Lifecycle, Place};
use spotreel_domain::fleet::observation::{Market, Quota};
use spotreel_ec2::{CallError, Ec2};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Delay before a failed lookup is repeated.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct MarketFeedConfig {
    /// How often prices are asked for.
    pub every: Duration,
    /// Older ones are not known.
    pub good_for: Duration,
    /// How often hints are asked for, and prices that only a person can mend.
    pub hints_every: Duration,
    /// Dollars for an hour on demand, by instance type.
    pub on_demand: BTreeMap<String, Usd>,
}

/// Asks again and again, and keeps what was answered.
pub struct MarketFeed {
    ec2: Ec2,
    kinds: Vec<String>,
    config: MarketFeedConfig,
    known: Mutex<KnownPrices>,
}

struct KnownPrices {
    /// When prices were last answered.
    at: Option<(Instant, Timestamp)>,
    /// Each with the time of the last answer that had it: a place may be missing from one.
    spot: BTreeMap<Place, (Instant, Usd)>,
    /// Since when prices have not been answered, and what came instead.
    failing: Option<(Timestamp, String)>,
    /// Hints have been asked for once, with or without an answer.
    hinted: bool,
    /// vCPUs that the account may have.
    limits: BTreeMap<Lifecycle, u32>,
    /// vCPUs of each instance type.
    vcpus: BTreeMap<String, u32>,
}

/// Prices are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub since: Timestamp,
    pub reason: String,
}

impl MarketFeed {
    pub fn new(ec2: Ec2, kinds: Vec<String>, config: MarketFeedConfig) -> Self {
        let known = KnownPrices {
            at: None,
            spot: BTreeMap::new(),
            failing: Some((ambient::now(), "they have not been asked for yet".into())),
            hinted: false,
            limits: BTreeMap::new(),
            vcpus: BTreeMap::new(),
        };
        Self {
            ec2,
            kinds,
            config,
            known: Mutex::new(known),
        }
    }

    /// Keeps prices warm until told to stop; `asked` hears of every answer.
    pub async fn keep_prices(
        &self,
        stopping: &CancellationToken,
        mut asked: impl FnMut(Result<(), &CallError>),
    ) {
        let mut failing = Duration::ZERO;
        loop {
            let answer = self.ask_prices().await;
            failing = match &answer {
                Ok(()) => Duration::ZERO,
                Err(error) if error.retryable() => rarer(failing, RETRY.min(self.config.every)),
                Err(_) => rarer(failing, self.config.hints_every),
            };
            let pause = match &answer {
                Ok(()) => self.config.every,
                Err(_) => failing,
            };
            asked(answer.as_ref().copied());
            if rest(pause, stopping).await.is_none() {
                return;
            }
        }
    }

    /// Keeps hints warm until told to stop; `asked` hears when there may be new ones.
    pub async fn keep_hints(&self, stopping: &CancellationToken, mut asked: impl FnMut()) {
        loop {
            self.ask_hints().await;
            asked();
            if rest(self.config.hints_every, stopping).await.is_none() {
                return;
            }
        }
    }

    async fn ask_prices(&self) -> Result<(), CallError> {
        let now = ambient::now();
        let answer = self.ec2.spot_prices(&self.kinds, Some(now)).await;
        let mut known = self.lock();
        match answer {
            Ok(changes) => {
                if known.failing.take().is_some() {
                    tracing::info!(places = changes.len(), "Spot prices loaded");
                }
                let at = Instant::now();
                known.at = Some((at, now));
                // Oldest first: the newest change of a place stays.
                let prices = changes
                    .into_iter()
                    .map(|change| (change.place, (at, change.price)));
                known.spot.extend(prices);
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                let before = known.failing.take();
                if before.as_ref().is_none_or(|(_, last)| *last != reason) {
                    tracing::warn!(reason, "Spot price lookup failed");
                }
                known.failing = Some((before.map_or(now, |(since, _)| since), reason));
                Err(error)
            }
        }
    }

    /// Each apart: an endpoint may have one of them and not the others.
    async fn ask_hints(&self) {
        let quota = async |lifecycle| match self.ec2.quota(lifecycle).await {
            Ok(Some(vcpus)) => drop(self.lock().limits.insert(lifecycle, vcpus)),
            Ok(None) => drop(self.lock().limits.remove(&lifecycle)),
            Err(error) => tracing::debug!(%error, "quota lookup failed"),
        };
        let kinds = async || match self.ec2.kinds(&self.kinds).await {
            Ok(kinds) => {
                let vcpus = kinds.into_iter().map(|kind| (kind.kind, kind.vcpus));
                self.lock().vcpus.extend(vcpus);
            }
            Err(error) => tracing::debug!(%error, "lookup of instance types failed"),
        };
        tokio::join!(quota(Lifecycle::Spot), quota(Lifecycle::OnDemand), kinds());
        self.lock().hinted = true;
    }

    /// Prices that are young enough to be relied on, and when they were asked for. Unknown until quotas have been asked for
    /// once, too.
    pub fn market(&self) -> Result<(Timestamp, Market), Unknown> {
        let known = self.lock();
        let good = |at: &Instant| at.elapsed() <= self.config.good_for;
        let Some((_, as_of)) = known.at.filter(|(at, _)| good(at)) else {
            let last = known.at.map_or_else(ambient::now, |(_, as_of)| as_of);
            let too_old = || (last, "the last answer is too old".to_owned());
            let (since, reason) = known.failing.clone().unwrap_or_else(too_old);
            return Err(Unknown { since, reason });
        };
        if !known.hinted {
            let reason = "the account's quotas have not been asked for yet".to_owned();
            let since = as_of;
            return Err(Unknown { since, reason });
        }
        let spot = known.spot.iter().filter(|(_, (at, _))| good(at));
        let market = Market {
            spot: spot
                .map(|(place, (_, price))| (place.clone(), *price))
                .collect(),
            on_demand: self.config.on_demand.clone(),
            ..Market::default()
        };
        Ok((as_of, market))
    }

    /// Since prices were last known.
    pub fn age(&self) -> Option<Duration> {
        self.lock().at.map(|(at, _)| at.elapsed())
    }

    /// The account's limits, in vCPUs, as far as they are known.
    pub fn limits(&self) -> BTreeMap<Lifecycle, u32> {
        self.lock().limits.clone()
    }

    /// What the limits leave beside these machines, of all pools.
    pub fn quota<'a>(&self, running: impl IntoIterator<Item = (Lifecycle, &'a str)>) -> Quota {
        let known = self.lock();
        left(&known.limits, &known.vcpus, running)
    }

    fn lock(&self) -> MutexGuard<'_, KnownPrices> {
        self.known.lock()
    }
}

fn left<'a>(
    limits: &BTreeMap<Lifecycle, u32>,
    vcpus: &BTreeMap<String, u32>,
    running: impl IntoIterator<Item = (Lifecycle, &'a str)>,
) -> Quota {
    let mut quota = Quota {
        left: limits.clone(),
        vcpus: vcpus.clone(),
    };
    for (lifecycle, kind) in running {
        let used = vcpus.get(kind).copied().unwrap_or_default();
        if let Some(left) = quota.left.get_mut(&lifecycle) {
            *left = left.saturating_sub(used);
        }
    }
    quota
}

/// How long to wait after one more failure: what passes by itself is tried again soon (`most` is short), what only a person
/// can mend less and less often.
pub fn rarer(before: Duration, most: Duration) -> Duration {
    (before * 2).max(RETRY).min(most)
}

/// Nothing, if it was told to stop meanwhile.
pub async fn rest(pause: Duration, stopping: &CancellationToken) -> Option<()> {
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

    #[test]
    fn a_quota_is_counted_in_the_vcpus_of_what_runs() {
        let limits = BTreeMap::from([(Lifecycle::Spot, 64)]);
        let sizes = [("g6.xlarge", 4), ("g5.4xlarge", 16)];
        let vcpus = sizes.map(|(kind, vcpus)| (kind.to_owned(), vcpus)).into();
        let running = [
            (Lifecycle::Spot, "g5.4xlarge"),
            (Lifecycle::Spot, "g5.4xlarge"),
            (Lifecycle::OnDemand, "g5.4xlarge"),
            (Lifecycle::Spot, "g6.xlarge"),
        ];
        let quota = left(&limits, &vcpus, running);
        let units = |kinds: &[&str]| quota.units(Lifecycle::Spot, kinds.iter().copied());
        assert_eq!(quota.left[&Lifecycle::Spot], 28);
        assert_eq!(units(&["g5.4xlarge"]), Some(1));
        assert_eq!(units(&["g5.4xlarge", "g6.xlarge"]), Some(7));
        assert_eq!(units(&["g6.xlarge", "unknown"]), None);
        assert_eq!(quota.units(Lifecycle::OnDemand, ["g6.xlarge"]), None);
    }
}
