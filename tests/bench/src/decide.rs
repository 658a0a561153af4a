//! The pure decisions with a million tasks in the queue against ten: nothing in them may grow with the queue.

use std::hint::black_box;
use std::time::Instant;

use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, PoolName, Wanted};
use spotreel_domain::fleet::cloud::Place;
use spotreel_domain::fleet::observation::{Market, Quota, Work};
use spotreel_domain::fleet::{Observation, Policy, reconcile};
use spotreel_domain::pool::{PoolConfig, PoolTemplate, SubnetConfig};
use spotreel_domain::spend::Spend;
use spotreel_domain::trigger::{CapacityPoolPrice, Prices, Rules, Sizing, View, decide};

use super::figure::Figure;
use super::samples::Samples;

pub const FEW: u64 = 10;
pub const MANY: u64 = 1_000_000;
const GOAL: f64 = 1.05;
/// Blocks of either length of the queue in turn: a machine that slows down slows both.
const BLOCKS: usize = 60;
const CALLS_A_BLOCK: u32 = 300;
/// A call that takes microseconds is only ever made slower by what else runs: the blocks that were least disturbed count.
const QUOTED: f64 = 10.0;
/// The same number for both: the size of a fleet is not the length of a queue.
const MACHINES: u32 = 5;

pub fn run() -> Vec<Figure> {
    let now = ambient::now();
    let setting = |what: &str| {
        format!(
            "{what} with {MANY} queued tasks against {FEW}, same rules fired and {MACHINES} machines wanted in both; \
             microseconds a call, 10th percentile of {BLOCKS} blocks of {CALLS_A_BLOCK} in turn; spotreel-domain at opt-level 2"
        )
    };
    let rules = rules();
    let [few, many] = [FEW, MANY].map(|tasks| view(tasks, now));
    let (ours, reference) = in_turn(
        || drop(black_box(decide(black_box(&many), &rules, now))),
        || drop(black_box(decide(black_box(&few), &rules, now))),
    );
    let decided = Figure::new(
        "decide at 1,000,000 / at 10, µs",
        ours,
        reference,
        Some(GOAL),
        setting("trigger's decide"),
    );
    let policy = policy();
    let batch = batch(now);
    let [few, many] = [FEW, MANY].map(|tasks| observation(tasks, now, &policy));
    let (ours, reference) = in_turn(
        || drop(black_box(reconcile(&batch, black_box(&many), &policy))),
        || drop(black_box(reconcile(&batch, black_box(&few), &policy))),
    );
    let planned = Figure::new(
        "plan at 1,000,000 / at 10, µs",
        ours,
        reference,
        Some(GOAL),
        setting("fleet's reconcile, from the request to its first launch intent,"),
    );
    vec![decided, planned]
}

/// Microseconds a call, of either.
fn in_turn(mut ours: impl FnMut(), mut reference: impl FnMut()) -> (f64, f64) {
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for block in 0..=BLOCKS {
        let (ours, reference) = (timed(&mut ours), timed(&mut reference));
        // The first warms the caches.
        if block > 0 {
            a.add(ours);
            b.add(reference);
        }
    }
    (a.percentile(QUOTED), b.percentile(QUOTED))
}

fn timed(call: &mut impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS_A_BLOCK {
        call();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS_A_BLOCK)
}

/// As shipped, but every least number is met by the short queue too.
fn rules() -> Rules {
    let mut rules = Rules::default();
    if let Some(rule) = &mut rules.length {
        rule.at_least = FEW;
    }
    if let Some(rule) = &mut rules.age {
        rule.at_least = FEW;
    }
    if let Some(rule) = &mut rules.price {
        rule.at_least = FEW;
    }
    if let Some(rule) = &mut rules.schedule {
        rule.at_least = FEW;
    }
    rules.sizing = Sizing {
        min: MACHINES,
        max: MACHINES,
        ..Sizing::default()
    };
    rules
}

fn view(tasks: u64, now: Timestamp) -> View {
    let quote = CapacityPoolPrice {
        pool: "g6.xlarge in us-east-2a".into(),
        price: Usd::from_cents(27),
        cap: Usd::from_cents(36),
    };
    View {
        queued: tasks,
        work: tasks,
        oldest_queued_at: Some(now),
        prices: Prices::Known(spotreel_domain::trigger::PriceSummary {
            as_of: now,
            usable: Some(quote.clone()),
            cheapest: Some(quote),
            usable_pools: 3,
            expected: None,
        }),
        ..View::empty()
    }
}

pub fn policy() -> Policy {
    let zones = ["a", "b", "c"];
    let pool = PoolConfig {
        subnets: zones
            .map(|zone| SubnetConfig {
                id: format!("subnet-{zone}"),
                zone: format!("us-east-2{zone}"),
            })
            .into(),
        ..PoolConfig::default()
    };
    let template = PoolTemplate {
        id: "lt-1".into(),
        version: 1,
        on_demand_version: None,
    };
    let name = PoolName::parse("default").expect("it is a name");
    pool.policy(&name, "bench", "spotreel", template)
}

pub fn batch(now: Timestamp) -> Batch {
    let wanted = Wanted {
        rule: "length".into(),
        why: "enough tasks".into(),
        units: MACHINES,
        slot: None,
        deadline: now + std::time::Duration::from_secs(12 * 3_600),
    };
    let name = PoolName::parse("default").expect("it is a name");
    Batch::request(&name, None, wanted, now).expect("there was none before")
}

pub fn observation(tasks: u64, now: Timestamp, policy: &Policy) -> Observation {
    let places = policy.kinds.iter().flat_map(|kind| {
        policy.subnets.iter().map(|subnet| Place {
            kind: kind.name.clone(),
            zone: subnet.zone.clone(),
        })
    });
    Observation {
        now,
        cloud_now: now,
        listing: Vec::new(),
        workers: Some(Vec::new()),
        work: Some(Work {
            runnable: tasks,
            rendering: 0,
            sized: MACHINES,
            seconds: tasks * 180,
        }),
        needs: Vec::new(),
        market: Some(Market {
            spot: places.map(|place| (place, Usd::from_cents(30))).collect(),
            ..Market::default()
        }),
        in_flight: None,
        spent: Some(Spend::default()),
        quota: Quota::default(),
        keep: 0,
        tasks_done: None,
    }
}
