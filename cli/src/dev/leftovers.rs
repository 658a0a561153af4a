//! Programs of an earlier `dev` of this directory that outlived it. The kernel ends its children with it; their
//! machines, and whatever a machine where it does not has left, are found here.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// Name → process id of what runs.
pub const PIDS: &str = "pids.json";
/// In the environment of every child, and of theirs: the directory that they belong to.
pub const MARK: &str = "SPOTREEL_DEV_OF";

/// SIGKILL takes effect in microseconds, but for a process that waits for a disk.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Kills all that carry the mark of `dir`; how many there were.
pub async fn kill_all(dir: &Path) -> usize {
    let found = marked(dir);
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = marked(dir);
        if left.is_empty() || Instant::now() >= deadline {
            break;
        }
        for pid in left {
            // The only error is that it has ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(LOOK).await;
    }
    let _ = std::fs::remove_file(dir.join(PIDS));
    found.len()
}

/// Processes with our mark; one that has ended has no environment any more. Engines have none either: they end with
/// their worker.
fn marked(dir: &Path) -> Vec<i32> {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| pid.unsigned_abs() != own)
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|byte| *byte == 0).any(|entry| entry == mark))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_carries_the_mark_is_ended_and_nothing_else() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sleeper = |dir: &Path| {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").env(MARK, dir).spawn().unwrap()
        };
        let (mut ours, mut theirs) = (sleeper(dir.path()), sleeper(other.path()));
        // It carries the mark once it has become the program.
        while marked(dir.path()).is_empty() || marked(other.path()).is_empty() {
            sleep(LOOK).await;
        }
        assert_eq!(kill_all(dir.path()).await, 1);
        assert!(!ours.wait().unwrap().success());
        assert!(theirs.try_wait().unwrap().is_none());
        theirs.kill().unwrap();
        theirs.wait().unwrap();
    }
}
