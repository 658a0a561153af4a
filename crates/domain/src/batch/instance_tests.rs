use proptest::prelude::*;

use super::*;

/// $0.36 an hour: 100 micro-dollars a second.
const RATE: Usd = Usd::from_micros(360_000);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

/// Bought at 0, `running` from `began` on.
fn running(began: i64) -> Instance {
    let place = Place {
        kind: "g6.xlarge".into(),
        zone: "us-east-2a".into(),
    };
    let mut instance = Instance::bought("i-1".into(), place, Lifecycle::Spot, 1, at(0), RATE);
    instance.billed_to = at(began);
    instance.usage = Usage {
        began_at: Some(at(began)),
        ..Usage::default()
    };
    instance
}

fn left(mut instance: Instance, end: i64) -> Instance {
    instance.usage.left_at = Some(at(end));
    instance
}

fn compute(instance: &Instance, now: i64) -> i64 {
    instance.charges_at(at(now)).compute.micros()
}

#[test]
fn pending_and_shutting_down_are_not_billed() {
    let instance = running(40);
    assert_eq!(compute(&instance, 240), 20_000);
    assert_eq!(compute(&left(instance, 140), 999), 10_000);
    let mut young = running(40);
    young.usage.pending = true;
    assert_eq!(compute(&young, 45), 0, "it is still pending");
    // By EC2's own reason.
    assert_eq!(compute(&left(young.clone(), 140), 999), 0, "it never ran");
    // Between two looks it may have run, and then a minute is billed at least.
    young.usage.pending = false;
    assert_eq!(compute(&left(young, 45), 999), 6_000);
}

#[test]
fn a_minute_at_least() {
    assert_eq!(compute(&left(running(0), 1), 999), 6_000);
}

#[test]
fn what_ec2_takes_in_the_first_hour_is_free_but_for_volume_and_address() {
    let mut taken = left(running(10), 3_609);
    taken.usage.gone_at = Some(at(3_669));
    taken.usage.volume = Usd::from_micros(36_000);
    taken.usage.address = Usd::from_micros(3_600);
    assert_eq!(compute(&taken, 9_999), 359_900, "by its owner");
    taken.usage.taken = true;
    let charges = taken.charges_at(at(9_999));
    let parts = [charges.compute, charges.volume, charges.address];
    assert_eq!(parts.map(Usd::micros), [0, 36_690, 3_669]);
    assert_eq!(taken.cost_at(at(9_999)).micros(), 40_359);
    taken.usage.left_at = Some(at(3_610));
    assert_eq!(compute(&taken, 9_999), 360_000, "an hour was over");
    taken.usage.left_at = Some(at(3_000));
    taken.lifecycle = Lifecycle::OnDemand;
    assert_eq!(compute(&taken, 9_999), 299_000, "only Spot is free");
}

#[test]
fn an_end_that_is_learnt_late_takes_back_what_was_booked_after_it() {
    let mut instance = running(0);
    instance.bill(at(1_000));
    let mut ended = left(instance, 700);
    assert_eq!(compute(&ended, 9_999), 70_000);
    ended.bill(at(1_100));
    assert_eq!((compute(&ended, 9_999), ended.billed_to), (70_000, at(700)));
}

proptest! {
    /// However often the books are brought up to date, and whatever the cloud's clock does in between.
    #[test]
    fn looks_change_no_bill(
        looks in prop::collection::vec(-50i64..20_000, 0..40),
        end in 60i64..20_000,
        learnt_late in any::<bool>(),
    ) {
        let mut watched = running(0);
        let (before, after): (Vec<i64>, Vec<i64>) = looks.iter().partition(|look| **look <= end);
        for look in before {
            watched.bill(at(look));
        }
        if learnt_late {
            watched.bill(at(end + 30));
        }
        watched.usage.left_at = Some(at(end));
        for look in after {
            watched.bill(at(look));
        }
        let plain = left(running(0), end);
        // Each look rounds once.
        let bound = i64::try_from(looks.len()).unwrap() + 2;
        prop_assert!((compute(&watched, 30_000) - compute(&plain, 30_000)).abs() <= bound);
    }
}
