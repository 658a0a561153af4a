//! Evaluates each rule: whether it fires, and if not, what it lacks.

use std::time::Duration;

use jiff::Timestamp;

use super::decision::{Distance, Finding, Mode, ModeFinding, RuleName, RuleOutcome};
use super::rules::{AgeRule, LengthRule, MaxWaitRule, PriceRule, Rules, ScheduleRule};
use super::schedule::{Calendar, Slot};
use super::view::{PriceSummary, Prices, RunNow, View};
use super::words::{moment, span, tasks};
use crate::money::Usd;
use crate::time::{elapsed, later};

/// Time after which a request to run expires: by then the person has seen that no batch came.
pub const RUN_NOW_LIFE: Duration = Duration::from_secs(3_600);

/// All findings, and what the schedule says beside its own.
pub(super) struct Findings {
    pub all: Vec<Finding>,
    /// The slot that is open and not used.
    pub slot: Option<Slot>,
    /// When the next slot begins.
    pub next_slot: Option<Timestamp>,
}

/// In the order in which rules go before each other.
pub(super) fn all(view: &View, rules: &Rules, mode: &ModeFinding, now: Timestamp) -> Findings {
    let (schedule, slot, next_slot) = match &rules.schedule {
        Some(rule) => schedule(rule, view, now),
        None => (off(RuleName::Schedule), None, None),
    };
    Findings {
        all: vec![
            run_now(view, now),
            hybrid(view, rules, mode),
            rules
                .length
                .as_ref()
                .map_or_else(|| off(RuleName::Length), |rule| length(rule, view)),
            rules
                .age
                .as_ref()
                .map_or_else(|| off(RuleName::Age), |rule| age(rule, view, now)),
            rules
                .price
                .as_ref()
                .map_or_else(|| off(RuleName::Price), |rule| price(rule, view)),
            schedule,
            rules
                .max_wait
                .as_ref()
                .map_or_else(|| off(RuleName::MaxWait), |rule| max_wait(rule, view, now)),
        ],
        slot,
        next_slot,
    }
}

/// A person's wish that no batch has answered and that is not forgotten.
pub(super) fn pending(view: &View, now: Timestamp) -> Option<&RunNow> {
    let answered = |run: &&RunNow| view.past.requested_at.is_some_and(|at| run.at <= at);
    view.run_now
        .as_ref()
        .filter(|run| !answered(run) && elapsed(run.at, now) < RUN_NOW_LIFE)
}

fn run_now(view: &View, now: Timestamp) -> Finding {
    let rule = RuleName::RunNow;
    let Some(run) = pending(view, now) else {
        let sentence = match &view.run_now {
            Some(run) if elapsed(run.at, now) >= RUN_NOW_LIFE => format!(
                "{} requested a batch {} ago, and the request has expired: request it again",
                run.by,
                span(elapsed(run.at, now))
            ),
            Some(run) => format!("the request of {} was carried out", run.by),
            None => "nobody has requested a batch".to_owned(),
        };
        return finding(rule, RuleOutcome::Off, Distance::default(), sentence);
    };
    let force = if run.force { ", held or not" } else { "" };
    let asked = format!("{} asks for a batch now{force}", run.by);
    reach(rule, view.queued, 1, None, &asked)
}

fn hybrid(view: &View, rules: &Rules, mode: &ModeFinding) -> Finding {
    if rules.hybrid.is_none() {
        return off(RuleName::Hybrid);
    }
    let rule = RuleName::Hybrid;
    match mode.mode {
        Mode::Resident => finding(
            rule,
            RuleOutcome::Fires,
            Distance::default(),
            mode.sentence.clone(),
        ),
        Mode::Batch => {
            let above = rules
                .hybrid
                .as_ref()
                .map_or(0, |hybrid| hybrid.resident_above);
            let short = (above + 1).saturating_sub(view.arrivals_per_hour);
            let outcome = if short > 0 {
                RuleOutcome::Short
            } else {
                RuleOutcome::NotYet
            };
            // A rate is not closed by adding tasks to the queue, so this gap is told in the sentence alone.
            finding(rule, outcome, Distance::default(), mode.sentence.clone())
        }
    }
}

fn length(rule: &LengthRule, view: &View) -> Finding {
    reach(RuleName::Length, view.queued, rule.at_least, None, "")
}

fn age(rule: &AgeRule, view: &View, now: Timestamp) -> Finding {
    // The last batch that served: an attempt without capacity must not silence this rule.
    let (baseline, what) = match view.past.served_at {
        Some(at) => (Some(at), "since the last batch served"),
        None => (
            view.oldest_queued_at,
            "since the oldest task came, before any batch",
        ),
    };
    aged(
        RuleName::Age,
        view,
        rule.at_least,
        baseline,
        rule.after,
        what,
        now,
    )
}

fn max_wait(rule: &MaxWaitRule, view: &View, now: Timestamp) -> Finding {
    let what = "since the oldest task came";
    aged(
        RuleName::MaxWait,
        view,
        1,
        view.oldest_queued_at,
        rule.after,
        what,
        now,
    )
}

fn aged(
    rule: RuleName,
    view: &View,
    at_least: u64,
    baseline: Option<Timestamp>,
    after: Duration,
    what: &str,
    now: Timestamp,
) -> Finding {
    let Some(baseline) = baseline else {
        if view.queued == 0 {
            let sentence = format!("its {} begin with the next task", span(after));
            return reach(rule, 0, at_least, Some(after), &sentence);
        }
        let sentence = "the age of the oldest task is not known".to_owned();
        return finding(rule, RuleOutcome::NotYet, Distance::default(), sentence);
    };
    let left = Some(elapsed(now, later(baseline, after))).filter(|left| !left.is_zero());
    let passed = span(elapsed(baseline, now));
    let sentence = match left {
        Some(left) => format!("{passed} of {} {what}, {} to go", span(after), span(left)),
        None => format!("{passed} {what}, {} are enough", span(after)),
    };
    reach(rule, view.queued, at_least, left, &sentence)
}

