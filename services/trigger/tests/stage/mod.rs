//! A real nats-server, the local cloud's EC2, and triggers between them. Fleet and monitor are played by the test: it
//! says what is swept and when a batch has ended.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use spotreel_bootstrap::config::{Sources, load_from};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::log::Append;
use spotreel_bus::names::SWEEPER_MARK;
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{BatchLog, TaskLog, controls, kv};
use spotreel_domain::batch::{Batch, PoolName, Status};
use spotreel_domain::ops::{PoolWhy, Why};
use spotreel_domain::request::ImageSource;
use spotreel_domain::trigger::{BlockerKind, Verdict};
use spotreel_domain::{Model, Task, TaskId, TaskRequest};
use spotreel_ec2::{Ec2, Ec2Config, Keys};
use spotreel_localcloud::{Config, LocalCloud};
pub use spotreel_test_nats::until;
use spotreel_test_nats::{Nats, free_port, password};
use spotreel_trigger::{DEFAULTS, Deps, TriggerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const ZONE: &str = "us-east-2a";
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);
/// Asks of which each makes every trigger that answers look again.
const ENOUGH_LOOKS: usize = 6;

pub struct Stage {
    nats: Nats,
    pub cloud: LocalCloud,
    pub root: Root,
    client: Client,
    operator: Client,
    pub dir: TempDir,
    submitted: AtomicU32,
}

/// The services' account, with every right.
pub struct Root {
    pub client: Client,
    pub batches: BatchLog,
    pub tasks: TaskLog,
}

/// A trigger within the test's process.
pub struct Trigger {
    pub ctx: Context,
}

/// A trigger as a program of its own.
pub struct Program {
    pub child: Child,
    http: SocketAddr,
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        let shown = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(shown)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests(dir.path().join("cloud"));
        change(&mut config);
        let cloud = LocalCloud::start(config).await.unwrap();
        let nats = Nats::start().await;
        let client = nats.client("provision").await;
        provision::apply(&client, &Layout::default()).await.unwrap();
        Self {
            cloud,
            root: Root {
                batches: BatchLog::open(&client).await,
                tasks: TaskLog::open(&client).await,
                client,
            },
            client: nats.client("client").await,
            operator: nats.client("operator").await,
            nats,
            dir,
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
        let mark = json!({ "at": ambient::now() + from_now, "log_sequence": 0 });
        kv::put_mark(&self.root.client, SWEEPER_MARK, &mark)
            .await
            .unwrap();
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
        let path = self.dir.path().join(format!("{}.toml", ambient::uuid_v4()));
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
        let ec2 = match config.load_pools().unwrap().kinds().is_empty() {
            true => None,
            false => Some(self.ec2(&config.ec2).await),
        };
        let ctx = Context::new("trigger", SocketAddr::from(([127, 0, 0, 1], 0)));
        let nats = self.nats.client("trigger").await;
        spotreel_trigger::start(config, Deps { nats, ec2 }, ctx.clone())
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
        let child = binary(&settings)
            .envs([
                ("AWS_ACCESS_KEY_ID", "local"),
                ("AWS_SECRET_ACCESS_KEY", "local-secret"),
            ])
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Program { child, http }
    }

    /// Queues tasks; returns when the last of them was stored.
    pub async fn submit(&self, tasks: u32) {
        self.submit_for("ti2v-5B", tasks).await;
    }

    pub async fn submit_for(&self, model: &str, tasks: u32) {
        for _ in 0..tasks {
            let number = self.submitted.fetch_add(1, Ordering::Relaxed);
            let now = ambient::now();
            let takes_image = model == Model::I2vA14b.as_str();
            let request = TaskRequest {
                model: model.into(),
                prompt: "a red fox in the snow".into(),
                image: takes_image.then(|| ImageSource::S3Key("images/any".into())),
                ..TaskRequest::default()
            };
            let valid = request.validate(now).unwrap();
            let id = TaskId::parse(&format!("task-{number}")).unwrap();
            let step = Task::submit(id, valid.spec, valid.content_hash, now);
            let append = Append::new(step, 0, ambient::uuid_v4());
            self.root.tasks.append(&append).await.unwrap();
        }
    }

    /// Every batch that was ever asked for, newest first.
    pub async fn batches(&self) -> Vec<Batch> {
        let recent = self.root.batches.recent(100).await.unwrap();
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
        let last = self.root.batches.last(&pool()).await.unwrap().unwrap();
        let now = ambient::now();
        let mut batch = Batch {
            status: Status::Settled,
            ended_at: Some(now),
            at: now,
            ..last.batch
        };
        change(&mut batch);
        self.root
            .batches
            .append(&batch, last.sequence)
            .await
            .unwrap();
        batch
    }

    /// Asks as a client, over the border between the accounts.
    pub async fn ask(&self, subject: &str, body: &Value) -> Value {
        request(&self.client, subject, body).await
    }

    /// Orders as an operator.
    pub async fn order(&self, verb: &str, body: &Value) -> Value {
        let subject = format!("spotreel.ops.{verb}");
        request(&self.operator, &subject, body).await
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
    ) -> BTreeMap<PoolName, controls::StandingOrder<controls::Run>> {
        controls::all(&self.root.client).await.unwrap().runs
    }
}

impl Trigger {
    /// Stops it, and waits for all that it has begun.
    pub async fn stop(self) {
        self.ctx.stopping.cancel();
        self.ctx.tasks.close();
        self.ctx.tasks.wait().await;
    }
}

impl Program {
    /// The body of a page.
    pub async fn get(&self, path: &str) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(self.http).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: trigger\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let page = self.get("/metrics").await?;
        let line = page.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

pub fn pool() -> PoolName {
    PoolName::parse("default").unwrap()
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
    let sources = Sources {
        name: "trigger",
        defaults: DEFAULTS,
        overrides: settings.to_vec(),
        ..Sources::default()
    };
    load_from(&sources).unwrap()
}

/// The binary, not yet started, with these settings and no others.
pub fn binary(settings: &[(String, String)]) -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_spotreel-trigger")));
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

pub fn after(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A program that has started is heard of a moment later.
async fn request(client: &Client, subject: &str, body: &Value) -> Value {
    let began = Instant::now();
    loop {
        let request = async_nats::Request::new()
            .payload(body.to_string().into())
            .timeout(Some(Duration::from_secs(10)));
        match client.send_request(subject.to_owned(), request).await {
            Ok(answer) => return serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) => {
                let nobody = error.kind() == async_nats::RequestErrorKind::NoResponders;
                assert!(nobody && began.elapsed() < PATIENCE, "{subject}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
