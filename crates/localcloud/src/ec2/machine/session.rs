//! The processes of one machine, as `/proc` shows them.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const LOOK: Duration = Duration::from_millis(2);

/// A session by its leader's process id, and when that process was started: an id alone is used again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pid: i32,
    started_ticks: u64,
}

impl Session {
    /// Of a process that runs and is, or is about to become, the leader of its session.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let stat = Stat::read(pid)
            .ok_or_else(|| io::Error::other("machines need /proc, as Linux has it"))?;
        Ok(Self {
            pid,
            started_ticks: stat.started_ticks,
        })
    }

    pub fn pid(self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// SIGTERM to the leader's process group.
    pub fn terminate(self) {
        let pid = Pid::from_raw(self.pid);
        if killpg(pid, Signal::SIGTERM) == Err(Errno::ESRCH) && self.leader_is_here() {
            let _ = kill(pid, Signal::SIGTERM); // it has no group yet; gone meanwhile is what we want
        }
    }

    /// SIGKILL to whoever is left. They may still be seen for a moment.
    pub fn kill(self) {
        kill_each(&self.members());
    }

    pub fn is_empty(self) -> bool {
        self.members().is_empty()
    }

    /// SIGKILL until nobody is left; for those who cannot await.
    pub fn kill_and_wait(self, at_most: Duration) {
        wait_for_none(at_most, || self.members());
    }

    /// Ends what a local cloud that is gone left behind, and only that: either the leader is still the same process, or a
    /// member carries the mark in its environment. Says whether there was anything.
    pub fn kill_leftover(self, mark: &str, at_most: Duration) -> bool {
        let whole = self.leader_is_here();
        let ours = |pid: &i32| whole || environment_holds(*pid, mark);
        wait_for_none(at_most, || {
            self.members().into_iter().filter(ours).collect()
        })
    }

    fn leader_is_here(self) -> bool {
        Stat::read(self.pid)
            .is_some_and(|stat| stat.started_ticks == self.started_ticks && !stat.dead)
    }

    /// All that run; zombies don't.
    fn members(self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                Stat::read(*pid).is_some_and(|stat| {
                    let leader = *pid == self.pid && stat.started_ticks == self.started_ticks;
                    !stat.dead && (leader || stat.session == self.pid)
                })
            })
            .collect()
    }
}

/// Says whether there was anybody.
fn wait_for_none(at_most: Duration, members: impl Fn() -> Vec<i32>) -> bool {
    let began = Instant::now();
    let mut left = members();
    let any = !left.is_empty();
    while !left.is_empty() && began.elapsed() < at_most {
        kill_each(&left);
        thread::sleep(LOOK);
        left = members();
    }
    any
}

fn kill_each(members: &[i32]) {
    for pid in members {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL); // gone meanwhile is what we want
    }
}

fn environment_holds(pid: i32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| {
        all.split(|byte| *byte == 0)
            .any(|one| one == mark.as_bytes())
    })
}

/// What we need of `/proc/<pid>/stat`, see proc_pid_stat(5).
struct Stat {
    session: i32,
    started_ticks: u64,
    dead: bool,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?; // a command's name may hold anything
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            session: fields.get(3)?.parse().ok()?,
            started_ticks: fields.get(19)?.parse().ok()?,
            dead: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}
