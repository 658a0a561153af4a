//! The HTTP API, as somebody meets it who means harm: bytes on a socket, each answered with a refusal or a closed
//! connection, and nothing queued.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod cases;
#[path = "../stage/mod.rs"]
mod stage;
#[path = "../web/mod.rs"]
mod web;

use std::time::Duration;

use cases::{JSON, request};
use serde_json::{Value, json};
use stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use web::Web;

/// Bounds that a test can reach.
const BOUNDS: [(&str, &str); 7] = [
    ("api.idle_timeout", "2s"),
    ("api.keep_alive", "2s"),
    ("api.body_timeout", "3s"),
    ("api.body_memory_mib", "28"),
    ("api.concurrent_requests", "64"),
    ("api.uploads", "2"),
    ("api.followers", "4"),
];
/// Far more than any bound above.
const PATIENCE: Duration = Duration::from_secs(30);

/// What comes back until the server closes, or `None` where it does not.
async fn exchange(stage: &Stage, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    // It may be closed in our face: then what it said before counts.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.ok().map(|_| answer)
}

fn parts(answer: &[u8]) -> (u16, String, Value) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let json = serde_json::from_str(body).unwrap_or_default();
    (status.unwrap_or(0), head.to_lowercase(), json)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_is_refused_in_its_way() {
    let stage = Stage::set_with(&BOUNDS).await;
    let cases = cases::all();
    assert!(cases.len() >= 90, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let Some(answer) = exchange(&stage, &case.bytes).await else {
            wrong.push(format!("{}: the connection stays open", case.name));
            continue;
        };
        let (status, head, json) = parts(&answer);
        let code = json["code"].as_str().unwrap_or_default();
        let field = json["violations"][0]["field"].as_str().unwrap_or_default();
        if (status, code, field) != (case.status, case.code, case.field) {
            wrong.push(format!(
                "{}: {status} {code:?} {field:?}, not {} {:?} {:?}",
                case.name, case.status, case.code, case.field
            ));
        }
        if !case.code.is_empty() && !head.contains("application/problem+json") {
            wrong.push(format!("{}: no problem details", case.name));
        }
        if head.contains("x-evil") {
            wrong.push(format!("{}: a header of the client's came back", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stage.messages().await, 0);
    let web = Web::of(&stage);
    let good = json!({ "model": "ti2v-5B", "prompt": "a red fox" });
    assert_eq!(web.post("/v1/tasks", &good).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go() {
    let stage = Stage::set_with(&BOUNDS).await;
    // Half a header.
    let answer = exchange(&stage, b"GET /v1/tasks HTTP/1.1\r\nHost:").await;
    assert!(parts(&answer.expect("closed")).0 != 200);
    // Half a body: told why.
    let answer = exchange(
        &stage,
        &request("POST", "/v1/tasks", &[JSON, "Content-Length: 50"], b""),
    )
    .await;
    let (status, _, json) = parts(&answer.expect("closed"));
    assert_eq!((status, json["code"].as_str()), (408, Some("timeout")));
    // Half a line of an upload: the answer has begun, and says it in its last line.
    let headers = ["Content-Type: application/jsonl", "Content-Length: 500"];
    let mut bytes = request("POST", "/v1/tasks", &headers, b"");
    bytes.extend_from_slice(b"{\"model\":\"x\"}\n{\"mod");
    let answer = String::from_utf8(exchange(&stage, &bytes).await.expect("closed")).unwrap();
    assert!(
        answer.contains("\"invalid\"") && answer.contains("\"timeout\""),
        "{answer}"
    );
    // Nothing at all.
    assert_eq!(exchange(&stage, b"").await.expect("closed"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_clients_leave_room_for_the_others() {
    let bounds = [
        &BOUNDS[2..],
        &[
            ("api.body_timeout", "60s"),
            ("api.idle_timeout", "60s"),
            ("api.keep_alive", "60s"),
        ],
    ]
    .concat();
    let stage = Stage::set_with(&bounds).await;
    let before = resident_mib();
    let mut slow = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let bytes = match number % 4 {
            0 => b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\n".to_vec(),
            1 => b"".to_vec(),
            // These take a place among the requests at work, and keep it for as long as they like.
            _ if number < 100 => request("POST", "/v1/tasks", &[JSON, "Content-Length: 1000"], b""),
            _ => b"GET /v1/tasks HTTP/1.1\r\nHost: a\r\nX: ".to_vec(),
        };
        stream.write_all(&bytes).await.unwrap();
        slow.push(stream);
    }
    let web = Web::of(&stage);
    let good = json!({ "model": "ti2v-5B", "prompt": "a red fox" });
    for _ in 0..20 {
        assert_eq!(web.post("/v1/tasks", &good).await.status, 201);
    }
    let grown = resident_mib().saturating_sub(before);
    assert!(
        grown < 100,
        "1,000 clients that say nothing cost {grown} MiB"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_share_what_there_is() {
    let stage = Stage::set_with(&BOUNDS).await;
    // Each announces 20 MB and sends all but the last byte: two do not fit into 28.
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let head = request(
            "POST",
            "/v1/tasks",
            &[JSON, "Content-Length: 20000001"],
            b"",
        );
        let _ = stream.write_all(&head).await;
        let _ = stream.write_all(&vec![b' '; 20_000_000]).await;
        held.push(stream);
    }
    for mut stream in held {
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        refused += usize::from(parts(&answer).0 == 503);
    }
    assert_eq!(refused, 1, "one of them fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_and_uploads_have_a_number() {
    let stage = Stage::set_with(&BOUNDS).await;
    let web = Web::of(&stage);
    let mut followers = Vec::new();
    for _ in 0..4 {
        followers.push(web::Sse::open(&web, "/v1/events", None).await);
    }
    let fifth = web.get("/v1/events").await;
    fifth.is_problem(503, "unavailable");
    assert!(fifth.headers.contains_key("retry-after"));
    drop(followers);
    stage::until("a place is free again", async || {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream
            .write_all(&request("GET", "/v1/events", &[], b""))
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        first.ends_with(b"200")
    })
    .await;
}

/// Of this process, in which intake runs.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}
