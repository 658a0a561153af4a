//! Who is blamed for what went wrong: a task only for its own faults, a worker only when something was done to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_domain::task::{Attempt, AttemptOutcome};
use spotreel_domain::{Event, Task};
use spotreel_tests::Verdict;

use super::check::draft_of;
use super::evidence::Evidence;
use super::plan::{ChaosPlan, DraftFate};
use super::record::{Accident, Book};
use super::settings::LEASE;
use super::spot::market::CloudInstance;
use super::spot::watch::WatchSeen;

/// Attempts that a worker without a scratch directory may begin before it gives itself up: one that it held when the
/// directory went, one that was already on its way to it, and one for each of its machine's restarts.
const MOST_BEGUN_WHILE_SICK: usize = 8;
/// A lease may end so long after what ended it: the lease itself, and the look of whoever finds it.
const FOUND_WITHIN: Duration = Duration::from_secs(3 * LEASE.as_secs());

pub fn all(
    plan: &ChaosPlan,
    book: &Book,
    evidence: &Evidence,
    seen: &WatchSeen,
    machines: &Path,
) -> Vec<Verdict> {
    vec![
        only_own_faults(plan, evidence),
        sick_workers(book, evidence),
        healthy_workers(plan, book, evidence, seen, machines),
    ]
}

/// Neither a sick worker nor storage that is away ends a task that could be rendered.
fn only_own_faults(plan: &ChaosPlan, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "blame",
        "a task that asks for no failure does not end as failed",
    );
    for (id, story) in &evidence.tasks {
        let Some(last) = story.last() else { continue };
        if draft_of(plan, &last.task).is_some_and(|draft| draft.fate == DraftFate::Plain) {
            verdict.check(last.event != Event::Failed, || {
                format!("{id} failed: {:?}: {}", last.task.state, story.told())
            });
        }
    }
    verdict
}

/// What a worker without a scratch directory begins is handed back, and it soon begins no more.
fn sick_workers(book: &Book, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "sick",
        "a worker that can render nothing costs no task a failure, and gives itself up",
    );
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, _, attempt) in attempts(evidence) {
        let sick = accidents(book, attempt).find(|one| one.kind == Accident::SICK);
        let Some(sick) = sick.filter(|one| one.at < attempt.started_at) else {
            continue;
        };
        *begun.entry(&attempt.instance).or_default() += 1;
        verdict.check(attempt.outcome != AttemptOutcome::Failed, || {
            format!(
                "{id} failed on {}, sick since {}: {:?}",
                attempt.instance, sick.at, attempt.error
            )
        });
    }
    for (instance, count) in begun {
        verdict.check(count <= MOST_BEGUN_WHILE_SICK, || {
            format!("{instance} is sick, and began {count} attempts since")
        });
    }
    verdict
}

/// A loss has a cause: something was done to the machine, to its worker, or to NATS.
fn healthy_workers(
    plan: &ChaosPlan,
    book: &Book,
    evidence: &Evidence,
    seen: &WatchSeen,
    machines: &Path,
) -> Verdict {
    let mut verdict = Verdict::new(
        "lost",
        "no healthy worker is declared lost, however slow the storage is",
    );
    // A worker still finishes one task when the next one kills it.
    let killers: Vec<_> = attempts(evidence)
        .filter(|(_, task, _)| kills(plan, task))
        .map(|(_, _, attempt)| attempt)
        .collect();
    for (id, story) in &evidence.tasks {
        let Some(task) = story.last().map(|last| &last.task) else {
            continue;
        };
        if kills(plan, task) {
            continue;
        }
        for attempt in &task.attempts {
            if attempt.outcome != AttemptOutcome::Lost {
                continue;
            }
            let ended = attempt.ended_at.unwrap_or(attempt.started_at);
            let from = attempt.started_at - FOUND_WITHIN;
            let during = attempt.started_at..=ended;
            let killed = killers.iter().any(|killer| {
                killer.worker == attempt.worker && during.contains(&killer.started_at)
            });
            let machine = seen.machines.get(&attempt.instance);
            let explained = killed
                || machine.is_some_and(|machine| was_taken(machine, ended))
                || accidents(book, attempt).any(|one| one.at <= ended)
                || is_armed(machines, &attempt.instance)
                || is_away(book, from, ended);
            verdict.check(explained, || {
                format!(
                    "{id}: {} on {} was declared lost at {ended}, and nothing was done to it",
                    attempt.worker, attempt.instance
                )
            });
        }
    }
    verdict
}

/// The market had taken it by then, or its end was only seen a moment later.
fn was_taken(machine: &CloudInstance, by: Timestamp) -> bool {
    let seen = machine.notice_at.or(machine.ended_at);
    machine.was_taken() && seen.is_some_and(|at| at - FOUND_WITHIN <= by)
}

/// By a directive in its prompt.
fn kills(plan: &ChaosPlan, task: &Task) -> bool {
    draft_of(plan, task).is_none_or(|draft| draft.prompt.contains("kill_worker"))
}

fn attempts(evidence: &Evidence) -> impl Iterator<Item = (&String, &Task, &Attempt)> {
    let tasks = evidence.tasks.iter();
    let newest = tasks.filter_map(|(id, story)| Some((id, &story.last()?.task)));
    newest.flat_map(|(id, task)| task.attempts.iter().map(move |attempt| (id, task, attempt)))
}

fn accidents<'a>(book: &'a Book, attempt: &'a Attempt) -> impl Iterator<Item = &'a Accident> {
    let of_it = |one: &&Accident| one.instance == attempt.instance;
    book.accidents.iter().filter(of_it)
}

/// Its worker was to die by itself at some point.
fn is_armed(machines: &Path, instance: &str) -> bool {
    machines.join(instance).join("armed").exists()
}

/// NATS was away: leases end unseen.
fn is_away(book: &Book, from: Timestamp, to: Timestamp) -> bool {
    book.outages.iter().any(|outage| {
        outage.of == super::faults::NATS
            && outage.from <= to
            && outage.to.is_none_or(|end| end >= from)
    })
}
