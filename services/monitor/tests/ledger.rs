//! What attempts cost, stored before the log forgets them, against a real server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::time::Duration;

use async_nats::Client;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::Queue;
use spotreel_bus::names::{
    self, CONSUMER_LEDGER, CONSUMER_NOTIFIER, CONSUMER_SWEEPER, LEDGER, TASKS,
};
use spotreel_domain::batch::{Batch, Ending, Instance, InstanceState, Receipt, Status};
use spotreel_domain::{Event, Model, Owner, Usd};
use spotreel_localcloud::TestCloud;
use spotreel_monitor::janitor::Janitor;
use spotreel_monitor::{DEFAULTS, Deps, Handled, MonitorConfig};
use spotreel_s3::{Keys, Store, StoreConfig};
use spotreel_test_kit::{
    Logs, Nats, Written, ask, context, failing, layout, pool, spot_instance, stop, tasks, until,
};

const SOON: Duration = Duration::from_millis(200);
const BATCH: &str = "default-1";

fn config() -> MonitorConfig {
    let mut config: MonitorConfig = toml::from_str(DEFAULTS).unwrap();
    config.inbox.retry_after = SOON;
    config.inbox.pull_wait = Duration::from_millis(500);
    config.janitor.grace = SOON;
    config.ledger.every = SOON;
    config
}

struct Stage {
    nats: Nats,
    logs: Logs,
    client: Client,
    store: Store,
    _cloud: TestCloud,
}

impl Stage {
    async fn set() -> Self {
        let nats = Nats::for_services().await;
        let cloud = TestCloud::start().await;
        let at = StoreConfig {
            endpoint_url: Some(cloud.endpoint_url()),
            force_path_style: true,
            ..config().s3
        };
        let store = Store::connect_with_keys(&at, Keys::new("local", "local-secret")).await;
        store.create_bucket_if_missing().await.unwrap();
        Self {
            logs: Logs::of(&nats).await,
            client: nats.client("client").await,
            nats,
            store,
            _cloud: cloud,
        }
    }

    async fn monitor(&self) -> Context {
        let ctx = context("monitor");
        let deps = Deps {
            nats: self.nats.client("monitor").await,
            store: self.store.clone(),
        };
        spotreel_monitor::start(config(), deps, ctx.clone())
            .await
            .unwrap();
        ctx
    }

    async fn garbage(&self, subject: &'static str) {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        let stored = context.publish(subject, "garbage".into()).await.unwrap();
        stored.await.unwrap();
    }

    async fn receipt(&self, of: Value) -> Value {
        ask(&self.client, names::RECEIPT, &of).await
    }

    async fn closed(&self) -> Value {
        let is_final = async || self.receipt(json!({ "batch": BATCH })).await["final"] == true;
        until("the ledger is closed", is_final).await;
        self.receipt(json!({ "batch": BATCH })).await
    }

    async fn costs(&self, by: &str) -> Value {
        ask(&self.client, names::COSTS, &json!({ "by": by })).await
    }

    /// Makes a consumer of the log ack everything, as if its program had.
    async fn hear(&self, consumer: &str) {
        let queue = Queue::open(&self.logs.client, TASKS, consumer).await;
        let queue = queue.unwrap();
        while let Some(delivery) = queue.pull(Duration::ZERO).await.unwrap() {
            delivery.ack().await.unwrap();
        }
    }

    async fn events(&self, task: &Written) -> Vec<Event> {
        let history = self.logs.tasks.history(&task.task.id).await.unwrap();
        history.iter().map(|event| event.event).collect()
    }
}

/// A batch of two machines, on which two tasks were rendered, one of them after an interruption.
struct Scene {
    began: Timestamp,
    tasks: [Written; 2],
}

impl Scene {
    async fn play(stage: &Stage) -> Self {
        let began = ambient::now() - SignedDuration::from_secs(600);
        let at = |seconds| began + SignedDuration::from_secs(seconds);
        let logs = &stage.logs;
        let (one, two) = ("i-one", "i-two");
        logs.request_as(&pool("default"), 2, |batch| {
            batch.requested_at = began;
            batch.instances = [one, two]
                .map(|id| running(spot_instance(id, "g6.xlarge", began)))
                .into();
        })
        .await;
        let request = tasks::request(Model::Ti2v5b);
        let owned = |name: &'static str| {
            move |task: &mut spotreel_domain::Task| {
                task.owner = Owner::parse(name).ok();
                task.spec.labels = [("shot".to_owned(), name.to_owned())].into();
            }
        };
        let a = logs.submit_as("a", &request, owned("anna")).await;
        let a = logs
            .next(&a, |task| task.started("w1", one, 0, at(60)))
            .await;
        let a = logs.next(&a, |task| task.interrupted(at(200))).await;
        let a = logs
            .next(&a, |task| task.started("w2", two, 10, at(210)))
            .await;
        let video = tasks::artifact("renders/a/1.mp4");
        let a = logs.next(&a, |task| task.succeeded(video, at(400))).await;
        let b = logs.submit_as("b", &request, owned("ben")).await;
        let b = logs
            .next(&b, |task| task.started("w2", two, 0, at(395)))
            .await;
        let video = tasks::artifact("renders/b/1.mp4");
        let b = logs.next(&b, |task| task.succeeded(video, at(500))).await;
        Self {
            began,
            tasks: [a, b],
        }
    }

    /// The machines go, and the batch settles.
    async fn end(&self, stage: &Stage) -> Batch {
        let gone_at = self.began + SignedDuration::from_secs(550);
        let settle = |batch: &mut Batch| {
            for one in &mut batch.instances {
                one.usage.left_at = Some(gone_at);
                one.usage.gone_at = Some(gone_at);
                one.bill(gone_at);
                one.state = InstanceState::Gone {
                    ending: Ending::Terminated,
                    at: gone_at,
                };
            }
            batch.status = Status::Settled;
            batch.ended_at = Some(ambient::now());
        };
        stage.logs.update(&pool("default"), settle).await
    }
}

