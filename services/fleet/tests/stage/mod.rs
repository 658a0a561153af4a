//! A real nats-server, the local cloud's EC2, and fleet between them. Machines sleep; their workers are played by the
//! test, so that it decides when one is busy.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use spotreel_bootstrap::config::{Sources, load_from};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::log::Append;
use spotreel_bus::names::{SWEEPER_MARK, TASKS, work_consumer, worker_drain};
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{BatchLog, Queue, TaskLog, kv};
use spotreel_domain::batch::{Batch, PoolName, Wanted};
use spotreel_domain::fleet::cloud::tag;
use spotreel_domain::model::{Lane, Priority};
use spotreel_domain::{Model, Task, TaskId, TaskRequest};
use spotreel_ec2::{Ec2, Ec2Config, Keys, SubnetFilter, TemplateSpec};
use spotreel_fleet::{DEFAULTS, Deps, FleetConfig, Lead};
use spotreel_localcloud::{Config, LocalCloud};
use spotreel_proto::worker::v1::{Presence, State};
pub use spotreel_test_nats::until;
use spotreel_test_nats::{Nats, password};
use tempfile::TempDir;

pub const ENV: &str = "test";
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);
/// As monitor marks that all is swept, where there is no monitor.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// What a machine runs.
const SLEEPS: &str = "#!/bin/bash\nexec sleep 600\n";

/// As `spotreel fleet template` makes it, for an account whose policy demands one tag more.
pub fn template_of_spot(user_data: &str) -> TemplateSpec {
    let tags = [
        (tag::ENV, ENV),
        (tag::MANAGED_BY, tag::MANAGED_BY_FLEET),
        ("cost-center", "42"),
    ];
    TemplateSpec {
        tags: tags
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        spot_only: true,
        ..TemplateSpec::new("spotreel-worker", "ami-0abcdef1234567890", user_data)
    }
}

pub struct Stage {
    nats: Nats,
    pub cloud: LocalCloud,
    pub ec2: Ec2,
    pub ctx: Context,
    pub root: Option<Root>,
    pub dir: TempDir,
    settings: Vec<(String, String)>,
}

/// Connections with every right.
#[derive(Clone)]
pub struct Root {
    pub client: Client,
    /// On the other side of the border.
    pub operator: Client,
    pub batches: BatchLog,
    pub tasks: TaskLog,
    pub workers: Workers,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
    }
}

impl Stage {
    /// All but fleet, with some keys of the pool laid over those of the tests.
    pub async fn set(pool: &str) -> Self {
        let mut stage = Self::without_nats(pool, |_| {}).await;
        stage.start_nats().await;
        stage
    }

    /// As [`Stage::set`], with machines that do something else than sleep.
    pub async fn with_machines(pool: &str, user_data: &str) -> Self {
        let mut stage = Self::over(None, pool, user_data, |_| {}).await;
        stage.start_nats().await;
        stage
    }

    /// As [`Stage::with_machines`], over another local cloud.
    pub async fn with_cloud(pool: &str, user_data: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut stage = Self::over(None, pool, user_data, change).await;
        stage.start_nats().await;
        stage
    }

    pub async fn without_nats(pool: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::over(None, pool, SLEEPS, change).await
    }

    /// As [`Stage::set`], over another cloud than the local one, which stays idle.
    pub async fn over_moto(endpoint_url: String, pool: &str) -> Self {
        let mut stage = Self::over(Some(endpoint_url), pool, SLEEPS, |_| {}).await;
        stage.start_nats().await;
        stage
    }

    async fn over(
        endpoint_url: Option<String>,
        pool: &str,
        user_data: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let shown = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(shown)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let nats = Nats::idle();
        let mut config = Config::for_tests(dir.path().join("cloud"));
        change(&mut config);
        let keys = Keys {
            access_key: config.access_key.clone(),
            secret_key: config.secret_key.clone(),
        };
        let region = config.region.clone();
        let cloud = LocalCloud::start(config).await.unwrap();
        let at = Ec2Config {
            region,
            endpoint_url: endpoint_url.or(Some(cloud.endpoint_url())),
        };
        let ec2 = Ec2::connect_with_keys(&at, keys).await;
        let template = ec2
            .ensure_template(&template_of_spot(user_data))
            .await
            .unwrap();
        let on_demand = TemplateSpec {
            spot_only: false,
            ..template_of_spot(user_data)
        };
        let on_demand = ec2.ensure_template(&on_demand).await.unwrap();
        let subnets = ec2.subnets(&SubnetFilter::Default).await.unwrap();
        let subnets = subnets
            .iter()
            .map(|subnet| format!("{{ id = \"{}\", zone = \"{}\" }}", subnet.id, subnet.zone));
        let subnets: Vec<_> = subnets.collect();
        let pools = dir.path().join("pools.toml");
        let text = format!(
            "[pool.default]\ncloud = \"aws\"\nsubnets = [{}]\n{pool}\n",
            subnets.join(", ")
        );
        std::fs::write(&pools, text).unwrap();
        let settings = [
            ("env", ENV.to_owned()),
            ("pools", pools.display().to_string()),
            ("template.id", template.id),
            ("template.version", template.version.to_string()),
            ("template.on_demand_version", on_demand.version.to_string()),
            ("rounds.gap", "20ms".to_owned()),
            ("sweep.every", "500ms".to_owned()),
            ("nats.url", nats.url.clone()),
            ("nats.password", password("fleet")),
        ];
        Self {
            nats,
            cloud,
            ec2,
            ctx: Context::new("fleet", SocketAddr::from(([127, 0, 0, 1], 0))),
            root: None,
            dir,
            settings: settings.map(|(k, v)| (k.to_owned(), v)).to_vec(),
        }
    }

