//! What a launch brought or failed to bring, and what fleet makes of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::time::Duration;

use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, BlockedBy, Instance, InstanceState, LaunchState, Status};
use spotreel_domain::fleet::cloud::{
    ErrorClass, LaunchAnswer, LaunchRequest, Lifecycle, PlaceError, tag,
};
use spotreel_domain::fleet::observation::{Observation, Quota, Work, WorkerState};
use spotreel_domain::fleet::policy::Policy;
use spotreel_domain::fleet::{Effect, EffectOutcome, Round, reconcile};

use scene::{answer, at, learned, listed, market, place, requested, start, worker};

const ZONES: [&str; 2] = ["us-east-2a", "us-east-2b"];

fn policy(max_units: u32) -> Policy {
    scene::policy(&ZONES, max_units)
}

/// Ten tasks wait, and nothing runs.
fn observation() -> Observation {
    let spot = ZONES.map(|zone| (place(zone), Usd::from_cents(26)));
    Observation {
        work: Some(Work {
            runnable: 10,
            rendering: 0,
            sized: 4,
            seconds: 1_800,
        }),
        market: Some(market(spot)),
        ..scene::observation(start())
    }
}

/// A batch whose first launch has just been sent.
fn sent(policy: &Policy) -> Batch {
    let batch = requested(4, start());
    let round = reconcile(&batch, &observation(), policy);
    assert_eq!(round.effects, [call(&round.batch, 1)]);
    round.batch
}

/// The call of a launch.
fn call(batch: &Batch, seq: u32) -> Effect {
    Effect::Launch(batch.launch(seq).unwrap().clone())
}

fn request(batch: &Batch, seq: u32) -> LaunchRequest {
    batch.launch(seq).unwrap().frozen_request().unwrap()
}

fn answered(batch: &Batch, policy: &Policy, errors: &[(&str, ErrorClass)]) -> Batch {
    let errors = errors.iter().map(|(zone, class)| PlaceError {
        place: Some(place(zone)),
        class: *class,
        code: format!("{class:?}"),
        message: "on order".into(),
    });
    let answer = LaunchAnswer {
        errors: errors.collect(),
        ..answer(1, [])
    };
    let outcome = EffectOutcome::Launched {
        seq: 1,
        result: Ok(answer),
    };
    learned(start(), policy, None).apply(batch, &outcome)
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
        now: start() + policy.patience.no_capacity,
        ..observation()
    };
    asks_the_second_zone_alone(&reconcile(&batch, &later, &policy));
}

fn asks_the_second_zone_alone(round: &Round) {
    assert!(round.effects.contains(&call(&round.batch, 2)), "{round:?}");
    let request = &round.batch.launches[1].request;
    assert!(
        request.contains(ZONES[1]) && !request.contains(ZONES[0]),
        "{request}"
    );
}

/// Each launch of the batch is refused, from now on and for as long as it is made again; how long that was.
fn refused_until_it_ends(mut batch: Batch, policy: &Policy, error: &PlaceError) -> (Batch, i64) {
    let mut passed = 0;
    while batch.is_active() {
        let now = at(passed);
        let open = batch.launches.iter().find(|launch| launch.is_open());
        if let Some(seq) = open.map(|launch| launch.seq) {
            let learned = learned(now, policy, None);
            let result = Err(error.clone());
            batch = learned.apply(&batch, &EffectOutcome::Launched { seq, result });
        }
        let seen = Observation {
            now,
            cloud_now: now,
            ..observation()
        };
        batch = reconcile(&batch, &seen, policy).batch;
        passed += 5;
        assert!(passed < 3_600, "{batch:?}");
    }
    (batch, passed)
}

fn call_error(code: &str) -> PlaceError {
    PlaceError {
        place: None,
        class: ErrorClass::Configuration,
        code: code.into(),
        message: "on order".into(),
    }
}

#[test]
fn a_refusal_that_repeats_for_minutes_ends_the_batch_with_its_reason() {
    let policy = policy(8);
    let error = call_error("UnauthorizedOperation");
    let (batch, passed) = refused_until_it_ends(sent(&policy), &policy, &error);
    let Status::Failed { reason } = &batch.status else {
        panic!("{:?}", batch.status);
    };
    assert!(
        reason.contains("UnauthorizedOperation: on order"),
        "{reason}"
    );
    assert!((600..900).contains(&passed), "after {passed} s");
    let calls = batch.launches.len();
    assert!((3..=8).contains(&calls), "{calls} calls");
}

