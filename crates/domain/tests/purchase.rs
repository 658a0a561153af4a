//! What may be bought: trigger and fleet agree on it, and money is kept to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::option;
use proptest::prelude::*;
use spotreel_domain::batch::{
    Batch, BatchId, BlockedBy, DrainMode, Instance, InstanceState, Leaving, Penalty, Wanted,
};
use spotreel_domain::fleet::cloud::{ErrorClass, Lifecycle, Place};
use spotreel_domain::fleet::observation::{Market, Quota, Work, WorkerState};
use spotreel_domain::fleet::{Observation, Policy, offers, reconcile};
use spotreel_domain::pool::{BidMode, PoolConfig, SubnetConfig};
use spotreel_domain::spend::Reserved;
use spotreel_domain::trigger::{
    Budgets, Decision, Prices, RunNow, SizeInput, Spend, Verdict, View, decide, size,
};
use spotreel_domain::{Model, Usd};

use scene::{default_pool, kind_config, market, place_of, wanted, worker};

const KINDS: [(&str, u32); 3] = [("g6.xlarge", 4), ("g5.2xlarge", 8), ("g5.4xlarge", 16)];
const ZONES: [&str; 2] = ["us-east-2a", "us-east-2b"];

fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

/// A pool and all that trigger and fleet see of it.
#[derive(Clone, Debug)]
struct Situation {
    pool: PoolConfig,
    market: Market,
    penalties: Vec<Penalty>,
    quota: Quota,
    spend: Spend,
    tasks: u64,
    seconds_per_task: f64,
}

impl Situation {
    /// 70 tasks of half an hour, g6.xlarge at $0.30 and g5.2xlarge at $0.50 in one zone, and no budget.
    fn usual() -> Self {
        let mut pool = PoolConfig {
            models: vec![Model::Ti2v5b],
            ..scene::pool(&[KINDS[0].0, KINDS[1].0], 60)
        };
        pool.rules.sizing.min = 1;
        let prices = [(KINDS[0].0, 30), (KINDS[1].0, 50)];
        let price = |(kind, cents)| (place_of(kind, ZONES[0]), Usd::from_cents(cents));
        Self {
            pool,
            market: market(prices.map(price)),
            penalties: Vec::new(),
            quota: Quota::default(),
            spend: Spend::default(),
            tasks: 70,
            seconds_per_task: 1_800.0,
        }
    }

    fn policy(&self) -> Policy {
        scene::policy_of(&self.pool)
    }

    /// As trigger's service reads it, when a person has asked for a batch.
    fn view(&self) -> View {
        let (policy, now) = (self.policy(), now());
        let kinds = offers::by_kind(&policy, &self.penalties, &self.market, now);
        let market = offers::summary(
            &policy,
            &self.penalties,
            &self.market,
            &self.quota,
            now,
            now,
        );
        View {
            queued: self.tasks,
            work: self.tasks,
            oldest_queued_at: Some(now),
            prices: Prices::Known(market),
            quota_units: self
                .quota
                .units(Lifecycle::Spot, kinds.keys().map(String::as_str)),
            spend: self.spend,
            seconds_per_task: Some(self.seconds_per_task),
            run_now: Some(RunNow {
                by: "ada".into(),
                at: now,
                force: false,
            }),
            ..View::empty()
        }
    }

    fn decision(&self) -> Decision {
        decide(&self.view(), &self.pool.rules, now())
    }

    fn batch(&self, units: u32) -> Batch {
        let wanted = Wanted {
            rule: "run_now".into(),
            why: "ada asked".into(),
            ..wanted(units, now())
        };
        Batch {
            penalties: self.penalties.clone(),
            ..Batch::request(&default_pool(), None, wanted, now()).unwrap()
        }
    }

