//! A batch from its request to its receipt, and the orders and mishaps on the way.

mod stage;

use std::time::Duration;

use serde_json::json;
use spotreel_api::FleetView;
use spotreel_bootstrap::ambient;
use spotreel_bus::{controls, kv};
use spotreel_domain::batch::{Batch, BlockedBy, Ending, Instance, InstanceState, Receipt, Status};
use spotreel_domain::render_time::{Corrections, Gpu, Job, Run};
use spotreel_domain::{Model, Usd};
use spotreel_fleet::Lead;
use spotreel_localcloud::{Action, Rule};
use spotreel_pool::marks::{self, Marks};
use spotreel_proto::worker::v1::{Presence, State};
use spotreel_test_kit::{pool, spot_instance};
use stage::{POOL, Stage, context, failing, stop, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_comes_works_and_leaves_nothing() {
    let stage = Stage::set(POOL).await;
    let workers = stage.workers.clone();
    let ids = stage.bring_up(&["a", "b", "c"]).await;
    for id in &ids {
        workers.come_up(id, State::Idle).await;
    }
    stage
        .until_batch("all serve", |batch| {
            batch.status == Status::Running
                && batch
                    .instances
                    .iter()
                    .all(|i| i.state == InstanceState::Serving)
        })
        .await;
    let mut hands = Vec::new();
    for id in &ids {
        hands.push(workers.take(id).await);
    }
    // One by one: whoever is done goes, whoever is not stays.
    for (done, (id, hand)) in ids.iter().zip(hands).enumerate() {
        workers.succeed(id, hand).await;
        until("it is gone and the others stay", async || {
            stage.running().len() == ids.len() - done - 1
        })
        .await;
    }
    let batch = stage.until_status(&Status::Settled).await;
    assert_eq!(batch.tasks_done, 3);
    assert!(stage.running().is_empty());
    let marks = Marks::read(&stage.logs.client).await.unwrap();
    let learnt = marks.pace(&batch.id.pool);
    let kind = Gpu::of_instance_type(&batch.instances[0].place.kind).unwrap();
    let factor = learnt.factor(Model::Ti2v5b, kind).unwrap();
    assert!(factor < 0.1, "their tasks took no time: {factor}");
    let receipt = Receipt::of(&batch, batch.ended_at.unwrap());
    let bill: i64 = stage.cloud.bill().iter().map(|line| line.micros).sum();
    assert!(
        (receipt.total.micros() - bill).abs() <= 3,
        "{receipt:?} {bill}"
    );
    assert_eq!(stage.calls("CreateFleet"), 1);
}

/// Two pools whose machines could render each other's models must not take each other's work for work in hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_machine_of_another_pool_has_no_task_of_this_pool_in_hand() {
    let stage = Stage::set(&format!("{POOL}\n[pool.other]\nmodels = [\"t2v-A14B\"]\n")).await;
    let client = stage.logs.client.clone();
    let says_so = async move || {
        let busy = Presence {
            worker: "w-other".to_owned(),
            instance: "i-other".to_owned(),
            models: vec!["ti2v-5B".to_owned(), "t2v-A14B".to_owned()],
            pool: "other".to_owned(),
            state: State::Busy.into(),
            task: "a-task-of-the-other-pool".to_owned(),
            at_ms: ambient::now().as_millisecond(),
            ..Presence::default()
        };
        kv::put_presence(&client, &busy).await
    };
    says_so().await.unwrap();
    // Again and again, as a worker does: otherwise it is forgotten after a minute, and the machine is bought then.
    tokio::spawn(async move {
        while says_so().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    stage.until_machines(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_pool_spends_counts_while_both_run() {
    let pools = format!(
        "{POOL}\nrules.budgets = {{ per_day = 10.0 }}\n[pool.other]\nmodels = [\"t2v-A14B\"]\n"
    );
    let stage = Stage::set(&pools).await;
    let workers = stage.workers.clone();
    let id = &stage.bring_up(&["a"]).await[0];
    workers.come_up(id, State::Idle).await;
    let _hand = workers.take(id).await;
    stage.until_status(&Status::Running).await;

    // The other pool's batch still runs, and has cost what the day had.
    let spent = |other: &mut Batch| {
        other.instances.push(Instance {
            cost: Usd::from_cents(1_000),
            ..spot_instance("i-other", "g5.xlarge", ambient::now())
        });
    };
    stage.logs.request_as(&pool("other"), 1, spent).await;
    let failed = stage.until_over().await;
    let Status::Failed { reason } = &failed.status else {
        panic!("{:?}", failed.status);
    };
    assert!(reason.contains("budget is spent"), "{reason}");
    assert!(stage.running().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_such_tasks_took_goes_before_what_is_configured_and_a_mean_of_the_past_does_not() {
    let stage = Stage::set(&POOL.replace("0.5", "60.0")).await;
    let before = stage.request(1).await;
    // 10 tasks in 50 seconds of one machine.
    let at = before.requested_at;
    let machine = Instance {
        state: InstanceState::Gone {
            ending: Ending::Terminated,
            at,
        },
        billed_to: at + Duration::from_secs(50),
        ..spot_instance("i-before", "g5.xlarge", at)
    };
    let end = |batch: &mut Batch| {
        batch.status = Status::Settled;
        (batch.first_ready_at, batch.ended_at) = (Some(at), Some(at));
        batch.instances = vec![machine];
        batch.tasks_done = 10;
    };
    stage.logs.update(&before.id.pool, end).await;

    stage.submit_all(&["a", "b", "c"]).await;
    // Two hours for each that is like these.
    let last = stage.logs.tasks.scan("spotreel.log.>", 1, 1).await.unwrap();
    let run = Run {
        job: Job::of(&last[0].task.spec),
        gpu: Gpu::A10g,
        from_step: 0,
        seconds: 7_200.0,
    };
    let learnt = Corrections::learn(&[run, run, run]);
    let client = &stage.logs.client;
    marks::put_pace(client, &before.id.pool, &learnt)
        .await
        .unwrap();
    stage.start_fleet().await;
    stage.request(1).await;
    // By the configured minute a task one would do, and by the mean as well.
    let batch = stage.until_machines(3).await;
    assert_eq!(batch.id.number, 2);
    let view = stage.ask("fleet", &json!({})).await;
    let view: FleetView = serde_json::from_value(view).unwrap();
    assert_eq!(view.pools[0].tasks, Some(3));
    assert!(
        matches!(view.pools[0].eta_s, Some(7_199..=7_201)),
        "{view:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_finish_and_a_stop_at_once_does_not() {
    for mode in ["finish", "now"] {
        let stage = Stage::set(POOL).await;
        let workers = stage.workers.clone();
        stage.submit_all(&["a", "b", "c", "d"]).await;
        stage.start_fleet().await;
        stage.request(2).await;
        let batch = stage
            .until_batch("machines", |batch| batch.instances.len() >= 2)
            .await;
        let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
        workers.come_up(&ids[0], State::Busy).await;
        for id in &ids[1..] {
            workers.come_up(id, State::Idle).await;
        }
        let order = json!({ "pool": "default", "mode": mode, "by": "anna" });
        let answer = stage.ask("ops.stop", &order).await;
        assert_eq!(answer["id"], "default-1", "{answer}");
        if mode == "finish" {
            until("only the busy one is left", async || {
                stage.running() == ids[..1].to_vec()
            })
            .await;
            workers.say(&ids[0], State::Drained).await;
        }
        let batch = stage.until_over().await;
        assert_eq!(
            (batch.status, batch.stop.unwrap().by.as_str()),
            (Status::Settled, "anna")
        );
        assert!(stage.running().is_empty());
        let again = stage.ask("ops.stop", &order).await;
        assert_eq!(again["error"]["code"], "not_allowed", "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_is_drained_by_order_and_the_view_tells() {
    let stage = Stage::set(POOL).await;
    let workers = stage.workers.clone();
    let ids = stage.bring_up(&["a", "b"]).await;
    for id in &ids {
        workers.come_up(id, State::Busy).await;
    }
    let view: FleetView = serde_json::from_value(stage.ask("fleet", &json!({})).await).unwrap();
    assert_eq!(view.pools[0].instances.len(), 2);
    assert_eq!(view.pools[0].tasks, Some(2));
    assert!(view.pools[0].rate.is_positive());

    let order = json!({ "instance": ids[0], "mode": "now" });
    let answer = stage.ask("ops.drain", &order).await;
    assert_eq!(answer["answer"], "ordered", "{answer}");
    until("it is ended", async || !stage.running().contains(&ids[0])).await;
    assert!(stage.running().contains(&ids[1]));
    let nobody = json!({ "instance": "i-0000000000000000f", "mode": "now" });
    let answer = stage.ask("ops.drain", &nobody).await;
    assert_eq!(answer["error"]["code"], "not_found", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_cap_nothing_is_launched_and_the_distance_is_said() {
    let pool = POOL.replace("cap = 5.0", "cap = 0.01");
    let stage = Stage::set(&pool).await;
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage
        .until_batch("blocked", |batch| batch.blocked.is_some())
        .await;
    let batch = match batch.blocked.as_ref().unwrap().by {
        BlockedBy::NoPlaceUnderCap => batch,
        // Prices or types are not known in the first moments.
        _ => {
            let priced = |batch: &spotreel_domain::batch::Batch| {
                batch
                    .blocked
                    .as_ref()
                    .is_some_and(|b| b.by == BlockedBy::NoPlaceUnderCap)
            };
            stage.until_batch("blocked by the cap", priced).await
        }
    };
    let sentence = batch.blocked.unwrap().sentence;
    assert!(
        sentence.contains("above; raise the cap of g5.xlarge"),
        "{sentence}"
    );
    assert_eq!(stage.calls("CreateFleet"), 0);
    let events = stage.logs.batches.history(&batch.id).await.unwrap();
    assert!(events.len() < 6, "no event for what does not change");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_never_boot_end_the_batch_and_hold_the_pool_until_the_configuration_changes()
{
    let pool = format!("{POOL}breaker = {{ pause = \"300ms\", pauses = 1 }}\n");
    let broken = "#!/bin/bash\necho the registry says 429\nexit 1\n";
    let mut stage = Stage::with_machines(&pool, broken).await;
    let logs = stage.logs.clone();
    stage.submit_all(&["a", "b", "c"]).await;
    let first = context("fleet");
    stage.start_fleet_as(Lead::ByLease, &first).await;
    stage.request(3).await;
    let blocked = stage
        .until_batch("paused", |batch| {
            let blocked = batch.blocked.as_ref();
            blocked.is_some_and(|b| b.sentence.contains("the registry says 429"))
        })
        .await;
    let sentence = blocked.blocked.unwrap().sentence;
    for told in ["in a row", "Client.InstanceInitiatedShutdown"] {
        assert!(sentence.contains(told), "{sentence}");
    }
    let batch = stage.until_over().await;
    assert!(
        matches!(&batch.status, Status::Failed { reason } if reason.contains("429")),
        "{:?}",
        batch.status
    );
    let bought = stage.cloud.instances().len();
    // Three at first, two in place of those that end before the third does, and one after the pause.
    assert!(bought <= 6, "{bought} machines for three tasks");
    let held = async || {
        let all = controls::all(&logs.client).await.unwrap();
        all.holds.get(&batch.id.pool).cloned()
    };
    let hold = held().await.unwrap().order;
    assert_eq!(hold.by, "fleet");
    assert!(hold.reason.contains("default-1 failed"), "{}", hold.reason);

    // The same configuration again: nothing has been mended.
    stop(&first).await;
    stage.set_key("rounds.idle", "50ms");
    let second = context("fleet");
    stage.start_fleet_as(Lead::Always, &second).await;
    until("it has looked", async || {
        second.health.readiness().checks.contains_key("batch log")
    })
    .await;
    assert!(held().await.is_some());
    stop(&second).await;
    stage.set_key("template.version", "2");
    stage.start_fleet_as(Lead::Always, &stage.ctx).await;
    until("the hold is lifted", async || held().await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_where_people_look() {
    let stage = Stage::set(POOL).await;
    let denied = Rule {
        code: Some("UnauthorizedOperation".to_owned()),
        ..Rule::new("DescribeLaunchTemplates", Action::Error)
    };
    stage.cloud.fail([denied]);
    stage.submit("a").await;
    stage.start_fleet().await;
    until("fleet is not ready and says why", async || {
        failing(&stage.ctx, "pools")
            .is_some_and(|reason| reason.contains("grant ec2:DescribeLaunchTemplates"))
    })
    .await;
    stage.request(1).await;
    let batch = stage
        .until_batch("blocked", |batch| {
            let blocked = batch.blocked.as_ref();
            blocked.is_some_and(|b| b.sentence.contains("grant ec2:DescribeLaunchTemplates"))
        })
        .await;
    assert_eq!(batch.blocked.unwrap().by, BlockedBy::Configuration);
    // Mended, it is seen without a restart.
    stage.cloud.faults().clear();
    stage.until_machines(1).await;
    assert!(stage.ctx.health.readiness().checks["pools"].ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_what_has_expired_is_ended() {
    let mut stage = Stage::set(&format!("{POOL}patience.life = \"3s\"\n").replace(
        "patience = { moving = \"200ms\", calm = \"500ms\" }\n",
        "patience.moving = \"200ms\"\npatience.calm = \"500ms\"\n",
    ))
    .await;
    stage.submit("a").await;
    let first = context("fleet");
    stage.start_fleet_as(Lead::ByLease, &first).await;
    stage.request(1).await;
    stage.until_machines(1).await;
    stop(&first).await;
    stage.stop_nats();
    assert_eq!(stage.running().len(), 1);
    stage.start_fleet().await;
    until("ended by its tag", async || stage.running().is_empty()).await;
    assert!(!stage.ctx.health.readiness().checks["nats"].ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_that_both_believe_to_lead_do_no_harm() {
    let stage = Stage::set(POOL).await;
    let workers = stage.workers.clone();
    stage.submit_all(&["a", "b", "c"]).await;
    let other = context("fleet");
    stage.start_fleet_as(Lead::Always, &stage.ctx).await;
    stage.start_fleet_as(Lead::Always, &other).await;
    stage.request(3).await;
    let batch = stage.until_machines(3).await;
    for instance in &batch.instances {
        workers.come_up(&instance.id, State::Idle).await;
    }
    stage.until_status(&Status::Running).await;
    assert_eq!(
        stage.running().len(),
        3,
        "one launch, however often it is called"
    );
    let order = json!({ "mode": "now", "by": "anna" });
    stage.ask("ops.stop", &order).await;
    stage.until_status(&Status::Settled).await;
    assert!(stage.running().is_empty());
    let launched = stage.cloud.instances().len();
    assert_eq!(launched, 3);
    other.stopping.cancel();
}