#[test]
fn credentials_that_come_back_within_minutes_cost_the_batch_nothing() {
    let policy = policy(8);
    let mut batch = sent(&policy);
    for code in ["ExpiredToken", "NoCredentials"] {
        let now = batch.at;
        let learned = learned(now, &policy, None);
        let seq = batch.launches.last().unwrap().seq;
        let result = Err(call_error(code));
        batch = learned.apply(&batch, &EffectOutcome::Launched { seq, result });
        let seen = |after: i64| Observation {
            now: now + jiff::SignedDuration::from_secs(after),
            cloud_now: now,
            ..observation()
        };
        let round = reconcile(&batch, &seen(5), &policy);
        assert_eq!(round.effects, [], "not at once");
        let blocked = round.batch.blocked.as_ref().unwrap();
        assert_eq!(blocked.by, BlockedBy::Configuration);
        assert!(
            blocked.sentence.contains(code) && blocked.sentence.contains("asked again at"),
            "{}",
            blocked.sentence
        );
        let round = reconcile(&round.batch, &seen(120), &policy);
        assert_eq!(round.effects, [call(&round.batch, seq + 1)]);
        batch = round.batch;
    }
    assert_eq!(batch.launches.len(), 3);
    let tokens = [1, 2, 3].map(|seq| batch.launch(seq).unwrap().request.clone());
    assert!(!tokens[2].is_empty(), "the newest is open");
}

#[test]
fn machines_that_run_go_on_while_the_next_launches_are_refused() {
    let policy = policy(8);
    let mut batch = sent(&policy);
    batch.instances.push(Instance::bought(
        "i-1".into(),
        place(ZONES[0]),
        Lifecycle::Spot,
        0,
        start(),
        Usd::from_cents(26),
    ));
    for now in (0..720).map(|round| at(5 * round)) {
        let learned = learned(now, &policy, None);
        let open = batch.launches.iter().find(|launch| launch.is_open());
        if let Some(seq) = open.map(|launch| launch.seq) {
            let result = Err(call_error("UnauthorizedOperation"));
            batch = learned.apply(&batch, &EffectOutcome::Launched { seq, result });
        }
        let mut seen = observation();
        (seen.now, seen.cloud_now) = (now, start());
        // It is not listed, and its worker is there.
        seen.workers = Some(vec![worker("i-1", WorkerState::Busy)]);
        batch = reconcile(&batch, &seen, &policy).batch;
    }
    assert!(batch.is_active(), "{:?}", batch.status);
    assert_eq!(batch.instances[0].state, InstanceState::Serving);
    let calls = batch.launches.len();
    assert!((10..30).contains(&calls), "{calls} calls in an hour");
}

#[test]
fn an_answer_of_nothing_but_wrong_places_is_a_refusal_of_the_request() {
    let policy = policy(8);
    let errors = ZONES.map(|zone| (zone, ErrorClass::Configuration));
    let batch = answered(&sent(&policy), &policy, &errors);
    assert!(matches!(
        batch.launches[0].state,
        LaunchState::Rejected { .. }
    ));
    let places: Vec<_> = batch.penalties.iter().map(|p| p.place.clone()).collect();
    assert_eq!(places, [None]);
    // One of them alone is its own, and the other is asked.
    let batch = answered(&sent(&policy), &policy, &errors[..1]);
    asks_the_second_zone_alone(&reconcile(&batch, &observation(), &policy));
}

#[test]
fn what_an_error_says_of_a_place_holds_for_that_place_alone() {
    let policy = policy(8);
    for class in [ErrorClass::Quota, ErrorClass::Unknown, ErrorClass::Capacity] {
        let batch = answered(&sent(&policy), &policy, &[(ZONES[0], class)]);
        let round = reconcile(&batch, &observation(), &policy);
        let request = request(&round.batch, 2);
        let asked: Vec<_> = request.overrides.iter().map(|o| &o.place).collect();
        assert_eq!(asked, [&place(ZONES[1])], "{class:?}");
    }
    // How often we may ask is the account's.
    let throttled = [(ZONES[0], ErrorClass::Throttled)];
    let batch = answered(&sent(&policy), &policy, &throttled);
    let round = reconcile(&batch, &observation(), &policy);
    assert!(
        !round.effects.iter().any(|e| matches!(e, Effect::Launch(_))),
        "{round:?}"
    );
}

#[test]
fn a_call_that_is_refused_for_a_subnet_is_made_again_without_it() {
    let policy = policy(8);
    let before = sent(&policy);
    let learned = learned(start(), &policy, None);
    let errors = vec![PlaceError {
        place: Some(place(ZONES[0])),
        ..call_error("InvalidSubnetID.NotFound")
    }];
    let outcome = EffectOutcome::PlacesRefused { seq: 1, errors };
    let round = reconcile(&learned.apply(&before, &outcome), &observation(), &policy);
    assert!(round.effects.contains(&call(&round.batch, 2)), "{round:?}");
    let request = request(&round.batch, 2);
    let asked: Vec<_> = request.overrides.iter().map(|o| &o.place).collect();
    assert_eq!(asked, [&place(ZONES[1])]);
    // Of a call that was made twice it says nothing.
    let mut twice = before;
    if let LaunchState::Unanswered { sends, .. } = &mut twice.launches[0].state {
        *sends = 2;
    }
    assert_eq!(learned.apply(&twice, &outcome), twice);
}

