//! A real nats-server, the local cloud, and intake between them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use serde_json::Value;
use spotreel_bootstrap::Context;
use spotreel_bootstrap::config::{Sources, load_from};
use spotreel_bus::names::TASKS;
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{NatsConfig, TaskLog};
use spotreel_intake::{DEFAULTS, IntakeConfig};
use spotreel_localcloud::{Config, LocalCloud};
use spotreel_s3::{Keys, Store};

const PASSWORD: &str = "test";
const USERS: [&str; 10] = [
    "PROVISION",
    "TRIGGER",
    "FLEET",
    "OPERATOR",
    "INTAKE",
    "NOTIFIER",
    "MONITOR",
    "WORKER",
    "CLIENTS_PROVISION",
    "CLIENT",
];

pub struct Stage {
    server: Child,
    pub url: String,
    pub cloud: LocalCloud,
    pub store: Store,
    pub ctx: Context,
    /// As a client of the product.
    pub client: Client,
    /// With every right, inside the services' account.
    pub root: Client,
    pub log: TaskLog,
    _dir: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
        let _ = self.server.kill();
        let _ = self.server.wait();
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
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = serve(port, &dir);
        let url = format!("nats://127.0.0.1:{port}");
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
        let keys = Keys {
            access_key: "local".into(),
            secret_key: "local-secret".into(),
        };
        let store = Store::connect_with_keys(&config.s3.store(), keys).await;
        store.create_bucket_if_missing().await.unwrap();
        let root = connect(&url, "provision").await;
        let client = connect(&url, "client").await;
        let log = TaskLog::open(&root).await;
        provision::apply(&root, &Layout::default()).await.unwrap();
        let ctx = Context::new("intake", SocketAddr::from(([127, 0, 0, 1], 0)));
        Self {
            server,
            url,
            cloud,
            store,
            ctx,
            client,
            root,
            log,
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
            .push(("nats.password".into(), PASSWORD.into()));
        let config: IntakeConfig = load_from(&sources).unwrap();
        spotreel_intake::start_with(config, self.store.clone(), self.ctx.clone())
            .await
            .unwrap();
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

/// Waits for a condition; tests never sleep for their own sake.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

pub async fn connect(url: &str, user: &str) -> Client {
    let config = NatsConfig {
        url: url.into(),
        user: Some(user.into()),
        password: Some(PASSWORD.into()),
        creds: None,
    };
    let client = spotreel_bus::connect(&config, user, true).await.unwrap();
    until("connected", || async {
        client.connection_state() == async_nats::connection::State::Connected
    })
    .await;
    client
}

fn sources(overrides: &[(&str, &str)]) -> Sources<'static> {
    Sources {
        name: "intake",
        defaults: DEFAULTS,
        overrides: overrides
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        ..Sources::default()
    }
}

fn serve(port: u16, dir: &tempfile::TempDir) -> Child {
    let program = std::env::var("SPOTREEL_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    let config =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/nats-server.conf");
    Command::new(program)
        .arg("-c")
        .arg(config)
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(dir.path().join("nats"))
        .arg("-l")
        .arg(dir.path().join("nats.log"))
        .envs(USERS.map(|user| (format!("SPOTREEL_{user}_PASSWORD"), PASSWORD)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is on the PATH, or SPOTREEL_NATS_SERVER names it")
}
