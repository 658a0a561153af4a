use std::time::Duration;

use super::*;

const MILLI: i64 = 1000;
/// $0.36 an hour: 100 micro-dollars a second.
const PRICE: i64 = 360 * MILLI;

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

/// Without volume and address.
fn bare() -> Billed {
    Billed {
        kind: "g5.xlarge".to_owned(),
        zone: "us-east-2a".to_owned(),
        lifecycle: "spot".to_owned(),
        volume_gib: 0,
        has_address: false,
    }
}

fn started_at_price(micros: i64) -> Bill {
    let mut bill = Bill::default();
    bill.launched("i-1", bare(), at(0.0));
    bill.started("i-1", at(0.0), micros);
    bill
}

fn started() -> Bill {
    started_at_price(PRICE)
}

fn only(bill: &Bill, now: f64) -> BillLine {
    let mut lines = bill.lines(at(now));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn a_minute_at_least_then_seconds() {
    let mut bill = started();
    assert_eq!(only(&bill, 1.0).micros, 6000);
    bill.ended("i-1", at(59.0), false);
    assert_eq!(
        (only(&bill, 999.0).seconds, only(&bill, 999.0).micros),
        (60, 6000)
    );

    let mut bill = started();
    bill.ended("i-1", at(100.2), false);
    let line = only(&bill, 999.0);
    assert_eq!((line.seconds, line.micros), (101, 10_100));
    assert_eq!(line.ended_at, Some(at(100.2)));
}

#[test]
fn each_second_at_the_price_of_its_time() {
    let mut bill = started();
    bill.repriced("i-1", at(100.0), 2 * PRICE);
    bill.repriced("i-1", at(150.0), 0);
    assert_eq!(only(&bill, 100.0).micros, 10_000);
    assert_eq!(only(&bill, 120.0).micros, 14_000);
    assert_eq!(only(&bill, 9999.0).micros, 20_000);
}

#[test]
fn a_price_after_the_end_costs_nothing() {
    let mut bill = started();
    bill.ended("i-1", at(100.0), false);
    bill.repriced("i-1", at(200.0), 9 * PRICE);
    assert_eq!(only(&bill, 300.0).micros, 10_000);
}

#[test]
fn rounds_once_half_up() {
    // 60 s of 30 micro-dollars an hour: half of one
    assert_eq!(only(&started_at_price(30), 1.0).micros, 1);
    assert_eq!(only(&started_at_price(29), 1.0).micros, 0);
}

#[test]
fn whom_ec2_takes_in_the_first_hour_pays_nothing() {
    let mut bill = started();
    bill.ended("i-1", at(3599.0), true);
    bill.ended("i-1", at(4000.0), false); // too late to count
    let line = only(&bill, 9999.0);
    assert!(line.interrupted);
    assert_eq!((line.seconds, line.micros), (0, 0));

    let mut bill = started();
    bill.ended("i-1", at(3600.0), true);
    assert_eq!(only(&bill, 9999.0).micros, PRICE);
}

#[test]
fn a_second_start_changes_nothing() {
    let mut bill = started();
    bill.launched("i-1", bare(), at(50.0));
    bill.started("i-1", at(50.0), 9 * PRICE);
    assert_eq!(only(&bill, 100.0).micros, 10_000);
    bill.ended("i-unknown", at(1.0), false);
}

#[test]
fn volume_and_address_cost_from_launch_to_end_whatever_the_instance_costs() {
    let mut bill = Bill::default();
    let of = Billed {
        volume_gib: 90,
        has_address: true,
        ..bare()
    };
    bill.launched("i-1", of, at(0.0));
    // A month of 30 days: an hour of 90 GB is a cent.
    let line = only(&bill, 360.0);
    let parts = |line: &BillLine| [line.compute_micros, line.volume_micros, line.address_micros];
    assert_eq!(parts(&line), [0, 1_000, 500], "pending");
    assert_eq!((line.seconds, line.started_at), (0, None));
    bill.started("i-1", at(360.0), PRICE);
    bill.ended("i-1", at(1_800.0), true);
    bill.gone("i-1", at(3_600.0));
    let line = only(&bill, 9_999.0);
    assert_eq!(
        parts(&line),
        [0, 10_000, 5_000],
        "taken, and shut down slowly"
    );
    assert_eq!(line.micros, 15_000);
}
