//! Metrics of every decision.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use spotreel_api::PoolWhy;
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::trigger::{Mode, Outcome, Prices, Verdict};

const LOOKS: &str = "spotreel_trigger_looks_total";
const QUEUED: &str = "spotreel_trigger_queued_tasks";
const WORK: &str = "spotreel_trigger_work_tasks";
const ARRIVALS: &str = "spotreel_trigger_arrivals_per_hour";
const OLDEST: &str = "spotreel_trigger_oldest_queued_timestamp_seconds";
const OUTCOME: &str = "spotreel_trigger_rule_outcome";
const TASKS_SHORT: &str = "spotreel_trigger_rule_short_tasks";
const WAIT: &str = "spotreel_trigger_rule_wait_seconds";
const DOLLARS: &str = "spotreel_trigger_rule_price_above_dollars";
const PRICE: &str = "spotreel_trigger_price_dollars";
const HELD: &str = "spotreel_trigger_held";
const BLOCKED: &str = "spotreel_trigger_blocked";
const RESIDENT: &str = "spotreel_trigger_resident";
const SPENT: &str = "spotreel_trigger_spent_dollars";
const REQUESTED: &str = "spotreel_trigger_batches_requested_total";
const FAILED: &str = "spotreel_trigger_failures_total";

pub fn describe() {
    describe_counter!(LOOKS, "Reconcile passes");
    describe_gauge!(QUEUED, "Queued tasks, by pool");
    describe_gauge!(WORK, "Unfinished tasks, by pool");
    describe_gauge!(ARRIVALS, "Tasks that arrived in the last hour, by pool");
    describe_gauge!(
        OLDEST,
        "Unix time at which the oldest queued task was submitted; 0 if none is queued"
    );
    describe_gauge!(
        OUTCOME,
        "State of a rule: 2 fires, 1 waits for time, 0 lacks tasks, -1 is off"
    );
    describe_gauge!(TASKS_SHORT, "Tasks that a rule still lacks");
    describe_gauge!(WAIT, "Seconds that a rule still waits");
    describe_gauge!(
        DOLLARS,
        "Dollars by which the price is above a rule's limit"
    );
    describe_gauge!(
        PRICE,
        "Lowest usable price of a unit hour in dollars, by pool"
    );
    describe_gauge!(HELD, "1 while an operator holds launches, by pool");
    describe_gauge!(
        BLOCKED,
        "1 while a rule fires and something stands against it"
    );
    describe_gauge!(
        RESIDENT,
        "Units that stay without tasks (hybrid mode), by pool"
    );
    describe_gauge!(SPENT, "Cost of all pools in dollars, by period (UTC)");
    describe_counter!(REQUESTED, "Requested batches, by pool and rule");
    describe_counter!(FAILED, "Failed decisions, by pool");
}

pub fn looked() {
    counter!(LOOKS).increment(1);
}

pub fn requested(pool: &PoolName, rule: &str) {
    counter!(REQUESTED, "pool" => pool.to_string(), "rule" => rule.to_owned()).increment(1);
}

pub fn failed(pool: &PoolName) {
    counter!(FAILED, "pool" => pool.to_string()).increment(1);
}

pub fn decided(why: &PoolWhy) {
    let (view, decision) = (&why.view, &why.decision);
    let set = |name: &'static str, value: f64| {
        gauge!(name, "pool" => why.pool.to_string()).set(value);
    };
    set(QUEUED, view.queued as f64);
    set(WORK, view.work as f64);
    set(ARRIVALS, view.arrivals_per_hour as f64);
    set(
        OLDEST,
        view.oldest_queued_at
            .map_or(0.0, |at| at.as_second() as f64),
    );
    set(HELD, f64::from(u8::from(view.hold.is_some())));
    let blocked = matches!(decision.verdict, Verdict::Blocked { .. });
    set(BLOCKED, f64::from(u8::from(blocked)));
    let stays = decision.mode.mode == Mode::Resident;
    set(
        RESIDENT,
        if stays {
            f64::from(decision.mode.resident_units)
        } else {
            0.0
        },
    );
    if let Prices::Known(market) = &view.prices {
        set(
            PRICE,
            market
                .usable
                .as_ref()
                .map_or(f64::NAN, |quote| dollars(quote.price)),
        );
    }
    for finding in &decision.findings {
        let rule = |name: &'static str, value: f64| {
            gauge!(name, "pool" => why.pool.to_string(), "rule" => finding.rule.as_str())
                .set(value);
        };
        rule(
            OUTCOME,
            match finding.outcome {
                Outcome::Fires => 2.0,
                Outcome::NotYet => 1.0,
                Outcome::Short => 0.0,
                Outcome::Off => -1.0,
            },
        );
        let distance = &finding.distance;
        rule(TASKS_SHORT, distance.tasks.unwrap_or_default() as f64);
        rule(WAIT, distance.wait.unwrap_or_default().as_secs_f64());
        rule(DOLLARS, distance.dollars.map_or(0.0, dollars));
    }
    gauge!(SPENT, "period" => "day").set(dollars(view.spend.today));
    gauge!(SPENT, "period" => "month").set(dollars(view.spend.this_month));
}

fn dollars(amount: Usd) -> f64 {
    amount.micros() as f64 / 1e6
}
