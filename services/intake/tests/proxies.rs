//! What load balancers, reverse proxies and download tools expect of the HTTP API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use spotreel_intake::{DEFAULTS, IntakeConfig};
use stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use web::{Upload, Web};

/// Load balancers (ALB, nginx) send a request on a connection that was idle for so long.
const THEIR_IDLE_TIME: Duration = Duration::from_secs(60);

const VIDEO: &[u8] = b"the bytes of a video";
const KEY: &str = "renders/v/1/2.mp4";

/// A task with a video in the store, as a worker leaves it.
async fn finished(stage: &Stage, id: &str) {
    let task = json!({ "model": "ti2v-5B", "prompt": "a red fox", "id": id });
    stage.submit(&task).await;
    let logs = stage.logs().await;
    let started = logs.started(&logs.last(id).await).await;
    logs.succeeded(&started, KEY).await;
    let put = stage
        .store
        .put_bytes(KEY, VIDEO.into(), "video/mp4", true, Default::default());
    put.await.unwrap();
}

#[test]
fn idle_connections_outlive_those_of_load_balancers() {
    let config: IntakeConfig = spotreel_test_kit::load_config("intake", DEFAULTS, &[]);
    assert!(config.api.keep_alive > THEIR_IDLE_TIME);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_when_the_configured_time_is_up() {
    // Any other time that would end it is longer than this test waits.
    let times = [
        ("api.keep_alive", "500ms"),
        ("api.body_timeout", "1h"),
        ("api.idle_timeout", "1h"),
    ];
    let stage = Stage::set_with(&times).await;
    let mut connection = TcpStream::connect(stage.address()).await.unwrap();
    let request = b"GET /v1/tasks HTTP/1.1\r\nHost: a\r\n\r\n";
    connection.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    let ended = tokio::time::timeout(Duration::from_secs(30), read).await;
    ended.expect("the server ends it").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "it was answered first");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_told_not_to_hold_streams_back() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    stage
        .submit(&json!({ "model": "ti2v-5B", "prompt": "a red fox", "id": "f" }))
        .await;
    for path in ["/v1/events", "/v1/tasks/f/events"] {
        let stream = web.request(Method::GET, path).send().await.unwrap();
        assert_eq!(stream.headers()["x-accel-buffering"], "no", "{path}");
    }
    let (_lines, answer) = Upload::ask(&web).await;
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    // Other answers may be held.
    let page = web.get("/v1/tasks").await;
    assert!(!page.headers.contains_key("x-accel-buffering"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lasting_address_of_a_video_answers_head_and_names_the_file() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    finished(&stage, "v").await;
    for method in [Method::HEAD, Method::GET] {
        let there = web.send(method.clone(), "/v1/tasks/v/video").await;
        assert_eq!(there.status, StatusCode::TEMPORARY_REDIRECT, "{method}");
        let link = there.headers["location"].to_str().unwrap();
        let client = reqwest::Client::new();
        let video = client.request(method.clone(), link).send().await.unwrap();
        assert_eq!(video.status(), StatusCode::OK, "{method} {link}");
        assert_eq!(video.headers()["content-length"], VIDEO.len().to_string());
        if method == Method::GET {
            let disposition = &video.headers()["content-disposition"];
            assert!(disposition.to_str().unwrap().contains("filename=\"v.mp4\""));
            assert_eq!(video.bytes().await.unwrap(), VIDEO);
        }
    }
    // The link of `get` is the same for a browser.
    let seen = web.get("/v1/tasks/v").await;
    let url = seen.json["video"]["url"].as_str().unwrap();
    let video = reqwest::get(url).await.unwrap();
    let disposition = &video.headers()["content-disposition"];
    assert!(disposition.to_str().unwrap().contains("v.mp4"));
    let missing = web.send(Method::HEAD, "/v1/tasks/none/video").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}
