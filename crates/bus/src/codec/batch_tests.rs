use spotreel_domain::batch::{BlockedBy, DrainMode, Ending, Leaving};
use spotreel_domain::fleet::cloud::{ErrorClass, Lifecycle};

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + ms).unwrap()
}

fn place() -> Place {
    Place {
        kind: "g5.xlarge".into(),
        zone: "eu-central-1a".into(),
    }
}

fn error(place: Option<Place>, class: ErrorClass) -> PlaceError {
    PlaceError {
        place,
        class,
        code: "InsufficientInstanceCapacity".into(),
        message: "none here".into(),
    }
}

fn instance(id: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.into(),
        place: place(),
        lifecycle: Lifecycle::OnDemand,
        launch: 2,
        launched_at: at(1),
        ready_at: Some(at(2)),
        state,
        silent_since: Some(at(3)),
        absences: 4,
        absent_since: Some(at(4)),
        hinted: true,
        rate: Usd::from_micros(377_000),
        cost: Usd::from_micros(12_345),
        billed_to: at(5),
        usage: Usage {
            pending: true,
            began_at: Some(at(6)),
            left_at: Some(at(7)),
            gone_at: Some(at(8)),
            taken: true,
            volume: Usd::from_micros(11_111),
            address: Usd::from_micros(5_000),
        },
    }
}

fn launch(seq: u32, state: LaunchState) -> Launch {
    Launch {
        seq,
        lifecycle: Lifecycle::Spot,
        units: 3,
        request: "{\"client_token\":\"t\"}".into(),
        state,
    }
}

/// Every variant of everything, and no default value.
#[expect(clippy::too_many_lines, reason = "every field of a batch")]
fn full() -> Batch {
    let since = at(7);
    let states = [
        InstanceState::Booting,
        InstanceState::Serving,
        InstanceState::Draining {
            why: Leaving::ScaleIn,
            mode: DrainMode::Finish,
            since,
        },
        InstanceState::Draining {
            why: Leaving::Interruption,
            mode: DrainMode::Now,
            since,
        },
        InstanceState::Terminating {
            why: Leaving::BootLimit,
            since,
            called_at: Some(at(8)),
        },
        InstanceState::Terminating {
            why: Leaving::Orphan,
            since,
            called_at: None,
        },
        InstanceState::Gone {
            ending: Ending::ShutDown,
            at: at(9),
        },
    ];
    let instances = states.into_iter().enumerate();
    let launches = [
        LaunchState::Unanswered {
            at: at(10),
            empty_listings: 2,
            sealed: true,
            sends: 2,
        },
        LaunchState::Answered {
            at: at(11),
            fleet: Some("fleet-1".into()),
            instances: vec!["i-1".into(), "i-2".into()],
            errors: vec![
                error(Some(place()), ErrorClass::Capacity),
                error(None, ErrorClass::Unknown),
            ],
        },
        LaunchState::Answered {
            at: at(11),
            fleet: None,
            instances: vec![],
            errors: vec![],
        },
        LaunchState::Rejected {
            at: at(12),
            error: error(None, ErrorClass::Configuration),
        },
        LaunchState::Closed { at: at(13) },
    ];
    Batch {
        id: BatchId::parse("gpu-24gb-7").unwrap(),
        status: Status::Running,
        rule: "threshold".into(),
        why: "12 tasks wait".into(),
        units: 5,
        slot: Some("2026-11-23T08:00[Europe/Berlin]".into()),
        requested_at: at(20),
        first_ready_at: Some(at(21)),
        ended_at: Some(at(22)),
        deadline: at(23),
        launches: (1..)
            .zip(launches)
            .map(|(seq, state)| launch(seq, state))
            .collect(),
        instances: instances
            .map(|(n, state)| instance(&format!("i-{n}"), state))
            .collect(),
        penalties: vec![Penalty {
            place: Some(place()),
            lifecycle: Lifecycle::Spot,
            class: ErrorClass::Price,
            code: "SpotMaxPriceTooLow".into(),
            message: "above".into(),
            until: at(24),
            times: 2,
        }],
        breaker: Breaker {
            failures: 3,
            pauses: 1,
            until: Some(at(28)),
            last: Some(FailedStart {
                instance: "i-9".into(),
                place: place(),
                reason: "Client.InternalError: Client error on launch".into(),
                console: Some("the end of it".into()),
            }),
        },
        blocked: Some(Blocked {
            by: BlockedBy::NoPlaceUnderCap,
            sentence: "the market is $0.02 above the cap".into(),
            since: at(25),
        }),
        stop: Some(Stop {
            mode: DrainMode::Now,
            by: "ada".into(),
            reason: Some("the bill".into()),
            at: at(26),
        }),
        empty_listings: 1,
        tasks_done: 17,
        residency: Some(Residency {
            units: 4,
            until: Some(at(29)),
            idle_seconds: 7_200,
            idle_cost: Usd::from_micros(520_000),
            boots_saved: 3,
            boot_seconds_saved: 600,
            boot_cost_saved: Usd::from_micros(43_000),
            idle: [("i-1".to_owned(), at(30))].into(),
        }),
        at: at(27),
    }
}

