//! Any program of spotreel, as it is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use spotreel_test_kit::binary;

use spotreel_programs::{CloudAccess, Invocation, Programs, Site};
use spotreel_test_kit::{bin_dir, without_settings};

use super::{Process, eventually, free_port};

const READY_WITHIN: Duration = Duration::from_secs(60);

/// How to start a program; it can be started again in the same way.
#[derive(Clone, Debug)]
pub struct ProgramSpec {
    pub name: String,
    pub run: Invocation,
    pub log: PathBuf,
    port: u16,
    /// Of the HTTP API; intake's alone.
    api_port: u16,
}

pub struct Program {
    pub spec: ProgramSpec,
    process: Option<Process>,
}

impl ProgramSpec {
    /// `name` without its `spotreel-`; its log goes to a file in `dir`.
    pub fn new(name: &str, dir: &Path) -> Self {
        Self::of(Invocation::new(programs().path(name)), name, dir)
    }

    /// The same for a program that knows where the others are.
    pub fn of(run: Invocation, name: &str, dir: &Path) -> Self {
        let (port, api_port) = (free_port(), free_port());
        let run = run
            .listening(([127, 0, 0, 1], port).into())
            .env(
                "SPOTREEL_INTAKE_API__LISTEN",
                &format!("127.0.0.1:{api_port}"),
            )
            .env("SPOTREEL_INTAKE_API__AUTH", "off");
        Self {
            name: format!("spotreel-{name}"),
            run,
            log: dir.join(format!("{name}-{port}.log")),
            port,
            api_port,
        }
    }

    /// Where intake's HTTP API answers.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.run = self.run.env(key, value);
        self
    }

    pub fn envs(mut self, all: impl IntoIterator<Item = (String, String)>) -> Self {
        self.run = self.run.envs(all);
        self
    }

    /// For trigger and fleet: the pools of this file, with instances of this cloud.
    pub fn buying(mut self, pools: &Path, cloud: &CloudAccess) -> Self {
        self.run = self.run.buying(pools, cloud);
        self
    }

    /// For a worker: the command of its engine.
    pub fn engine(mut self, command: &[String]) -> Self {
        self.run = self.run.engine(command);
        self
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.run = self.run.set(key, value);
        self
    }
}

impl Program {
    /// Starts it and waits until it is ready.
    pub async fn start(spec: ProgramSpec) -> Self {
        let mut program = Self::spawn(spec);
        program.ready().await;
        program
    }

    /// Known, and not started yet.
    pub fn idle(spec: ProgramSpec) -> Self {
        Self {
            spec,
            process: None,
        }
    }

    /// Starts it and does not wait.
    pub fn spawn(spec: ProgramSpec) -> Self {
        let mut program = Self::idle(spec);
        program.begin();
        program
    }

    /// Starts it again, whatever it was doing.
    pub fn begin(&mut self) {
        self.process = None;
        let process = Process::start(command(&self.spec.run), &self.spec.log);
        self.process = Some(process.unwrap_or_else(|error| panic!("{}: {error}", self.spec.name)));
    }

    pub async fn ready(&mut self) {
        let began = std::time::Instant::now();
        loop {
            if is_ready(&self.url()).await {
                return;
            }
            let ended = self.process_mut().ended();
            assert!(
                ended.is_none(),
                "{} ended: {ended:?}\n{}",
                self.spec.name,
                self.log_tail()
            );
            assert!(
                began.elapsed() < READY_WITHIN,
                "{} was not ready in time\n{}",
                self.spec.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where its health, metrics and HTTP API answer.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.spec.port)
    }

    pub fn kill9(&mut self) {
        self.process_mut().kill9();
    }

    pub fn terminate(&mut self) {
        self.process_mut().terminate();
    }

    pub fn freeze(&mut self) {
        self.process_mut().freeze();
    }

    pub fn thaw(&mut self) {
        self.process_mut().thaw();
    }

    pub fn id(&mut self) -> u32 {
        self.process_mut().id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process_mut().ended().is_some()
    }

    /// Waits until it has left, and gives its exit code (none after a signal).
    pub async fn left(&mut self, within: Duration) -> Option<i32> {
        let name = self.spec.name.clone();
        let process = self.process_mut();
        eventually(&format!("{name} has left"), within, || {
            let ended = process.ended();
            async move { ended.map(|status| status.code()) }
        })
        .await
    }

    /// Terminates it and waits until it has left.
    pub async fn stop(&mut self, within: Duration) -> Option<i32> {
        self.terminate();
        self.left(within).await
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.spec.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn process_mut(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .expect("a program has a process from its start on")
    }
}

/// Those programs with this NATS server and this cloud.
pub fn site(nats_url: &str, cloud: &CloudAccess) -> Site {
    Site {
        programs: programs(),
        nats_url: nats_url.to_owned(),
        cloud: cloud.clone(),
    }
}

async fn is_ready(url: &str) -> bool {
    let answer = reqwest::get(format!("{url}/readyz")).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// The program with what it is told, and nothing of what this process was told.
pub fn command(run: &Invocation) -> Command {
    let mut command = Command::new(&run.program);
    without_settings(&mut command);
    command.args(run.arguments());
    command.envs(run.variables.iter().cloned());
    command
}

/// Those that a system consists of.
pub fn programs() -> Programs {
    Programs::in_dir(&bin_dir()).unwrap_or_else(|missing| panic!("{missing}"))
}
