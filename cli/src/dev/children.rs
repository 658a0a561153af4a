//! Child processes: started, started again when they die, stopped in order.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use spotreel_programs::Invocation;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::file::write_atomically;
use super::leftovers::{MARK, PIDS};

/// The pause before a program is started again: doubled each time, from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Time after which a program counts as started; its next restart then uses the first pause again.
const LIVED: Duration = Duration::from_secs(10);
/// What every program exits with when its configuration is refused: another try would end alike.
const CONFIGURATION_REFUSED: i32 = 2;

/// One program to keep running.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// In messages, in pids.json and of its log.
    pub name: String,
    pub run: Invocation,
    /// Answers 200 when the program is ready.
    pub ready_url: Option<String>,
    /// Of a server that has to be started again when its disk was full.
    pub disk: Option<Disk>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// What all children share.
#[derive(Clone, Debug)]
struct Home {
    dir: PathBuf,
    exe: PathBuf,
    pids: Arc<Mutex<BTreeMap<String, u32>>>,
    refused: mpsc::UnboundedSender<String>,
}

#[derive(Debug)]
struct Running {
    spec: ChildSpec,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All programs of one directory. Dropping it without [`Children::stop`] leaves the rest to the kernel, which ends
/// them with this process.
#[derive(Debug)]
pub struct Children {
    home: Home,
    running: Vec<Running>,
    refusals: mpsc::UnboundedReceiver<String>,
    kill: CancellationToken,
}

impl Children {
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let (refused, refusals) = mpsc::unbounded_channel();
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        let home = Home {
            dir: dir.to_owned(),
            exe,
            pids: Arc::default(),
            refused,
        };
        Ok(Self {
            home,
            running: Vec::new(),
            refusals,
            kill: CancellationToken::new(),
        })
    }

    pub fn start(&mut self, spec: ChildSpec) {
        let stop = CancellationToken::new();
        let keep = keep(
            self.home.clone(),
            spec.clone(),
            stop.clone(),
            self.kill.clone(),
        );
        self.running.push(Running {
            spec,
            stop,
            task: tokio::spawn(keep),
        });
    }

    /// The name of the next program that refuses its configuration.
    pub async fn refusal(&mut self) -> String {
        match self.refusals.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Name and address of what can be asked for readiness.
    pub fn ready_urls(&self) -> impl Iterator<Item = (&str, &str)> {
        let specs = self.running.iter().map(|running| &running.spec);
        specs.filter_map(|spec| Some((spec.name.as_str(), spec.ready_url.as_deref()?)))
    }

    /// Stops those that `choose` names, all at once, and waits for them.
    pub async fn stop(&mut self, choose: impl Fn(&str) -> bool) {
        let (chosen, rest) = self
            .running
            .drain(..)
            .partition(|running| choose(&running.spec.name));
        self.running = rest;
        let chosen: Vec<Running> = chosen;
        for running in &chosen {
            running.stop.cancel();
        }
        for running in chosen {
            // It does not panic; if it did, there is nothing left to stop.
            let _ = running.task.await;
        }
    }

    /// From now on whoever is told to stop is killed, also those that were told already.
    pub fn impatience(&self) -> CancellationToken {
        self.kill.clone()
    }

    pub fn log_of(&self, name: &str) -> PathBuf {
        log_path(&self.home.dir, name)
    }
}

/// Runs one program until `stop`.
async fn keep(home: Home, spec: ChildSpec, stop: CancellationToken, kill: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let ended = match spawn(&home, &spec) {
            Ok(mut child) => {
                home.record(&spec.name, child.id());
                let status = tokio::select! {
                    status = child.wait() => status.ok(),
                    () = stop.cancelled() => {
                        end(&mut child, spec.grace, &spec.name, &kill).await;
                        home.record(&spec.name, None);
                        return;
                    }
                    () = disk_was_full(&spec) => {
                        end(&mut child, spec.grace, &spec.name, &kill).await;
                        home.record(&spec.name, None);
                        continue;
                    }
                };
                home.record(&spec.name, None);
                status
            }
            Err(error) => {
                eprintln!("{}: {error:#}", spec.name);
                None
            }
        };
        if ended.and_then(|status| status.code()) == Some(CONFIGURATION_REFUSED) {
            // Nobody listens once everything is up: then the pause below is all that happens.
            let _ = home.refused.send(spec.name.clone());
        }
        if started.elapsed() >= LIVED {
            pause = FIRST_PAUSE;
        }
        let how = ended.map_or_else(|| "did not start".to_owned(), describe);
        eprintln!(
            "{} {how}; restarting in {} ms",
            spec.name,
            pause.as_millis()
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn disk_was_full(spec: &ChildSpec) {
    match &spec.disk {
        Some(disk) => disk.was_full().await,
        None => std::future::pending().await,
    }
}

fn spawn(home: &Home, spec: &ChildSpec) -> anyhow::Result<Child> {
    let log = open_log(&home.dir, &spec.name)?;
    let mut command = Command::new(&home.exe);
    command
        .arg("dev-child")
        .arg(std::process::id().to_string())
        .arg(&spec.run.program)
        .args(spec.run.arguments())
        .env(MARK, &home.dir)
        .stdin(Stdio::null())
        .stderr(log.try_clone().context("cannot share the log")?)
        .stdout(log)
        // Ctrl-C is for us; we stop the others in order.
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_ours) {
            command.env_remove(name);
        }
    }
    command.envs(spec.run.variables.iter().cloned());
    command
        .spawn()
        .with_context(|| format!("cannot start {}", spec.run.program.display()))
}

/// Variables of the person's own environment that would lead a program elsewhere.
fn is_ours(name: &str) -> bool {
    const LEAD_ELSEWHERE: [&str; 6] = [
        "NATS_",
        "AWS_",
        "SPOTREEL_NATS_",
        "SPOTREEL_S3_",
        "SPOTREEL_HTTP_",
        "SPOTREEL_LOCALCLOUD_",
    ];
    const ALSO: [&str; 2] = ["SPOTREEL_CONFIG", "SPOTREEL_DIR"];
    LEAD_ELSEWHERE.iter().any(|start| name.starts_with(start)) || ALSO.contains(&name)
}

/// SIGTERM, then SIGKILL when it takes too long.
async fn end(child: &mut Child, grace: Duration, name: &str, kill_now: &CancellationToken) {
    signal(child, Signal::SIGTERM);
    tokio::select! {
        _ = child.wait() => return,
        () = tokio::time::sleep(grace) => {
            eprintln!("{name} did not stop within {} s and is killed", grace.as_secs());
        }
        () = kill_now.cancelled() => {}
    }
    signal(child, Signal::SIGKILL);
    let _ = child.wait().await;
}

fn signal(child: &Child, signal: Signal) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return;
    };
    // The only error is that it has ended by itself.
    let _ = kill(Pid::from_raw(pid), signal);
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

fn log_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("logs").join(format!("{name}.log"))
}

fn open_log(dir: &Path, name: &str) -> anyhow::Result<File> {
    let path = log_path(dir, name);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

impl Home {
    /// Tells pids.json who runs; `None`: it has ended.
    fn record(&self, name: &str, pid: Option<u32>) {
        let mut pids = self.pids.lock();
        match pid {
            Some(pid) => pids.insert(name.to_owned(), pid),
            None => pids.remove(name),
        };
        let written = serde_json::to_string_pretty(&*pids)
            .map_err(anyhow::Error::new)
            .and_then(|text| write_atomically(&self.dir.join(PIDS), &text));
        if let Err(error) = written {
            eprintln!("{error:#}");
        }
    }
}
