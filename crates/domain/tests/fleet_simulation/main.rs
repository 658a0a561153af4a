//! Fleet's invariants over thousands of random schedules in virtual time: one or two controllers, each step of which may
//! be the last, over a cloud that loses answers, lists late, gives half of what is asked, and takes machines back. Most
//! schedules are one night of one pool; some are days of one or two pools with trigger beside fleet, and with budgets or
//! machines that stay.
//!
//! `SPOTREEL_SIMULATE=<seed>` runs one schedule and prints its story; `SPOTREEL_SCHEDULES=<n>` runs so many. A schedule
//! that has ever failed belongs in `seeds.txt`, which is run first.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod cloud;
mod controller;
mod days;
mod machine;
mod money;
mod night;
#[path = "../scene/mod.rs"]
mod scene;
mod trigger;
mod world;

use days::Theme;

const SCHEDULES: u64 = 10_000;
const SAVED: &str = include_str!("seeds.txt");

/// From the first request to an end that is checked.
fn schedule(seed: u64) {
    match Theme::of(seed) {
        Some(theme) => days::run(seed, theme),
        None => night::run(seed),
    }
}

fn run(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        schedule(seed);
    }
}

fn schedules() -> u64 {
    std::env::var("SPOTREEL_SCHEDULES").map_or(SCHEDULES, |text| {
        text.parse().expect("a number of schedules")
    })
}

#[test]
fn invariants_hold_in_saved_schedules() {
    run(SAVED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.trim().parse().expect("a seed a line")));
}

#[test]
fn invariants_hold_in_random_nights() {
    run((0..schedules()).filter(|seed| Theme::of(*seed).is_none()));
}

#[test]
fn invariants_hold_in_random_days() {
    run((0..schedules()).filter(|seed| Theme::of(*seed).is_some() && seed / 100 % 2 == 0));
}

#[test]
fn invariants_hold_in_other_random_days() {
    run((0..schedules()).filter(|seed| Theme::of(*seed).is_some() && seed / 100 % 2 == 1));
}

#[test]
fn one() {
    if let Ok(seed) = std::env::var("SPOTREEL_SIMULATE") {
        schedule(seed.parse().expect("a seed"));
    }
}
