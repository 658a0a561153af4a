//! The invariants, held against the log, the public events and the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_nats::Client;
use sha2::{Digest, Sha256};
use spotreel_bus::Recorded;
use spotreel_domain::task::{Artifact, AttemptOutcome, LOST_PER_FAILURE, MAX_RETRIES, State};
use spotreel_domain::{Event, Task};
use spotreel_s3::Store;
use spotreel_tests::Verdict;
use spotreel_worker::gate::{self, Expectation};

use super::evidence::{self, Evidence, Story};
use super::plan::{ChaosPlan, Draft, DraftFate, Name};
use super::record::{Book, Refusal};

/// Starts of one round that only kills from outside can explain; more is a task that never ends.
const MOST_STARTS: usize = 60;

pub async fn all(
    plan: &ChaosPlan,
    book: &Book,
    evidence: &Evidence,
    client: &Client,
    store: &Store,
    scratch: &Path,
) -> Vec<Verdict> {
    vec![
        kept(plan, book, evidence),
        told(plan, book, evidence),
        ended_once(evidence),
        videos(evidence, store, scratch).await,
        failures(evidence),
        killers(plan, evidence),
        entries(evidence),
        counts(evidence, client).await,
        published(evidence),
        rejected(book, evidence),
    ]
}

pub fn rights(refused: &[String]) -> Verdict {
    let says = "no program asks NATS for what it has no right to";
    let mut verdict = Verdict::new("rights", says);
    verdict.check(refused.is_empty(), || refused.join("\n"));
    verdict
}

/// The draft that a task was made from: every prompt is its own.
pub fn draft_of<'a>(plan: &'a ChaosPlan, task: &Task) -> Option<&'a Draft> {
    plan.drafts
        .iter()
        .find(|draft| draft.prompt == task.spec.prompt)
}

fn by_draft<'a>(
    plan: &ChaosPlan,
    evidence: &'a Evidence,
) -> BTreeMap<usize, Vec<(&'a String, &'a Story)>> {
    let mut found: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for (id, story) in &evidence.tasks {
        if let Some(draft) = story.last().and_then(|last| draft_of(plan, &last.task)) {
            found.entry(draft.number).or_default().push((id, story));
        }
    }
    found
}

fn kept(plan: &ChaosPlan, book: &Book, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "T1",
        "every acknowledged task is there, once, and has ended",
    );
    let there = by_draft(plan, evidence);
    for (number, known) in &book.tasks {
        let stories = there.get(number).map(Vec::as_slice).unwrap_or_default();
        let named = known
            .id
            .as_ref()
            .is_none_or(|id| stories.iter().any(|(there, _)| *there == id));
        // A nameless one whose answer was lost may have been stored beside the one that was acknowledged.
        let once =
            stories.len() == 1 || plan.drafts[*number].name == Name::None && !stories.is_empty();
        verdict.check(named && once, || {
            let ids: Vec<_> = stories.iter().map(|(id, _)| id.as_str()).collect();
            format!(
                "#{number}, acknowledged as {:?}, is {ids:?} in the log",
                known.id
            )
        });
    }
    for (id, story) in &evidence.tasks {
        let ended = story.last().is_some_and(|last| last.task.is_terminal());
        verdict.check(ended, || format!("{id} has not ended: {}", story.told()));
    }
    verdict
}

fn told(plan: &ChaosPlan, book: &Book, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new("answers", "what clients were told is what happened");
    verdict.offences.clone_from(&book.contradictions);
    let there = by_draft(plan, evidence);
    for (number, known) in &book.tasks {
        for (id, story) in there.get(number).into_iter().flatten() {
            let happened = |event: Event| {
                story
                    .chapters
                    .values()
                    .any(|chapter| chapter.event == event)
            };
            let Some(last) = story.last() else { continue };
            if let Some(answer) = known
                .answer
                .as_ref()
                .filter(|answer| answer.id == last.task.id)
            {
                let same = answer.seed == last.task.spec.seed
                    && answer.submitted_at == last.task.submitted_at;
                verdict.check(same, || {
                    format!("{id} was answered {answer:?}, and is another in the log")
                });
            }
            if known.cancelled {
                verdict.check(happened(Event::Cancelled), || {
                    format!("{id} was cancelled, says the answer: {}", story.told())
                });
            }
            let rounds = last.task.round;
            let possible = 1 + known.retries_confirmed..=1 + known.retries_sent;
            verdict.check(possible.contains(&rounds), || {
                format!(
                    "{id} is in round {rounds}, which the retries do not explain ({possible:?})"
                )
            });
        }
    }
    verdict
}

