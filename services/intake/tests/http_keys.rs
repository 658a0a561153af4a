//! Keys of the HTTP API: who may come in, whose tasks are seen, and how many may come.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use reqwest::Method;
use serde_json::{Value, json};
use stage::{Stage, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use web::{Sse, Web, key};

fn fox() -> Value {
    json!({ "model": "ti2v-5B", "prompt": "a red fox in the snow" })
}

async fn guarded() -> (Stage, Web) {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    (stage, web)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_a_key() {
    let (stage, web) = guarded().await;
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    for (path, method) in [
        ("/v1/tasks", Method::GET),
        ("/v1/tasks", Method::POST),
        ("/v1/tasks?label=a", Method::DELETE),
        ("/v1/tasks/a", Method::GET),
        ("/v1/tasks/a", Method::DELETE),
        ("/v1/tasks/a/retry", Method::POST),
        ("/v1/tasks/a/events", Method::GET),
        ("/v1/tasks/a/video", Method::GET),
        ("/v1/events", Method::GET),
        ("/v1/images", Method::POST),
        ("/v1/quotes", Method::POST),
        ("/v1/alarms", Method::GET),
        ("/v1/receipts/tasks/a", Method::GET),
        ("/v1/receipts/batches/default-1", Method::GET),
        ("/v1/costs", Method::GET),
    ] {
        let refused = web.send(method.clone(), path).await;
        refused.is_problem(401, "unauthorized");
        assert!(
            refused.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
    }
    assert_eq!(
        web.get("/v1/openapi.json").await.status,
        200,
        "the description is for everybody"
    );

    let token = anna.key().to_owned();
    let other_secret = format!("{}AAAA", &token[..token.len() - 4]);
    for bad in [
        "",
        "spotreel",
        "spotreel_x_y",
        "Bearer",
        &token[1..],
        &other_secret,
        &format!("{token}a"),
        &token.to_uppercase(),
    ] {
        web.with_key(bad)
            .get("/v1/tasks")
            .await
            .is_problem(401, "unauthorized");
    }
    for headers in [
        vec![format!("Basic {token}")],
        vec![token.clone()],
        vec![format!("Bearer {token}"), format!("Bearer {token}")],
    ] {
        let request = headers
            .iter()
            .fold(web.request(Method::GET, "/v1/tasks"), |request, value| {
                request.header("Authorization", value)
            });
        web.answer(request).await.is_problem(401, "unauthorized");
    }
    let lower = web
        .request(Method::GET, "/v1/tasks")
        .header("authorization", format!("bearer {token}"));
    assert_eq!(web.answer(lower).await.status, 200);
    let in_query = web.get(&format!("/v1/tasks?key={token}")).await;
    in_query.is_problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_what_is_theirs() {
    let (stage, web) = guarded().await;
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let (_, all) = key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    let named = json!({ "model": "ti2v-5B", "prompt": "a red fox", "idempotency_key": "order-1" });
    let hers = anna.post("/v1/tasks", &named).await.json["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let his = ben.post("/v1/tasks", &named).await.json["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_ne!(hers, his, "two owners may use the same word");
    let nobodys = stage.submit(&fox()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();

    assert_eq!(
        anna.get(&format!("/v1/tasks/{hers}")).await.json["owner"],
        "anna"
    );
    for id in [&his, &nobodys] {
        let path = format!("/v1/tasks/{id}");
        anna.get(&path).await.is_problem(404, "not_found");
        anna.send(Method::DELETE, &path)
            .await
            .is_problem(404, "not_found");
        anna.send(Method::POST, &format!("{path}/retry"))
            .await
            .is_problem(404, "not_found");
        anna.get(&format!("{path}/events"))
            .await
            .is_problem(404, "not_found");
        anna.get(&format!("{path}/video"))
            .await
            .is_problem(404, "not_found");
        assert_eq!(all.get(&path).await.status, 200);
    }
    let count = async |web: &Web| {
        web.get("/v1/tasks").await.json["tasks"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        (count(&anna).await, count(&ben).await, count(&all).await),
        (1, 1, 3)
    );

    // To name somebody else's task is a conflict, whatever stands in it.
    let mut taken = named.clone();
    taken.as_object_mut().unwrap().remove("idempotency_key");
    taken["id"] = json!(his);
    anna.post("/v1/tasks", &taken)
        .await
        .is_problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hears_what_is_theirs() {
    let (stage, web) = guarded().await;
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let mut heard = Sse::open(&anna, "/v1/events", None).await;
    for web in [&ben, &anna] {
        let id = web.post("/v1/tasks", &fox()).await.json["id"]
            .as_str()
            .unwrap()
            .to_owned();
        web::tell(&stage, &id).await;
    }
    assert_eq!(heard.next().await.unwrap().data["data"]["owner"], "anna");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_and_one_that_has_expired_open_nothing() {
    let (stage, web) = guarded().await;
    let (id, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    stage.order("ops.key.revoke", &json!({ "id": id })).await;
    until("the key is refused", async || {
        anna.get("/v1/tasks").await.status == 401
    })
    .await;

    let soon = spotreel_bootstrap::ambient::now() + std::time::Duration::from_secs(2);
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben", "expires_at": soon })).await;
    until("it has expired", async || {
        ben.get("/v1/tasks").await.status == 401
    })
    .await;
    let detail = ben.get("/v1/tasks").await.json["detail"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(detail.contains("expired"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_a_rate() {
    let (stage, web) = guarded().await;
    let (_, anna) = key(
        &stage,
        &web,
        json!({ "owner": "anna", "tasks_per_minute": 3 }),
    )
    .await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    for _ in 0..3 {
        assert_eq!(anna.post("/v1/tasks", &fox()).await.status, 201);
    }
    let fourth = anna.post("/v1/tasks", &fox()).await;
    fourth.is_problem(429, "rate_limited");
    assert!(fourth.headers.contains_key("retry-after"));
    assert_eq!(ben.post("/v1/tasks", &fox()).await.status, 201);
    let list: Vec<_> = (0..4).map(|_| fox()).collect();
    anna.post("/v1/tasks", &json!(list))
        .await
        .is_problem(413, "too_large");
    // A retry renders as much as a new task; to cancel costs nothing.
    let seen = anna.get("/v1/tasks?limit=1").await;
    let path = format!(
        "/v1/tasks/{}",
        seen.json["tasks"][0]["id"].as_str().unwrap()
    );
    assert_eq!(anna.send(Method::DELETE, &path).await.status, 200);
    anna.send(Method::POST, &format!("{path}/retry"))
        .await
        .is_problem(429, "rate_limited");
    // A quote counts too: trigger reckons it.
    anna.post("/v1/quotes", &json!({ "task": { "model": "ti2v-5B" } }))
        .await
        .is_problem(429, "rate_limited");
    // Looking costs nothing.
    assert_eq!(anna.get("/v1/tasks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_keep_nobody_else_out() {
    let stage = Stage::set_with(&[
        ("api.auth", "keys"),
        ("api.connections", "64"),
        ("api.concurrent_requests", "8"),
        ("api.owner_share_percent", "25"),
    ])
    .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let (refused, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let head = format!(
        "POST /v1/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
        anna.key()
    );
    for _ in 0..40 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let refused = refused.clone();
        tokio::spawn(async move {
            let mut first = [0; 12];
            if stream.read_exact(&mut first).await.is_ok() {
                refused.send(first[9..].to_vec()).unwrap();
            }
        });
    }
    // Sixteen of 64 may be on their way; the others hear it at once.
    for _ in 0..24 {
        assert_eq!(answers.recv().await.unwrap(), b"429");
    }
    for _ in 0..20 {
        assert_eq!(ben.post("/v1/tasks", &fox()).await.status, 201);
        assert_eq!(ben.get("/v1/tasks").await.status, 200);
    }
    // A request without a body still has a place, and one with a body is told whose bound it is.
    assert_eq!(anna.get("/v1/tasks").await.status, 200);
    let more = anna.post("/v1/tasks", &fox()).await;
    more.is_problem(429, "rate_limited");
    assert!(more.headers.contains_key("retry-after"));
    let detail = more.json["detail"].as_str().unwrap();
    assert!(detail.contains("anna") && detail.contains("16"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_follows_no_more_than_a_part_of_the_followers() {
    let stage = Stage::set_with(&[
        ("api.auth", "keys"),
        ("api.followers", "4"),
        ("api.owner_share_percent", "50"),
    ])
    .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, again) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let _first = Sse::open(&anna, "/v1/events", None).await;
    let _second = Sse::open(&again, "/v1/events", None).await;
    for key in [&anna, &again] {
        key.get("/v1/events").await.is_problem(429, "rate_limited");
    }
    let _third = Sse::open(&ben, "/v1/events", None).await;
    let _fourth = Sse::open(&ben, "/v1/events", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_queues_no_more_than_its_part() {
    let stage = Stage::set_with(&[
        ("api.auth", "keys"),
        ("limits.max_queued_per_owner", "3"),
        ("limits.poll", "100ms"),
    ])
    .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, again) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let named = |id: &str| json!({ "model": "ti2v-5B", "prompt": "a red fox", "id": id });
    for id in ["one", "two", "three"] {
        assert_eq!(anna.post("/v1/tasks", &named(id)).await.status, 201);
    }
    for key in [&anna, &again] {
        let fourth = key.post("/v1/tasks", &named("four")).await;
        fourth.is_problem(429, "rate_limited");
        let detail = fourth.json["detail"].as_str().unwrap();
        assert!(detail.contains("anna") && detail.contains('3'), "{detail}");
        assert!(fourth.headers.contains_key("retry-after"));
    }
    // Others have room, and what was accepted is answered again.
    assert_eq!(ben.post("/v1/tasks", &named("bens")).await.status, 201);
    until("the same submission has its answer again", async || {
        anna.post("/v1/tasks", &named("three")).await.status == 201
    })
    .await;
    anna.send(Method::DELETE, "/v1/tasks/one").await;
    until("a task that ended makes room", async || {
        anna.post("/v1/tasks", &named("four")).await.status == 201
    })
    .await;
    anna.post("/v1/tasks", &named("five"))
        .await
        .is_problem(429, "rate_limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_fills_no_more_than_its_part_of_the_log() {
    let stage = Stage::without_intake().await;
    let context = async_nats::jetstream::new(stage.root.clone());
    let tasks = context.get_stream("TASKS").await.unwrap();
    let mut config = tasks.cached_info().config.clone();
    config.max_bytes = 1 << 20;
    context.update_stream(config).await.unwrap();
    stage
        .start_intake(&[
            ("api.auth", "keys"),
            ("limits.owner_log_percent", "1"),
            ("limits.poll", "100ms"),
        ])
        .await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    until("cancelled tasks have filled anna's part", async || {
        let answer = anna.post("/v1/tasks", &fox()).await;
        let Some(id) = answer.json["id"].as_str() else {
            answer.is_problem(429, "rate_limited");
            let detail = answer.json["detail"].as_str().unwrap();
            return detail.contains("anna") && detail.contains("log's room");
        };
        anna.send(Method::DELETE, &format!("/v1/tasks/{id}")).await;
        false
    })
    .await;
    assert_eq!(ben.post("/v1/tasks", &fox()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_the_cancellation_of_many_stay_within_the_owner() {
    let (stage, web) = guarded().await;
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let (_, all) = key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    let labelled = json!({ "model": "ti2v-5B", "prompt": "a fox", "labels": { "batch": "a b" } });
    for (web, count) in [(&anna, 3), (&ben, 4)] {
        let tasks = vec![labelled.clone(); count];
        assert_eq!(
            web.post("/v1/tasks", &json!(tasks)).await.json["accepted"],
            count
        );
    }
    let count =
        async |web: &Web, path: &str| web.get(path).await.json["tasks"].as_array().unwrap().len();
    assert_eq!(count(&all, "/v1/tasks?label=batch=a%20b").await, 7);
    assert_eq!(count(&all, "/v1/tasks?owner=ben").await, 4);
    assert_eq!(count(&anna, "/v1/tasks?owner=anna").await, 3);
    for method in [Method::GET, Method::DELETE] {
        let foreign = anna.send(method, "/v1/tasks?owner=ben").await;
        foreign.is_problem(400, "invalid");
        assert_eq!(foreign.json["violations"][0]["rule"], "access");
    }
    let first = all
        .get("/v1/tasks?owner=ben&label=batch%3Da+b&limit=3")
        .await;
    let link = first.headers["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    assert_eq!(
        count(&all, next).await,
        1,
        "the next page has the same filters: {next}"
    );

    anna.send(Method::DELETE, "/v1/tasks")
        .await
        .is_problem(400, "invalid");
    let own = anna
        .send(Method::DELETE, "/v1/tasks?label=batch=a%20b")
        .await;
    assert_eq!(
        (own.status.as_u16(), &own.json["cancelled"]),
        (200, &json!(3))
    );
    assert_eq!(count(&ben, "/v1/tasks?state=queued").await, 4);
    let theirs = all
        .send(Method::DELETE, "/v1/tasks?owner=ben&state=queued")
        .await;
    assert_eq!(theirs.json["cancelled"], 4);
}
