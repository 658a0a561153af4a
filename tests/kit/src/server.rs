//! One process of nats-server: alone, or a node of a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use spotreel_programs::nats;

use super::{POLL, Process, free_port, password, refused_rights, rights, root, until};

/// A server with an empty disk greets in a tenth of a second; this is for a machine that does much else.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// A listener that is there and silent is none of ours yet, or is frozen.
const GREETS_WITHIN: Duration = Duration::from_secs(1);

pub struct Server {
    /// Its own for as long as this process lives, also while it is down.
    pub port: u16,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Server {
    /// Known, and not started yet. What it keeps and what it says lies in `dir`, under `name`.
    pub fn new(config: PathBuf, dir: &Path, name: &str) -> Self {
        Self {
            port: free_port(),
            config,
            data: dir.join(format!("{name}-data")),
            log: dir.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Starts it over the data that it has, and does not wait.
    pub fn spawn(&mut self) {
        self.process = None;
        let run = nats::server(program(), &self.config, self.port, &self.data, password);
        let mut command = Command::new(&run.program);
        command.args(run.arguments()).envs(run.variables.clone());
        let process = Process::start(command, &self.log);
        self.process = Some(process.expect("nats-server can be started"));
    }

    /// Waits until it takes clients, which it does once its streams are read back.
    pub async fn greeted(&mut self) {
        let began = Instant::now();
        while !greets(self.port).await {
            let process = self.process.as_mut().expect("it was started");
            if let Some(status) = process.ended() {
                panic!("nats-server ended, {status}, and said:\n{}", self.said());
            }
            assert!(
                began.elapsed() < UP_WITHIN,
                "nats-server did not greet in {UP_WITHIN:?}, and said:\n{}",
                self.said()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Asks it to leave, and waits until it has.
    pub async fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate();
            until("nats-server has left", async || process.ended().is_some()).await;
        }
        self.process = None;
    }

    pub fn freeze(&self) {
        self.running().freeze();
    }

    pub fn thaw(&self) {
        self.running().thaw();
    }

    /// Its whole log.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }
}

/// Fails a test in which a program was refused a right.
impl Drop for Server {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() || rights::is_on_purpose() {
            return;
        }
        let said = self.said();
        let refused = refused_rights(&said);
        assert!(
            refused.is_empty(),
            "rights are missing in deploy/nats/accounts.conf:\n{}",
            refused.join("\n")
        );
    }
}

/// A server greets with `INFO` once it takes clients.
async fn greets(port: u16) -> bool {
    use tokio::io::AsyncReadExt;
    let read = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await?;
        std::io::Result::Ok(greeting)
    };
    let read = tokio::time::timeout(GREETS_WITHIN, read).await;
    matches!(read, Ok(Ok(greeting)) if &greeting == b"INFO")
}

/// The program: named by the environment, in PATH, or in the repository's Python environment.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("SPOTREEL_NATS_SERVER") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .chain([root().join(".venv/bin/nats-server")])
        .find_map(|candidate| real(&candidate));
    found.expect("nats-server is needed: run `make tools`, or set SPOTREEL_NATS_SERVER")
}

/// A shim is a script that runs the server as its child; signals must reach the server itself.
fn real(candidate: &Path) -> Option<PathBuf> {
    use std::io::Read;
    let mut magic = [0; 2];
    std::fs::File::open(candidate)
        .ok()?
        .read_exact(&mut magic)
        .ok()?;
    if &magic != b"#!" || !candidate.to_string_lossy().contains("/shims/") {
        return Some(candidate.to_owned());
    }
    let said = Command::new("pyenv")
        .args(["which", "nats-server"])
        .output()
        .ok()?;
    said.status
        .success()
        .then(|| String::from_utf8_lossy(&said.stdout).trim().into())
}
