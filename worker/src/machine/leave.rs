//! Leaving: whoever finds that this worker should go gives an order, and the most urgent one holds. From the first
//! order on nothing new is pulled.

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::machine::presence::PresenceBoard;

/// What becomes of a task in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// It is finished first, however long that takes.
    WhenDone,
    /// The machine goes at this time: it is finished if that fits by measure.
    Notice(Instant),
    /// A supervisor wants the program to end: it is finished if the engine thinks that it is done by then.
    Signal(Instant),
    /// It is handed back.
    AtOnce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveOrder {
    pub by: By,
    pub reason: &'static str,
}

impl By {
    /// The smaller, the more urgent.
    fn urgency(self) -> (u8, Option<Instant>) {
        match self {
            Self::AtOnce => (0, None),
            Self::Notice(at) | Self::Signal(at) => (1, Some(at)),
            Self::WhenDone => (2, None),
        }
    }
}

#[derive(Clone)]
pub struct Leave {
    order: watch::Sender<Option<LeaveOrder>>,
    /// The machine is free if EC2 ends it: it is waited for EC2 until then.
    free_until: watch::Sender<Option<Instant>>,
    leaving: CancellationToken,
    board: PresenceBoard,
}

impl Leave {
    pub fn new(board: PresenceBoard) -> Self {
        Self {
            order: watch::Sender::new(None),
            free_until: watch::Sender::new(None),
            leaving: CancellationToken::new(),
            board,
        }
    }

    pub fn order(&self, by: By, reason: &'static str) {
        let taken = self.order.send_if_modified(|standing| {
            let newer = standing.is_none_or(|standing| by.urgency() < standing.by.urgency());
            if newer {
                *standing = Some(LeaveOrder { by, reason });
            }
            newer
        });
        if taken {
            tracing::info!(reason, ?by, "worker is leaving");
            self.board.leave();
            self.leaving.cancel();
        }
    }

    /// EC2 takes this machine, and charges nothing for it unless it is switched off before.
    pub fn is_free_until(&self, at: Instant) {
        self.free_until.send_replace(Some(at));
    }

    /// Once nothing is in hand: returns when the machine may be switched off. EC2 ends the program before that.
    pub async fn until_taken(&self, stopping: &CancellationToken) {
        let Some(until) = *self.free_until.borrow() else {
            return;
        };
        tracing::info!(
            "interruption within the first hour: waiting for EC2 to end the instance, which is then free"
        );
        let waited = tokio::time::sleep_until(until);
        if stopping.run_until_cancelled(waited).await.is_some() {
            tracing::warn!("EC2 has not ended the instance in time; shutting it down");
        }
    }

    /// Cancelled from the first order on.
    pub fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    pub fn standing(&self) -> Option<LeaveOrder> {
        *self.order.borrow()
    }

    /// Until somebody wants what is in hand to end before it is done.
    pub async fn hurried(&self) {
        let mut orders = self.order.subscribe();
        let hurry = orders.wait_for(|order| order.is_some_and(|order| order.by != By::WhenDone));
        // The sender is ours: it cannot be gone.
        let _ = hurry.await;
    }

    pub fn orders(&self) -> watch::Receiver<Option<LeaveOrder>> {
        self.order.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_most_urgent_order_holds() {
        let leave = Leave::new(PresenceBoard::new("w", "i", &[]));
        let at = |s| Instant::now() + Duration::from_secs(s);
        let (soon, later) = (at(5), at(100));
        assert!(!leave.leaving().is_cancelled());
        for (by, holds) in [
            (By::WhenDone, By::WhenDone),
            (By::Notice(later), By::Notice(later)),
            (By::WhenDone, By::Notice(later)),
            (By::Signal(soon), By::Signal(soon)),
            (By::Notice(later), By::Signal(soon)),
            (By::AtOnce, By::AtOnce),
            (By::Notice(soon), By::AtOnce),
        ] {
            leave.order(by, "a test");
            assert_eq!(leave.standing().map(|order| order.by), Some(holds));
        }
        assert!(leave.leaving().is_cancelled());
    }
}
