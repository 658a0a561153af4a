//! Machines that stay although there is no work.

mod stage;

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use spotreel_bootstrap::ambient;
use spotreel_bus::{kv, names};
use spotreel_domain::batch::{Batch, InstanceState, Receipt, Status};
use spotreel_proto::worker::v1::State;
use stage::{POOL, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_stay_are_told_so_and_outlive_the_batchs_deadline() {
    let stage = Stage::set(POOL).await;
    let workers = stage.workers.clone();
    let mode = |units: u32| json!({ "mode": "resident", "since": null, "resident_units": units });
    let logs = &stage.logs;
    kv::put_mark(&logs.client, "mode.default", &mode(1))
        .await
        .unwrap();
    let deadline = ambient::now() + Duration::from_secs(4);
    let stays = |batch: &mut Batch| {
        (batch.rule, batch.deadline) = ("hybrid".to_owned(), deadline);
    };
    logs.request_as(&stage::pool(), 1, stays).await;
    stage.start_fleet().await;
    let batch = stage.until_machines(1).await;
    let id = batch.instances[0].id.clone();
    let mut words = logs
        .client
        .subscribe(names::worker_stay(&id))
        .await
        .unwrap();
    workers.come_up(&id, State::Idle).await;
    while ambient::now() < deadline + Duration::from_secs(1) {
        words.next().await.unwrap();
    }
    let batch = stage.batch().await;
    assert_eq!(batch.status, Status::Running);
    assert_eq!(batch.instances[0].state, InstanceState::Serving);

    kv::put_mark(&logs.client, "mode.default", &mode(0))
        .await
        .unwrap();
    let batch = stage.until_over().await;
    assert_eq!(batch.status, Status::Settled);
    assert_eq!(batch.instances.len(), 1);
    let books = Receipt::of(&batch, ambient::now()).residency.unwrap();
    assert_eq!((books.units, books.boots_saved), (1, 0));
    assert!(
        books.idle_seconds >= 2 && books.idle_cost.is_positive(),
        "{books:?}"
    );
}
