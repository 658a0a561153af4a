//! A nats-server of one's own: where its store lies and when it writes to disk can be chosen, everything else is as in
//! `deploy/nats`.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::Client;
use spotreel_bus::provision::Layout;
use spotreel_programs::nats::login;
use spotreel_tests::harness::nats::{self, client, layout, password, provision};
use spotreel_tests::harness::program::ProgramSpec;
use spotreel_tests::harness::root;
use tempfile::TempDir;

const ALWAYS: &str = "sync_interval: always";
/// Of every stream that holds tasks or events: a million of them.
const ROOM: i64 = 4 << 30;
const LEASE: Duration = Duration::from_secs(30);

/// When an acknowledged write is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before it is acknowledged, as deployed.
    Always,
    /// Within two minutes: the server's default.
    Default,
}

pub struct Server {
    pub url: String,
    process: nats::Server,
    _dir: TempDir,
}

impl Server {
    /// Not started yet. What it keeps lies in a directory of its own, or in `place`.
    pub fn new(sync: Sync, place: Option<&Path>) -> Self {
        let dir = TempDir::with_prefix("spotreel-nats-").expect("a directory can be made");
        let deployed = root().join("deploy/nats");
        let text = std::fs::read_to_string(deployed.join("nats-server.conf"));
        let mut text = text.expect("the server's configuration is in the repository");
        assert!(text.contains(ALWAYS), "what is deployed writes at once");
        if sync == Sync::Default {
            text = text.replace(ALWAYS, "");
        }
        let config = dir.path().join("nats-server.conf");
        std::fs::write(&config, text).expect("it can be written");
        // An include is looked for beside the file that names it.
        let accounts = "accounts.conf";
        let copied = std::fs::copy(deployed.join(accounts), dir.path().join(accounts));
        copied.expect("the accounts can be copied");
        let process = nats::Server::new(config, place.unwrap_or(dir.path()), "nats");
        Self {
            url: format!("nats://127.0.0.1:{}", process.port),
            process,
            _dir: dir,
        }
    }

    /// Up and provisioned, with room for a million tasks.
    pub async fn provisioned(sync: Sync, place: Option<&Path>) -> Self {
        let mut server = Self::new(sync, place);
        server.begin().await;
        let sizes = Layout {
            tasks_max_bytes: ROOM,
            events_max_bytes: ROOM,
            ..layout(LEASE, 1)
        };
        provision(&server.url, &sizes).await;
        server
    }

    /// Starts it; how long it took until it greets clients.
    pub async fn begin(&mut self) -> Duration {
        let began = Instant::now();
        self.process.spawn();
        self.process.greeted().await;
        began.elapsed()
    }

    /// Politely, and waits until it has left.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    pub async fn client(&self, user: &str) -> Client {
        client(&self.url, user).await
    }

    /// A program that is connected to it, and knows of no cloud.
    pub fn spec(&self, name: &str, dir: &Path) -> ProgramSpec {
        ProgramSpec::new(name, dir).envs(login(&self.url, name, &password(name)))
    }
}
