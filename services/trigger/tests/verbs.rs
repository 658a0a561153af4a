//! What people ask of trigger over the border between the accounts, and as whom they may.

mod stage;

use std::time::Duration;

use serde_json::json;
use spotreel_api::{Ordered, PriceOf, Quote, Why};
use spotreel_bus::kv;
use spotreel_bus::names::LOG_ALL;
use spotreel_domain::Usd;
use spotreel_domain::trigger::Prices;
use stage::{Stage, only, until};

#[tokio::test(flavor = "multi_thread")]
async fn clients_ask_and_operators_order() {
    let stage = Stage::set().await;
    let _trigger = stage
        .start(&stage.one_pool("length = { at_least = 1 }"))
        .await;

    let all: Why = serde_json::from_value(stage.ask("spotreel.why", &json!({})).await).unwrap();
    assert_eq!(all.pools.len(), 1);
    assert_eq!(all.pools[0].decision.findings.len(), 7);
    let one = stage
        .ask("spotreel.why", &json!({ "pool": "default" }))
        .await;
    assert_eq!(one["pools"][0]["pool"], "default");
    let none = stage.ask("spotreel.why", &json!({ "pool": "other" })).await;
    assert_eq!(none["error"]["code"], "not_found");
    assert_eq!(
        none["error"]["message"],
        "there is no pool \"other\": there are default"
    );
    let misspelt = stage
        .ask("spotreel.why", &json!({ "pol": "default" }))
        .await;
    assert_eq!(misspelt["error"]["code"], "invalid");
    assert!(
        misspelt["error"]["message"]
            .as_str()
            .unwrap()
            .contains("pol")
    );

    assert_eq!(stage.ask("spotreel.batches", &json!({})).await, json!([]));
    stage.submit(1).await;
    stage.until_batch(1).await;
    stage.end(|_| {}).await;
    stage.until_batch(2).await;
    let batches = stage.ask("spotreel.batches", &json!({})).await;
    assert_eq!(batches[0]["id"], "default-2");
    assert_eq!(batches[1]["status"], "settled");
    let newest = stage
        .ask(
            "spotreel.batches",
            &json!({ "limit": 1, "pool": "default" }),
        )
        .await;
    assert_eq!(newest.as_array().unwrap().len(), 1);
    let first = stage
        .ask("spotreel.batches", &json!({ "id": "default-1" }))
        .await;
    assert_eq!(first[0]["rule"], "length");
    for (query, code) in [
        (json!({ "id": "default-9" }), "not_found"),
        (json!({ "id": "nonsense" }), "not_found"),
        (json!({ "limit": 0 }), "invalid"),
        (json!({ "limit": 101 }), "invalid"),
    ] {
        let refused = stage.ask("spotreel.batches", &query).await;
        assert_eq!(refused["error"]["code"], code, "{query}");
    }

    for verb in ["run", "hold", "resume"] {
        assert!(stage.client_may_not(verb).await, "{verb}");
    }
    let held = stage
        .order("hold", &json!({ "pool": "default", "reason": "lunch" }))
        .await;
    let held: Ordered = serde_json::from_value(held).unwrap();
    assert_eq!(held.pools, [stage::pool()]);
    let two_lines = stage.order("hold", &json!({ "reason": "a\nb" })).await;
    assert_eq!(two_lines["error"]["code"], "invalid");
    let ran = stage
        .order("run", &json!({ "by": "ada", "force": true }))
        .await;
    let ran: Ordered = serde_json::from_value(ran).unwrap();
    assert!(ran.id.is_some());
    let resumed = stage.order("resume", &json!({ "pool": "default" })).await;
    assert_eq!(resumed["pools"], json!(["default"]));
}

