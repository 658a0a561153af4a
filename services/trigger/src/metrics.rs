//! What trigger shows of every decision.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::ops::PoolWhy;
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
    describe_counter!(LOOKS, "Times that the truth was read");
    describe_gauge!(QUEUED, "Tasks that nobody renders, by pool");
    describe_gauge!(WORK, "Tasks that have not ended, by pool");
    describe_gauge!(ARRIVALS, "Tasks that arrived in the last hour, by pool");
    describe_gauge!(OLDEST, "When the oldest queued task came; 0 where none is");
    describe_gauge!(
        OUTCOME,
        "A rule: 2 fires, 1 waits for time, 0 is short, -1 is off"
    );
    describe_gauge!(TASKS_SHORT, "Tasks that a rule still lacks");
    describe_gauge!(WAIT, "Seconds that a rule still waits");
    describe_gauge!(
        DOLLARS,
        "Dollars by which the price is above what a rule wants"
    );
    describe_gauge!(PRICE, "The cheapest usable price of a unit hour, by pool");
    describe_gauge!(HELD, "1 while an operator holds launches, by pool");
    describe_gauge!(
        BLOCKED,
        "1 while a rule fires and something stands against it"
    );
    describe_gauge!(RESIDENT, "Units that stay without tasks, by pool");
    describe_gauge!(SPENT, "What all pools have cost, by period (UTC)");
    describe_counter!(REQUESTED, "Batches asked for, by pool and rule");
    describe_counter!(FAILED, "Decisions that could not be carried out, by pool");
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

#[allow(clippy::cast_precision_loss, reason = "gauges")]
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

#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn dollars(amount: Usd) -> f64 {
    amount.micros() as f64 / 1e6
}
