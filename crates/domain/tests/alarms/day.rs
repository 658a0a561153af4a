//! A day on which everything goes wrong once, with all the small disturbances of a real one.

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use spotreel_domain::Usd;
use spotreel_domain::alarm::*;
use spotreel_domain::batch::PoolName;

use super::world::{Crash, Monitor, World, config};

const START: &str = "2026-11-30T00:00:00Z";
/// In seconds: half an hour of the next day belongs to it, in which the budgets begin anew.
const LENGTH: i64 = 24 * 3_600 + 1_800;

fn start() -> Timestamp {
    START.parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn clock(hours: i64, minutes: i64) -> i64 {
    3_600 * hours + 60 * minutes
}

fn within(second: i64, from: (i64, i64), to: (i64, i64)) -> bool {
    (clock(from.0, from.1)..clock(to.0, to.1)).contains(&second)
}

/// What costs a cent takes 8 s, up to $108; now and then a refund takes some back.
fn spent(second: i64) -> Usd {
    let of_day = second % 86_400;
    let refund = if of_day % 97 < 40 { 30 } else { 0 };
    Usd::from_cents((of_day / 8 - refund).max(0))
}

fn happenings(second: i64, at_seconds: &[i64]) -> Vec<Happening> {
    let past = at_seconds.iter().filter(|at| **at <= second);
    past.map(|moment| Happening {
        at: at(*moment),
        what: "as scripted".into(),
    })
    .collect()
}

fn facts(second: i64, noise: &mut StdRng) -> AlarmFacts {
    // A first backlog is worked off before it counts; the second one stays, and dips for three minutes.
    let crowded = within(second, (1, 0), (2, 30)) || within(second, (3, 0), (6, 0));
    let dips = within(second, (4, 0), (4, 3));
    let queue = match (crowded, dips) {
        (true, false) => noise.random_range(510..900),
        (true, true) => 480,
        _ => noise.random_range(0..440),
    };
    // Blocked for a few minutes, then with short interruptions for an hour.
    let blocked =
        within(second, (7, 0), (7, 6)) || (within(second, (8, 0), (9, 0)) && second % 300 > 20);
    let breaker = within(second, (9, 30), (10, 0));
    let fruitless = within(second, (10, 0), (11, 40));
    let health = PoolHealth {
        blocked: blocked.then(|| "the quota is used up".into()),
        breaker: breaker.then(|| "3 machines in a row ended before they served".into()),
        fruitless: fruitless.then(|| "no task has succeeded".into()),
    };
    let pool = PoolName::parse("default").unwrap();
    let interruptions = [clock(12, 0), clock(12, 2), clock(12, 5)];
    let failures = [clock(13, 0), clock(13, 30)];
    // The janitor keeps it at 73 to 76 for an hour, then gets through.
    let room = match within(second, (14, 0), (15, 0)) {
        true => noise.random_range(73..=76),
        false => noise.random_range(30..60),
    };
    let copy = within(second, (16, 0), (16, 0)) || within(second, (16, 30), (16, 40));
    // A restart of fleet, and a crash that lasts.
    let restarts = within(second, (17, 0), (17, 1));
    let down = within(second, (18, 0), (18, 20));
    AlarmFacts {
        today: Some(spent(second)),
        this_month: Some(spent(second)),
        queue: Some(queue),
        interruptions: Some(happenings(second, &interruptions)),
        failures: Some(happenings(second, &failures)),
        pools: Some([(pool, health)].into()),
        log_used_percent: Some(room),
        events_copy: Some(if copy {
            Err("it stands still".into())
        } else {
            Ok(())
        }),
        programs: Some(
            [
                ("fleet".into(), !restarts && !down),
                ("intake".into(), true),
            ]
            .into(),
        ),
    }
}

/// Some facts cannot be read now and then.
fn patchy(mut facts: AlarmFacts, noise: &mut StdRng) -> AlarmFacts {
    let lost = |noise: &mut StdRng| noise.random_bool(0.02);
    if lost(noise) {
        facts.today = None;
    }
    if lost(noise) {
        facts.pools = None;
    }
    if lost(noise) {
        facts.programs = None;
    }
    if lost(noise) {
        facts.interruptions = None;
    }
    facts
}

/// Each alarm of the day, as it has to be told.
fn script() -> Vec<(AlarmName, &'static str)> {
    vec![
        (AlarmName::CostPerDay, ""),
        (AlarmName::Budget, "per_day 100 %"),
        (AlarmName::Budget, "per_day 50 %"),
        (AlarmName::Budget, "per_day 80 %"),
        (AlarmName::Interruptions, ""),
        (AlarmName::Backlog, ""),
        (AlarmName::NothingSucceeds, "default"),
        (AlarmName::BatchBlocked, "default"),
        (AlarmName::BreakerOpen, "default"),
        (AlarmName::TasksFailed, ""),
        (AlarmName::LogRoom, ""),
        (AlarmName::EventsCopy, ""),
        (AlarmName::ServiceSilent, "fleet"),
    ]
}

/// Runs the day with this number of monitors, each of which crashes in one of `crashes` looks, on the mean.
fn run(seed: u64, monitors: usize, crashes: Option<u32>) -> World {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut world, config) = (World::default(), config());
    let mut monitors: Vec<_> = (0..monitors).map(|_| Monitor::default()).collect();
    for second in (0..LENGTH).step_by(10) {
        for monitor in &mut monitors {
            let crash = match crashes {
                Some(every) if random.random_ratio(1, every) => {
                    Crash::ALL[random.random_range(0..Crash::ALL.len())]
                }
                _ => Crash::Never,
            };
            let facts = facts(second, &mut random);
            let facts = patchy(facts, &mut random);
            monitor.look(&mut world, &config, &facts, at(second), crash);
        }
    }
    // What a crash in the last look has left untold.
    let last = facts(LENGTH, &mut random);
    for _ in 0..2 {
        monitors[0].look(&mut world, &config, &last, at(LENGTH), Crash::Never);
    }
    world
}

