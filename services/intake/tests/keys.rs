//! API keys, as an operator orders them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use async_nats::Client;
use serde_json::{Value, json};
use spotreel_api::KeyOrder;
use spotreel_bus::keys::{self, MAX_KEYS};
use spotreel_domain::api_key::{ApiKey, KeyId, Token};
use spotreel_test_kit::{ask, client};
use stage::{Stage, until};

/// As an operator.
async fn order(operator: &Client, verb: &str, payload: &Value) -> Value {
    ask(operator, &format!("spotreel.ops.key.{verb}"), payload).await
}

/// Within the services' account nothing renames a reply subject: whether an order's answer goes to an inbox is all that keeps it
/// out of the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_would_go_to_no_inbox_is_not_carried_out() {
    let stage = Stage::set().await;
    let owner = |name: &str| json!({ "owner": name }).to_string();
    for aim in [
        "spotreel.log.forged.queued.ti2v-5B.0",
        "spotreel.batchlog.default.1.requested",
        "$KV.spotreel-marks.sweeper",
    ] {
        let sent =
            stage
                .root
                .publish_with_reply("spotreel.ops.key.create", aim, owner("mallory").into());
        sent.await.unwrap();
    }
    let unanswerable = owner("mallory").into();
    let sent = stage.root.publish("spotreel.ops.key.create", unanswerable);
    sent.await.unwrap();
    stage.root.flush().await.unwrap();
    // The server has those before it.
    let operator = client(&stage.url, "operator").await;
    let answer = order(&operator, "create", &json!({ "owner": "anna" })).await;
    assert_eq!(answer["owner"], "anna", "{answer}");
    let listed = order_list(&operator).await;
    assert_eq!(listed, ["anna"]);
    assert_eq!(stage.messages().await, 0);
    assert_eq!(stage.stream("BATCHES").await, 0);
}

async fn order_list(operator: &Client) -> Vec<String> {
    let listed = order(operator, "list", &json!({})).await;
    let keys = listed["keys"].as_array().unwrap().iter();
    keys.map(|key| key["owner"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_listed_and_revoked() {
    let stage = Stage::set().await;
    let operator = client(&stage.url, "operator").await;
    let wanted = json!({"owner": "anna", "access": "all", "tasks_per_minute": 120,
        "expires_at": "2100-01-01T00:00:00Z", "note": "laptop"});
    let created = order(&operator, "create", &wanted).await;
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(created[field], *value, "{created}");
    }
    let token = Token::parse(created["token"].as_str().unwrap()).unwrap();
    assert_eq!(created["id"], token.id().as_str());
    let other = order(&operator, "create", &json!({"owner": "ben"})).await;
    assert_eq!(
        (&other["access"], &other["tasks_per_minute"]),
        (&json!("own"), &json!(10_000))
    );
    assert_ne!(other["token"], created["token"]);

    let listed = order(&operator, "list", &json!({})).await;
    let mut shown = created.clone();
    shown.as_object_mut().unwrap().remove("token");
    assert_eq!(listed["keys"][0], shown);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    let secret = created["token"].as_str().unwrap().rsplit('_').next();
    assert!(!listed.to_string().contains(secret.unwrap()));

    let named = json!({"id": created["id"]});
    assert_eq!(order(&operator, "revoke", &named).await, named);
    let again = order(&operator, "revoke", &named).await;
    assert_eq!(again["error"]["code"], "not_found");
    let listed = order(&operator, "list", &json!({})).await;
    assert_eq!(listed["keys"][0]["id"], other["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_order_is_refused_by_rule() {
    let stage = Stage::set().await;
    let operator = client(&stage.url, "operator").await;
    let cases = [
        (json!({}), "owner"),
        (json!({"owner": "No/One"}), "owner"),
        (
            json!({"owner": "anna", "tasks_per_minute": 0}),
            "tasks_per_minute",
        ),
        (
            json!({"owner": "anna", "expires_at": "2020-01-01T00:00:00Z"}),
            "expires_at",
        ),
        (json!({"owner": "anna", "access": "some"}), "access"),
        (json!({"owner": "anna", "colour": "red"}), "colour"),
    ];
    for (wanted, field) in cases {
        let refused = order(&operator, "create", &wanted).await;
        assert_eq!(refused["error"]["code"], "invalid", "{wanted}");
        assert_eq!(
            refused["error"]["violations"][0]["field"], field,
            "{wanted}"
        );
    }
    for id in ["", "a.b", "*", "abcdefghijk"] {
        let refused = order(&operator, "revoke", &json!({ "id": id })).await;
        assert_eq!(refused["error"]["violations"][0]["field"], "id", "{id:?}");
    }
    let listed = order(&operator, "list", &json!({})).await;
    assert_eq!(listed, json!({"keys": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_keys() {
    let stage = Stage::set().await;
    let operator = client(&stage.url, "operator").await;
    for number in 0..MAX_KEYS as u64 {
        keys::put(&stage.root, &key(number)).await.unwrap();
    }
    let refused = order(&operator, "create", &json!({"owner": "anna"})).await;
    assert_eq!(refused["error"]["code"], "not_allowed");
    let named = json!({"id": key(7).id});
    assert_eq!(order(&operator, "revoke", &named).await, named);
    let created = order(&operator, "create", &json!({"owner": "anna"})).await;
    assert!(created["token"].is_string(), "{created}");
}

fn key(number: u64) -> ApiKey {
    let order: KeyOrder = serde_json::from_str(r#"{"owner":"anna"}"#).unwrap();
    let token = Token::new(KeyId::from_random(number), [7; 32]);
    order.key(&token, jiff::Timestamp::UNIX_EPOCH).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_of_the_keys() {
    let stage = Stage::set().await;
    until("intake is ready", async || {
        let checks = stage.ctx.health.readiness().checks;
        checks.get("keys").is_some_and(|check| check.ok)
    })
    .await;
}
