//! What fleet counts and measures.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use spotreel_domain::batch::{Batch, BlockedBy, Ending, Instance, InstanceState, Leaving, Receipt};
use spotreel_domain::fleet::cloud::ErrorClass;
use spotreel_domain::money::Usd;

spotreel_bootstrap::metrics! {
    Gauge UNITS = "spotreel_fleet_gpus", Count, "Instances, one GPU each, by pool and state";
    Counter LAUNCHES = "spotreel_fleet_launches_total", Count,
        "CreateFleet calls, by pool and outcome";
    Counter INTERRUPTIONS = "spotreel_fleet_interruptions_total", Count,
        "Instances interrupted by EC2, by pool";
    Counter TERMINATIONS = "spotreel_fleet_terminations_total", Count,
        "Instances terminated by fleet, by pool and reason";
    Histogram BOOT = "spotreel_fleet_boot_seconds", Seconds,
        "Time from the launch of an instance until its worker served, by pool";
    Gauge RATE = "spotreel_fleet_dollars_per_hour", Dollars,
        "Current cost per hour in dollars, by pool";
    Gauge COST = "spotreel_fleet_batch_dollars", Dollars,
        "Cost of the active batch in dollars, by pool";
    Counter ROUNDS = "spotreel_fleet_rounds_total", Count, "Reconcile passes, by pool and outcome";
    Gauge BLOCKED = "spotreel_fleet_blocked", Count,
        "1 while the pool's batch cannot launch, by pool and reason";
    Gauge LISTING_AGE = "spotreel_fleet_listing_age_seconds", Seconds,
        "Time since the last listing of instances";
    Gauge PRICES_AGE = "spotreel_fleet_prices_age_seconds", Seconds,
        "Time since the last known Spot prices";
    Gauge CONDITION = "spotreel_fleet_condition", Count,
        "1 while something cannot be seen or done, by what it is";
}

const STATES: [&str; 4] = ["booting", "serving", "draining", "terminating"];

pub fn launched(pool: &str, outcome: &'static str) {
    counter!(LAUNCHES, "pool" => pool.to_owned(), "outcome" => outcome).increment(1);
}

pub fn class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Capacity => "capacity",
        ErrorClass::Doubtful => "doubtful",
        ErrorClass::Price => "price",
        ErrorClass::Quota => "quota",
        ErrorClass::Configuration => "configuration",
        ErrorClass::Throttled => "throttled",
        ErrorClass::Unknown => "unknown",
    }
}

pub fn terminated(pool: &str, why: &str, count: usize) {
    counter!(TERMINATIONS, "pool" => pool.to_owned(), "reason" => why.to_owned())
        .increment(count as u64);
}

pub fn round(pool: &str, outcome: &'static str) {
    counter!(ROUNDS, "pool" => pool.to_owned(), "outcome" => outcome).increment(1);
}

pub fn condition(check: &str, fails: bool) {
    gauge!(CONDITION, "what" => check.to_owned()).set(f64::from(u8::from(fails)));
}

pub fn ages(listing: Option<Duration>, prices: Option<Duration>) {
    let seconds = |age: Option<Duration>| age.map_or(f64::INFINITY, |age| age.as_secs_f64());
    gauge!(LISTING_AGE).set(seconds(listing));
    gauge!(PRICES_AGE).set(seconds(prices));
}

/// What a batch's new state says beside the old one.
pub fn batch(before: &Batch, batch: &Batch, now: jiff::Timestamp) {
    let pool = batch.id.pool.to_string();
    for state in STATES {
        let units = batch.instances.iter().filter(|i| name(&i.state) == state);
        gauge!(UNITS, "pool" => pool.clone(), "state" => state).set(units.count() as f64);
    }
    let taken = |batch: &Batch| {
        let interrupted = |state: &InstanceState| {
            matches!(
                state,
                InstanceState::Gone {
                    ending: Ending::Interrupted,
                    ..
                }
            )
        };
        let all = batch.instances.iter();
        all.filter(|i| interrupted(&i.state)).count() as u64
    };
    counter!(INTERRUPTIONS, "pool" => pool.clone())
        .increment(taken(batch).saturating_sub(taken(before)));
    let new = batch.instances.iter().filter(|instance| {
        let is_it = |old: &&Instance| old.id == instance.id;
        before
            .instances
            .iter()
            .find(is_it)
            .is_none_or(|old| old.ready_at.is_none())
    });
    for boot in new.filter_map(Instance::boot) {
        histogram!(BOOT, "pool" => pool.clone()).record(boot.as_secs_f64());
    }
    let running = batch.instances.iter().filter(|i| !i.is_gone());
    let rate: Usd = running.map(|i| i.rate).sum();
    gauge!(RATE, "pool" => pool.clone()).set(dollars(rate));
    gauge!(COST, "pool" => pool.clone()).set(dollars(Receipt::of(batch, now).total));
    let said = |batch: &Batch| batch.blocked.as_ref().map(|blocked| blocker(blocked.by));
    for (reason, value) in [(said(before), 0.0), (said(batch), 1.0)] {
        if let Some(reason) = reason {
            gauge!(BLOCKED, "pool" => pool.clone(), "reason" => reason).set(value);
        }
    }
}

fn dollars(usd: Usd) -> f64 {
    usd.micros() as f64 / 1e6
}

fn name(state: &InstanceState) -> &'static str {
    match state {
        InstanceState::Booting => "booting",
        InstanceState::Serving => "serving",
        InstanceState::Draining { .. } => "draining",
        InstanceState::Terminating { .. } => "terminating",
        InstanceState::Gone { .. } => "gone",
    }
}

pub fn why(why: Leaving) -> &'static str {
    match why {
        Leaving::ScaleIn => "scale_in",
        Leaving::Rebalance => "rebalance",
        Leaving::Interruption => "interruption",
        Leaving::Deadline => "deadline",
        Leaving::Price => "price",
        Leaving::Silent => "silent",
        Leaving::BootLimit => "boot_limit",
        Leaving::Ordered => "ordered",
        Leaving::Budget => "budget",
        Leaving::Itself => "itself",
        Leaving::Orphan => "orphan",
        Leaving::Missing => "missing",
    }
}

fn blocker(by: BlockedBy) -> &'static str {
    match by {
        BlockedBy::NoPlaceUnderCap => "no_place_under_cap",
        BlockedBy::NoCapacity => "no_capacity",
        BlockedBy::Quota => "quota",
        BlockedBy::Budget => "budget",
        BlockedBy::Configuration => "configuration",
        BlockedBy::PricesUnknown => "prices_unknown",
        BlockedBy::CountsUnknown => "counts_unknown",
        BlockedBy::NeverServed => "never_served",
    }
}
