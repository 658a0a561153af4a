//! A used-up budget, with the parts of trigger and fleet played by the test.

use futures::StreamExt;
use serde_json::{Value, json};
use spotreel_bootstrap::ambient;
use spotreel_bus::controls;
use spotreel_domain::batch::Batch;
use spotreel_test_kit::{pool, spot_instance, stop, until};

use super::scene::{Scene, once};

/// Trigger and fleet, as far as a budget asks them; gives the orders to stop.
async fn others(scene: &Scene) -> tokio::sync::mpsc::UnboundedReceiver<Value> {
    let (trigger, fleet) = (
        scene.nats.client("trigger").await,
        scene.nats.client("fleet").await,
    );
    let mut asked = trigger
        .queue_subscribe("spotreel.why", "q".into())
        .await
        .unwrap();
    let mut ordered = fleet
        .queue_subscribe("spotreel.ops.stop", "q".into())
        .await
        .unwrap();
    trigger.flush().await.unwrap();
    fleet.flush().await.unwrap();
    let why = serde_json::to_value(spotreel_api::Why {
        pools: Vec::new(),
        gone: Vec::new(),
        error: None,
    });
    let why = why.unwrap().to_string();
    tokio::spawn(async move {
        while let Some(question) = asked.next().await {
            trigger
                .publish(question.reply.unwrap(), why.clone().into())
                .await
                .unwrap();
        }
    });
    let (told, orders) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(order) = ordered.next().await {
            let _ = told.send(serde_json::from_slice(&order.payload).unwrap());
            let answer = json!({
                "id": "default-1", "status": "running", "rule": "length", "why": "", "requested_at": "2026-11-30T10:00:00Z"
            });
            fleet
                .publish(order.reply.unwrap(), answer.to_string().into())
                .await
                .unwrap();
        }
    });
    orders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_used_up_budget_holds_the_pools_and_stops_the_batches_once() {
    let scene = Scene::set().await;
    let mut orders = others(&scene).await;
    // A person holds the other pool.
    let person = controls::HoldRecord {
        by: "ada".to_owned(),
        reason: "repairs".to_owned(),
        since: ambient::now(),
        config: None,
    };
    controls::hold(&scene.logs.client, &pool("other"), &person)
        .await
        .unwrap();
    let launched = ambient::now() - jiff::SignedDuration::from_mins(1);
    let running = |batch: &mut Batch| {
        batch.instances = vec![spot_instance("i-1", "g6.xlarge", launched)];
    };
    scene.logs.update(&pool("default"), running).await;
    scene.logs.request_as(&pool("other"), 1, running).await;
    // Two instances of $0.30 an hour cost a cent in a minute.
    let budget = [
        ("alarms.budget.per_month", "0.001"),
        ("alarms.budget.percents", "[100]"),
        ("alarms.budget.stop", "now"),
    ];
    let first = scene.monitor(&budget).await;
    let stopped = [orders.recv().await.unwrap(), orders.recv().await.unwrap()];
    for (order, batch) in stopped.iter().zip(["default-1", "other-1"]) {
        assert_eq!(
            (&order["batch"], &order["mode"], &order["by"]),
            (&json!(batch), &json!("now"), &json!("alarm"))
        );
    }
    let holds = async || controls::all(&scene.logs.client).await.unwrap().holds;
    until("the pool is held", async || {
        holds().await.contains_key(&pool("default"))
    })
    .await;
    until("it is done", async || {
        scene.board().await.unwrap().orders.is_empty()
    })
    .await;
    assert_eq!(holds().await[&pool("other")].order, person);
    let reason = holds().await[&pool("default")].order.reason.clone();
    assert!(reason.contains("% of the budget of $0.001"), "{reason}");

    // A person resumes it. Neither the same monitor nor the next one holds it again.
    controls::resume(&scene.logs.client, &pool("default"))
        .await
        .unwrap();
    stop(&first).await;
    let second = scene.monitor(&budget).await;
    scene.interrupt().await;
    until("it has looked many times", async || {
        scene.states().await.get("interruptions").map(Vec::len) == Some(2)
    })
    .await;
    assert!(!holds().await.contains_key(&pool("default")));
    assert!(orders.try_recv().is_err());
    stop(&second).await;

    // The budget is raised: what is still held by the alarm is released.
    let by_alarm = controls::HoldRecord {
        by: "alarm".to_owned(),
        ..person.clone()
    };
    controls::hold(&scene.logs.client, &pool("default"), &by_alarm)
        .await
        .unwrap();
    let raised = [
        ("alarms.budget.per_month", "1000"),
        ("alarms.budget.stop", "now"),
    ];
    let third = scene.monitor(&raised).await;
    until("the hold is gone", async || {
        !holds().await.contains_key(&pool("default"))
    })
    .await;
    assert_eq!(holds().await[&pool("other")].order, person);
    stop(&third).await;
    let states = scene.states().await;
    assert_eq!(states["budget per_month 100 %"], once());
}
