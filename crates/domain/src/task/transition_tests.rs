use std::collections::BTreeMap;

use super::*;
use crate::{Model, Priority};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn queued() -> Task {
    let spec = TaskSpec {
        model: Model::Ti2v5b,
        priority: Priority::Normal,
        prompt: "a red fox".into(),
        negative_prompt: None,
        width: 1280,
        height: 704,
        frames: 121,
        fps: 24,
        quality: None,
        steps: 50,
        guidance: 5.0,
        guidance_high_noise: None,
        shift: 5.0,
        seed: 0,
        image: None,
        crop_percent: None,
        loras: Vec::new(),
        preview: false,
        expires_at: None,
        labels: BTreeMap::default(),
        callback_url: None,
    };
    let (event, task) = Task::submit(TaskId::parse("t1").unwrap(), spec, "hash".into(), now());
    task.placed_at(1, event)
}

fn started() -> Task {
    let (event, task) = queued().started("w", "i", 0, now()).unwrap();
    task.placed_at(2, event)
}

fn failure(kind: FailureKind) -> Failure {
    Failure {
        kind,
        message: "it broke".into(),
    }
}

fn artifact() -> Artifact {
    Artifact {
        bucket: "b".into(),
        key: "renders/t1/2.mp4".into(),
        sha256: "00".into(),
        bytes: 1,
        width: 1280,
        height: 704,
        frames: 5,
        fps: 24,
        engine: "sim".into(),
        poster: None,
    }
}

/// State × event: what is allowed, and where it leads.
#[test]
fn every_state_meets_every_event() {
    let states = [
        queued(),
        started(),
        started().succeeded(artifact(), now()).unwrap().1,
        started()
            .attempt_failed(failure(FailureKind::Invalid), now())
            .unwrap()
            .1,
        queued().cancelled(now()).unwrap().1,
        queued().expired(now()).unwrap().1,
    ];
    let table = [
        // state        started    succeeded    failed    interrupted declined lost     cancelled    expired    requeued restored
        (
            "queued",
            [
                "started",
                "-",
                "-",
                "-",
                "-",
                "-",
                "cancelled",
                "expired",
                "-",
                "queued",
            ],
        ),
        (
            "started",
            [
                "-",
                "succeeded",
                "queued",
                "queued",
                "queued",
                "queued",
                "cancelled",
                "expired",
                "-",
                "queued",
            ],
        ),
        ("succeeded", ["-"; 10]),
        (
            "failed",
            ["-", "-", "-", "-", "-", "-", "-", "-", "queued", "-"],
        ),
        (
            "cancelled",
            ["-", "-", "-", "-", "-", "-", "-", "-", "queued", "-"],
        ),
        (
            "expired",
            ["-", "-", "-", "-", "-", "-", "-", "-", "queued", "-"],
        ),
    ];
    for (task, (name, expected)) in states.iter().zip(table) {
        assert_eq!(task.state.name(), name);
        let outcomes = [
            task.started("w", "i", 0, now()),
            task.succeeded(artifact(), now()),
            task.attempt_failed(failure(FailureKind::Retryable), now()),
            task.interrupted(now()),
            task.declined(failure(FailureKind::Model), now()),
            task.lost(false, now()),
            task.cancelled(now()),
            task.expired(now()),
            task.requeued(now()),
            task.restored(now()),
        ];
        let reached: Vec<_> = outcomes
            .iter()
            .map(|outcome| {
                outcome
                    .as_ref()
                    .map_or("-", |(_, after)| after.state.name())
            })
            .collect();
        assert_eq!(reached, expected, "from {name}");
    }
}

#[test]
fn three_retries_after_10_40_160_seconds_then_failed() {
    let mut task = queued();
    for delay in [10, 40, 160] {
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        let (event, after) = running
            .attempt_failed(failure(FailureKind::Retryable), now())
            .unwrap();
        assert_eq!(event, Event::AttemptFailed);
        let due = now() + Duration::from_secs(delay);
        assert_eq!(
            after.state,
            State::Queued {
                not_before: Some(due)
            }
        );
        assert_eq!(
            after.rule_start(1, now()),
            StartRuling::Wait(Duration::from_secs(delay))
        );
        assert_eq!(after.rule_start(1, due), StartRuling::Start);
        task = after;
    }
    let (_, running) = task.started("w", "i", 0, now()).unwrap();
    let (event, after) = running
        .attempt_failed(failure(FailureKind::Oom), now())
        .unwrap();
    assert_eq!((event, after.attempts.len()), (Event::Failed, 4));
}

#[test]
fn what_cannot_be_rendered_fails_at_once() {
    assert_eq!(
        started()
            .attempt_failed(failure(FailureKind::Invalid), now())
            .unwrap()
            .0,
        Event::Failed
    );
}

#[test]
fn a_task_that_kills_its_workers_ends() {
    let mut task = queued();
    for starts in 1.. {
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        let (event, after) = running.lost(false, now()).unwrap();
        task = after;
        if event == Event::Failed {
            assert_eq!(starts, LOST_PER_FAILURE * (MAX_RETRIES + 1));
            return;
        }
    }
}