#[test]
fn a_persons_tags_go_out_with_the_call_and_never_hide_ours() {
    let mut policy = policy(8);
    let theirs = [
        ("cost-center", "42"),
        ("Project", "films"),
        (tag::ENV, "theirs"),
    ];
    policy.tags = theirs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let tags = request(&sent(&policy), 1).tags;
    let of = |key: &str| tags[key].as_str();
    assert_eq!((of("cost-center"), of("Project")), ("42", "films"));
    assert_eq!(
        (of(tag::ENV), of("Name")),
        ("prod", "spotreel-default"),
        "fleet finds its machines by it"
    );
}

#[test]
fn machines_on_demand_come_from_their_own_version_of_the_template() {
    let mut policy = policy(8);
    policy.on_demand_version = Some(2);
    policy.on_demand_after = Some(Duration::ZERO);
    policy.kinds[0].on_demand_cap = Some(Usd::from_cents(90));
    let batch = sent(&policy);
    assert_eq!(request(&batch, 1).template.version, 1);
    let errors = ZONES.map(|zone| (zone, ErrorClass::Capacity));
    let mut batch = answered(&batch, &policy, &errors);
    let mut seen = observation();
    let market = seen.market.as_mut().unwrap();
    market
        .on_demand
        .insert("g6.xlarge".into(), Usd::from_cents(80));
    for _ in 0..2 {
        batch = reconcile(&batch, &seen, &policy).batch;
    }
    let request = request(&batch, 2);
    assert_eq!(
        (request.lifecycle, request.template.version),
        (Lifecycle::OnDemand, 2)
    );
}

#[test]
fn machines_on_demand_come_also_where_the_spot_quota_has_no_room() {
    let mut policy = policy(8);
    policy.on_demand_after = Some(Duration::ZERO);
    policy.kinds[0].on_demand_cap = Some(Usd::from_cents(90));
    let mut batch = requested(1, start());
    let mut seen = observation();
    seen.quota = Quota {
        left: [(Lifecycle::Spot, 0), (Lifecycle::OnDemand, 64)].into(),
        vcpus: [("g6.xlarge".to_owned(), 4)].into(),
    };
    let market = seen.market.as_mut().unwrap();
    market
        .on_demand
        .insert("g6.xlarge".into(), Usd::from_cents(80));
    for _ in 0..2 {
        batch = reconcile(&batch, &seen, &policy).batch;
    }
    let request = request(&batch, 1);
    assert_eq!(request.lifecycle, Lifecycle::OnDemand);
}

#[test]
fn the_quota_of_g_and_vt_types_holds_no_others_back() {
    let quota = Quota {
        left: [(Lifecycle::Spot, 3)].into(),
        vcpus: [("g6.xlarge", 4), ("p5.4xlarge", 16)]
            .map(|(kind, vcpus)| (kind.to_owned(), vcpus))
            .into(),
    };
    assert!(!quota.admits(Lifecycle::Spot, "g6.xlarge"));
    assert!(quota.admits(Lifecycle::Spot, "p5.4xlarge"));
    assert_eq!(quota.used(["g6.xlarge", "p5.4xlarge"]), 4);
}

#[test]
fn what_the_cloud_lacks_of_a_pool_is_told_where_no_launch_can_be() {
    let problem = "subnet subnet-1 does not exist: correct pool.default.subnets";
    let mut policy = policy(8);
    policy.problem = Some(problem.into());
    let batch = sent(&policy);
    let batch = answered(&batch, &policy, &[(ZONES[0], ErrorClass::Capacity)]);
    let later = Observation {
        now: start() + policy.patience.no_capacity,
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
            (BlockedBy::Configuration, problem)
        );
    }
}

#[test]
fn a_pool_at_its_limit_waits_and_is_not_blocked() {
    let policy = policy(1);
    let batch = sent(&policy);
    assert_eq!(batch.launches[0].units, 1);
    let bought = listed("i-1", &place(ZONES[0]), start());
    let outcome = EffectOutcome::Launched {
        seq: 1,
        result: Ok(answer(1, [&bought])),
    };
    let batch = learned(start(), &policy, None).apply(&batch, &outcome);
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
    again.requested_at = start() + jiff::SignedDuration::from_mins(1);
    let again = reconcile(&again, &observation(), &policy).batch;
    let token = |batch: &Batch| request(batch, 1).client_token;
    assert_eq!(first.id, again.id);
    assert_ne!(token(&first), token(&again));
    let token = token(&first);
    assert!(token.len() <= 64 && token.is_ascii(), "{token}");
}
