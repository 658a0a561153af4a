//! C12 to C14: what the market gives, refuses and takes back.

use std::time::Duration;

use spotreel_domain::batch::{BlockedBy, Ending, Instance, InstanceState, Launch, Status};
use spotreel_domain::task::State;
use spotreel_localcloud::{Action, Interruption, InterruptionKind, Rule};
use spotreel_tests::harness::fleet::{rule, worker_user_data};
use spotreel_tests::harness::{FleetOptions, FleetStage, always, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn c12_three_of_ten_with_mixed_errors() {
    // A strict bid asks for the cheap type alone, as long as it can be had.
    let options = FleetOptions {
        kinds: vec![("g6.xlarge", 0.36), ("g5.xlarge", 0.45)],
        bid: "strict",
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    for (zone, free) in [("us-east-2a", 3), ("us-east-2b", 0)] {
        stage.cloud.set_capacity("g6.xlarge", zone, free).unwrap();
    }
    stage.faults(vec![Rule {
        code: Some("Unsupported".to_owned()),
        instance_type: Some("g6.xlarge".to_owned()),
        zone: Some("us-east-2c".to_owned()),
        ..rule("CreateFleet", Action::PoolError)
    }]);
    stage.want(10).await;
    let batch = stage.until_machines(10).await;
    let of = |kind: &str| {
        let of_kind = batch.instances.iter().filter(|i| i.place.kind == kind);
        of_kind.count()
    };
    assert_eq!((of("g6.xlarge"), of("g5.xlarge")), (3, 7));
    assert!(batch.instances.iter().all(Instance::is_active));
    let units: Vec<_> = batch.launches.iter().map(|launch| launch.units).collect();
    assert_eq!(units, [10, 7], "the rest once, and elsewhere");
    let mut penalties: Vec<_> = batch
        .penalties
        .iter()
        .filter_map(|p| Some((p.place.as_ref()?.to_string(), p.code.clone())))
        .collect();
    penalties.sort();
    let expected = [
        ("a", "InsufficientInstanceCapacity"),
        ("b", "InsufficientInstanceCapacity"),
        ("c", "Unsupported"),
    ];
    let expected =
        expected.map(|(zone, code)| (format!("g6.xlarge in us-east-2{zone}"), code.to_owned()));
    assert_eq!(penalties, expected);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_nothing_under_the_cap() {
    let options = FleetOptions {
        kinds: vec![("g5.xlarge", 0.01)],
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    stage.want(1).await;
    let blocked = blocked_by(&stage, BlockedBy::NoPlaceUnderCap).await;
    assert!(blocked.contains("raise the cap of g5.xlarge"), "{blocked}");
    assert_eq!(stage.calls("CreateFleet"), 0);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_the_quota_is_zero() {
    let options = FleetOptions {
        cloud: Box::new(|config| config.vcpu_quota = 0),
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::without_fleet(options).await;
    stage.fleet.begin();
    eventually("fleet says so before anybody asks", SOON, || async {
        let health = stage.health().await?;
        (health["checks"]["pool default"]["ok"] == false).then_some(())
    })
    .await;
    stage.want(1).await;
    let blocked = blocked_by(&stage, BlockedBy::Quota).await;
    assert!(blocked.contains("L-3819A6DF"), "{blocked}");
    assert_eq!(stage.calls("CreateFleet"), 0);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_the_account_has_no_right_to_launch() {
    let options = FleetOptions {
        patience: vec![("throttled", "100ms"), ("refused", "600ms")],
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    stage.faults(vec![Rule {
        code: Some("UnauthorizedOperation".to_owned()),
        ..rule("CreateFleet", Action::Error)
    }]);
    stage.want(1).await;
    // No retry mends it: the batch says so and ends, and whoever wants machines has to ask anew.
    let batch = stage.until_over().await;
    let Status::Failed { reason } = batch.status else {
        panic!("{:?}", batch.status);
    };
    assert!(reason.contains("UnauthorizedOperation"), "{reason}");
    assert!(reason.contains("grant ec2:CreateFleet"), "{reason}");
    let health = stage.health().await.unwrap();
    let launches = &health["checks"]["pool default launches"];
    assert_eq!(launches["ok"], false, "{health}");
    let calls = stage.calls("CreateFleet");
    assert!((3..=8).contains(&calls), "asked {calls} times");
    let said = stage.fleet.log_text();
    assert!(said.contains("UnauthorizedOperation"), "{said}");
    stage.at_rest();
}

/// Waits until the batch is blocked, checks that this costs nothing, and gives the sentence.
async fn blocked_by(stage: &FleetStage, by: BlockedBy) -> String {
    let batch = stage
        .until_batch("blocked", |batch| {
            batch
                .blocked
                .as_ref()
                .is_some_and(|blocked| blocked.by == by)
        })
        .await;
    let id = batch.id.clone();
    let events = stage.batches.history(&id).await.unwrap().len();
    let launches = stage.calls("CreateFleet");
    always("nothing is asked again", Duration::from_secs(3), || async {
        let now = stage.batches.history(&id).await.unwrap().len();
        now <= events + 1 && stage.calls("CreateFleet") == launches
    })
    .await;
    let sentence = batch.blocked.unwrap().sentence;
    let said = stage.fleet.log_text();
    let alarm = said
        .lines()
        .any(|line| line.contains("WARN") && line.contains("blocked"));
    assert!(alarm, "{said}");
    assert!(stage.ours().is_empty());
    sentence
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_all_machines_are_taken_at_once_unannounced() {
    const TASKS: usize = 4;
    const MACHINES: u32 = 2;
    let options = FleetOptions {
        user_data: worker_user_data(250),
        max: MACHINES,
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::without_fleet(options).await;
    stage.store().await;
    stage.start().await;
    let ids = stage.submit(TASKS, 8).await;
    stage.request(MACHINES).await;
    let rendering = async || {
        let mut rendering = 0;
        for id in &ids {
            let last = stage.tasks.last(id).await.unwrap().unwrap();
            rendering += usize::from(last.task.state == State::Started);
        }
        rendering
    };
    eventually("all machines render", SOON, || async {
        (rendering().await == MACHINES as usize).then_some(())
    })
    .await;
    let struck = stage.running();
    for id in &struck {
        let order = Interruption {
            instance: Some(id.clone()),
            kind: InterruptionKind::Silent,
            lead_s: 0.0,
        };
        assert!(stage.cloud.interrupt(&order).is_some());
    }
    let batch = stage.until_over().await;
    assert_eq!(batch.status, Status::Settled);
    let mut attempts = 0;
    for id in &ids {
        let last = stage.tasks.last(id).await.unwrap().unwrap();
        let succeeded = matches!(last.task.state, State::Succeeded { .. });
        assert!(succeeded, "{:?}", last.task);
        attempts += last.task.attempts.len();
    }
    assert!(attempts > TASKS, "those in hand were begun again");
    assert_eq!(batch.tasks_done, TASKS as u64);
    for instance in &batch.instances {
        let was_struck = struck.contains(&instance.id);
        let taken = matches!(
            instance.state,
            InstanceState::Gone {
                ending: Ending::Interrupted,
                ..
            }
        );
        assert_eq!(taken, was_struck, "{instance:?}");
    }
    assert!(batch.instances.len() > struck.len(), "replaced");
    assert!(
        batch.launch(1).and_then(Launch::frozen_request).is_none(),
        "closed launches travel light"
    );
    stage.at_rest();
}
