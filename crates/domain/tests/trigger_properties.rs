//! What holds for every view, every set of rules and every time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use jiff::{SignedDuration, Timestamp};
use proptest::option;
use proptest::prelude::*;
use spotreel_domain::Usd;
use spotreel_domain::trigger::*;

const CAP: Usd = Usd::from_cents(30);

fn ago(now: Timestamp, seconds: i64) -> Timestamp {
    now - SignedDuration::from_secs(seconds)
}

fn market(now: Timestamp, price: i64) -> Prices {
    let quote = CapacityPoolPrice {
        pool: "pool".to_owned(),
        price: Usd::from_micros(price),
        cap: CAP,
    };
    let usable = (quote.price <= CAP).then(|| quote.clone());
    Prices::Known(PriceSummary {
        as_of: now,
        usable_pools: u32::from(usable.is_some()),
        usable,
        cheapest: Some(quote),
        expected: None,
    })
}

prop_compose! {
    fn moments()(seconds in 1_770_000_000i64..1_800_000_000) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }
}

prop_compose! {
    fn rules()(
        off in prop::array::uniform6(prop::bool::weighted(0.2)),
        cron in prop::sample::select(vec!["0 2 * * *", "*/15 * * * *", "30 1 * * 0"]),
        zone in prop::sample::select(vec!["America/New_York", "Europe/Berlin", "Asia/Kolkata"]),
        per_hour in option::of(0i64..5_000_000),
        per_day in option::of(0i64..50_000_000),
    ) -> Rules {
        let all = Rules::default();
        let schedule = ScheduleRule {
            cron: cron.to_owned(),
            zone: zone.to_owned(),
            ..ScheduleRule::default()
        };
        Rules {
            length: all.length.filter(|_| !off[0]),
            age: all.age.filter(|_| !off[1]),
            price: all.price.filter(|_| !off[2]),
            schedule: Some(schedule).filter(|_| !off[3]),
            max_wait: all.max_wait.filter(|_| !off[4]),
            hybrid: Some(HybridRule::default()).filter(|_| !off[5]),
            budgets: Budgets {
                per_hour: per_hour.map(Usd::from_micros),
                per_day: per_day.map(Usd::from_micros),
                ..Budgets::default()
            },
            sizing: all.sizing,
        }
    }
}

prop_compose! {
    /// Nothing stands against a launch.
    fn free_views(now: Timestamp)(
        queued in 0u64..250,
        rendered in 0u64..20,
        oldest in 0i64..40_000,
        served in option::of(0i64..40_000),
        price in 1i64..300_000,
        arrivals in 0u64..200,
        mode_since in option::of(0i64..10_000),
        resident in any::<bool>(),
        speed in option::of(1.0f64..2_000.0),
    ) -> View {
        View {
            queued,
            work: queued + rendered,
            oldest_queued_at: (queued > 0).then(|| ago(now, oldest)),
            past: Past { served_at: served.map(|s| ago(now, s)), ..Past::default() },
            prices: market(now, price),
            seconds_per_task: speed,
            arrivals_per_hour: arrivals,
            mode: ModeState {
                mode: if resident { Mode::Resident } else { Mode::Batch },
                since: mode_since.map(|s| ago(now, s)),
            },
            ..View::empty()
        }
    }
}

prop_compose! {
    fn views(now: Timestamp)(
        view in free_views(now),
        active in prop::bool::weighted(0.1),
        held in prop::bool::weighted(0.2),
        stale in prop::bool::weighted(0.2),
        price in option::weighted(0.9, 1i64..400_000),
        quota in option::of(0u32..60),
        run_now in option::of((0i64..5_000, any::<bool>())),
        failed in option::of((0i64..2_000, 1u32..9)),
        spend in (0i64..5_000_000, 0i64..50_000_000),
    ) -> View {
        let mut view = view;
        view.active_batch = active.then(|| "gpu-1".to_owned());
        view.hold = held.then(|| Hold { by: "a".to_owned(), reason: "b".to_owned(), since: now });
        view.counts_stale_since = stale.then_some(now);
        view.prices = match price {
            Some(price) => market(now, price),
            None => Prices::Unknown { since: now, reason: "c".to_owned() },
        };
        view.quota_units = quota;
        view.run_now = run_now.map(|(s, force)| RunNow { by: "d".to_owned(), at: ago(now, s), force });
        if let Some((s, n)) = failed {
            view.past.failed_at = Some(ago(now, s));
            view.past.failed_in_row = n;
        }
        view.spend = Spend {
            per_hour: Usd::from_micros(spend.0),
            today: Usd::from_micros(spend.1),
            ..Spend::default()
        };
        view
    }
}