fn running(mut one: Instance) -> Instance {
    one.usage.pending = false;
    one.usage.began_at = Some(one.launched_at);
    one.usage.volume = Usd::from_micros(11_111);
    one.usage.address = Usd::from_micros(5_000);
    one.state = InstanceState::Serving;
    one
}

fn usd(amount: &Value) -> Usd {
    amount.as_str().unwrap().parse().unwrap()
}

fn totals(rows: &Value) -> Usd {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| usd(&row["total"])).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn receipts_add_up_to_the_batch_and_outlive_its_tasks_in_the_log() {
    let stage = Stage::set().await;
    let scene = Scene::play(&stage).await;
    let monitors = [stage.monitor().await, stage.monitor().await];
    let open = stage.receipt(json!({ "batch": BATCH })).await;
    assert_eq!(
        (&open["final"], open.get("ended_at")),
        (&json!(false), None)
    );
    assert!(usd(&open["total"]).is_positive());

    // Neither the end of a batch nor an attempt that no version can decode keeps the others from being closed.
    stage.garbage("spotreel.batchlog.lost.1.settled").await;
    stage.garbage("spotreel.ledger.attempt.i-one.lost").await;
    let batch = scene.end(&stage).await;
    let total = Receipt::of(&batch, ambient::now()).total;
    let receipt = stage.closed().await;
    assert_eq!(usd(&receipt["total"]), total);
    assert_eq!(totals(&receipt["instances"]), total);
    assert_eq!(totals(&receipt["tasks"]), total);
    assert_eq!(receipt["task_count"], 2);

    let [a, b] = ["a", "b"].map(|task| json!({ "task": task }));
    let (a, b) = (stage.receipt(a).await, stage.receipt(b).await);
    assert_eq!((&a["final"], &b["final"]), (&json!(true), &json!(true)));
    assert_eq!(usd(&a["total"]) + usd(&b["total"]), total);
    assert_eq!(a["owner"], "anna");
    let attempts = a["batches"][0]["attempts"].as_array().unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["interrupted", "succeeded"]);
    // Its upload ran beside the next render, to which those five seconds belong.
    assert_eq!(attempts[1]["time"]["rendering_ms"], 185_000);
    assert_eq!(b["time"]["rendering_ms"], 105_000);

    for by in [
        "day",
        "month",
        "batch",
        "pool",
        "model",
        "owner",
        "label:shot",
    ] {
        let report = stage.costs(by).await;
        assert_eq!(usd(&report["total"]), total, "{by}");
        assert_eq!(totals(&report["rows"]), total, "{by}");
        assert_eq!(report["videos"], 2, "{by}");
    }
    let of_anna = json!({ "by": "label:shot", "owner": "anna" });
    let of_anna = ask(&stage.client, names::COSTS, &of_anna).await;
    assert_eq!(of_anna["total"], a["total"]);
    assert_eq!(of_anna["rows"][0]["key"], "anna");

    // The log forgets all of it, and the receipts stay the same.
    stage.hear(CONSUMER_NOTIFIER).await;
    for task in &scene.tasks {
        until("only the end is left", async || {
            stage.events(task).await == [Event::Succeeded]
        })
        .await;
        stage.logs.tasks.delete(task.sequence).await.unwrap();
    }
    for monitor in &monitors {
        stop(monitor).await;
    }
    let _again = stage.monitor().await;
    assert_eq!(stage.receipt(json!({ "batch": BATCH })).await, receipt);
    assert_eq!(stage.receipt(json!({ "task": "a" })).await, a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_ledger_is_made_again_from_the_logs() {
    let stage = Stage::set().await;
    let scene = Scene::play(&stage).await;
    scene.end(&stage).await;
    let monitor = stage.monitor().await;
    let (before, a) = (
        stage.closed().await,
        stage.receipt(json!({ "task": "a" })).await,
    );
    stage.hear(CONSUMER_NOTIFIER).await;
    for task in &scene.tasks {
        until("only the end is left", async || {
            stage.events(task).await == [Event::Succeeded]
        })
        .await;
    }
    stop(&monitor).await;

    let context = async_nats::jetstream::new(stage.logs.client.clone());
    context.delete_stream(LEDGER).await.unwrap();
    let log = context.get_stream(TASKS).await.unwrap();
    log.delete_consumer(CONSUMER_LEDGER).await.unwrap();
    let layout = layout(Duration::from_secs(60), 1);
    stage.nats.provision(&layout).await;
    let _monitor = stage.monitor().await;
    assert_eq!(stage.closed().await, before);
    assert_eq!(stage.receipt(json!({ "task": "a" })).await, a);
}

/// Nothing is deleted from the log then, so it fills: a person must hear of it before it is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_ledger_is_lost_monitor_is_not_ready_and_then_goes_on_by_itself() {
    let stage = Stage::set().await;
    let monitor = stage.monitor().await;
    let context = async_nats::jetstream::new(stage.logs.client.clone());
    context.delete_stream(LEDGER).await.unwrap();
    let scene = Scene::play(&stage).await;
    scene.end(&stage).await;
    stage.hear(CONSUMER_NOTIFIER).await;
    for check in ["consumer ledger", "ledgers of batches"] {
        until(check, async || {
            failing(&monitor, check).is_some_and(|reason| {
                reason.contains("LEDGER") && reason.contains("spotreel provision")
            })
        })
        .await;
    }
    assert!(!monitor.health.readiness().ready);
    for task in &scene.tasks {
        assert!(stage.events(task).await.contains(&Event::Started));
    }

    stage
        .nats
        .provision(&layout(Duration::from_secs(60), 1))
        .await;
    let receipt = stage.closed().await;
    assert_eq!(receipt["task_count"], 2);
    for check in ["consumer ledger", "ledgers of batches"] {
        until("the check recovers", async || {
            failing(&monitor, check).is_none()
        })
        .await;
    }
    for task in &scene.tasks {
        until("only the end is left", async || {
            stage.events(task).await == [Event::Succeeded]
        })
        .await;
    }
    stop(&monitor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_janitor_deletes_nothing_that_the_ledger_has_not_stored() {
    let stage = Stage::set().await;
    let task = stage.logs.submit("t").await;
    let task = stage.logs.started(&task).await;
    let task = stage.logs.succeeded(&task, "renders/t/1.mp4").await;
    let end = stage.logs.tasks.last(&task.task.id).await.unwrap().unwrap();
    let mut hasty = config().janitor;
    hasty.grace = Duration::ZERO;
    let (log, store) = (stage.logs.tasks.clone(), stage.store.clone());
    let janitor = std::sync::Arc::new(Janitor::new(log, store, hasty, SOON));
    for consumer in [CONSUMER_NOTIFIER, CONSUMER_SWEEPER] {
        stage.hear(consumer).await;
    }
    let handled = std::sync::Arc::clone(&janitor).handle(end.clone()).await;
    assert_eq!(handled.unwrap(), Handled::Later(SOON));
    assert!(stage.events(&task).await.contains(&Event::Started));
    stage.hear(CONSUMER_LEDGER).await;
    assert_eq!(janitor.handle(end).await.unwrap(), Handled::Done);
    assert_eq!(stage.events(&task).await, [Event::Succeeded]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn questions_without_an_answer_are_refused_with_what_to_do() {
    let stage = Stage::set().await;
    let _monitor = stage.monitor().await;
    let cases = [
        (
            names::RECEIPT,
            json!({}),
            "invalid",
            "name one task or one batch",
        ),
        (
            names::RECEIPT,
            json!({ "task": "a", "batch": BATCH }),
            "invalid",
            "name one task or one batch",
        ),
        (names::RECEIPT, json!({ "tusk": "a" }), "invalid", "tusk"),
        (
            names::RECEIPT,
            json!({ "task": "a b" }),
            "invalid",
            "64 characters",
        ),
        (
            names::RECEIPT,
            json!({ "task": "a" }),
            "not_found",
            "no task a",
        ),
        (
            names::RECEIPT,
            json!({ "batch": BATCH }),
            "not_found",
            "no batch default-1",
        ),
        (
            names::RECEIPT,
            json!({ "batch": "?" }),
            "not_found",
            "no batch ?",
        ),
        (
            names::RECEIPT,
            json!({ "batch": BATCH, "tasks": 1_001 }),
            "invalid",
            "0 to 1000",
        ),
        (
            names::COSTS,
            json!({ "by": "year" }),
            "invalid",
            "label:NAME",
        ),
        (
            names::COSTS,
            json!({ "from": "yesterday" }),
            "invalid",
            "four digit",
        ),
        (
            names::COSTS,
            json!({ "from": "2026-11-02", "to": "2026-11-01" }),
            "invalid",
            "the day after",
        ),
    ];
    for (verb, question, code, word) in cases {
        let answer = ask(&stage.client, verb, &question).await;
        assert_eq!(answer["error"]["code"], code, "{question}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(word), "{question}: {message}");
    }
    let nothing = stage.costs("day").await;
    assert_eq!(
        (usd(&nothing["total"]), &nothing["rows"]),
        (Usd::ZERO, &json!([]))
    );
}
