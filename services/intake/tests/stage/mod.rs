//! A real nats-server, the local cloud, and intake between them.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use serde_json::Value;
use spotreel_bootstrap::Context;
use spotreel_bootstrap::config::{Sources, load_from};
use spotreel_bus::TaskLog;
use spotreel_bus::names::TASKS;
use spotreel_bus::provision::{self, Layout};
use spotreel_intake::{DEFAULTS, IntakeConfig};
use spotreel_localcloud::{Config, LocalCloud};
use spotreel_s3::{Keys, Store};
pub use spotreel_test_kit::until;
use spotreel_test_kit::{Nats, client, password};

/// 128x128, a PNG in base64.
pub const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAAAAADmVT4XAAAAb0lEQVR42u3bsQ0AIAgAQTBO6RAO48RsoIUFzX1NwiXU5IreRgAAAAAAAAAAAAAAAAAAADQ3XwP7d8NxAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIB76cEBAAAAAAAAAAAAAAAAAKAbUBwkArWJu+lXAAAAAElFTkSuQmCC";

pub struct Stage {
    _nats: Nats,
    pub url: String,
    pub cloud: LocalCloud,
    pub store: Store,
    pub ctx: Context,
    /// As a client of the product.
    pub client: Client,
    /// With every right, inside the services' account.
    pub root: Client,
    pub log: TaskLog,
    /// Of the HTTP API.
    address: OnceLock<SocketAddr>,
    _dir: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
    }
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_with(&[]).await
    }

    /// With some keys of intake's configuration changed.
    pub async fn set_with(overrides: &[(&str, &str)]) -> Self {
        let stage = Self::without_intake().await;
        stage.start_intake(overrides).await;
        stage
    }

    pub async fn without_intake() -> Self {
        let shown = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(shown)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let nats = Nats::start().await;
        let cloud = LocalCloud::start(Config::for_tests(dir.path().join("cloud")))
            .await
            .unwrap();
        let mut sources = sources(&[]);
        sources
            .overrides
            .push(("s3.endpoint_url".into(), cloud.endpoint_url()));
        sources
            .overrides
            .push(("s3.force_path_style".into(), "true".into()));
        let config: IntakeConfig = load_from(&sources).unwrap();
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config.s3.store(), keys).await;
        store.create_bucket_if_missing().await.unwrap();
        let root = nats.client("provision").await;
        let client = nats.client("client").await;
        let log = TaskLog::open(&root).await;
        provision::apply(&root, &Layout::default()).await.unwrap();
        Self {
            url: nats.url.clone(),
            _nats: nats,
            cloud,
            store,
            ctx: context(),
            client,
            root,
            log,
            address: OnceLock::new(),
            _dir: dir,
        }
    }

    pub async fn start_intake(&self, overrides: &[(&str, &str)]) {
        let mut sources = sources(overrides);
        sources
            .overrides
            .push(("nats.url".into(), self.url.clone()));
        sources
            .overrides
            .push(("nats.password".into(), password("intake")));
        let config: IntakeConfig = load_from(&sources).unwrap();
        let started = spotreel_intake::start_with(config, self.store.clone(), self.ctx.clone());
        let address = started.await.unwrap();
        let _ = self.address.set(address); // the first of two keeps its place
    }

    /// Stops intake, and starts another one over what it left. It has another address.
    pub async fn restart_intake(&mut self, overrides: &[(&str, &str)]) {
        self.ctx.stopping.cancel();
        self.ctx.tasks.close();
        self.ctx.tasks.wait().await;
        self.ctx = context();
        self.address = OnceLock::new();
        self.start_intake(overrides).await;
    }

    pub fn address(&self) -> SocketAddr {
        *self.address.get().expect("intake was started")
    }

    /// Sends bytes to a verb; the answer as JSON.
    pub async fn ask(&self, verb: &str, payload: impl Into<Vec<u8>>) -> Value {
        self.ask_with(verb, payload, HeaderMap::new()).await
    }

    pub async fn ask_with(
        &self,
        verb: &str,
        payload: impl Into<Vec<u8>>,
        headers: HeaderMap,
    ) -> Value {
        let answer = self.request(verb, payload, headers).await;
        serde_json::from_slice(&answer.payload).unwrap()
    }

    pub async fn request(
        &self,
        verb: &str,
        payload: impl Into<Vec<u8>>,
        headers: HeaderMap,
    ) -> Message {
        let request = async_nats::Request::new()
            .payload(payload.into().into())
            .headers(headers)
            .timeout(Some(Duration::from_secs(30)));
        self.client
            .send_request(format!("spotreel.{verb}"), request)
            .await
            .unwrap()
    }

    /// As an operator.
    pub async fn order(&self, verb: &str, order: &Value) -> Value {
        let operator = client(&self.url, "operator").await;
        let request = async_nats::Request::new()
            .payload(order.to_string().into())
            .timeout(Some(Duration::from_secs(30)));
        let answer = operator
            .send_request(format!("spotreel.{verb}"), request)
            .await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    }

    pub async fn submit(&self, task: &Value) -> Value {
        self.ask("submit", task.to_string()).await
    }

    /// Messages in the task log.
    pub async fn messages(&self) -> u64 {
        self.stream(TASKS).await
    }

    pub async fn stream(&self, name: &str) -> u64 {
        let context = async_nats::jetstream::new(self.root.clone());
        context
            .get_stream_no_info(name)
            .await
            .unwrap()
            .get_info()
            .await
            .unwrap()
            .state
            .messages
    }
}

fn context() -> Context {
    Context::new("intake", SocketAddr::from(([127, 0, 0, 1], 0)))
}

pub async fn connect(url: &str, user: &str) -> Client {
    client(url, user).await
}

fn sources(overrides: &[(&str, &str)]) -> Sources<'static> {
    Sources {
        name: "intake",
        defaults: DEFAULTS,
        overrides: [("api.listen", "127.0.0.1:0"), ("api.auth", "off")]
            .iter()
            .chain(overrides)
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..Sources::default()
    }
}
