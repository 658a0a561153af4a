//! What a worker needs around it, real but for the instance metadata: NATS, S3, the simulated engine.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

pub mod metadata;
pub mod proxy;

use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use metadata::Metadata;
use spotreel_api::TaskRequest;
use spotreel_bus::provision::Layout;
use spotreel_bus::{TaskLog, kv};
use spotreel_domain::task::State;
use spotreel_domain::{Model, Task};
use spotreel_localcloud::TestCloud;
use spotreel_proto::worker::v1::Presence;
use spotreel_s3::{Keys, Store, StoreConfig};
pub use spotreel_test_kit::until;
use spotreel_test_kit::{Logs, Nats, Program, ask, binary, command, password, tasks};

const BUCKET: &str = "spotreel";

pub struct Stage {
    pub client: Client,
    pub log: TaskLog,
    pub metadata: Metadata,
    pub store: Store,
    pub cloud: TestCloud,
    logs: Logs,
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
        let cloud = TestCloud::start().await;
        let store = StoreConfig::at(&cloud.endpoint_url(), "us-east-1", BUCKET);
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&store, keys).await;
        store.create_bucket_if_missing().await.unwrap();
        let nats = Nats::start().await;
        nats.provision(&layout).await;
        let logs = Logs::of(&nats).await;
        Self {
            client: logs.client.clone(),
            log: logs.tasks.clone(),
            metadata: Metadata::serve().await,
            store,
            cloud,
            logs,
            nats,
        }
    }

    pub async fn submit(&self, id: &str, steps: u32) {
        self.submit_with(id, steps, "ti2v-5B", tasks::PROMPT).await;
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
            prompt: prompt.into(),
            steps: Some(steps),
            ..tasks::request(Model::parse(model).unwrap())
        };
        let smaller = |task: &mut Task| {
            (task.spec.width, task.spec.height, task.spec.frames) = (128, 96, 9);
            change(task);
        };
        self.logs.submit_as(id, &request, smaller).await;
    }

    pub async fn task(&self, id: &str) -> Task {
        self.logs.last(id).await.task
    }

    /// Waits until the task has ended.
    pub async fn ended(&self, id: &str) -> Task {
        until("the task ends", async || self.task(id).await.is_terminal()).await;
        self.task(id).await
    }

    /// Waits until the task has a video.
    pub async fn rendered(&self, id: &str) -> Task {
        let task = self.ended(id).await;
        assert!(matches!(task.state, State::Succeeded { .. }), "{task:?}");
        task
    }

    pub fn nats_url(&self) -> &str {
        &self.nats.url
    }

    /// Where a worker of this name has its scratch directory.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.path(&format!("scratch-{name}"))
    }

    /// In the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.cloud.dir.path().join(name)
    }

    /// A worker whose steps take so long.
    pub fn worker(&self, name: &str, step_ms: u32, settings: &[(&str, &str)]) -> Program {
        self.worker_in(name, step_ms, settings, &[])
    }

    /// The same, with variables of its own.
    pub fn worker_in(
        &self,
        name: &str,
        step_ms: u32,
        settings: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Program {
        let (engine, step_ms) = (binary("spotreel-engine-sim"), step_ms.to_string());
        let engine = serde_json::json!([engine, "--step-ms", step_ms, "--allow-faults", "--packs"]);
        let engine = engine.to_string();
        let scratch = self.scratch(name).display().to_string();
        let endpoint = self.cloud.endpoint_url();
        let own = [
            ("name", name),
            ("scratch", &scratch),
            ("engine.command", &engine),
            ("nats.url", &self.nats.url),
            ("s3.endpoint_url", &endpoint),
            ("s3.force_path_style", "true"),
            ("cloud.poll", "50ms"),
            ("idle.exit_after", "off"),
        ];
        let mut command = command(
            env!("CARGO_BIN_EXE_spotreel-worker"),
            [&own, settings].concat(),
        );
        command
            .env("SPOTREEL_NATS__PASSWORD", password("worker"))
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.metadata.url)
            .envs(variables.iter().copied());
        Program::start(command, &self.path(&format!("{name}.log")))
    }

    pub async fn presence(&self, worker: &str) -> Option<Presence> {
        let all = kv::presences(&self.client).await.unwrap();
        all.into_iter().find(|presence| presence.worker == worker)
    }

    /// Waits until the worker is ready for tasks and has none.
    pub async fn serves(&self, worker: &str) -> Presence {
        let idle = spotreel_proto::worker::v1::State::Idle;
        self.seen(worker, "it serves", |p| p.state() == idle).await
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
        let fleet = self.nats.client("fleet").await;
        let order = serde_json::json!({ "mode": mode, "reason": "scale_in" });
        let answer = ask(&fleet, &subject, &order).await;
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
