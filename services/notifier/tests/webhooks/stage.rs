//! A nats-server, notifier as a program, and an operator.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use spotreel_bus::events::EventStream;
use spotreel_bus::names;
use spotreel_bus::provision;
use spotreel_domain::{Event, TaskId};
use spotreel_test_kit::{Logs, Nats, Program, ask, command, free_port, layout, page, password};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DEADLINE: &str = "1s";

pub struct Stage {
    pub nats: Nats,
    pub logs: Logs,
    operator: Client,
    notifier: Option<Program>,
    settings: Vec<(String, String)>,
    http: String,
    dir: TempDir,
    starts: usize,
}

impl Stage {
    /// With short times, and these settings over them.
    pub async fn begin(settings: &[(&str, &str)]) -> Self {
        let nats = Nats::start().await;
        let sizes = layout(Duration::from_secs(60), 1);
        spotreel_test_kit::provision(&nats.url, &sizes).await;
        let given = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut stage = Self {
            logs: Logs::of(&nats).await,
            operator: nats.client("operator").await,
            notifier: None,
            settings: given.collect(),
            http: format!("127.0.0.1:{}", free_port()),
            dir: TempDir::with_prefix("spotreel-webhooks-").unwrap(),
            starts: 0,
            nats,
        };
        stage.start();
        stage
    }

    pub fn start(&mut self) {
        let usual = [
            ("nats.url", self.nats.url.as_str()),
            ("nats.user", "notifier"),
            ("nats.password", &password("notifier")),
            ("http.listen", self.http.as_str()),
            ("telemetry.log", "info,spotreel_notifier=debug"),
            ("s3.endpoint_url", "http://127.0.0.1:9"),
            ("s3.force_path_style", "true"),
            ("webhooks.allow_hosts", "[\"127.0.0.1\", \"localhost\"]"),
            ("webhooks.deadline", DEADLINE),
            (
                "webhooks.retries",
                "[\"200ms\", \"500ms\", \"1s\", \"2s\", \"2s\", \"2s\"]",
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings = usual.into_iter().chain(self.settings.clone());
        let mut command = command(env!("CARGO_BIN_EXE_spotreel-notifier"), settings);
        command
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        self.starts += 1;
        self.notifier = Some(Program::start(command, &self.log()));
    }

    /// Of the starts from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Why the check `webhooks` fails; none: it holds.
    pub async fn failing(&self) -> Option<String> {
        let Some(readiness) = self.readiness().await else {
            return Some("notifier does not answer".to_owned());
        };
        let reason = &readiness["checks"]["webhooks"]["reason"];
        reason.as_str().map(str::to_owned)
    }

    /// Also where it answers 503.
    async fn readiness(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.http).await.ok()?;
        let request = "GET /readyz HTTP/1.1\r\nhost: notifier\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.http);
        page(&url).await.unwrap_or_default()
    }

    /// The stream EVENTS as the one who provisions sees it.
    pub async fn events(&self) -> Stream {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        context.get_stream(names::EVENTS).await.unwrap()
    }

    /// As an older version provisioned EVENTS, or as this one does.
    pub async fn let_events_have(&self, subjects: &[&str]) {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        let mut config = self.events().await.cached_info().config.clone();
        config.subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
        context.update_stream(config).await.unwrap();
    }

    fn log(&self) -> PathBuf {
        self.dir
            .path()
            .join(format!("notifier-{}.log", self.starts))
    }

    pub async fn kill9(&mut self) {
        let mut notifier = self.notifier.take().expect("it runs");
        notifier.signal(Signal::SIGKILL);
        notifier.left().await;
    }

    pub fn said(&self) -> String {
        self.notifier.as_ref().expect("it runs").said()
    }

    /// An order, and its answer.
    pub async fn order(&self, subject: &'static str, body: Value) -> Value {
        ask(&self.operator, subject, &body).await
    }

    /// Creates an endpoint; its id and secret.
    pub async fn webhook(&self, url: &str, events: &[&str]) -> (String, String) {
        let order = json!({ "url": url, "events": events });
        let made = self.order(names::OPS_WEBHOOK_CREATE, order).await;
        let text = |field: &str| {
            made[field]
                .as_str()
                .unwrap_or_else(|| panic!("{made}"))
                .to_owned()
        };
        (text("id"), text("secret"))
    }

    pub async fn list(&self) -> Vec<Value> {
        let list = self.order(names::OPS_WEBHOOK_LIST, json!({})).await;
        list["webhooks"]
            .as_array()
            .unwrap_or_else(|| panic!("{list}"))
            .clone()
    }

    pub async fn deliveries(&self, id: &str) -> Vec<Value> {
        let query = json!({ "id": id, "limit": 1_000 });
        let page = self.order(names::OPS_WEBHOOK_DELIVERIES, query).await;
        page["deliveries"]
            .as_array()
            .unwrap_or_else(|| panic!("{page}"))
            .clone()
    }

    /// Number of deliveries in this state.
    pub async fn count(&self, id: &str, state: &str) -> usize {
        let log = self.deliveries(id).await;
        log.iter().filter(|one| one["state"] == state).count()
    }

    /// A task that has succeeded, which notifier publishes.
    pub async fn succeed(&self, id: &str, callback_url: Option<&str>) {
        let mut request = spotreel_test_kit::tasks::request(spotreel_domain::Model::Ti2v5b);
        request.callback_url = callback_url.map(str::to_owned);
        let task = self.logs.submit_as(id, &request, |_| {}).await;
        let task = self.logs.started(&task).await;
        self.logs
            .succeeded(&task, &format!("renders/{id}/1/2.mp4"))
            .await;
    }

    /// Publishes as many events of tasks as notifier would have, and returns their ids.
    pub async fn publish(&self, prefix: &str, count: u64) -> Vec<String> {
        let events = EventStream::open(&self.logs.client).await;
        let mut ids = Vec::new();
        for n in 1..=count {
            let task = TaskId::parse(&format!("{prefix}{n}")).unwrap();
            let id = format!("{task}/{n}");
            let event = json!({
                "specversion": "1.0", "id": id, "source": "/spotreel", "type": "io.spotreel.task.queued.v1",
                "subject": task, "time": "2026-11-23T11:30:02Z", "data": { "id": task, "state": "queued" },
            });
            let payload = event.to_string().into();
            let name = Event::Queued.as_str();
            let stored = events
                .publish(&task, name, n, HeaderMap::new(), payload)
                .await;
            assert!(stored.unwrap());
            ids.push(id);
        }
        ids
    }

    /// The names of the public events of endpoints, in order.
    pub async fn notices(&self) -> Vec<(String, Value)> {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        let stream = context.get_stream(names::EVENTS).await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut notices = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            if message.subject.starts_with("spotreel.webhook.") {
                let event: Value = serde_json::from_slice(&message.payload).unwrap();
                let name = message.subject.rsplit('.').next().unwrap();
                notices.push((name.to_owned(), event["data"].clone()));
            }
        }
        notices
    }

    /// What `spotreel provision` would change.
    pub async fn provisioned_again(&self) -> Vec<provision::Report> {
        let sizes = layout(Duration::from_secs(60), 1);
        provision::apply(&self.logs.client, &sizes).await.unwrap()
    }
}