fn situations() -> impl Strategy<Value = (Timestamp, View, Rules)> {
    moments().prop_flat_map(|now| (Just(now), views(now), rules()))
}

fn free_situations() -> impl Strategy<Value = (Timestamp, View, Rules)> {
    moments().prop_flat_map(|now| (Just(now), free_views(now), rules()))
}

fn launch(decision: &Decision) -> Option<&Fire> {
    match &decision.verdict {
        Verdict::Launch(fire) => Some(fire),
        _ => None,
    }
}

fn add(view: &mut View, tasks: u64, now: Timestamp) {
    view.queued += tasks;
    view.work += tasks;
    view.oldest_queued_at = view.oldest_queued_at.or(Some(now));
}

fn after(now: Timestamp, wait: std::time::Duration) -> Timestamp {
    now + SignedDuration::try_from(wait).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_launched_against_a_blocker((now, view, rules) in situations()) {
        let decision = decide(&view, &rules, now);
        prop_assert_eq!(decision.findings.len(), 7);
        if let Some(fire) = launch(&decision) {
            prop_assert!(view.active_batch.is_none());
            prop_assert!(view.counts_stale_since.is_none());
            prop_assert!(matches!(view.prices, Prices::Known(_)));
            let forced = fire.rule == RuleName::RunNow && view.run_now.as_ref().is_some_and(|r| r.force);
            prop_assert!(view.hold.is_none() || forced);
            prop_assert!(fire.units >= 1 && fire.units <= rules.sizing.max);
            prop_assert!(view.quota_units.is_none_or(|quota| fire.units <= quota));
            let price = view.unit_price().unwrap();
            prop_assert!(price <= CAP);
            if let Some(budget) = rules.budgets.per_hour {
                prop_assert!(view.spend.per_hour + price.times(fire.units) <= budget);
            }
            if let Some(budget) = rules.budgets.per_day {
                let each = view.seconds_per_task.unwrap_or(180.0);
                let task = each.max(60.0);
                let share = view.work as f64 * each / f64::from(fire.units);
                let least = share.min(rules.sizing.target.as_secs_f64()).max(task);
                let span = if fire.units == 1 { task } else { least };
                let rate = view.spend.per_hour + price.times(fire.units);
                let cost = rate.per_hour_for(std::time::Duration::from_secs_f64(span));
                prop_assert!(view.spend.today + cost <= budget + Usd::from_micros(1));
            }
        }
    }

    #[test]
    fn more_tasks_never_take_a_launch_back((now, view, rules) in situations(), more in 1u64..1_000) {
        if let Some(fire) = launch(&decide(&view, &rules, now)) {
            let mut fuller = view.clone();
            add(&mut fuller, more, now);
            let decision = decide(&fuller, &rules, now);
            // A budget may pay for fewer machines that work for longer.
            let bounded = rules.budgets != Budgets::default();
            prop_assert!(launch(&decision).is_some_and(|fuller| bounded || fuller.units >= fire.units));
        }
    }

    #[test]
    fn closing_the_named_gap_fires_the_rule((now, view, rules) in free_situations()) {
        let rules = Rules { budgets: Budgets::default(), ..rules };
        for finding in decide(&view, &rules, now).findings {
            if finding.distance.is_none() {
                continue;
            }
            let mut closed = view.clone();
            add(&mut closed, finding.distance.tasks.unwrap_or(0), now);
            if let Some(dollars) = finding.distance.dollars {
                let price = view.unit_price().unwrap() - dollars - Usd::from_micros(1);
                closed.prices = market(now, price.micros());
            }
            let later = after(now, finding.distance.wait.unwrap_or_default());
            let decision = decide(&closed, &rules, later);
            prop_assert_eq!(decision.finding(finding.rule).unwrap().outcome, RuleOutcome::Fires, "{:?}", finding);
            prop_assert!(launch(&decision).is_some(), "{:?}", decision.verdict);
        }
    }

    #[test]
    fn the_next_look_is_ahead_and_no_later_than_any_rule((now, view, rules) in situations()) {
        let decision = decide(&view, &rules, now);
        prop_assert!(decision.next_look > now);
        prop_assert!(decision.next_look <= now + SignedDuration::from_secs(60));
        for wait in decision.findings.iter().filter_map(|finding| finding.distance.wait) {
            prop_assert!(decision.next_look <= after(now, wait));
        }
        for until in decision.blockers.iter().filter_map(|blocker| blocker.until) {
            prop_assert!(decision.next_look <= until);
        }
    }

    #[test]
    fn a_queued_task_knows_what_runs_it_or_what_blocks_it((now, view, rules) in situations()) {
        let mut view = view;
        if view.queued == 0 {
            add(&mut view, 1, now);
        }
        let rules = Rules { max_wait: Some(MaxWaitRule::default()), ..rules };
        let decision = decide(&view, &rules, now);
        let forecast = &decision.forecast;
        if view.active_batch.is_none() {
            prop_assert!(forecast.rule.is_some());
            if decision.blockers.is_empty() {
                let longest = now + SignedDuration::from_hours(6);
                prop_assert!(forecast.by.is_some_and(|by| by >= now && by <= longest), "{:?}", forecast);
            }
        }
        let json = serde_json::to_string(&decision).unwrap();
        prop_assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), decision);
    }

    #[test]
    fn the_mode_never_flaps_within_its_dwell_time(
        now in moments(),
        steps in prop::collection::vec((0i64..3_000, 0u64..200), 1..60),
    ) {
        let rules = Rules { hybrid: Some(HybridRule::default()), ..Rules::default() };
        let (mut view, mut at) = (View::empty(), now);
        let mut changed: Option<Timestamp> = None;
        for (seconds, arrivals) in steps {
            at += SignedDuration::from_secs(seconds);
            view.arrivals_per_hour = arrivals;
            let mode = decide(&view, &rules, at).mode;
            if mode.changed {
                let dwell = SignedDuration::from_hours(1);
                prop_assert!(changed.is_none_or(|before| at.duration_since(before) >= dwell));
                changed = Some(at);
                view.mode = ModeState { mode: mode.mode, since: Some(at) };
            }
        }
    }
}

proptest! {
    /// Arrivals that go up and down by a tenth change the number of machines that stay once at most, upwards; and what
    /// stays keeps up with them.
    #[test]
    fn the_number_of_machines_that_stay_does_not_flap(
        now in moments(),
        rate in 110u64..2_000,
        seconds in 10.0f64..600.0,
        moves in prop::collection::vec(-100i64..=100, 1..60),
    ) {
        let mut rules = Rules {
            hybrid: Some(HybridRule::default()),
            ..Rules::default()
        };
        rules.sizing.max = 10_000;
        let mut view = View {
            seconds_per_task: Some(seconds),
            mode: ModeState { mode: Mode::Resident, since: None },
            ..View::empty()
        };
        let mut ends = 0;
        for permille in moves {
            view.arrivals_per_hour = rate.saturating_add_signed(i64::try_from(rate).unwrap() * permille / 1_000);
            let units = decide(&view, &rules, now).mode.resident_units;
            prop_assert!(f64::from(units) * 3_600.0 / seconds >= view.arrivals_per_hour as f64 - 1e-6);
            ends += u32::from(units < view.resident_units);
            view.resident_units = units;
        }
        prop_assert_eq!(ends, 0, "machines were ended, and bought again");
    }
}
