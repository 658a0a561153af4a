//! A real server with a batch in its log, and monitors with short hold times.

use std::collections::BTreeMap;

use serde_json::Value;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::AlarmRecord;
use spotreel_bus::jetstream::{self, Start};
use spotreel_bus::names::EVENTS;
use spotreel_domain::alarm::AlarmBoard;
use spotreel_domain::batch::{Batch, Ending, InstanceState};
use spotreel_localcloud::TestCloud;
use spotreel_monitor::{DEFAULTS, Deps, MonitorConfig};
use spotreel_s3::{Keys, Store, StoreConfig};
use spotreel_test_kit::{
    Logs, Nats, Program, binary, command, context, load_config, password, pool, spot_instance,
};
use tempfile::TempDir;

/// Hold times of a test.
const HASTY: [(&str, &str); 9] = [
    ("alarms.every", "100ms"),
    ("alarms.resolve_after", "300ms"),
    ("alarms.interruptions.within", "2s"),
    ("alarms.tasks_failed.within", "2s"),
    ("alarms.log_room.hold", "0s"),
    ("alarms.batch_blocked.hold", "200ms"),
    // A test's programs come and go.
    ("alarms.service_silent.on", "false"),
    ("alarms.events_copy.on", "false"),
    ("alarms.nothing_succeeds.on", "false"),
];

pub struct Scene {
    pub nats: Nats,
    pub logs: Logs,
    cloud: TestCloud,
    dir: TempDir,
}

impl Scene {
    pub async fn set() -> Self {
        let nats = Nats::for_services().await;
        let logs = Logs::of(&nats).await;
        // The list of pools is read once a minute.
        logs.request(&pool("default"), 1).await;
        Self {
            logs,
            nats,
            cloud: TestCloud::start().await,
            dir: TempDir::new().unwrap(),
        }
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let s3 = [
            ("s3.endpoint_url", self.cloud.endpoint_url()),
            ("s3.force_path_style", "true".to_owned()),
            ("nats.url", self.nats.url.clone()),
            ("nats.password", password("monitor")),
            ("http.listen", "127.0.0.1:0".to_owned()),
        ];
        let given = HASTY.iter().chain(more);
        let given = given.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let s3 = s3.map(|(key, value)| (key.to_owned(), value));
        s3.into_iter().chain(given).collect()
    }

    /// Monitor within this process.
    pub async fn monitor(&self, more: &[(&str, &str)]) -> Context {
        let config: MonitorConfig = load_config("monitor", DEFAULTS, &self.settings(more));
        let ctx = context("monitor");
        let at = StoreConfig {
            endpoint_url: Some(self.cloud.endpoint_url()),
            force_path_style: true,
            ..config.s3.clone()
        };
        let store = Store::connect_with_keys(&at, Keys::new("local", "local-secret")).await;
        let nats = self.nats.client("monitor").await;
        let started = spotreel_monitor::start(config, Deps { nats, store }, ctx.clone());
        started.await.unwrap();
        ctx
    }

    /// Monitor as a program, which dies at the point.
    pub fn dying(&self, point: &str) -> Program {
        let mut command = command(binary("spotreel-monitor"), self.settings(&[]));
        command.env("SPOTREEL_CRASH_AT", point);
        command
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret");
        Program::start(command, &self.dir.path().join("monitor.log"))
    }

    /// Every event of an alarm, in order.
    pub async fn told(&self) -> Vec<Value> {
        let client = &self.logs.client;
        let page = jetstream::page(client, EVENTS, "spotreel.alarm.>", Start::Sequence(1), 500);
        let read = |stored: jetstream::Stored| {
            let event: Value = serde_json::from_slice(&stored.payload).unwrap();
            let (name, state) = (&event["data"]["name"], &event["data"]["state"]);
            let subject = format!(
                "spotreel.alarm.{}.{}",
                name.as_str().unwrap(),
                state.as_str().unwrap()
            );
            assert_eq!(stored.subject, subject);
            event
        };
        page.await.unwrap().into_iter().map(read).collect()
    }

    /// The states that were told of each alarm.
    pub async fn states(&self) -> BTreeMap<String, Vec<String>> {
        let mut states = BTreeMap::<_, Vec<_>>::new();
        for event in self.told().await {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let data = &event["data"];
            let key = format!("{} {}", word(&data["name"]), word(&data["about"]));
            states
                .entry(key.trim().to_owned())
                .or_default()
                .push(word(&data["state"]));
        }
        states
    }

    pub async fn board(&self) -> Option<AlarmBoard> {
        let record = AlarmRecord::open(&self.logs.client).await;
        Some(record.read().await.unwrap()?.1)
    }

    /// EC2 has just taken an instance of the batch.
    pub async fn interrupt(&self) {
        let now = ambient::now();
        let mut instance = spot_instance("i-9", "g6.xlarge", now);
        instance.state = InstanceState::Gone {
            ending: Ending::Interrupted,
            at: now,
        };
        let taken = |batch: &mut Batch| batch.instances.push(instance);
        self.logs.update(&pool("default"), taken).await;
    }
}

pub fn once() -> Vec<String> {
    vec!["firing".to_owned(), "resolved".to_owned()]
}