fn price(rule: &PriceRule, view: &View) -> Finding {
    let name = RuleName::Price;
    let market = match &view.prices {
        Prices::Known(market) => market,
        Prices::Unknown { since, reason } => {
            let distance = Distance {
                tasks: missing(view.queued, rule.at_least),
                ..Distance::default()
            };
            let sentence = format!(
                "prices are unknown since {}: {reason}; {}",
                moment(*since),
                count(view.queued, rule.at_least)
            );
            return finding(name, RuleOutcome::NotYet, distance, sentence);
        }
        Prices::NoCloud => {
            let sentence = "no prices: the pool uses your own machines".to_owned();
            return finding(name, RuleOutcome::Off, Distance::default(), sentence);
        }
    };
    let Some((dollars, sentence)) = too_dear(market, rule.below) else {
        let sentence = "no instance type of the pool has a price".to_owned();
        return finding(name, RuleOutcome::NotYet, Distance::default(), sentence);
    };
    let mut finding = reach(name, view.queued, rule.at_least, None, &sentence);
    if dollars.is_some() {
        finding.outcome = RuleOutcome::Short;
        finding.distance.dollars = dollars;
    }
    finding
}

/// By how much the price must fall, and the sentence; nothing when no pool has a price.
fn too_dear(market: &PriceSummary, below: Usd) -> Option<(Option<Usd>, String)> {
    if let Some(quote) = &market.usable {
        let dear = (quote.price >= below).then(|| quote.price - below);
        let gap = match dear {
            Some(gap) => format!("{gap} above the limit of {below}"),
            None => format!("below {below}"),
        };
        return Some((dear, format!("{} costs {}, {gap}", quote.pool, quote.price)));
    }
    let quote = market.cheapest.as_ref()?;
    let gap = (quote.price - below).max(quote.price - quote.cap);
    let sentence = format!(
        "no capacity pool is available: {} costs {}, its cap is {}, the rule needs a price below {below}",
        quote.pool, quote.price, quote.cap
    );
    Some((Some(gap.max(Usd::ZERO)), sentence))
}

fn schedule(
    rule: &ScheduleRule,
    view: &View,
    now: Timestamp,
) -> (Finding, Option<Slot>, Option<Timestamp>) {
    let name = RuleName::Schedule;
    let calendar = match Calendar::new(&rule.cron, &rule.zone) {
        Ok(calendar) => calendar,
        Err(error) => {
            let off = finding(
                name,
                RuleOutcome::Off,
                Distance::default(),
                error.to_string(),
            );
            return (off, None, None);
        }
    };
    let used = |slot: &Slot| {
        view.past
            .slot
            .as_ref()
            .is_some_and(|used| !slot.is_after(used))
    };
    let newest = calendar.open(rule.window, now);
    let next = calendar.next(now);
    let next_slot = next.as_ref().map(|(_, begins)| *begins);
    if let Some((slot, begins)) = newest.as_ref().filter(|(slot, _)| !used(slot)) {
        let closes = moment(later(*begins, rule.window));
        let sentence = format!("the slot {slot} is open until {closes}");
        let finding = reach(name, view.queued, rule.at_least, None, &sentence);
        return (finding, Some(slot.clone()), next_slot);
    }
    let had = match &newest {
        Some((slot, _)) => format!("the slot {slot} was used; "),
        None => String::new(),
    };
    let Some((slot, begins)) = next else {
        let sentence = format!("{had}cron {:?} has no further slot", rule.cron);
        let never = finding(name, RuleOutcome::Off, Distance::default(), sentence);
        return (never, None, None);
    };
    let wait = elapsed(now, begins);
    let sentence = format!("{had}the next slot is {slot}, in {}", span(wait));
    let finding = reach(name, view.queued, rule.at_least, Some(wait), &sentence);
    (finding, None, next_slot)
}

fn missing(queued: u64, at_least: u64) -> Option<u64> {
    // Whatever a rule asks for, an empty queue needs no machines.
    let short = at_least.max(1).saturating_sub(queued);
    (short > 0).then_some(short)
}

fn count(queued: u64, at_least: u64) -> String {
    match missing(queued, at_least) {
        Some(short) => format!(
            "{queued} of {} queued, {short} short",
            tasks(at_least.max(1))
        ),
        None => format!("{} queued, {} are enough", tasks(queued), at_least.max(1)),
    }
}

/// A rule that wants a number of tasks, and perhaps time.
fn reach(
    rule: RuleName,
    queued: u64,
    at_least: u64,
    wait: Option<Duration>,
    sentence: &str,
) -> Finding {
    let distance = Distance {
        tasks: missing(queued, at_least),
        wait,
        dollars: None,
    };
    let outcome = match (distance.tasks, distance.wait) {
        (Some(_), _) => RuleOutcome::Short,
        (None, Some(_)) => RuleOutcome::NotYet,
        (None, None) => RuleOutcome::Fires,
    };
    let mut whole = count(queued, at_least);
    if !sentence.is_empty() {
        whole = format!("{whole}; {sentence}");
    }
    finding(rule, outcome, distance, whole)
}

fn off(rule: RuleName) -> Finding {
    let sentence = "switched off".to_owned();
    finding(rule, RuleOutcome::Off, Distance::default(), sentence)
}

fn finding(rule: RuleName, outcome: RuleOutcome, distance: Distance, sentence: String) -> Finding {
    Finding {
        rule,
        outcome,
        distance,
        sentence,
    }
}
