//! Pools as people configure them. Trigger and fleet read the same file, so that one never asks for what the other may
//! not launch. `deploy/pools.toml` explains every key.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::PoolName;
use crate::fleet::cloud::Template;
use crate::fleet::policy::{Bid, BreakerRule, Kind, Patience, Policy, Subnet};
use crate::fleet::tags;
use crate::model::Model;
use crate::money::Usd;
use crate::render_time::{self, Gpu, Job};
use crate::trigger::Rules;

/// A batch that has not ended by then is given up: far above the two hours that sizing aims at, and a bound on what a
/// queue that never empties can cost.
const BATCH_DEADLINE: Duration = Duration::from_secs(12 * 3_600);

/// The whole file: `[pool.<name>]` tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pools {
    pub pool: BTreeMap<PoolName, PoolConfig>,
}

/// A set of models, the machines that can render them, what they may cost, and when they are bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    pub models: Vec<Model>,
    pub cloud: Cloud,
    /// In place of the fleet's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PoolTemplate>,
    /// On everything that a launch makes, beside fleet's own `tags`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    pub kinds: Vec<KindConfig>,
    pub subnets: Vec<SubnetConfig>,
    pub bid: BidMode,
    pub on_rebalance: OnRebalance,
    /// Absent: machines are bought on Spot only.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub on_demand_after: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub batch_deadline: Duration,
    pub rules: Rules,
    pub breaker: BreakerRule,
    pub patience: Patience,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cloud {
    Aws,
    /// The workers run on machines of one's own: nothing is ever launched.
    #[default]
    None,
}

/// A launch template, in fixed versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTemplate {
    pub id: String,
    pub version: u64,
    /// For machines on demand; absent: `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_version: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindConfig {
    pub name: String,
    /// The most that an hour may cost on Spot.
    pub cap: Usd,
    /// The most that an hour may cost on demand; absent: this type is never bought so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_cap: Option<Usd>,
    /// Its card, where the name of the type does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetConfig {
    pub id: String,
    pub zone: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BidMode {
    #[default]
    Balanced,
    Strict,
}

/// What becomes of a machine when EC2 recommends to rebalance: that it may take it soon, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRebalance {
    /// It goes on, with a checkpoint after every step.
    #[default]
    Stay,
    /// It ends what it has in hand, and another is bought elsewhere.
    Leave,
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PoolProblem {
    /// As it stands in the file: `pool.default.kinds`.
    pub key: String,
    pub rule: String,
    pub cure: String,
}

impl fmt::Display for PoolProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}; {}", self.key, self.rule, self.cure)
    }
}

/// All that is wrong with the pools, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolProblems(pub Vec<PoolProblem>);

impl fmt::Display for PoolProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for PoolProblems {}

impl Default for Pools {
    /// One pool for everything, on machines of one's own.
    fn default() -> Self {
        let name = PoolName::parse("default").expect("it is a name");
        Self {
            pool: BTreeMap::from([(name, PoolConfig::default())]),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            models: Model::ALL.into(),
            cloud: Cloud::None,
            template: None,
            tags: BTreeMap::new(),
            kinds: KindConfig::presets(),
            subnets: Vec::new(),
            bid: BidMode::Balanced,
            on_rebalance: OnRebalance::Stay,
            on_demand_after: None,
            batch_deadline: BATCH_DEADLINE,
            rules: Rules::default(),
            breaker: BreakerRule::default(),
            patience: Patience::default(),
        }
    }
}

impl KindConfig {
    /// One GPU of 24 GB or more each. The caps lie a little above what us-east-2 asked when they were chosen (g5.xlarge
    /// 0.38 to 0.39, g6.xlarge 0.26 to 0.28, g6.2xlarge 0.37 to 0.40), and at about 45 % of the price on demand for the
    /// others: below the market there would be no machine at all.
    fn presets() -> Vec<Self> {
        [
            ("g5.xlarge", 45),
            ("g5.2xlarge", 55),
            ("g5.4xlarge", 75),
            ("g6.xlarge", 36),
            ("g6.2xlarge", 45),
            ("g6e.xlarge", 85),
        ]
        .map(|(name, cents)| Self {
            name: name.to_owned(),
            cap: Usd::from_cents(cents),
            on_demand_cap: None,
            gpu: None,
        })
        .into()
    }
}

impl Pools {
    /// All that is wrong, before anything runs.
    pub fn validate(&self) -> Result<(), PoolProblems> {
        let mut found = Vec::new();
        if self.pool.is_empty() {
            found.push(PoolProblem {
                key: "pool".into(),
                rule: "there is none".into(),
                cure: "add a table [pool.default]".into(),
            });
        }
        for (name, pool) in &self.pool {
            pool.check(name, &mut found);
        }
        self.check_models(&mut found);
        if found.is_empty() {
            Ok(())
        } else {
            Err(PoolProblems(found))
        }
    }

