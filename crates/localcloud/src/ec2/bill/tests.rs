use std::time::Duration;

use super::*;

const MILLI: i64 = 1000;
/// $0.36 an hour: 100 micro-dollars a second.
const PRICE: i64 = 360 * MILLI;

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn started() -> Bill {
    let mut bill = Bill::default();
    bill.started("i-1", "g5.xlarge", "us-east-2a", "spot", at(0.0), PRICE);
    bill
}

fn only(bill: &Bill, now: f64) -> Line {
    let mut lines = bill.lines(at(now));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn a_minute_at_least_then_seconds() {
    let mut bill = started();
    assert_eq!(only(&bill, 1.0).micros, 6000);
    bill.ended("i-1", at(59.0));
    assert_eq!(
        (only(&bill, 999.0).seconds, only(&bill, 999.0).micros),
        (60, 6000)
    );

    let mut bill = started();
    bill.ended("i-1", at(100.2));
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
    bill.ended("i-1", at(100.0));
    bill.repriced("i-1", at(200.0), 9 * PRICE);
    assert_eq!(only(&bill, 300.0).micros, 10_000);
}

#[test]
fn rounds_once_half_up() {
    let mut bill = Bill::default();
    bill.started("i-1", "t", "z", "spot", at(0.0), 30); // 60 s of 30 micro-dollars an hour: half of one
    assert_eq!(only(&bill, 1.0).micros, 1);
    let mut bill = Bill::default();
    bill.started("i-1", "t", "z", "spot", at(0.0), 29);
    assert_eq!(only(&bill, 1.0).micros, 0);
}

#[test]
fn whom_ec2_takes_in_the_first_hour_pays_nothing() {
    let mut bill = started();
    bill.interrupted("i-1", at(3599.0));
    bill.ended("i-1", at(4000.0)); // too late to count
    let line = only(&bill, 9999.0);
    assert!(line.interrupted);
    assert_eq!((line.seconds, line.micros), (0, 0));

    let mut bill = started();
    bill.interrupted("i-1", at(3600.0));
    assert_eq!(only(&bill, 9999.0).micros, PRICE);
}

#[test]
fn a_second_start_changes_nothing() {
    let mut bill = started();
    bill.started("i-1", "other", "other", "spot", at(50.0), 9 * PRICE);
    assert_eq!(only(&bill, 100.0).micros, 10_000);
    bill.ended("i-unknown", at(1.0));
}
