//! A worker's life on a machine that a cloud may take: real worker, engine, NATS and S3.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::Signal;
use spot::{Stage, until};
use spotreel_api::Progress;
use spotreel_domain::Task;
use spotreel_domain::task::AttemptOutcome;
use spotreel_proto::worker::v1::State;

/// Long enough to be seen at every step.
const STEP_MS: u32 = 150;
/// Of a worker that is killed: its task is another's after so long.
const LEASE: Duration = Duration::from_secs(3);
/// More than anyone waits for here.
const MANY: u32 = 60;

async fn progress(stage: &Stage) -> async_nats::Subscriber {
    stage.client.subscribe("spotreel.progress.*").await.unwrap()
}

/// Waits for a step.
async fn reaches(steps: &mut async_nats::Subscriber, step: u32) {
    until(&format!("step {step} is told"), async || {
        let message = steps.next().await.unwrap();
        let progress: Progress = serde_json::from_slice(&message.payload).unwrap();
        progress.step >= step
    })
    .await;
}

fn ended(task: &Task) -> bool {
    let last = task.attempts.last();
    last.is_some_and(|attempt| attempt.outcome == AttemptOutcome::Succeeded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_costs_at_most_the_step_under_way() {
    let stage = Stage::set().await;
    // Checkpoints by count would come too late: only the one at the notice saves anything.
    let rare = [("checkpoint.every_steps", "1000")];
    let mut first = stage.worker("w1", STEP_MS, &rare);
    let mut steps = progress(&stage).await;
    stage.submit("a", MANY).await;
    reaches(&mut steps, 5).await;
    let _second = stage.worker("w2", 0, &[("cloud.metadata", "off")]);
    stage.serves("w2").await;
    stage.metadata.notice(Duration::from_secs(20));
    // It may have left before anybody looked.
    let gone = stage
        .seen("w1", "it drains", |p| {
            matches!(p.state(), State::Draining | State::Drained)
        })
        .await;
    assert!(gone.notice_at_ms > 0);
    assert_eq!(first.left().await, Some(0), "it leaves by itself");
    let last_word = stage.presence("w1").await.expect("why it went can be read");
    assert_eq!(last_word.state(), State::Drained);
    assert!(last_word.notice_at_ms > 0 && last_word.task.is_empty());
    let mut reported = 5;
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(100), steps.next()).await
    {
        let progress: Progress = serde_json::from_slice(&message.payload).unwrap();
        if progress.worker == "w1" {
            reported = reported.max(progress.step);
        }
    }

    until("another worker ends it", async || {
        ended(&stage.task("a").await)
    })
    .await;
    let task = stage.task("a").await;
    assert_eq!(task.attempts[0].outcome, AttemptOutcome::Interrupted);
    let last = task.attempts.last().unwrap();
    assert_eq!(
        (last.worker.as_str(), last.outcome),
        ("w2", AttemptOutcome::Succeeded)
    );
    assert!(
        last.from_step + 1 >= reported,
        "{reported} steps were done, and it went on from {}",
        last.from_step
    );
    // What the receipt of the task is made of.
    let first = &task.attempts[0];
    let done = first.steps_done.unwrap();
    assert!(done >= last.from_step && done + 1 >= reported, "{first:?}");
    assert_eq!(last.steps_done, Some(MANY), "{last:?}");
    for attempt in [first, last] {
        let (began, ended) = (attempt.rendering_at.unwrap(), attempt.ended_at.unwrap());
        assert!(attempt.started_at <= began && began <= ended, "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_in_the_notice_is_finished_and_nothing_more_is_taken() {
    let stage = Stage::set().await;
    let mut worker = stage.worker("w1", STEP_MS, &[]);
    let mut steps = progress(&stage).await;
    stage.submit("a", 20).await;
    stage.submit("b", 20).await;
    reaches(&mut steps, 3).await;
    stage.metadata.notice(Duration::from_secs(119));
    assert_eq!(worker.left().await, Some(0));
    let (a, b) = (stage.task("a").await, stage.task("b").await);
    let ended = [&a, &b].map(|task| task.attempts.len());
    assert_eq!(
        ended,
        [1, 0],
        "one was in hand and is done, the other was left to others"
    );
    assert_eq!(a.attempts[0].outcome, AttemptOutcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rebalance_hint_rendering_goes_on_with_a_checkpoint_at_every_step() {
    let stage = Stage::with_lease(LEASE).await;
    let rare = [("checkpoint.every_steps", "1000")];
    let mut first = stage.worker("w1", STEP_MS, &rare);
    let mut steps = progress(&stage).await;
    stage.submit("a", 5).await;
    reaches(&mut steps, 2).await;
    stage.metadata.rebalance();
    let seen = stage.seen("w1", "it says so", |p| p.rebalance).await;
    assert_eq!(seen.state(), State::Busy);
    until("the task in hand ends", async || {
        ended(&stage.task("a").await)
    })
    .await;
    // The next one is taken, and the machine goes without a word.
    stage.submit("b", MANY).await;
    reaches(&mut steps, 8).await;
    first.signal(Signal::SIGKILL);
    let _second = stage.worker("w2", 0, &[("cloud.metadata", "off")]);
    until("another worker ends it", async || {
        ended(&stage.task("b").await)
    })
    .await;
    let last = stage.task("b").await.attempts.last().unwrap().clone();
    assert_eq!(last.worker, "w2");
    // The upload of the last step may have been under way.
    assert!(last.from_step >= 6, "it went on from {}", last.from_step);
    assert_eq!(first.left().await, None, "it was killed, it did not leave");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_answered_when_everybody_can_read_it() {
    let stage = Stage::set().await;
    let mut worker = stage.worker("w1", STEP_MS, &[]);
    let idle = stage.serves("w1").await;
    let tags = [&idle.pool, &idle.batch, &idle.launch].map(String::as_str);
    assert_eq!(tags, ["gpu", "gpu-7", "3"]);
    let machine = [
        &idle.instance,
        &idle.instance_type,
        &idle.zone,
        &idle.lifecycle,
    ];
    let machine = machine.map(String::as_str);
    assert_eq!(machine, ["i-0123", "g5.xlarge", "us-east-2a", "spot"]);

    let mut steps = progress(&stage).await;
    stage.submit("a", MANY).await;
    reaches(&mut steps, 2).await;
    for _ in 0..2 {
        assert_eq!(stage.drain("finish").await, "draining");
        let state = stage.presence("w1").await.unwrap().state();
        assert_eq!(state, State::Draining);
    }
    // Hurried, it hands the task back.
    assert_eq!(stage.drain("now").await, "draining");
    assert_eq!(worker.left().await, Some(0));
    let task = stage.task("a").await;
    assert_eq!(task.attempts[0].outcome, AttemptOutcome::Interrupted);

    let none = [("models", "[\"i2v-A14B\"]")];
    let mut idle = stage.worker("w2", STEP_MS, &none);
    stage.serves("w2").await;
    assert_eq!(stage.drain("finish").await, "drained");
    assert_eq!(idle.left().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_leaves_but_ends_what_there_is() {
    let stage = Stage::set().await;
    stage.submit("a", 4).await;
    let mut worker = stage.worker("w1", 0, &[("idle.exit_after", "0s")]);
    assert_eq!(worker.left().await, Some(0));
    assert!(
        ended(&stage.task("a").await),
        "zero is not before the first look"
    );
    assert!(stage.presence("w1").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_stays_for_as_long_as_fleet_wants_it() {
    const LIMIT: Duration = Duration::from_secs(2);
    let stage = Stage::set().await;
    let mut worker = stage.worker("w1", 0, &[("idle.exit_after", "2s")]);
    stage.serves("w1").await;
    let began = std::time::Instant::now();
    while began.elapsed() < 3 * LIMIT {
        stage.stay().await;
        let soon = LIMIT / 8;
        let left = tokio::time::timeout(soon, worker.left()).await;
        assert!(left.is_err(), "it left although fleet wants it");
    }
    let silent = std::time::Instant::now();
    assert_eq!(worker.left().await, Some(0), "fleet is silent");
    assert!(silent.elapsed() >= LIMIT / 2, "from the last word on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_free_if_ec2_ends_it_is_not_switched_off_before() {
    let hour = Duration::from_secs(3_600);
    let notice = Duration::from_secs(20);
    for (age, waits) in [(hour / 6, true), (hour - notice / 2, false)] {
        let stage = Stage::set().await;
        stage.metadata.launched_before(age);
        let name = if waits { "young" } else { "old" };
        let mut worker = stage.worker(name, STEP_MS, &[]);
        let mut steps = progress(&stage).await;
        stage.submit(name, MANY).await;
        reaches(&mut steps, 2).await;
        stage.metadata.notice(notice);
        until("its task is handed back", async || {
            let attempts = stage.task(name).await.attempts;
            attempts
                .last()
                .is_some_and(|a| a.outcome == AttemptOutcome::Interrupted)
        })
        .await;
        if waits {
            stage
                .seen(name, "it holds nothing", |p| p.state() == State::Drained)
                .await;
            until("it says that it waits", async || {
                worker.said().contains("interruption within the first hour")
            })
            .await;
            let left = tokio::time::timeout(Duration::from_secs(2), worker.left()).await;
            assert!(left.is_err(), "its end would switch the machine off");
            // As the machine's system is told when EC2 ends it.
            worker.signal(Signal::SIGTERM);
        }
        assert_eq!(worker.left().await, Some(0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_and_one_whose_time_is_up_leave() {
    let mut stage = Stage::set().await;
    stage
        .metadata
        .tell("tags/instance/spotreel:expires-at", "2026-01-01T00:00:00Z");
    let mut late = stage.worker("w1", 0, &[]);
    assert_eq!(late.left().await, Some(0));
    assert!(late.said().contains("the machine's time is up"));
    stage.metadata.tell("tags/instance/spotreel:expires-at", "");
    let mut orphan = stage.worker("w2", 0, &[("idle.orphan_after", "1s")]);
    stage.serves("w2").await;
    stage.kill_nats();
    assert_eq!(orphan.left().await, Some(0));
    assert!(orphan.said().contains("cannot be reached"));
}
