//! What tasks will take and cost, before they are submitted: the cost model, corrected by what was rendered, at today's
//! prices.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::Lifecycle;
use spotreel_domain::fleet::observation::Quota;
use spotreel_domain::model::{ImageRule, Model};
use spotreel_domain::pool::{Cloud, KindConfig, PoolConfig};
use spotreel_domain::render_time::{Corrections, Gpu, Job, Weights};
use spotreel_domain::task::TaskSpec;
use spotreel_domain::trigger::{SizeInput, Sizing, size};
use utoipa::ToSchema;

use crate::error::Violation;
use crate::request::{ImageSource, TaskRequest};

/// The most tasks of one quote: ten times what a queue takes by default.
pub const MAX_QUOTED_TASKS: u64 = 1_000_000;

/// `spotreel.quote`, and `POST /v1/quotes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuoteQuery<T = TaskRequest> {
    /// As it would be submitted. Prompt and image may be left out: neither changes what a task costs.
    pub task: T,
    #[serde(default = "one", deserialize_with = "crate::whole::required")]
    pub tasks: u64,
}

fn one() -> u64 {
    1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quote {
    pub pool: PoolName,
    pub model: Model,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub steps: u32,
    pub tasks: u64,
    /// The instance types of the pool that can render it, the cheapest video first.
    pub offers: Vec<Offer>,
    /// Why there is no offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<String>,
}

/// What one instance type would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Offer {
    pub kind: String,
    pub gpu: String,
    pub weights: Weights,
    /// Of one video, from its first step to its last frame.
    pub seconds: f64,
    /// Whether finished tasks have corrected that.
    pub measured: bool,
    pub per_hour: Usd,
    pub price: PriceOf,
    pub per_video: Usd,
    /// All of them, on as many machines as the pool's sizing asks for; machines boot before that, and the boot is paid too.
    pub machines: u32,
    pub all_seconds: f64,
    pub all: Usd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriceOf {
    /// Spot, the cheapest of the pool's zones, when it was last asked.
    Market,
    /// Not known: the most that the pool pays.
    Cap,
}

impl QuoteQuery {
    /// What is to be reckoned with.
    ///
    /// # Errors
    /// All rules that are broken, those of the task as a submission would name them.
    pub fn spec(&self, now: Timestamp) -> Result<TaskSpec, Vec<Violation>> {
        let mut task = self.task.clone();
        if task.prompt.is_empty() {
            task.prompt = "a prompt".into();
        }
        let rule = Model::parse(&task.model).map(|model| model.limits().image);
        if task.image.is_none() && rule == Some(ImageRule::Required) {
            task.image = Some(ImageSource::S3Key("images/any".into()));
        }
        let (spec, mut broken) = match task.validate(now) {
            Ok(valid) => (Some(valid.spec), Vec::new()),
            Err(broken) => (None, broken),
        };
        if !(1..=MAX_QUOTED_TASKS).contains(&self.tasks) {
            let message = format!("tasks is 1 to {MAX_QUOTED_TASKS}");
            broken.push(Violation::new("tasks", "range", message));
        }
        spec.filter(|_| broken.is_empty()).ok_or(broken)
    }
}

/// `prices`: Spot by instance type, of those that may be bought now. None: prices are not known. `quota`: the account's
/// limits; what runs now is gone by the time of these tasks, but a type that the account may never have is not offered.
pub fn quote(
    spec: &TaskSpec,
    tasks: u64,
    (name, pool): (&PoolName, &PoolConfig),
    prices: Option<&BTreeMap<String, Usd>>,
    quota: &Quota,
    learnt: &Corrections,
) -> Quote {
    let job = Job::of(spec);
    let mut offers: Vec<_> = pool
        .kinds
        .iter()
        .filter(|_| pool.cloud == Cloud::Aws)
        .filter(|kind| quota.admits(Lifecycle::Spot, &kind.name))
        .filter_map(|kind| {
            let price = match prices {
                Some(prices) => Some(*prices.get(&kind.name)?),
                None => None,
            };
            let gpu = pool.gpu(&kind.name)?;
            offer(&job, tasks, (kind, gpu), price, &pool.rules.sizing, learnt)
        })
        .collect();
    offers.sort_by_key(|offer| offer.per_video);
    Quote {
        none: offers
            .is_empty()
            .then(|| why_none(&job, pool, prices, quota)),
        pool: name.clone(),
        model: spec.model,
        width: spec.width,
        height: spec.height,
        frames: spec.frames,
        steps: spec.steps,
        tasks,
        offers,
    }
}

fn offer(
    job: &Job,
    tasks: u64,
    (kind, gpu): (&KindConfig, Gpu),
    price: Option<Usd>,
    sizing: &Sizing,
    learnt: &Corrections,
) -> Option<Offer> {
    let weights = gpu.weights(job)?;
    let seconds = learnt.seconds(job, gpu);
    let input = SizeInput {
        tasks,
        modelled: Some(seconds),
        ..SizeInput::default()
    };
    // A machine without a task is never bought, whatever `sizing.min` says.
    let most = u32::try_from(tasks).unwrap_or(u32::MAX);
    let machines = size(&input, sizing).units.min(most).max(1);
    let rounds = tasks.div_ceil(u64::from(machines));
    let per_hour = price.unwrap_or(kind.cap);
    let cost = |videos: u64| {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a quote is far below 2^53 tasks"
        )]
        let span = std::time::Duration::try_from_secs_f64(seconds * videos as f64);
        per_hour.per_hour_for(span.unwrap_or(std::time::Duration::MAX))
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a quote is far below 2^53 tasks"
    )]
    let all_seconds = seconds * rounds as f64;
    Some(Offer {
        kind: kind.name.clone(),
        gpu: gpu.name().to_owned(),
        weights,
        seconds,
        measured: learnt.factor(job.model, gpu).is_some(),
        per_hour,
        price: match price {
            Some(_) => PriceOf::Market,
            None => PriceOf::Cap,
        },
        per_video: cost(1),
        machines,
        all_seconds,
        all: cost(tasks),
    })
}

