//! A real nats-server, the local cloud's EC2, and fleet between them. Machines sleep; their workers are played by the
//! test, so that it decides when one is busy.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod workers;

use std::time::{Duration, Instant};

use async_nats::Client;
use serde_json::Value;
use spotreel_bootstrap::Context;
use spotreel_domain::batch::{Batch, PoolName, Status};
use spotreel_domain::fleet::cloud::tag;
use spotreel_ec2::{Ec2, Ec2Config, Keys, SubnetFilter, TemplateSpec};
use spotreel_fleet::{DEFAULTS, Deps, FleetConfig, Lead};
use spotreel_localcloud::{Config, TestCloud};
use spotreel_test_kit::{Logs, Nats, POLL, ask, load_config, password};
pub use spotreel_test_kit::{context, failing, stop, until};
use workers::Workers;

pub const ENV: &str = "test";
/// One instance type, little patience.
pub const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 5.0 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 5 }
patience = { moving = "200ms", calm = "500ms" }
"#;
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);

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
    pub cloud: TestCloud,
    pub ec2: Ec2,
    pub ctx: Context,
    pub logs: Logs,
    pub workers: Workers,
    /// On the other side of the border.
    operator: Client,
    settings: Vec<(String, String)>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ctx.stopping.cancel();
    }
}

impl Stage {
    /// All but fleet, with some keys of the pool laid over those of the tests.
    pub async fn set(pool: &str) -> Self {
        Self::over(None, pool, SLEEPS, |_| {}).await
    }

    /// As [`Stage::set`], with machines that do something else than sleep.
    pub async fn with_machines(pool: &str, user_data: &str) -> Self {
        Self::over(None, pool, user_data, |_| {}).await
    }

    /// As [`Stage::with_machines`], over another local cloud.
    pub async fn with_cloud(pool: &str, user_data: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::over(None, pool, user_data, change).await
    }

    /// As [`Stage::set`], over another cloud than the local one, which stays idle.
    pub async fn over_moto(endpoint_url: String, pool: &str) -> Self {
        Self::over(Some(endpoint_url), pool, SLEEPS, |_| {}).await
    }

    async fn over(
        endpoint_url: Option<String>,
        pool: &str,
        user_data: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let nats = Nats::for_services().await;
        let logs = Logs::of(&nats).await;
        logs.keep_swept();
        let cloud = TestCloud::with(change).await;
        let at = Ec2Config {
            region: spotreel_localcloud::REGION.to_owned(),
            endpoint_url: endpoint_url.or(Some(cloud.endpoint_url())),
        };
        let keys = Keys {
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
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
        let pools = cloud.dir.path().join("pools.toml");
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
            operator: nats.client("operator").await,
            nats,
            cloud,
            ec2,
            ctx: context("fleet"),
            workers: Workers::new(&logs),
            logs,
            settings: settings.map(|(k, v)| (k.to_owned(), v)).to_vec(),
        }
    }

    pub fn stop_nats(&mut self) {
        self.nats.kill9();
    }

    pub async fn start_fleet(&self) {
        self.start_fleet_as(Lead::ByLease, &self.ctx).await;
    }

    pub fn config(&self) -> FleetConfig {
        load_config("fleet", DEFAULTS, &self.settings)
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
            pools: config.load_pools().unwrap(),
            lead,
        };
        spotreel_fleet::start(config, deps, ctx.clone())
            .await
            .unwrap();
    }

    pub async fn request(&self, units: u32) -> Batch {
        self.logs.request(&pool(), units).await
    }

    pub async fn batch(&self) -> Batch {
        self.logs.batch(&pool()).await
    }

    /// Waits until the batch is as `holds` says, and gives it.
    pub async fn until_batch(&self, what: &str, holds: impl Fn(&Batch) -> bool) -> Batch {
        let began = Instant::now();
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
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn until_machines(&self, count: usize) -> Batch {
        let what = format!("{count} machines");
        self.until_batch(&what, |batch| batch.instances.len() == count)
            .await
    }

    pub async fn until_status(&self, status: &Status) -> Batch {
        self.until_batch(status.name(), |batch| batch.status == *status)
            .await
    }

    pub async fn until_over(&self) -> Batch {
        self.until_batch("over", |batch| !batch.is_active()).await
    }

    pub async fn submit(&self, id: &str) {
        self.logs.submit(id).await;
    }

    pub async fn submit_all(&self, ids: &[&str]) {
        for id in ids {
            self.submit(id).await;
        }
    }

    /// These tasks, a fleet, and a batch with a machine for each of them; the machines' ids.
    pub async fn bring_up(&self, tasks: &[&str]) -> Vec<String> {
        self.submit_all(tasks).await;
        self.start_fleet().await;
        self.request(u32::try_from(tasks.len()).unwrap()).await;
        let batch = self.until_machines(tasks.len()).await;
        let machines = batch.instances.into_iter();
        machines.map(|machine| machine.id).collect()
    }

    /// Asks as an operator.
    pub async fn ask(&self, verb: &str, body: &Value) -> Value {
        ask(&self.operator, &format!("spotreel.{verb}"), body).await
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

pub fn pool() -> PoolName {
    spotreel_test_kit::pool("default")
}
