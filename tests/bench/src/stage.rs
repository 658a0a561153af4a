//! The real programs between a real nats-server, as it is deployed, and the local cloud in this process, whose list of
//! calls says to the microsecond when each arrived.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::Client;
use serde_json::json;
use spotreel_bootstrap::ambient;
use spotreel_bus::kv;
use spotreel_bus::names::SWEEPER_MARK;
use spotreel_domain::fleet::cloud::Template;
use spotreel_ec2::{Ec2, Ec2Config, Keys, Subnet, SubnetFilter, TemplateSpec};
use spotreel_localcloud::{Call, Config, LocalCloud};
use spotreel_s3::{Store, StoreConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::tap::{PATIENCE, Tap};
use crate::harness::nats::password;
use crate::harness::program::{Spec, binary};
use crate::harness::{Api, Nats, Program, eventually};

pub const ENV: &str = "bench";
pub const KIND: &str = "g5.xlarge";
const BUCKET: &str = "spotreel";
/// As monitor says that all is swept, where there is no monitor.
const MARK_EVERY: Duration = Duration::from_secs(1);
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
    pub nats: Nats,
    pub dir: TempDir,
    keys: Keys,
    _intake: Program,
    _mark: Mark,
}

/// Marks until it is dropped.
pub struct Mark(JoinHandle<()>);

impl Mark {
    pub fn keep(client: &Client) -> Self {
        Self(tokio::spawn(mark(client.clone())))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stage {
    pub async fn set() -> Self {
        Box::pin(Self::build()).await
    }

    async fn build() -> Self {
        let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
        let nats = Nats::provisioned(LEASE).await;
        let config = Config::for_tests(dir.path().join("cloud"));
        let keys = Keys {
            access_key: config.access_key.clone(),
            secret_key: config.secret_key.clone(),
        };
        let region = config.region.clone();
        let cloud = LocalCloud::start(config).await.expect("the cloud starts");
        let endpoint_url = Some(cloud.endpoint_url());
        let at = Ec2Config {
            region: region.clone(),
            endpoint_url: endpoint_url.clone(),
        };
        let ec2 = Ec2::connect_with_keys(&at, keys.clone()).await;
        let s3 = StoreConfig {
            bucket: BUCKET.into(),
            region,
            endpoint_url,
            force_path_style: true,
            public_endpoint_url: None,
        };
        let s3_keys = spotreel_s3::Keys::new(&keys.access_key, &keys.secret_key);
        let store = Store::connect_with_keys(&s3, s3_keys).await;
        store
            .create_bucket_if_missing()
            .await
            .expect("a bucket can be made");
        let script = user_data(&nats, &cloud, &keys);
        let spec = TemplateSpec::new("spotreel-worker", "ami-0abcdef1234567890", script);
        let template = ec2.ensure_template(&spec).await.expect("a template");
        let subnets = ec2.subnets(&SubnetFilter::Default).await;

        let client = nats.client("provision").await;
        let intake = Spec::new("intake", dir.path())
            .env("SPOTREEL_NATS__URL", &nats.url)
            .env("SPOTREEL_NATS__USER", "intake")
            .env("SPOTREEL_NATS__PASSWORD", &password("intake"))
            .envs(storage(&cloud, &keys));
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
            nats,
            dir,
            keys,
        }
    }

    /// Trigger and fleet over one pool that buys one machine at a time. All is as shipped, but for what is not waited
    /// for in a measured path: the patience after an end was asked for.
    pub async fn services(&self, threshold: u64) -> [Program; 2] {
        let subnets: Vec<_> = self
            .subnets
            .iter()
            .map(|of| format!("{{ id = \"{}\", zone = \"{}\" }}", of.id, of.zone))
            .collect();
        let pools = self.dir.path().join("pools.toml");
        let text = format!(
            "[pool.default]\nmodels = [\"ti2v-5B\"]\ncloud = \"aws\"\nsubnets = [{subnets}]\n\
             kinds = [{{ name = \"{KIND}\", cap = 0.45 }}]\n\
             [pool.default.rules]\nlength = {{ at_least = {threshold} }}\n\
             age = \"off\"\nprice = \"off\"\nschedule = \"off\"\n\
             sizing = {{ tasks_per_gpu_hour = 20.0, target = \"2h\", min = 1, max = 1 }}\n\
             [pool.default.patience]\nmoving = \"200ms\"\n",
            subnets = subnets.join(", ")
        );
        std::fs::write(&pools, text).expect("the pools can be written");
        let spec = |name: &str| {
            Spec::new(name, self.dir.path())
                .env("SPOTREEL_NATS__URL", &self.nats.url)
                .env("SPOTREEL_NATS__USER", name)
                .env("SPOTREEL_NATS__PASSWORD", &password(name))
                .env("AWS_ACCESS_KEY_ID", &self.keys.access_key)
                .env("AWS_SECRET_ACCESS_KEY", &self.keys.secret_key)
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .set("pools", &pools.display().to_string())
                .set("ec2.region", self.ec2.region())
                .set("ec2.endpoint_url", &self.cloud.endpoint_url())
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

/// A machine is its worker, with the simulated engine. It never leaves by itself, and looks for a notice five times a second.
fn user_data(nats: &Nats, cloud: &LocalCloud, keys: &Keys) -> String {
    let engine = binary("spotreel-engine-sim").display().to_string();
    let engine = json!([engine, "--step-ms", STEP_MS.to_string()]);
    let variables = [
        ("SPOTREEL_NATS__URL".to_owned(), nats.url.clone()),
        ("SPOTREEL_NATS__USER".to_owned(), "worker".to_owned()),
        ("SPOTREEL_NATS__PASSWORD".to_owned(), password("worker")),
        ("SPOTREEL_TELEMETRY__FORMAT".to_owned(), "json".to_owned()),
    ];
    let exports: String = variables
        .into_iter()
        .chain(storage(cloud, keys))
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect();
    format!(
        "#!/bin/bash\nset -eu\nfor name in ${{!SPOTREEL_@}}; do unset \"$name\"; done\n{exports}\
         unset AWS_EC2_METADATA_DISABLED\nmkdir -p scratch\n\
         exec '{worker}' --set name=\"${{PWD##*/}}\" --set scratch=\"$PWD/scratch\" --set cloud.poll=200ms \
         --set idle.exit_after=off --set engine.command='{engine}'\n",
        worker = binary("spotreel-worker").display(),
    )
}

fn storage(cloud: &LocalCloud, keys: &Keys) -> Vec<(String, String)> {
    [
        ("SPOTREEL_S3__BUCKET", BUCKET),
        ("SPOTREEL_S3__ENDPOINT_URL", &cloud.endpoint_url()),
        ("SPOTREEL_S3__FORCE_PATH_STYLE", "true"),
        ("AWS_ACCESS_KEY_ID", &keys.access_key),
        ("AWS_SECRET_ACCESS_KEY", &keys.secret_key),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

async fn mark(client: Client) {
    loop {
        let mark = json!({ "at": ambient::now(), "log_sequence": 0 });
        // Without a server there is nobody who could read it.
        let _ = kv::put_mark(&client, SWEEPER_MARK, &mark).await;
        tokio::time::sleep(MARK_EVERY).await;
    }
}
