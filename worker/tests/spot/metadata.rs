//! IMDSv2 as far as a worker asks it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use spotreel_bootstrap::ambient;

pub struct Metadata {
    pub url: String,
    answers: Arc<Mutex<HashMap<String, String>>>,
    /// How far its clock is ahead of the worker's.
    ahead: Arc<Mutex<Duration>>,
}

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

impl Metadata {
    pub async fn serve() -> Self {
        let answers: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let ahead: Arc<Mutex<Duration>> = Arc::default();
        let clock = Arc::clone(&ahead);
        let dated = move |mut response: axum::response::Response| {
            let now = ambient::now() + *clock.lock().unwrap();
            let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            response.headers_mut().insert("date", date.parse().unwrap());
            std::future::ready(response)
        };
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&answers))
            .layer(axum::middleware::map_response(dated));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let metadata = Self {
            url,
            answers,
            ahead,
        };
        metadata.tell("instance-id", "i-0123");
        metadata.tell("instance-type", "g5.xlarge");
        metadata.tell("placement/availability-zone", "us-east-2a");
        metadata.tell("instance-life-cycle", "spot");
        metadata.tell("tags/instance/spotreel:pool", "gpu");
        metadata.tell("tags/instance/spotreel:batch", "gpu-7");
        metadata.tell("tags/instance/spotreel:launch", "3");
        metadata
    }

    pub fn tell(&self, path: &str, text: &str) {
        let path = format!("/latest/meta-data/{path}");
        self.answers.lock().unwrap().insert(path, text.into());
    }

    /// It was launched so long ago.
    pub fn launched_before(&self, age: Duration) {
        let time = (ambient::now() - age).strftime("%Y-%m-%dT%H:%M:%SZ");
        let document = serde_json::json!({ "pendingTime": time.to_string() });
        let path = "/latest/dynamic/instance-identity/document".to_owned();
        self.answers
            .lock()
            .unwrap()
            .insert(path, document.to_string());
    }

    pub fn set_clock_ahead(&self, by: Duration) {
        *self.ahead.lock().unwrap() = by;
    }

    /// The cloud takes the machine in so long.
    pub fn notice(&self, rest: Duration) {
        let now = ambient::now() + *self.ahead.lock().unwrap();
        let time = (now + rest).strftime("%Y-%m-%dT%H:%M:%SZ");
        let action = serde_json::json!({ "action": "terminate", "time": time.to_string() });
        self.tell("spot/instance-action", &action.to_string());
    }

    pub fn rebalance(&self) {
        let text = r#"{"noticeTime":"2026-11-23T12:00:00Z"}"#;
        self.tell("events/recommendations/rebalance", text);
    }
}

type Answers = State<Arc<Mutex<HashMap<String, String>>>>;

async fn answer(
    State(answers): Answers,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> (StatusCode, [(&'static str, String); 1], String) {
    let none = |status| (status, [(TTL, String::new())], String::new());
    if uri.path() == "/latest/api/token" {
        let ttl = headers.get(TTL).and_then(|ttl| ttl.to_str().ok());
        return match (method, ttl) {
            (Method::PUT, Some(ttl)) => (StatusCode::OK, [(TTL, ttl.into())], "a-token".into()),
            (Method::PUT, None) => none(StatusCode::BAD_REQUEST),
            _ => none(StatusCode::METHOD_NOT_ALLOWED),
        };
    }
    if headers.get(TOKEN).is_none_or(|token| token != "a-token") {
        return none(StatusCode::UNAUTHORIZED);
    }
    match answers.lock().unwrap().get(uri.path()) {
        Some(text) => (StatusCode::OK, [(TTL, String::new())], text.clone()),
        None => none(StatusCode::NOT_FOUND),
    }
}