#[test]
fn everything_is_read_as_it_was_written() {
    let statuses = [
        Status::Requested,
        Status::Launching,
        Status::Running,
        Status::Draining,
        Status::Settled,
        Status::Failed {
            reason: "nothing under the cap for a day".into(),
        },
    ];
    for status in statuses {
        let batch = Batch { status, ..full() };
        assert_eq!(decode(&encode(&batch)).unwrap(), batch);
    }
    let bare = Batch {
        slot: None,
        first_ready_at: None,
        ended_at: None,
        launches: vec![],
        instances: vec![Instance {
            ready_at: None,
            silent_since: None,
            absent_since: None,
            usage: Usage::default(),
            ..instance("i-0", InstanceState::Booting)
        }],
        penalties: vec![Penalty {
            place: None,
            ..full().penalties.remove(0)
        }],
        breaker: Breaker::default(),
        blocked: None,
        stop: None,
        residency: None,
        ..full()
    };
    assert_eq!(decode(&encode(&bare)).unwrap(), bare);
}

#[test]
fn every_word_is_read_as_it_was_written() {
    use ErrorClass::{Capacity, Configuration, Doubtful, Price, Quota, Throttled, Unknown};
    for class in [
        Capacity,
        Doubtful,
        Price,
        Quota,
        Configuration,
        Throttled,
        Unknown,
    ] {
        assert_eq!(
            from_word::<ErrorClass>(word(&class), "class").unwrap(),
            class
        );
    }
    use BlockedBy as B;
    for by in [
        B::NoPlaceUnderCap,
        B::NoCapacity,
        B::Quota,
        B::Budget,
        B::Configuration,
        B::PricesUnknown,
        B::CountsUnknown,
        B::NeverServed,
    ] {
        assert_eq!(from_word::<BlockedBy>(word(&by), "by").unwrap(), by);
    }
    assert_eq!(word(&Lifecycle::OnDemand), "on-demand");
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    type Spoil = fn(&mut wire::Batch);
    let table: [(&str, Spoil); 9] = [
        ("pool", |b| b.pool = "No Pool".into()),
        ("number", |b| b.number = 0),
        ("status", |b| b.status = None),
        ("launch.state", |b| b.launches[0].state = None),
        ("launch.lifecycle", |b| b.launches[0].lifecycle.clear()),
        ("instance.place", |b| b.instances[0].place = None),
        ("instance.state", |b| b.instances[0].state = None),
        ("blocked.by", |b| {
            b.blocked.as_mut().unwrap().by = "weather".into();
        }),
        ("deadline_ms", |b| b.deadline_ms = i64::MAX),
    ];
    for (field, spoil) in table {
        let mut wire = to_wire(&full());
        spoil(&mut wire);
        match from_wire(wire) {
            Err(DecodeError::Field(named)) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert!(decode(b"garbage").is_err());
}
