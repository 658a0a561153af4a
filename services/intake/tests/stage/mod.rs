//! A real nats-server, the local cloud, and intake between them.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

mod answerer;

use std::net::SocketAddr;
use std::sync::OnceLock;

pub use answerer::Answerer;
use async_nats::{Client, HeaderMap, Message, Request};
use serde_json::Value;
use spotreel_bootstrap::Context;
use spotreel_bus::TaskLog;
use spotreel_bus::names::TASKS;
use spotreel_intake::{DEFAULTS, Deps, IntakeConfig};
use spotreel_localcloud::TestCloud;
use spotreel_packs::Remote;
use spotreel_s3::{Keys, Store};
use spotreel_test_kit::{Logs, Nats, ask, context, load_config, password, request, stop};
pub use spotreel_test_kit::{client as connect, until};

/// 128x128, a PNG in base64.
pub const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAAAAADmVT4XAAAAb0lEQVR42u3bsQ0AIAgAQTBO6RAO48RsoIUFzX1NwiXU5IreRgAAAAAAAAAAAAAAAAAAADQ3XwP7d8NxAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIB76cEBAAAAAAAAAAAAAAAAAKAbUBwkArWJu+lXAAAAAElFTkSuQmCC";

pub struct Stage {
    _nats: Nats,
    pub url: String,
    pub cloud: TestCloud,
    pub store: Store,
    pub ctx: Context,
    /// As a client of the product.
    pub client: Client,
    /// With every right, inside the services' account.
    pub root: Client,
    pub log: TaskLog,
    /// Of the HTTP API.
    address: OnceLock<SocketAddr>,
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
        let (nats, cloud) = (Nats::for_services().await, TestCloud::start().await);
        let url = cloud.endpoint_url();
        let at = [
            ("s3.endpoint_url", url.as_str()),
            ("s3.force_path_style", "true"),
        ];
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config(&at).s3.store(), keys).await;
        store.create_bucket_if_missing().await.unwrap();
        let root = nats.client("provision").await;
        Self {
            url: nats.url.clone(),
            client: nats.client("client").await,
            _nats: nats,
            cloud,
            store,
            ctx: context("intake"),
            log: TaskLog::open(&root).await,
            root,
            address: OnceLock::new(),
        }
    }

    pub async fn start_intake(&self, overrides: &[(&str, &str)]) {
        let own = [
            ("nats.url", self.url.as_str()),
            ("nats.password", &password("intake")),
        ];
        let config = config(&[overrides, &own].concat());
        let deps = Deps {
            nats: spotreel_bus::connect(&config.nats, "intake", true)
                .await
                .unwrap(),
            packs: Remote::new(self.store.clone(), &config.packs.prefix),
            store: self.store.clone(),
        };
        let started = spotreel_intake::start(config, deps, self.ctx.clone());
        let address = started.await.unwrap();
        let _ = self.address.set(address); // the first of two keeps its place
    }

    /// Stops intake, and starts another one over what it left. It has another address.
    pub async fn restart_intake(&mut self, overrides: &[(&str, &str)]) {
        stop(&self.ctx).await;
        self.ctx = context("intake");
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
        let payload = bytes::Bytes::from(payload.into());
        let asked = || {
            let asked = Request::new().payload(payload.clone());
            asked.headers(headers.clone())
        };
        request(&self.client, &format!("spotreel.{verb}"), asked).await
    }

    /// To write the log beside intake.
    pub async fn logs(&self) -> Logs {
        Logs::over(self.root.clone()).await
    }

    /// As an operator.
    pub async fn order(&self, verb: &str, order: &Value) -> Value {
        let operator = connect(&self.url, "operator").await;
        ask(&operator, &format!("spotreel.{verb}"), order).await
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

fn config(overrides: &[(&str, &str)]) -> IntakeConfig {
    let keys = [("api.listen", "127.0.0.1:0"), ("api.auth", "off")];
    let keys = keys.iter().chain(overrides);
    let keys: Vec<_> = keys
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    load_config("intake", DEFAULTS, &keys)
}
