//! The guard around a work item: it keeps the lease alive from the delivery on, and watches whether the task is still
//! ours once it was started.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::log::TaskLog;
use crate::names;
use crate::queue::Delivery;

/// Renewals per lease: one renewal may be lost, and a reconnect take its time.
pub const RENEWALS_PER_LEASE: u32 = 4;

/// Held from the delivery of a work item on. Dropping it stops the renewals: the lease then ends by itself.
pub struct Lease {
    pub delivery: Delivery,
    ack_wait: Duration,
    fence: watch::Sender<Option<u64>>,
    superseded: CancellationToken,
    stop: DropGuard,
    renewals: JoinHandle<()>,
}

impl Lease {
    pub fn hold(log: TaskLog, delivery: Delivery, ack_wait: Duration) -> Self {
        let superseded = CancellationToken::new();
        let stop = CancellationToken::new();
        let (fence, fenced) = watch::channel(None);
        let watch = watch(
            log,
            delivery.clone(),
            fenced,
            ack_wait / RENEWALS_PER_LEASE,
            superseded.clone(),
        );
        let ended = stop.clone();
        let renewals = tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = watch => {}
            }
        });
        Self {
            delivery,
            ack_wait,
            fence,
            superseded,
            stop: stop.drop_guard(),
            renewals,
        }
    }

    /// The longest time in which a holder that lives renews its lease.
    pub fn renewed_within(&self) -> Duration {
        self.ack_wait / RENEWALS_PER_LEASE
    }

    /// From here on any event of the task that is newer than `fence`, the sequence of our own `started` event, means that
    /// the task is no longer ours.
    pub fn fence(&self, fence: u64) {
        self.fence.send_replace(Some(fence));
    }

    /// Ends the renewals, so that the item can be handed back: one that the server hears behind that would hide the item
    /// from everybody for a whole lease.
    pub async fn release(self) -> Delivery {
        drop(self.stop);
        // It has ended, in whatever way.
        let _ = self.renewals.await;
        self.delivery
    }

    /// Fires once the log holds an event newer than our start: stop, somebody else has decided.
    pub fn superseded(&self) -> CancellationToken {
        self.superseded.clone()
    }
}

async fn watch(
    log: TaskLog,
    delivery: Delivery,
    mut fenced: watch::Receiver<Option<u64>>,
    every: Duration,
    superseded: CancellationToken,
) {
    use futures::StreamExt;
    let id = names::parse_log_subject(&delivery.subject).map(|(id, _)| id);
    let mut hints = match &id {
        Some(id) => log.client().subscribe(names::hint(id)).await.ok(),
        None => None,
    };
    // Delivered just now: the first renewal is due after a part of the lease.
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        let hinted = async {
            match &mut hints {
                Some(hints) => hints.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tick.tick() => delivery.in_progress().await,
            Some(_) = hinted => {}
            Ok(()) = fenced.changed() => {}
        }
        let (Some(fence), Some(id)) = (*fenced.borrow_and_update(), &id) else {
            continue;
        };
        match log.last(id).await {
            // Only newer counts: a replica that lags behind may show an older one.
            Ok(Some(last)) if last.sequence > fence => return superseded.cancel(),
            Ok(_) => {}
            // The render goes on: the fence is checked again by the write that ends it.
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), task = %id, "log could not be read at a lease renewal");
            }
        }
    }
}
