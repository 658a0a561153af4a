//! A child process that leads a group of its own.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A signal takes microseconds to all threads; this is for a machine that does much else.
const STILL_WITHIN: Duration = Duration::from_secs(5);

pub struct Process {
    child: Child,
    group: Pid,
    /// Kills the group once this process is gone: its standard input ends then.
    guard: Child,
}

impl Process {
    /// Starts it; standard output and error go to the end of `log`.
    pub fn start(mut command: Command, log: &Path) -> std::io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(std::io::Error::other)?);
        let guard = Command::new("sh")
            .args([
                "-c",
                "read -r _; kill -9 \"-$1\"",
                "guard",
                &group.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            group,
            guard,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The whole group: a signal that stops a worker stops its engine too, as a machine that freezes does.
    pub fn signal(&self, signal: Signal) {
        // A group that is gone has what the signal was for.
        let _ = killpg(self.group, signal);
    }

    /// Returns once it stands still: the signal reaches its threads one by one.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let began = Instant::now();
        while !self.stands_still() && began.elapsed() < STILL_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.group)) else {
            return true;
        };
        let stats = threads.flatten().map(|thread| thread.path().join("stat"));
        let mut stats = stats.filter_map(|stat| std::fs::read_to_string(stat).ok());
        // The state stands behind the name, which may hold anything.
        stats.all(|stat| {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
            matches!(state, Some(Some('T' | 'Z' | 'X')))
        })
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks the process itself to leave, not its children.
    pub fn terminate(&self) {
        let _ = nix::sys::signal::kill(self.group, Signal::SIGTERM);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn was_killed(&mut self) -> bool {
        self.ended().is_some_and(|status| status.signal().is_some())
    }

    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        // Fails only when it was waited for before.
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first: the group's number may be somebody else's afterwards.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        self.kill9();
    }
}
