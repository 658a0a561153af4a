//! What a worker needs around it, real but for the instance metadata: NATS, S3, the simulated engine.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod proxy;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{TaskLog, kv};
use spotreel_domain::{Task, TaskId, TaskRequest};
use spotreel_localcloud::{Config, LocalCloud};
use spotreel_proto::worker::v1::Presence;
use spotreel_s3::{Keys, Store, StoreConfig};
pub use spotreel_test_kit::until;
use spotreel_test_kit::{Nats, password};
use tempfile::TempDir;

const BUCKET: &str = "spotreel";

pub struct Stage {
    pub client: Client,
    pub log: TaskLog,
    pub metadata: Metadata,
    pub store: Store,
    pub cloud: LocalCloud,
    pub dir: TempDir,
    nats: Nats,
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_with(Layout::default()).await
    }

    /// A worker that falls silent has lost its task after `lease`.
    pub async fn with_lease(lease: Duration) -> Self {
        Self::set_with(Layout {
            lease,
            ..Layout::default()
        })
        .await
    }

    pub async fn set_with(layout: Layout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cloud = LocalCloud::start(Config::for_tests(dir.path().join("cloud"))).await;
        let cloud = cloud.unwrap();
        let store = StoreConfig::at(&cloud.endpoint_url(), "us-east-1", BUCKET);
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&store, keys).await;
        store.create_bucket_if_missing().await.unwrap();
        let nats = Nats::start().await;
        let client = nats.client("provision").await;
        provision::apply(&client, &layout).await.unwrap();
        Self {
            log: TaskLog::open(&client).await,
            client,
            metadata: Metadata::serve().await,
            store,
            cloud,
            dir,
            nats,
        }
    }

    pub async fn submit(&self, id: &str, steps: u32) {
        self.submit_with(id, steps, "ti2v-5B", "a red fox in the snow")
            .await;
    }

    pub async fn submit_with(&self, id: &str, steps: u32, model: &str, prompt: &str) {
        self.submit_as(id, steps, model, prompt, |_| {}).await;
    }

    pub async fn submit_as(
        &self,
        id: &str,
        steps: u32,
        model: &str,
        prompt: &str,
        change: impl FnOnce(&mut Task),
    ) {
        let request = TaskRequest {
            model: model.into(),
            prompt: prompt.into(),
            steps: Some(steps),
            ..TaskRequest::default()
        };
        let now = ambient::now();
        let mut valid = request.validate(now).unwrap();
        (valid.spec.width, valid.spec.height, valid.spec.frames) = (128, 96, 9);
        let mut step = Task::submit(
            TaskId::parse(id).unwrap(),
            valid.spec,
            valid.content_hash,
            now,
        );
        change(&mut step.1);
        let append = Append::new(step, 0, ambient::uuid_v4());
        self.log.append(&append).await.unwrap();
    }

    pub async fn task(&self, id: &str) -> Task {
        let last = self.log.last(&TaskId::parse(id).unwrap()).await.unwrap();
        last.unwrap().task
    }

    pub fn nats_url(&self) -> &str {
        &self.nats.url
    }

    /// Where a worker of this name has its scratch directory.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("scratch-{name}"))
    }

    /// A worker whose steps take so long.
    pub fn worker(&self, name: &str, step_ms: u32, settings: &[(&str, &str)]) -> Running {
        self.worker_in(name, step_ms, settings, &[])
    }

    /// The same, with variables of its own.
    pub fn worker_in(
        &self,
        name: &str,
        step_ms: u32,
        settings: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Running {
        let log = self.dir.path().join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let step_ms = step_ms.to_string();
        let engine =
            serde_json::json!([engine(), "--step-ms", step_ms, "--allow-faults", "--packs"]);
        let engine = engine.to_string();
        let scratch = self.scratch(name).display().to_string();
        let endpoint = self.cloud.endpoint_url();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel-worker"));
        for (key, value) in [
            ("name", name),
            ("scratch", &scratch),
            ("engine.command", &engine),
            ("nats.url", &self.nats.url),
            ("s3.endpoint_url", &endpoint),
            ("s3.force_path_style", "true"),
            ("cloud.poll", "50ms"),
            ("idle.exit_after", "off"),
        ]
        .iter()
        .chain(settings)
        {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let child = command
            .env("SPOTREEL_NATS__PASSWORD", password("worker"))
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.metadata.url)
            .envs(variables.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Running { child, log }
    }

    pub async fn presence(&self, worker: &str) -> Option<Presence> {
        let all = kv::presences(&self.client).await.unwrap();
        all.into_iter().find(|presence| presence.worker == worker)
    }

    /// Waits until a worker's presence is as wanted, and gives it.
    pub async fn seen(
        &self,
        worker: &str,
        what: &str,
        wanted: impl Fn(&Presence) -> bool,
    ) -> Presence {
        let mut found = None;
        until(what, async || {
            found = self.presence(worker).await.filter(&wanted);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub async fn drain(&self, mode: &str) -> String {
        let subject = spotreel_bus::names::worker_drain("i-0123");
        let body = serde_json::json!({ "mode": mode, "reason": "scale_in" }).to_string();
        let fleet = self.nats.client("fleet").await;
        let answer = fleet.request(subject, body.into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        answer["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Fleet says that the machine stays.
    pub async fn stay(&self) {
        let subject = spotreel_bus::names::worker_stay("i-0123");
        let fleet = self.nats.client("fleet").await;
        fleet.publish(subject, "".into()).await.unwrap();
        fleet.flush().await.unwrap();
    }

    pub fn kill_nats(&mut self) {
        self.nats.kill9();
    }
}

pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Waits until it has left by itself, and gives its exit code.
    pub async fn left(&mut self) -> Option<i32> {
        let mut status = None;
        until("the worker has left", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.and_then(|status| status.code())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
        if let (Ok(None), Ok(id)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            // The engine goes with its worker.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn engine() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let path = profile.join("spotreel-engine-sim");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "spotreel-engine-sim", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        assert!(build.status().unwrap().success());
    }
    path
}

/// IMDSv2 as far as a worker asks it.
pub struct Metadata {
    pub url: String,
    answers: Arc<Mutex<HashMap<String, String>>>,
    /// How far its clock is ahead of the worker's.
    ahead: Arc<Mutex<Duration>>,
}

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

impl Metadata {
    async fn serve() -> Self {
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
