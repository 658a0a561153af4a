//! A server with a log, notifiers over it, and what they have told.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::jetstream::{self, Start};
use spotreel_bus::log::{Append, MAX_BATCH};
use spotreel_bus::names::{CONSUMER_NOTIFIER, EVENTS, HEADER_LOG_SEQUENCE, TASKS};
use spotreel_bus::{Delivery, Queue};
use spotreel_domain::Model;
use spotreel_notifier::{DEFAULTS, Notifier, NotifierConfig};
use spotreel_s3::{Keys, Store};
use spotreel_test_kit::{Logs, Nats, tasks, until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Scene {
    pub nats: Nats,
    pub logs: Logs,
}

/// A public event.
pub struct ToldEvent {
    pub subject: String,
    pub log_sequence: u64,
    /// 1 for the first of an atomic batch; 0: published alone.
    pub place_in_batch: u64,
}

pub struct Running {
    task: JoinHandle<()>,
    stopping: CancellationToken,
}

impl Scene {
    pub async fn set() -> Self {
        Self::over(Nats::for_services().await).await
    }

    pub async fn over(nats: Nats) -> Self {
        let logs = Logs::of(&nats).await;
        Self { nats, logs }
    }

    /// Starts a notifier.
    pub async fn run(&self) -> Running {
        let config: NotifierConfig = toml::from_str(DEFAULTS).unwrap();
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config.s3, keys).await;
        let notifier = Notifier::new(&self.nats.client("notifier").await, store, config).await;
        let stopping = CancellationToken::new();
        let told = stopping.clone();
        let notifier = Arc::new(notifier);
        let task = tokio::spawn(async move { notifier.run(&Health::new(), &told).await });
        Running { task, stopping }
    }

    /// As intake does, with few writes.
    pub async fn submit_all(&self, names: &[String]) {
        let request = tasks::request(Model::Ti2v5b);
        for names in names.chunks(MAX_BATCH) {
            let appends = names.iter().map(|name| {
                let step = tasks::queued(name, &request, |_| {});
                Append::new(step, 0, ambient::uuid_v4())
            });
            let appends: Vec<_> = appends.collect();
            let written = self.logs.tasks.append_batch(&appends, ambient::uuid_v4());
            written.await.unwrap();
        }
    }

    /// The next delivery to any notifier, in the hands of the test.
    pub async fn pull(&self) -> Delivery {
        let client = self.nats.client("notifier").await;
        let queue = Queue::open(&client, TASKS, CONSUMER_NOTIFIER).await;
        let delivery = queue.unwrap().pull(Duration::from_secs(2)).await;
        delivery.unwrap().unwrap()
    }

    pub async fn events(&self) -> Stream {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        context.get_stream(EVENTS).await.unwrap()
    }

    pub async fn all_told(&self, events: u64) {
        until("all is told", async || {
            self.events().await.cached_info().state.messages >= events
        })
        .await;
    }

    /// All public events, in order.
    pub async fn told(&self) -> Vec<ToldEvent> {
        let mut told = Vec::new();
        let mut from = 1;
        loop {
            let start = Start::Sequence(from);
            let page = jetstream::page(&self.logs.client, EVENTS, ">", start, MAX_BATCH);
            let page = page.await.unwrap();
            let Some(last) = page.last() else {
                return told;
            };
            from = last.sequence + 1;
            told.extend(page.iter().map(|stored| {
                let number = |name: &str| {
                    let value = stored.headers.get(name)?;
                    value.as_str().parse().ok()
                };
                ToldEvent {
                    subject: stored.subject.clone(),
                    log_sequence: number(HEADER_LOG_SEQUENCE).unwrap(),
                    place_in_batch: number("Nats-Batch-Sequence").unwrap_or(0),
                }
            }));
        }
    }

    pub async fn subjects(&self) -> Vec<String> {
        let told = self.told().await;
        told.into_iter().map(|event| event.subject).collect()
    }

    /// Number of events that are delivered to a notifier and not acked.
    pub async fn unacked(&self) -> usize {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        let stream = context.get_stream(TASKS).await.unwrap();
        let info = stream.consumer_info(CONSUMER_NOTIFIER).await.unwrap();
        info.num_ack_pending
    }
}

impl Running {
    pub async fn stop(self) {
        self.stopping.cancel();
        self.task.await.unwrap();
    }

    /// As if the process had been killed, whatever it does.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Each event of the log once, those of a task in the order of the log.
pub fn assert_once_in_order(told: &[ToldEvent], log: RangeInclusive<u64>) {
    let mut sequences: Vec<u64> = told.iter().map(|event| event.log_sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, log.collect::<Vec<_>>());
    let mut newest = HashMap::new();
    for event in told {
        let task = event.subject.rsplit_once('.').unwrap().0;
        let before = newest.insert(task, event.log_sequence);
        assert!(
            before < Some(event.log_sequence),
            "{} of {} follows that of {before:?}",
            event.subject,
            event.log_sequence
        );
    }
}
