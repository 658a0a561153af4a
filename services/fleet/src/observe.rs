//! What the bus knows of a pool, for one round of fleet. What each fact is, `spotreel_pool` says; what cannot be read is
//! not known, and never taken for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::Seen;
use spotreel_domain::fleet::observation::{WorkerSeen, WorkerState};
use spotreel_domain::model::Model;
use spotreel_domain::pool::{PoolConfig, Pools};
use spotreel_domain::workload::Demand;
use spotreel_pool::marks::Marks;
use spotreel_pool::queue::{self, Queues};
use spotreel_pool::samples::{Looked, Samples};
use spotreel_pool::workers;
use spotreel_proto::worker::v1::{Presence, State};

use crate::error::ObserveError;

/// Two requests to NATS, one after the other, at their slowest.
const PATIENCE: Duration = Duration::from_secs(10);

/// What live workers say of themselves.
pub async fn presences(client: &Client) -> Result<Vec<Presence>, ObserveError> {
    within(async { Ok(workers::read(client).await?) }).await
}

pub fn worker(presence: Presence) -> WorkerSeen {
    let state = match presence.state() {
        State::Unspecified | State::Starting => WorkerState::Starting,
        State::Idle => WorkerState::Idle,
        State::Busy => WorkerState::Busy,
        State::Draining => WorkerState::Draining,
        State::Drained => WorkerState::Drained,
    };
    let notice = (presence.notice_at_ms != 0).then_some(presence.notice_at_ms);
    WorkerSeen {
        state,
        notice_at: notice.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        rebalance: presence.rebalance,
        instance: presence.instance,
    }
}

pub async fn marks(client: &Client) -> Result<Marks, ObserveError> {
    within(async { Ok(Marks::read(client).await?) }).await
}

/// The queues as they were counted, if the counts can be trusted.
pub struct Counted {
    queues: Queues,
    looked: Looked,
    /// Workers start nothing, so what waits is no work for machines. Who renders goes on.
    log_is_full: bool,
}

impl Counted {
    pub async fn read(
        client: &Client,
        pools: &Pools,
        samples: &Samples,
    ) -> Result<Self, ObserveError> {
        within(async {
            let (queues, log_is_full) = tokio::try_join!(
                async { Ok::<_, ObserveError>(Queues::read(client, pools).await?) },
                async { Ok(queue::log_is_full(client).await?) }
            )?;
            Ok(Self {
                looked: samples.read(client, &queues).await,
                queues,
                log_is_full,
            })
        })
        .await
    }

    /// Tasks of this pool that are not finished; none while the task log is too full to start one.
    pub fn runnable(
        &self,
        pool: &PoolConfig,
        marks: &Marks,
    ) -> Result<BTreeMap<Model, u64>, ObserveError> {
        marks.swept(ambient::now())?;
        Ok(match self.log_is_full {
            true => BTreeMap::new(),
            false => self.queues.tasks(&pool.models),
        })
    }

    /// The same by what they take.
    pub fn demand(&self, runnable: &BTreeMap<Model, u64>, presences: &[Presence]) -> Demand {
        Demand::new(runnable, &self.looked.sampled(presences))
    }

    /// Tasks of this pool that workers have in hand.
    pub fn rendering(
        &self,
        pools: &Pools,
        pool: &PoolName,
        presences: &[Presence],
        listing: &[Seen],
    ) -> u64 {
        let has_ended = |id: &str| {
            let machine = listing.iter().find(|seen| seen.id == id);
            machine.is_some_and(|machine| !machine.is_alive())
        };
        let all = workers::rendering(pools, &self.queues, presences, has_ended);
        all.get(pool).copied().unwrap_or_default()
    }
}

async fn within<T>(read: impl Future<Output = Result<T, ObserveError>>) -> Result<T, ObserveError> {
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or(Err(ObserveError::Timeout))
}
