//! The periodic pass: measures queue lengths, the lag of consumers, and the size of the log.

use async_nats::Client;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::stream::ConsumerError;
use spotreel_bootstrap::{Context, Health};
use spotreel_bus::LogRoom;
use spotreel_bus::names::{
    CONSUMER_DEADLINES, CONSUMER_JANITOR, CONSUMER_LEDGER, CONSUMER_NOTIFIER, CONSUMER_SWEEPER,
    TASKS, work_consumer,
};
use spotreel_domain::{Lane, Model};
use tokio_util::sync::CancellationToken;

use crate::config::{DiskConfig, ReconcileConfig};
use crate::disk::DiskWatch;
use crate::error::ConsumerInfoError;
use crate::metrics;
use crate::mirror::MirrorWatch;

const LOG_CHECK: &str = "task log";
const CONSUMERS: [&str; 5] = [
    CONSUMER_NOTIFIER,
    CONSUMER_SWEEPER,
    CONSUMER_JANITOR,
    CONSUMER_DEADLINES,
    CONSUMER_LEDGER,
];

pub(crate) struct Reconcile {
    client: Client,
    config: ReconcileConfig,
    disk: DiskConfig,
    health: Health,
    stopping: CancellationToken,
}

/// Said once when it begins and once when it is over.
#[derive(Default)]
struct Reported {
    crowded: bool,
    failing: bool,
}

impl Reconcile {
    pub fn new(client: Client, config: ReconcileConfig, disk: DiskConfig, ctx: &Context) -> Self {
        ctx.health.expect(LOG_CHECK);
        Self {
            client,
            config,
            disk,
            health: ctx.health.clone(),
            stopping: ctx.stopping.clone(),
        }
    }

    pub async fn run(&self) {
        let mut tick = tokio::time::interval(self.config.every);
        let mut known = Reported::default();
        let mut mirror = MirrorWatch::new(self.client.clone());
        let mut disk = DiskWatch::new(self.disk.clone());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stopping.cancelled() => return,
            }
            disk.look();
            // Dozens of questions, each of which may wait for its answer.
            let look = async {
                mirror.look(&self.health).await;
                self.look(&mut known).await
            };
            let Some(looked) = self.stopping.run_until_cancelled(look).await else {
                return;
            };
            match looked {
                Ok(()) => {
                    known.failing = false;
                    self.health.set(LOG_CHECK, Ok::<(), &str>(()));
                }
                Err(error) => {
                    let error = spotreel_domain::chain(&error);
                    if !std::mem::replace(&mut known.failing, true) {
                        tracing::warn!(error, "measuring the log and its consumers failed");
                    }
                    self.health.set(LOG_CHECK, Err(error));
                }
            }
        }
    }

    async fn look(&self, known: &mut Reported) -> Result<(), ConsumerInfoError> {
        for name in CONSUMERS {
            let info = consumer(&self.client, name).await?;
            metrics::lag(name, info.num_pending, info.num_ack_pending as u64);
        }
        for model in Model::ALL {
            for lane in Lane::ALL {
                let info = consumer(&self.client, &work_consumer(model, lane)).await?;
                metrics::queue(model, lane, info.num_pending + info.num_ack_pending as u64);
            }
        }
        self.measure_log(known).await
    }

    async fn measure_log(&self, known: &mut Reported) -> Result<(), ConsumerInfoError> {
        let room = LogRoom::of_log(&self.client).await?;
        metrics::log_room(room.bytes, room.max_bytes);
        let crowded = room.is_used_to(self.config.log_warn_percent);
        if crowded && !known.crowded {
            tracing::warn!(
                percent = room.used_percent(),
                bytes = room.bytes,
                max = room.max_bytes,
                "task log is filling up; intake refuses new tasks at 80 %, workers start none at 95 %"
            );
        }
        known.crowded = crowded;
        Ok(())
    }
}

/// How a consumer of the task log stands now.
pub async fn consumer(client: &Client, name: &str) -> Result<Info, ConsumerInfoError> {
    let context = async_nats::jetstream::new(client.clone());
    let found: Result<PullConsumer, ConsumerError> =
        context.get_consumer_from_stream(name, TASKS).await;
    Ok(found?.cached_info().clone())
}