#[test]
fn on_a_day_of_all_faults_every_alarm_fires_once_and_resolves_once() {
    let once = vec![NoticeState::Firing, NoticeState::Resolved];
    let script = script()
        .into_iter()
        .map(|(name, about)| ((name, about.to_owned()), once.clone()));
    let script = script.collect();
    let runs = [
        (1, None),
        (1, Some(20)),
        (3, None),
        (3, Some(20)),
        (2, Some(3)),
    ];
    for (seed, (monitors, crashes)) in (0..).zip(runs) {
        let world = run(seed, monitors, crashes);
        world.check();
        assert_eq!(
            world.told(),
            script,
            "{monitors} monitors, crashes {crashes:?}"
        );
        assert_eq!(world.board().firing().count(), 0);
    }
}

#[test]
fn a_budget_that_is_used_up_stops_once_and_the_next_day_begins_without_holds() {
    let world = run(7, 1, None);
    let [BudgetOrder::Stop { about, reason, .. }, BudgetOrder::Resume] = &world.orders[..] else {
        panic!("{:?}", world.orders);
    };
    assert_eq!(about, "per_day 100 %");
    assert!(
        reason.contains("100 % of the budget of $100.0000"),
        "{reason}"
    );
}

#[test]
fn an_alarm_tells_when_it_fired() {
    let world = run(3, 1, None);
    let of = |name| {
        world
            .events
            .iter()
            .find(|event| event.name == name)
            .unwrap()
    };
    let minutes = |name| of(name).at.duration_since(start()).as_mins();
    // Three hours after midnight, and two of crowd; plus three minutes of a dip, which are no part of the two hours.
    assert!(
        (300..=310).contains(&minutes(AlarmName::Backlog)),
        "{}",
        minutes(AlarmName::Backlog)
    );
    assert_eq!(minutes(AlarmName::Interruptions), 12 * 60);
    // A look that could not read the batches does not count.
    assert!((660..=664).contains(&minutes(AlarmName::NothingSucceeds)));
    let resolved = world
        .events
        .iter()
        .rfind(|event| event.name == AlarmName::Backlog);
    let resolved = resolved.unwrap();
    assert_eq!(resolved.state, NoticeState::Resolved);
    assert_eq!(resolved.fired_at, of(AlarmName::Backlog).at);
}
