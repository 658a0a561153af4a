//! The real fleet between a real nats-server and the local cloud's EC2, which the test holds in its hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use serde_json::{Value, json};
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::AppendError;
use spotreel_bus::names::{SWEEPER_MARK, leader_key};
use spotreel_bus::{BatchLog, TaskLog, kv};
use spotreel_domain::batch::{Batch, BatchId, DrainMode, PoolName, Stop};
use spotreel_domain::fleet::cloud::tag;
use spotreel_domain::{Task, TaskId};
use spotreel_ec2::{Ec2, Subnet, SubnetFilter, TemplateSpec};
use spotreel_localcloud::{Action, Config, FaultPlan, InstanceReport, LocalCloud, Rule};
use spotreel_programs::{CloudAccess, Invocation, Site};
use spotreel_s3::Store;
use spotreel_test_kit::Logs;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::cloud::{ec2, store};
use super::nats::password;
use super::program::{ProgramSpec, binary, command, programs, site};
use super::{Nats, Program, eventually, free_port};

/// What carries this tag is ours.
pub const ENV: &str = "matrix";
pub const POOL: &str = "default";
const MODEL: &str = "ti2v-5B";
const CRASH_AT: &str = "SPOTREEL_CRASH_AT";
const ROUNDS: &str = "spotreel_fleet_rounds_total";
/// As monitor says that all is swept, where there is no monitor.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker's entry in the queue is its own.
const LEASE: Duration = Duration::from_secs(2);
/// A machine whose worker never says anything.
pub const SILENT: &str = "#!/bin/bash\nexec sleep 1000\n";

/// A pool with little patience, what the machines run, and what cloud there is.
pub struct FleetOptions {
    /// Types with their caps.
    pub kinds: Vec<(&'static str, f64)>,
    pub bid: &'static str,
    /// The most machines at once.
    pub max: u32,
    /// Over those of [`patience`].
    pub patience: Vec<(&'static str, &'static str)>,
    pub user_data: String,
    pub cloud: Box<dyn FnOnce(&mut Config) + Send>,
    /// `--set` for fleet.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            kinds: vec![("g5.xlarge", 0.45)],
            bid: "balanced",
            max: 12,
            patience: Vec::new(),
            user_data: SILENT.to_owned(),
            cloud: Box::new(|_| {}),
            settings: Vec::new(),
        }
    }
}

/// Minutes become seconds; what is not waited for in a test stays long.
fn patience() -> BTreeMap<&'static str, &'static str> {
    [
        ("boot", "5m"),
        ("life", "20m"),
        ("replay", "60s"),
        ("unknown_launch", "72s"),
        ("listing", "5s"),
        ("terminate_again", "1s"),
        ("silence", "3s"),
        ("drain", "3s"),
        ("no_capacity", "2m"),
        ("quota", "2m"),
        ("throttled", "1s"),
        ("blocked", "5m"),
        ("moving", "200ms"),
        ("calm", "500ms"),
    ]
    .into()
}

/// Says that all is swept, as monitor does, until it is dropped.
pub struct Mark(JoinHandle<()>);

impl Mark {
    pub fn keep(client: &Client) -> Self {
        let client = client.clone();
        Self(tokio::spawn(async move {
            loop {
                let mark = json!({ "at": ambient::now(), "log_sequence": 0 });
                // Without a server there is nobody who could read it.
                let _ = kv::put_mark(&client, SWEEPER_MARK, &mark).await;
                tokio::time::sleep(MARK_EVERY).await;
            }
        }))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct FleetStage {
    pub fleet: Program,
    pub cloud: LocalCloud,
    pub ec2: Ec2,
    pub client: Client,
    pub batches: BatchLog,
    pub tasks: TaskLog,
    pub nats: Nats,
    pub dir: TempDir,
    site: Site,
    _mark: Mark,
}

impl Drop for FleetStage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== fleet\n{}", self.fleet.log_text());
            eprintln!("== cloud\n{:#?}", self.cloud.instances());
        }
    }
}

impl FleetStage {
    /// All of it, with a fleet that is ready.
    pub async fn set(options: FleetOptions) -> Self {
        let mut stage = Self::without_fleet(options).await;
        stage.start().await;
        stage
    }

    /// All of it, and fleet dies at this point.
    pub async fn that_dies_at(point: &str, options: FleetOptions) -> Self {
        let mut stage = Self::without_fleet(options).await;
        let crash = (CRASH_AT.to_owned(), point.to_owned());
        stage.fleet.spec.run.variables.push(crash);
        stage.start().await;
        stage
    }

