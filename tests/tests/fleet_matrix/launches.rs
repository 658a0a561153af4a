//! C1 to C9: a launch, from its intent to the day when nothing of it can appear any more.

use std::collections::BTreeSet;
use std::time::Duration;

use spotreel_domain::batch::{Batch, Instance, LaunchState, Status};
use spotreel_localcloud::{Action, Rule};
use spotreel_tests::harness::fleet::rule;
use spotreel_tests::harness::{FleetOptions, FleetStage, always, eventually};

const SOON: Duration = Duration::from_secs(30);

fn is_unanswered(batch: &Batch) -> bool {
    let state = batch.launches.last().map(|launch| &launch.state);
    matches!(state, Some(LaunchState::Unanswered { .. }))
}

fn is_answered(batch: &Batch) -> bool {
    let state = batch.launches.last().map(|launch| &launch.state);
    matches!(state, Some(LaunchState::Answered { .. }))
}

/// The machines of the record are those that run, and one token was used.
async fn launched_once(stage: &FleetStage, count: usize) {
    let batch = stage
        .until_batch("the launch is answered", |batch| {
            is_answered(batch) && batch.instances.len() == count
        })
        .await;
    assert_eq!(batch.launches.len(), 1, "one intent: {:#?}", batch.launches);
    let recorded: BTreeSet<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
    let running: BTreeSet<_> = stage.running().into_iter().collect();
    assert_eq!(recorded, running);
    assert_eq!(
        stage.ours().len(),
        count,
        "nothing else was ever launched, nothing ended"
    );
    let tokens: BTreeSet<_> = stage.launches().into_iter().collect();
    assert_eq!(tokens.len(), 1, "the token is always the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_killed_before_the_intent_is_durable() {
    let mut stage = FleetStage::that_dies_at("before-intent", FleetOptions::default()).await;
    stage.want(2).await;
    stage.until_dead().await;
    let batch = stage.batch().await;
    assert!(batch.launches.is_empty() && batch.instances.is_empty());
    assert_eq!(stage.calls("CreateFleet"), 0);
    assert!(stage.ours().is_empty());
    stage.start_next().await;
    launched_once(&stage, 2).await;
    assert_eq!(stage.launches().len(), 1);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_killed_with_an_intent_that_was_not_sent() {
    let mut stage = FleetStage::that_dies_at("after-intent", FleetOptions::default()).await;
    stage.want(2).await;
    stage.until_dead().await;
    assert!(is_unanswered(&stage.batch().await));
    assert_eq!(stage.calls("CreateFleet"), 0);
    stage.start_next().await;
    launched_once(&stage, 2).await;
    assert_eq!(stage.launches().len(), 1, "sent once");
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_killed_with_an_intent_that_nobody_wants_any_more() {
    let options = FleetOptions {
        patience: vec![("replay", "1s"), ("unknown_launch", "3s")],
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::that_dies_at("after-intent", options).await;
    stage.want(2).await;
    stage.until_dead().await;
    stage.stop().await;
    stage.start_next().await;
    let batch = stage.until_over().await;
    assert_eq!(batch.status, Status::Settled);
    assert!(matches!(
        batch.launches[0].state,
        LaunchState::Closed { .. }
    ));
    assert_eq!(stage.calls("CreateFleet"), 0);
    assert!(stage.ours().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_the_request_is_lost_before_the_cloud() {
    let stage = FleetStage::set(FleetOptions::default()).await;
    stage.faults(vec![Rule {
        times: Some(2),
        ..rule("CreateFleet", Action::Reset)
    }]);
    stage.want(2).await;
    launched_once(&stage, 2).await;
    assert_eq!(stage.fired(0), 2);
    assert_eq!(stage.launches().len(), 3, "sent until it was answered");
    let id = stage.batch().await.id;
    let history = stage.batches.history(&id).await.unwrap();
    let sends = history.iter().map(|event| match event.batch.launches[..] {
        [ref launch] => match launch.state {
            LaunchState::Unanswered { sends, .. } => sends,
            _ => 0,
        },
        _ => 0,
    });
    assert_eq!(
        sends.max(),
        Some(3),
        "each call is counted, and nothing else"
    );
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c03_the_request_is_lost_and_fleet_dies() {
    let mut stage = FleetStage::that_dies_at("after-call", FleetOptions::default()).await;
    stage.faults(vec![rule("CreateFleet", Action::Reset)]);
    stage.want(2).await;
    stage.until_dead().await;
    assert!(is_unanswered(&stage.batch().await));
    assert!(stage.ours().is_empty());
    stage.cloud.faults().clear();
    stage.start_next().await;
    launched_once(&stage, 2).await;
    assert_eq!(stage.launches().len(), 2);
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_launched_and_the_answer_is_lost() {
    for action in [Action::InternalError, Action::Reset] {
        let stage = FleetStage::set(FleetOptions::default()).await;
        stage.faults(vec![Rule {
            times: Some(1),
            after: true,
            ..rule("CreateFleet", action)
        }]);
        stage.want(2).await;
        launched_once(&stage, 2).await;
        assert_eq!((stage.fired(0), stage.launches().len()), (1, 2));
        stage.wind_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c05_killed_between_the_answer_and_the_record() {
    for point in ["after-call", "before-learn"] {
        let mut stage = FleetStage::that_dies_at(point, FleetOptions::default()).await;
        stage.want(2).await;
        stage.until_dead().await;
        assert!(is_unanswered(&stage.batch().await));
        assert_eq!(stage.running().len(), 2, "they run, and nobody knows");
        match point {
            "after-call" => stage.start_next().await,
            // And once as it is in the wild: the next one waits for the end of the lease.
            _ => stage.start().await,
        }
        launched_once(&stage, 2).await;
        assert_eq!(stage.launches().len(), 2, "asked again with the same token");
        stage.wind_up().await;
    }
}

async fn killed_and_too_late() -> FleetStage {
    let options = FleetOptions {
        patience: vec![("replay", "1s"), ("unknown_launch", "3s")],
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::that_dies_at("after-call", options).await;
    stage.want(2).await;
    stage.until_dead().await;
    let batch = stage.batch().await;
    let LaunchState::Unanswered { at, .. } = batch.launches[0].state else {
        panic!("{:?}", batch.launches);
    };
    eventually("it is too late to ask again", SOON, || async {
        let age = spotreel_bootstrap::ambient::now().duration_since(at);
        (age.as_millis() > 1_000).then_some(())
    })
    .await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_restarted_after_the_replay_window() {
    let mut stage = killed_and_too_late().await;
    stage.start_next().await;
    let batch = stage.until_machines(2).await;
    assert!(
        batch.instances.iter().all(Instance::is_active),
        "they are kept"
    );
    assert_eq!(stage.launches().len(), 1, "never asked again");
    always("no other launch", Duration::from_secs(3), || async {
        stage.launches().len() == 1 && stage.running().len() == 2
    })
    .await;
    let batch = stage.wind_up().await;
    assert_eq!(batch.status, Status::Settled);
    assert!(batch.launches.iter().all(|launch| !launch.is_open()));
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_restarted_after_the_replay_window_and_unwanted() {
    let mut stage = killed_and_too_late().await;
    assert_eq!(stage.running().len(), 2);
    stage.stop().await;
    stage.start_next().await;
    let batch = stage.until_over().await;
    assert_eq!(batch.instances.len(), 2, "found by their tags");
    assert!(batch.launches.iter().all(|launch| !launch.is_open()));
    assert_eq!(stage.launches().len(), 1);
    stage.at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn c07_the_token_is_refused_at_the_second_call() {
    let options = FleetOptions {
        patience: vec![("replay", "5s"), ("unknown_launch", "6s")],
        ..FleetOptions::default()
    };
    let stage = FleetStage::set(options).await;
    stage.faults(vec![
        Rule {
            times: Some(1),
            after: true,
            ..rule("CreateFleet", Action::InternalError)
        },
        Rule {
            code: Some("IdempotentParameterMismatch".to_owned()),
            ..rule("CreateFleet", Action::Error)
        },
        // And the sweep sees it late.
        Rule {
            for_ms: 3_000,
            ..rule("DescribeInstances", Action::Hide)
        },
    ]);
    stage.want(2).await;
    stage.until_fired(1, 1).await;
    let batch = stage.until_machines(2).await;
    assert!(batch.instances.iter().all(Instance::is_active));
    assert_eq!(batch.launches.len(), 1, "no new token");
    assert_eq!(stage.launches().len(), 2, "and the old one not again");
    let said = stage.fleet.log_text();
    let alarm = said.lines().find(|line| line.contains("this is a bug"));
    assert!(
        alarm.is_some_and(|line| line.contains("ERROR")),
        "{alarm:?}"
    );
    assert_eq!(stage.ours().len(), 2, "one fleet");
    stage.cloud.faults().clear();
    let batch = stage.wind_up().await;
    assert_eq!(batch.launches.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c08_a_leader_that_lost_its_lease_in_the_call() {
    let mut zombie = FleetStage::set(FleetOptions::default()).await;
    zombie.faults(vec![Rule {
        times: Some(1),
        delay_ms: 1_000,
        ..rule("CreateFleet", Action::Delay)
    }]);
    zombie.want(2).await;
    zombie.until_fired(0, 1).await;
    zombie.fleet.freeze();
    let mut next = zombie.another_fleet();
    zombie.give_back_lease().await;
    next.begin();
    next.ready().await;
    launched_once(&zombie, 2).await;
    eventually("the zombie's call has been answered too", SOON, || async {
        (zombie.launches().len() == 2).then_some(())
    })
    .await;
    let stands = zombie.batch().await;
    zombie.fleet.thaw();
    eventually(
        "the zombie knows that it has lost leadership",
        SOON,
        || async {
            let said = zombie.fleet.log_text();
            said.contains("lost leadership").then_some(())
        },
    )
    .await;
    // Whether it took its answer before or never: what it would write stands there already, by another hand.
    launched_once(&zombie, 2).await;
    assert_eq!(zombie.batch().await.launches, stands.launches);
    let batch = zombie.wind_up().await;
    assert_eq!(batch.instances.len(), 2);
    assert_eq!(zombie.ours().len(), 2);
}

async fn lags_behind(action: Action) {
    const BEHIND: Duration = Duration::from_secs(4);
    let stage = FleetStage::set(FleetOptions::default()).await;
    stage.faults(vec![Rule {
        for_ms: 4_000,
        ..rule("DescribeInstances", action)
    }]);
    stage.want(2).await;
    launched_once(&stage, 2).await;
    always("one launch, and it lives", BEHIND, || async {
        let once = stage.launches().len() == 1 && stage.ours().len() == 2;
        once && stage.running().len() == 2
    })
    .await;
    assert_eq!(stage.calls("TerminateInstances"), 0, "nobody is an orphan");
    let batch = stage.batch().await;
    assert!(batch.instances.iter().all(Instance::is_active));
    stage.wind_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c09_listings_show_nothing_after_the_launch() {
    lags_behind(Action::Hide).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c09_listings_show_the_past() {
    lags_behind(Action::Stale).await;
}