    pub async fn start_nats(&mut self) {
        self.nats.begin().await;
        let client = self.nats.client("provision").await;
        provision::apply(&client, &Layout::default()).await.unwrap();
        let root = Root {
            batches: BatchLog::open(&client).await,
            tasks: TaskLog::open(&client).await,
            workers: Workers::new(&client),
            operator: self.nats.client("operator").await,
            client,
        };
        tokio::spawn(mark(root.client.clone()));
        self.root = Some(root);
    }

    pub fn stop_nats(&mut self) {
        self.nats.kill9();
    }

    pub fn root(&self) -> &Root {
        self.root.as_ref().unwrap()
    }

    pub async fn start_fleet(&self) {
        self.start_fleet_as(Lead::ByLease, &self.ctx).await;
    }

    pub fn config(&self) -> FleetConfig {
        let sources = Sources {
            name: "fleet",
            defaults: DEFAULTS,
            overrides: self.settings.clone(),
            ..Sources::default()
        };
        load_from(&sources).unwrap()
    }

    /// For a fleet that is started later.
    pub fn set_key(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    pub async fn start_fleet_as(&self, lead: Lead, ctx: &Context) {
        let config = self.config();
        let nats = spotreel_bus::connect(&config.nats, "fleet", true).await;
        let deps = Deps {
            nats: nats.unwrap(),
            ec2: Some(self.ec2.clone()),
            lead,
        };
        spotreel_fleet::start(config, deps, ctx.clone())
            .await
            .unwrap();
    }

    pub async fn request(&self, units: u32) -> Batch {
        let pool = PoolName::parse("default").unwrap();
        let log = &self.root().batches;
        let last = log.last(&pool).await.unwrap();
        let now = ambient::now();
        let wanted = Wanted {
            rule: "length".to_owned(),
            why: "a test wants it".to_owned(),
            units,
            slot: None,
            deadline: now + Duration::from_secs(3_600),
        };
        let batch = Batch::request(&pool, last.as_ref().map(|r| &r.batch), wanted, now).unwrap();
        log.append(&batch, last.map_or(0, |r| r.sequence))
            .await
            .unwrap();
        batch
    }

    pub async fn batch(&self) -> Batch {
        let pool = PoolName::parse("default").unwrap();
        let last = self.root().batches.last(&pool).await.unwrap();
        last.unwrap().batch
    }

    /// Waits until the batch is as `holds` says, and gives it.
    pub async fn until_batch(&self, what: &str, holds: impl Fn(&Batch) -> bool) -> Batch {
        let began = std::time::Instant::now();
        loop {
            let batch = self.batch().await;
            if holds(&batch) {
                return batch;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "never: {what}\n{batch:#?}\n{:#?}\n{:?}",
                self.cloud.instances(),
                self.ctx.health.readiness()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn submit(&self, id: &str) {
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox in the snow".into(),
            ..TaskRequest::default()
        };
        let now = ambient::now();
        let valid = request.validate(now).unwrap();
        let id = TaskId::parse(id).unwrap();
        let step = Task::submit(id, valid.spec, valid.content_hash, now);
        let append = Append::new(step, 0, ambient::uuid_v4());
        self.root().tasks.append(&append).await.unwrap();
    }

    /// Asks as an operator.
    pub async fn ask(&self, verb: &str, body: &Value) -> Value {
        let client = &self.root().operator;
        let request = async_nats::Request::new()
            .payload(body.to_string().into())
            .timeout(Some(Duration::from_secs(10)));
        let answer = client
            .send_request(format!("spotreel.{verb}"), request)
            .await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    }

    pub fn running(&self) -> Vec<String> {
        let all = self.cloud.instances().into_iter();
        let alive = all.filter(|i| i.state == "running" || i.state == "pending");
        alive.map(|instance| instance.id).collect()
    }

    pub fn calls(&self, action: &str) -> usize {
        let calls = self.cloud.calls();
        calls.iter().filter(|call| call.action == action).count()
    }
}

/// Workers as the test plays them: presence, answers to drains, and tasks that succeed when it says so.
#[derive(Clone)]
pub struct Workers {
    client: Client,
    states: Arc<Mutex<BTreeMap<String, State>>>,
}

impl Workers {
    fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            states: Arc::default(),
        }
    }

    pub async fn say(&self, instance: &str, state: State) {
        self.states
            .lock()
            .unwrap()
            .insert(instance.to_owned(), state);
        let presence = Presence {
            worker: format!("w-{instance}"),
            instance: instance.to_owned(),
            models: vec!["ti2v-5B".to_owned()],
            pool: "default".to_owned(),
            state: state.into(),
            task: match state {
                State::Busy | State::Draining => "a-task".to_owned(),
                _ => String::new(),
            },
            at_ms: ambient::now().as_millisecond(),
            ..Presence::default()
        };
        kv::put_presence(&self.client, &presence).await.unwrap();
    }

    /// The worker of a machine that EC2 takes has handed back what it held.
    pub async fn hand_back(&self, instance: &str, notice_at: Timestamp) {
        let mut presences = kv::presences(&self.client).await.unwrap().into_iter();
        let presence = presences.find(|p| p.instance == instance).unwrap();
        let presence = Presence {
            state: State::Drained.into(),
            task: String::new(),
            notice_at_ms: notice_at.as_millisecond(),
            ..presence
        };
        kv::put_presence(&self.client, &presence).await.unwrap();
    }

    /// A worker comes up on this machine. One that is idle is drained at once when told; a busy one when it is `done`,
    /// or told to hand back.
    pub async fn come_up(&self, instance: &str, state: State) {
        let mut orders = self.client.subscribe(worker_drain(instance)).await.unwrap();
        self.client.flush().await.unwrap();
        self.say(instance, state).await;
        let (workers, instance) = (self.clone(), instance.to_owned());
        tokio::spawn(async move {
            while let Some(order) = orders.next().await {
                let body: Value = serde_json::from_slice(&order.payload).unwrap();
                let busy = {
                    let states = workers.states.lock().unwrap();
                    matches!(states[&instance], State::Busy | State::Draining)
                };
                let (state, word) = match busy && body["mode"] == "finish" {
                    true => (State::Draining, "draining"),
                    false => (State::Drained, "drained"),
                };
                workers.say(&instance, state).await;
                let reply = json!({ "state": word }).to_string();
                let to = order.reply.unwrap();
                workers.client.publish(to, reply.into()).await.unwrap();
            }
        });
    }

    /// Takes a task from the queue and says so.
    pub async fn take(&self, log: &TaskLog, instance: &str) -> InHand {
        let name = work_consumer(Model::Ti2v5b, Lane::front(Priority::Normal));
        let queue = Queue::open(&self.client, TASKS, &name).await.unwrap();
        let delivery = queue.pull(PATIENCE).await.unwrap().unwrap();
        let task = delivery.recorded().unwrap().task;
        let step = task
            .started(&format!("w-{instance}"), instance, 0, ambient::now())
            .unwrap();
        let (event, started) = step;
        let append = Append::new(
            (event, started.clone()),
            delivery.sequence,
            ambient::uuid_v4(),
        );
        let sequence = log.append(&append).await.unwrap();
        self.say(instance, State::Busy).await;
        InHand {
            task: started.placed_at(sequence, event),
            sequence,
            delivery,
        }
    }

    pub async fn succeed(&self, log: &TaskLog, instance: &str, hand: InHand) {
        let id = &hand.task.id;
        let artifact = spotreel_domain::task::Artifact {
            bucket: "spotreel".into(),
            key: format!("renders/{id}/1.mp4"),
            sha256: "0".repeat(64),
            bytes: 1,
            width: 832,
            height: 480,
            frames: 5,
            fps: 16,
            engine: "none".into(),
            poster: None,
        };
        let step = hand.task.succeeded(artifact, ambient::now()).unwrap();
        let append = Append::new(step, hand.sequence, ambient::uuid_v4());
        log.append(&append).await.unwrap();
        hand.delivery.ack().await.unwrap();
        self.say(instance, State::Idle).await;
    }
}

pub struct InHand {
    task: Task,
    sequence: u64,
    delivery: spotreel_bus::Delivery,
}

async fn mark(client: Client) {
    loop {
        let mark = json!({ "at": ambient::now(), "log_sequence": 0 });
        let _ = kv::put_mark(&client, SWEEPER_MARK, &mark).await;
        tokio::time::sleep(MARK_EVERY).await;
    }
}
