//! What one owner of keys, or one flood, may hold of this program; and that the count of it survives a restart.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use std::time::Duration;

use serde_json::{Value, json};
use stage::{Stage, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use web::{Upload, Web, key};

const MIB: usize = 1 << 20;

fn fox() -> Value {
    json!({ "model": "ti2v-5B", "prompt": "a red fox in the snow" })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_uploads_no_more_lists_than_its_part() {
    let stage = Stage::set_with(&[
        ("api.auth", "keys"),
        ("api.uploads", "2"),
        ("api.owner_share_percent", "50"),
        ("api.idle_timeout", "1h"),
    ])
    .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let (_, carl) = key(&stage, &web, json!({ "owner": "carl" })).await;
    let first = Upload::begin(&anna).await;
    let status = async |web: &Web| Upload::ask(web).await.1.status();
    assert_eq!(status(&anna).await, 429);
    // Others have room for as long as there is any.
    let mut second = Upload::begin(&ben).await;
    assert_eq!(status(&carl).await, 503);
    second.say(&fox());
    assert!(second.line().await.unwrap()["id"].is_string());
    // A list takes none of the places of other requests.
    assert_eq!(anna.post("/v1/tasks", &fox()).await.status, 201);
    drop(first);
    until("the place of a client that is gone is free", async || {
        status(&anna).await == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_fills_no_more_memory_with_bodies_than_its_part() {
    let stage = Stage::set_with(&[
        ("api.auth", "keys"),
        ("api.body_memory_mib", "56"),
        ("api.owner_share_percent", "50"),
        ("api.body_timeout", "1h"),
    ])
    .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let large = json!({ "model": "ti2v-5B", "prompt": "x".repeat(3 * MIB) });
    anna.post("/v1/tasks", &large)
        .await
        .is_problem(400, "invalid");
    // Two bodies, the rest of which does not come: together they are more than anna's part, so one of them is refused.
    let head = format!(
        "POST /v1/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        anna.key(),
        27 * MIB
    );
    let most = [head.into_bytes(), vec![b' '; 26 * MIB]].concat();
    let begun = [(), ()].map(|()| async {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        // Who is refused need not have read it all.
        let _ = stream.write_all(&most).await;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        status
    });
    let [one, other] = begun.map(Box::pin);
    let either = futures::future::select(one, other);
    let either = tokio::time::timeout(Duration::from_secs(30), either).await;
    let (status, still_there) = either.expect("one is refused").factor_first();
    assert_eq!(&status, b"HTTP/1.1 429");
    // Small bodies ask for nothing, and others have their own part.
    assert_eq!(anna.post("/v1/tasks", &fox()).await.status, 201);
    ben.post("/v1/tasks", &large)
        .await
        .is_problem(400, "invalid");
    drop(still_there);
    until("what a client that is gone held is free", async || {
        anna.post("/v1/tasks", &large).await.status == 400
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_has_queued_is_counted_anew_after_a_restart() {
    const MOST: usize = 5;
    let bounds = [
        ("api.auth", "keys"),
        ("limits.max_queued_per_owner", "5"),
        ("limits.poll", "100ms"),
    ];
    let mut stage = Stage::set_with(&bounds).await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    for _ in 0..MOST {
        assert_eq!(anna.post("/v1/tasks", &fox()).await.status, 201);
    }
    let token = anna.key().to_owned();
    stage.restart_intake(&bounds).await;
    let anna = Web::of(&stage).with_key(&token);
    until("the key is known", async || {
        anna.get("/v1/tasks").await.status == 200
    })
    .await;
    until("it is counted", async || {
        anna.post("/v1/tasks", &fox()).await.status == 429
    })
    .await;
    // Who counts from nothing lets as many in again.
    let queued = usize::try_from(stage.messages().await).unwrap();
    assert!(queued < 2 * MOST, "{queued} are queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_over_nats_is_refused_before_it_is_read() {
    let stage = Stage::set_with(&[("request_mib_per_second", "1")]).await;
    // Four of them are more than the largest message, which always passes.
    let large = format!("[{}", " ".repeat(4 * MIB));
    let mut codes = Vec::new();
    for _ in 0..4 {
        let answer = stage.ask("submit", large.clone()).await;
        codes.push(answer["error"]["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes[0], "invalid");
    assert!(codes.contains(&"rate_limited".to_owned()), "{codes:?}");
    until("a small request is answered again", async || {
        stage.submit(&fox()).await["id"].is_string()
    })
    .await;
}