    /// Fleet is known, and does not run.
    pub async fn without_fleet(options: FleetOptions) -> Self {
        Box::pin(Self::build(options)).await
    }

    async fn build(options: FleetOptions) -> Self {
        let dir = TempDir::with_prefix("spotreel-fleet-").expect("a directory can be made");
        let nats = Nats::provisioned(LEASE).await;
        let (mut config, access) = in_process(&dir);
        config.machine_grace = Duration::from_secs(2);
        let site = site(&nats.url, &access);
        let mut variables = site.instance_variables(&password("worker"));
        variables.extend(site.cloud.keys());
        variables.push(("SPOTREEL_PULL_WAIT".to_owned(), "1s".to_owned()));
        config.instance_variables = variables;
        (options.cloud)(&mut config);
        let cloud = LocalCloud::start(config).await.expect("the cloud starts");
        let ec2 = ec2(&site.cloud).await;
        let spec = TemplateSpec::new(
            "spotreel-worker",
            "ami-0abcdef1234567890",
            options.user_data,
        );
        let template = ec2.ensure_template(&spec).await.expect("a template");
        let subnets = ec2.subnets(&SubnetFilter::Default).await.expect("subnets");

        let mut text = format!("[pool.{POOL}]\ncloud = \"aws\"\nmodels = [\"{MODEL}\"]\n");
        let kinds: Vec<_> = options
            .kinds
            .iter()
            .map(|(name, cap)| format!("{{ name = \"{name}\", cap = {cap} }}"))
            .collect();
        let (subnets, kinds, bid) = (subnets_of(&subnets), kinds.join(", "), options.bid);
        // One task keeps one machine busy for the whole target: a machine a task.
        let max = options.max;
        let sizing =
            format!("{{ tasks_per_gpu_hour = 0.5, target = \"2h\", min = 1, max = {max} }}");
        write!(
            text,
            "subnets = [{subnets}]\nkinds = [{kinds}]\nbid = \"{bid}\"\nrules.sizing = {sizing}\n\
             [pool.{POOL}.patience]\n"
        )
        .expect("a string can be written to");
        let mut patience = patience();
        patience.extend(options.patience);
        for (key, span) in patience {
            writeln!(text, "{key} = \"{span}\"").expect("a string can be written to");
        }
        let pools = dir.path().join("pools.toml");
        std::fs::write(&pools, text).expect("the pools can be written");

        let run = site.service("fleet", &password("fleet"));
        let mut spec = ProgramSpec::of(run, "fleet", dir.path())
            .buying(&pools, &site.cloud)
            .env("SPOTREEL_TELEMETRY__LOG", "info,spotreel_fleet=debug")
            .set("env", ENV)
            .set("template.id", &template.id)
            .set("template.version", &template.version.to_string())
            .set("rounds.gap", "20ms")
            .set("sweep.every", "500ms")
            .set("sweep.orphan_grace", "2s");
        for (key, value) in options.settings {
            spec = spec.set(key, value);
        }
        let client = nats.client("provision").await;
        Self {
            fleet: Program::idle(spec),
            batches: BatchLog::open(&client).await,
            tasks: TaskLog::open(&client).await,
            cloud,
            ec2,
            nats,
            dir,
            site,
            _mark: Mark::keep(&client),
            client,
        }
    }

    pub async fn start(&mut self) {
        self.fleet.begin();
        self.fleet.ready().await;
    }

    /// Waits until fleet has died at its point; it will not again.
    pub async fn until_dead(&mut self) {
        let code = self.fleet.left(PATIENCE).await;
        assert_eq!(code, None, "it was killed, and did not leave");
        self.fleet
            .spec
            .run
            .variables
            .retain(|(key, _)| key != CRASH_AT);
    }

    /// The next fleet. That the lease of a dead one ends by itself is shown elsewhere; here it is given back for it.
    pub async fn start_next(&mut self) {
        self.give_back_lease().await;
        self.start().await;
    }

    pub async fn give_back_lease(&self) {
        let nobody = json!({ "holder": null }).to_string();
        self.client
            .publish(leader_key("fleet"), nobody.into())
            .await
            .expect("the lease can be written");
        self.client.flush().await.expect("NATS answers");
    }

    /// `spotreel fleet reap`, which knows the cloud and nothing else.
    pub fn reaper(&self, how: &[&str]) -> Command {
        let cloud = &self.site.cloud;
        let run = Invocation::new(binary("spotreel"))
            .args(["fleet", "reap", "--env", ENV, "--region", &cloud.region])
            .args(["--endpoint", &cloud.endpoint])
            .args(how.iter().copied())
            .envs(cloud.variables());
        command(&run)
    }

