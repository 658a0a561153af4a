//! C10, C11, C15, C16, C17: machines that have to end, whatever stands in the way.

use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_domain::batch::{Batch, BlockedBy, Ending, Instance, InstanceState, Leaving};
use spotreel_localcloud::{Action, Rule};
use spotreel_tests::harness::fleet::{rule, stop_now, worker_user_data_with};
use spotreel_tests::harness::{FleetOptions, FleetStage, Process, always, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn c10_an_end_that_takes_long_or_is_not_found() {
    for first in ["it is answered", "it is not found"] {
        let stage = FleetStage::set(FleetOptions::default()).await;
        stage.want(2).await;
        stage.until_machines(2).await;
        let slowly = Rule {
            for_ms: 6_000,
            ..rule("TerminateInstances", Action::TerminateSlowly)
        };
        let unknown = Rule {
            code: Some("InvalidInstanceID.NotFound".to_owned()),
            ..rule("TerminateInstances", Action::Error)
        };
        stage.faults(match first {
            "it is answered" => vec![slowly],
            _ => vec![unknown],
        });
        stage.stop().await;
        // Each machine in a call of its own at most, or both in one that is split.
        eventually("it is called again", SOON, || async {
            (stage.calls("TerminateInstances") >= 4).then_some(())
        })
        .await;
        assert_eq!(stage.running().len(), 2, "{first}, and they run on");
        assert!(
            stage.batch().await.is_active(),
            "{first}, and that is no end"
        );
        stage.cloud.faults().clear();
        let batch = stage.until_over().await;
        stage.at_rest();
        for instance in &batch.instances {
            let InstanceState::Gone { ending, .. } = instance.state else {
                panic!("the batch is over before {} is", instance.id);
            };
            assert_eq!(ending, Ending::Terminated, "seen, not assumed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c11_one_bad_id_among_those_to_end() {
    const BAD: &str = "i-0123456789abcdef0";
    let stage = FleetStage::set(FleetOptions::default()).await;
    stage.want(3).await;
    stage.until_machines(3).await;
    // The record names a machine that the cloud does not know, and all of them are to go in one call.
    stage
        .rewrite(|batch| {
            let mut bad = batch.instances[0].clone();
            BAD.clone_into(&mut bad.id);
            batch.instances.insert(1, bad);
            for instance in &mut batch.instances {
                instance.state = InstanceState::Terminating {
                    why: Leaving::Ordered,
                    since: ambient::now(),
                    called_at: None,
                };
            }
            *batch = batch.stopped(stop_now());
        })
        .await;
    stage.until_running(0).await;
    let refused = stage.cloud.calls().into_iter().filter(|call| {
        call.action == "TerminateInstances"
            && call.error.as_deref() == Some("InvalidInstanceID.NotFound")
    });
    assert!(refused.count() > 0, "the bad one was among them");
    assert!(stage.calls("TerminateInstances") >= 3, "split");
    let batch = stage.until_over().await;
    assert!(batch.instances.iter().all(Instance::is_gone));
    stage.at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_a_machine_that_never_says_hello() {
    let options = FleetOptions {
        patience: vec![("boot", "3s")],
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    stage.want(1).await;
    let batch = stage.until_machines(1).await;
    let mute = batch.instances[0].clone();
    let batch = stage
        .until_batch("another is bought for it", |batch| {
            batch.instances.len() > 1 && batch.instances[0].is_gone()
        })
        .await;
    let first = stage.ours().into_iter().find(|one| one.id == mute.id);
    let first = first.unwrap();
    let lived = first.ended_at.unwrap().duration_since(first.launched_at);
    assert!(lived.as_millis() >= 2_900, "it had its time: {lived:?}");
    let penalty = batch.penalties.iter().find(|p| p.code == "BootLimit");
    assert_eq!(
        penalty.and_then(|penalty| penalty.place.clone()),
        Some(mute.place.clone())
    );
    let next = &batch.instances[1];
    assert_ne!(next.place, mute.place, "bought elsewhere");
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_engines_that_cannot_start_end_machines_within_seconds_and_pause_the_launches() {
    let engine = r#"["/bin/sh","-c","echo no kernel image for this card >&2; exit 3"]"#;
    let user_data = worker_user_data_with(0, &format!("--set 'engine.command={engine}'"));
    let options = FleetOptions {
        user_data,
        max: 3,
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::without_fleet(options).await;
    stage.store().await;
    stage.start().await;
    stage.want(3).await;
    // Far less than the boot limit of five minutes.
    let told = |batch: &Batch| {
        let blocked = batch.blocked.as_ref();
        blocked.is_some_and(|b| b.sentence.contains("no kernel image for this card"))
    };
    let batch = stage.until_batch("the engine's own words", told).await;
    assert_eq!(batch.blocked.unwrap().by, BlockedBy::NeverServed);
    assert!(batch.breaker.failures >= 3);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_nats_is_down() {
    let options = FleetOptions {
        patience: vec![("life", "6s")],
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::set(options).await;
    stage.want(2).await;
    stage.until_machines(2).await;
    stage.nats.kill9();
    let launched = stage.launches().len();
    stage.until_running(0).await;
    always("nothing is launched", Duration::from_secs(2), || async {
        stage.launches().len() == launched && stage.running().is_empty()
    })
    .await;
    assert_eq!(stage.health().await.unwrap()["checks"]["nats"]["ok"], false);
    stage.nats.begin().await;
    // The tasks are still there, and so the work goes on.
    stage
        .until_batch("it buys again", |batch| batch.instances.len() > 2)
        .await;
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_the_cloud_throttles() {
    let options = FleetOptions {
        patience: vec![("life", "6s")],
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    stage.want(1).await;
    stage.until_machines(1).await;
    stage.faults(vec![
        rule("CreateFleet", Action::SlowDown),
        rule("DescribeInstances", Action::SlowDown),
    ]);
    let before = stage.ours().len();
    stage.until_running(0).await;
    always("nothing is launched", Duration::from_secs(2), || async {
        stage.ours().len() == before
    })
    .await;
    assert_eq!(
        stage.health().await.unwrap()["checks"]["cloud"]["ok"],
        false
    );
    stage.cloud.faults().clear();
    stage
        .until_batch("it buys again", |batch| batch.instances.len() > 1)
        .await;
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_fleet_is_dead_for_ever() {
    // Every machine starts its own timer first, as deploy/user-data.sh does; the first one's does not work.
    let user_data = "#!/bin/bash\n\
        if ! mkdir ../../broken 2>/dev/null; then (sleep 3; kill $$) & fi\n\
        sleep 1000 & wait\n";
    let options = FleetOptions {
        user_data: user_data.to_owned(),
        patience: vec![("life", "6s")],
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::set(options).await;
    stage.want(3).await;
    stage.until_machines(3).await;
    stage.fleet.kill9();
    stage.until_running(1).await;
    let off = stage.ours().into_iter().filter(|one| {
        let itself = one.reason == Some("Client.InstanceInitiatedShutdown");
        one.state == "terminated" && itself
    });
    assert_eq!(off.count(), 2, "by their own timers");
    // The reaper, wherever it runs: it knows the tags, and nothing else.
    let log = stage.dir.path().join("reaper.log");
    let _reaper = Process::start(stage.reaper(&["--every", "500ms"]), &log).unwrap();
    stage.until_running(0).await;
    stage.one_fleet_a_launch();
    let expired = stage.ours().into_iter().all(|one| {
        let at: jiff::Timestamp = one.tags["spotreel:expires-at"].parse().unwrap();
        one.reason != Some("Client.UserInitiatedShutdown") || at <= ambient::now()
    });
    assert!(expired, "not one of them before its time");
}
