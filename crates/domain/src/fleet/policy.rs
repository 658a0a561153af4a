//! What a pool may do: its capacity pools, price caps and waiting times. From the configuration; checked once, at start.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cloud::{Lifecycle, Template};
use crate::batch::PoolName;
use crate::money::Usd;
pub use crate::trigger::Budgets as Budget;

/// Bounds what one call without an answer may have launched.
pub const MOST_UNITS_A_LAUNCH: u32 = 10;

#[derive(Clone, Debug)]
pub struct Policy {
    pub env: String,
    pub pool: PoolName,
    pub project: String,
    /// Its id is empty while it is not known.
    pub template: Template,
    /// Its version for On-Demand instances, if it is another one: EC2 refuses to launch On-Demand from a version that tags
    /// requests for Spot instances.
    pub on_demand_version: Option<u64>,
    /// The operator's own tags, on everything that a launch makes.
    pub tags: BTreeMap<String, String>,
    /// What EC2 does not have of this pool, for operators.
    pub problem: Option<String>,
    pub kinds: Vec<Kind>,
    pub subnets: Vec<Subnet>,
    pub bid: Bid,
    /// Whether an instance with a rebalance recommendation is drained and replaced at once.
    pub leave_when_hinted: bool,
    pub max_units: u32,
    /// Time in which the queue should be empty.
    pub target: Duration,
    pub budget: Budget,
    /// Above this, running instances are drained ([`leave`](super::leave)): the largest `budget.per_hour` of all pools, so
    /// that no pool is drained because of what another one may buy. `None`: a pool has no hourly budget.
    pub most_per_hour: Option<Usd>,
    /// Time without Spot capacity after which fleet launches On-Demand; `None`: never.
    pub on_demand_after: Option<Duration>,
    pub breaker: BreakerRule,
    pub patience: Patience,
}

/// An instance type with one GPU, and the most that an hour of it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: String,
    pub cap: Usd,
    /// `None`: this type is never bought On-Demand.
    pub on_demand_cap: Option<Usd>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub id: String,
    pub zone: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bid {
    /// The cap of the type: one pays the market's price all the same, and is interrupted less.
    Balanced,
    /// The lowest price now and ten percent more, never above the cap.
    Strict,
}

/// When launches stop because instances end before they serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerRule {
    /// Number of instances in a row that pause the launches; after a pause one instance is tried.
    pub failures: u32,
    /// The first pause; each further one is twice as long.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
    /// Number of pauses in a row after which the batch fails, and its pool is held.
    pub pauses: u32,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self {
            failures: 3,
            pause: Duration::from_secs(2 * 60),
            longest_pause: Duration::from_secs(30 * 60),
            pauses: 4,
        }
    }
}

/// Waiting times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patience {
    /// Time from launch to a serving worker.
    #[serde(with = "humantime_serde")]
    pub boot: Duration,
    /// Maximum age of an instance.
    #[serde(with = "humantime_serde")]
    pub life: Duration,
    /// Time within which a call without an answer is sent again: EC2 remembers tokens for longer.
    #[serde(with = "humantime_serde")]
    pub replay: Duration,
    /// Time after which, with three empty listings, a call without an answer has launched nothing.
    #[serde(with = "humantime_serde")]
    pub unknown_launch: Duration,
    /// Time for which an instance may be missing from listings, especially a new one.
    #[serde(with = "humantime_serde")]
    pub listing: Duration,
    /// Time after which TerminateInstances is called again, until a listing shows that it worked.
    #[serde(with = "humantime_serde")]
    pub terminate_again: Duration,
    /// Time after which a silent worker is given up with its instance.
    #[serde(with = "humantime_serde")]
    pub silence: Duration,
    /// Time for a worker to hand its task back, after an order or an interruption notice.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// First penalty of a capacity pool without capacity, or in which EC2 interrupted an instance; doubled each time.
    #[serde(with = "humantime_serde")]
    pub no_capacity: Duration,
    /// Longest penalty.
    #[serde(with = "humantime_serde")]
    pub longest_penalty: Duration,
    /// Time without a penalty after which one of a capacity pool's times is forgotten.
    #[serde(with = "humantime_serde")]
    pub forgiven: Duration,
    /// Time for which a request that EC2 refuses as wrong is repeated: credentials expire, permissions take minutes to
    /// spread.
    #[serde(with = "humantime_serde")]
    pub refused: Duration,
    /// Penalty of an account at its quota.
    #[serde(with = "humantime_serde")]
    pub quota: Duration,
    /// Pause after EC2 has throttled a call.
    #[serde(with = "humantime_serde")]
    pub throttled: Duration,
    /// Time without instances and without capacity after which the batch fails.
    #[serde(with = "humantime_serde")]
    pub blocked: Duration,
    /// Time between two reconcile passes while something changes, and while nothing does.
    #[serde(with = "humantime_serde")]
    pub moving: Duration,
    #[serde(with = "humantime_serde")]
    pub calm: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            boot: minutes(15),
            life: minutes(4 * 60),
            replay: minutes(10),
            unknown_launch: minutes(12),
            listing: minutes(2),
            terminate_again: Duration::from_secs(30),
            silence: minutes(2),
            drain: minutes(3),
            no_capacity: minutes(3),
            longest_penalty: minutes(60),
            forgiven: minutes(60),
            refused: minutes(10),
            quota: minutes(10),
            throttled: Duration::from_secs(30),
            blocked: minutes(30),
            moving: Duration::from_secs(5),
            calm: Duration::from_secs(15),
        }
    }
}

impl Policy {
    /// The policy with only these types.
    pub fn of_kinds(&self, kinds: &BTreeSet<String>) -> Cow<'_, Self> {
        let is_of = |kind: &Kind| kinds.contains(&kind.name);
        if self.kinds.iter().all(is_of) {
            return Cow::Borrowed(self);
        }
        let mut policy = self.clone();
        policy.kinds.retain(is_of);
        Cow::Owned(policy)
    }

    pub fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    /// A digest of this configuration: any change gives another one.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(format!("{self:?}").as_bytes());
        hex::encode(&digest[..8])
    }

    /// The template in the version for such instances.
    pub fn template_for(&self, lifecycle: Lifecycle) -> Template {
        let mut template = self.template.clone();
        if let (Lifecycle::OnDemand, Some(version)) = (lifecycle, self.on_demand_version) {
            template.version = version;
        }
        template
    }

    /// Tags for what one launch makes. `expires_at` is the cloud's clock. The operator's own tags may replace `Project`, `Name`
    /// and `Type`, but not those by which fleet finds its instances.
    pub fn tags(&self, batch: &str, launch: u32, expires_at: &str) -> BTreeMap<String, String> {
        use super::cloud::tag;
        let may_be_set = [
            ("Project", self.project.clone()),
            ("Name", format!("spotreel-{}", self.pool)),
            ("Type", "worker".to_owned()),
        ];
        let ours = [
            (tag::MANAGED_BY, tag::MANAGED_BY_FLEET.to_owned()),
            (tag::ENV, self.env.clone()),
            (tag::POOL, self.pool.to_string()),
            (tag::BATCH, batch.to_owned()),
            (tag::LAUNCH, launch.to_string()),
            (tag::EXPIRES_AT, expires_at.to_owned()),
        ];
        let named = |(key, value): (&str, String)| (key.to_owned(), value);
        let mut tags = BTreeMap::from(may_be_set.map(named));
        tags.extend(self.tags.clone());
        tags.extend(ours.map(named));
        tags
    }
}
