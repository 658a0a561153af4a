//! What a launch brought or failed to bring, and what fleet makes of it.

#![allow(clippy::unwrap_used)] // a test: what cannot be is a failure

use std::collections::BTreeMap;

use jiff::Timestamp;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, Blocker, LaunchState, PoolName, Status, Wanted};
use spotreel_domain::fleet::cloud::{
    ErrorClass, LaunchAnswer, Lifecycle, Place, PlaceError, Template,
};
use spotreel_domain::fleet::observation::{Market, Observation, Quota, Work};
use spotreel_domain::fleet::policy::{Bid, BreakerRule, Budget, Kind, Patience, Policy, Subnet};
use spotreel_domain::fleet::reconcile::frozen_request;
use spotreel_domain::fleet::{Effect, Learned, Outcome, reconcile};
use spotreel_domain::ledger::Spend;

const ZONES: [&str; 2] = ["us-east-2a", "us-east-2b"];

fn now() -> Timestamp {
    "2026-03-01T02:00:00Z".parse().unwrap()
}

fn place(zone: &str) -> Place {
    Place {
        kind: "g6.xlarge".into(),
        zone: zone.into(),
    }
}

fn policy(max_units: u32) -> Policy {
    Policy {
        env: "prod".into(),
        pool: PoolName::parse("default").unwrap(),
        project: "spotreel".into(),
        template: Template {
            id: "lt-1".into(),
            version: 1,
        },
        problem: None,
        kinds: vec![Kind {
            name: "g6.xlarge".into(),
            cap: Usd::from_cents(40),
            on_demand_cap: None,
        }],
        subnets: ZONES
            .map(|zone| Subnet {
                id: format!("subnet-{zone}"),
                zone: zone.into(),
            })
            .into(),
        bid: Bid::Balanced,
        leave_when_hinted: false,
        max_units,
        target: std::time::Duration::from_secs(2 * 3_600),
        budget: Budget::default(),
        on_demand_after: None,
        breaker: BreakerRule::default(),
        patience: Patience::default(),
    }
}

/// Ten tasks wait, and nothing runs.
fn observation() -> Observation {
    let spot = ZONES.map(|zone| (place(zone), Usd::from_cents(26)));
    Observation {
        now: now(),
        cloud_now: now(),
        listing: Vec::new(),
        workers: Some(Vec::new()),
        work: Some(Work {
            runnable: 10,
            rendering: 0,
            sized: 4,
            seconds: 1_800,
        }),
        needs: Vec::new(),
        market: Some(Market {
            spot: spot.into(),
            ..Market::default()
        }),
        in_flight: None,
        spent: Some(Spend::default()),
        quota: Quota::default(),
        keep: 0,
        tasks_done: None,
    }
}

/// A batch whose first launch has just been sent.
fn sent(policy: &Policy) -> Batch {
    let wanted = Wanted {
        rule: "length".into(),
        why: "enough tasks".into(),
        units: 4,
        slot: None,
        deadline: now() + jiff::SignedDuration::from_hours(12),
    };
    let batch = Batch::request(&policy.pool, None, wanted, now()).unwrap();
    let round = reconcile(&batch, &observation(), policy);
    assert_eq!(round.effects, [Effect::Launch { seq: 1 }]);
    round.batch
}

fn answered(batch: &Batch, policy: &Policy, errors: &[(&str, ErrorClass)]) -> Batch {
    let errors = errors.iter().map(|(zone, class)| PlaceError {
        place: Some(place(zone)),
        class: *class,
        code: format!("{class:?}"),
        message: "on order".into(),
    });
    let answer = LaunchAnswer {
        fleet: "fleet-1".into(),
        instances: Vec::new(),
        errors: errors.collect(),
    };
    let learned = Learned {
        now: now(),
        cloud_now: now(),
        market: None,
        policy,
    };
    let outcome = Outcome::Launched {
        seq: 1,
        result: Ok(answer),
    };
    learned.apply(batch, &outcome)
}

