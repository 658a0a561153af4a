//! A quote through both programs: asked of intake over HTTP, reckoned by trigger.

use std::time::Duration;

use serde_json::{Value, json};
use spotreel_api::{Offer, PriceOf, Quote};
use spotreel_tests::harness::{Program, System, SystemOptions, eventually};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_over_http_is_the_one_over_nats() {
    let options = SystemOptions {
        workers: 0,
        ..SystemOptions::default()
    };
    let system = System::start(options).await;
    let url = format!("{}/v1/quotes", system.intake.spec.api_url());
    let question = json!({ "task": { "model": "ti2v-5B", "frames": 25 }, "tasks": 100 });
    let post = async || {
        let sent = reqwest::Client::new().post(&url).json(&question).send();
        sent.await.expect("intake answers")
    };
    assert_eq!(post().await.status(), 503, "trigger does not run");

    let pools = system.dir().join("pools.toml");
    let pool = r#"
        [pool.default]
        models = ["ti2v-5B"]
        cloud = "aws"
        subnets = [{ id = "subnet-a", zone = "us-east-2a" }]
        kinds = [{ name = "g6.xlarge", cap = 0.36 }]
    "#;
    std::fs::write(&pools, pool).expect("the pools can be written");
    let trigger = system
        .spec("trigger")
        .set("pools", &pools.display().to_string())
        .set("ec2.endpoint_url", &system.cloud.access.endpoint);
    let _trigger = Program::start(trigger).await;
    let quoted = eventually("a quote has Spot's price", SOON, || async {
        let answer = post().await;
        assert_eq!(answer.status(), 200, "{}", system.logs());
        let quote: Quote = answer.json().await.expect("it is a quote");
        let asked = |offer: &Offer| offer.price == PriceOf::Market;
        quote.offers.iter().any(asked).then_some(quote)
    })
    .await;
    assert_eq!((quoted.frames, quoted.tasks), (25, 100));
    let api = system.api().await;
    let over_nats: Value = api.ask("quote", &question).await.expect("it is answered");
    assert_eq!(json!(quoted), over_nats);
}