/// Within the services' account nothing renames a reply subject: whether an order's answer goes to an inbox is all that keeps it
/// out of the logs.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_would_go_to_no_inbox_is_not_carried_out() {
    let stage = Stage::set().await;
    let _trigger = stage
        .start(&stage.one_pool("length = { at_least = 100 }"))
        .await;
    let root = &stage.root.client;
    let order = json!({ "force": true }).to_string();
    for aim in [
        "spotreel.batchlog.default.1.requested",
        "spotreel.log.forged.queued.ti2v-5B.0",
        "$KV.spotreel-controls.hold.default",
    ] {
        let subject = "spotreel.ops.run";
        let sent = root.publish_with_reply(subject, aim, order.clone().into());
        sent.await.unwrap();
    }
    root.publish("spotreel.ops.run", order.into())
        .await
        .unwrap();
    root.flush().await.unwrap();
    let answered = stage.order("run", &json!({ "pool": "other" })).await;
    assert_eq!(answered["error"]["code"], "not_found");
    stage.stays_at(0).await;
    assert!(stage.orders_to_run().await.is_empty());
    let tasks = stage.root.tasks.scan(LOG_ALL, 1, 1).await.unwrap();
    assert!(tasks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_says_what_tasks_will_take_and_cost() {
    let stage = Stage::set().await;
    let _trigger = stage
        .start(&stage.one_pool("length = { at_least = 100 }"))
        .await;
    let query = json!({ "task": { "model": "ti2v-5B" }, "tasks": 100 });
    stage
        .until_why("prices are known", |why| {
            matches!(why.view.prices, Prices::Known(_))
        })
        .await;
    let ask = async || stage.ask("spotreel.quote", &query).await;
    let guessed: Quote = serde_json::from_value(ask().await).unwrap();
    let [offer] = &guessed.offers[..] else {
        panic!("one type, one offer: {guessed:?}");
    };
    assert_eq!(
        (offer.kind.as_str(), offer.price),
        ("g6.xlarge", PriceOf::Market)
    );
    assert!(offer.per_hour < Usd::from_cents(36) && !offer.measured);
    assert_eq!(
        offer.all,
        (offer.per_hour).per_hour_for(Duration::from_secs_f64(100.0 * offer.seconds))
    );

    let twice = json!([{ "model": "ti2v-5B", "gpu": "l40s", "factor": 2.0 }]);
    kv::put_mark(&stage.root.client, "pace.default", &twice)
        .await
        .unwrap();
    let measured: Quote = serde_json::from_value(ask().await).unwrap();
    assert!(measured.offers[0].measured);
    assert!((measured.offers[0].seconds / offer.seconds - 2.0).abs() < 1e-9);

    // What is above its cap fleet does not buy.
    let dear = 400_000;
    stage
        .cloud
        .set_price("g6.xlarge", stage::ZONE, dear)
        .unwrap();
    until("no offer is left", async || {
        let quote: Quote = serde_json::from_value(ask().await).unwrap();
        quote.offers.is_empty() && quote.none.unwrap().contains("above its cap")
    })
    .await;

    for (query, field) in [
        (json!({}), "task"),
        (
            json!({ "task": { "model": "ti2v-5B" }, "tasks": 0 }),
            "tasks",
        ),
        (
            json!({ "task": { "model": "ti2v-5B", "frames": 6 } }),
            "frames",
        ),
        (json!({ "task": { "model": "sora" } }), "model"),
    ] {
        let refused = stage.ask("spotreel.quote", &query).await;
        assert_eq!(refused["error"]["code"], "invalid", "{query}");
        assert!(refused["error"].to_string().contains(field), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_pools_an_order_to_run_names_one_and_a_hold_is_for_all() {
    let stage = Stage::set().await;
    let pool = |name: &str, model: &str| {
        format!(
            "[pool.{name}]\nmodels = [\"{model}\"]\n{}[pool.{name}.rules]\n{}",
            stage::bought(0.36, stage::ZONE),
            only("length = { at_least = 100 }")
        )
    };
    let pools = pool("small", "ti2v-5B") + &pool("large", "t2v-A14B");
    let _trigger = stage.start(&pools).await;
    let refused = stage.order("run", &json!({})).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("large, small"), "{message}");
    let held = stage.order("hold", &json!({ "reason": "lunch" })).await;
    assert_eq!(held["pools"], json!(["large", "small"]));
    stage.order("resume", &json!({ "pool": "small" })).await;
    stage.submit_for("ti2v-5B", 1).await;
    stage.submit_for("t2v-A14B", 1).await;
    stage.order("run", &json!({ "pool": "large" })).await;
    stage.order("run", &json!({ "pool": "small" })).await;
    assert_eq!(stage.until_batch(1).await.id.to_string(), "small-1");
    stage.stays_at(1).await;
}