fn why_none(
    job: &Job,
    pool: &PoolConfig,
    prices: Option<&BTreeMap<String, Usd>>,
    quota: &Quota,
) -> String {
    if pool.cloud == Cloud::None {
        return "cloud = \"none\": the machines of this pool are your own, and what they cost is not known".into();
    }
    let fits = |kind: &KindConfig| pool.gpu(&kind.name)?.weights(job);
    let able: Vec<_> = pool.kinds.iter().filter(|k| fits(k).is_some()).collect();
    let is_sold = |kind: &&&KindConfig| prices.is_none_or(|of| of.contains_key(&kind.name));
    let refused = able.iter().filter(is_sold);
    let refused = refused.filter_map(|kind| Some((quota.vcpus_of(&kind.name)?, &kind.name)));
    // Without an offer, the quota refuses each type that can render it and may be bought.
    if let (Some((vcpus, kind)), Some(limit)) = (refused.min(), quota.left.get(&Lifecycle::Spot)) {
        let (name, code) = (Lifecycle::Spot.as_str(), Lifecycle::Spot.quota_code());
        return format!(
            "the account's {name} quota {code} of {limit} vCPUs admits no instance type that can render it: {kind}, the smallest, has {vcpus}; ask AWS for more vCPUs"
        );
    }
    if !able.is_empty() {
        return "no instance type of the pool that can render it may be bought now: each is above its cap, has no price in the pool's zones, or is set aside after failures".into();
    }
    match Gpu::ALL.into_iter().find(|gpu| gpu.weights(job).is_some()) {
        Some(gpu) => format!(
            "no instance type of the pool has a card with the memory for it; the smallest that has is the {} with {} GB",
            gpu.name(),
            gpu.memory_gb()
        ),
        None => "no card that is known has the memory for it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str, tasks: u64) -> Quote {
        let query = QuoteQuery {
            task: serde_json::from_str(json).unwrap(),
            tasks,
        };
        let pool = PoolConfig {
            cloud: Cloud::Aws,
            ..PoolConfig::default()
        };
        let prices = BTreeMap::from([
            ("g6e.xlarge".to_owned(), Usd::from_cents(70)),
            ("g6.xlarge".to_owned(), Usd::from_cents(27)),
        ]);
        let name = PoolName::parse("default").unwrap();
        let spec = query.spec(Timestamp::UNIX_EPOCH).unwrap();
        quote(
            &spec,
            tasks,
            (&name, &pool),
            Some(&prices),
            &Quota::default(),
            &Corrections::default(),
        )
    }

    #[test]
    fn the_cheapest_video_comes_first() {
        let quote = asked(r#"{"model": "ti2v-5B"}"#, 100);
        let kinds: Vec<_> = quote.offers.iter().map(|offer| &offer.kind).collect();
        assert_eq!(
            kinds,
            ["g6e.xlarge", "g6.xlarge"],
            "the others cannot be bought"
        );
        let first = &quote.offers[0];
        let job = Job::usual(Model::Ti2v5b, (1280, 704));
        assert_eq!(
            (first.kind.as_str(), first.gpu.as_str()),
            ("g6e.xlarge", "L40S")
        );
        assert!((first.seconds - job.seconds(Gpu::L40s)).abs() < 1e-9);
        assert_eq!((first.price, first.measured), (PriceOf::Market, false));
        let cents = first.per_hour.micros() as f64 * first.seconds / 3_600.0;
        assert!((first.per_video.micros() as f64 - cents).abs() <= 1.0);
        assert!((first.all.micros() - 100 * first.per_video.micros()).abs() <= 100);
        let rounds = 100_u64.div_ceil(u64::from(first.machines));
        assert!((first.all_seconds - rounds as f64 * first.seconds).abs() < 1e-6);
        assert!(quote.offers.is_sorted_by_key(|offer| offer.per_video));
    }

    #[test]
    fn one_video_takes_one_machine() {
        let quote = asked(r#"{"model": "ti2v-5B"}"#, 1);
        for offer in &quote.offers {
            assert_eq!((offer.machines, offer.all), (1, offer.per_video));
        }
    }

    #[test]
    fn what_no_card_of_the_pool_can_hold_is_said() {
        let quote = asked(r#"{"model": "i2v-A14B", "size": "1280x720"}"#, 1);
        assert_eq!(quote.offers.len(), 1, "only the L40S: {quote:?}");
        let mut pool = PoolConfig {
            cloud: Cloud::Aws,
            ..PoolConfig::default()
        };
        let name = PoolName::parse("default").unwrap();
        let query: QuoteQuery =
            serde_json::from_str(r#"{"task": {"model": "t2v-A14B", "size": "1280x720"}}"#).unwrap();
        let spec = query.spec(Timestamp::UNIX_EPOCH).unwrap();
        let none = |pool: &PoolConfig| {
            let said = super::quote(
                &spec,
                1,
                (&name, pool),
                Some(&BTreeMap::new()),
                &Quota::default(),
                &Corrections::default(),
            );
            assert!(said.offers.is_empty());
            said.none.unwrap()
        };
        pool.kinds.retain(|kind| kind.name.starts_with("g6."));
        assert!(none(&pool).contains("L40S with 48 GB"), "{}", none(&pool));
        pool.cloud = Cloud::None;
        assert!(none(&pool).contains("your own"));
    }

    #[test]
    fn a_quota_that_admits_no_type_is_named() {
        let pool = PoolConfig {
            cloud: Cloud::Aws,
            ..PoolConfig::default()
        };
        let quota = |left| Quota {
            left: [(Lifecycle::Spot, left)].into(),
            vcpus: pool.kinds.iter().map(|k| (k.name.clone(), 4)).collect(),
        };
        let name = PoolName::parse("default").unwrap();
        let query: QuoteQuery = serde_json::from_str(r#"{"task": {"model": "ti2v-5B"}}"#).unwrap();
        let spec = query.spec(Timestamp::UNIX_EPOCH).unwrap();
        let with = |left, prices: Option<&BTreeMap<String, Usd>>| {
            let learnt = Corrections::default();
            super::quote(&spec, 1, (&name, &pool), prices, &quota(left), &learnt)
        };
        let why = with(3, None).none.unwrap();
        for words in ["quota L-3819A6DF of 3 vCPUs", "has 4; ask AWS"] {
            assert!(why.contains(words), "{why}");
        }
        assert_eq!(with(4, None).none, None);
        let none = with(3, Some(&BTreeMap::new())).none.unwrap();
        assert!(
            none.contains("above its cap"),
            "no quota helps there: {none}"
        );
    }

    #[test]
    fn a_task_that_breaks_a_rule_is_refused_as_a_submission_would_be() {
        let refused = |json: &str| {
            let query: QuoteQuery = serde_json::from_str(json).unwrap();
            let broken = query.spec(Timestamp::UNIX_EPOCH).unwrap_err();
            let fields = broken.into_iter().map(|broken| broken.field);
            fields.collect::<Vec<_>>()
        };
        let both = r#"{"task": {"model": "ti2v-5B", "frames": 6}, "tasks": 0}"#;
        assert_eq!(refused(both), ["frames", "tasks"]);
        let many = r#"{"task": {"model": "ti2v-5B"}, "tasks": 1000001}"#;
        assert_eq!(refused(many), ["tasks"]);
    }
}
