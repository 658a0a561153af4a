//! A real nats-server on a free port, provisioned, and a hand that writes the log as services and workers would.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::provision::{self, Layout};
use spotreel_bus::{NatsConfig, TaskLog};
use spotreel_domain::request::TaskRequest;
use spotreel_domain::task::{Artifact, Failure, FailureKind, Refused};
use spotreel_domain::{Event, Task, TaskId};
use tempfile::TempDir;

const PASSWORD: &str = "secret";
const USERS: [&str; 10] = [
    "PROVISION",
    "TRIGGER",
    "FLEET",
    "OPERATOR",
    "INTAKE",
    "NOTIFIER",
    "MONITOR",
    "WORKER",
    "CLIENTS_PROVISION",
    "CLIENT",
];
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Nats {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Nats {
    /// Starts and provisions.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let binary = std::env::var("SPOTREEL_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let config =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/nats-server.conf");
        let child = Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"])
            .arg(config)
            .arg("-sd")
            .arg(dir.path())
            .envs(USERS.map(|user| (format!("SPOTREEL_{user}_PASSWORD"), PASSWORD)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server: set SPOTREEL_NATS_SERVER to its path");
        let nats = Self {
            child,
            port,
            _dir: dir,
        };
        until("the server listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        provision::apply(&nats.client("provision").await, &Layout::default())
            .await
            .unwrap();
        nats
    }

    pub async fn client(&self, user: &str) -> Client {
        let config = NatsConfig {
            url: format!("nats://127.0.0.1:{}", self.port),
            user: Some(user.into()),
            password: Some(PASSWORD.into()),
            creds: None,
        };
        spotreel_bus::connect(&config, user, false).await.unwrap()
    }

    /// Writes as the user who may write everything.
    pub async fn hand(&self) -> Hand {
        let client = self.client("provision").await;
        Hand {
            log: TaskLog::open(&client).await,
            client,
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Hand {
    pub client: Client,
    pub log: TaskLog,
}

/// A task, and the sequence of its last event.
#[derive(Clone, Debug)]
pub struct Written {
    pub task: Task,
    pub sequence: u64,
}

#[allow(dead_code, reason = "each test file uses its part")]
impl Hand {
    pub async fn submit(&self, id: &str, expires_in: Option<Duration>) -> Written {
        let now = ambient::now();
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox in the snow".into(),
            expires_at: expires_in.map(|rest| now + Duration::from_secs(3600) + rest),
            ..TaskRequest::default()
        };
        let mut valid = request.validate(now).unwrap();
        valid.spec.expires_at = expires_in.map(|rest| now + rest);
        let step = Task::submit(
            TaskId::parse(id).unwrap(),
            valid.spec,
            valid.content_hash,
            now,
        );
        self.append(step, 0).await
    }

    pub async fn started(&self, before: &Written) -> Written {
        self.next(before, |task| task.started("w1", "i-1", 0, ambient::now()))
            .await
    }

    pub async fn failed(&self, before: &Written) -> Written {
        let error = Failure {
            kind: FailureKind::Invalid,
            message: "no".into(),
        };
        self.next(before, |task| task.attempt_failed(error, ambient::now()))
            .await
    }

    pub async fn succeeded(&self, before: &Written, key: &str) -> Written {
        let artifact = Artifact {
            bucket: "spotreel".into(),
            key: key.into(),
            sha256: "00".into(),
            bytes: 1,
            width: 1280,
            height: 704,
            frames: 5,
            fps: 24,
            engine: "sim".into(),
        };
        self.next(before, |task| task.succeeded(artifact, ambient::now()))
            .await
    }

    pub async fn cancelled(&self, before: &Written) -> Written {
        self.next(before, |task| task.cancelled(ambient::now()))
            .await
    }

    pub async fn requeued(&self, before: &Written) -> Written {
        self.next(before, |task| task.requeued(ambient::now()))
            .await
    }

    async fn next<F>(&self, before: &Written, step: F) -> Written
    where
        F: FnOnce(&Task) -> Result<(Event, Task), Refused>,
    {
        self.append(step(&before.task).unwrap(), before.sequence)
            .await
    }

    async fn append(&self, step: (Event, Task), expected: u64) -> Written {
        let (event, task) = step.clone();
        let append = Append::new(step, expected, ambient::uuid_v4());
        let sequence = self.log.append(&append).await.unwrap();
        Written {
            task: task.placed_at(sequence, event),
            sequence,
        }
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came true: {what}");
}
