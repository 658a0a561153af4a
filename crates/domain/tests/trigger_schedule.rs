//! Slots where clocks change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use spotreel_domain::trigger::{Calendar, Slot};

const WINDOW: Duration = Duration::from_secs(600);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// When slots begin, looked at minute by minute for 20 hours, each slot once.
fn fired(cron: &str, zone: &str, from: &str) -> Vec<(String, String)> {
    let calendar = Calendar::new(cron, zone).unwrap();
    let mut used: Option<Slot> = None;
    let mut fired = Vec::new();
    for minute in 0..20 * 60 {
        let now = at(from) + minute.minutes();
        if let Some((slot, _)) = calendar.open(WINDOW, now)
            && used.as_ref().is_none_or(|used| slot.is_after(used))
        {
            fired.push((slot.at.to_string(), now.to_string()));
            used = Some(slot);
        }
    }
    fired
}

fn one(civil: &str, utc: &str) -> Vec<(String, String)> {
    vec![(civil.to_owned(), utc.to_owned())]
}

#[test]
fn an_hour_that_is_skipped_fires_right_after_the_gap() {
    for (cron, zone, from, civil, utc) in [
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-08T00:00:00Z",
            "2026-03-08T02:30:00",
            "2026-03-08T07:00:00Z",
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T20:00:00Z",
            "2026-03-29T02:30:00",
            "2026-03-29T01:00:00Z",
        ),
        // Lord Howe moves its clocks by half an hour.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T08:00:00Z",
            "2026-10-04T02:15:00",
            "2026-10-03T15:30:00Z",
        ),
    ] {
        assert_eq!(fired(cron, zone, from), one(civil, utc), "{zone}");
    }
}

#[test]
fn an_hour_that_comes_twice_fires_the_first_time() {
    for (cron, zone, from, civil, utc) in [
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00:00Z",
            "2026-11-01T01:30:00",
            "2026-11-01T05:30:00Z",
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T20:00:00Z",
            "2026-10-25T02:30:00",
            "2026-10-25T00:30:00Z",
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T08:00:00Z",
            "2026-04-05T01:45:00",
            "2026-04-04T14:45:00Z",
        ),
        (
            "30 2 * * *",
            "Asia/Kolkata",
            "2026-10-24T12:00:00Z",
            "2026-10-25T02:30:00",
            "2026-10-24T21:00:00Z",
        ),
    ] {
        assert_eq!(fired(cron, zone, from), one(civil, utc), "{zone}");
    }
}

#[test]
fn a_slot_just_before_clocks_go_back_stays_open_over_the_change() {
    let calendar = Calendar::new("55 1 * * *", "America/New_York").unwrap();
    let open = |now: &str| calendar.open(WINDOW, at(now)).is_some();
    assert!(open("2026-11-01T05:55:00Z") && open("2026-11-01T06:04:00Z"));
    assert!(!open("2026-11-01T06:05:00Z") && !open("2026-11-01T06:56:00Z"));
}

#[test]
fn the_next_slot_is_named_before_and_over_a_change() {
    let calendar = Calendar::new("30 2 * * *", "America/New_York").unwrap();
    let next = |now: &str| calendar.next(at(now)).unwrap().1;
    assert_eq!(next("2026-03-08T06:59:59Z"), at("2026-03-08T07:00:00Z"));
    assert_eq!(next("2026-03-08T07:00:00Z"), at("2026-03-09T06:30:00Z"));
    let minutely = Calendar::new("* * * * *", "America/New_York").unwrap();
    assert_eq!(
        minutely.next(at("2026-11-01T06:00:30Z")).unwrap().1,
        at("2026-11-01T07:00:00Z")
    );
}

#[test]
fn slots_are_written_and_read() {
    let text = "2026-03-08T02:00:00[America/New_York]";
    let slot: Slot = text.parse().unwrap();
    assert_eq!(slot.to_string(), text);
    for bad in ["", "2026-03-08", "x[UTC]", "2026-03-08T02:00:00[UTC"] {
        assert!(bad.parse::<Slot>().is_err(), "{bad}");
    }
}
