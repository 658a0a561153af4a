//! Reads the two logs: hands events of tasks in groups to [`group`](crate::group), those of batches one by one to
//! [`act`](crate::act), and acks each once it is published.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::consume::{ConsumerSpec, HandlerError, Notice};
use spotreel_bus::log::MAX_BATCH;
use spotreel_bus::names::{BATCHES, CONSUMER_NOTIFIER, TASKS};
use spotreel_bus::{Consumer, Handled, RecordedBatch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::act::{Notifier, Said};
use crate::error::NotifyError;
use crate::metrics;

/// Groups in hand at the same time: some are pulled and prepared while another is stored.
const LOOPS: usize = 4;
/// Failures in a row of one event until a person is asked to look: with the default delays half a minute, longer than
/// a restart of the server.
const TRIES_UNTIL_ERROR: u32 = 10;

impl HandlerError for NotifyError {}

impl Notifier {
    /// Not ready until the consumers have been found.
    pub fn announce(&self, health: &Health) {
        health.expect(&check(TASKS));
        health.expect(&check(BATCHES));
    }

    /// Publishes until told to stop. Neither log waits for the other.
    pub async fn run(self: Arc<Self>, health: &Health, stopping: &CancellationToken) {
        let tasks = Arc::new(self.consumer(TASKS, MAX_BATCH, health, stopping));
        let batches = self.consumer(BATCHES, 1, health, stopping);
        // Tasks of their own, so that they use several cores.
        let mut groups = JoinSet::new();
        let notifier = &*self;
        for _ in 0..LOOPS {
            let (notifier, tasks) = (Arc::clone(&self), Arc::clone(&tasks));
            groups.spawn(async move {
                let publish = |group| notifier.publish_group(group);
                tasks.run_together(publish).await;
            });
        }
        tokio::join!(
            groups.join_all(),
            Box::pin(batches.run(|event: RecordedBatch| async move {
                let said = notifier.publish_batch(&event).await?;
                count(event.batch.status.name(), event.stored_at, said);
                Ok::<_, NotifyError>(Handled::Done)
            })),
        );
    }

    fn consumer(
        &self,
        stream: &'static str,
        concurrent: usize,
        health: &Health,
        stopping: &CancellationToken,
    ) -> Consumer {
        let spec = ConsumerSpec {
            consumer: CONSUMER_NOTIFIER,
            program: "notifier",
            concurrent,
            pull_wait: self.config.pull_wait,
            retry_first: self.config.retry_first,
            retry_longest: self.config.retry_longest,
            tries_until_error: TRIES_UNTIL_ERROR,
        };
        let (check, health) = (check(stream), health.clone());
        Consumer::new(&self.nats, spec, stopping, move |notice| match notice {
            Notice::Check(state) => health.set(&check, state),
            Notice::Failed => metrics::retry(),
            Notice::Held => metrics::held(),
            Notice::Unreadable => metrics::unreadable(),
        })
    }
}

/// In `/readyz`, one for each log.
fn check(stream: &str) -> String {
    format!("consumer notifier of {stream}")
}

pub(crate) fn count(name: &'static str, stored_at: Timestamp, said: Said) {
    let delay = ambient::now().duration_since(stored_at);
    let outcome = match said {
        Said::Now => "published",
        Said::Before => "before",
    };
    metrics::said(name, outcome, Duration::try_from(delay).unwrap_or_default());
}
