//! What holds for every course of things.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use spotreel_domain::alarm::*;

use super::world::{Crash, Monitor, World, config};

fn start() -> Timestamp {
    "2026-11-30T00:00:00Z".parse().unwrap()
}

/// One look of one of three monitors: the time since the look before (a jump of the clock, where it is large or negative), the
/// facts, and where it crashes.
#[derive(Clone, Debug)]
struct Look {
    monitor: usize,
    passed: i64,
    crash: Crash,
    queue: Option<u64>,
    silent: bool,
    log_used: u64,
}

fn looks() -> impl Strategy<Value = Look> {
    let passed = prop_oneof![20 => 5i64..30, 2 => 100i64..400, 1 => -4_000i64..20_000];
    let crash = prop_oneof![
        8 => Just(Crash::Never),
        4 => prop::sample::select(Crash::ALL.to_vec()),
    ];
    let queue = prop::option::weighted(0.9, prop_oneof![Just(100u64), Just(480), Just(600)]);
    let fields = (0usize..3, passed, crash, queue, any::<bool>(), 60u64..90);
    fields.prop_map(|(monitor, passed, crash, queue, silent, log_used)| Look {
        monitor,
        passed,
        crash,
        queue,
        silent,
        log_used,
    })
}

fn facts(look: &Look) -> AlarmFacts {
    AlarmFacts {
        queue: look.queue,
        log_used_percent: Some(look.log_used),
        programs: Some([("fleet".to_owned(), !look.silent)].into()),
        ..AlarmFacts::default()
    }
}

/// Short hold times, so that random days have many alarms.
fn hasty() -> AlarmsConfig {
    let mut config = config();
    config.backlog.hold = Duration::from_secs(60);
    config.backlog.mean_over = Duration::from_secs(60);
    config.log_room.hold = Duration::ZERO;
    config.service_silent.hold = Duration::from_secs(20);
    config.resolve_after = Duration::from_secs(30);
    config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_told_twice_and_nothing_is_lost(looks in prop::collection::vec(looks(), 1..400)) {
        let (mut world, config) = (World::default(), hasty());
        let mut monitors: [Monitor; 3] = Default::default();
        let mut now = start();
        for look in &looks {
            now += SignedDuration::from_secs(look.passed);
            monitors[look.monitor].look(&mut world, &config, &facts(look), now, look.crash);
        }
        for _ in 0..2 {
            now += SignedDuration::from_secs(1);
            let calm = Look { monitor: 0, passed: 1, crash: Crash::Never, queue: None, silent: false, log_used: 70 };
            monitors[0].look(&mut world, &config, &facts(&calm), now, Crash::Never);
        }
        world.check();
        prop_assert!(world.board().untold.is_empty());
        let firing = world.board().firing().count();
        let open = world.told().values().filter(|states| states.len() % 2 == 1).count();
        prop_assert_eq!(firing, open);
    }

    /// Between two firings of an alarm lie at least its hold time and the time that it takes to resolve, as the looks saw them.
    #[test]
    fn an_alarm_does_not_flap(
        levels in prop::collection::vec(0u64..100, 10..600),
        every in 1i64..60,
    ) {
        let (mut world, config) = (World::default(), config());
        let mut monitor = Monitor::default();
        let mut now = start();
        for level in levels {
            now += SignedDuration::from_secs(every);
            let facts = AlarmFacts { log_used_percent: Some(level), ..AlarmFacts::default() };
            monitor.look(&mut world, &config, &facts, now, Crash::Never);
        }
        let fired = world.events.iter().filter(|event| event.state == NoticeState::Firing);
        let fired: Vec<_> = fired.map(|event| event.at).collect();
        let least = config.resolve_after + config.log_room.hold;
        for pair in fired.windows(2) {
            let apart = pair[1].duration_since(pair[0]);
            prop_assert!(apart >= SignedDuration::try_from(least).unwrap(), "{apart}");
        }
    }

    /// A jump of the clock is no time for which a condition has held.
    #[test]
    fn a_jump_of_the_clock_fires_nothing_and_resolves_nothing(jump in -2_000_000i64..2_000_000) {
        let (mut world, config) = (World::default(), config());
        let mut monitor = Monitor::default();
        let crowd = AlarmFacts { queue: Some(900), log_used_percent: Some(80), ..AlarmFacts::default() };
        let mut now = start();
        for _ in 0..30 {
            now += SignedDuration::from_secs(10);
            monitor.look(&mut world, &config, &crowd, now, Crash::Never);
        }
        let before = world.told();
        prop_assert_eq!(before.len(), 1, "the room of the log");
        now += SignedDuration::from_secs(jump);
        let calm = AlarmFacts { log_used_percent: Some(20), ..crowd.clone() };
        monitor.look(&mut world, &config, &calm, now, Crash::Never);
        prop_assert_eq!(&world.told(), &before);
        // And it is no obstacle: the backlog fires after its two hours.
        for _ in 0..(2 * 360 + 10) {
            now += SignedDuration::from_secs(10);
            monitor.look(&mut world, &config, &crowd, now, Crash::Never);
        }
        prop_assert!(world.told().contains_key(&(AlarmName::Backlog, String::new())));
        world.check();
    }
}