fn ended_once(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "T2",
        "one end a round, nothing after it but a person's retry",
    );
    for (id, story) in &evidence.tasks {
        let mut before: Option<(Event, u32)> = None;
        let mut ends: BTreeMap<u32, usize> = BTreeMap::new();
        for (sequence, chapter) in &story.chapters {
            let (event, round) = (chapter.event, chapter.round);
            let allowed = follows(before.map(|(event, _)| event), event);
            let round_allowed = match (before, event) {
                (None, _) => round == 1,
                (Some((_, last)), Event::Queued) => round == last + 1,
                (Some((_, last)), _) => round == last,
            };
            verdict.check(allowed && round_allowed, || {
                format!(
                    "{id}: {}@{sequence} of round {round} after {before:?}: {}",
                    event.as_str(),
                    story.told()
                )
            });
            if event.is_terminal() {
                *ends.entry(round).or_default() += 1;
            }
            before = Some((event, round));
        }
        let rounds = before.map_or(0, |(_, round)| round);
        for round in 1..=rounds {
            let count = ends.get(&round).copied().unwrap_or_default();
            verdict.check(count == 1, || {
                format!("{id} has {count} ends in round {round}: {}", story.told())
            });
        }
    }
    verdict
}

/// The life of a task, written down a second time on purpose.
fn follows(before: Option<Event>, event: Event) -> bool {
    use Event::{
        AttemptFailed, Cancelled, Expired, Failed, Interrupted, Lost, Queued, Started, Succeeded,
    };
    match before {
        None => event == Queued,
        Some(Queued | Interrupted | Lost | AttemptFailed) => {
            matches!(event, Started | Cancelled | Expired)
        }
        Some(Started) => !matches!(event, Queued | Started),
        Some(Failed | Cancelled | Expired) => event == Queued,
        Some(Succeeded) => false,
    }
}

async fn videos(evidence: &Evidence, store: &Store, scratch: &Path) -> Verdict {
    let mut verdict = Verdict::new(
        "T3",
        "what a success names lies in S3, is what it says, and passes the gate",
    );
    for one in evidence
        .log
        .iter()
        .filter(|one| one.event == Event::Succeeded)
    {
        let State::Succeeded { artifact } = &one.task.state else {
            verdict.check(false, || {
                format!("{} succeeded without an artifact", one.task.id)
            });
            continue;
        };
        let refused = video(artifact, &one.task, store, scratch).await.err();
        verdict.check(refused.is_none(), || {
            format!(
                "{} {}: {}",
                one.task.id,
                artifact.key,
                refused.map(|e| format!("{e:#}")).unwrap_or_default()
            )
        });
    }
    verdict
}

async fn video(
    artifact: &Artifact,
    task: &Task,
    store: &Store,
    scratch: &Path,
) -> anyhow::Result<()> {
    let path = scratch.join("video.mp4");
    store.get_to_file(&artifact.key, &path).await?;
    let bytes = tokio::fs::read(&path).await?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    anyhow::ensure!(
        sha256 == artifact.sha256,
        "its sha256 is {sha256}, not {}",
        artifact.sha256
    );
    anyhow::ensure!(
        bytes.len() as u64 == artifact.bytes,
        "it has {} bytes, not {}",
        bytes.len(),
        artifact.bytes
    );
    let spec = &task.spec;
    let as_asked = (
        artifact.width,
        artifact.height,
        artifact.frames,
        artifact.fps,
    ) == (spec.width, spec.height, spec.frames, spec.fps);
    anyhow::ensure!(
        as_asked,
        "the artifact is not what was asked for: {artifact:?}"
    );
    let expectation = Expectation {
        width: spec.width,
        height: spec.height,
        frames: spec.frames,
        fps: spec.fps,
    };
    tokio::task::spawn_blocking(move || gate::check(&path, &expectation)).await??;
    Ok(())
}

fn failures(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "T4",
        "only failures count as failures, and no round has endless starts",
    );
    for (id, story) in &evidence.tasks {
        let mut before = 0;
        let mut starts: BTreeMap<u32, usize> = BTreeMap::new();
        for (sequence, chapter) in &story.chapters {
            let expected = match chapter.event {
                Event::Queued => 0..=0,
                Event::AttemptFailed | Event::Failed => before + 1..=before + 1,
                _ => before..=before,
            };
            verdict.check(expected.contains(&chapter.failures), || {
                format!(
                    "{id}: {} failures after {}@{sequence}",
                    chapter.failures,
                    chapter.event.as_str()
                )
            });
            before = chapter.failures;
            if chapter.event == Event::Started {
                *starts.entry(chapter.round).or_default() += 1;
            }
        }
        let most = starts.values().max().copied().unwrap_or_default();
        verdict.check(most <= MOST_STARTS, || {
            format!("{id} was started {most} times in a round")
        });
    }
    verdict
}

fn killers(plan: &ChaosPlan, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "T4k",
        "a task that kills its workers ends as failed, within the promised starts",
    );
    for (id, story) in &evidence.tasks {
        let Some(last) = story.last() else { continue };
        if draft_of(plan, &last.task).is_none_or(|draft| draft.fate != DraftFate::Killer) {
            continue;
        }
        let count = |event: Event, round: u32| {
            story
                .chapters
                .values()
                .filter(|chapter| chapter.event == event && chapter.round == round)
                .count()
        };
        verdict.check(last.event == Event::Failed, || {
            format!("{id} ended as {}", last.event.as_str())
        });
        for round in 1..=last.task.round {
            // An interruption begins the row of losses anew.
            let promised = (MAX_RETRIES as usize + 1 + count(Event::Interrupted, round))
                * LOST_PER_FAILURE as usize
                + count(Event::Interrupted, round);
            let starts = count(Event::Started, round);
            verdict.check(starts <= promised, || {
                format!("{id}: {starts} starts in round {round}, promised were {promised}")
            });
        }
    }
    verdict
}

