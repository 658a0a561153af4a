//! `spotreel dev` with a real fleet: what is started comes to work, and nothing of it outlives it.
//!
//! The other programs lie beside `spotreel` once `make build` has made them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Debug builds on a machine that compiles something else beside.
const SOON: Duration = Duration::from_secs(90);

struct Dev {
    dir: PathBuf,
    process: Child,
}

impl Dev {
    fn start(dir: &Path, args: &[&str]) -> Self {
        // One that was killed has left it behind.
        let _ = std::fs::remove_file(dir.join("endpoints.env"));
        let process = spotreel(dir, &[&["dev"], args].concat())
            .stdout(Stdio::null())
            .spawn()
            .expect("it can be started");
        let mut dev = Self {
            dir: dir.to_owned(),
            process,
        };
        until("everything is ready", || {
            let ended = dev.process.try_wait().expect("it is our child");
            assert!(ended.is_none(), "it ended: {ended:?}");
            dir.join("endpoints.env").exists()
        });
        dev
    }

    fn say(&self, args: &[&str]) -> String {
        let output = spotreel(&self.dir, args).output().expect("it can be run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).expect("it is text")
    }

    fn pool(&self) -> Value {
        let fleet = self.say(&["fleet", "--json"]);
        let fleet: Value = serde_json::from_str(&fleet).expect("it is JSON");
        fleet["pools"][0].clone()
    }

    fn workers(&self) -> usize {
        let marked = marked(&self.dir);
        marked
            .iter()
            .filter(|program| program.ends_with("spotreel-worker"))
            .count()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("ids are small");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Whatever the test found: its children go with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spotreel(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel"));
    command.arg("--dir").arg(dir).args(args);
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS"] {
        command.env_remove(name);
    }
    command
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < SOON, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Programs of processes that carry this directory's mark in their environment.
fn marked(dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().expect("it is there");
    let mark = format!("SPOTREEL_DEV_OF={}", dir.display());
    let entries = std::fs::read_dir("/proc").expect("this is Linux");
    let programs = entries.filter_map(|entry| {
        let process = entry.ok()?.path();
        let environment = std::fs::read(process.join("environ")).ok()?;
        let ours = environment.split(|c| *c == 0).any(|e| e == mark.as_bytes());
        let program = std::fs::read_link(process.join("exe")).ok()?;
        ours.then(|| program.display().to_string())
    });
    programs.collect()
}

#[test]
fn one_task_is_rendered_by_a_machine_that_was_bought_for_it() {
    let dir = TempDir::new().expect("a directory can be made");
    let mut dev = Dev::start(dir.path(), &["--max-wait", "1s"]);
    assert_eq!(dev.workers(), 0, "nothing is bought for nothing");
    let task = ["--prompt", "a red fox", "--frames", "5", "--steps", "2"];
    dev.say(&[&["submit", "--wait"], &task[..]].concat());
    until("the batch has settled", || {
        dev.pool()["batch"]["status"] == "settled"
    });
    assert_eq!(dev.workers(), 0, "nothing is left of it");
    let story = dev.say(&["batches", "default-1"]);
    assert!(story.contains("1 machine bought"), "{story}");
    assert!(story.contains("max_wait"), "{story}");

    dev.signal(Signal::SIGTERM);
    let ended = dev.process.wait().expect("it is our child");
    assert!(ended.success(), "{ended}");
    assert_eq!(marked(dir.path()), Vec::<String>::new());
}

#[test]
fn orders_are_carried_out_and_refused_in_words() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--max-wait", "1s", "--step-ms", "500"]);
    dev.say(&["hold", "--reason", "the floor is wet"]);
    dev.say(&["submit", "--prompt", "a red fox", "--steps", "60"]);
    until("the hold is told with the rule that fires", || {
        let why = dev.say(&["why"]);
        why.contains("blocked: max_wait") && why.contains("the floor is wet")
    });
    dev.say(&["run", "--force"]);
    let busy = || dev.pool()["instances"][0]["worker"]["task"].is_string();
    until("a machine renders", busy);
    let plan = dev.say(&["fleet", "reap", "--all", "--dry-run"]);
    assert!(plan.contains("1 would be ended"), "{plan}");
    dev.say(&["stop", "--now"]);
    until("the batch has settled", || {
        dev.pool()["batch"]["status"] == "settled"
    });
    let tasks = dev.say(&["list"]);
    assert!(tasks.contains("queued"), "the task stays: {tasks}");

    let refused = spotreel(dir.path(), &["run", "--pool", "nope"]).output();
    let refused = refused.expect("it can be run");
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("no pool \"nope\""), "{words}");
}

#[test]
fn machines_of_a_dev_that_was_killed_end_with_the_next_one() {
    let dir = TempDir::new().expect("a directory can be made");
    let args = ["--max-wait", "1s", "--step-ms", "500"];
    let mut dev = Dev::start(dir.path(), &args);
    dev.say(&["submit", "--prompt", "a red fox", "--steps", "60"]);
    until("a machine runs", || dev.workers() == 1);
    dev.signal(Signal::SIGKILL);
    dev.process.wait().expect("it is our child");
    assert_eq!(dev.workers(), 1, "nobody was there to end it");

    let mut next = Dev::start(dir.path(), &["--workers", "0"]);
    assert_eq!(
        next.workers(),
        0,
        "and no machine is bought without a fleet"
    );
    next.signal(Signal::SIGINT);
    assert!(next.process.wait().expect("it is our child").success());
    assert_eq!(marked(dir.path()), Vec::<String>::new());
}
