//! When a batch is wanted, and how large: [`decide`] looks at what is true and at the rules, and says what to do, why,
//! and what every rule still lacks.
//!
//! All rules are evaluated and reported; the first that fires, in the order of [`RuleName`], decides. Nothing is
//! launched while a batch is active, while the counts are not trusted, while prices are unknown (unless the machines
//! are one's own), while launches are held, or past a budget. A person's `run now` needs one task and no rule; it goes
//! before a hold only by force, before the wait after a failure if it was asked for later, and never past the others.
//!
//! Counts, ages and rates are numbers here: the work is the same for ten queued tasks and for a million.

mod blocker;
mod decision;
mod finding;
mod mode;
mod rules;
mod schedule;
mod size;
mod validate;
mod view;
mod words;

use std::time::Duration;

use jiff::Timestamp;

pub use blocker::back_off;
pub use decision::{
    Blocker, BlockerKind, Decision, Distance, Finding, Fire, Forecast, Mode, ModeFinding, RuleName,
    RuleOutcome, Verdict,
};
pub use finding::RUN_NOW_LIFE;
pub use rules::{
    AgeRule, Budgets, HybridRule, LengthRule, MaxWaitRule, PriceRule, Rules, ScheduleRule, Sizing,
    USUAL_TASKS_PER_GPU_HOUR,
};
pub use schedule::{BadSchedule, BadSlot, Calendar, Slot};
pub use size::{Pace, Size, SizeInput, size};
pub use validate::RulesProblem;
pub use view::{CapacityPoolPrice, Hold, ModeState, Past, PriceSummary, Prices, RunNow, View};

pub use crate::spend::Spend;

use crate::time::{elapsed, later};
use finding::Findings;
use words::{moment, span, tasks};

/// Everything that matters is an event, too; this is for an event that was lost.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// While something blocks a rule that fires.
const BLOCKED_LOOK: Duration = Duration::from_secs(15);
/// After a launch was decided: it was written, or another trigger was first.
const LAUNCHED_LOOK: Duration = Duration::from_secs(5);

pub fn decide(view: &View, rules: &Rules, now: Timestamp) -> Decision {
    let (mode, mode_changes) = mode::steer(view, rules, now);
    let findings = finding::all(view, rules, &mode, now);
    let size = blocker::sized(view, rules, mode.resident_units);
    let blockers = blocker::all(view, rules, &size, now);
    let verdict = judge(view, &findings, &blockers, size);
    let forecast = foretell(view, &findings.all, &blockers, &verdict, now);
    let next_look = look(view, &findings, &blockers, &verdict, mode_changes, now);
    Decision {
        at: now,
        verdict,
        findings: findings.all,
        blockers,
        mode,
        forecast,
        next_look,
    }
}

fn firing(findings: &[Finding]) -> Option<&Finding> {
    findings
        .iter()
        .find(|finding| finding.outcome == RuleOutcome::Fires)
}

fn judge(view: &View, findings: &Findings, blockers: &[Blocker], size: Size) -> Verdict {
    if let Some(batch) = &view.active_batch {
        let queued = tasks(view.queued);
        let sentence = with_rest(view, format!("batch {batch} is active; {queued} queued"));
        return Verdict::Wait { sentence };
    }
    let Some(first) = firing(&findings.all) else {
        let no_type = |blocker: &&Blocker| blocker.kind == BlockerKind::NoTypeFits;
        if let Some(blocker) = blockers.iter().find(no_type) {
            let sentence = blocker.sentence.clone();
            return Verdict::Blocked { sentence };
        }
        let sentence = with_rest(view, nearest(view, &findings.all));
        return Verdict::Wait { sentence };
    };
    let why = with_rest(view, format!("{}: {}", first.rule, first.sentence));
    if !blockers.is_empty() {
        let sentence = format!("{why}; but {}", reasons(blockers));
        return Verdict::Blocked { sentence };
    }
    if size.units == 0 {
        let sentence = format!("{why}; but it may have no unit: {}", size.sentence);
        return Verdict::Blocked { sentence };
    }
    Verdict::Launch(Fire {
        rule: first.rule,
        units: size.units,
        slot: findings.slot.clone(),
        why,
        size,
    })
}

