//! Owners share the workers: which lane a new task waits in.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use serde_json::json;
use spotreel_bus::names::{TASKS, work_consumer};
use spotreel_domain::{Lane, Model, Owner, Priority, Task};
use spotreel_test_kit::tasks;
use stage::{Stage, until};
use web::Web;

const SETTINGS: [(&str, &str); 3] = [
    ("api.auth", "keys"),
    ("limits.front_per_owner", "3"),
    // A count of the log that misses what is on its way to it lets one more to the front.
    ("limits.poll", "1m"),
];

async fn key(stage: &Stage, owner: &str) -> Web {
    let order = json!({ "owner": owner });
    web::key(stage, &Web::of(stage), order).await.1
}

async fn submit(web: &Web, tasks: usize) {
    for _ in 0..tasks {
        let task = json!({ "model": "ti2v-5B", "prompt": "a red fox" });
        assert_eq!(web.post("/v1/tasks", &task).await.status, 201);
    }
}

/// Tasks that wait in front, and behind.
async fn waiting(stage: &Stage) -> (u64, u64) {
    let context = async_nats::jetstream::new(stage.root.clone());
    let stream = context.get_stream_no_info(TASKS).await.unwrap();
    let count = async |lane| {
        let name = work_consumer(Model::Ti2v5b, lane);
        stream.consumer_info(&name).await.unwrap().num_pending
    };
    (
        count(Lane::front(Priority::Normal)).await,
        count(Lane::back(Priority::Normal)).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_tasks_of_each_owner_wait_in_front_of_a_long_queue_of_another() {
    let stage = Stage::set_with(&SETTINGS).await;
    let (anna, ben) = (key(&stage, "anna").await, key(&stage, "ben").await);
    submit(&anna, 10).await;
    assert_eq!(waiting(&stage).await, (3, 7));
    submit(&ben, 1).await;
    assert_eq!(waiting(&stage).await, (4, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_without_an_owner_share_one_front() {
    let stage = Stage::set_with(&SETTINGS).await;
    let anna = key(&stage, "anna").await;
    submit(&anna, 4).await;
    assert_eq!(waiting(&stage).await, (3, 1));
    for _ in 0..5 {
        let task = json!({ "model": "ti2v-5B", "prompt": "a red fox" });
        assert!(stage.submit(&task).await["id"].is_string());
    }
    assert_eq!(waiting(&stage).await, (6, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_that_starts_knows_who_has_a_long_queue() {
    const QUEUED: u64 = 20;
    let stage = Stage::without_intake().await;
    let logs = stage.logs().await;
    for number in 0..QUEUED {
        let request = tasks::request(Model::Ti2v5b);
        let anna = Owner::parse("anna").unwrap();
        let change = |task: &mut Task| task.owner = Some(anna);
        logs.submit_as(&format!("t{number}"), &request, change)
            .await;
    }
    let most = QUEUED.to_string();
    let settings = [
        ("api.auth", "keys"),
        ("limits.front_per_owner", most.as_str()),
        ("limits.poll", "100ms"),
    ];
    stage.start_intake(&settings).await;
    let anna = key(&stage, "anna").await;
    until("it has counted the log", async || {
        submit(&anna, 1).await;
        waiting(&stage).await.1 == 1
    })
    .await;
    let (front, _) = waiting(&stage).await;
    assert!(front < 2 * QUEUED, "not only what it let in itself");
}
