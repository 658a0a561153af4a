//! `spotreel why`: what each rule lacks, in plain sentences.

use jiff::Timestamp;
use spotreel_api::{PoolWhy, Why, WhyQuery};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::pool::Cloud;
use spotreel_domain::trigger::{Budgets, Decision, Distance, Prices, RuleOutcome, Verdict};

use crate::args::WhyArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, field, line, relative};

pub async fn run(settings: &Settings, args: WhyArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let why: Why = api.call(names::WHY, &WhyQuery { pool: args.pool }).await?;
    if args.json {
        print::json(&why);
    } else {
        if let Some(error) = &why.error {
            eprintln!(
                "spotreel: trigger cannot read the current state; this is the last known one: {error}"
            );
        }
        for batch in &why.gone {
            let told = "its pool is not in pools.toml any more: fleet drains it, and its cost counts in all budgets";
            field("gone", &format!("batch {batch}: {told}"));
        }
        for (index, pool) in why.pools.iter().enumerate() {
            if index > 0 {
                line("");
            }
            show(pool, ambient::now());
        }
    }
    Ok(match why.error {
        Some(_) => Done::Failed,
        None => Done::Well,
    })
}

fn show(why: &PoolWhy, now: Timestamp) {
    let (decision, view) = (&why.decision, &why.view);
    let models: Vec<_> = why.models.iter().map(|model| model.as_str()).collect();
    field("pool", &format!("{} ({})", why.pool, models.join(", ")));
    field("queue", &queue(why));
    field("verdict", &verdict(decision));
    field("forecast", &forecast(decision));
    for blocker in &decision.blockers {
        let since = blocker.since.map(|at| format!(" ({})", relative(now, at)));
        let text = format!("{}{}", blocker.sentence, since.unwrap_or_default());
        field("blocked", &text);
    }
    field("price", &price(&view.prices, now));
    if why.cloud == Cloud::Aws {
        field(
            "spent",
            &format!(
                "{} an hour now, {} today, {} this month",
                view.spend.per_hour, view.spend.today, view.spend.this_month
            ),
        );
        field("budgets", &budgets(&why.budgets));
    }
    line("");
    let rows: Vec<_> = decision
        .findings
        .iter()
        .map(|finding| {
            [
                finding.rule.to_string(),
                outcome(finding.outcome).to_owned(),
                lacks(&finding.distance),
                finding.sentence.clone(),
            ]
        })
        .collect();
    print::table(["RULE", "STATE", "LACKS", ""], &rows);
}

/// Tasks that wait and that are rendered.
pub fn queue(why: &PoolWhy) -> String {
    let (queued, work) = (why.view.queued, why.view.work);
    let rendered = work.saturating_sub(queued);
    format!("{queued} queued, {rendered} in workers' hands")
}

/// What blocks a rule that fires is told apart.
pub fn verdict(decision: &Decision) -> String {
    let mut findings = decision.findings.iter();
    match &decision.verdict {
        Verdict::Launch(fire) => format!("launch {} because of {}", fire.units, fire.why),
        Verdict::Wait { sentence } => format!("wait: {sentence}"),
        Verdict::Blocked { sentence } => match findings.find(|f| f.outcome == RuleOutcome::Fires) {
            Some(fires) if !decision.blockers.is_empty() => {
                format!("blocked: {}: {}", fires.rule, fires.sentence)
            }
            _ => format!("blocked: {sentence}"),
        },
    }
}

fn forecast(decision: &Decision) -> String {
    let forecast = &decision.forecast;
    match (forecast.rule, forecast.by) {
        (Some(rule), None) => format!("{rule} starts a batch once it is not blocked"),
        _ => forecast.sentence.clone(),
    }
}

fn outcome(outcome: RuleOutcome) -> &'static str {
    match outcome {
        RuleOutcome::Fires => "FIRES",
        RuleOutcome::Short => "short",
        RuleOutcome::NotYet => "not yet",
        RuleOutcome::Off => "off",
    }
}

fn budgets(budgets: &Budgets) -> String {
    let set: Vec<_> = [
        ("an hour", budgets.per_hour),
        ("a batch", budgets.per_batch),
        ("a day", budgets.per_day),
        ("a month", budgets.per_month),
    ]
    .into_iter()
    .filter_map(|(what, most)| Some(format!("{} {what}", most?)))
    .collect();
    match set.is_empty() {
        true => "none set: only the price caps and sizing.max limit the spend".to_owned(),
        false => set.join(", "),
    }
}

fn lacks(distance: &Distance) -> String {
    let tasks = distance.tasks.map(|tasks| match tasks {
        1 => "1 task".to_owned(),
        tasks => format!("{tasks} tasks"),
    });
    let wait = distance.wait.map(|wait| print::span(wait.as_secs().max(1)));
    let dollars = distance.dollars.map(|dollars| format!("{dollars} less"));
    let parts: Vec<_> = [tasks, wait, dollars].into_iter().flatten().collect();
    parts.join(" and ")
}

fn price(prices: &Prices, now: Timestamp) -> String {
    match prices {
        Prices::NoCloud => "none: the machines are your own".to_owned(),
        Prices::Unknown { since, reason } => {
            format!("not known since {}: {reason}", relative(now, *since))
        }
        Prices::Known(market) => {
            let as_of = relative(now, market.as_of);
            match (&market.usable, &market.cheapest) {
                (Some(quote), _) => format!(
                    "{} an hour: {}, cap {} (asked {as_of})",
                    quote.price, quote.pool, quote.cap
                ),
                (None, Some(quote)) => format!(
                    "nothing under its cap; cheapest is {} at {}, cap {} (asked {as_of})",
                    quote.pool, quote.price, quote.cap
                ),
                (None, None) => format!("no configured instance type has one (asked {as_of})"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use spotreel_domain::money::Usd;

    use super::*;

    #[test]
    fn budgets_are_told_also_when_there_is_none() {
        assert!(budgets(&Budgets::default()).starts_with("none set"));
        let some = Budgets {
            per_hour: Some(Usd::from_cents(300)),
            per_day: Some(Usd::from_cents(2_000)),
            ..Budgets::default()
        };
        assert_eq!(budgets(&some), "$3.0000 an hour, $20.0000 a day");
    }

    #[test]
    fn what_is_lacking_is_said_in_words() {
        let distance = |tasks, wait, cents: Option<i64>| Distance {
            tasks,
            wait,
            dollars: cents.map(Usd::from_cents),
        };
        assert_eq!(lacks(&distance(Some(2), None, None)), "2 tasks");
        let wait = Some(Duration::from_secs(90));
        assert_eq!(lacks(&distance(Some(1), wait, None)), "1 task and 90 s");
        assert_eq!(lacks(&distance(None, None, Some(3))), "$0.0300 less");
        assert_eq!(lacks(&Distance::default()), "");
    }
}