    /// A second fleet beside the first, not started yet.
    pub fn another_fleet(&self) -> Program {
        // Where it listens goes before where the first does.
        let run = self.fleet.spec.run.clone();
        Program::idle(ProgramSpec::of(run, "fleet", self.dir.path()))
    }

    pub fn faults(&self, rules: Vec<Rule>) {
        self.cloud.faults().set(FaultPlan { seed: 7, rules });
    }

    /// The smallest tasks that there are, of so many steps.
    pub async fn submit(&self, count: usize, steps: u32) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let request = TaskRequest {
                model: MODEL.into(),
                prompt: "a red fox in the snow".into(),
                steps: Some(steps),
                ..TaskRequest::default()
            };
            let id = super::tasks::task_id("matrix");
            let small = |task: &mut Task| {
                (task.spec.width, task.spec.height, task.spec.frames) = (128, 96, 9);
            };
            self.logs().submit_as(id.as_str(), &request, small).await;
            ids.push(id);
        }
        ids
    }

    /// The next batch, for tasks that are there.
    pub async fn request(&self, units: u32) -> BatchId {
        self.logs().request(&pool(), units).await.id
    }

    fn logs(&self) -> Logs {
        Logs {
            client: self.client.clone(),
            tasks: self.tasks.clone(),
            batches: self.batches.clone(),
        }
    }

    /// So many tasks, and a batch with a machine for each.
    pub async fn want(&self, units: u32) -> BatchId {
        // Fleet counts the queue at the beginning of a look: one that is under way now would count a part of the tasks.
        eventually("fleet has looked and rests", PATIENCE, || async {
            let text = self.metrics().await?;
            let mut rounds = text.lines().filter(|line| line.starts_with(ROUNDS));
            rounds.find(|line| line.contains("idle")).map(drop)
        })
        .await;
        self.submit(units as usize, 4).await;
        self.request(units).await
    }

    pub async fn batch(&self) -> Batch {
        let last = self.batches.last(&pool()).await.expect("NATS answers");
        last.expect("a batch was asked for").batch
    }

    /// Waits until the batch is as `holds` says, and gives it.
    pub async fn until_batch(&self, what: &str, holds: impl Fn(&Batch) -> bool) -> Batch {
        let began = std::time::Instant::now();
        loop {
            let batch = self.batch().await;
            if holds(&batch) {
                return batch;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}\n{batch:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_machines(&self, count: usize) -> Batch {
        let what = format!("{count} machines in the record");
        self.until_batch(&what, |batch| batch.instances.len() == count)
            .await
    }

    /// Writes over the batch, as another hand on the same log.
    pub async fn rewrite(&self, change: impl Fn(&mut Batch)) {
        loop {
            let last = self.batches.last(&pool()).await.expect("NATS answers");
            let last = last.expect("a batch was asked for");
            let mut batch = last.batch;
            change(&mut batch);
            match self.batches.append(&batch, last.sequence).await {
                Ok(_) => return,
                Err(AppendError::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// An operator's order that the batch ends at once. It is in the log as fleet would write it, also while none runs.
    pub async fn stop(&self) {
        self.rewrite(|batch| *batch = batch.stopped(stop_now()))
            .await;
    }

    pub async fn until_over(&self) -> Batch {
        self.until_batch("the batch is over", |batch| !batch.is_active())
            .await
    }

    /// Stops the batch, waits for its end, and checks what has to be so then.
    pub async fn wind_up(&self) -> Batch {
        self.stop().await;
        let batch = self.until_over().await;
        self.at_rest();
        batch
    }

    /// Nothing of ours runs, and no launch made two fleets.
    pub fn at_rest(&self) {
        let alive = self.running();
        assert!(alive.is_empty(), "these still run: {alive:?}");
        self.one_fleet_a_launch();
    }

    pub fn one_fleet_a_launch(&self) {
        let mut fleets = BTreeMap::<_, BTreeSet<_>>::new();
        for one in self.ours() {
            let tag = |key: &str| one.tags.get(key).cloned().unwrap_or_default();
            let launch = (tag(tag::BATCH), tag(tag::LAUNCH));
            fleets.entry(launch).or_default().insert(one.fleet_id);
        }
        for (launch, fleets) in fleets {
            assert_eq!(fleets.len(), 1, "{launch:?} made more than one fleet");
        }
    }

    /// Everything that was ever launched with our tags.
    pub fn ours(&self) -> Vec<InstanceReport> {
        let mut all = self.cloud.instances();
        all.retain(|one| one.tags.get(tag::ENV).map(String::as_str) == Some(ENV));
        all
    }

    /// What costs money, also on its way to its end.
    pub fn running(&self) -> Vec<String> {
        let all = self.ours().into_iter();
        let alive = all.filter(|one| one.state != "terminated");
        alive.map(|one| one.id).collect()
    }

    pub async fn until_running(&self, count: usize) {
        let what = format!("{count} machines run");
        eventually(&what, PATIENCE, || async {
            (self.running().len() == count).then_some(())
        })
        .await;
    }

    /// The calls that have ended, by their tokens.
    pub fn launches(&self) -> Vec<String> {
        let calls = self.cloud.calls().into_iter();
        let launches = calls.filter(|call| call.action == "CreateFleet");
        launches.filter_map(|call| call.client_token).collect()
    }

    pub fn calls(&self, action: &str) -> usize {
        let calls = self.cloud.calls();
        calls.iter().filter(|call| call.action == action).count()
    }

    /// How often the rule at this place of the plan has fired.
    pub fn fired(&self, rule: usize) -> u32 {
        self.cloud.faults().report()[rule].fired
    }

    pub async fn until_fired(&self, rule: usize, times: u32) {
        eventually("the fault happens", PATIENCE, || async {
            (self.fired(rule) >= times).then_some(())
        })
        .await;
    }

    /// Asks as an operator inside the services' account.
    pub async fn ask(&self, verb: &str, body: &Value) -> Value {
        let request = self
            .client
            .request(format!("spotreel.{verb}"), body.to_string().into());
        let answer = request.await.expect("fleet answers");
        serde_json::from_slice(&answer.payload).expect("it answers in JSON")
    }

    /// What fleet says of itself at `/readyz`.
    pub async fn health(&self) -> Option<Value> {
        let url = format!("{}/readyz", self.fleet.url());
        let body = reqwest::get(url).await.ok()?.bytes().await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    async fn metrics(&self) -> Option<String> {
        let url = format!("{}/metrics", self.fleet.url());
        reqwest::get(url).await.ok()?.text().await.ok()
    }

    /// The bucket, made if it is missing.
    pub async fn store(&self) -> Store {
        let store = store(&self.site.cloud).await;
        store
            .create_bucket_if_missing()
            .await
            .expect("the bucket can be made");
        store
    }
}

pub fn stop_now() -> Stop {
    Stop {
        mode: DrainMode::Now,
        by: "a test".to_owned(),
        reason: None,
        at: ambient::now(),
    }
}

pub fn pool() -> PoolName {
    PoolName::parse(POOL).expect("it is a name")
}

/// A failure of every call of `op`, to be narrowed by the caller.
pub fn rule(op: &str, action: Action) -> Rule {
    Rule::new(op, action)
}

/// The user data of a machine that runs the real worker over the simulated engine, whose steps take so long.
pub fn worker_user_data(step_ms: u32) -> String {
    worker_user_data_with(step_ms, "")
}

/// The same with more arguments for the worker.
pub fn worker_user_data_with(step_ms: u32, more: &str) -> String {
    let programs = programs();
    let worker = Invocation::new(programs.path("worker"))
        .engine(&programs.engine(Some(step_ms.into())))
        .set("cloud.poll", "200ms");
    format!(
        // What the tests themselves are told is no key of a worker.
        "#!/bin/bash\nunset SPOTREEL_BIN_DIR SPOTREEL_NATS_SERVER\nexec {} {more}\n",
        worker.shell_line()
    )
}

/// A cloud within this process, and how programs reach it.
pub fn in_process(dir: &TempDir) -> (Config, CloudAccess) {
    let mut config = Config::for_tests(dir.path().join("cloud"));
    config.listen.set_port(free_port());
    let access = CloudAccess {
        endpoint: format!("http://{}", config.listen),
        region: config.region.clone(),
        bucket: "spotreel".to_owned(),
        access_key: config.access_key.clone(),
        secret_key: config.secret_key.clone(),
    };
    (config, access)
}

/// As a pools file names them.
pub fn subnets_of(subnets: &[Subnet]) -> String {
    let each = subnets
        .iter()
        .map(|of| format!("{{ id = \"{}\", zone = \"{}\" }}", of.id, of.zone));
    each.collect::<Vec<_>>().join(", ")
}
