//! The page, as a browser asks for it, and the routes that it reads beside those of tasks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use std::path::Path;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use stage::{Stage, connect};
use web::{Answer, Web, key};

async fn text(web: &Web, path: &str) -> (Answer, String) {
    let response = web.request(Method::GET, path).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let json = Value::Null;
    let answer = Answer {
        status,
        headers,
        json,
    };
    (answer, text)
}

/// What `index.html` loads.
fn parts(index: &str) -> Vec<&str> {
    let quoted = index.split('"').skip(1).step_by(2);
    quoted.filter(|word| word.starts_with("/ui/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_key_and_loads_nothing_from_elsewhere() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let (answer, index) = text(&web, "/").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers["referrer-policy"], "no-referrer");
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    let store = stage.cloud.endpoint_url();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        &format!("media-src 'self' {store}"),
        &format!("img-src 'self' {store}"),
    ] {
        assert!(
            policy.split("; ").any(|one| one == part),
            "{part}: {policy}"
        );
    }
    assert!(
        !index.contains("style=") && !index.contains("<style") && !index.contains("onclick"),
        "the policy forbids them"
    );
    assert!(!index.contains("http"), "nothing comes from another origin");
    let parts = parts(&index);
    assert!(parts.len() >= 4, "{parts:?}");
    for part in parts {
        let (answer, content) = text(&web, part).await;
        assert_eq!(answer.status, 200, "{part}");
        let kind = match part.rsplit('.').next().unwrap() {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(answer.headers["content-type"], kind);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let keep = answer.headers["cache-control"].to_str().unwrap();
        assert!(keep.contains("immutable"), "{part}: {keep}");
        assert!(!content.is_empty());
        let hash = part.split('/').nth(2).unwrap();
        let (answer, same) = text(&web, &part.replace(hash, "of-another-version")).await;
        assert_eq!((answer.status.as_u16(), same), (200, content));
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}

/// Files below a folder, as paths that begin there.
fn files(root: &Path, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{below}{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => found.extend(files(root, &format!("{path}/"))),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_the_folder_is_served_and_every_import_is_there() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/web"));
    let found = files(root, "");
    assert!(found.len() > 20, "{found:?}");
    for path in found.iter().filter(|path| *path != "index.html") {
        let (answer, content) = text(&web, &format!("/ui/any/{path}")).await;
        assert_eq!(answer.status, 200, "{path} is missing in http/page.rs");
        assert_eq!(content, std::fs::read_to_string(root.join(path)).unwrap());
        let imports = content.split("from \"").skip(1);
        for import in imports.filter_map(|rest| rest.split('"').next()) {
            let target = root.join(path).parent().unwrap().join(import);
            assert!(target.is_file(), "{path} imports {import}");
        }
        let forbidden = [
            "eval(",
            "new Function",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
        ];
        for word in forbidden.into_iter().filter(|_| path.starts_with("js/")) {
            assert!(
                !content.contains(word),
                "{path} has {word}: texts come from strangers"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_page_is_not_sent_again() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let (answer, _) = text(&web, "/").await;
    assert_eq!(answer.headers["cache-control"], "no-cache");
    let etag = answer.headers["etag"].clone();
    let again = |etag: &str| web.request(Method::GET, "/").header("If-None-Match", etag);
    let same = web.answer(again(etag.to_str().unwrap())).await;
    assert_eq!((same.status.as_u16(), &same.headers["etag"]), (304, &etag));
    assert!(same.headers.contains_key("content-security-policy"));
    assert_eq!(web.answer(again("\"0\"")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_of_the_page_is_not_found() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    for path in [
        "/ui",
        "/ui/",
        "/ui/x",
        "/ui/x/",
        "/ui/x/index.html",
        "/ui/x/js",
        "/ui/x/js/",
        "/ui/x/../Cargo.toml",
        "/ui/x/%2e%2e/Cargo.toml",
        "/ui/x/js/%252e%252e/js/main.js",
        "/ui/x/%ff",
        "/index.html",
        "/favicon.ico",
    ] {
        web.get(path).await.is_problem(404, "not_found");
    }
    web.send(Method::POST, "/")
        .await
        .is_problem(405, "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_to_point_here_is_refused_where_no_key_is_needed() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let from =
        |web: &Web, path: &str, host: &str| web.request(Method::GET, path).header("Host", host);
    for path in ["/", "/v1/tasks", "/v1/openapi.json", "/nothing"] {
        let refused = web.answer(from(&web, path, "evil.example:8080")).await;
        refused.is_problem(401, "unauthorized");
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains("api.allow_origins"), "{detail}");
    }
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "localhost.",
        "a b",
    ] {
        let refused = web.answer(from(&web, "/v1/tasks", host)).await;
        refused.is_problem(401, "unauthorized");
    }
    for host in [
        "localhost:8080",
        "LOCALHOST",
        "127.0.0.1",
        "[::1]:8080",
        "page.localhost:1",
        "intake:8080",
    ] {
        let answer = web.answer(from(&web, "/v1/tasks", host)).await;
        assert_eq!(answer.status, 200, "{host}");
    }
    let studio = r#"["https://studio.example:8443"]"#;
    let proxied = Stage::set_with(&[("api.allow_origins", studio)]).await;
    let web = Web::of(&proxied);
    let answer = web.answer(from(&web, "/", "studio.example:8443")).await;
    assert_eq!(answer.status, 200);
    let refused = web.answer(from(&web, "/", "evil.example")).await;
    refused.is_problem(401, "unauthorized");
    let keys = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&keys);
    let answer = web.answer(from(&web, "/", "spotreel.example")).await;
    assert_eq!(answer.status, 200, "a key is no browser's to give");
}

/// Answers every request on a subject with the rights of a service, and counts them.
async fn answer_as(
    stage: &Stage,
    user: &str,
    subject: &'static str,
    answer: Value,
) -> tokio::sync::watch::Receiver<u32> {
    let client = connect(&stage.url, user).await;
    let heard = client.queue_subscribe(subject, "q".into()).await;
    let mut heard = heard.unwrap();
    // Asked on the same connection: with the answer, the server knows that we listen.
    client.flush().await.unwrap();
    let context = async_nats::jetstream::new(client.clone());
    context.get_stream("TASKS").await.unwrap();
    let (count, asked) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Some(question) = heard.next().await {
            count.send_modify(|count| *count += 1);
            let reply = question.reply.unwrap();
            client
                .publish(reply, answer.to_string().into())
                .await
                .unwrap();
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pages_cost_trigger_and_fleet_as_much_as_one() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let why = json!({ "pools": [], "error": "nothing has been looked at yet" });
    let fleet = json!({ "pools": [], "leads": true });
    let asked = [
        answer_as(&stage, "trigger", "spotreel.why", why.clone()).await,
        answer_as(&stage, "fleet", "spotreel.fleet", fleet.clone()).await,
    ];
    let began = std::time::Instant::now();
    let both = (0..100).map(|_| async {
        let (one, other) = tokio::join!(web.get("/v1/why"), web.get("/v1/fleet"));
        assert_eq!((one.json, other.json), (why.clone(), fleet.clone()));
    });
    futures::future::join_all(both).await;
    let seconds = u32::try_from(began.elapsed().as_secs()).unwrap();
    for asked in asked {
        let times = *asked.borrow();
        assert!((1..=seconds + 1).contains(&times), "{times} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_asked_of_trigger() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let none =
        json!({ "error": { "code": "not_found", "message": "there is no batch default-7" } });
    let _asked = answer_as(&stage, "trigger", "spotreel.batches", none).await;
    web.get("/v1/batches/default-7")
        .await
        .is_problem(404, "not_found");
    web.get("/v1/batches/%ff").await.is_problem(400, "invalid");
    web.get("/v1/batches?id=default-7")
        .await
        .is_problem(400, "invalid");
    web.get("/v1/batches?limit=many")
        .await
        .is_problem(400, "invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_one_owner_sees_its_own_part() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = key(&stage, &web, json!({ "owner": "ben" })).await;
    let (_, all) = key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    for path in [
        "/v1/why",
        "/v1/fleet",
        "/v1/batches",
        "/v1/batches/default-1",
    ] {
        anna.get(path).await.is_problem(404, "not_found");
        all.get(path).await.is_problem(503, "unavailable");
        web.get(path).await.is_problem(401, "unauthorized");
    }
    web.get("/v1/queue").await.is_problem(401, "unauthorized");
    let fox = json!({ "model": "ti2v-5B", "prompt": "a red fox" });
    for (web, tasks) in [(&anna, 2), (&ben, 1)] {
        for _ in 0..tasks {
            assert_eq!(web.post("/v1/tasks", &fox).await.status, 201);
        }
    }
    let urgent = json!({ "model": "t2v-A14B", "prompt": "a red fox", "priority": "high" });
    assert_eq!(anna.post("/v1/tasks", &urgent).await.status, 201);
    let counted = |queue: &Value, model: &str, priority: &str| {
        let queues = queue["queues"].as_array().unwrap().iter();
        let mut these = queues.filter(|one| one["model"] == model && one["priority"] == priority);
        let one = these.next().unwrap();
        assert!(these.next().is_none(), "lanes are one queue: {queue}");
        one["waiting"].as_u64().unwrap()
    };
    stage::until("the queues to be counted", async || {
        let queue = all.get("/v1/queue").await.json;
        counted(&queue, "ti2v-5B", "normal") == 3 && counted(&queue, "t2v-A14B", "high") == 1
    })
    .await;
    let owners = |queue: Value| queue["owners"].clone();
    let all = owners(all.get("/v1/queue").await.json);
    assert_eq!(
        all,
        json!([{ "owner": "anna", "tasks": 3 }, { "owner": "ben", "tasks": 1 }])
    );
    let hers = owners(anna.get("/v1/queue").await.json);
    assert_eq!(hers, json!([{ "owner": "anna", "tasks": 3 }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_shows_the_step_that_the_worker_told_last() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let of = |task: &str, step: u32| json!({ "worker": "w1", "instance": "i-1", "pool": "", "state": "busy", "task": task, "step": step, "steps": 50 });
    let mut first = of("t1", 7);
    first["progress"] = json!({ "step": 7, "phase": "denoise", "eta_s": null });
    let told = json!({ "pools": [{ "pool": "default", "cloud": "none", "instances": [], "own": [of("t1", 0), of("t2", 0)],
        "rate": "0.000000", "cost": "0.000000" }], "leads": true });
    let _asked = answer_as(&stage, "fleet", "spotreel.fleet", told).await;
    stage::until("the step is shown", async || {
        // Again, for nobody says that the first one was heard.
        for (task, worker) in [("t1", "w1"), ("t2", "another")] {
            let progress =
                json!({ "id": task, "worker": worker, "phase": "denoise", "step": 7, "steps": 50 });
            let subject = format!("spotreel.progress.{task}");
            stage
                .root
                .publish(subject, progress.to_string().into())
                .await
                .unwrap();
        }
        let fleet = web.get("/v1/fleet").await.json;
        let own = &fleet["pools"][0]["own"];
        assert_eq!(
            own[1],
            of("t2", 0),
            "another worker's step is not this one's"
        );
        own[0] == first
    })
    .await;
}