#[test]
fn one_place_that_cannot_be_stands_in_the_way_of_no_other() {
    let policy = policy(8);
    let errors = [
        (ZONES[0], ErrorClass::Configuration),
        (ZONES[1], ErrorClass::Capacity),
    ];
    let batch = answered(&sent(&policy), &policy, &errors);
    assert!(matches!(
        batch.launches[0].state,
        LaunchState::Answered { .. }
    ));
    let later = Observation {
        now: now() + policy.patience.no_capacity,
        ..observation()
    };
    let round = reconcile(&batch, &later, &policy);
    assert!(
        round.effects.contains(&Effect::Launch { seq: 2 }),
        "{round:?}"
    );
    let request = &round.batch.launches[1].request;
    assert!(
        request.contains(ZONES[1]) && !request.contains(ZONES[0]),
        "{request}"
    );
}

#[test]
fn a_request_that_can_be_nowhere_ends_the_batch_with_its_reason() {
    let policy = policy(8);
    let errors = ZONES.map(|zone| (zone, ErrorClass::Configuration));
    let mut batch = answered(&sent(&policy), &policy, &errors);
    for _ in 0..3 {
        let round = reconcile(&batch, &observation(), &policy);
        assert_eq!(round.effects, [], "nothing is tried again");
        batch = round.batch;
    }
    let Status::Failed { reason } = &batch.status else {
        panic!("{:?}", batch.status);
    };
    assert!(reason.contains("Configuration: on order"), "{reason}");
}

#[test]
fn what_the_cloud_lacks_of_a_pool_is_told_where_no_launch_can_be() {
    let problem = "there is no subnet subnet-1: mend pool.default.subnets";
    let mut policy = policy(8);
    policy.problem = Some(problem.into());
    let batch = sent(&policy);
    let batch = answered(&batch, &policy, &[(ZONES[0], ErrorClass::Capacity)]);
    let later = Observation {
        now: now() + policy.patience.no_capacity,
        ..observation()
    };
    for lacks in [
        |policy: &mut Policy| policy.subnets.clear(),
        |policy: &mut Policy| policy.template.id.clear(),
    ] {
        let mut policy = policy.clone();
        lacks(&mut policy);
        let blocked = reconcile(&batch, &later, &policy).batch.blocked.unwrap();
        assert_eq!(
            (blocked.by, blocked.sentence.as_str()),
            (Blocker::Configuration, problem)
        );
    }
}

#[test]
fn a_pool_at_its_limit_waits_and_is_not_blocked() {
    let policy = policy(1);
    let batch = sent(&policy);
    assert_eq!(batch.launches[0].units, 1);
    let mut answer = LaunchAnswer {
        fleet: "fleet-1".into(),
        instances: Vec::new(),
        errors: Vec::new(),
    };
    answer
        .instances
        .push(spotreel_domain::fleet::cloud::Launched {
            id: "i-1".into(),
            kind: "g6.xlarge".into(),
            zone: ZONES[0].into(),
            lifecycle: Lifecycle::Spot,
        });
    let learned = Learned {
        now: now(),
        cloud_now: now(),
        market: None,
        policy: &policy,
    };
    let outcome = Outcome::Launched {
        seq: 1,
        result: Ok(answer),
    };
    let batch = learned.apply(&batch, &outcome);
    let round = reconcile(&batch, &observation(), &policy);
    assert_eq!((round.effects, round.batch.blocked), (vec![], None));
}

#[test]
fn a_batch_of_the_same_number_after_a_loss_of_data_has_other_tokens() {
    let policy = policy(4);
    let first = sent(&policy);
    let mut again = first.clone();
    again.launches.clear();
    // NATS's data were lost a minute later: the pool's first batch is requested again.
    again.requested_at = now() + jiff::SignedDuration::from_mins(1);
    let again = reconcile(&again, &observation(), &policy).batch;
    let token = |batch: &Batch| frozen_request(batch, 1).unwrap().client_token;
    assert_eq!(first.id, again.id);
    assert_ne!(token(&first), token(&again));
    let token = token(&first);
    assert!(token.len() <= 64 && token.is_ascii(), "{token}");
}
