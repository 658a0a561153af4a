//! A real nats-server with the product's own configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{NatsConfig, connect};
use tempfile::TempDir;

use super::{Process, eventually, free_port, root};

pub const USERS: [&str; 10] = [
    "provision",
    "intake",
    "trigger",
    "fleet",
    "notifier",
    "monitor",
    "worker",
    "clients-provision",
    "client",
    "operator",
];
/// A server with an empty disk is up in a tenth of a second; this is for a machine that does much else.
const UP_WITHIN: Duration = Duration::from_secs(30);

pub struct Nats {
    pub url: String,
    port: u16,
    dir: TempDir,
    process: Option<Process>,
}

impl Nats {
    /// Up, with nothing in it.
    pub async fn start() -> Self {
        let dir =
            TempDir::with_prefix("spotreel-nats-").expect("a temporary directory can be made");
        let port = free_port();
        let mut nats = Self {
            url: format!("nats://127.0.0.1:{port}"),
            port,
            dir,
            process: None,
        };
        nats.begin().await;
        nats
    }

    /// Up and provisioned, with leases as short as a test wants them.
    pub async fn provisioned(lease: Duration) -> Self {
        let nats = Self::start().await;
        provision(&nats.url, &layout(lease, 1)).await;
        nats
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("nats.log")
    }

    pub async fn begin(&mut self) {
        let mut command = Command::new(server());
        command
            .arg("-c")
            .arg(root().join("deploy/nats/nats-server.conf"))
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .arg("-sd")
            .arg(self.dir.path().join("data"))
            .envs(passwords());
        self.process =
            Some(Process::start(command, &self.log()).expect("nats-server can be started"));
        eventually("nats-server answers", UP_WITHIN, || answers(self.port)).await;
    }

    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Stops it politely and starts it over the same data.
    pub async fn restart(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate();
            eventually("nats-server has left", UP_WITHIN, || {
                let ended = process.ended().is_some();
                async move { ended.then_some(()) }
            })
            .await;
        }
        self.begin().await;
    }

    /// `kill -9`, and up again over what lies on the disk.
    pub async fn crash(&mut self) {
        self.kill9();
        self.begin().await;
    }

    pub fn pause(&self) {
        self.process.as_ref().expect("the server runs").freeze();
    }

    pub fn resume(&self) {
        self.process.as_ref().expect("the server runs").thaw();
    }

    pub fn config(&self, user: &str) -> NatsConfig {
        config(&self.url, user)
    }

    pub async fn client(&self, user: &str) -> Client {
        client(&self.url, user).await
    }
}

/// The sizes of a test's streams: small, so that many fit one machine.
pub fn layout(lease: Duration, replicas: usize) -> Layout {
    const MIB: i64 = 1 << 20;
    Layout {
        replicas,
        lease,
        tasks_max_bytes: 256 * MIB,
        events_max_bytes: 256 * MIB,
        inbox_max_bytes: 64 * MIB,
        batches_max_bytes: 64 * MIB,
    }
}

/// Streams, consumers and buckets in both accounts.
pub async fn provision(url: &str, layout: &Layout) {
    let services = client(url, "provision").await;
    provision::apply(&services, layout)
        .await
        .expect("the services' account can be provisioned");
    let clients = client(url, "clients-provision").await;
    provision::apply_clients(&clients, layout)
        .await
        .expect("the clients' account can be provisioned");
}

pub fn password(user: &str) -> String {
    format!("{user}-of-a-test")
}

pub fn config(url: &str, user: &str) -> NatsConfig {
    NatsConfig {
        url: url.to_owned(),
        user: Some(user.to_owned()),
        password: Some(password(user)),
        creds: None,
    }
}

/// Connected as `user`, with the inbox that its permissions allow.
pub async fn client(url: &str, user: &str) -> Client {
    let program = if user.ends_with("provision") || user == "operator" {
        "client"
    } else {
        user
    };
    connect(&config(url, user), program, true)
        .await
        .expect("nats-server takes the test's users")
}

pub(super) fn passwords() -> impl Iterator<Item = (String, String)> {
    USERS.into_iter().map(|user| {
        let variable = format!(
            "SPOTREEL_{}_PASSWORD",
            user.to_uppercase().replace('-', "_")
        );
        (variable, password(user))
    })
}

/// A server greets with `INFO` once it takes clients.
pub(super) async fn answers(port: u16) -> Option<()> {
    use tokio::io::AsyncReadExt;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .ok()?;
    let mut greeting = [0; 4];
    let read = tokio::time::timeout(Duration::from_secs(1), stream.read_exact(&mut greeting)).await;
    read.ok()?.ok().filter(|_| &greeting == b"INFO").map(drop)
}

/// The program: named by the environment, in PATH, or in the repository's Python environment.
pub fn server() -> PathBuf {
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
