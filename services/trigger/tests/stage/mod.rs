//! A real nats-server, the local cloud's EC2, and triggers between them. Fleet and monitor are played by the test: it
//! says what is swept and when a batch has ended.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use spotreel_api::{ImageSource, TaskRequest};
use spotreel_api::{PoolWhy, Why};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{Undecodable, controls};
use spotreel_domain::Model;
use spotreel_domain::batch::{Batch, PoolName, Status};
use spotreel_domain::trigger::{BlockerKind, Verdict};
use spotreel_ec2::{Ec2, Ec2Config, Keys};
use spotreel_localcloud::{Config, TestCloud};
pub use spotreel_test_kit::until;
use spotreel_test_kit::{
    Logs, Nats, ask, command, context, free_port, load_config, metric, page, password, stop, tasks,
};
use spotreel_trigger::{DEFAULTS, Deps, TriggerConfig};

pub const ZONE: &str = "us-east-2a";
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);
/// Asks of which each makes every trigger that answers look again.
const ENOUGH_LOOKS: usize = 6;

pub struct Stage {
    nats: Nats,
    pub cloud: TestCloud,
    pub root: Logs,
    client: Client,
    operator: Client,
    submitted: AtomicU32,
}

/// A trigger within the test's process.
pub struct Trigger {
    pub ctx: Context,
}

/// A trigger as a program of its own.
pub struct Program {
    process: spotreel_test_kit::Program,
    http: SocketAddr,
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
    }
}

impl Stage {
    /// Everything is swept, for as long as a test may take.
    pub async fn set() -> Self {
        let stage = Self::unswept(|_| {}).await;
        stage.swept(SignedDuration::from_hours(1)).await;
        stage
    }

    /// As [`Stage::set`] without a mark of the sweeper, in a changed cloud.
    pub async fn unswept(change: impl FnOnce(&mut Config)) -> Self {
        let nats = Nats::for_services().await;
        Self {
            cloud: TestCloud::with(change).await,
            root: Logs::of(&nats).await,
            client: nats.client("client").await,
            operator: nats.client("operator").await,
            nats,
            submitted: AtomicU32::new(0),
        }
    }

    pub fn stop_nats(&mut self) {
        self.nats.kill9();
    }

    pub async fn start_nats(&mut self) {
        self.nats.begin().await;
    }

    /// The sweeper says, as of so long from now, that all is swept.
    pub async fn swept(&self, from_now: SignedDuration) {
        self.root.swept(ambient::now() + from_now).await.unwrap();
    }

    /// One pool of g6.xlarge in one zone, with these rules and no others.
    pub fn one_pool(&self, rules: &str) -> String {
        format!(
            "[pool.default]\n{}[pool.default.rules]\n{}",
            bought(0.36, ZONE),
            only(rules)
        )
    }

