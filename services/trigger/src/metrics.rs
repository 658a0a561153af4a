//! Metrics of every decision.

use metrics::{counter, gauge};
use spotreel_api::PoolWhy;
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::trigger::{Mode, Prices, RuleOutcome, Verdict};

spotreel_bootstrap::metrics! {
    Counter LOOKS = "spotreel_trigger_looks_total", Count, "Reconcile passes";
    Gauge QUEUED = "spotreel_trigger_queued_tasks", Count, "Queued tasks, by pool";
    Gauge WORK = "spotreel_trigger_work_tasks", Count, "Unfinished tasks, by pool";
    Gauge ARRIVALS = "spotreel_trigger_arrivals_per_hour", Count,
        "Tasks that arrived in the last hour, by pool";
    Gauge OLDEST = "spotreel_trigger_oldest_queued_timestamp_seconds", Seconds,
        "Unix time at which the oldest queued task was submitted; 0 if none is queued";
    Gauge OUTCOME = "spotreel_trigger_rule_outcome", Count,
        "State of a rule: 2 fires, 1 waits for time, 0 lacks tasks, -1 is off";
    Gauge TASKS_SHORT = "spotreel_trigger_rule_short_tasks", Count, "Tasks that a rule still lacks";
    Gauge WAIT = "spotreel_trigger_rule_wait_seconds", Seconds, "Seconds that a rule still waits";
    Gauge DOLLARS = "spotreel_trigger_rule_price_above_dollars", Dollars,
        "Dollars by which the price is above a rule's limit";
    Gauge PRICE = "spotreel_trigger_price_dollars", Dollars,
        "Lowest usable price of a unit hour in dollars, by pool";
    Gauge HELD = "spotreel_trigger_held", Count, "1 while an operator holds launches, by pool";
    Gauge BLOCKED = "spotreel_trigger_blocked", Count,
        "1 while a rule fires and something stands against it";
    Gauge RESIDENT = "spotreel_trigger_resident", Count,
        "Units that stay without tasks (hybrid mode), by pool";
    Gauge SPENT = "spotreel_trigger_spent_dollars", Dollars,
        "Cost of all pools in dollars, by period (UTC)";
    Counter REQUESTED = "spotreel_trigger_batches_requested_total", Count,
        "Requested batches, by pool and rule";
    Counter FAILED = "spotreel_trigger_failures_total", Count, "Failed decisions, by pool";
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
                RuleOutcome::Fires => 2.0,
                RuleOutcome::NotYet => 1.0,
                RuleOutcome::Short => 0.0,
                RuleOutcome::Off => -1.0,
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
