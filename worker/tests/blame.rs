//! Whose fault an end is, and whose task: a healthy worker keeps what it renders, and a task pays for nothing but itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use spot::proxy::{self, Losses};
use spot::{Stage, until};
use spotreel_bootstrap::EXIT_UNFIT_MACHINE;
use spotreel_domain::Task;
use spotreel_domain::task::{AttemptOutcome, State};
use spotreel_localcloud::{Action, Rule};
use spotreel_worker::task::checkpoints;

const MODEL: &str = "ti2v-5B";
/// Delays of minutes, in milliseconds.
const QUICK: (&str, &str) = ("retry.scale", "0.0001");
const EACH_STEP: (&str, &str) = ("checkpoint.every_steps", "1");
const LEASE: Duration = Duration::from_secs(2);
/// One read of an object is tried again by the client of S3, and where its body breaks off by the store.
const MORE_THAN_ONE_READ_TRIES: u32 = 12;

async fn rendered_by(stage: &Stage, id: &str, worker: &str) {
    until("a worker renders it", async || {
        let task = stage.task(id).await;
        task.running()
            .is_some_and(|running| running.worker == worker)
    })
    .await;
}

async fn has_a_checkpoint(stage: &Stage, id: &str) {
    let task = stage.task(id).await;
    until("a checkpoint is there", async || {
        let found = checkpoints::list(&stage.store, &task).await.unwrap();
        found.first().is_some_and(|newest| newest.next_step >= 5)
    })
    .await;
}

fn outcomes(task: &Task) -> Vec<AttemptOutcome> {
    task.attempts.iter().map(|a| a.outcome).collect()
}

fn rule(operation: &str, action: Action, prefix: &str) -> Rule {
    Rule {
        key_prefix: Some(prefix.into()),
        ..Rule::new(operation, action)
    }
}

/// The victim wakes, sees that another worker has the task, and then cannot read the log. Its ack would take the item from
/// that worker for good: when it goes, nobody would ever render the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_is_never_an_ack() {
    let stage = Stage::with_lease(LEASE).await;
    let losses = Arc::new(Losses::default());
    let url = proxy::serve(stage.nats_url(), Arc::clone(&losses)).await;
    let mut victim = stage.worker("victim", 300, &[("nats.url", &url)]);
    stage.submit("a", 60).await;
    rendered_by(&stage, "a", "victim").await;
    victim.signal(Signal::SIGSTOP);
    let second = stage.worker("second", 300, &[]);
    rendered_by(&stage, "a", "second").await;
    losses.armed.store(true, Ordering::SeqCst);
    victim.signal(Signal::SIGCONT);
    until("it has let the task go", async || {
        victim.said().contains("lease lost")
    })
    .await;
    assert!(losses.reads.load(Ordering::SeqCst) > 1, "a read was lost");
    victim.signal(Signal::SIGKILL);
    victim.left().await;
    drop(second);
    let _third = stage.worker("third", 0, &[]);
    stage.rendered("a").await;
}

/// Looking for checkpoints takes longer than a lease: the worker that does keeps its item, and who is slower does not
/// declare the faster lost.
#[tokio::test(flavor = "multi_thread")]
async fn no_healthy_worker_is_declared_lost_while_storage_is_slow() {
    let stage = Stage::with_lease(LEASE).await;
    let first = stage.worker("w1", 200, &[]);
    stage.submit("a", 30).await;
    rendered_by(&stage, "a", "w1").await;
    let slow = Rule {
        delay_ms: 3_000,
        ..Rule::new("ListObjectsV2", Action::Delay)
    };
    stage.cloud.fail([slow]);
    drop(first);
    // Long enough that each of them looks while the other renders.
    let _others = [stage.worker("w2", 500, &[]), stage.worker("w3", 500, &[])];
    let task = stage.ended("a").await;
    assert_eq!(
        outcomes(&task),
        [AttemptOutcome::Lost, AttemptOutcome::Succeeded]
    );
}

