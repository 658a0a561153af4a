//! Programs of an earlier `dev` of this directory that outlived it. The kernel ends them with it; this is the net
//! for machines where it does not.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// Name → process id of what runs.
pub const PIDS: &str = "pids.json";
/// In the environment of every child: the directory that it belongs to.
pub const MARK: &str = "SPOTREEL_DEV_OF";

const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Kills those that pids.json names, if they are still what it says.
pub async fn kill_all(dir: &Path) {
    let path = dir.join(PIDS);
    let Ok(text) = std::fs::read(&path) else {
        return;
    };
    let pids: BTreeMap<String, i32> = serde_json::from_slice(&text).unwrap_or_default();
    for (name, pid) in pids {
        if !belongs(pid, dir) {
            continue;
        }
        eprintln!("{name} of an earlier run is still there (process {pid}) and is killed");
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            let deadline = Instant::now() + GONE_WITHIN;
            while belongs(pid, dir) && Instant::now() < deadline {
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let _ = std::fs::remove_file(path);
}

/// Whether a process carries our mark: a number alone may be another process by now. One that has ended has no
/// environment any more.
fn belongs(pid: i32, dir: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == mark)
}
