//! The life of a running program: its tasks, and how it leaves.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::health::Health;
use crate::pages::Pages;

/// What a program's `start` is handed. Clones share everything.
#[derive(Clone, Debug)]
pub struct Context {
    /// The program: `intake`.
    pub name: &'static str,
    /// Where `/livez`, `/readyz` and `/metrics` answer.
    pub http: SocketAddr,
    pub health: Health,
    /// What else answers there.
    pub pages: Pages,
    /// Cancelled at the first signal, and when a task fails: take no new work, finish what is in hand. A program may
    /// cancel it to end by itself.
    pub stopping: CancellationToken,
    /// What the program waits for before it ends, [`Context::spawn`]ed or not.
    pub tasks: TaskTracker,
    failure: Arc<OnceLock<ProgramFailure>>,
}

impl Context {
    /// A context of its own, for tests of a service's parts without [`run`](crate::run).
    #[must_use]
    pub fn new(name: &'static str, http: SocketAddr) -> Self {
        Self {
            name,
            http,
            health: Health::new(),
            pages: Pages::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            failure: Arc::default(),
        }
    }

    /// Spawns a task that the program can't do without: a loop that runs until `stopping`. When it ends before that,
    /// fails or panics, the whole program stops and exits with 1; half a program that looks whole is worse than none.
    /// For a task that may end when it likes, use `ctx.tasks.spawn`.
    pub fn spawn<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let ctx = self.clone();
        let inner = tokio::spawn(future.in_current_span());
        self.tasks.spawn(async move {
            match inner.await {
                Ok(Ok(())) if ctx.stopping.is_cancelled() => tracing::debug!(task, "task ended"),
                Ok(Ok(())) => ctx.fail(task, "it ended before it was told to"),
                Ok(Err(error)) => {
                    if error.is::<UnfitMachine>() {
                        let _ = ctx.failure.set(ProgramFailure::UnfitMachine);
                    }
                    ctx.fail(task, &format!("{error:#}"));
                }
                Err(error) => ctx.fail(task, &error.to_string()),
            }
        });
    }

    /// As [`Context::spawn`], for a loop that repeats what fails.
    pub fn spawn_loop<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(task, async move {
            future.await;
            Ok(())
        });
    }

    /// Stops the program as failed.
    pub(crate) fn fail(&self, task: &str, reason: &str) {
        tracing::error!(task, reason, "a task failed; stopping");
        // The first failure counts: the others follow from it.
        let _ = self.failure.set(ProgramFailure::Program);
        self.stopping.cancel();
    }

    pub(crate) fn failure(&self) -> Option<ProgramFailure> {
        self.failure.get().copied()
    }
}

/// This machine can't do the program's work, and will not do it after a restart either: a task that ends with this error
/// stops the program with [`EXIT_UNFIT_MACHINE`](crate::EXIT_UNFIT_MACHINE).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}; give this machine up")]
pub struct UnfitMachine(pub String);

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramFailure {
    Program,
    UnfitMachine,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramEnd {
    /// Every task finished.
    Clean,
    /// Tasks were cut off, by the deadline or by a second signal.
    Hard,
}

/// SIGTERM and SIGINT, caught from the moment this is made.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs `start`, then waits: for the soft stop first, then for the tasks, until the deadline or a second signal.
pub(crate) async fn live<F>(
    ctx: &Context,
    start: F,
    signals: &mut Signals,
    grace: Duration,
) -> ProgramEnd
where
    F: Future<Output = anyhow::Result<()>>,
{
    ctx.health.set("start", Err("starting"));
    // `start` is dropped when the stop comes first: it has nothing in hand yet, and may be waiting for a server.
    tokio::select! {
        () = started_then_stopped(ctx, start) => {}
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            ctx.stopping.cancel();
        }
    }
    ctx.health.set("stopping", Err("the program is stopping"));
    ctx.tasks.close();
    tokio::select! {
        () = ctx.tasks.wait() => ProgramEnd::Clean,
        () = tokio::time::sleep(grace) => {
            tracing::error!(tasks = ctx.tasks.len(), ?grace, "shutdown.grace is over; aborting the remaining tasks");
            ProgramEnd::Hard
        }
        signal = signals.next() => {
            tracing::warn!(signal, tasks = ctx.tasks.len(), "second signal; aborting the remaining tasks");
            ProgramEnd::Hard
        }
    }
}

async fn started_then_stopped<F>(ctx: &Context, start: F)
where
    F: Future<Output = anyhow::Result<()>>,
{
    let started = tokio::select! {
        started = start => started,
        () = ctx.stopping.cancelled() => return,
    };
    match started {
        Ok(()) => {
            ctx.health.forget("start");
            tracing::info!("started");
            ctx.stopping.cancelled().await;
        }
        Err(error) => ctx.fail("start", &format!("{error:#}")),
    }
}
