//! A real nats-server, provisioned, and a hand that writes the log as services and workers would.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::ambient;
use spotreel_bus::TaskLog;
use spotreel_bus::log::Append;
use spotreel_bus::provision::{self, Layout};
use spotreel_domain::request::TaskRequest;
use spotreel_domain::task::{Artifact, Failure, FailureKind, Refused};
use spotreel_domain::{Event, Task, TaskId};
pub use spotreel_test_kit::{Nats, until};

pub async fn provisioned() -> Nats {
    let nats = Nats::start().await;
    provision::apply(&nats.client("provision").await, &Layout::default())
        .await
        .unwrap();
    nats
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

impl Hand {
    /// Writes as the user who may write everything.
    pub async fn of(nats: &Nats) -> Self {
        let client = nats.client("provision").await;
        Self {
            log: TaskLog::open(&client).await,
            client,
        }
    }

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

    pub async fn interrupted(&self, before: &Written) -> Written {
        self.next(before, |task| task.interrupted(ambient::now()))
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
            poster: Some(key.replace(".mp4", ".jpg")),
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