fn entries(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "T6",
        "a task that has not ended has its work item in the log",
    );
    let there: BTreeSet<u64> = evidence.log.iter().map(|one| one.sequence).collect();
    for (id, story) in &evidence.tasks {
        if let Some(last) = story.last() {
            let holds = last.task.is_terminal() || there.contains(&last.task.entry);
            verdict.check(holds, || {
                format!(
                    "{id} is {} and its entry {} is gone",
                    last.task.state.name(),
                    last.task.entry
                )
            });
        }
    }
    verdict
}

async fn counts(evidence: &Evidence, client: &Client) -> Verdict {
    let mut verdict = Verdict::new(
        "T7",
        "with nobody working, the counts are the runnable tasks: none",
    );
    let runnable: Vec<&Recorded> = evidence
        .tasks
        .values()
        .filter_map(Story::last)
        .filter(|last| !last.task.is_terminal())
        .collect();
    match evidence::counts(client).await {
        Ok(counts) => {
            let total: u64 = counts.iter().map(|(_, count)| count).sum();
            verdict.check(total == runnable.len() as u64, || {
                format!("{} runnable tasks, counted: {counts:?}", runnable.len())
            });
        }
        Err(error) => verdict.check(false, || format!("{error:#}")),
    }
    for one in evidence.log.iter().filter(|one| one.event == Event::Queued) {
        let last = evidence
            .tasks
            .get(one.task.id.as_str())
            .and_then(Story::last);
        let needed =
            last.is_some_and(|last| !last.task.is_terminal() && last.task.entry == one.sequence);
        verdict.check(needed, || {
            format!(
                "{} has ended, but its entry {} is in the log",
                one.task.id, one.sequence
            )
        });
    }
    verdict
}

fn published(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new(
        "EVENTS",
        "each log event was published once, in order, as it is",
    );
    for (id, story) in &evidence.tasks {
        let public: Vec<_> = story
            .published
            .iter()
            .filter(|one| one.of_task().is_some_and(|(_, event)| event != "rejected"))
            .collect();
        let in_order = public
            .windows(2)
            .all(|pair| pair[0].log_sequence < pair[1].log_sequence);
        verdict.check(in_order, || {
            let numbers: Vec<_> = public.iter().map(|one| one.log_sequence).collect();
            format!("{id}: public events in the order {numbers:?}")
        });
        for one in &story.logged {
            let twin = public
                .iter()
                .find(|public| public.log_sequence == one.sequence);
            let same = twin.is_some_and(|twin| {
                twin.of_task()
                    .is_some_and(|(_, event)| event == one.event.as_str())
                    && twin.body["data"]["state"] == one.task.state.name()
                    && twin.body["data"]["attempts"].as_array().map_or(0, Vec::len)
                        == one.task.attempts.len()
            });
            verdict.check(same, || {
                let found = twin.map(|twin| &twin.body);
                format!(
                    "{id}: {}@{} was published as {found:?}",
                    one.event.as_str(),
                    one.sequence
                )
            });
        }
        for public in &public {
            // Work items leave the log; nothing else has, since the janitor waits longer than a run.
            let known = story
                .logged
                .iter()
                .any(|one| one.sequence == public.log_sequence)
                || public.of_task().is_some_and(|(_, event)| event == "queued");
            verdict.check(known, || {
                format!(
                    "{id}: {} of {} is not in the log",
                    public.subject, public.log_sequence
                )
            });
        }
        let queued = story
            .chapters
            .values()
            .filter(|chapter| chapter.event == Event::Queued)
            .count();
        let rounds = story.last().map_or(0, |last| last.task.round as usize);
        verdict.check(queued == rounds, || {
            format!("{id}: {queued} queued events in {rounds} rounds")
        });
    }
    verdict
}

fn rejected(book: &Book, evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::new("inbox", "what the inbox refused was answered");
    for refusal in &book.refusals {
        let subject = match refusal {
            Refusal::Task(id) => format!("spotreel.task.{id}.rejected"),
            Refusal::Sequence(sequence) => format!("spotreel.rejected.{sequence}"),
        };
        let answered = evidence.events.iter().any(|one| one.subject == subject);
        verdict.check(answered, || format!("no {subject}"));
    }
    verdict
}

/// Tasks whose video was made by going on from a checkpoint.
pub fn resumed(evidence: &Evidence) -> Vec<&Recorded> {
    let succeeded = evidence
        .log
        .iter()
        .filter(|one| one.event == Event::Succeeded);
    let went_on = |one: &&Recorded| {
        one.task
            .attempts
            .last()
            .is_some_and(|last| last.outcome == AttemptOutcome::Succeeded && last.from_step > 0)
    };
    succeeded.filter(went_on).collect()
}
