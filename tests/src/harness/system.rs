//! Everything: NATS, the cloud, three services and workers.

use std::path::Path;
use std::time::Duration;

use spotreel_bus::TaskLog;
use spotreel_programs::{FAULTS, Site};
use tempfile::TempDir;

use super::nats::password;
use super::program::{ProgramSpec, site};
use super::{Api, CloudProgram, Nats, Program};

#[derive(Clone, Debug)]
pub struct SystemOptions {
    pub lease: Duration,
    pub workers: usize,
    /// Let prompts order faults of the engine.
    pub faults: bool,
    /// Milliseconds that each step of the simulated engine takes.
    pub step_ms: u32,
    /// `--set` for every worker.
    pub worker_settings: Vec<(String, String)>,
    /// For every program.
    pub environment: Vec<(String, String)>,
}

impl Default for SystemOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(2),
            workers: 1,
            faults: false,
            step_ms: 0,
            worker_settings: Vec::new(),
            environment: Vec::new(),
        }
    }
}

pub struct System {
    pub workers: Vec<Program>,
    pub intake: Program,
    pub notifier: Program,
    pub monitor: Program,
    pub cloud: CloudProgram,
    pub nats: Nats,
    pub site: Site,
    options: SystemOptions,
    dir: TempDir,
}

impl System {
    /// All of it ready.
    pub async fn start(options: SystemOptions) -> Self {
        // On the heap: a system is some twenty kilobytes of handles, too much for every caller's stack.
        Box::pin(Self::start_all(options)).await
    }

    async fn start_all(options: SystemOptions) -> Self {
        let dir =
            TempDir::with_prefix("spotreel-system-").expect("a temporary directory can be made");
        let (nats, cloud) = tokio::join!(Nats::provisioned(options.lease), CloudProgram::start());
        let site = site(&nats.url, &cloud.access);
        let spec = |name| service(&site, name, &dir, &options);
        let (intake, notifier, monitor) = tokio::join!(
            Program::start(spec("intake")),
            Program::start(spec("notifier")),
            Program::start(spec("monitor")),
        );
        let mut system = Self {
            workers: Vec::new(),
            intake,
            notifier,
            monitor,
            cloud,
            nats,
            site,
            options,
            dir,
        };
        for _ in 0..system.options.workers {
            system.add_worker().await;
        }
        system
    }

    /// How a service is started: what it needs to know of NATS and S3 is in it.
    pub fn spec(&self, name: &str) -> ProgramSpec {
        service(&self.site, name, &self.dir, &self.options)
    }

    /// Where the programs' logs lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How the next worker will be started.
    pub fn worker_spec(&self) -> ProgramSpec {
        let number = self.workers.len();
        let mut engine = self.site.programs.engine(Some(self.options.step_ms.into()));
        if self.options.faults {
            engine.push(FAULTS.to_owned());
        }
        let scratch = self.dir.path().join(format!("scratch-{number}"));
        let name = format!("w{number}");
        let run = self
            .site
            .worker(&name, &password("worker"), &scratch)
            .engine(&engine);
        let mut spec =
            ProgramSpec::of(run, "worker", self.dir.path()).envs(self.options.environment.clone());
        spec.run
            .settings
            .extend(self.options.worker_settings.iter().cloned());
        spec
    }

    /// One more worker; its number.
    pub async fn add_worker(&mut self) -> usize {
        let spec = self.worker_spec();
        self.add_worker_as(spec).await
    }

    pub async fn add_worker_as(&mut self, spec: ProgramSpec) -> usize {
        self.workers.push(Program::start(spec).await);
        self.workers.len() - 1
    }

    /// A client of the product, in the clients' account.
    pub async fn api(&self) -> Api {
        Api::new(self.nats.client("client").await)
    }

    /// The log, read with all rights: what really happened.
    pub async fn log(&self) -> TaskLog {
        TaskLog::open(&self.nats.client("provision").await).await
    }

    /// What every program wrote, for the message of a failed test.
    pub fn logs(&self) -> String {
        let services = [&self.intake, &self.notifier, &self.monitor];
        let all = services.into_iter().chain(&self.workers);
        all.map(|program| {
            format!(
                "== {}\n{}\n",
                program.spec.log.display(),
                program.log_text()
            )
        })
        .collect()
    }

    /// Starts the workers that have died again, as a fleet would.
    pub fn revive_workers(&mut self) {
        for worker in &mut self.workers {
            if worker.has_ended() {
                worker.begin();
            }
        }
    }
}

fn service(site: &Site, name: &str, dir: &TempDir, options: &SystemOptions) -> ProgramSpec {
    let run = site.service(name, &password(name));
    ProgramSpec::of(run, name, dir.path()).envs(options.environment.clone())
}
