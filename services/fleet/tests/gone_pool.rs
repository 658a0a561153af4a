//! Pools that are renamed, removed or left without a cloud while their batches run: nothing keeps running, all is counted,
//! and people are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use serde_json::json;
use spotreel_api::FleetView;
use spotreel_bootstrap::ambient;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, DrainMode, Instance, Receipt, Status};
use spotreel_domain::fleet::cloud::tag;
use spotreel_fleet::Lead;
use spotreel_proto::worker::v1::State;
use spotreel_test_kit::{pool, spot_instance};
use stage::{ENV, POOL, Stage, context, failing, stop, until};

/// Writes another pools.toml for the fleet that comes next.
fn change_pools(stage: &Stage, change: impl FnOnce(String) -> String) {
    let path = stage.cloud.dir.path().join("pools.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(before)).unwrap();
}

fn rename(stage: &Stage) {
    change_pools(stage, |pools| {
        pools.replace("[pool.default]", "[pool.renamed]")
    });
}

/// Two machines run, and one of them renders.
async fn running(stage: &Stage) -> Vec<String> {
    let workers = stage.workers.clone();
    stage.submit_all(&["a", "b"]).await;
    let fleet = context("fleet");
    stage.start_fleet_as(Lead::ByLease, &fleet).await;
    stage.request(2).await;
    let batch = stage.until_machines(2).await;
    let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
    workers.come_up(&ids[0], State::Busy).await;
    stage.until_status(&Status::Running).await;
    stop(&fleet).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_of_a_renamed_pool_is_drained_settled_and_told_of() {
    let stage = Stage::set(POOL).await;
    let ids = running(&stage).await;
    rename(&stage);
    let fleet = &stage.ctx;
    stage.start_fleet().await;
    until("health says so", async || {
        let said = failing(fleet, "pool default").unwrap_or_default();
        said.contains("not in pools.toml any more") && said.contains("default-1")
    })
    .await;
    let batch = stage.until_over().await;
    assert_eq!(batch.status, Status::Settled);
    let stop = batch.stop.clone().unwrap();
    assert_eq!((stop.by.as_str(), stop.mode), ("fleet", DrainMode::Now));
    assert!(
        stop.reason
            .unwrap()
            .contains("pool default is not in pools.toml")
    );
    assert!(stage.running().is_empty());
    let receipt = Receipt::of(&batch, batch.ended_at.unwrap());
    let booked: Vec<_> = receipt.lines.iter().map(|line| &line.instance).collect();
    assert_eq!(booked, [&ids[0], &ids[1]], "the record is kept");
    let bill: i64 = stage.cloud.bill().iter().map(|line| line.micros).sum();
    assert!(receipt.total.micros() >= bill, "{receipt:?} {bill}");
    until("health has forgotten it", async || {
        failing(fleet, "pool default").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_newer_than_the_fleet_is_left_to_a_fleet_that_has_its_pool() {
    let stage = Stage::set(POOL).await;
    stage.submit("a").await;
    stage.request(1).await;
    rename(&stage);
    let older = context("fleet");
    stage.start_fleet_as(Lead::ByLease, &older).await;
    stage.until_over().await;
    stage.request(1).await;
    until("health says what to do", async || {
        let said = failing(&older, "pool default").unwrap_or_default();
        said.contains("restart fleet with the pools.toml of trigger")
    })
    .await;
    assert_eq!(stage.batch().await.stop, None);
    stop(&older).await;
    change_pools(&stage, |pools| {
        pools.replace("[pool.renamed]", "[pool.default]")
    });
    stage.start_fleet().await;
    let batch = stage.until_batch("a machine", |batch| !batch.instances.is_empty());
    assert_eq!(batch.await.stop, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_order_to_finish_is_kept_when_the_pool_goes() {
    let stage = Stage::set(POOL).await;
    let ids = running(&stage).await;
    let fleet = context("fleet");
    stage.start_fleet_as(Lead::ByLease, &fleet).await;
    until("fleet answers", async || {
        let checks = fleet.health.readiness().checks;
        checks.contains_key("pool default queue")
    })
    .await;
    let order = serde_json::json!({ "mode": "finish", "by": "anna" });
    stage.ask("ops.stop", &order).await;
    stop(&fleet).await;
    rename(&stage);
    stage.start_fleet().await;
    let idle_is_gone = |batch: &Batch| batch.instance(&ids[1]).is_some_and(Instance::is_gone);
    let batch = stage
        .until_batch("the machine without a task ends", idle_is_gone)
        .await;
    let stop = batch.stop.clone().unwrap();
    assert_eq!((stop.by.as_str(), stop.mode), ("anna", DrainMode::Finish));
    assert!(batch.is_active(), "the other one renders");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_of_a_pool_that_has_no_cloud_any_more_is_drained() {
    let stage = Stage::set(POOL).await;
    running(&stage).await;
    change_pools(&stage, |pools| {
        let other = pools.replace("[pool.default]", "[pool.other]");
        let own = "[pool.default]\ncloud = \"none\"\nmodels = [\"t2v-A14B\"]\n";
        format!("{own}{other}")
    });
    stage.start_fleet().await;
    let batch = stage.until_over().await;
    let reason = batch.stop.unwrap().reason.unwrap();
    assert!(reason.contains("cloud = \"none\""), "{reason}");
    assert!(stage.running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_with_the_tag_of_a_pool_that_is_gone_are_ended() {
    let mut stage = Stage::set(POOL).await;
    let ids = running(&stage).await;
    // Nothing in the record names the second one.
    stage.set_key("sweep.orphan_grace", "1s");
    let end = |batch: &mut Batch| {
        batch.instances.retain(|instance| instance.id != ids[1]);
        batch.status = Status::Failed {
            reason: "a test ended it".into(),
        };
        batch.ended_at = Some(ambient::now());
    };
    stage.logs.update(&pool("default"), end).await;
    rename(&stage);
    stage.start_fleet().await;
    until("both are ended", async || stage.running().is_empty()).await;
    let listed = stage.ec2.list(ENV).await.unwrap().instances;
    assert!(listed.iter().all(|i| i.tag(tag::POOL) == Some("default")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_that_is_gone_spends_counts_and_is_shown_while_it_runs() {
    let pools = format!("{POOL}\nrules.budgets = {{ per_day = 10.0 }}\n");
    let stage = Stage::set(&pools).await;
    stage.submit("a").await;
    // Its machine is missing from all listings, and so its end takes minutes.
    let gone = pool("gone");
    let spent = |batch: &mut Batch| {
        batch.instances.push(Instance {
            cost: Usd::from_cents(1_000),
            ..spot_instance("i-0000000000000000f", "g5.xlarge", ambient::now())
        });
    };
    stage.logs.request_as(&gone, 1, spent).await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage.until_over().await;
    let Status::Failed { reason } = &batch.status else {
        panic!("{:?}", batch.status);
    };
    assert!(reason.contains("budget is spent"), "{reason}");
    assert_eq!(stage.calls("CreateFleet"), 0);
    let view: FleetView = serde_json::from_value(stage.ask("fleet", &json!({})).await).unwrap();
    let shown = view.pools.iter().find(|view| view.pool == gone).unwrap();
    let note = shown.note.as_deref().unwrap();
    assert!(note.contains("not in pools.toml any more"), "{note}");
    assert!(shown.cost >= Usd::from_cents(1_000));
}
