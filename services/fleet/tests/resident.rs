//! Machines that stay although there is no work.

mod stage;

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use spotreel_bootstrap::ambient;
use spotreel_bus::{kv, names};
use spotreel_domain::batch::{Batch, InstanceState, PoolName, Receipt, Status, Wanted};
use spotreel_proto::worker::v1::State;
use stage::Stage;

const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 5.0 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 5 }
patience = { moving = "200ms", calm = "500ms" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_stay_are_told_so_and_outlive_the_batchs_deadline() {
    let stage = Stage::set(POOL).await;
    let root = stage.root().clone();
    let mode = |units: u32| json!({ "mode": "resident", "since": null, "resident_units": units });
    kv::put_mark(&root.client, "mode.default", &mode(1))
        .await
        .unwrap();
    let pool = PoolName::parse("default").unwrap();
    let now = ambient::now();
    let deadline = now + Duration::from_secs(4);
    let wanted = Wanted {
        rule: "hybrid".to_owned(),
        why: "machines stay".to_owned(),
        units: 1,
        slot: None,
        deadline,
    };
    let batch = Batch::request(&pool, None, wanted, now).unwrap();
    root.batches.append(&batch, 0).await.unwrap();
    stage.start_fleet().await;
    let batch = stage
        .until_batch("a machine without any task", |batch| {
            batch.instances.len() == 1
        })
        .await;
    let id = batch.instances[0].id.clone();
    let mut words = root
        .client
        .subscribe(names::worker_stay(&id))
        .await
        .unwrap();
    root.workers.come_up(&id, State::Idle).await;
    while ambient::now() < deadline + Duration::from_secs(1) {
        words.next().await.unwrap();
    }
    let batch = stage.batch().await;
    assert_eq!(batch.status, Status::Running);
    assert_eq!(batch.instances[0].state, InstanceState::Serving);

    kv::put_mark(&root.client, "mode.default", &mode(0))
        .await
        .unwrap();
    let batch = stage
        .until_batch("nothing is to stay", |batch| !batch.is_active())
        .await;
    assert_eq!(batch.status, Status::Settled);
    assert_eq!(batch.instances.len(), 1);
    let books = Receipt::of(&batch, ambient::now()).residency.unwrap();
    assert_eq!((books.units, books.boots_saved), (1, 0));
    assert!(
        books.idle_seconds >= 2 && books.idle_cost.is_positive(),
        "{books:?}"
    );
}
