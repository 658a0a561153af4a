//! A batch from its request to its receipt, and the orders and mishaps on the way.

mod stage;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use spotreel_api::FleetView;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{controls, kv};
use spotreel_domain::batch::{
    Batch, Blocker, Ending, Instance, InstanceState, PoolName, Receipt, Status, Wanted,
};
use spotreel_domain::fleet::cloud::{Lifecycle, Place};
use spotreel_domain::render_time::{Corrections, Gpu, Job, Run};
use spotreel_domain::{Model, Usd};
use spotreel_fleet::Lead;
use spotreel_localcloud::{Action, Plan, Rule};
use spotreel_pool::marks::{self, Marks};
use spotreel_proto::worker::v1::{Presence, State};
use stage::{Stage, until};

/// One kind, little patience.
const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 5.0 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 5 }
patience = { moving = "200ms", calm = "500ms" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_comes_works_and_leaves_nothing() {
    let stage = Stage::set(POOL).await;
    let root = stage.root().clone();
    for task in ["a", "b", "c"] {
        stage.submit(task).await;
    }
    stage.start_fleet().await;
    stage.request(3).await;
    let batch = stage
        .until_batch("three machines", |batch| batch.instances.len() == 3)
        .await;
    let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
    for id in &ids {
        root.workers.come_up(id, State::Idle).await;
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
        hands.push(root.workers.take(&root.tasks, id).await);
    }
    // One by one: whoever is done goes, whoever is not stays.
    for (done, (id, hand)) in ids.iter().zip(hands).enumerate() {
        root.workers.succeed(&root.tasks, id, hand).await;
        until("it is gone and the others stay", async || {
            stage.running().len() == ids.len() - done - 1
        })
        .await;
    }
    let batch = stage
        .until_batch("settled", |batch| batch.status == Status::Settled)
        .await;
    assert_eq!(batch.tasks_done, 3);
    assert!(stage.running().is_empty());
    let marks = Marks::read(&root.client).await.unwrap();
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
    let client = stage.root().client.clone();
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
    stage
        .until_batch("a machine for the task", |batch| batch.instances.len() == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_pool_spends_counts_while_both_run() {
    let pools = format!(
        "{POOL}\nrules.budgets = {{ per_day = 10.0 }}\n[pool.other]\nmodels = [\"t2v-A14B\"]\n"
    );
    let stage = Stage::set(&pools).await;
    let root = stage.root().clone();
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage
        .until_batch("a machine", |batch| batch.instances.len() == 1)
        .await;
    let id = &batch.instances[0].id;
    root.workers.come_up(id, State::Idle).await;
    let _hand = root.workers.take(&root.tasks, id).await;
    stage
        .until_batch("it renders", |batch| batch.status == Status::Running)
        .await;

    // The other pool's batch still runs, and has cost what the day had.
    let pool = PoolName::parse("other").unwrap();
    let now = ambient::now();
    let wanted = Wanted {
        rule: "length".into(),
        why: "a test wants it".into(),
        units: 1,
        slot: None,
        deadline: now + Duration::from_secs(3_600),
    };
    let mut other = Batch::request(&pool, None, wanted, now).unwrap();
    other.instances.push(Instance {
        cost: Usd::from_cents(1_000),
        ready_at: Some(now),
        ..Instance::bought(
            "i-other".into(),
            batch.instances[0].place.clone(),
            Lifecycle::Spot,
            1,
            now,
            Usd::from_cents(30),
        )
    });
    root.batches.append(&other, 0).await.unwrap();
    let failed = stage
        .until_batch("it is over", |batch| !batch.is_active())
        .await;
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
        ready_at: Some(at),
        state: InstanceState::Gone {
            ending: Ending::Terminated,
            at,
        },
        billed_to: at + Duration::from_secs(50),
        ..Instance::bought(
            "i-before".into(),
            Place {
                kind: "g5.xlarge".into(),
                zone: "us-east-2a".into(),
            },
            Lifecycle::Spot,
            1,
            at,
            Usd::from_cents(30),
        )
    };
    let ended = Batch {
        status: Status::Settled,
        first_ready_at: Some(at),
        ended_at: Some(at),
        instances: vec![machine],
        tasks_done: 10,
        ..before
    };
    let log = &stage.root().batches;
    let requested = log.last(&ended.id.pool).await.unwrap().unwrap();
    log.append(&ended, requested.sequence).await.unwrap();

    for task in ["a", "b", "c"] {
        stage.submit(task).await;
    }
    // Two hours for each that is like these.
    let last = stage
        .root()
        .tasks
        .scan("spotreel.log.>", 1, 1)
        .await
        .unwrap();
    let run = Run {
        job: Job::of(&last[0].task.spec),
        gpu: Gpu::A10g,
        from_step: 0,
        seconds: 7_200.0,
    };
    let learnt = Corrections::learn(&[run, run, run]);
    let client = &stage.root().client;
    marks::put_pace(client, &ended.id.pool, &learnt)
        .await
        .unwrap();
    stage.start_fleet().await;
    stage.request(1).await;
    // By the configured minute a task one would do, and by the mean as well.
    let batch = stage
        .until_batch("a machine for each two hours", |batch| {
            batch.instances.len() == 3
        })
        .await;
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
        let root = stage.root().clone();
        for task in ["a", "b", "c", "d"] {
            stage.submit(task).await;
        }
        stage.start_fleet().await;
        stage.request(2).await;
        let batch = stage
            .until_batch("machines", |batch| batch.instances.len() >= 2)
            .await;
        let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
        root.workers.come_up(&ids[0], State::Busy).await;
        for id in &ids[1..] {
            root.workers.come_up(id, State::Idle).await;
        }
        let order = json!({ "pool": "default", "mode": mode, "by": "anna" });
        let answer = stage.ask("ops.stop", &order).await;
        assert_eq!(answer["id"], "default-1", "{answer}");
        if mode == "finish" {
            until("only the busy one is left", async || {
                stage.running() == ids[..1].to_vec()
            })
            .await;
            root.workers.say(&ids[0], State::Drained).await;
        }
        let batch = stage
            .until_batch("settled", |batch| !batch.is_active())
            .await;
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
    let root = stage.root().clone();
    for task in ["a", "b"] {
        stage.submit(task).await;
    }
    stage.start_fleet().await;
    stage.request(2).await;
    let batch = stage
        .until_batch("two machines", |batch| batch.instances.len() == 2)
        .await;
    let ids: Vec<_> = batch.instances.iter().map(|i| i.id.clone()).collect();
    for id in &ids {
        root.workers.come_up(id, State::Busy).await;
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
        Blocker::NoPlaceUnderCap => batch,
        // Prices or types are not known in the first moments.
        _ => {
            let priced = |batch: &spotreel_domain::batch::Batch| {
                batch
                    .blocked
                    .as_ref()
                    .is_some_and(|b| b.by == Blocker::NoPlaceUnderCap)
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
    let events = stage.root().batches.history(&batch.id).await.unwrap();
    assert!(events.len() < 6, "no event for what does not change");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_never_boot_end_the_batch_and_hold_the_pool_until_the_configuration_changes()
{
    let pool = format!("{POOL}breaker = {{ pause = \"300ms\", pauses = 1 }}\n");
    let broken = "#!/bin/bash\necho the registry says 429\nexit 1\n";
    let mut stage = Stage::with_machines(&pool, broken).await;
    let root = stage.root().clone();
    for task in ["a", "b", "c"] {
        stage.submit(task).await;
    }
    let first = Context::new("fleet", SocketAddr::from(([127, 0, 0, 1], 0)));
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
    let batch = stage
        .until_batch("given up", |batch| !batch.is_active())
        .await;
    assert!(
        matches!(&batch.status, Status::Failed { reason } if reason.contains("429")),
        "{:?}",
        batch.status
    );
    let bought = stage.cloud.instances().len();
    // Three at first, two in place of those that end before the third does, and one after the pause.
    assert!(bought <= 6, "{bought} machines for three tasks");
    let held = async || {
        let all = controls::all(&root.client).await.unwrap();
        all.holds.get(&batch.id.pool).cloned()
    };
    let hold = held().await.unwrap().order;
    assert_eq!(hold.by, "fleet");
    assert!(hold.reason.contains("default-1 failed"), "{}", hold.reason);

    // The same configuration again: nothing has been mended.
    first.stopping.cancel();
    first.tasks.close();
    first.tasks.wait().await;
    stage.set_key("rounds.idle", "50ms");
    let second = Context::new("fleet", SocketAddr::from(([127, 0, 0, 1], 0)));
    stage.start_fleet_as(Lead::Always, &second).await;
    until("it has looked", async || {
        second.health.readiness().checks.contains_key("batch log")
    })
    .await;
    assert!(held().await.is_some());
    second.stopping.cancel();
    second.tasks.close();
    second.tasks.wait().await;
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
    stage.cloud.faults().set(Plan {
        seed: 0,
        rules: vec![denied],
    });
    stage.submit("a").await;
    stage.start_fleet().await;
    until("fleet is not ready and says why", async || {
        let health = stage.ctx.health.readiness();
        let check = health.checks.get("pools");
        let reason = check.and_then(|check| check.reason.clone());
        !health.ready && reason.is_some_and(|r| r.contains("grant ec2:DescribeLaunchTemplates"))
    })
    .await;
    stage.request(1).await;
    let batch = stage
        .until_batch("blocked", |batch| {
            let blocked = batch.blocked.as_ref();
            blocked.is_some_and(|b| b.sentence.contains("grant ec2:DescribeLaunchTemplates"))
        })
        .await;
    assert_eq!(batch.blocked.unwrap().by, Blocker::Configuration);
    // Mended, it is seen without a restart.
    stage.cloud.faults().clear();
    stage
        .until_batch("a machine", |batch| batch.instances.len() == 1)
        .await;
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
    let first = Context::new("fleet", SocketAddr::from(([127, 0, 0, 1], 0)));
    stage.start_fleet_as(Lead::ByLease, &first).await;
    stage.request(1).await;
    stage
        .until_batch("a machine", |batch| batch.instances.len() == 1)
        .await;
    first.stopping.cancel();
    first.tasks.close();
    first.tasks.wait().await;
    stage.stop_nats();
    assert_eq!(stage.running().len(), 1);
    stage.start_fleet().await;
    until("ended by its tag", async || stage.running().is_empty()).await;
    assert!(!stage.ctx.health.readiness().checks["nats"].ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_that_both_believe_to_lead_do_no_harm() {
    let stage = Stage::set(POOL).await;
    let root = stage.root().clone();
    for task in ["a", "b", "c"] {
        stage.submit(task).await;
    }
    let other = Context::new("fleet", SocketAddr::from(([127, 0, 0, 1], 0)));
    stage.start_fleet_as(Lead::Always, &stage.ctx).await;
    stage.start_fleet_as(Lead::Always, &other).await;
    stage.request(3).await;
    let batch = stage
        .until_batch("three machines", |batch| batch.instances.len() == 3)
        .await;
    for instance in &batch.instances {
        root.workers.come_up(&instance.id, State::Idle).await;
    }
    stage
        .until_batch("all serve", |batch| batch.status == Status::Running)
        .await;
    assert_eq!(
        stage.running().len(),
        3,
        "one launch, however often it is called"
    );
    let order = json!({ "mode": "now", "by": "anna" });
    stage.ask("ops.stop", &order).await;
    stage
        .until_batch("settled", |batch| batch.status == Status::Settled)
        .await;
    assert!(stage.running().is_empty());
    let launched = stage.cloud.instances().len();
    assert_eq!(launched, 3);
    other.stopping.cancel();
}
