//! The HTTP API, as a web developer meets it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use spotreel_domain::task::Event;
use stage::Stage;
use web::{Sse, Web};

fn fox() -> Value {
    json!({ "model": "ti2v-5B", "prompt": "a red fox in the snow" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_round() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let answer = web.post("/v1/tasks", &fox()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let id = answer.json["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("/v1/tasks/{id}"));

    let seen = web.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(
        (seen.status, &seen.json["state"]),
        (StatusCode::OK, &json!("queued"))
    );
    assert_eq!(
        seen.json,
        stage.ask("get", json!({ "id": id }).to_string()).await
    );

    let early = web.get(&format!("/v1/tasks/{id}/video")).await;
    early.is_problem(409, "not_allowed");
    for _ in 0..2 {
        let cancelled = web.send(Method::DELETE, &format!("/v1/tasks/{id}")).await;
        assert_eq!(cancelled.json["state"], "cancelled");
    }
    let again = web
        .send(Method::POST, &format!("/v1/tasks/{id}/retry"))
        .await;
    assert_eq!(
        (&again.json["state"], &again.json["round"]),
        (&json!("queued"), &json!(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_task() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let one = |key: &str, task: &Value| {
        let request = web
            .request(Method::POST, "/v1/tasks")
            .header("Idempotency-Key", key);
        web.answer(request.json(task))
    };
    let first = one("order-1", &fox()).await;
    assert_eq!(one("order-1", &fox()).await.json, first.json);
    one(
        "order-1",
        &json!({ "model": "ti2v-5B", "prompt": "a hare" }),
    )
    .await
    .is_problem(409, "conflict");
    assert_ne!(one("order-2", &fox()).await.json["id"], first.json["id"]);
    let both = json!({ "model": "ti2v-5B", "prompt": "a hare", "id": "mine" });
    let refused = one("order-3", &both).await;
    refused.is_problem(400, "invalid");
    assert_eq!(refused.json["violations"][0]["field"], "Idempotency-Key");

    let list = json!([fox(), fox()]);
    let first = one("list", &list).await;
    assert_eq!(first.json["accepted"], 2);
    assert_ne!(
        first.json["results"][0]["id"],
        first.json["results"][1]["id"]
    );
    assert_eq!(one("list", &list).await.json, first.json);
    assert_eq!(stage.messages().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_are_streamed_in() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let lines: String = (0..10_000)
        .map(|number| match number {
            17 => "{\"model\":\"ti2v-5B\"\n".to_owned(),
            number => format!("{{\"model\":\"ti2v-5B\",\"prompt\":\"fox {number}\"}}\r\n"),
        })
        .collect();
    let send = || async {
        // In pieces that end anywhere, so that lines are put together from them.
        let pieces: Vec<_> = lines.as_bytes().chunks(7_001).map(<[u8]>::to_vec).collect();
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        let request = web
            .request(Method::POST, "/v1/tasks")
            .header("Content-Type", "application/jsonl")
            .header("Idempotency-Key", "night")
            .body(reqwest::Body::wrap_stream(pieces));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/jsonl");
        let text = answer.text().await.unwrap();
        let results = text.lines().map(|line| serde_json::from_str(line).unwrap());
        results.collect::<Vec<Value>>()
    };
    let results = send().await;
    assert_eq!(results.len(), 10_000);
    assert_eq!(results[17]["error"]["violations"][0]["rule"], "json");
    assert!(
        results
            .iter()
            .enumerate()
            .all(|(at, result)| result["id"].is_string() != (at == 17))
    );
    assert_eq!(stage.messages().await, 9_999);
    // The whole upload again: the same tasks.
    assert_eq!(send().await, results);
    assert_eq!(stage.messages().await, 9_999);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_has_an_end() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let lines = "{\"model\":\"x\"}\n".repeat(10_002);
    let request = web
        .request(Method::POST, "/v1/tasks")
        .header("Content-Type", "application/x-ndjson");
    let text = request
        .body(lines)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let results: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(results.len(), 10_001);
    assert_eq!(results[10_000]["error"]["code"], "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let many: Vec<_> = (0..7).map(|_| fox()).collect();
    web.post("/v1/tasks", &json!(many)).await;
    let mut path = "/v1/tasks?limit=3&state=queued".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = web.get(&path).await;
        assert_eq!(page.status, StatusCode::OK);
        let tasks = page.json["tasks"].as_array().unwrap();
        seen.extend(
            tasks
                .iter()
                .map(|task| task["id"].as_str().unwrap().to_owned()),
        );
        let Some(link) = page.headers.get("link") else {
            break;
        };
        let link = link.to_str().unwrap();
        path = link
            .trim_start_matches('<')
            .split_once(">; rel=\"next\"")
            .unwrap()
            .0
            .to_owned();
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 7);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("state=done", "state"),
        ("page=2", "page"),
    ] {
        let refused = web.get(&format!("/v1/tasks?{query}")).await;
        refused.is_problem(400, "invalid");
        assert_eq!(refused.json["violations"][0]["field"], field, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_where_the_client_left_off() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let accepted = web.post("/v1/tasks", &fox()).await;
    let id = accepted.json["id"].as_str().unwrap();
    let path = format!("/v1/tasks/{id}/events");
    web::tell(&stage, id).await;
    let mut all = Sse::open(&web, "/v1/events", None).await;
    let mut first = Sse::open(&web, &path, None).await;
    let queued = first.next().await.unwrap();
    assert_eq!(
        (queued.event.as_str(), &queued.data["data"]["id"]),
        ("queued", &json!(id))
    );

    let subject = format!("spotreel.progress.{id}");
    stage
        .root
        .publish(subject, "{\"step\":1}".into())
        .await
        .unwrap();
    let progress = first.next().await.unwrap();
    assert_eq!((progress.event.as_str(), progress.id), ("progress", None));
    drop(first);

    web.send(Method::DELETE, &format!("/v1/tasks/{id}")).await;
    web::tell(&stage, id).await;
    let mut again = Sse::open(&web, &path, queued.id.as_deref()).await;
    let cancelled = again.next().await.unwrap();
    assert_eq!(cancelled.event, Event::Cancelled.as_str());
    assert!(
        again.next().await.is_none(),
        "the task has ended, and so do its events"
    );
    assert_eq!(
        all.next().await.unwrap().id,
        cancelled.id,
        "only what came after it was opened"
    );

    let request = web.request(Method::GET, &path);
    let last = request.header("Last-Event-ID", cancelled.id.unwrap());
    assert_eq!(last.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let odd = web
        .request(Method::GET, &path)
        .header("Last-Event-ID", "-1");
    web.answer(odd).await.is_problem(400, "invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_sent_as_it_is() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let picture = web::png(256, 192);
    let send = |kind: &str, body: Vec<u8>| {
        let request = web
            .request(Method::POST, "/v1/images")
            .header("Content-Type", kind);
        web.answer(request.body(body))
    };
    let kept = send("image/png", picture.clone()).await;
    assert_eq!(kept.status, StatusCode::CREATED);
    assert_eq!(
        (&kept.json["width"], &kept.json["height"]),
        (&json!(256), &json!(192))
    );
    assert_eq!(
        send("application/octet-stream", picture).await.json,
        kept.json
    );
    send("text/plain", vec![1])
        .await
        .is_problem(415, "unsupported_media_type");
    let broken = send("image/png", vec![0; 100]).await;
    broken.is_problem(400, "invalid");
    assert_eq!(broken.json["violations"][0]["field"], "body");
    let task = json!({ "model": "i2v-A14B", "prompt": "it moves", "image": { "s3_key": kept.json["s3_key"] } });
    assert_eq!(
        web.post("/v1/tasks", &task).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_followers_and_answers_the_others() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let mut follower = Sse::open(&web, "/v1/events", None).await;
    stage.ctx.stopping.cancel();
    assert!(follower.next().await.is_none());
    stage.ctx.tasks.close();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), stage.ctx.tasks.wait());
    ended.await.expect("nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_from_elsewhere_may_call_when_they_are_named() {
    let origin = "https://studio.example";
    let stage = Stage::set_with(&[("api.allow_origins", "[\"https://studio.example\"]")]).await;
    let web = Web::of(&stage);
    let ask = |from: &str| {
        let request = web
            .request(Method::OPTIONS, "/v1/tasks")
            .header("Origin", from);
        let request = request.header("Access-Control-Request-Method", "POST");
        request
            .header(
                "Access-Control-Request-Headers",
                "authorization,content-type",
            )
            .send()
    };
    let allowed = ask(origin).await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], origin);
    let refused = ask("https://evil.example").await.unwrap();
    assert!(
        refused
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_windows_and_javascript_write_is_no_error() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let body = "\u{feff}{\"model\":\"ti2v-5B\",\r\n\"prompt\":\"a\\r\\nb\",\"id\":\"w\",\"frames\":25.0,\"seed\":7.0}\r\n";
    let request = web.request(Method::POST, "/v1/tasks");
    let request = request.header("Content-Type", "application/json");
    let answer = web.answer(request.body(body)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let seen = web.get("/v1/tasks/w").await.json;
    let kept = (&seen["prompt"], &seen["frames"], &seen["seed"]);
    assert_eq!(kept, (&json!("a\nb"), &json!(25), &json!(7)));
    let line = "{\"model\":\"ti2v-5B\",\"prompt\":\"夜晚的海浪\"}\r\n";
    let request = web.request(Method::POST, "/v1/tasks");
    let request = request.header("Content-Type", "application/jsonl");
    let answer = request.body(format!("\u{feff}{line}{line}\r\n")).send();
    let text = answer.await.unwrap().text().await.unwrap();
    assert_eq!(text.matches("\"id\"").count(), 2, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_stream_is_a_line_to_every_reader() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let task = json!({ "model": "ti2v-5B", "prompt": "a\u{2028}b\u{2029}c", "id": "t" });
    web.post("/v1/tasks", &task).await;
    web.send(Method::DELETE, "/v1/tasks/t").await;
    web::tell(&stage, "t").await;
    let request = web.request(Method::GET, "/v1/tasks/t/events");
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("a\\u2028b\\u2029c") {
        let more = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&more).unwrap());
        assert!(!text.contains(['\u{2028}', '\u{2029}']), "{text}");
    }
    let request = web.request(Method::POST, "/v1/tasks");
    let request = request.header("Content-Type", "application/jsonl");
    let answer = request.body("{\"a\u{85}b\u{2028}c\":1}\n").send();
    let text = answer.await.unwrap().text().await.unwrap();
    assert!(!text.contains(['\u{85}', '\u{2028}']), "{text}");
    assert!(text.contains("\\u2028"), "{text}");
}
