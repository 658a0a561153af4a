//! What interruptions cost: steps that were rendered and had to be rendered again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_domain::task::{Attempt, AttemptOutcome};
use spotreel_tests::Verdict;

use super::watch::{Said, WatchSeen};
use crate::check::draft_of;
use crate::evidence::Evidence;
use crate::plan::{ChaosPlan, DraftFate};
use crate::record::{Accident, Book};

/// A step may end between the order to leave and the checkpoint.
const UNDER_WAY: u32 = 1;
/// The last checkpoint's upload and the word that the task is given back.
const HANDING_BACK: Duration = Duration::from_secs(4);
/// So long after NATS or S3 is back somebody may still wait for it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// The most that one interruption has cost.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    pub handed_back: Tally,
    pub cut_off: Tally,
    /// While NATS or S3 was away, which is no question of the notice.
    pub in_outages: Tally,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub count: usize,
    pub most: u32,
}

impl Tally {
    fn add(&mut self, steps: u32) {
        self.count += 1;
        self.most = self.most.max(steps);
    }
}

pub fn lost(
    plan: &ChaosPlan,
    book: &Book,
    evidence: &Evidence,
    seen: &WatchSeen,
    machines: &Path,
) -> (Vec<Verdict>, Lost) {
    let mut told = Verdict::new(
        "steps",
        "who is told hands back all whole steps; without a word all are kept up to the last checkpoint",
    );
    let mut saved = Verdict::new("salvage", "a task on a machine with a notice is not lost");
    let mut lost = Lost::default();
    let mut consoles = Consoles::new(machines);
    for (id, story) in &evidence.tasks {
        let Some(task) = story.last().map(|last| &last.task) else {
            continue;
        };
        let Some(draft) = draft_of(plan, task) else {
            continue;
        };
        // Some kill every worker before they have done a step, and some have checkpoints that are bad on purpose.
        if draft.fate == DraftFate::Killer || draft.prompt.contains("bad_ckpt") {
            continue;
        }
        let said = seen.progress.get(id).map_or(&[][..], Vec::as_slice);
        for pair in task.attempts.windows(2) {
            let (attempt, next) = (&pair[0], &pair[1]);
            let span = (attempt.started_at, next.started_at);
            let reached = reached(said, attempt, span).unwrap_or(attempt.from_step);
            let steps = reached.saturating_sub(next.from_step);
            let ended = attempt.ended_at.unwrap_or(span.1);
            let ill = match attempt.outcome {
                // Its worker could not render on, and was not told to leave.
                AttemptOutcome::Interrupted if attempt.error.is_some() => continue,
                AttemptOutcome::Interrupted => book.is_outage(ended - HANDING_BACK, ended),
                // A person's retry begins anew.
                AttemptOutcome::Lost if task.round == 1 => false,
                _ => continue,
            };
            if ill || book.is_outage(span.1 - AFTERMATH, span.1 + AFTERMATH) {
                lost.in_outages.add(steps);
                continue;
            }
            match attempt.outcome {
                AttemptOutcome::Interrupted => {
                    lost.handed_back.add(steps);
                    told.check(steps <= UNDER_WAY, || {
                        format!(
                            "{id} was handed back by {} at step {reached}, and went on at {}",
                            attempt.instance, next.from_step
                        )
                    });
                    saved.checked += usize::from(noticed(book, attempt, span).is_some());
                }
                AttemptOutcome::Lost => {
                    lost.cut_off.add(steps);
                    let safe = consoles.safe(&attempt.instance, id, span);
                    told.check(next.from_step >= safe, || {
                        format!(
                            "{id} was cut off on {} at step {reached}; step {safe} was safe, and it went on at {}",
                            attempt.instance, next.from_step
                        )
                    });
                    let killed = book
                        .accidents
                        .iter()
                        .any(|one| one.instance == attempt.instance && one.is_without_a_word());
                    let only_told = !killed
                        && consoles.was_told(&attempt.instance, &attempt.worker)
                        && !book.is_outage(span.0, ended);
                    if only_told {
                        saved.check(false, || {
                            format!("{id} was lost on {}, which was told", attempt.instance)
                        });
                    }
                }
                _ => {}
            }
        }
    }
    (vec![told, saved], lost)
}

fn noticed<'a>(
    book: &'a Book,
    attempt: &Attempt,
    span: (Timestamp, Timestamp),
) -> Option<&'a Accident> {
    book.accidents
        .iter()
        .find(|one| one.instance == attempt.instance && one.is_notice() && one.at <= span.1)
}

/// The last step that a worker told of in an attempt.
fn reached(said: &[Said], attempt: &Attempt, span: (Timestamp, Timestamp)) -> Option<u32> {
    let of_it =
        |said: &&Said| said.worker == attempt.worker && said.at >= span.0 && said.at <= span.1;
    said.iter().filter(of_it).map(|said| said.step).max()
}

/// What the machines' workers wrote.
struct Consoles<'a> {
    dir: &'a Path,
    read: BTreeMap<String, String>,
}

impl<'a> Consoles<'a> {
    fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            read: BTreeMap::new(),
        }
    }

    fn text(&mut self, instance: &str) -> &str {
        let path = self.dir.join(instance).join("console.log");
        let read = || std::fs::read_to_string(path).unwrap_or_default();
        self.read.entry(instance.to_owned()).or_insert_with(read)
    }

    /// Whether a worker has seen the notice, and nothing in the machine has killed it afterwards.
    fn was_told(&mut self, instance: &str, worker: &str) -> bool {
        let starts = format!("worker started worker=\"{worker}\"");
        let text = self.text(instance);
        let life = text.split_once(&starts).map_or("", |(_, life)| life);
        let life = life.split("worker started worker=").next().unwrap_or("");
        let told = life.split_once("reason=\"the cloud takes the machine\"");
        told.is_some_and(|(_, rest)| {
            !rest.contains("fault KillWorker") && !rest.contains("crashing here")
        })
    }

    /// The newest step of a task whose checkpoint a machine has seen in S3 by then.
    fn safe(&mut self, instance: &str, task: &str, span: (Timestamp, Timestamp)) -> u32 {
        let of_task = format!("task={task} ");
        let steps = self
            .text(instance)
            .lines()
            .filter(|line| line.contains("checkpoint uploaded") && line.contains(&of_task))
            .filter_map(|line| {
                let at: Timestamp = line.split_whitespace().next()?.parse().ok()?;
                let step = line.split("step=").nth(1)?;
                let step = step.split_whitespace().next()?.parse().ok()?;
                (at >= span.0 && at <= span.1).then_some(step)
            });
        steps.max().unwrap_or(0)
    }
}