/// The network was away from everybody for longer than a lease. Who is back first is given the item of another, who is back a
/// moment later and has rendered all the while.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_back_first_after_an_outage_takes_nobodys_render() {
    let stage = Stage::with_lease(LEASE).await;
    let (busy, idle) = (Arc::new(Losses::default()), Arc::new(Losses::default()));
    let busy_url = proxy::serve(stage.nats_url(), Arc::clone(&busy)).await;
    let idle_url = proxy::serve(stage.nats_url(), Arc::clone(&idle)).await;
    let _busy = stage.worker("busy", 300, &[("nats.url", &busy_url)]);
    stage.submit("a", 40).await;
    rendered_by(&stage, "a", "busy").await;
    let idler = stage.worker("idler", 0, &[("nats.url", &idle_url)]);
    stage.serves("idler").await;
    busy.stalled.send_replace(true);
    idle.cut.send_replace(true);
    tokio::time::sleep(LEASE).await; // the outage
    idle.cut.send_replace(false);
    until("who is back first holds back", async || {
        idler.said().contains("connected a moment ago")
    })
    .await;
    busy.stalled.send_replace(false);
    let task = stage.ended("a").await;
    assert_eq!(outcomes(&task), [AttemptOutcome::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_scratch_ends_no_task_and_gives_its_machine_up() {
    let stage = Stage::set().await;
    let mut sick = stage.worker("sick", 0, &[QUICK]);
    stage.serves("sick").await;
    std::fs::remove_dir_all(stage.scratch("sick")).unwrap();
    std::fs::write(stage.scratch("sick"), "no directory any more").unwrap();
    let _healthy = stage.worker("healthy", 20, &[QUICK]);
    for n in 0..8 {
        stage.submit(&format!("t{n}"), 4).await;
    }
    for n in 0..8 {
        let task = stage.rendered(&format!("t{n}")).await;
        assert_eq!(task.failures, 0);
    }
    assert_eq!(sick.left().await, Some(EXIT_UNFIT_MACHINE.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_gpu_cannot_be_opened_takes_no_task_and_is_given_up() {
    let stage = Stage::set().await;
    stage.submit("a", 4).await;
    let said = r#"{"type":"error","kind":"device","code":"unusable","message":"Error 802","restart":true}"#;
    let engine = format!("echo '{said}' >&0; exit 86");
    let engine = serde_json::json!(["sh", "-c", engine]).to_string();
    let mut sick = stage.worker("sick", 0, &[("engine.command", &engine)]);
    let code = sick.left().await;
    assert_eq!(
        code,
        Some(EXIT_UNFIT_MACHINE.into()),
        "its supervisor is told not to start it again"
    );
    assert!(sick.said().contains("device (unusable): Error 802"));
    let task = stage.task("a").await;
    assert!(matches!(task.state, State::Queued { .. }));
    assert_eq!(task.attempts_total, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_before_its_first_step_costs_no_task_a_try() {
    let stage = Stage::set().await;
    let ids = ["a", "b", "c"];
    for id in ids {
        let prompt = "a fox {{crash@0#20}}";
        stage.submit_with(id, 4, MODEL, prompt).await;
    }
    let mut sick = stage.worker("sick", 0, &[]);
    let code = sick.left().await;
    assert_eq!(
        code,
        Some(EXIT_UNFIT_MACHINE.into()),
        "three tasks in a row failed"
    );
    for id in ids {
        let task = stage.task(id).await;
        assert!(!task.is_terminal());
        assert_eq!(task.failures, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_storage_does_not_give_at_once_costs_the_task_nothing() {
    let stage = Stage::set().await;
    let key = "inputs/fox.png";
    let put = stage
        .store
        .put_bytes(key, vec![1; 100].into(), "", true, HashMap::new());
    put.await.unwrap();
    let fails = Rule {
        times: Some(MORE_THAN_ONE_READ_TRIES),
        ..rule("GetObject", Action::InternalError, key)
    };
    stage.cloud.fail([fails]);
    stage
        .submit_as("a", 4, MODEL, "a fox", |task| {
            task.spec.image = Some(key.into());
        })
        .await;
    let _worker = stage.worker("w1", 0, &[]);
    let task = stage.rendered("a").await;
    assert_eq!(outcomes(&task), [AttemptOutcome::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_storage_does_not_give_at_once_is_asked_for_again() {
    let stage = Stage::set().await;
    let settings = [EACH_STEP, ("stop.finish_within", "0s")];
    let first = stage.worker("w1", 100, &settings);
    stage.submit("a", 40).await;
    has_a_checkpoint(&stage, "a").await;
    let fails = Rule {
        times: Some(MORE_THAN_ONE_READ_TRIES),
        ..rule("GetObject", Action::InternalError, "checkpoints/")
    };
    stage.cloud.fail([fails]);
    first.signal(Signal::SIGTERM);
    let second = stage.worker("w2", 0, &settings);
    stage.rendered("a").await;
    let fired = stage.cloud.faults().report()[0].fired;
    assert_eq!(fired, MORE_THAN_ONE_READ_TRIES);
    assert!(!second.said().contains("checkpoint is not usable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gate_failure_the_latents_are_not_decoded_again() {
    let stage = Stage::set().await;
    let _worker = stage.worker("w1", 0, &[QUICK, EACH_STEP]);
    stage
        .submit_with("a", 6, MODEL, "a fox {{black@0#1}}")
        .await;
    let task = stage.rendered("a").await;
    assert_eq!(
        outcomes(&task),
        [AttemptOutcome::Failed, AttemptOutcome::Succeeded]
    );
    assert_eq!(task.attempts[1].from_step, 0);
    until(
        "the checkpoints of the refused video are gone",
        async || {
            let everything = Task {
                checkpoints_void_to: 0,
                ..task.clone()
            };
            let found = checkpoints::list(&stage.store, &everything).await.unwrap();
            found
                .iter()
                .all(|stored| stored.fence > task.checkpoints_void_to)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_video_is_the_tasks_also_when_its_worker_is_found_to_be_lost() {
    let stage = Stage::with_lease(LEASE).await;
    let crash = [("SPOTREEL_CRASH_AT", "after-upload:1:1")];
    let mut first = stage.worker_in("w1", 0, &[], &crash);
    stage.submit("a", 4).await;
    first.left().await;
    let _second = stage.worker("w2", 0, &[]);
    let task = stage.rendered("a").await;
    assert_eq!(
        outcomes(&task),
        [AttemptOutcome::Succeeded],
        "nobody was lost"
    );
}

/// The worker's clock is an hour behind: by it, there would be time for the whole render.
#[tokio::test(flavor = "multi_thread")]
async fn a_notice_is_timed_by_the_clock_of_the_metadata_service() {
    let stage = Stage::set().await;
    stage.metadata.set_clock_ahead(Duration::from_secs(3600));
    let mut first = stage.worker("w1", 500, &[EACH_STEP]);
    stage.submit("a", 60).await;
    // How long a step takes is known by then: by the worker's own clock the whole render fits.
    has_a_checkpoint(&stage, "a").await;
    stage.metadata.notice(Duration::from_secs(10));
    until("it is handed back", async || {
        outcomes(&stage.task("a").await) == [AttemptOutcome::Interrupted]
    })
    .await;
    assert_eq!(first.left().await, Some(0));
}