#[test]
fn an_alarm_that_is_switched_off_resolves() {
    let (mut world, mut config) = (World::default(), config());
    let mut monitor = Monitor::default();
    let full = AlarmFacts {
        log_used_percent: Some(90),
        ..AlarmFacts::default()
    };
    let mut now = start();
    let mut look_on = |world: &mut World, config: &AlarmsConfig, looks: usize| {
        for _ in 0..looks {
            now += SignedDuration::from_secs(10);
            monitor.look(world, config, &full, now, Crash::Never);
        }
    };
    look_on(&mut world, &config, 20);
    config.log_room.on = false;
    look_on(&mut world, &config, 40);
    let told = &world.told()[&(AlarmName::LogRoom, String::new())];
    assert_eq!(*told, [NoticeState::Firing, NoticeState::Resolved]);
    assert!(world.events[1].sentence.contains("no longer watched"));
}

#[test]
fn what_happened_while_no_monitor_ran_is_told() {
    let (mut world, config) = (World::default(), config());
    let quiet = AlarmFacts {
        interruptions: Some(Vec::new()),
        ..AlarmFacts::default()
    };
    Monitor::default().look(&mut world, &config, &quiet, start(), Crash::Never);
    let taken = Happening {
        at: start() + SignedDuration::from_hours(1),
        what: "i-1".into(),
    };
    let seen = AlarmFacts {
        interruptions: Some(vec![taken]),
        ..AlarmFacts::default()
    };
    // The next one starts five hours later, and another after that.
    let mut later = Monitor::default();
    for look in 0..200 {
        let now = start() + SignedDuration::from_secs(5 * 3_600 + 10 * look);
        later.look(&mut world, &config, &seen, now, Crash::Never);
    }
    let told = &world.told()[&(AlarmName::Interruptions, String::new())];
    assert_eq!(*told, [NoticeState::Firing, NoticeState::Resolved]);
}

#[test]
fn the_values_of_the_configuration_are_checked() {
    let broken = |change: fn(&mut AlarmsConfig)| {
        let mut config = config();
        change(&mut config);
        let rules = config.rules().into_iter();
        rules
            .filter(|rule| !rule.0)
            .map(|rule| rule.1)
            .collect::<Vec<_>>()
    };
    assert_eq!(broken(|_| {}), [""; 0]);
    assert_eq!(broken(|c| c.every = Duration::ZERO), ["alarms.every"]);
    assert_eq!(
        broken(|c| c.budget.percents = vec![80, 50, 100]),
        ["alarms.budget.percents"]
    );
    assert_eq!(
        broken(|c| c.budget.percents = vec![50]),
        ["alarms.budget.stop"]
    );
    assert_eq!(broken(|c| c.budget.per_day = None), ["alarms.budget.stop"]);
    assert_eq!(
        broken(|c| c.service_silent.programs = vec!["worker".into()]),
        ["alarms.service_silent.programs"]
    );
    assert_eq!(
        broken(|c| c.log_room.percent = 0),
        ["alarms.log_room.percent"]
    );
    assert_eq!(
        broken(|c| c.resolve_after = Duration::ZERO),
        ["alarms.resolve_after"]
    );
}

#[test]
fn what_happened_while_it_could_not_be_read_is_told() {
    let (mut world, config) = (World::default(), config());
    let mut monitor = Monitor::default();
    let at = |seconds| start() + SignedDuration::from_secs(seconds);
    let mut look = |seconds, happened: Option<Vec<Happening>>| {
        let facts = AlarmFacts {
            interruptions: happened,
            ..AlarmFacts::default()
        };
        monitor.look(&mut world, &config, &facts, at(seconds), Crash::Never);
    };
    look(0, Some(Vec::new()));
    let taken = Happening {
        at: at(60),
        what: "i-1".into(),
    };
    // For an hour the batch log cannot be read.
    (10..3_600)
        .step_by(10)
        .for_each(|second| look(second, None));
    (3_600..5_000)
        .step_by(10)
        .for_each(|second| look(second, Some(vec![taken.clone()])));
    let told = &world.told()[&(AlarmName::Interruptions, String::new())];
    assert_eq!(*told, [NoticeState::Firing, NoticeState::Resolved]);
}

#[test]
fn monitors_own_silence_is_told_by_another_program_and_resolves_when_it_looks_again() {
    let (mut world, config) = (World::default(), config());
    let mut monitor = Monitor::default();
    let nothing = AlarmFacts::default();
    let at = |seconds| start() + SignedDuration::from_secs(seconds);
    monitor.look(&mut world, &config, &nothing, at(0), Crash::Never);
    let silent_after = Duration::from_secs(180);
    world.watch_monitor(silent_after, at(179));
    assert!(world.told().is_empty());
    for second in [180, 190, 200, 5_000] {
        world.watch_monitor(silent_after, at(second));
    }
    let key = (AlarmName::ServiceSilent, "monitor".to_owned());
    assert_eq!(world.told()[&key], [NoticeState::Firing]);
    for look in 0..40 {
        monitor.look(
            &mut world,
            &config,
            &nothing,
            at(6_000 + 10 * look),
            Crash::Never,
        );
        world.watch_monitor(silent_after, at(6_000 + 10 * look));
    }
    assert_eq!(
        world.told()[&key],
        [NoticeState::Firing, NoticeState::Resolved]
    );
    world.check();
}
