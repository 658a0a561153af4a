//! Each rule at its boundary, each blocker, and the sentences that people read.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use spotreel_domain::Usd;
use spotreel_domain::purchase::Limit;
use spotreel_domain::trigger::*;

/// Noon in New York: far from the schedule's slot.
fn now() -> Timestamp {
    "2026-06-01T16:00:00Z".parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn market(price: &str) -> Prices {
    let quote = CapacityPoolPrice {
        pool: "g5.xlarge in us-east-2a".to_owned(),
        price: price.parse().unwrap(),
        cap: Usd::from_cents(30),
    };
    let usable = (quote.price <= quote.cap).then(|| quote.clone());
    Prices::Known(PriceSummary {
        as_of: now(),
        usable_pools: u32::from(usable.is_some()),
        usable,
        cheapest: Some(quote),
        expected: None,
    })
}

/// A queue that came just now, after a batch just now, at a price that fires nothing.
fn view(queued: u64) -> View {
    View {
        queued,
        work: queued,
        oldest_queued_at: (queued > 0).then(now),
        past: Past {
            requested_at: Some(now() - 1.hour()),
            served_at: Some(now()),
            ..Past::default()
        },
        prices: market("0.28"),
        ..View::empty()
    }
}

fn fired(view: &View, now: Timestamp) -> Option<(RuleName, u32)> {
    match decide(view, &Rules::default(), now).verdict {
        Verdict::Launch(fire) => Some((fire.rule, fire.units)),
        _ => None,
    }
}

fn sentence(view: &View, rule: RuleName) -> String {
    let decision = decide(view, &Rules::default(), now());
    decision.finding(rule).unwrap().sentence.clone()
}

#[test]
fn length_fires_at_100() {
    assert_eq!(fired(&view(99), now()), None);
    assert_eq!(
        sentence(&view(99), RuleName::Length),
        "99 of 100 tasks queued, 1 short"
    );
    assert_eq!(fired(&view(100), now()), Some((RuleName::Length, 3)));
}

#[test]
fn age_fires_at_4_hours_and_20_tasks() {
    let four = now() - 4.hours();
    for (tasks, served_at, fires) in [
        (20, four, true),
        (19, four, false),
        (20, four + 1.nanosecond(), false),
    ] {
        let mut view = view(tasks);
        view.past.served_at = Some(served_at);
        let expected = fires.then_some((RuleName::Age, 2));
        assert_eq!(fired(&view, now()), expected, "{tasks} {served_at}");
    }
    let mut view = view(20);
    view.past.served_at = Some(now() - 3.hours());
    assert_eq!(
        sentence(&view, RuleName::Age),
        "20 tasks queued, 20 are enough; 3h of 4h since the last batch served, 1h to go"
    );
}

#[test]
fn before_any_batch_age_counts_from_the_oldest_task() {
    let mut view = view(20);
    view.past = Past::default();
    assert_eq!(fired(&view, now()), None);
    view.oldest_queued_at = Some(now() - 4.hours());
    assert_eq!(fired(&view, now()), Some((RuleName::Age, 2)));
}

#[test]
fn an_attempt_without_capacity_neither_silences_age_nor_loops() {
    let mut view = view(20);
    view.past.served_at = Some(now() - 5.hours());
    view.past.failed_in_row = 2;
    view.past.failed_at = Some(now() - 1.minute());
    view.past.failure = Some("InsufficientInstanceCapacity".to_owned());
    let decision = decide(&view, &Rules::default(), now());
    assert!(matches!(decision.verdict, Verdict::Blocked { .. }));
    assert_eq!(decision.blockers[0].kind, BlockerKind::BackOff);
    assert_eq!(
        decision.blockers[0].sentence,
        "the last 2 batches never served (InsufficientInstanceCapacity): the next try is at 2026-06-01T16:01:00Z"
    );
    let later = now() + 1.minute();
    assert_eq!(decision.forecast.by, Some(later));
    assert_eq!(fired(&view, later), Some((RuleName::Age, 2)));
    let minutes: Vec<_> = (0..7).map(|n| back_off(n).as_secs() / 60).collect();
    assert_eq!(minutes, [0, 1, 2, 4, 8, 15, 15]);
    assert_eq!(back_off(u32::MAX), Duration::from_secs(900));
}

#[test]
fn price_fires_below_25_cents_and_at_50_tasks() {
    for (tasks, price, fires) in [
        (50, "0.249999", true),
        (50, "0.25", false),
        (49, "0.20", false),
    ] {
        let mut view = view(tasks);
        view.prices = market(price);
        let expected = fires.then_some((RuleName::Price, 2));
        assert_eq!(fired(&view, now()), expected, "{tasks} {price}");
    }
    assert_eq!(
        sentence(&view(50), RuleName::Price),
        "50 tasks queued, 50 are enough; g5.xlarge in us-east-2a costs $0.2800, $0.0300 above the limit of $0.2500"
    );
}

#[test]
fn max_wait_needs_one_task_and_its_time() {
    let mut view = view(1);
    let six = now() - 6.hours();
    view.oldest_queued_at = Some(six + 1.nanosecond());
    assert_eq!(fired(&view, now()), None);
    view.oldest_queued_at = Some(six);
    assert_eq!(fired(&view, now()), Some((RuleName::MaxWait, 2)));
    view.oldest_queued_at = Some(now() - 2.hours());
    let forecast = decide(&view, &Rules::default(), now()).forecast;
    assert_eq!(
        forecast.sentence,
        "max_wait starts a batch at 2026-06-01T20:00:00Z, in 4h, at the latest"
    );
}

#[test]
fn the_schedule_fires_once_a_slot_inside_its_window() {
    let mut view = view(10);
    let before = at("2026-06-02T05:00:00Z");
    (view.past.served_at, view.oldest_queued_at) = (Some(before), Some(before));
    // 02:00 in New York is 06:00 UTC in June.
    for (time, fires) in [
        ("2026-06-02T05:59:59Z", false),
        ("2026-06-02T06:00:00Z", true),
        ("2026-06-02T06:09:59.999Z", true),
        ("2026-06-02T06:10:00Z", false),
    ] {
        let expected = fires.then_some((RuleName::Schedule, 2));
        assert_eq!(fired(&view, at(time)), expected, "{time}");
    }
    let open = at("2026-06-02T06:01:00Z");
    let Verdict::Launch(fire) = decide(&view, &Rules::default(), open).verdict else {
        panic!("it fires")
    };
    let slot = fire.slot.unwrap();
    assert_eq!(slot.to_string(), "2026-06-02T02:00:00[America/New_York]");
    view.past.slot = Some(slot);
    assert_eq!(fired(&view, open), None, "used");
    view.past.slot = None;
    view.queued = 9;
    assert_eq!(fired(&view, open), None, "too few");
}

#[test]
fn every_rule_is_reported_and_the_first_decides() {
    let mut view = view(100);
    view.past.served_at = Some(now() - 5.hours());
    view.prices = market("0.20");
    let decision = decide(&view, &Rules::default(), now());
    let outcomes: Vec<_> = decision
        .findings
        .iter()
        .map(|f| (f.rule, f.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            (RuleName::RunNow, RuleOutcome::Off),
            (RuleName::Hybrid, RuleOutcome::Off),
            (RuleName::Length, RuleOutcome::Fires),
            (RuleName::Age, RuleOutcome::Fires),
            (RuleName::Price, RuleOutcome::Fires),
            (RuleName::Schedule, RuleOutcome::NotYet),
            (RuleName::MaxWait, RuleOutcome::NotYet),
        ]
    );
    assert!(matches!(decision.verdict, Verdict::Launch(fire) if fire.rule == RuleName::Length));
}

/// Findings, and the check that some rule is on, are lists written by hand: one that forgets a rule is found here.
#[test]
fn every_rule_of_the_configuration_has_a_finding_and_is_enough_alone() {
    let rules = serde_json::to_value(Rules::default()).unwrap();
    let mut configured: BTreeSet<_> = rules.as_object().unwrap().keys().cloned().collect();
    configured.retain(|key| !["budgets", "sizing"].contains(&key.as_str()));
    let findings = decide(&view(0), &Rules::default(), now()).findings;
    let found = findings.iter().map(|finding| finding.rule);
    assert!(found.is_sorted(), "the first one that fires decides");
    // A person's request is no rule of the configuration.
    let found = findings.iter().map(|finding| finding.rule.to_string());
    let found: BTreeSet<_> = found.filter(|rule| rule != "run_now").collect();
    assert_eq!(found, configured);
    for alone in &configured {
        let mut rules: serde_json::Map<_, _> = configured
            .iter()
            .map(|key| (key.clone(), "off".into()))
            .collect();
        rules[alone] = serde_json::json!({});
        let rules: Rules = serde_json::from_value(rules.into()).unwrap();
        assert_eq!(rules.validate(), Ok(()), "{alone}");
    }
}

fn ask(force: bool) -> Option<RunNow> {
    Some(RunNow {
        by: "ann".to_owned(),
        at: now(),
        force,
    })
}

fn hold() -> Option<Hold> {
    Some(Hold {
        by: "bob".to_owned(),
        reason: "maintenance".to_owned(),
        since: now(),
    })
}

#[test]
fn run_now_needs_one_task_and_no_rule() {
    let mut view = view(1);
    view.run_now = ask(false);
    assert_eq!(fired(&view, now()), Some((RuleName::RunNow, 2)));
    view.queued = 0;
    assert_eq!(fired(&view, now()), None);
    view.queued = 1;
    assert_eq!(fired(&view, now() + 1.hour()), None, "forgotten");
    view.past.requested_at = Some(now());
    assert_eq!(fired(&view, now()), None, "answered");
}

#[test]
fn a_hold_goes_before_rules_and_force_before_a_hold() {
    let mut view = view(100);
    view.hold = hold();
    let decision = decide(&view, &Rules::default(), now());
    assert!(matches!(decision.verdict, Verdict::Blocked { .. }));
    assert_eq!(
        decision.blockers[0].sentence,
        "launches are held by bob, reason \"maintenance\"; resume them, or run now with force"
    );
    view.run_now = ask(false);
    assert_eq!(fired(&view, now()), None);
    view.run_now = ask(true);
    assert_eq!(fired(&view, now()), Some((RuleName::RunNow, 3)));
}

#[test]
fn what_blocks_the_active_batch_is_its_forecast() {
    let mut view = view(5);
    view.active_batch = Some("default-1".to_owned());
    let said = |view: &View| decide(view, &Rules::default(), now()).forecast.sentence;
    assert_eq!(said(&view), "batch default-1 works the queue off");
    let sentence = "3 machines in a row ended before they served";
    view.pool_blockers = vec![Blocker {
        kind: BlockerKind::NeverServed,
        sentence: sentence.to_owned(),
        since: None,
        until: None,
    }];
    assert_eq!(
        said(&view),
        format!("batch default-1 is active but blocked: {sentence}")
    );
}

#[test]
fn why_the_last_batch_never_served_is_told_once_where_a_hold_tells_it() {
    let mut view = view(100);
    view.past.failed_in_row = 1;
    view.past.failed_at = Some(now());
    view.past.failure = Some("4 machines ended".to_owned());
    view.hold = hold();
    let told = |view: &View| {
        let decision = decide(view, &Rules::default(), now());
        let sentences = decision.blockers.into_iter().map(|b| b.sentence);
        sentences.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(told(&view).matches("4 machines ended").count(), 1);
    view.hold.as_mut().unwrap().reason = "batch default-1 failed: 4 machines ended".to_owned();
    assert_eq!(told(&view).matches("4 machines ended").count(), 1);
}

#[test]
fn force_without_a_task_opens_a_hold_to_no_other_rule() {
    let rules = Rules {
        hybrid: Some(HybridRule::default()),
        ..Rules::default()
    };
    let mut view = view(0);
    view.arrivals_per_hour = 101;
    view.run_now = ask(true);
    let free = decide(&view, &rules, now()).verdict;
    assert!(matches!(free, Verdict::Launch(fire) if fire.rule == RuleName::Hybrid));
    view.hold = hold();
    let held = decide(&view, &rules, now());
    assert!(matches!(held.verdict, Verdict::Blocked { .. }));
    assert!(held.blockers[0].sentence.contains("needs a task"));
}

#[test]
fn every_blocker_stops_a_rule_and_a_forced_run() {
    type Change = fn(&mut View, &mut Rules);
    let blocks: [(BlockerKind, Change, &str); 8] = [
        (
            BlockerKind::CountsStale,
            |v, _| v.counts_stale_since = Some(now()),
            "counts are not trusted since 2026-06-01T16:00:00Z",
        ),
        (
            BlockerKind::PricesUnknown,
            |v, _| {
                let reason = "throttled".to_owned();
                let since = now();
                v.prices = Prices::Unknown { since, reason };
            },
            "prices are unknown since 2026-06-01T16:00:00Z: throttled",
        ),
        (
            BlockerKind::NoPoolUnderCap,
            |v, _| v.prices = market("0.31"),
            "all Spot prices are above their caps: the cheapest, g5.xlarge in us-east-2a, costs $0.3100, $0.0100 above its cap of $0.3000",
        ),
        (
            BlockerKind::Quota,
            |v, _| v.quota_units = Some(0),
            "quota allows no further unit",
        ),
        (
            BlockerKind::Auth,
            |v, _| {
                v.pool_blockers = vec![Blocker {
                    kind: BlockerKind::Auth,
                    sentence: "UnauthorizedOperation".to_owned(),
                    since: None,
                    until: None,
                }];
            },
            "UnauthorizedOperation",
        ),
        (
            BlockerKind::Budget,
            |v, r| {
                r.budgets.per_day = Some(Usd::from_cents(100));
                v.spend.today = Usd::from_cents(99);
            },
            // A task, which takes three minutes.
            "budgets.per_day of $1.0000 has $0.0100 left, one unit needs $0.0140",
        ),
        (
            BlockerKind::Budget,
            |v, r| {
                r.budgets.per_hour = Some(Usd::from_cents(100));
                v.spend.per_hour = Usd::from_cents(80);
            },
            "budgets.per_hour of $1.0000 has $0.2000 left, one unit needs $0.2800",
        ),
        (
            BlockerKind::Budget,
            |_, r| r.budgets.per_batch = Some(Usd::from_cents(1)),
            "budgets.per_batch of $0.0100 has $0.0100 left",
        ),
    ];
    for (kind, change, words) in blocks {
        for run_now in [None, ask(true)] {
            let (mut view, mut rules) = (view(100), Rules::default());
            view.run_now = run_now;
            change(&mut view, &mut rules);
            let decision = decide(&view, &rules, now());
            assert!(
                matches!(decision.verdict, Verdict::Blocked { .. }),
                "{kind:?}"
            );
            let [blocker] = &decision.blockers[..] else {
                panic!("{:?}", decision.blockers)
            };
            assert_eq!(blocker.kind, kind);
            assert!(blocker.sentence.contains(words), "{}", blocker.sentence);
            assert_eq!(decision.forecast.by, None);
        }
    }
}

#[test]
fn a_budget_that_does_not_pay_for_the_whole_queue_buys_what_it_pays_for() {
    // 700 tasks at 3 minutes are 35 hours, $9.80 of them; until the target of 2 h a unit costs $0.56.
    let mut view = view(700);
    let fired = |view: &View, cents| {
        let mut rules = Rules::default();
        rules.budgets.per_day = Some(Usd::from_cents(cents));
        match decide(view, &rules, now()).verdict {
            Verdict::Launch(fire) => Some(fire.units),
            _ => None,
        }
    };
    assert_eq!(fired(&view, 970), Some(17));
    assert_eq!(fired(&view, 2), Some(1), "a task");
    // The other pools' machines go on costing meanwhile.
    view.spend.per_hour = Usd::from_cents(100);
    assert_eq!(fired(&view, 970), Some(13));
    // A capacity pool that is too dear is left out, not a reason to buy none.
    let Prices::Known(market) = &mut view.prices else {
        panic!("they are known");
    };
    market.expected = Some(Usd::from_cents(25_000));
    assert_eq!(fired(&view, 970), Some(13));
}

#[test]
fn prices_matter_only_where_machines_cost_money() {
    let mut view = view(100);
    view.prices = Prices::NoCloud;
    assert_eq!(fired(&view, now()), Some((RuleName::Length, 3)));
}

#[test]
fn an_active_batch_is_the_only_one() {
    let mut view = view(1_000);
    view.active_batch = Some("gpu-7".to_owned());
    view.run_now = ask(true);
    let sentence = "batch gpu-7 is active; 1000 tasks queued".to_owned();
    let verdict = decide(&view, &Rules::default(), now()).verdict;
    assert_eq!(verdict, Verdict::Wait { sentence });
}

#[test]
fn sizes_of_the_reference_table() {
    let sizing = Sizing::default();
    let of = |tasks| {
        let input = SizeInput {
            tasks,
            ..SizeInput::default()
        };
        size(&input, &sizing).units
    };
    assert_eq!(
        [1, 50, 80, 81, 100, 200, 300, 1_000, 5_000].map(of),
        [2, 2, 2, 3, 3, 5, 8, 25, 50]
    );
    let mut input = SizeInput {
        tasks: 100,
        seconds_per_task: Some(360.0),
        unit_price: Some(Usd::from_cents(30)),
        ..SizeInput::default()
    };
    assert_eq!(
        size(&input, &sizing).sentence,
        "100 tasks × 360s (measured) / 2h = 5 units; 5 × $0.3000/h × 2h = $3.0000 at most by the target"
    );
    // What is reckoned for the tasks of now goes before what is configured, and that before a mean of the past.
    let modelled = Some(1_235.0);
    let configured = Sizing {
        tasks_per_gpu_hour: Some(6.0),
        ..Sizing::default()
    };
    let pace = |sizing: &Sizing, modelled| {
        let pace = sizing.pace(Some(360.0), modelled);
        (pace.seconds, pace.origin)
    };
    assert_eq!(pace(&configured, modelled), (1_235.0, "by the cost model"));
    assert_eq!(pace(&configured, Some(f64::NAN)), (600.0, "as configured"));
    assert_eq!(pace(&sizing, None), (360.0, "measured"));
    let assumed = sizing.pace(None, None);
    assert_eq!(assumed.seconds, 180.0);
    let reckoned = SizeInput {
        tasks: 100,
        modelled,
        ..SizeInput::default()
    };
    assert_eq!(
        size(&reckoned, &sizing).sentence,
        "100 tasks × 1235s (by the cost model) / 2h = 18 units"
    );
    // A machine that boots for ten minutes renders for the rest; at least half of a target is for rendering.
    let starting = |minutes: u64| {
        let startup = Some(std::time::Duration::from_secs(60 * minutes));
        size(
            &SizeInput {
                startup,
                ..reckoned.clone()
            },
            &sizing,
        )
    };
    assert_eq!(
        starting(10).sentence,
        "100 tasks × 1235s (by the cost model) / 2h less 10m to start = 19 units"
    );
    assert_eq!(starting(300).units, 35);
    input.budgets.per_batch = Some(Usd::from_cents(70));
    let poor = size(&input, &sizing);
    assert_eq!(
        (poor.units, poor.limited_by),
        (1, Some(Limit::BudgetPerBatch))
    );
}

#[test]
fn hybrid_has_two_thresholds_and_a_dwell_time() {
    let rules = Rules {
        hybrid: Some(HybridRule::default()),
        ..Rules::default()
    };
    let (mut view, mut at) = (view(0), now());
    for (minutes, rate, resident) in [
        (0, 100, false),
        (1, 101, true),
        (30, 20, true),
        (31, 20, false),
        (10, 60, false),
        (90, 101, true),
        (90, 50, true),
        (1, 49, false),
        (1, 200, false),
        (60, 200, true),
    ] {
        at += minutes.minutes();
        view.arrivals_per_hour = rate;
        let mode = decide(&view, &rules, at).mode;
        if mode.changed {
            view.mode = ModeState {
                mode: mode.mode,
                since: Some(at),
            };
        }
        assert_eq!(mode.mode == Mode::Resident, resident, "{minutes} {rate}");
    }
    view.arrivals_per_hour = 120;
    let Verdict::Launch(fire) = decide(&view, &rules, at).verdict else {
        panic!("machines stay")
    };
    assert_eq!((fire.rule, fire.units), (RuleName::Hybrid, 6));
}

#[test]
fn rules_that_cannot_work_say_what_and_how_to_cure_it() {
    type Change = fn(&mut Rules);
    let broken: [(Change, &str); 12] = [
        (
            |r| r.sizing.min = 60,
            "sizing.min: 60 is above sizing.max = 50; set it to 50 or less",
        ),
        (
            |r| r.sizing.target = Duration::ZERO,
            "sizing.target: no number",
        ),
        (
            |r| r.sizing.tasks_per_gpu_hour = Some(0.0),
            "sizing.tasks_per_gpu_hour: 0 tasks",
        ),
        (
            |r| r.budgets.per_day = Some(Usd::from_micros(1)),
            "budgets.per_day: $0.000001 does not pay one unit for 2h",
        ),
        (
            |r| r.budgets.per_hour = Some(Usd::ZERO),
            "budgets.per_hour: $0.0000 does not pay",
        ),
        (
            |r| r.schedule.as_mut().unwrap().cron = "61 2 * * *".to_owned(),
            "schedule.cron: cron \"61 2 * * *\"",
        ),
        (
            |r| r.schedule.as_mut().unwrap().cron = "0 0 30 2 *".to_owned(),
            "schedule.cron: \"0 0 30 2 *\" never comes",
        ),
        (
            |r| r.schedule.as_mut().unwrap().cron = "0 2 * * * UTC".to_owned(),
            "schedule.cron",
        ),
        (
            |r| r.schedule.as_mut().unwrap().zone = "Mars/Olympus".to_owned(),
            "schedule.zone: zone \"Mars/Olympus\" is not",
        ),
        (
            |r| r.schedule.as_mut().unwrap().window = Duration::from_secs(25 * 3_600),
            "schedule.window: 1day 1h is longer than the 1day from",
        ),
        (
            |r| r.hybrid.get_or_insert_default().on_demand_below = 100,
            "hybrid.on_demand_below: 100 is not below hybrid.resident_above = 100: the thresholds overlap",
        ),
        (
            |r| r.hybrid.get_or_insert_default().resident_units = Some(2),
            "hybrid.resident_units: 2 render 40 tasks/h, fewer than hybrid.resident_above = 100; set 5 or more",
        ),
    ];
    assert_eq!(Rules::default().validate(), Ok(()));
    for (change, words) in broken {
        let mut rules = Rules::default();
        change(&mut rules);
        let problems = rules.validate().unwrap_err();
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(words), "{said:?}");
    }
}

#[test]
fn rules_are_read_with_their_presets_and_off() {
    let rules: Rules = serde_json::from_str(
        r#"{"length":{"at_least":5},"age":"off","max_wait":{"after":"30m"},"budgets":{"per_day":"$10"}}"#,
    )
    .unwrap();
    assert_eq!(rules.length, Some(LengthRule { at_least: 5 }));
    assert_eq!(
        (&rules.age, &rules.price),
        (&None, &Some(PriceRule::default()))
    );
    assert_eq!(rules.budgets.per_day, Some(Usd::from_cents(1_000)));
    let again: Rules = serde_json::from_value(serde_json::to_value(&rules).unwrap()).unwrap();
    assert_eq!(rules, again);
    for bad in [
        r#"{"lenght":{}}"#,
        r#"{"length":{"atleast":3}}"#,
        r#"{"age":"of"}"#,
    ] {
        assert!(serde_json::from_str::<Rules>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_decision_reads_well_and_reads_back() {
    let decision = decide(&view(83), &Rules::default(), now());
    let json = serde_json::to_value(&decision).unwrap();
    assert_eq!(json["verdict"]["kind"], "wait");
    assert_eq!(json["findings"][2]["rule"], "length");
    assert_eq!(json["findings"][2]["outcome"], "short");
    assert_eq!(json["findings"][2]["distance"]["tasks"], 17);
    assert_eq!(json["findings"][3]["distance"]["wait_s"], 14_400);
    assert_eq!(json["findings"][4]["distance"]["dollars"], "0.030000");
    assert_eq!(serde_json::from_value::<Decision>(json).unwrap(), decision);
}
