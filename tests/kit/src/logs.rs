//! The task log and the batch log, which the test writes as services and workers do.

use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use serde_json::json;
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::Append;
use spotreel_bus::names::SWEEPER_MARK;
use spotreel_bus::{BatchLog, TaskLog, kv};
use spotreel_domain::batch::{Batch, Instance, PoolName, Wanted};
use spotreel_domain::fleet::cloud::{Lifecycle, Place};
use spotreel_domain::task::{Failure, FailureKind, Refused};
use spotreel_domain::{Event, Model, Task, TaskId, Usd};
use tokio::task::JoinHandle;

use super::{Nats, tasks};

/// As monitor does.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

/// With every right in the services' account.
#[derive(Clone)]
pub struct Logs {
    pub client: Client,
    pub tasks: TaskLog,
    pub batches: BatchLog,
}

/// A task, and the sequence of its last event.
#[derive(Clone, Debug)]
pub struct Written {
    pub task: Task,
    pub sequence: u64,
}

impl Logs {
    pub async fn of(nats: &Nats) -> Self {
        Self::over(nats.client("provision").await).await
    }

    pub async fn over(client: Client) -> Self {
        Self {
            tasks: TaskLog::open(&client).await,
            batches: BatchLog::open(&client).await,
            client,
        }
    }

    /// A task as it stands in the log.
    pub async fn last(&self, id: &str) -> Written {
        let id = TaskId::parse(id).expect("the tests' ids are valid");
        let last = self.tasks.last(&id).await.expect("NATS answers");
        let last = last.expect("the task is in the log");
        Written {
            task: last.task,
            sequence: last.sequence,
        }
    }

    pub async fn submit(&self, id: &str) -> Written {
        self.submit_as(id, &tasks::request(Model::Ti2v5b), |_| {})
            .await
    }

    /// A task of this request; `change` may do what no client can ask for.
    pub async fn submit_as(
        &self,
        id: &str,
        request: &TaskRequest,
        change: impl FnOnce(&mut Task),
    ) -> Written {
        self.append(tasks::queued(id, request, change), 0).await
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
        let artifact = tasks::artifact(key);
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

    /// Appends what this step of the task's life gives.
    pub async fn next<F>(&self, before: &Written, step: F) -> Written
    where
        F: FnOnce(&Task) -> Result<(Event, Task), Refused>,
    {
        let step = step(&before.task).expect("the test's steps are allowed");
        self.append(step, before.sequence).await
    }

    async fn append(&self, step: (Event, Task), expected: u64) -> Written {
        let (event, task) = step.clone();
        let append = Append::new(step, expected, ambient::uuid_v4());
        let sequence = self
            .tasks
            .append(&append)
            .await
            .expect("nobody else writes");
        Written {
            task: task.placed_at(sequence, event),
            sequence,
        }
    }

    /// Appends the pool's next batch, as trigger asks for it.
    pub async fn request(&self, pool: &PoolName, units: u32) -> Batch {
        self.request_as(pool, units, |_| {}).await
    }

    /// The same; `change` may say what has become of it since.
    pub async fn request_as(
        &self,
        pool: &PoolName,
        units: u32,
        change: impl FnOnce(&mut Batch),
    ) -> Batch {
        let last = self.batches.last(pool).await.expect("NATS answers");
        let now = ambient::now();
        let wanted = Wanted {
            rule: "length".to_owned(),
            why: "a test wants it".to_owned(),
            units,
            slot: None,
            deadline: now + Duration::from_secs(3_600),
        };
        let before = last.as_ref().map(|last| &last.batch);
        let requested = Batch::request(pool, before, wanted, now);
        let mut batch = requested.expect("the batch before has ended");
        change(&mut batch);
        let expected = last.map_or(0, |last| last.sequence);
        let appended = self.batches.append(&batch, expected).await;
        appended.expect("nobody else asks");
        batch
    }

    /// The pool's newest batch.
    pub async fn batch(&self, pool: &PoolName) -> Batch {
        let last = self.batches.last(pool).await.expect("NATS answers");
        last.expect("a batch was asked for").batch
    }

    /// Writes what has become of the pool's newest batch.
    pub async fn update(&self, pool: &PoolName, change: impl FnOnce(&mut Batch)) -> Batch {
        let last = self.batches.last(pool).await.expect("NATS answers");
        let last = last.expect("a batch was asked for");
        let mut batch = last.batch;
        change(&mut batch);
        let appended = self.batches.append(&batch, last.sequence).await;
        appended.expect("nobody else writes");
        batch
    }

    /// Says, as monitor's sweeper, that the queue's counts were right at this time.
    pub async fn swept(&self, at: Timestamp) -> Result<(), JetStreamError> {
        let mark = json!({ "at": at, "log_sequence": 0 });
        kv::put_mark(&self.client, SWEEPER_MARK, &mark).await
    }

    /// Says so every second where there is no monitor, until the test ends.
    pub fn keep_swept(&self) -> JoinHandle<()> {
        let logs = self.clone();
        tokio::spawn(async move {
            loop {
                // While NATS is down nobody reads it.
                let _ = logs.swept(ambient::now()).await;
                tokio::time::sleep(SWEPT_EVERY).await;
            }
        })
    }
}

pub fn pool(name: &str) -> PoolName {
    PoolName::parse(name).expect("the tests' pools have valid names")
}

/// A Spot instance of `us-east-2a` for $0.30 an hour, bought and ready at this time.
pub fn spot_instance(id: &str, kind: &str, at: Timestamp) -> Instance {
    let place = Place {
        kind: kind.into(),
        zone: "us-east-2a".into(),
    };
    let rate = Usd::from_cents(30);
    Instance {
        ready_at: Some(at),
        ..Instance::bought(id.into(), place, Lifecycle::Spot, 1, at, rate)
    }
}
