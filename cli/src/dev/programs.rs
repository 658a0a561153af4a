//! What `dev` starts, and with which settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use spotreel_domain::Model;

use super::children::Spec;
use super::disk::Disk;
use super::machines;
use super::pools;
use super::ports::Ports;
use super::secrets::{S3_ACCESS_KEY, Secrets};
use crate::args::DevArgs;

pub const NATS: &str = "nats-server";
/// Where it says how it is.
const NATS_MONITORING: &str = "nats-monitoring";
pub const LOCALCLOUD: &str = "localcloud";
const LOCALCLOUD_ADMIN: &str = "localcloud-admin";
const TRIGGER: &str = "trigger";
const FLEET: &str = "fleet";
/// Those that make machines come stand first among those that are stopped.
pub const BUYERS: [&str; 2] = [TRIGGER, FLEET];
const INTAKE: &str = "intake";
const MONITOR: &str = "monitor";
pub const SERVICES: [&str; 3] = [INTAKE, "notifier", MONITOR];
/// The HTTP API, which intake answers.
pub const API: &str = "api";

pub const BUCKET: &str = "spotreel";
/// Where the local cloud's market lies.
pub const REGION: &str = "us-east-2";

/// A worker hands its render back within this: its checkpoint goes to a disk.
const WORKER_GRACE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);
/// Time for instances to hand their renders back; the local cloud ends them first.
const MACHINE_GRACE: Duration = Duration::from_secs(20);
const LOCALCLOUD_GRACE: Duration = Duration::from_secs(30);
/// As long as it takes to see that there is one.
const BOOT_MS: u64 = 1_000;

pub fn worker(number: u32) -> String {
    format!("worker-{number}")
}

pub fn is_worker(name: &str) -> bool {
    name.starts_with("worker-")
}

/// Whatever needs a port.
pub fn port_names(args: &DevArgs) -> Vec<String> {
    let fixed = [NATS, NATS_MONITORING, LOCALCLOUD, LOCALCLOUD_ADMIN, API]
        .into_iter()
        .chain(BUYERS)
        .chain(SERVICES);
    fixed
        .map(str::to_owned)
        .chain((1..=args.workers.unwrap_or(0)).map(worker))
        .collect()
}

/// What the specs are made of.
pub struct Plan<'a> {
    pub dir: &'a Path,
    pub args: &'a DevArgs,
    pub ports: &'a Ports,
    pub secrets: &'a Secrets,
    pub nats_server: PathBuf,
    pub nats_conf: PathBuf,
}

