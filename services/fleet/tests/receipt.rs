//! A batch's receipt beside the bill of the local cloud, which reckons by AWS's published rules with code of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use std::time::Duration;

use serde_json::json;
use spotreel_bootstrap::ambient;
use spotreel_domain::batch::{Ending, Instance, InstanceState, Receipt};
use spotreel_localcloud::{BillLine, Interruption, InterruptionKind};
use spotreel_proto::worker::v1::State;
use stage::{Stage, until};

/// Ages are the cloud's, and a quarter of a minute is an hour of them.
const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 5.0 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 8 }
patience = { moving = "100ms", calm = "100ms", boot = "40h", life = "60h", listing = "10h" }
"#;
const SPEED: f64 = 240.0;
/// Low, so that a cent is more time than a look takes also on a slow machine; and it stands still.
const PRICE: i64 = 50_000;
const CENT: i64 = 10_000;
/// It takes as long to shut down as it may.
const STUBBORN: &str = "#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 1; done\n";

fn taken(instance: &Instance) -> bool {
    let ending = Ending::Interrupted;
    matches!(instance.state, InstanceState::Gone { ending: how, .. } if how == ending)
}

fn interrupt(stage: &Stage, instance: &str, kind: InterruptionKind) {
    let order = Interruption {
        instance: Some(instance.to_owned()),
        kind,
        lead_s: 120.0,
    };
    assert!(stage.cloud.interrupt(&order).is_some());
}

fn line(stage: &Stage, instance: &str) -> BillLine {
    let mut lines = stage.cloud.bill().into_iter();
    lines.find(|line| line.instance_id == instance).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_receipt_is_the_clouds_bill_to_the_cent() {
    let stage = Stage::with_cloud(POOL, STUBBORN, |config| {
        config.speed = SPEED;
        // Minutes of the cloud's time that are not billed.
        config.boot = Duration::from_secs(1);
        config.machine_grace = Duration::from_secs(4);
    })
    .await;
    for zone in ["us-east-2a", "us-east-2b", "us-east-2c"] {
        stage.cloud.set_price("g5.xlarge", zone, PRICE).unwrap();
    }
    let workers = stage.workers.clone();
    stage.submit_all(&["a", "b", "c", "d"]).await;
    stage.start_fleet().await;
    stage.request(4).await;
    let batch = stage
        .until_batch("four machines", |batch| batch.instances.len() >= 4)
        .await;
    let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
    let [silent, noticed, old, ours] = &ids[..4] else {
        unreachable!("four were asked for")
    };
    until("they run", async || {
        let mut lines = stage.cloud.bill().into_iter();
        lines.all(|line| line.started_at.is_some())
    })
    .await;
    for id in &ids {
        workers.come_up(id, State::Busy).await;
    }
    stage
        .until_batch("all serve", |batch| {
            let of_first = batch.instances.iter().filter(|i| ids.contains(&i.id));
            of_first
                .filter(|i| i.state == InstanceState::Serving)
                .count()
                == ids.len()
        })
        .await;

    interrupt(&stage, silent, InterruptionKind::Silent);
    let notice_at = ambient::now() + Duration::from_secs(120);
    interrupt(&stage, noticed, InterruptionKind::Notice);
    workers.hand_back(noticed, notice_at).await;
    let both = [silent.clone(), noticed.clone()];
    stage
        .until_batch("EC2 has taken two", |batch| {
            let of_both = batch.instances.iter().filter(|i| both.contains(&i.id));
            of_both.filter(|i| taken(i)).count() == 2
        })
        .await;
    assert_eq!(
        stage.calls("TerminateInstances"),
        0,
        "that would be charged"
    );
    until("an hour is over for the others", async || {
        line(&stage, old).seconds > 3_700
    })
    .await;
    interrupt(&stage, old, InterruptionKind::Silent);
    let order = json!({ "pool": "default", "mode": "now", "by": "anna" });
    stage.ask("ops.stop", &order).await;
    let batch = stage.until_over().await;

    let receipt = Receipt::of(&batch, ambient::now());
    assert!(receipt.lines.len() > 4, "others were bought in their place");
    for ours in &receipt.lines {
        let theirs = line(&stage, &ours.instance);
        for (what, ours_micros, theirs_micros) in [
            ("compute", ours.charges.compute, theirs.compute_micros),
            ("volume", ours.charges.volume, theirs.volume_micros),
            ("address", ours.charges.address, theirs.address_micros),
            ("in all", ours.cost, theirs.micros),
        ] {
            let gap = (ours_micros.micros() - theirs_micros).abs();
            assert!(gap < CENT, "{what}: {ours:?} {theirs:?}");
        }
    }
    let total: i64 = stage.cloud.bill().iter().map(|line| line.micros).sum();
    assert!(
        (receipt.total.micros() - total).abs() < CENT,
        "{receipt:?} {total}"
    );
    let compute = |id: &str| {
        let mut lines = receipt.lines.iter();
        let ours = lines.find(|line| line.instance == id).unwrap();
        (
            ours.charges.compute.micros(),
            line(&stage, id).compute_micros,
        )
    };
    assert_eq!(
        (compute(silent), compute(noticed)),
        ((0, 0), (0, 0)),
        "free"
    );
    for charged in [old, ours] {
        let (ours, theirs) = compute(charged);
        assert!(ours > 4 * CENT && theirs > 4 * CENT, "{ours} {theirs}");
    }
    let parts = receipt.lines.iter().map(|line| line.charges);
    assert!(
        parts
            .clone()
            .all(|c| c.volume.is_positive() && c.address.is_positive()),
        "{receipt:?}"
    );
}

/// No listing is likely to show it `running`: that it ran, EC2's reason tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_ends_at_once_is_booked_as_it_is_billed() {
    let stage = Stage::with_machines(POOL, "#!/bin/bash\nexit 0\n").await;
    for zone in ["us-east-2a", "us-east-2b", "us-east-2c"] {
        let set = stage.cloud.set_price("g5.xlarge", zone, 10 * PRICE);
        set.unwrap();
    }
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage
        .until_batch("one is gone", |batch| {
            batch.instances.first().is_some_and(Instance::is_gone)
        })
        .await;
    let id = &batch.instances[0].id;
    let billed = line(&stage, id);
    assert!(billed.compute_micros > 0, "{billed:?}");
    let receipt = Receipt::of(&batch, ambient::now());
    let booked = receipt.lines.iter().find(|line| line.instance == *id);
    let compute = booked.unwrap().charges.compute.micros();
    assert_eq!(compute, billed.compute_micros);
}
