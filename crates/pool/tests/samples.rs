//! What is known of a queue's tasks, against a real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::Client;
use futures::future::join_all;
use spotreel_api::TaskRequest;
use spotreel_bus::names;
use spotreel_domain::pool::{PoolConfig, Pools};
use spotreel_domain::workload::Sampled;
use spotreel_domain::{Event, Lane, Model, Priority, TaskId};
use spotreel_pool::queue::Queues;
use spotreel_pool::samples::Samples;
use spotreel_test_kit::{Logs, Nats, tasks};

const SHORT: u32 = 17;
const LONG: u32 = 121;
/// The most of a queue that is looked at.
const BOUND: usize = 128;
/// Appends under way at once.
const AT_ONCE: usize = 64;

struct Stage {
    nats: Nats,
    logs: Logs,
    queued: AtomicU32,
}

impl Stage {
    async fn set() -> Self {
        let nats = Nats::provisioned(Duration::from_secs(30)).await;
        Self {
            logs: Logs::of(&nats).await,
            nats,
            queued: AtomicU32::new(0),
        }
    }

    async fn queue(&self, tasks: &[(Model, u32)]) {
        for some in tasks.chunks(AT_ONCE) {
            let appends = some.iter().map(async |(model, frames)| {
                let number = self.queued.fetch_add(1, Ordering::Relaxed);
                let request = TaskRequest {
                    frames: Some(*frames),
                    ..tasks::request(*model)
                };
                let id = format!("task-{number}");
                self.logs.submit_as(&id, &request, |_| {}).await
            });
            join_all(appends).await;
        }
    }

    /// Of the tasks that wait for the model those that are `LONG`, by the sample.
    async fn long_share(&self, model: Model) -> f64 {
        let client: Client = self.nats.client("trigger").await;
        let pools = Pools {
            pool: [(
                "default".to_owned().try_into().unwrap(),
                PoolConfig::default(),
            )]
            .into(),
        };
        let queues = Queues::read(&client, &pools).await.unwrap();
        let looked = Samples::default().read(&client, &queues).await;
        let sample = looked.sampled(&[]).remove(&model).unwrap();
        assert!(sample.len() <= BOUND, "{} were looked at", sample.len());
        let sum = |of: &dyn Fn(&Sampled) -> bool| -> f64 {
            let some = sample.iter().filter(|one| of(one));
            some.map(|one| one.stands_for).sum()
        };
        sum(&|one| one.job.frames == LONG) / sum(&|_| true)
    }
}

#[tokio::test]
async fn the_first_tasks_of_a_queue_do_not_stand_for_the_others() {
    let stage = Stage::set().await;
    stage.queue(&[(Model::Ti2v5b, SHORT); 128]).await;
    stage.queue(&[(Model::Ti2v5b, LONG); 2_000]).await;
    let share = stage.long_share(Model::Ti2v5b).await;
    assert!((share - 2_000.0 / 2_128.0).abs() < 0.02, "{share}");
}

#[tokio::test]
async fn a_task_that_no_version_can_decode_hides_no_other() {
    let stage = Stage::set().await;
    stage.queue(&[(Model::Ti2v5b, SHORT); 10]).await;
    let lane = Lane::front(Priority::Normal);
    let id = TaskId::parse("lost").unwrap();
    let subject = names::log_event(&id, Event::Queued, Model::Ti2v5b, lane);
    let context = async_nats::jetstream::new(stage.logs.client.clone());
    let stored = context.publish(subject, "garbage".into()).await.unwrap();
    stored.await.unwrap();
    stage.queue(&[(Model::Ti2v5b, SHORT); 118]).await;
    stage.queue(&[(Model::Ti2v5b, LONG); 1_000]).await;
    let share = stage.long_share(Model::Ti2v5b).await;
    assert!((share - 1_000.0 / 1_128.0).abs() < 0.02, "{share}");
}

#[tokio::test]
async fn tasks_that_came_slowly_and_tasks_that_came_at_once_count_alike() {
    let stage = Stage::set().await;
    for _ in 0..200 {
        stage.queue(&[(Model::Ti2v5b, SHORT)]).await;
        stage.queue(&[(Model::T2vA14b, 81); 10]).await;
    }
    stage.queue(&[(Model::Ti2v5b, LONG); 600]).await;
    let share = stage.long_share(Model::Ti2v5b).await;
    assert!((share - 0.75).abs() < 0.05, "{share}");
}

#[tokio::test]
async fn a_short_queue_is_known_as_a_whole() {
    let stage = Stage::set().await;
    stage.queue(&[(Model::Ti2v5b, SHORT); 20]).await;
    stage.queue(&[(Model::Ti2v5b, LONG); 20]).await;
    let share = stage.long_share(Model::Ti2v5b).await;
    assert!((share - 0.5).abs() < 1e-9, "{share}");
}