/// 7 declined attempts cost nothing, the 8th is a failure, and after four rows the task is over.
#[test]
fn a_task_that_nobody_can_begin_with_waits_longer_and_longer_and_ends() {
    let mut task = queued();
    let mut waits = Vec::new();
    for starts in 1.. {
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        let (event, after) = running
            .declined(failure(FailureKind::Model), now())
            .unwrap();
        if let State::Queued { not_before } = after.state {
            waits.push(not_before.map_or(0, |at| at.as_second() - now().as_second()));
        }
        let last = after.attempts.last().unwrap();
        assert_eq!(last.outcome, AttemptOutcome::Interrupted);
        assert_eq!(last.error.as_ref().unwrap().message, "it broke");
        assert_eq!(after.failures, starts / DECLINED_PER_FAILURE);
        let ends_row = starts.is_multiple_of(DECLINED_PER_FAILURE);
        let expected = match (ends_row, after.failures > MAX_RETRIES) {
            (_, true) => Event::Failed,
            (true, _) => Event::AttemptFailed,
            (false, _) => Event::Interrupted,
        };
        assert_eq!(event, expected);
        task = after;
        if event == Event::Failed {
            break;
        }
    }
    assert_eq!(
        task.attempts_total,
        DECLINED_PER_FAILURE * (MAX_RETRIES + 1)
    );
    assert_eq!(waits[..8], [0, 10, 40, 160, 160, 160, 160, 10]);
    assert!(waits.iter().sum::<i64>() < 3_600 * 2);
}

#[test]
fn a_worker_that_can_ends_the_row() {
    let mut task = queued();
    for _ in 0..3 {
        for _ in 1..DECLINED_PER_FAILURE {
            let (_, running) = task.started("w", "i", 0, now()).unwrap();
            task = running
                .declined(failure(FailureKind::Oom), now())
                .unwrap()
                .1;
        }
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        task = running.interrupted(now()).unwrap().1;
    }
    assert_eq!(task.failures, 0);
}

#[test]
fn a_lost_worker_that_got_further_is_no_failure() {
    let mut task = queued();
    for _ in 0..20 {
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        let (event, after) = running.lost(true, now()).unwrap();
        assert_eq!((event, after.failures), (Event::Lost, 0));
        task = after;
    }
}

#[test]
fn only_the_entry_starts_the_task() {
    let task = queued();
    assert_eq!(task.rule_start(1, now()), StartRuling::Start);
    assert_eq!(task.rule_start(9, now()), StartRuling::Forget);
    assert_eq!(started().rule_start(1, now()), StartRuling::DeclareLost);
    let failed = started()
        .attempt_failed(failure(FailureKind::Invalid), now())
        .unwrap()
        .1;
    assert_eq!(failed.rule_start(1, now()), StartRuling::Forget);
    let (event, again) = failed.requeued(now()).unwrap();
    let again = again.placed_at(7, event);
    assert_eq!(
        (again.round, again.entry, again.previous_entry, again.start),
        (2, 7, 1, 0)
    );
    assert_eq!(again.rule_start(1, now()), StartRuling::Forget);
    assert_eq!(again.rule_start(7, now()), StartRuling::Start);
}

#[test]
fn a_restored_task_has_a_new_item_and_keeps_its_counts() {
    let (_, waiting) = started()
        .attempt_failed(failure(FailureKind::Retryable), now())
        .unwrap();
    let (_, running) = waiting.started("w", "i", 3, now()).unwrap();
    let running = running.placed_at(4, Event::Started);
    for (before, attempts) in [(waiting, 1), (running, 2)] {
        let (event, after) = before.restored(now()).unwrap();
        let after = after.placed_at(9, event);
        assert_eq!(
            (event, after.entry, after.previous_entry),
            (Event::Queued, 9, 1)
        );
        assert_eq!(
            (after.round, after.failures, after.start, after.lost_in_row),
            (1, 1, before.start, 0)
        );
        assert_eq!(after.attempts.len(), attempts);
        assert!(after.running().is_none());
        assert_eq!(after.rule_start(1, now()), StartRuling::Forget);
        let due = now() + Duration::from_secs(10);
        assert_eq!(after.rule_start(9, due), StartRuling::Start);
    }
}

#[test]
fn history_is_bounded() {
    let mut task = queued();
    for _ in 0..40 {
        task = task
            .started("w", "i", 0, now())
            .unwrap()
            .1
            .interrupted(now())
            .unwrap()
            .1;
    }
    assert_eq!(
        (task.attempts.len(), task.attempts_total),
        (MAX_ATTEMPTS_KEPT, 40)
    );
}

#[test]
fn what_storage_ends_never_counts_against_the_task() {
    let mut task = queued();
    for _ in 0..DECLINED_PER_FAILURE * (MAX_RETRIES + 2) {
        let (_, running) = task.started("w", "i", 0, now()).unwrap();
        let (event, after) = running
            .hindered(failure(FailureKind::Storage), now())
            .unwrap();
        assert_eq!((event, after.failures), (Event::Interrupted, 0));
        task = after;
    }
}

#[test]
fn a_retry_that_a_wrong_clock_puts_decades_ahead_is_not_waited_for() {
    let (_, running) = queued().started("w", "i", 0, now()).unwrap();
    let (_, mut task) = running
        .attempt_failed(failure(FailureKind::Retryable), now())
        .unwrap();
    let wait = StartRuling::Wait(retry_delay(1));
    assert_eq!(task.rule_start(task.entry, now()), wait);
    let decades = jiff::SignedDuration::from_hours(24 * 365 * 20);
    let not_before = Some(now().checked_add(decades).unwrap());
    task.state = State::Queued { not_before };
    assert_eq!(task.rule_start(task.entry, now()), StartRuling::Start);
    assert_eq!(retry_delay(MAX_RETRIES), LONGEST_RETRY_DELAY);
}
