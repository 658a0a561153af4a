//! A running `spotreel dev`, and what a person types beside it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spotreel_test_kit::{eventually, printed};

/// Debug builds on a machine that compiles something else beside.
pub const SOON: Duration = Duration::from_secs(90);

pub struct Dev {
    pub dir: PathBuf,
    pub process: Child,
}

impl Dev {
    pub async fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_with(dir, args, &[]).await
    }

    pub async fn start_with(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = spotreel(dir, &[&["dev"], args].concat());
        command.envs(variables.iter().copied());
        Self::run(command, dir).await
    }

    /// With a small disk of its own under the NATS server, or none where this machine lets nobody mount one.
    pub async fn on_a_small_disk(dir: &Path, args: &[&str]) -> Option<Self> {
        let store = dir.join("nats");
        std::fs::create_dir(&store).expect("a directory can be made");
        let on_disk = |program: &Command| {
            let mount = r#"mount -t tmpfs -o size=64m none "$1" && shift && exec "$@""#;
            let mut command = Command::new("unshare");
            command
                .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
                .arg("sh")
                .arg(&store)
                .arg(program.get_program())
                .args(program.get_args());
            clear_environment(&mut command);
            command
        };
        let tried = on_disk(&Command::new("true")).status();
        if !tried.is_ok_and(|status| status.success()) {
            return None;
        }
        let program = spotreel(dir, &[&["dev"], args].concat());
        Some(Self::run(on_disk(&program), dir).await)
    }

    async fn run(mut command: Command, dir: &Path) -> Self {
        // One that was killed has left it behind.
        let _ = std::fs::remove_file(dir.join("endpoints.env"));
        let process = command
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
        })
        .await;
        dev
    }

    pub fn say(&self, args: &[&str]) -> String {
        printed(&mut spotreel(&self.dir, args))
    }

    pub fn pool(&self) -> Value {
        let fleet = self.say(&["fleet", "--json"]);
        let fleet: Value = serde_json::from_str(&fleet).expect("it is JSON");
        fleet["pools"][0].clone()
    }

    pub fn workers(&self) -> usize {
        let marked = marked(&self.dir);
        marked
            .iter()
            .filter(|program| program.ends_with("spotreel-worker"))
            .count()
    }

    pub fn signal(&self, signal: Signal) {
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

pub fn spotreel(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel"));
    command.arg("--dir").arg(dir).args(args);
    clear_environment(&mut command);
    command
}

/// Nothing of the person's own.
fn clear_environment(command: &mut Command) {
    for name in [
        "NATS_URL",
        "NATS_USER",
        "NATS_PASSWORD",
        "NATS_CREDS",
        "SPOTREEL_API_KEY",
    ] {
        command.env_remove(name);
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, SOON, || std::future::ready(holds().then_some(()))).await;
}

/// Programs of processes that carry this directory's mark in their environment.
pub fn marked(dir: &Path) -> Vec<String> {
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

pub fn document(text: &str) -> Value {
    serde_json::from_str(text).expect("it is JSON")
}

/// What a command that fails says on stderr.
pub fn refusal(dir: &Path, args: &[&str]) -> String {
    spotreel_test_kit::refusal(&mut spotreel(dir, args))
}
