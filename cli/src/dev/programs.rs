//! What `dev` starts, and with which settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use spotreel_domain::Model;
use spotreel_programs::{CloudAccess, FAULTS, Invocation, Programs, Site, nats};

use super::children::ChildSpec;
use super::disk::Disk;
use super::pools::{self, REGION};
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
const NOTIFIER: &str = "notifier";
const MONITOR: &str = "monitor";
pub const SERVICES: [&str; 3] = [INTAKE, NOTIFIER, MONITOR];
/// The HTTP API, which intake answers.
pub const API: &str = "api";

const BUCKET: &str = "spotreel";
/// On every machine as a tag, and what `spotreel fleet reap` asks for here.
pub const ENV: &str = "dev";

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

/// Whoever tries webhooks here has the receiver on this machine, too.
fn receiving(service: Invocation) -> Invocation {
    service.set(
        "webhooks.allow_hosts",
        r#"["127.0.0.1", "localhost", "::1"]"#,
    )
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

/// The programs beside this one, and where they find NATS and the cloud.
pub fn site(ports: &Ports, secrets: &Secrets) -> anyhow::Result<Site> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let dir = exe.parent().unwrap_or(Path::new("."));
    Ok(Site {
        programs: Programs::in_dir(dir)?,
        nats_url: format!("nats://{}", ports.address(NATS)),
        cloud: CloudAccess {
            endpoint: format!("http://{}", ports.address(LOCALCLOUD)),
            region: REGION.to_owned(),
            bucket: BUCKET.to_owned(),
            access_key: S3_ACCESS_KEY.to_owned(),
            secret_key: secrets.s3().to_owned(),
        },
    })
}

/// What the specs are made of.
pub struct ProgramsPlan<'a> {
    pub dir: &'a Path,
    pub args: &'a DevArgs,
    pub ports: &'a Ports,
    pub secrets: &'a Secrets,
    pub site: Site,
    pub nats_server: PathBuf,
    pub nats_conf: PathBuf,
}

impl ProgramsPlan<'_> {
    pub fn api_url(&self) -> String {
        format!("http://{}", self.ports.address(API))
    }

    /// Where the NATS server keeps everything.
    fn store(&self) -> PathBuf {
        self.dir.join("nats")
    }

    pub fn nats(&self) -> ChildSpec {
        let port = self.ports.address(NATS).port();
        let monitoring = self.ports.address(NATS_MONITORING);
        let (program, conf, store) = (self.nats_server.clone(), &self.nats_conf, self.store());
        let password = |user: &str| self.secrets.of(user).to_owned();
        ChildSpec {
            name: NATS.to_owned(),
            run: nats::server(program, conf, port, &store, password)
                .args(["-m", &monitoring.port().to_string()]),
            ready_url: None,
            disk: Some(Disk {
                dir: store,
                health_url: format!("http://{monitoring}/healthz"),
            }),
            grace: GRACE,
        }
    }

    pub fn localcloud(&self) -> ChildSpec {
        let admin = self.ports.address(LOCALCLOUD_ADMIN);
        let Site {
            programs, cloud, ..
        } = &self.site;
        let run = programs
            .localcloud(cloud, admin, &self.dir.join("s3"))
            .args(["--boot-ms", &BOOT_MS.to_string()])
            .args(["--grace-ms", &MACHINE_GRACE.as_millis().to_string()]);
        ChildSpec {
            name: LOCALCLOUD.to_owned(),
            run: match self.args.market_seed {
                Some(seed) => run.args(["--market-seed", &seed.to_string()]),
                None => run,
            },
            ready_url: Some(format!("http://{admin}/readyz")),
            disk: None,
            grace: LOCALCLOUD_GRACE,
        }
    }

    /// Where the local cloud is watched and the market is ordered about.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.ports.address(LOCALCLOUD_ADMIN))
    }

    /// Services first, then workers.
    pub fn others(&self) -> anyhow::Result<Vec<ChildSpec>> {
        let mut others = [
            (INTAKE, self.intake()),
            (NOTIFIER, receiving(self.service(NOTIFIER))),
            (MONITOR, self.monitor()),
            (TRIGGER, self.buyer(TRIGGER).set("reconcile.every", "1s")),
            (FLEET, self.fleet()),
        ]
        .map(|(name, run)| self.spec(name.to_owned(), run, GRACE))
        .to_vec();
        for number in 1..=self.args.workers.unwrap_or(0) {
            others.push(self.worker(worker(number))?);
        }
        Ok(others)
    }

    fn service(&self, name: &str) -> Invocation {
        self.site.service(name, self.secrets.of(name))
    }

    /// Only this machine reaches the HTTP API: it asks for keys only when it is told to.
    fn intake(&self) -> Invocation {
        let api = self.ports.address(API).to_string();
        let mut run = receiving(self.service(INTAKE)).set("api.listen", &api);
        if std::env::var_os("SPOTREEL_INTAKE_API__AUTH").is_none() {
            run = run.set("api.auth", "off");
        }
        // The engine without a GPU has no weights that could be missing.
        if std::env::var_os("SPOTREEL_INTAKE_QUALITY__FAST").is_none() {
            let all = Model::ALL.map(|model| format!("{:?}", model.as_str()));
            run = run.set("quality.fast", &format!("[{}]", all.join(",")));
        }
        run
    }

    fn monitor(&self) -> Invocation {
        let store = self.store().display().to_string();
        let search = self.dir.join("search.db").display().to_string();
        self.service(MONITOR)
            .set("disk.dir", &store)
            .set("search.path", &search)
    }

    /// Of those that buy machines.
    fn buyer(&self, name: &str) -> Invocation {
        self.service(name)
            .buying(&pools::path(self.dir), &self.site.cloud)
            .set("prices.every", "10s")
    }

    fn fleet(&self) -> Invocation {
        self.buyer(FLEET)
            .set("env", ENV)
            .set("rounds.idle", "2s")
            .set("sweep.every", "10s")
            .set("sweep.orphan_grace", "10s")
    }

    fn worker(&self, name: String) -> anyhow::Result<ChildSpec> {
        let scratch = self.dir.join("scratch").join(&name);
        std::fs::create_dir_all(&scratch)
            .with_context(|| format!("cannot make {}", scratch.display()))?;
        let run = self
            .site
            .worker(&name, self.secrets.of("worker"), &scratch)
            .engine(&self.engine());
        Ok(self.spec(name, run, WORKER_GRACE))
    }

    fn spec(&self, name: String, run: Invocation, grace: Duration) -> ChildSpec {
        let address = self.ports.address(&name);
        ChildSpec {
            run: run.listening(address),
            ready_url: Some(format!("http://{address}/readyz")),
            disk: None,
            grace,
            name,
        }
    }

    /// The command of the renderer that needs no GPU.
    pub fn engine(&self) -> Vec<String> {
        let mut command = self.site.programs.engine(self.args.step_ms);
        // Whoever writes a client wants to see a failure. The flag may be given once only.
        if !self.args.engine_arg.iter().any(|arg| arg == FAULTS) {
            command.push(FAULTS.to_owned());
        }
        command.extend(self.args.engine_arg.iter().cloned());
        command
    }
}