    pub fn settings(&self, pools: &str) -> Vec<(String, String)> {
        let file = format!("{}.toml", ambient::uuid_v4());
        let path = self.cloud.dir.path().join(file);
        std::fs::write(&path, pools).unwrap();
        [
            ("pools", path.display().to_string()),
            ("prices.every", "200ms".to_owned()),
            ("prices.good_for", "1s".to_owned()),
            ("ec2.endpoint_url", self.cloud.endpoint_url()),
            ("nats.url", self.nats.url.clone()),
            ("nats.password", password("trigger")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Starts a trigger with these pools.
    pub async fn start(&self, pools: &str) -> Trigger {
        let config = config(&self.settings(pools));
        let pools = config.load_pools().unwrap();
        let ec2 = match pools.kinds().is_empty() {
            true => None,
            false => Some(self.ec2(&config.ec2).await),
        };
        let ctx = context("trigger");
        let nats = self.nats.client("trigger").await;
        spotreel_trigger::start(config, Deps { nats, ec2, pools }, ctx.clone())
            .await
            .unwrap();
        Trigger { ctx }
    }

    async fn ec2(&self, at: &Ec2Config) -> Ec2 {
        let keys = Keys {
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
        };
        Ec2::connect_with_keys(at, keys).await
    }

    /// Starts the binary with these pools.
    pub fn run(&self, pools: &str, variables: &[(&str, &str)]) -> Program {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut settings = self.settings(pools);
        settings.push(("http.listen".to_owned(), http.to_string()));
        let mut command = binary(&settings);
        command
            .envs([
                ("AWS_ACCESS_KEY_ID", "local"),
                ("AWS_SECRET_ACCESS_KEY", "local-secret"),
            ])
            .envs(variables.iter().copied());
        let log = self.cloud.dir.path().join(format!("{http}.log"));
        let process = spotreel_test_kit::Program::start(command, &log);
        Program { process, http }
    }

    /// Queues tasks; returns when the last of them was stored.
    pub async fn submit(&self, tasks: u32) {
        self.submit_for("ti2v-5B", tasks).await;
    }

    /// When the queued tasks were stored, the oldest first.
    pub async fn queued_at(&self) -> Vec<Timestamp> {
        let tasks = &self.root.tasks;
        let queued = tasks.scan("spotreel.log.*.queued.>", 1, 10).await.unwrap();
        queued.iter().map(|task| task.stored_at).collect()
    }

    pub async fn submit_for(&self, model: &str, tasks: u32) {
        for _ in 0..tasks {
            let number = self.submitted.fetch_add(1, Ordering::Relaxed);
            let model = Model::parse(model).unwrap();
            let image = ImageSource::S3Key("images/any".into());
            let request = TaskRequest {
                image: (model == Model::I2vA14b).then_some(image),
                ..tasks::request(model)
            };
            let id = format!("task-{number}");
            self.root.submit_as(&id, &request, |_| {}).await;
        }
    }

    /// Every batch that was ever asked for, newest first.
    pub async fn batches(&self) -> Vec<Batch> {
        let recent = self
            .root
            .batches
            .recent(100, Undecodable::Fails)
            .await
            .unwrap();
        recent.into_iter().map(|one| one.batch).collect()
    }

    /// Waits until so many batches were asked for in all, and gives the newest.
    pub async fn until_batch(&self, count: usize) -> Batch {
        until(&format!("{count} batches"), async || {
            self.batches().await.len() >= count
        })
        .await;
        let batches = self.batches().await;
        assert_eq!(batches.len(), count, "{batches:#?}");
        batches.into_iter().next().unwrap()
    }

    /// The newest batch ends, as fleet would write it down, after whatever `change` says has become of it.
    pub async fn end(&self, change: impl FnOnce(&mut Batch)) -> Batch {
        let end = |batch: &mut Batch| {
            let now = ambient::now();
            batch.status = Status::Settled;
            (batch.ended_at, batch.at) = (Some(now), now);
            change(batch);
        };
        self.root.update(&pool(), end).await
    }

    /// Asks as a client, over the border between the accounts.
    pub async fn ask(&self, subject: &str, body: &Value) -> Value {
        ask(&self.client, subject, body).await
    }

    /// Orders as an operator.
    pub async fn order(&self, verb: &str, body: &Value) -> Value {
        ask(&self.operator, &format!("spotreel.ops.{verb}"), body).await
    }

    /// A client may not give orders: the server drops them, and nobody answers.
    pub async fn client_may_not(&self, verb: &str) -> bool {
        let request = async_nats::Request::new()
            .payload("{}".into())
            .timeout(Some(Duration::from_millis(300)));
        let subject = format!("spotreel.ops.{verb}");
        self.client.send_request(subject, request).await.is_err()
    }

    pub async fn why(&self) -> Why {
        let answer = self.ask("spotreel.why", &json!({})).await;
        serde_json::from_value(answer).unwrap()
    }

    /// Waits until the pool is as `holds` says, as trigger tells it.
    pub async fn until_why(&self, what: &str, holds: impl Fn(&PoolWhy) -> bool) -> PoolWhy {
        self.until_why_of("default", what, holds).await
    }

    pub async fn until_why_of(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&PoolWhy) -> bool,
    ) -> PoolWhy {
        let began = Instant::now();
        loop {
            let why = self.why().await;
            let pool = why.pools.iter().find(|pool| pool.pool.as_str() == name);
            if let Some(pool) = pool.filter(|pool| why.error.is_none() && holds(pool)) {
                return pool.clone();
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}\n{why:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_blocked(&self, by: BlockerKind) -> PoolWhy {
        self.until_why(&format!("blocked by {by:?}"), |why| is_blocked(why, by))
            .await
    }

    /// The triggers look again and again, and no further batch comes of it.
    pub async fn stays_at(&self, batches: usize) {
        for _ in 0..ENOUGH_LOOKS {
            self.why().await;
        }
        let all = self.batches().await;
        assert_eq!(all.len(), batches, "{all:#?}");
    }

    pub async fn orders_to_run(
        &self,
    ) -> BTreeMap<PoolName, controls::StandingOrder<controls::RunRecord>> {
        controls::all(&self.root.client).await.unwrap().runs
    }
}

impl Trigger {
    /// Stops it, and waits for all that it has begun.
    pub async fn stop(self) {
        stop(&self.ctx).await;
    }
}

impl Program {
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The body of a page.
    pub async fn get(&self, path: &str) -> Option<String> {
        page(&format!("http://{}{path}", self.http)).await
    }

    pub async fn metric(&self, name: &str) -> Option<f64> {
        metric(&self.get("/metrics").await?, name)
    }
}

pub fn pool() -> PoolName {
    spotreel_test_kit::pool("default")
}

/// The keys of a pool that buys g6.xlarge under this cap in this zone. As if its card held all models.
pub fn bought(cap: f64, zone: &str) -> String {
    format!(
        "cloud = \"aws\"\nkinds = [{{ name = \"g6.xlarge\", cap = {cap}, gpu = \"l40s\" }}]\n\
         subnets = [{{ id = \"subnet-{zone}\", zone = \"{zone}\" }}]\n"
    )
}

/// These rules, and all others off.
pub fn only(rules: &str) -> String {
    let mut text = rules.to_owned();
    for rule in ["length", "age", "price", "schedule", "max_wait"] {
        if !rules.lines().any(|line| line.starts_with(rule)) {
            text += &format!("\n{rule} = \"off\"");
        }
    }
    text + "\n"
}

pub fn is_blocked(why: &PoolWhy, by: BlockerKind) -> bool {
    let blockers = &why.decision.blockers;
    matches!(why.decision.verdict, Verdict::Blocked { .. })
        && blockers.iter().any(|blocker| blocker.kind == by)
}

/// The configuration with these settings.
pub fn config(settings: &[(String, String)]) -> TriggerConfig {
    load_config("trigger", DEFAULTS, settings)
}

/// The binary, not yet started, with these settings and no others.
pub fn binary(settings: &[(String, String)]) -> Command {
    let settings = settings.iter().map(|(key, value)| (key, value));
    command(env!("CARGO_BIN_EXE_spotreel-trigger"), settings)
}

pub fn after(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
