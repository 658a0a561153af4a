//! One machine of a batch, with what it cost.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::DrainMode;
use crate::fleet::cloud::{Lifecycle, Place};
use crate::money::Usd;

/// EC2 bills Linux instances by the second, a minute at least.
pub const BILLED_AT_LEAST: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub id: String,
    pub place: Place,
    pub lifecycle: Lifecycle,
    /// The launch that made it.
    pub launch: u32,
    /// By the cloud's clock.
    pub launched_at: Timestamp,
    /// When its worker first said that it serves.
    pub ready_at: Option<Timestamp>,
    pub state: InstanceState,
    /// Since when its worker, which served, has not been heard of.
    pub silent_since: Option<Timestamp>,
    /// Listings in a row that did not show it, and when the first of them was.
    pub absences: u32,
    pub absent_since: Option<Timestamp>,
    /// EC2 has recommended to rebalance: it may take it soon, or never.
    pub hinted: bool,
    /// What an hour of it costs now, and what it has cost up to `billed_to` (the cloud's clock).
    pub rate: Usd,
    pub cost: Usd,
    pub billed_to: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Bought, and not serving yet.
    Booting,
    Serving,
    /// Told to take nothing new; whether it still has something in hand, its worker knows.
    Draining {
        why: Leaving,
        mode: DrainMode,
        since: Timestamp,
    },
    /// To be ended: TerminateInstances is called again until a listing shows that it worked.
    Terminating {
        why: Leaving,
        since: Timestamp,
        called_at: Option<Timestamp>,
    },
    Gone {
        ending: Ending,
        at: Timestamp,
    },
}

/// Why a machine has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// No task is left that could start on it.
    ScaleIn,
    /// The cloud hinted that it may take it.
    Rebalance,
    /// The cloud said that it takes it.
    Interruption,
    /// Its time is over.
    Deadline,
    /// The market went above the cap of its type.
    Price,
    /// Its worker is not heard of any more.
    Silent,
    /// It never served.
    BootLimit,
    /// A person said so.
    Ordered,
    /// The batch has spent what it may.
    Budget,
    /// Its worker stops by itself: idle for too long, at the end of its life, or told so on its machine.
    Itself,
    /// It belongs to nothing that is wanted.
    Orphan,
    /// No listing shows it any more, and no worker speaks on it.
    Missing,
}

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// By our call.
    Terminated,
    /// Taken by the cloud.
    Interrupted,
    /// It shut itself down.
    ShutDown,
    /// No listing shows it any more.
    Vanished,
}

impl Leaving {
    /// Whether a task in hand may be cut off: the machine goes, with or without our doing, or its money is spent.
    pub fn may_cut_off(self) -> bool {
        matches!(
            self,
            Self::Interruption
                | Self::Deadline
                | Self::Silent
                | Self::Ordered
                | Self::Missing
                | Self::Budget
        )
    }
}

impl Instance {
    /// One that was bought `at` this time of the cloud's clock, for this rate.
    pub fn bought(
        id: String,
        place: Place,
        lifecycle: Lifecycle,
        launch: u32,
        at: Timestamp,
        rate: Usd,
    ) -> Self {
        Self {
            id,
            place,
            lifecycle,
            launch,
            launched_at: at,
            ready_at: None,
            state: InstanceState::Booting,
            silent_since: None,
            absences: 0,
            absent_since: None,
            hinted: false,
            rate,
            cost: Usd::ZERO,
            billed_to: at,
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.state, InstanceState::Gone { .. })
    }

    /// Counts as capacity: it serves, or it is going to.
    pub fn is_active(&self) -> bool {
        matches!(self.state, InstanceState::Booting | InstanceState::Serving)
    }

    /// Takes the cost up to `now` (the cloud's clock) into the books, at the rate that was in force.
    pub fn bill(&mut self, now: Timestamp) {
        if let Ok(span) = Duration::try_from(now.duration_since(self.billed_to)) {
            self.cost += self.rate.per_hour_for(span);
            self.billed_to = now;
        }
    }

    /// What it has cost by `now`: what is in the books, what has run since, and the minimum.
    pub fn cost_at(&self, now: Timestamp) -> Usd {
        let until = match self.state {
            InstanceState::Gone { .. } => self.billed_to,
            _ => now,
        };
        let open = Duration::try_from(until.duration_since(self.billed_to)).unwrap_or_default();
        let cost = self.cost + self.rate.per_hour_for(open);
        cost.max(self.rate.per_hour_for(BILLED_AT_LEAST))
    }
}
