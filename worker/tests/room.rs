//! The end of the task log is kept for the ends of tasks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use spot::{Stage, until};
use spotreel_bus::LogRoom;
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::provision::Layout;
use spotreel_domain::task::State;
use spotreel_domain::{Model, TaskId};

const SMALL: i64 = 8 << 20;
const LONG: usize = 100_000;

/// Tasks that nobody here renders, until so much of the log is used.
async fn fill(stage: &Stage, percent: u64) -> Vec<TaskId> {
    let mut tasks = Vec::new();
    while !LogRoom::of_log(&stage.client)
        .await
        .unwrap()
        .is_used_to(percent)
    {
        let id = format!("filler-{}", tasks.len());
        stage
            .submit_as(&id, 4, "ti2v-5B", "a fox", |task| {
                (task.spec.model, task.spec.prompt) = (Model::I2vA14b, "x".repeat(LONG));
            })
            .await;
        tasks.push(TaskId::parse(&id).unwrap());
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_nearly_full_takes_ends_and_no_task_is_started_before_it_has_room() {
    let stage = Stage::set_with(Layout {
        tasks_max_bytes: SMALL,
        ..Layout::default()
    })
    .await;
    let _busy = stage.worker("busy", 200, &[("models", r#"["ti2v-5B"]"#)]);
    stage
        .submit_with("a", 30, "ti2v-5B", "a fox {{invalid@20}}")
        .await;
    until("it is rendered", async || {
        stage.task("a").await.running().is_some()
    })
    .await;
    let fillers = fill(&stage, ENDS_ONLY_PERCENT).await;
    stage.submit_with("b", 4, "t2v-A14B", "a fox").await;

    let free = stage.worker("free", 0, &[("models", r#"["t2v-A14B"]"#)]);
    until("the free worker sees that the log is full", async || {
        free.said().contains("task log is nearly full")
    })
    .await;
    until("what was rendered has ended", async || {
        stage.task("a").await.is_terminal()
    })
    .await;
    assert!(matches!(stage.task("a").await.state, State::Failed { .. }));
    assert!(stage.task("b").await.attempts.is_empty());

    for id in &fillers[..10] {
        let last = stage.log.last(id).await.unwrap().unwrap();
        stage.log.delete(last.sequence).await.unwrap();
    }
    until("there is room, and the task is rendered", async || {
        stage.task("b").await.is_terminal()
    })
    .await;
    assert!(matches!(
        stage.task("b").await.state,
        State::Succeeded { .. }
    ));
}
