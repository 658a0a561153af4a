//! Checks rules for contradictions and impossible values, and names the remedy.

use std::fmt;
use std::time::Duration;

use super::rules::{Budgets, HybridRule, Rules, ScheduleRule, Sizing, USUAL_TASKS_PER_GPU_HOUR};
use super::schedule::{BadSchedule, Calendar};
use super::words::span;
use crate::money::Usd;

/// Hardly any GPU on Spot costs less an hour (g6 in eu-south-2, the cheapest price found, was $0.09): a budget below
/// this is a slip of the pen, whatever the market does.
const CHEAPEST_UNIT: Usd = Usd::from_cents(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesProblem {
    /// As it stands in the configuration, below the rules' own table.
    pub key: &'static str,
    /// What is wrong.
    pub rule: String,
    pub cure: String,
}

impl fmt::Display for RulesProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.rule, self.cure)
    }
}

impl Rules {
    /// All that is wrong with them, without a look at the market.
    pub fn validate(&self) -> Result<(), Vec<RulesProblem>> {
        self.validate_at(CHEAPEST_UNIT)
    }

    /// As [`Rules::validate`], with what a unit costs an hour: the cheapest cap of the configured pools, or a price.
    /// Zero where machines cost nothing.
    pub fn validate_at(&self, unit_price: Usd) -> Result<(), Vec<RulesProblem>> {
        let mut found = Vec::new();
        self.check_counts(&mut found);
        check_sizing(&self.sizing, &mut found);
        if let Some(schedule) = &self.schedule {
            check_schedule(schedule, &mut found);
        }
        if let Some(hybrid) = &self.hybrid {
            check_hybrid(hybrid, &self.sizing, &mut found);
        }
        check_budgets(&self.budgets, self.sizing.target, unit_price, &mut found);
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn check_counts(&self, found: &mut Vec<RulesProblem>) {
        let counts = [
            ("length.at_least", self.length.as_ref().map(|r| r.at_least)),
            ("age.at_least", self.age.as_ref().map(|r| r.at_least)),
            ("price.at_least", self.price.as_ref().map(|r| r.at_least)),
            (
                "schedule.at_least",
                self.schedule.as_ref().map(|r| r.at_least),
            ),
        ];
        for (key, at_least) in counts {
            if at_least == Some(0) {
                found.push(problem(
                    key,
                    "no batch is made for 0 tasks",
                    "set 1 or more",
                ));
            }
        }
        if self.price.as_ref().is_some_and(|r| !r.below.is_positive()) {
            found.push(problem(
                "price.below",
                "no price is below $0",
                "set a price per hour, or price = \"off\"",
            ));
        }
        if self.max_wait.as_ref().is_some_and(|r| r.after.is_zero()) {
            found.push(problem(
                "max_wait.after",
                "with 0s every task is a batch of its own",
                "set how long a task may wait, or length.at_least = 1 if that is what is meant",
            ));
        }
        let rules = [
            self.length.is_some(),
            self.age.is_some(),
            self.price.is_some(),
            self.schedule.is_some(),
            self.max_wait.is_some(),
            self.hybrid.is_some(),
        ];
        if !rules.contains(&true) {
            found.push(problem(
                "max_wait",
                "every rule is off: nothing would ever run by itself",
                "switch one on; max_wait alone is enough",
            ));
        }
    }
}

fn check_sizing(sizing: &Sizing, found: &mut Vec<RulesProblem>) {
    if let Some(speed) = sizing.tasks_per_gpu_hour
        && !(speed.is_finite() && speed > 0.0)
    {
        found.push(problem(
            "sizing.tasks_per_gpu_hour",
            format!("{speed} tasks an hour never end"),
            "set a number above 0, or leave it out",
        ));
    }
    if sizing.target.is_zero() {
        found.push(problem(
            "sizing.target",
            "no number of units works a queue off in 0s",
            "set the time in which a batch should be done; 2h is the preset",
        ));
    }
    if sizing.max == 0 {
        found.push(problem(
            "sizing.max",
            "0 units render nothing",
            "set 1 or more",
        ));
    }
    if sizing.min > sizing.max {
        found.push(problem(
            "sizing.min",
            format!("{} is above sizing.max = {}", sizing.min, sizing.max),
            format!("set it to {} or less", sizing.max),
        ));
    }
}

fn check_schedule(rule: &ScheduleRule, found: &mut Vec<RulesProblem>) {
    let calendar = match Calendar::new(&rule.cron, &rule.zone) {
        Ok(calendar) => calendar,
        Err(error) => {
            let (key, cure) = match error {
                BadSchedule::Cron { .. } => ("schedule.cron", "write it as \"0 2 * * *\""),
                BadSchedule::Zone(_) => (
                    "schedule.zone",
                    "write a name such as \"America/New_York\" or \"UTC\"",
                ),
            };
            found.push(problem(key, error.to_string(), cure));
            return;
        }
    };
    if rule.window.is_zero() {
        found.push(problem(
            "schedule.window",
            "a slot that is open for 0s is never met",
            "set how long after its time it may still fire; 10m is the preset",
        ));
    }
    match calendar.period() {
        Some(period) if rule.window > period => found.push(problem(
            "schedule.window",
            format!(
                "{} is longer than the {} from one slot to the next",
                span(rule.window),
                span(period)
            ),
            format!("set it to {} or less", span(period)),
        )),
        Some(_) => {}
        None => found.push(problem(
            "schedule.cron",
            format!("{:?} never comes", rule.cron),
            "write a day that exists",
        )),
    }
}

fn check_hybrid(rule: &HybridRule, sizing: &Sizing, found: &mut Vec<RulesProblem>) {
    if rule.on_demand_below >= rule.resident_above {
        found.push(problem(
            "hybrid.on_demand_below",
            format!(
                "{} is not below hybrid.resident_above = {}: the thresholds overlap and the mode would flap",
                rule.on_demand_below, rule.resident_above
            ),
            "leave room between them; half is the preset",
        ));
    }
    if rule.dwell.is_zero() {
        found.push(problem(
            "hybrid.dwell",
            "with 0s every change of the rate may change the mode",
            "set 1h, the time over which arrivals are measured",
        ));
    }
    let Some(units) = rule.resident_units else {
        return;
    };
    if units == 0 || units > sizing.max {
        found.push(problem(
            "hybrid.resident_units",
            format!("{units} is not within 1 and sizing.max = {}", sizing.max),
            "set a number within, or leave it out",
        ));
        return;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate of arrivals is far below 2^53"
    )]
    let arrivals = rule.resident_above as f64;
    let speed = sizing
        .tasks_per_gpu_hour
        .unwrap_or(USUAL_TASKS_PER_GPU_HOUR);
    let rendered = f64::from(units) * speed;
    if rendered < arrivals {
        let needed = (arrivals / speed).ceil();
        found.push(problem(
            "hybrid.resident_units",
            format!(
                "{units} render {rendered} tasks/h, fewer than hybrid.resident_above = {arrivals}"
            ),
            format!("set {needed} or more, or leave it out"),
        ));
    }
}