    fn check_models(&self, found: &mut Vec<PoolProblem>) {
        let mut owners: BTreeMap<Model, &PoolName> = BTreeMap::new();
        for (name, pool) in &self.pool {
            for model in &pool.models {
                if let Some(first) = owners.insert(*model, name) {
                    let rule = if first == name {
                        format!("{model} stands there twice")
                    } else {
                        format!("{model} belongs to pool {first} already")
                    };
                    found.push(PoolProblem {
                        key: format!("pool.{name}.models"),
                        rule,
                        cure: "name each model in one pool, once: its queue is one".into(),
                    });
                }
            }
        }
    }

    /// The pool whose machines render this model.
    pub fn of(&self, model: Model) -> Option<&PoolName> {
        let mut pools = self.pool.iter();
        pools
            .find(|(_, pool)| pool.models.contains(&model))
            .map(|(name, _)| name)
    }

    /// Every instance type that some pool buys.
    pub fn kinds(&self) -> Vec<String> {
        let bought = self.pool.values().filter(|pool| pool.cloud == Cloud::Aws);
        let mut kinds: Vec<_> = bought
            .flat_map(|pool| pool.kinds.iter().map(|kind| kind.name.clone()))
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

impl PoolConfig {
    /// What fleet may do for this pool, if it is the only one. `template` is used where the pool has none of its own.
    pub fn policy(
        &self,
        name: &PoolName,
        env: &str,
        project: &str,
        template: PoolTemplate,
    ) -> Policy {
        let template = self.template.clone().unwrap_or(template);
        Policy {
            env: env.to_owned(),
            pool: name.clone(),
            project: project.to_owned(),
            template: Template {
                id: template.id,
                version: template.version,
            },
            on_demand_version: template.on_demand_version,
            tags: self.tags.clone(),
            problem: None,
            kinds: self.kinds.iter().map(Kind::from).collect(),
            subnets: self.subnets.iter().map(Subnet::from).collect(),
            bid: self.bid.into(),
            leave_when_hinted: self.on_rebalance == OnRebalance::Leave,
            max_units: self.rules.sizing.max,
            target: self.rules.sizing.target,
            budget: self.rules.budgets,
            most_per_hour: self.rules.budgets.per_hour,
            on_demand_after: self.on_demand_after,
            breaker: self.breaker.clone(),
            patience: self.patience.clone(),
        }
    }

    fn check(&self, name: &PoolName, found: &mut Vec<PoolProblem>) {
        let mut report = |key: &str, rule: String, cure: &str| {
            found.push(PoolProblem {
                key: format!("pool.{name}.{key}"),
                rule,
                cure: cure.to_owned(),
            });
        };
        if self.models.is_empty() {
            let cure = "name at least one of ti2v-5B, t2v-A14B, i2v-A14B";
            report("models", "there is none".into(), cure);
        }
        if self.cloud == Cloud::Aws {
            self.check_places(&mut report);
            self.check_cards(&mut report);
        }
        for problem in tags::problems(&self.tags) {
            report("tags", problem, tags::CURE);
        }
        if self.batch_deadline < self.rules.sizing.target {
            let rule = format!(
                "a batch would be given up after {}, before its target",
                text(self.batch_deadline)
            );
            report(
                "batch_deadline",
                rule,
                "set it well above rules.sizing.target; 12h is the preset",
            );
        }
        if self.breaker.failures == 0 {
            let rule = "launches would be paused before any machine has failed".into();
            report(
                "breaker.failures",
                rule,
                "set it to 1 or more; 3 is the preset",
            );
        }
        if self.breaker.pause.is_zero() {
            let rule = "launches would not be paused at all".into();
            report(
                "breaker.pause",
                rule,
                "set it to some minutes; 2m is the preset",
            );
        }
        let least_cap = self.kinds.iter().map(|kind| kind.cap).min();
        let checked = match (self.cloud, least_cap) {
            (Cloud::None, _) => self.rules.validate_at(Usd::ZERO),
            // What is bought may cost less than its cap: half of it is taken for the market.
            (Cloud::Aws, Some(cap)) => self.rules.validate_at(cap.percent(50)),
            (Cloud::Aws, None) => self.rules.validate(),
        };
        for problem in checked.err().unwrap_or_default() {
            report(
                &format!("rules.{}", problem.key),
                problem.rule,
                &problem.cure,
            );
        }
    }

    fn check_places(&self, report: &mut impl FnMut(&str, String, &str)) {
        if self.kinds.is_empty() {
            let cure = "name at least one instance type with its cap, such as { name = \"g6.xlarge\", cap = 0.36 }";
            report("kinds", "there is none".into(), cure);
        }
        for (index, kind) in self.kinds.iter().enumerate() {
            let key = format!("kinds.{index}");
            if !kind.cap.is_positive() {
                let rule = format!("the cap of {} is {}", kind.name, kind.cap);
                report(
                    &key,
                    rule,
                    "set what an hour may cost, or take the type away",
                );
            }
            if self.kinds[..index]
                .iter()
                .any(|other| other.name == kind.name)
            {
                let rule = format!("{} stands there twice", kind.name);
                report(&key, rule, "name each type once");
            }
        }
        if self.on_demand_after.is_some()
            && self.kinds.iter().all(|kind| kind.on_demand_cap.is_none())
        {
            let rule = "no type has an on_demand_cap, so nothing could be bought on demand".into();
            report(
                "on_demand_after",
                rule,
                "give a type one, or take the key away",
            );
        }
        let given_up = self.patience.blocked;
        if self.on_demand_after.is_some_and(|after| after >= given_up) {
            let rule = format!(
                "a batch that nothing is bought for is given up before, after {}",
                text(given_up)
            );
            report(
                "on_demand_after",
                rule,
                "set it below patience.blocked, or raise that",
            );
        }
        if self.subnets.is_empty() {
            let cure = "name at least one, such as { id = \"subnet-0123\", zone = \"us-east-2a\" }, or set cloud = \"none\"";
            report("subnets", "there is none".into(), cure);
        }
        for (index, subnet) in self.subnets.iter().enumerate() {
            let key = format!("subnets.{index}");
            if !looks_like_a_zone(&subnet.zone) {
                let rule = format!("{:?} is not an availability zone", subnet.zone);
                report(&key, rule, "write it as \"us-east-2a\"");
            }
            if self.subnets[..index]
                .iter()
                .any(|other| other.id == subnet.id)
            {
                let rule = format!("{} stands there twice", subnet.id);
                report(&key, rule, "name each subnet once");
            } else if let Some(first) = self.subnets[..index]
                .iter()
                .find(|other| other.zone == subnet.zone)
            {
                let rule = format!(
                    "{} has {} already, and EC2 refuses a fleet with two subnets of one zone",
                    subnet.zone, first.id
                );
                report(&key, rule, "name one subnet a zone");
            }
        }
    }
}

impl PoolConfig {
    /// Each type has a card that is known, and each model a card that holds its usual video in one of its sizes.
    fn check_cards(&self, report: &mut impl FnMut(&str, String, &str)) {
        for (index, kind) in self.kinds.iter().enumerate() {
            if self.gpu(&kind.name).is_none() {
                let rule = format!("which card {} has is not known", kind.name);
                let cure = "set gpu to the card that comes closest, such as gpu = \"l40s\", or take the type away";
                report(&format!("kinds.{index}"), rule, cure);
            }
        }
        let gpus = || self.kinds.iter().filter_map(|kind| self.gpu(&kind.name));
        for model in &self.models {
            let job = Job::smallest_usual(*model);
            if gpus().next().is_some() && gpus().all(|gpu| gpu.weights(&job).is_none()) {
                let rule = format!(
                    "no type of the pool can render {}",
                    render_time::needs(&job)
                );
                let cure = "add such a type to kinds, or take the model away";
                report("models", rule, cure);
            }
        }
    }
}

/// A region and a letter. Whether it exists, the cloud says.
fn looks_like_a_zone(zone: &str) -> bool {
    let mut parts = zone.rsplitn(2, '-');
    let last = parts.next().unwrap_or_default();
    let digits = last.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let letters = last.len() - digits.len();
    parts.next().is_some_and(|region| region.contains('-'))
        && !digits.is_empty()
        && digits.bytes().all(|c| c.is_ascii_digit())
        && letters == 1
}

fn text(span: Duration) -> String {
    humantime_serde::re::humantime::format_duration(span).to_string()
}

impl From<&KindConfig> for Kind {
    fn from(kind: &KindConfig) -> Self {
        Self {
            name: kind.name.clone(),
            cap: kind.cap,
            on_demand_cap: kind.on_demand_cap,
        }
    }
}

impl From<&SubnetConfig> for Subnet {
    fn from(subnet: &SubnetConfig) -> Self {
        Self {
            id: subnet.id.clone(),
            zone: subnet.zone.clone(),
        }
    }
}

impl From<BidMode> for Bid {
    fn from(mode: BidMode) -> Self {
        match mode {
            BidMode::Balanced => Self::Balanced,
            BidMode::Strict => Self::Strict,
        }
    }
}