    /// As fleet's service reads it.
    fn observation(&self) -> Observation {
        let input = SizeInput {
            tasks: self.tasks,
            seconds_per_task: Some(self.seconds_per_task),
            ..SizeInput::default()
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let seconds = (self.tasks as f64 * self.seconds_per_task) as u64;
        Observation {
            work: Some(Work {
                runnable: self.tasks,
                rendering: 0,
                sized: size(&input, &self.pool.rules.sizing).units,
                seconds,
            }),
            market: Some(self.market.clone()),
            spent: Some(self.spend),
            quota: self.quota.clone(),
            ..scene::observation(now())
        }
    }

    /// Units of the first launch, and its instance types.
    fn launched(&self) -> Result<(u32, Vec<String>), String> {
        let round = reconcile(&self.batch(1), &self.observation(), &self.policy());
        let Some(launch) = round.batch.launches.first() else {
            return Err(round.batch.blocked.unwrap().sentence);
        };
        let request = launch.frozen_request();
        let kinds = request.unwrap().overrides.into_iter();
        Ok((launch.units, kinds.map(|o| o.place.kind).collect()))
    }
}

fn penalty(place: Place, class: ErrorClass, seconds: i64) -> Penalty {
    Penalty {
        place: Some(place),
        lifecycle: Lifecycle::Spot,
        class,
        code: "InsufficientInstanceCapacity".into(),
        message: "none".into(),
        until: now() + SignedDuration::from_secs(seconds),
        times: 1,
    }
}

prop_compose! {
    fn budgets()(
        per_hour in option::weighted(0.3, 1i64..2_000_000),
        per_batch in option::weighted(0.3, 1i64..5_000_000),
        per_day in option::weighted(0.5, 1i64..20_000_000),
        per_month in option::weighted(0.3, 1i64..50_000_000),
    ) -> Budgets {
        Budgets {
            per_hour: per_hour.map(Usd::from_micros),
            per_batch: per_batch.map(Usd::from_micros),
            per_day: per_day.map(Usd::from_micros),
            per_month: per_month.map(Usd::from_micros),
        }
    }
}

prop_compose! {
    fn situations()(
        kinds in 1usize..=3,
        zones in 1usize..=2,
        cap in 10i64..80,
        prices in prop::collection::vec(option::weighted(0.8, 5i64..100), 6),
        penalties in prop::collection::vec((0usize..6, any::<bool>(), -600i64..600), 0..6),
        sizes_known in prop::bool::weighted(0.8),
        vcpus_left in option::weighted(0.5, 0u32..64),
        budgets in budgets(),
        spend in (0i64..1_000_000, 0i64..10_000_000, 0i64..30_000_000),
        tasks in 1u64..500,
        seconds_per_task in 1.0f64..5_000.0,
        target_minutes in 1u64..300,
        (min, max) in (0u32..5, 1u32..60),
        strict in any::<bool>(),
    ) -> Situation {
        let places: Vec<_> = KINDS
            .iter()
            .flat_map(|(kind, _)| ZONES.map(|zone| place_of(kind, zone)))
            .collect();
        let mut situation = Situation::usual();
        let pool = &mut situation.pool;
        let cap = Usd::from_cents(cap);
        pool.kinds = KINDS[..kinds].iter().map(|(name, _)| kind_config(name, cap)).collect();
        pool.subnets = ZONES[..zones].iter().map(|zone| SubnetConfig {
            id: format!("subnet-{zone}"),
            zone: (*zone).into(),
        }).collect();
        pool.bid = if strict { BidMode::Strict } else { BidMode::Balanced };
        pool.rules.budgets = budgets;
        pool.rules.sizing.target = Duration::from_secs(60 * target_minutes);
        (pool.rules.sizing.min, pool.rules.sizing.max) = (min, max.max(min));
        situation.market.spot = places
            .iter()
            .zip(prices)
            .filter_map(|(place, cents)| Some((place.clone(), Usd::from_cents(cents?))))
            .collect();
        situation.penalties = penalties.into_iter().map(|(at, doubtful, seconds)| {
            let class = if doubtful { ErrorClass::Doubtful } else { ErrorClass::Capacity };
            penalty(places[at].clone(), class, seconds)
        }).collect();
        situation.quota = Quota {
            left: vcpus_left.map(|left| (Lifecycle::Spot, left)).into_iter().collect(),
            vcpus: KINDS
                .into_iter()
                .filter(|_| sizes_known)
                .map(|(kind, vcpus)| (kind.to_owned(), vcpus))
                .collect(),
        };
        situation.spend = Spend {
            per_hour: Usd::from_micros(spend.0),
            today: Usd::from_micros(spend.1),
            this_month: Usd::from_micros(spend.2),
            ..Spend::default()
        };
        (situation.tasks, situation.seconds_per_task) = (tasks, seconds_per_task);
        situation
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whenever_trigger_fires_fleet_launches_a_machine_at_least(situation in situations()) {
        let decision = situation.decision();
        if let Verdict::Launch(fire) = &decision.verdict {
            let batch = situation.batch(fire.units);
            let round = reconcile(&batch, &situation.observation(), &situation.policy());
            let units: u32 = round.batch.launches.iter().map(|launch| launch.units).sum();
            prop_assert!(units > 0, "{:?}\n{:?}", decision, round.batch.blocked);
        }
    }

    #[test]
    fn no_launch_goes_beyond_what_a_budget_has_left(situation in situations()) {
        let (observation, policy) = (situation.observation(), situation.policy());
        let round = reconcile(&situation.batch(5), &observation, &policy);
        if let Some(launch) = round.batch.launches.first() {
            let cheapest = situation.market.spot.values().min().unwrap().times(launch.units);
            let (spend, budgets) = (situation.spend, policy.budget);
            prop_assert!(budgets.per_hour.is_none_or(|most| spend.per_hour + cheapest <= most));
            prop_assert!(budgets.per_day.is_none_or(|most| spend.today < most));
            prop_assert!(budgets.per_month.is_none_or(|most| spend.this_month < most));
        }
    }
}

#[test]
fn a_queue_that_is_worth_more_than_the_day_has_is_rendered_as_far_as_the_money_goes() {
    let mut poor = Situation::usual();
    poor.market.spot.remove(&place_of(KINDS[1].0, ZONES[0]));
    // 35 hours at $0.30 are $10.50; a machine until the target of two hours is $0.60.
    poor.pool.rules.budgets.per_day = Some(Usd::from_cents(1_000));
    assert_eq!(poor.launched().unwrap().0, 10, "the most of one launch");
    poor.pool.rules.budgets.per_day = Some(Usd::from_cents(200));
    assert_eq!(poor.launched().unwrap().0, 3);
    poor.pool.rules.budgets.per_day = Some(Usd::from_cents(20));
    assert_eq!(poor.launched().unwrap().0, 1, "it pays for a task");
    poor.pool.rules.budgets.per_day = Some(Usd::from_cents(10));
    let why = poor.launched().unwrap_err();
    assert!(
        why.contains("budgets.per_day") && why.contains("$0.1500"),
        "{why}"
    );
}

#[test]
fn machines_that_are_too_dear_are_left_out() {
    let mut bounded = Situation::usual();
    bounded.pool.rules.budgets.per_hour = Some(Usd::from_cents(45));
    assert_eq!(bounded.launched(), Ok((1, vec![KINDS[0].0.into()])));
    bounded.pool.rules.budgets.per_hour = Some(Usd::from_cents(25));
    assert!(bounded.launched().is_err());
}

#[test]
fn types_that_the_quota_does_not_admit_are_left_out() {
    let mut small = Situation::usual();
    small.quota = Quota {
        left: [(Lifecycle::Spot, 7)].into(),
        vcpus: KINDS.map(|(kind, vcpus)| (kind.to_owned(), vcpus)).into(),
    };
    assert_eq!(small.launched(), Ok((1, vec![KINDS[0].0.into()])));
    small.quota.left = BTreeMap::from([(Lifecycle::Spot, 3)]);
    let why = small.launched().unwrap_err();
    assert!(why.contains("3 vCPUs"), "{why}");
    small.quota.left.clear();
    assert_eq!(small.launched().unwrap().0, 10, "not known is no limit");
}

#[test]
fn a_type_that_the_quota_does_not_admit_makes_no_other_one_cheap() {
    // The cheap type is too large for what is left, and the one that fits is too dear.
    let mut situation = Situation::usual();
    let cheap = place_of(KINDS[1].0, ZONES[0]);
    situation.market.spot.insert(cheap, Usd::from_cents(5));
    situation.pool.rules.budgets.per_hour = Some(Usd::from_cents(20));
    assert_eq!(situation.launched(), Ok((4, vec![KINDS[1].0.into()])));
    situation.quota = Quota {
        left: [(Lifecycle::Spot, 7)].into(),
        vcpus: KINDS.map(|(kind, vcpus)| (kind.to_owned(), vcpus)).into(),
    };
    assert!(situation.launched().is_err());
    let verdict = situation.decision().verdict;
    assert!(matches!(verdict, Verdict::Blocked { .. }), "{verdict:?}");
}

#[test]
fn what_other_pools_spend_counts() {
    let mut second = Situation::usual();
    second.pool.rules.budgets.per_day = Some(Usd::from_cents(100));
    second.spend.today = Usd::from_cents(90);
    assert!(second.launched().is_err(), "a task needs $0.15");
    second.spend.today = Usd::from_cents(60);
    assert_eq!(second.launched().unwrap().0, 1);
    // $0.40 are left; while a task is rendered the other pool takes $0.50 of it.
    second.spend.per_hour = Usd::from_cents(100);
    assert!(second.launched().is_err());
    assert!(!matches!(second.decision().verdict, Verdict::Launch(_)));
}

#[test]
fn what_another_pool_is_about_to_launch_is_spent() {
    let mut second = Situation::usual();
    second.pool.rules.budgets.per_hour = Some(Usd::from_cents(160));
    let id = BatchId::parse("large-4").unwrap();
    let with = |per_hour| View {
        reserved: Reserved {
            per_hour,
            batches: vec![(id.clone(), 3)],
        },
        ..second.view()
    };
    let verdict = |view: &View| decide(view, &second.pool.rules, now()).verdict;
    let some = verdict(&with(Usd::from_cents(120)));
    assert!(
        matches!(&some, Verdict::Launch(fire) if fire.units == 1),
        "{some:?}"
    );
    match verdict(&with(Usd::from_cents(135))) {
        Verdict::Blocked { sentence } => {
            let why = "budgets.per_hour of $1.6000 has $0.2500 left, one unit needs $0.3000; 3 units of batch large-4 for up to $1.3500/h come first and are not launched yet";
            assert!(sentence.contains(why), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
}

/// A machine that has rendered for an hour.
fn running(situation: &Situation) -> (Batch, Observation) {
    let mut batch = situation.batch(1);
    let launched_at = now() - SignedDuration::from_hours(1);
    batch.instances.push(Instance {
        ready_at: Some(launched_at),
        state: InstanceState::Serving,
        ..Instance::bought(
            "i-1".into(),
            place_of(KINDS[0].0, ZONES[0]),
            Lifecycle::Spot,
            1,
            launched_at,
            Usd::from_cents(30),
        )
    });
    batch.first_ready_at = Some(launched_at);
    let seen = Observation {
        workers: Some(vec![worker("i-1", WorkerState::Busy)]),
        ..situation.observation()
    };
    (batch, seen)
}

#[test]
fn a_spend_that_cannot_be_read_blocks_launches_and_sends_nobody_home() {
    let mut blind = Situation::usual();
    blind.pool.rules.budgets.per_day = Some(Usd::from_cents(1_000));
    let (batch, mut seen) = running(&blind);
    seen.spent = None;
    let after = reconcile(&batch, &seen, &blind.policy()).batch;
    assert!(after.launches.is_empty());
    let blocked = after.blocked.unwrap();
    assert_eq!(blocked.by, BlockedBy::Budget);
    assert!(
        blocked.sentence.contains("cannot be read"),
        "{}",
        blocked.sentence
    );
    assert_eq!(after.instances[0].state, InstanceState::Serving);
    // Without a budget over all pools nobody has to know.
    blind.pool.rules.budgets = Budgets {
        per_batch: Some(Usd::from_cents(1_000)),
        ..Budgets::default()
    };
    let free = reconcile(&batch, &seen, &blind.policy()).batch;
    assert_eq!(free.launches.len(), 1);
}

#[test]
fn a_budget_that_another_pool_has_used_up_ends_what_runs_here() {
    let mut situation = Situation::usual();
    situation.pool.rules.budgets.per_day = Some(Usd::from_cents(1_000));
    situation.spend.today = Usd::from_cents(969);
    let (batch, seen) = running(&situation);
    let state = |seen: &Observation| {
        let after = reconcile(&batch, seen, &situation.policy()).batch;
        after.instances[0].state.clone()
    };
    // This one's hour has cost $0.30.
    assert_eq!(state(&seen), InstanceState::Serving);
    let spent = Observation {
        spent: Some(Spend {
            today: Usd::from_cents(970),
            ..Spend::default()
        }),
        ..seen
    };
    assert!(matches!(
        state(&spent),
        InstanceState::Draining {
            why: Leaving::Budget,
            mode: DrainMode::Now,
            ..
        }
    ));
}