impl Plan<'_> {
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.ports.address(NATS))
    }

    pub fn api_url(&self) -> String {
        format!("http://{}", self.ports.address(API))
    }

    pub fn s3_url(&self) -> String {
        format!("http://{}", self.ports.address(LOCALCLOUD))
    }

    /// Where the NATS server keeps everything.
    fn store(&self) -> PathBuf {
        self.dir.join("nats")
    }

    pub fn nats(&self) -> Spec {
        let address = self.ports.address(NATS);
        let port = address.port().to_string();
        let monitoring = self.ports.address(NATS_MONITORING);
        let monitoring_port = monitoring.port().to_string();
        let (conf, store) = (self.nats_conf.display(), self.store());
        let args = [
            "-c",
            &conf.to_string(),
            "-a",
            "127.0.0.1",
            "-p",
            &port,
            "-m",
            &monitoring_port,
            "-sd",
        ];
        Spec {
            name: NATS.to_owned(),
            program: self.nats_server.clone(),
            args: args
                .into_iter()
                .map(str::to_owned)
                .chain([store.display().to_string()])
                .collect(),
            variables: self.secrets.nats_variables().collect(),
            ready_url: None,
            disk: Some(Disk {
                dir: store,
                health_url: format!("http://{monitoring}/healthz"),
            }),
            grace: GRACE,
        }
    }

    pub fn localcloud(&self) -> anyhow::Result<Spec> {
        let admin = self.ports.address(LOCALCLOUD_ADMIN);
        let variables = [
            ("LISTEN", self.ports.address(LOCALCLOUD).to_string()),
            ("ADMIN", admin.to_string()),
            ("DIR", self.dir.join("s3").display().to_string()),
            ("ACCESS_KEY", S3_ACCESS_KEY.to_owned()),
            ("SECRET_KEY", self.secrets.s3().to_owned()),
            ("REGION", REGION.to_owned()),
            ("BOOT_MS", BOOT_MS.to_string()),
            ("GRACE_MS", MACHINE_GRACE.as_millis().to_string()),
        ];
        let seed = self.args.market_seed.map(|seed| seed.to_string());
        let seed = seed.map(|seed| ("MARKET_SEED", seed));
        Ok(Spec {
            name: LOCALCLOUD.to_owned(),
            program: sibling("spotreel-localcloud")?,
            args: Vec::new(),
            variables: variables
                .into_iter()
                .chain(seed)
                .map(|(name, value)| (format!("SPOTREEL_LOCALCLOUD_{name}"), value))
                .collect(),
            ready_url: Some(format!("http://{admin}/readyz")),
            disk: None,
            grace: LOCALCLOUD_GRACE,
        })
    }

    /// Where the local cloud is watched and the market is ordered about.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.ports.address(LOCALCLOUD_ADMIN))
    }

    /// Services first, then workers.
    pub fn others(&self) -> anyhow::Result<Vec<Spec>> {
        let services = SERVICES.into_iter().map(|name| match name {
            INTAKE => self.service(name, self.intake_settings()),
            MONITOR => self.service(name, vec![format!("disk.dir={}", self.store().display())]),
            name => self.service(name, Vec::new()),
        });
        let buyers = [
            self.service(TRIGGER, self.trigger_settings()),
            self.service(FLEET, self.fleet_settings()),
        ];
        let workers = 1..=self.args.workers.unwrap_or(0);
        let workers = workers.map(|number| self.worker(number));
        services.chain(buyers).chain(workers).collect()
    }

    fn service(&self, name: &str, settings: Vec<String>) -> anyhow::Result<Spec> {
        Ok(Spec {
            name: name.to_owned(),
            program: sibling(&format!("spotreel-{name}"))?,
            args: set(settings),
            variables: self.variables(name, name),
            ready_url: Some(self.ready_url(name)),
            disk: None,
            grace: GRACE,
        })
    }

    /// Only this machine reaches the HTTP API: it asks for keys only when it is told to.
    fn intake_settings(&self) -> Vec<String> {
        let mut settings = vec![format!("api.listen={}", self.ports.address(API))];
        if std::env::var_os("SPOTREEL_INTAKE_API__AUTH").is_none() {
            settings.push("api.auth=off".to_owned());
        }
        // The engine without a GPU has no weights that could be missing.
        if std::env::var_os("SPOTREEL_INTAKE_QUALITY__FAST").is_none() {
            let all = Model::ALL.map(|model| format!("{:?}", model.as_str()));
            settings.push(format!("quality.fast=[{}]", all.join(",")));
        }
        settings
    }

    /// Of those that buy machines.
    fn cloud_settings(&self) -> Vec<String> {
        vec![
            format!("pools={}", pools::path(self.dir)),
            format!("ec2.region={REGION}"),
            format!("ec2.endpoint_url={}", self.s3_url()),
            "prices.every=10s".to_owned(),
        ]
    }

    fn trigger_settings(&self) -> Vec<String> {
        let mut settings = self.cloud_settings();
        settings.push("reconcile.every=1s".to_owned());
        settings
    }

    fn fleet_settings(&self) -> Vec<String> {
        let mut settings = self.cloud_settings();
        settings.extend([
            format!("env={}", machines::ENV),
            "rounds.idle=2s".to_owned(),
            "sweep.every=10s".to_owned(),
            "sweep.orphan_grace=10s".to_owned(),
        ]);
        settings
    }

    fn worker(&self, number: u32) -> anyhow::Result<Spec> {
        let name = worker(number);
        let command = engine_command(self.args)?;
        let scratch = self.dir.join("scratch").join(&name);
        std::fs::create_dir_all(&scratch)
            .with_context(|| format!("cannot make {}", scratch.display()))?;
        let settings = vec![
            format!("name={name}"),
            format!("scratch={}", scratch.display()),
            format!("engine.command={}", serde_json::to_string(&command)?),
        ];
        Ok(Spec {
            program: sibling("spotreel-worker")?,
            args: set(settings),
            variables: self.variables("worker", &name),
            ready_url: Some(self.ready_url(&name)),
            disk: None,
            grace: WORKER_GRACE,
            name,
        })
    }

    fn variables(&self, user: &str, name: &str) -> Vec<(String, String)> {
        let listen = self.ports.address(name).to_string();
        [
            ("SPOTREEL_NATS__URL", self.nats_url().as_str()),
            ("SPOTREEL_NATS__USER", user),
            ("SPOTREEL_NATS__PASSWORD", self.secrets.of(user)),
            ("SPOTREEL_S3__BUCKET", BUCKET),
            ("SPOTREEL_S3__REGION", REGION),
            ("SPOTREEL_S3__ENDPOINT_URL", &self.s3_url()),
            ("SPOTREEL_S3__FORCE_PATH_STYLE", "true"),
            ("SPOTREEL_HTTP__LISTEN", &listen),
            ("AWS_ACCESS_KEY_ID", S3_ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", self.secrets.s3()),
            ("AWS_REGION", REGION),
            // No instance metadata here: asking for it would only take time.
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn ready_url(&self, name: &str) -> String {
        format!("http://{}/readyz", self.ports.address(name))
    }
}

fn set(settings: Vec<String>) -> Vec<String> {
    let pairs = settings
        .into_iter()
        .flat_map(|setting| ["--set".to_owned(), setting]);
    pairs.collect()
}

/// Makes the engine obey directives in prompts, such as `{{oom@3}}`.
const FAULTS: &str = "--allow-faults";

/// The renderer that needs no GPU.
pub fn engine_command(args: &DevArgs) -> anyhow::Result<Vec<String>> {
    let step = args
        .step_ms
        .map(|step| ["--step-ms".to_owned(), step.to_string()]);
    // Whoever writes a client wants to see a failure. The flag may be given once only.
    let faults = (!args.engine_arg.iter().any(|arg| arg == FAULTS)).then(|| FAULTS.to_owned());
    Ok([sibling("spotreel-engine-sim")?.display().to_string()]
        .into_iter()
        .chain(step.into_iter().flatten())
        .chain(faults)
        .chain(args.engine_arg.iter().cloned())
        .collect())
}

/// A program that lies beside this one.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let path = exe.with_file_name(name);
    if !path.is_file() {
        bail!(
            "{} is missing: `make build` makes all programs",
            path.display()
        );
    }
    Ok(path)
}
