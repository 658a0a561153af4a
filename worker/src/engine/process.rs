//! The process: a clean environment, a group of its own, and one task that sees it to its end.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::channel::{self, EngineHeard};
use super::config::{EngineConfig, Graces};
use super::logs::{self, LogRing};

/// Everything an engine inherits. A list of what may pass, because credentials come under ever new names.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR"];
const INHERITED_PREFIXES: [&str; 2] = ["CUDA_", "NVIDIA_"];
/// Model libraries must fail rather than fetch anything.
const SET: [(&str, &str); 2] = [("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1")];

/// Messages that wait for their owner; then the engine waits too. More than one render's steps.
const HEARD_AHEAD: usize = 256;
/// Messages that wait for the engine to read them. It reads at once, so more means that it hangs.
const SAID_AHEAD: usize = 16;
/// For streams to end once nothing of the engine lives. Longer only if a daemon of its own holds them open.
const DRAIN: Duration = Duration::from_secs(2);

/// How to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineStop {
    /// It is about to exit by itself: a moment, then as `Terminate`.
    HangUp,
    /// SIGTERM, later SIGKILL.
    Terminate,
    /// It hangs: SIGUSR1 first, so that it shows where.
    Ladder,
    Kill,
}

/// A handle; the process dies with it.
pub struct Process {
    pid: u32,
    stop: mpsc::UnboundedSender<EngineStop>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

pub struct Started {
    pub process: Process,
    pub say: mpsc::Sender<Vec<u8>>,
    pub heard: mpsc::Receiver<EngineHeard>,
}

/// Starts the command with one end of a socketpair as its fd 0.
pub fn start(config: &EngineConfig, ring: &LogRing) -> io::Result<Started> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (read, write) = UnixStream::from_std(ours)?.into_split();
    let mut child = Command::new(&config.command)
        .args(&config.args)
        .env_clear()
        .envs(inherited())
        .envs(SET)
        .envs(&config.env)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("no process id"))?;
    let (to_owner, heard) = mpsc::channel(HEARD_AHEAD);
    let (say, lines) = mpsc::channel(SAID_AHEAD);
    let (stop, stops) = mpsc::unbounded_channel();
    let (exit_sender, exit) = watch::channel(None);
    let mut streams = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        streams.push(tokio::spawn(logs::collect(stdout, "stdout", ring.clone())));
    }
    if let Some(stderr) = child.stderr.take() {
        streams.push(tokio::spawn(logs::collect(stderr, "stderr", ring.clone())));
    }
    let listener = listen(read, to_owner.clone(), stop.clone());
    let supervisor = Supervisor {
        child,
        group: Group(pid),
        stops,
        graces: config.graces.clone(),
    };
    let talker = tokio::spawn(channel::talk(write, lines));
    tokio::spawn(async move {
        let status = supervisor.see_to_the_end().await;
        talker.abort();
        let _ = timeout(DRAIN, async {
            for stream in streams {
                // A reader that panicked has nothing more to give.
                let _ = stream.await;
            }
            let _ = listener.await;
        })
        .await;
        exit_sender.send_replace(Some(status));
        // The owner may be gone; then nobody wants to know.
        let _ = to_owner.send(EngineHeard::Exited(status)).await;
    });
    Ok(Started {
        process: Process { pid, stop, exit },
        say,
        heard,
    })
}

/// An engine that closes its channel without exiting is of no use to anybody.
fn listen(
    read: tokio::net::unix::OwnedReadHalf,
    to_owner: mpsc::Sender<EngineHeard>,
    stop: mpsc::UnboundedSender<EngineStop>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        channel::listen(read, to_owner).await;
        // Fails only when the process is gone already.
        let _ = stop.send(EngineStop::HangUp);
    })
}

fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|p| name.starts_with(p))
        })
    })
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            // The supervisor ends without a word only with the runtime.
            Err(_) => ExitStatus::default(),
        }
    }

    /// Ends it, in the background.
    pub fn stop(&self, how: EngineStop) {
        // Fails only when the process is gone already.
        let _ = self.stop.send(how);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.stop(EngineStop::Kill);
            Group(self.pid).signal(Signal::SIGKILL);
        }
    }
}

/// The engine and whatever it started.
#[derive(Clone, Copy)]
struct Group(u32);

impl Group {
    fn signal(self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.0) {
            // ESRCH is what we want in the end.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

struct Supervisor {
    child: Child,
    group: Group,
    stops: mpsc::UnboundedReceiver<EngineStop>,
    graces: Graces,
}

impl Supervisor {
    async fn see_to_the_end(mut self) -> ExitStatus {
        let first = tokio::select! {
            status = self.child.wait() => return self.buried(status),
            stop = self.stops.recv() => stop.unwrap_or(EngineStop::Kill),
        };
        for (signal, grace) in self.rungs(first) {
            if let Some(signal) = signal {
                self.group.signal(signal);
            }
            if let Some(status) = self.ended_within(grace).await {
                return self.buried(status);
            }
        }
        self.group.signal(Signal::SIGKILL);
        let status = self.child.wait().await;
        self.buried(status)
    }

    /// What comes before SIGKILL.
    fn rungs(&self, stop: EngineStop) -> Vec<(Option<Signal>, Duration)> {
        let terminate = (Some(Signal::SIGTERM), self.graces.terminate);
        match stop {
            EngineStop::HangUp => vec![(None, self.graces.hang_up), terminate],
            EngineStop::Terminate => vec![terminate],
            EngineStop::Ladder => vec![(Some(Signal::SIGUSR1), self.graces.dump), terminate],
            EngineStop::Kill => vec![],
        }
    }

    /// A `Kill` on the way cuts every grace short.
    async fn ended_within(&mut self, grace: Duration) -> Option<io::Result<ExitStatus>> {
        let end = tokio::time::Instant::now() + grace;
        loop {
            tokio::select! {
                status = self.child.wait() => return Some(status),
                () = tokio::time::sleep_until(end) => return None,
                Some(stop) = self.stops.recv() => if stop == EngineStop::Kill {
                    self.group.signal(Signal::SIGKILL);
                },
            }
        }
    }

    /// The leader is dead; so shall be what it started.
    fn buried(&self, status: io::Result<ExitStatus>) -> ExitStatus {
        self.group.signal(Signal::SIGKILL);
        status.unwrap_or_else(|error| {
            tracing::error!(%error, "waiting for the engine process failed");
            ExitStatus::default()
        })
    }
}
