//! The guard around a work item: it keeps the lease alive and watches whether the task is still ours.

use std::time::Duration;

use spotreel_domain::TaskId;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::log::TaskLog;
use crate::names;
use crate::queue::Delivery;

/// A lease is renewed so many times before it would end: one renewal may be lost, and a reconnect take its time.
const RENEWALS_PER_LEASE: u32 = 4;

/// Held while a task is worked on. Dropping it stops the renewals: the lease then ends by itself.
pub struct Lease {
    pub delivery: Delivery,
    superseded: CancellationToken,
    stop: DropGuard,
    renewals: JoinHandle<()>,
}

impl Lease {
    /// `fence` is the sequence of our own `started` event: any newer event means that the task is no longer ours.
    pub fn hold(
        log: TaskLog,
        delivery: Delivery,
        id: TaskId,
        fence: u64,
        ack_wait: Duration,
    ) -> Self {
        let superseded = CancellationToken::new();
        let stop = CancellationToken::new();
        let watch = watch(
            log,
            delivery.clone(),
            id,
            fence,
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
            superseded,
            stop: stop.drop_guard(),
            renewals,
        }
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
    id: TaskId,
    fence: u64,
    every: Duration,
    superseded: CancellationToken,
) {
    use futures::StreamExt;
    let mut hints = log.client().subscribe(names::hint(&id)).await.ok();
    let mut tick = tokio::time::interval(every);
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
        }
        match log.last(&id).await {
            // Only newer counts: a replica that lags behind may show an older one.
            Ok(Some(last)) if last.sequence > fence => return superseded.cancel(),
            Ok(_) => {}
            // The render goes on: the fence is checked again by the write that ends it.
            Err(error) => {
                tracing::debug!(%error, task = %id, "the log could not be read at a renewal");
            }
        }
    }
}
