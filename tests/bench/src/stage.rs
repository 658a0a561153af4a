//! The real programs between a real nats-server, as it is deployed, and the local cloud in this process, whose list of
//! calls says to the microsecond when each arrived.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::Client;
use spotreel_domain::fleet::cloud::Template;
use spotreel_ec2::{Ec2, Subnet, SubnetFilter, TemplateSpec};
use spotreel_localcloud::{Call, LocalCloud};
use spotreel_programs::{Invocation, Site};
use spotreel_s3::Store;
use spotreel_tests::harness::cloud::{ec2, store};
use spotreel_tests::harness::fleet::{Mark, in_process, subnets_of};
use spotreel_tests::harness::nats::password;
use spotreel_tests::harness::program::{ProgramSpec, site};
use spotreel_tests::harness::{Api, Nats, Program, eventually};
use tempfile::TempDir;

use super::tap::{PATIENCE, Tap};

pub const ENV: &str = "bench";
pub const KIND: &str = "g5.xlarge";
/// Longer than any round.
const LEASE: Duration = Duration::from_secs(30);
/// Milliseconds of a step of the simulated engine.
pub const STEP_MS: u32 = 10;

pub struct Stage {
    pub client: Client,
    pub api: Api,
    pub tap: Tap,
    pub ec2: Ec2,
    pub store: Store,
    pub template: Template,
    pub subnets: Vec<Subnet>,
    pub cloud: LocalCloud,
    _nats: Nats,
    pub dir: TempDir,
    site: Site,
    _intake: Program,
    _mark: Mark,
}

impl Stage {
    pub async fn set() -> Self {
        Box::pin(Self::build()).await
    }

    async fn build() -> Self {
        let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
        let nats = Nats::provisioned(LEASE).await;
        let (config, access) = in_process(&dir);
        let site = site(&nats.url, &access);
        let cloud = LocalCloud::start(config).await.expect("the cloud starts");
        let ec2 = ec2(&site.cloud).await;
        let store = store(&site.cloud).await;
        store
            .create_bucket_if_missing()
            .await
            .expect("a bucket can be made");
        let script = user_data(&site);
        let spec = TemplateSpec::new("spotreel-worker", "ami-0abcdef1234567890", script);
        let template = ec2.ensure_template(&spec).await.expect("a template");
        let subnets = ec2.subnets(&SubnetFilter::Default).await;

        let client = nats.client("provision").await;
        let intake = service(&site, "intake", dir.path());
        Self {
            api: Api::new(nats.client("client").await),
            tap: Tap::open(&client).await,
            _mark: Mark::keep(&client),
            _intake: Program::start(intake).await,
            subnets: subnets.expect("subnets"),
            client,
            ec2,
            store,
            template,
            cloud,
            _nats: nats,
            dir,
            site,
        }
    }

    /// Trigger and fleet over one pool that buys one machine at a time. All is as shipped, but for what is not waited
    /// for in a measured path: the patience after an end was asked for. The simulated engine needs no GPU that fits.
    pub async fn services(&self, threshold: u64) -> [Program; 2] {
        let pools = self.dir.path().join("pools.toml");
        let text = format!(
            "[pool.default]\nmodels = [\"t2v-A14B\"]\ncloud = \"aws\"\nsubnets = [{subnets}]\n\
             kinds = [{{ name = \"{KIND}\", cap = 0.45, gpu = \"h200\" }}]\n\
             [pool.default.rules]\nlength = {{ at_least = {threshold} }}\n\
             age = \"off\"\nprice = \"off\"\nschedule = \"off\"\n\
             sizing = {{ tasks_per_gpu_hour = 20.0, target = \"2h\", min = 1, max = 1 }}\n\
             [pool.default.patience]\nmoving = \"200ms\"\n",
            subnets = subnets_of(&self.subnets)
        );
        std::fs::write(&pools, text).expect("the pools can be written");
        let spec = |name: &str| {
            service(&self.site, name, self.dir.path()).buying(&pools, &self.site.cloud)
        };
        let fleet = spec("fleet")
            .set("env", ENV)
            .set("template.id", &self.template.id)
            .set("template.version", &self.template.version.to_string());
        let (trigger, fleet) = tokio::join!(Program::start(spec("trigger")), Program::start(fleet));
        [trigger, fleet]
    }

    /// Calls of EC2 that arrived after `from` and up to `to`.
    pub fn calls(&self, from: i64, to: i64) -> Vec<(i64, Call)> {
        let calls = self.cloud.calls().into_iter();
        let timed = calls.filter_map(|call| Some((i64::try_from(call.arrived_us).ok()?, call)));
        timed.filter(|(at, _)| *at > from && *at <= to).collect()
    }

    /// Waits for the first such call after `from`; when it arrived.
    pub async fn called(&self, action: &str, from: i64) -> i64 {
        eventually(&format!("{action} is called"), PATIENCE, || async {
            let calls = self.calls(from, i64::MAX);
            let mut found = calls.iter().filter(|(_, call)| call.action == action);
            found.next().map(|(at, _)| *at)
        })
        .await
    }

    /// Ends everything; no machine is left.
    pub async fn strike(self) {
        let Self { cloud, .. } = self;
        cloud.shutdown().await;
    }

    /// What a worker has logged, line by line: when, the words, the whole.
    pub fn said(&self, instance: &str) -> Vec<(i64, String, serde_json::Value)> {
        let path = self.console(instance);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
            let words = line["message"].as_str()?.to_owned();
            Some((at.as_microsecond(), words, line))
        });
        lines.collect()
    }

    pub fn console(&self, instance: &str) -> PathBuf {
        self.dir
            .path()
            .join("cloud/machines")
            .join(instance)
            .join("console.log")
    }
}

fn service(site: &Site, name: &str, dir: &Path) -> ProgramSpec {
    ProgramSpec::of(site.service(name, &password(name)), name, dir)
}

/// A machine is its worker, with the simulated engine. It never leaves by itself, and looks for a notice five times a second.
fn user_data(site: &Site) -> String {
    let mut variables = site.instance_variables(&password("worker"));
    variables.extend(site.cloud.keys());
    variables.push(("SPOTREEL_TELEMETRY__FORMAT".to_owned(), "json".to_owned()));
    let exports: String = variables
        .into_iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    let worker = Invocation::new(site.programs.path("worker"))
        .set("cloud.poll", "200ms")
        .set("idle.exit_after", "off")
        .engine(&site.programs.engine(Some(STEP_MS.into())));
    format!(
        "#!/bin/bash\nset -eu\nfor name in ${{!SPOTREEL_@}}; do unset \"$name\"; done\n{exports}\
         unset AWS_EC2_METADATA_DISABLED\nmkdir -p scratch\n\
         exec {worker} --set name=\"${{PWD##*/}}\" --set scratch=\"$PWD/scratch\"\n",
        worker = worker.shell_line(),
    )
}