/// What is left out of a decision is said with it.
fn with_rest(view: &View, sentence: String) -> String {
    match &view.unrenderable {
        Some(rest) => format!("{sentence}; and {}", rest.sentence),
        None => sentence,
    }
}

fn reasons(blockers: &[Blocker]) -> String {
    let sentences: Vec<_> = blockers.iter().map(|b| b.sentence.as_str()).collect();
    sentences.join("; and ")
}

/// The rule that needs the fewest tasks, and among those the shortest wait.
fn nearest(view: &View, findings: &[Finding]) -> String {
    if view.queued == 0 {
        return "nothing is queued".to_owned();
    }
    let distance = |finding: &&Finding| {
        let Distance {
            tasks,
            wait,
            dollars,
        } = finding.distance.clone();
        (tasks, wait, dollars)
    };
    findings
        .iter()
        .filter(|finding| !finding.distance.is_none())
        .min_by_key(distance)
        .map_or_else(
            || "no rule that is switched on can fire".to_owned(),
            |finding| {
                format!(
                    "no rule fires; nearest is {}: {}",
                    finding.rule, finding.sentence
                )
            },
        )
}

fn foretell(
    view: &View,
    findings: &[Finding],
    blockers: &[Blocker],
    verdict: &Verdict,
    now: Timestamp,
) -> Forecast {
    let without = |sentence: String| Forecast {
        rule: None,
        by: None,
        sentence,
    };
    if let Verdict::Launch(fire) = verdict {
        return Forecast {
            rule: Some(fire.rule),
            by: Some(now),
            sentence: format!("{} starts a batch now", fire.rule),
        };
    }
    if let Some(batch) = &view.active_batch {
        return without(match view.pool_blockers.as_slice() {
            [] => format!("batch {batch} works the queue off"),
            blockers => format!("batch {batch} is active but blocked: {}", reasons(blockers)),
        });
    }
    if view.queued == 0 && firing(findings).is_none() {
        return without(match &view.unrenderable {
            Some(rest) => rest.sentence.clone(),
            None => "nothing is queued".to_owned(),
        });
    }
    // Of the rules that only time keeps, the first is the latest at which the queue runs.
    let by_time = |finding: &Finding| match finding.outcome {
        RuleOutcome::Fires => Some(now),
        _ => Some(later(now, finding.distance.only_wait()?)),
    };
    let first = findings
        .iter()
        .filter_map(|finding| Some((finding.rule, by_time(finding)?)))
        .min_by_key(|(rule, at)| (*at, *rule));
    let Some((rule, at)) = first else {
        let nearest = nearest(view, findings);
        return without(format!("no rule starts a batch by time alone: {nearest}"));
    };
    // Blockers that go by themselves put it off; others leave no time to name.
    let until = blockers
        .iter()
        .try_fold(at, |at, blocker| Some(at.max(blocker.until?)));
    let Some(by) = until else {
        return Forecast {
            rule: Some(rule),
            by: None,
            sentence: format!(
                "{rule} starts a batch once it is not blocked: {}",
                reasons(blockers)
            ),
        };
    };
    let wait = span(elapsed(now, by));
    Forecast {
        rule: Some(rule),
        by: Some(by),
        sentence: format!(
            "{rule} starts a batch at {}, in {wait}, at the latest",
            moment(by)
        ),
    }
}

fn look(
    view: &View,
    findings: &Findings,
    blockers: &[Blocker],
    verdict: &Verdict,
    mode_changes: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let pause = match verdict {
        Verdict::Launch(_) => LAUNCHED_LOOK,
        Verdict::Blocked { .. } => BLOCKED_LOOK,
        Verdict::Wait { .. } => LONGEST_LOOK,
    };
    let waits = findings.all.iter().filter_map(|f| f.distance.wait);
    let forgotten = finding::pending(view, now).map(|run| later(run.at, RUN_NOW_LIFE));
    waits
        .map(|wait| later(now, wait))
        .chain(blockers.iter().filter_map(|blocker| blocker.until))
        .chain(findings.next_slot)
        .chain(mode_changes)
        .chain(forgotten)
        .filter(|at| *at > now)
        .fold(later(now, pause), Timestamp::min)
}
