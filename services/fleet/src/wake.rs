//! Messages that wake a pool's loop. The loop reads the state again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt;
use futures::stream::select;
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use spotreel_bus::names::{BATCHLOG_ALL, parse_batchlog_subject};
use spotreel_bus::{codec, controls, kv};
use spotreel_domain::batch::{Batch, PoolName};
use spotreel_proto::worker::v1::Presence;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// After a subscription that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Wakes one pool's loop.
#[derive(Default)]
pub struct Waker {
    woken: Notify,
    why: Mutex<WakeReason>,
}

#[derive(Default)]
struct WakeReason {
    /// The newest event that was heard of the pool's batches; our own come back, too.
    heard: Option<Batch>,
    other: bool,
}

impl Waker {
    pub fn wake(&self) {
        self.why().other = true;
        self.woken.notify_one();
    }

    /// Returns once the loop is to make a pass.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether it was woken for more than the state that is known.
    pub fn has_news(&self, known: Option<&Batch>) -> bool {
        let WakeReason { heard, other } = std::mem::take(&mut *self.why());
        other || heard.is_some_and(|heard| Some(&heard) != known)
    }

    fn hear(&self, batch: Batch) {
        self.why().heard = Some(batch);
        self.woken.notify_one();
    }

    fn why(&self) -> MutexGuard<'_, WakeReason> {
        self.why.lock()
    }
}

pub type Wakers = BTreeMap<PoolName, Arc<Waker>>;

/// What of a presence matters to fleet; that it was said again does not.
type WorkerNews = (i32, i64, bool);

/// Wakes loops until told to stop.
pub async fn listen(client: Client, wakers: Wakers, stopping: CancellationToken) {
    let mut workers = HashMap::<String, WorkerNews>::new();
    while !stopping.is_cancelled() {
        let subscribed = async {
            let batches = client.subscribe(BATCHLOG_ALL).await?;
            let presences = kv::watch_workers(&client).await?;
            let orders = controls::watch(&client).await?;
            Ok::<_, async_nats::SubscribeError>(select(select(batches, presences), orders))
        };
        match subscribed.await {
            Ok(mut messages) => {
                let hear = async {
                    while let Some(message) = messages.next().await {
                        hear(&message, &wakers, &mut workers);
                    }
                };
                stopping.run_until_cancelled(hear).await;
            }
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), "event subscription lost; polling until it is restored");
            }
        }
        stopping
            .run_until_cancelled(tokio::time::sleep(RETRY))
            .await;
    }
}

fn hear(message: &Message, wakers: &Wakers, workers: &mut HashMap<String, WorkerNews>) {
    let subject = message.subject.as_str();
    if let Some((id, _)) = parse_batchlog_subject(subject) {
        if let (Some(waker), Ok(batch)) =
            (wakers.get(&id.pool), codec::batch::decode(&message.payload))
        {
            waker.hear(batch);
        }
        return;
    }
    if let Some(worker) = kv::worker_of(subject) {
        let Ok(presence) = Presence::decode(message.payload.clone()) else {
            return;
        };
        // A worker's last word is empty.
        if presence.instance.is_empty() {
            workers.remove(worker);
            return wake(wakers, "");
        }
        let said = (presence.state, presence.notice_at_ms, presence.rebalance);
        if workers.insert(worker.to_owned(), said) != Some(said) {
            wake(wakers, &presence.pool);
        }
        return;
    }
    wake(wakers, "");
}

/// Wakes the pool's loop; all loops, where the pool is not known.
fn wake(wakers: &Wakers, pool: &str) {
    match wakers.iter().find(|(name, _)| name.as_str() == pool) {
        Some((_, waker)) => waker.wake(),
        None => wakers.values().for_each(|waker| waker.wake()),
    }
}
