//! Programs of spotreel as processes of their own.

use std::ffi::OsStr;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Process, until};

/// A program that was started.
pub struct Program {
    process: Process,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it says goes to `log`, which is emptied first.
    pub fn start(command: Command, log: &Path) -> Self {
        let emptied = std::fs::File::create(log).map(drop);
        let process = emptied.and_then(|()| Process::start(command, log));
        Self {
            process: process
                .unwrap_or_else(|error| panic!("cannot start, {}: {error}", log.display())),
            log: log.to_owned(),
        }
    }

    /// Waits until it has left by itself, and gives its exit code; none: a signal ended it.
    pub async fn left(&mut self) -> Option<i32> {
        let mut status = None;
        until("the program has left", async || {
            status = self.process.ended();
            status.is_some()
        })
        .await;
        status.and_then(|status| status.code())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// The program itself, not its children.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("ids are small");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Its whole log.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== {}\n{}", self.log.display(), self.said());
        }
    }
}

/// A command that starts a program with these keys and nothing that this process was told.
pub fn command<K: Display, V: Display>(
    program: impl AsRef<OsStr>,
    keys: impl IntoIterator<Item = (K, V)>,
) -> Command {
    let mut command = Command::new(program);
    without_settings(&mut command);
    for (key, value) in keys {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

/// What this process was told is not for its children.
pub fn without_settings(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        let ours = ["SPOTREEL_", "NATS_", "OTEL_", "AWS_"];
        if ours.iter().any(|ours| text.starts_with(ours)) {
            command.env_remove(&key);
        }
    }
}

/// Where programs lie: `SPOTREEL_BIN_DIR`, or where this one was built to.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("SPOTREEL_BIN_DIR") {
        return dir.into();
    }
    let here = std::env::current_exe().expect("a program knows its own path");
    let dir = here.parent().expect("a program lies in a directory");
    // Tests lie one folder deeper.
    let profile = dir.parent().filter(|_| dir.ends_with("deps"));
    profile.unwrap_or(dir).to_owned()
}

/// A program of the workspace, from [`bin_dir`]; built if nobody did.
pub fn binary(name: &str) -> PathBuf {
    let profile = bin_dir();
    let path = profile.join(name);
    if std::env::var_os("SPOTREEL_BIN_DIR").is_some() {
        assert!(
            path.is_file(),
            "SPOTREEL_BIN_DIR has no {name}: run `make build`"
        );
    }
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", name, "--target-dir"]);
        build.arg(
            profile
                .parent()
                .expect("a profile lies in the target directory"),
        );
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let built = build.status().expect("cargo can be run");
        assert!(built.success(), "{name} cannot be built: {built}");
    }
    path
}

/// What a command that must succeed prints.
pub fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the program can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it prints text")
}

/// What a command that must fail, with exit code 1, says on stderr.
pub fn refusal(command: &mut Command) -> String {
    let output = command.output().expect("the program can be run");
    assert_eq!(output.status.code(), Some(1), "{command:?}");
    String::from_utf8(output.stderr).expect("it says text")
}

/// The body of a page that answers with success.
pub async fn page(url: &str) -> Option<String> {
    let answer = reqwest::get(url).await.ok()?.error_for_status().ok()?;
    answer.text().await.ok()
}

/// The value of a metric on a page, whatever its labels are.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}