fn check_budgets(
    budgets: &Budgets,
    target: Duration,
    unit_price: Usd,
    found: &mut Vec<RulesProblem>,
) {
    let for_target = unit_price.per_hour_for(target);
    let each = [
        (
            "budgets.per_hour",
            budgets.per_hour,
            unit_price,
            "an hour".to_owned(),
        ),
        (
            "budgets.per_batch",
            budgets.per_batch,
            for_target,
            span(target),
        ),
        ("budgets.per_day", budgets.per_day, for_target, span(target)),
        (
            "budgets.per_month",
            budgets.per_month,
            for_target,
            span(target),
        ),
    ];
    for (key, budget, needs, how_long) in each {
        let Some(budget) = budget else { continue };
        if budget < needs || !budget.is_positive() {
            found.push(problem(
                key,
                format!("{budget} does not pay one unit for {how_long} ({needs})"),
                "raise it, or write \"off\" for no limit",
            ));
        }
    }
    let larger = [
        (
            "budgets.per_day",
            budgets.per_day,
            "budgets.per_month",
            budgets.per_month,
        ),
        (
            "budgets.per_batch",
            budgets.per_batch,
            "budgets.per_month",
            budgets.per_month,
        ),
    ];
    for (key, inner, outer_key, outer) in larger {
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner > outer
        {
            found.push(problem(
                key,
                format!("{inner} is above {outer_key} = {outer} and can never be reached"),
                "lower it, or raise the other",
            ));
        }
    }
}

fn problem(key: &'static str, rule: impl Into<String>, cure: impl Into<String>) -> RulesProblem {
    RulesProblem {
        key,
        rule: rule.into(),
        cure: cure.into(),
    }
}
