//! When a queue becomes a batch, and when it does not, against a real server and the local cloud.

mod stage;

use std::time::Duration;

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde_json::json;
use spotreel_api::{Ordered, PoolWhy};
use spotreel_bootstrap::ambient;
use spotreel_bus::controls::{self, RunRecord};
use spotreel_domain::Usd;
use spotreel_domain::batch::{Blocked, BlockedBy, Ending, Instance, InstanceState, Status, Usage};
use spotreel_domain::trigger::{BlockerKind, Mode, Prices, RuleName, RuleOutcome, Verdict};
use spotreel_localcloud::{Action, Rule as Fault};
use spotreel_proto::worker::v1::Presence;
use spotreel_test_kit::spot_instance;
use stage::{Stage, after, is_blocked, only, until};

const HUNDRED: &str = "length = { at_least = 100 }";
/// The batch log keeps whole milliseconds.
const KEPT: Duration = Duration::from_millis(1);
const ONE: &str = "length = { at_least = 1 }";

#[tokio::test(flavor = "multi_thread")]
async fn the_hundredth_task_makes_one_batch_though_two_triggers_run() {
    let stage = Stage::set().await;
    let pools = stage.one_pool(HUNDRED);
    let triggers = [stage.start(&pools).await, stage.start(&pools).await];
    stage.submit(99).await;
    let why = stage
        .until_why("99 queued", |why| why.view.queued == 99)
        .await;
    let length = why.decision.finding(RuleName::Length).unwrap();
    assert_eq!(
        (length.outcome, length.distance.tasks),
        (RuleOutcome::Short, Some(1))
    );
    stage.stays_at(0).await;

    stage.submit(1).await;
    let batch = stage.until_batch(1).await;
    assert_eq!(
        (batch.id.to_string().as_str(), batch.rule.as_str()),
        ("default-1", "length")
    );
    // 100 × 327 s in 2 h less 5 minutes to start: nothing was rendered, so it is the cost model's figure for an L40S.
    assert_eq!(batch.units, 5);
    assert!(batch.why.contains("100 tasks queued"), "{}", batch.why);
    stage.stays_at(1).await;

    // The next one comes once this has ended, however often both look at the same moment.
    for number in 2..=6 {
        stage.end(|_| {}).await;
        let batch = stage.until_batch(number).await;
        assert_eq!(batch.id.number, number as u64);
        stage.stays_at(number).await;
    }
    for trigger in triggers {
        assert!(trigger.ctx.health.readiness().ready);
        trigger.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_rendered_is_work_and_not_queued() {
    let stage = Stage::set().await;
    let _trigger = stage
        .start(&stage.one_pool("length = { at_least = 3 }"))
        .await;
    stage.submit(1).await;
    let consumer = spotreel_bus::names::work_consumer(
        spotreel_domain::Model::Ti2v5b,
        spotreel_domain::Lane::front(spotreel_domain::Priority::Normal),
    );
    let tasks = spotreel_bus::names::TASKS;
    let queue = spotreel_bus::Queue::open(&stage.root.client, tasks, &consumer)
        .await
        .unwrap();
    let hand = queue.pull(Duration::from_secs(10)).await.unwrap().unwrap();
    let presence = Presence {
        worker: "w1".to_owned(),
        models: vec!["ti2v-5B".to_owned()],
        task: hand.recorded().unwrap().task.id.to_string(),
        ..Presence::default()
    };
    spotreel_bus::kv::put_presence(&stage.root.client, &presence)
        .await
        .unwrap();
    stage.submit(2).await;
    let why = stage
        .until_why("3 tasks of work", |why| why.view.work == 3)
        .await;
    assert_eq!(why.view.queued, 2);
    // The oldest that waits is not the one in hand.
    let second = stage.queued_at().await[1];
    assert_eq!(why.view.oldest_queued_at, Some(second));
    stage.stays_at(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn age_counts_from_the_oldest_task_and_then_from_the_last_batch_that_served() {
    let stage = Stage::set().await;
    let rules = "age = { after = \"1s\", at_least = 2 }";
    let trigger = stage.start(&stage.one_pool(rules)).await;
    stage.submit(1).await;
    let stored = stage.queued_at().await[0];
    let second = Duration::from_secs(1);
    until("one task is not enough after a second", async || {
        after(stored, ambient::now()) > second
    })
    .await;
    stage.stays_at(0).await;
    stage.submit(1).await;
    let batch = stage.until_batch(1).await;
    assert_eq!(batch.rule, "age");
    assert!(after(stored, batch.requested_at) >= second - KEPT);

    // From when its first worker was ready; a restart forgets nothing of it.
    let ready = ambient::now() + SignedDuration::from_millis(500);
    stage.end(|batch| batch.first_ready_at = Some(ready)).await;
    trigger.stop().await;
    let _trigger = stage.start(&stage.one_pool(rules)).await;
    let next = stage.until_batch(2).await;
    assert!(after(ready, next.requested_at) >= second - KEPT);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_waits_longer_than_max_wait() {
    let stage = Stage::set().await;
    let rules = "max_wait = { after = \"1s\" }";
    let _trigger = stage.start(&stage.one_pool(rules)).await;
    stage.submit(1).await;
    let stored = stage.queued_at().await[0];
    let batch = stage.until_batch(1).await;
    assert_eq!(batch.rule, "max_wait");
    assert!(after(stored, batch.requested_at) >= Duration::from_secs(1) - KEPT);
}

/// A schedule with one slot a day.
fn slot_of_this_minute() -> String {
    let now = ambient::now().to_zoned(TimeZone::UTC);
    let (minute, hour) = (now.minute(), now.hour());
    format!(
        "schedule = {{ cron = \"{minute} {hour} * * *\", zone = \"UTC\", window = \"30m\", at_least = 1 }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_fires_once_across_a_restart() {
    let stage = Stage::set().await;
    let pools = stage.one_pool(&slot_of_this_minute());
    let trigger = stage.start(&pools).await;
    stage.submit(1).await;
    let batch = stage.until_batch(1).await;
    assert_eq!(batch.rule, "schedule");
    let slot = batch.slot.unwrap();
    assert!(slot.ends_with("[UTC]"), "{slot}");
    stage.end(|_| {}).await;
    stage
        .until_why("ended", |why| why.view.active_batch.is_none())
        .await;
    stage.stays_at(1).await;

    trigger.stop().await;
    let _trigger = stage.start(&pools).await;
    let why = stage
        .until_why("the slot is used", |why| {
            let schedule = why.decision.finding(RuleName::Schedule).unwrap();
            schedule.sentence.contains("was used")
        })
        .await;
    assert!(matches!(why.decision.verdict, Verdict::Wait { .. }));
    stage.stays_at(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_batch_got_no_machine_fires_again() {
    let stage = Stage::set().await;
    let _trigger = stage.start(&stage.one_pool(&slot_of_this_minute())).await;
    stage.submit(1).await;
    stage.until_batch(1).await;
    let reason = "no capacity".to_owned();
    stage
        .end(|batch| batch.status = Status::Failed { reason })
        .await;
    stage
        .until_why("the slot fires again", |why| {
            let schedule = why.decision.finding(RuleName::Schedule).unwrap();
            why.view.active_batch.is_none() && schedule.outcome == RuleOutcome::Fires
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_stops_launches_until_it_is_taken_back_or_forced() {
    let stage = Stage::set().await;
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    let refused = stage.order("hold", &json!({})).await;
    assert_eq!(refused["error"]["code"], "invalid", "{refused}");
    let order = json!({ "by": "ada", "reason": "the power is off" });
    let held: Ordered = serde_json::from_value(stage.order("hold", &order).await).unwrap();
    assert_eq!(held.pools, [stage::pool()]);
    stage.submit(1).await;
    let why = stage.until_blocked(BlockerKind::Hold).await;
    let sentence = &why.decision.blockers[0].sentence;
    let told = "held by ada, reason \"the power is off\"";
    assert!(sentence.contains(told), "{sentence}");
    let refused = stage.order("run", &json!({ "by": "bob" })).await;
    assert_eq!(refused["error"]["code"], "not_allowed", "{refused}");
    assert!(
        stage.orders_to_run().await.is_empty(),
        "it is not kept either"
    );
    stage.until_blocked(BlockerKind::Hold).await;
    stage.stays_at(0).await;

    stage
        .order("run", &json!({ "by": "bob", "force": true }))
        .await;
    assert_eq!(stage.until_batch(1).await.rule, "run_now");
    until("the order is done", async || {
        stage.orders_to_run().await.is_empty()
    })
    .await;
    // Still held, it was one batch only.
    stage.end(|_| {}).await;
    stage.until_blocked(BlockerKind::Hold).await;
    stage.stays_at(1).await;
    stage.order("resume", &json!({})).await;
    assert_eq!(stage.until_batch(2).await.rule, "length");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_runs_one_task_now() {
    let stage = Stage::set().await;
    let _trigger = stage.start(&stage.one_pool(HUNDRED)).await;
    stage.order("run", &json!({ "by": "ada" })).await;
    stage
        .until_why("asked for", |why| why.view.run_now.is_some())
        .await;
    stage.stays_at(0).await;
    stage.submit(1).await;
    let batch = stage.until_batch(1).await;
    assert_eq!(batch.rule, "run_now");
    assert!(batch.why.contains("ada"), "{}", batch.why);
    until("the order is done", async || {
        stage.orders_to_run().await.is_empty()
    })
    .await;
    stage.end(|_| {}).await;
    stage
        .until_why("ended", |why| why.view.active_batch.is_none())
        .await;
    stage.stays_at(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_makes_one_batch_though_trigger_dies_before_it_is_forgotten() {
    let stage = Stage::set().await;
    let pools = stage.one_pool(HUNDRED);
    stage.submit(1).await;
    let mut program = stage.run(&pools, &[("SPOTREEL_CRASH_AT", "after-request")]);
    // Taken by a program whose clock is ahead.
    let run = RunRecord {
        by: "ada".to_owned(),
        at: ambient::now() + SignedDuration::from_secs(60),
        id: "1".to_owned(),
        force: false,
    };
    controls::run(&stage.root.client, &stage::pool(), &run)
        .await
        .unwrap();
    stage.until_batch(1).await;
    until("dead", async || !program.is_running()).await;
    assert_eq!(stage.orders_to_run().await.len(), 1);
    // The batch is over before anybody looks again.
    stage.end(|_| {}).await;
    let _trigger = stage.start(&pools).await;
    until("the order is done", async || {
        stage.orders_to_run().await.is_empty()
    })
    .await;
    stage.stays_at(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_dies_before_it_asks_has_asked_for_nothing() {
    let stage = Stage::set().await;
    let pools = stage.one_pool(ONE);
    stage.submit(1).await;
    let mut program = stage.run(&pools, &[("SPOTREEL_CRASH_AT", "before-request")]);
    until("dead", async || !program.is_running()).await;
    assert!(stage.batches().await.is_empty());
    let _trigger = stage.start(&pools).await;
    stage.until_batch(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_without_a_fresh_mark_launch_nothing() {
    let stage = Stage::unswept(|_| {}).await;
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    stage.submit(1).await;
    stage.until_blocked(BlockerKind::CountsStale).await;
    stage.stays_at(0).await;
    stage.swept(SignedDuration::from_secs(-40)).await;
    let why = stage.until_blocked(BlockerKind::CountsStale).await;
    let Verdict::Blocked { sentence } = &why.decision.verdict else {
        unreachable!("it is blocked");
    };
    assert!(sentence.contains("not trusted since"), "{sentence}");
    assert!(sentence.contains("sweeper"), "{sentence}");
    stage.stays_at(0).await;
    stage.swept(SignedDuration::ZERO).await;
    stage.until_batch(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_machine_is_bought_while_the_log_is_too_full_to_start_a_task() {
    let stage = Stage::set().await;
    stage.submit(1).await;
    let context = async_nats::jetstream::new(stage.root.client.clone());
    let log = context
        .get_stream(spotreel_bus::names::TASKS)
        .await
        .unwrap();
    let info = log.cached_info();
    let size = async |bytes| {
        let mut config = info.config.clone();
        config.max_bytes = bytes;
        context.update_stream(config).await.unwrap();
    };
    size(i64::try_from(info.state.bytes).unwrap()).await;
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    stage.until_blocked(BlockerKind::LogFull).await;
    stage.stays_at(0).await;
    size(info.config.max_bytes).await;
    stage.until_batch(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_prices_launch_nothing_and_say_why() {
    let stage = Stage::set().await;
    stage.cloud.fail([Fault {
        code: Some("UnauthorizedOperation".to_owned()),
        ..Fault::new("DescribeSpotPriceHistory", Action::Error)
    }]);
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    stage.submit(1).await;
    let why = stage
        .until_why("the cloud's own words", |why| match &why.view.prices {
            Prices::Unknown { reason, .. } => reason.contains("UnauthorizedOperation"),
            _ => false,
        })
        .await;
    assert!(is_blocked(&why, BlockerKind::PricesUnknown), "{why:#?}");
    stage.stays_at(0).await;
    stage.cloud.faults().clear();
    stage.until_batch(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_market_opens_and_shuts() {
    let stage = Stage::set().await;
    let price = |micros| {
        stage
            .cloud
            .set_price("g6.xlarge", stage::ZONE, micros)
            .unwrap();
    };
    price(400_000);
    let _trigger = stage
        .start(&stage.one_pool("price = { below = 0.25, at_least = 1 }"))
        .await;
    stage.submit(1).await;
    let short = |why: &PoolWhy, cents: i64| {
        let price = why.decision.finding(RuleName::Price).unwrap();
        price.outcome == RuleOutcome::Short
            && price.distance.dollars == Some(Usd::from_cents(cents))
    };
    stage
        .until_why("15 cents too dear", |why| short(why, 15))
        .await;
    price(300_000);
    stage
        .until_why("5 cents too dear", |why| short(why, 5))
        .await;
    stage.stays_at(0).await;
    price(240_000);
    assert_eq!(stage.until_batch(1).await.rule, "price");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_batches_have_cost_counts_against_the_budget_after_a_restart() {
    const SPENT: Usd = Usd::from_micros(999_900);
    let stage = Stage::set().await;
    stage
        .cloud
        .set_price("g6.xlarge", stage::ZONE, 300_000)
        .unwrap();
    let free = stage.one_pool(ONE);
    let bounded = stage.one_pool(&format!("{ONE}\nbudgets = {{ per_day = 1 }}"));
    stage.submit(1).await;
    let trigger = stage.start(&free).await;
    stage.until_batch(1).await;
    trigger.stop().await;
    stage
        .end(|batch| {
            let now = ambient::now();
            batch.instances.push(Instance {
                state: InstanceState::Gone {
                    ending: Ending::Terminated,
                    at: now,
                },
                cost: SPENT,
                usage: Usage::default(),
                ..spot_instance("i-1", "g6.xlarge", now)
            });
        })
        .await;
    // What is left pays a second of a machine.
    let _trigger = stage.start(&bounded).await;
    let why = stage.until_blocked(BlockerKind::Budget).await;
    assert_eq!(why.view.spend.today, SPENT);
    let sentence = &why.decision.blockers[0].sentence;
    assert!(sentence.contains("budgets.per_day"), "{sentence}");
    stage.stays_at(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pools_ask_for_no_batches_on_the_same_money() {
    let stage = Stage::set().await;
    let bought = stage::bought(0.36, stage::ZONE);
    let rules = stage::only(&format!("{ONE}\nbudgets = {{ per_hour = 0.5 }}"));
    let pools = ["default", "large"]
        .into_iter()
        .zip(["ti2v-5B", "t2v-A14B"]);
    let pools: String = pools
        .map(|(name, model)| {
            format!("[pool.{name}]\nmodels = [\"{model}\"]\n{bought}[pool.{name}.rules]\n{rules}")
        })
        .collect();
    stage.submit_for("ti2v-5B", 1).await;
    stage.submit_for("t2v-A14B", 1).await;
    let _trigger = stage.start(&pools).await;
    // Both rules fire in one look; then the batch stands in the log without a machine.
    assert_eq!(stage.until_batch(1).await.id.to_string(), "default-1");
    let why = stage
        .until_why_of("large", "blocked", |why| {
            stage::is_blocked(why, BlockerKind::Budget)
        })
        .await;
    let sentence = json!(why.decision.verdict)["sentence"].to_string();
    let reason = "1 unit of batch default-1 for up to $0.3600/h come first";
    assert!(sentence.contains(reason), "{sentence}");
    stage.stays_at(1).await;

    // Nothing is to be had for it: the others need not wait.
    stage
        .end(|batch| {
            batch.status = Status::Launching;
            batch.ended_at = None;
            batch.blocked = Some(Blocked {
                by: BlockedBy::NoCapacity,
                sentence: "no capacity in any zone".into(),
                since: ambient::now(),
            });
        })
        .await;
    assert_eq!(stage.until_batch(2).await.id.to_string(), "large-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_that_cannot_be_read_stand_in_nobodys_way() {
    let stage = Stage::set().await;
    // As in a private subnet that has an endpoint for EC2 only, with a role that may not describe instance types.
    stage.cloud.fail([
        Fault::new("GetServiceQuota", Action::Reset),
        Fault {
            code: Some("UnauthorizedOperation".to_owned()),
            ..Fault::new("DescribeInstanceTypes", Action::Error)
        },
    ]);
    stage.submit(1).await;
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    stage.until_batch(1).await;
    let why = stage
        .until_why("asked for", |why| why.view.active_batch.is_some())
        .await;
    assert_eq!(why.view.quota_units, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_ones_own_are_never_asked_for() {
    let stage = Stage::set().await;
    let pools = format!("[pool.default]\n[pool.default.rules]\n{}", only(ONE));
    let _trigger = stage.start(&pools).await;
    stage.submit(2).await;
    let why = stage
        .until_why("2 queued", |why| why.view.queued == 2)
        .await;
    let Verdict::Wait { sentence } = &why.decision.verdict else {
        panic!("{why:#?}");
    };
    assert!(sentence.contains("your own machines"), "{sentence}");
    assert!(why.decision.forecast.sentence.contains("your own machines"));
    let refused = stage.order("run", &json!({})).await;
    assert_eq!(refused["error"]["code"], "invalid", "{refused}");
    stage.stays_at(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_die_and_come_back() {
    let mut stage = Stage::set().await;
    stage.submit(1).await;
    let trigger = stage
        .start(&stage.one_pool("length = { at_least = 2 }"))
        .await;
    stage
        .until_why("1 came", |why| why.view.arrivals_per_hour == 1)
        .await;
    stage.stop_nats();
    let ready = || trigger.ctx.health.readiness().ready;
    until("it says that it is blind", async || !ready()).await;
    stage.start_nats().await;
    until("it sees again", async || ready()).await;
    stage.submit(1).await;
    stage.until_batch(1).await;
    // Hints come again, too, and each task is counted once.
    stage
        .until_why("2 came", |why| why.view.arrivals_per_hour == 2)
        .await;
    stage.submit(1).await;
    stage
        .until_why("3 came", |why| why.view.arrivals_per_hour == 3)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_found_no_machine_is_tried_again_later_or_when_a_person_asks() {
    let stage = Stage::set().await;
    let _trigger = stage.start(&stage.one_pool(ONE)).await;
    stage.submit(1).await;
    stage.until_batch(1).await;
    stage
        .end(|batch| {
            batch.status = Status::Failed {
                reason: "no capacity anywhere".to_owned(),
            };
        })
        .await;
    let why = stage.until_blocked(BlockerKind::BackOff).await;
    let blocker = &why.decision.blockers[0];
    assert!(blocker.sentence.contains("no capacity anywhere"));
    // Time alone cures it, and it is told when.
    assert_eq!(why.decision.forecast.by, blocker.until);
    stage.stays_at(1).await;
    stage.order("run", &json!({ "by": "ada" })).await;
    assert_eq!(stage.until_batch(2).await.rule, "run_now");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_arrivals_make_machines_stay_also_across_a_restart() {
    let stage = Stage::set().await;
    let pools = stage.one_pool(
        "hybrid = { on_demand_below = 2, resident_above = 3, dwell = \"1h\", resident_units = 4 }",
    );
    let trigger = stage.start(&pools).await;
    stage.submit(3).await;
    let why = stage
        .until_why("3 came", |why| why.view.arrivals_per_hour == 3)
        .await;
    assert_eq!(why.decision.mode.mode, Mode::Batch);
    stage.stays_at(0).await;
    stage.submit(1).await;
    let batch = stage.until_batch(1).await;
    assert_eq!((batch.rule.as_str(), batch.units), ("hybrid", 4));
    let why = stage
        .until_why("it is written down", |why| {
            why.view.mode.mode == Mode::Resident
        })
        .await;
    let since = why.view.mode.since;
    assert!(since.is_some());

    trigger.stop().await;
    let _trigger = stage.start(&pools).await;
    let why = stage
        .until_why("4 came", |why| why.view.arrivals_per_hour == 4)
        .await;
    assert_eq!(why.view.mode.since, since);
    assert_eq!(why.decision.mode.resident_units, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_no_type_of_the_pool_can_render_ask_for_no_batch_and_are_named() {
    let stage = Stage::set().await;
    // 40 GB hold the usual video in its smaller size, not in the one that is asked for.
    let small = stage::bought(0.36, stage::ZONE).replace("l40s", "a100_small");
    let pools = format!(
        "[pool.default]\nmodels = [\"t2v-A14B\"]\n{small}[pool.default.rules]\n{}",
        stage::only(ONE)
    );
    stage.submit_for("t2v-A14B", 2).await;
    let _trigger = stage.start(&pools).await;
    let why = stage.until_blocked(BlockerKind::NoTypeFits).await;
    let sentence = json!(why.decision.verdict)["sentence"].to_string();
    for words in [
        "2 tasks can be rendered by no type of the pool",
        "t2v-A14B with 1280x720 and 81 frames needs 47.1 GB",
        "g6e.xlarge has it",
    ] {
        assert!(sentence.contains(words), "lacks {words:?}: {sentence}");
    }
    assert_eq!((why.view.queued, why.view.work), (0, 0));
    stage.stays_at(0).await;
}
