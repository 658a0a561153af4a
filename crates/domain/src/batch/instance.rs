//! One instance of a batch, and its cost.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::cloud::{Lifecycle, Place};
use crate::money::Usd;
use crate::time::elapsed;

/// EC2 bills Linux instances, volumes and public addresses by the second, a minute at least.
pub const BILLED_AT_LEAST: Duration = Duration::from_secs(60);
/// A Spot instance that EC2 interrupts within this time costs nothing, except for its volume and its address
/// (AWS, "Billing for interrupted Spot Instances").
pub const FREE_IF_TAKEN_WITHIN: Duration = Duration::from_secs(3_600);

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
    /// Since when its worker, which served, has had no presence record.
    pub silent_since: Option<Timestamp>,
    /// Listings in a row that did not show it, and when the first of them was.
    pub absences: u32,
    pub absent_since: Option<Timestamp>,
    /// It has a rebalance recommendation: EC2 may interrupt it soon, or never.
    pub hinted: bool,
    /// What an hour of it costs now, and what it has cost up to `billed_to` (the cloud's clock).
    pub rate: Usd,
    pub cost: Usd,
    pub billed_to: Timestamp,
    pub usage: Usage,
}

/// What of an instance EC2 bills, as listings have shown it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// No listing has shown it past `pending`, which is not billed; of one that has ended: EC2 says that it never ran.
    pub pending: bool,
    /// The last listing that showed it `pending`, by the cloud's clock: it is billed from there on.
    pub began_at: Option<Timestamp>,
    /// When it left `running`, by the cloud's clock: what comes after is not billed.
    pub left_at: Option<Timestamp>,
    /// When it was `terminated`, by the cloud's clock: its volume and its address are billed up to then.
    pub gone_at: Option<Timestamp>,
    /// EC2 names itself as who ended it.
    pub taken: bool,
    /// What an hour of its volume and of its public address costs.
    pub volume: Usd,
    pub address: Usd,
}

/// What EC2 charges for an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charges {
    pub compute: Usd,
    pub volume: Usd,
    pub address: Usd,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Launched, and not serving yet.
    Booting,
    Serving,
    /// Its worker was told to take no new task; it may still have one in hand.
    Draining {
        why: Leaving,
        mode: DrainMode,
        since: Timestamp,
    },
    /// TerminateInstances is called again until a listing shows that it worked.
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

/// What happens to the task that a worker has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    Finish,
    /// Its checkpoint is written, and it goes back in the queue.
    Now,
}

/// Why an instance has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaving {
    /// No task is left that could start on it.
    ScaleIn,
    /// EC2 gave a rebalance recommendation.
    Rebalance,
    /// EC2 gave an interruption notice.
    Interruption,
    /// It has reached its maximum age, or the batch its deadline.
    Deadline,
    /// The price has risen above the cap of its type.
    Price,
    /// Its worker's presence record is gone.
    Silent,
    /// It never served.
    BootLimit,
    /// An operator ordered it.
    Ordered,
    /// A budget is used up.
    Budget,
    /// Its worker stops by itself: idle for too long, at the end of its life, or by a signal on its instance.
    Itself,
    /// It counted as ended and is listed again.
    Orphan,
    /// No listing shows it any more, and its worker has no presence record.
    Missing,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// By our call.
    Terminated,
    /// Interrupted by EC2.
    Interrupted,
    /// It shut itself down.
    ShutDown,
    /// No listing shows it any more.
    Vanished,
}

impl Leaving {
    /// Whether a task in hand may be cut off: the instance ends anyway, or its budget is used up.
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
    /// One that was launched `at` this time of the cloud's clock, for this rate.
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
            usage: Usage {
                pending: true,
                ..Usage::default()
            },
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.state, InstanceState::Gone { .. })
    }

    /// Whether it costs money as long as there is work: it was not told to leave at once.
    pub fn runs_on(&self) -> bool {
        match self.state {
            InstanceState::Booting | InstanceState::Serving => true,
            InstanceState::Draining { why, mode, .. } => {
                mode == DrainMode::Finish && why != Leaving::Interruption
            }
            InstanceState::Terminating { .. } | InstanceState::Gone { .. } => false,
        }
    }

    /// Whether it counts as capacity: it serves or boots.
    pub fn is_active(&self) -> bool {
        matches!(self.state, InstanceState::Booting | InstanceState::Serving)
    }

    /// Whether EC2 interrupts it or has done so.
    pub fn is_taken(&self) -> bool {
        matches!(
            self.state,
            InstanceState::Draining {
                why: Leaving::Interruption,
                ..
            } | InstanceState::Terminating {
                why: Leaving::Interruption,
                ..
            } | InstanceState::Gone {
                ending: Ending::Interrupted,
                ..
            }
        )
    }

    /// Time since its launch (`now` is the cloud's clock).
    pub fn age(&self, now: Timestamp) -> Duration {
        elapsed(self.launched_at, now)
    }

    /// Time from its launch until its worker served.
    pub fn boot(&self) -> Option<Duration> {
        self.ready_at.map(|at| self.age(at))
    }

    pub fn drain(&mut self, why: Leaving, mode: DrainMode, now: Timestamp) {
        self.state = InstanceState::Draining {
            why,
            mode,
            since: now,
        };
    }

    pub fn terminate(&mut self, why: Leaving, now: Timestamp) {
        self.state = InstanceState::Terminating {
            why,
            since: now,
            called_at: None,
        };
    }

    /// Books the cost up to `now` (the cloud's clock), or up to its end, at the current rate.
    pub fn bill(&mut self, now: Timestamp) {
        let to = self.usage.left_at.unwrap_or(now.max(self.billed_to));
        self.cost = self.metered(to);
        self.billed_to = to;
    }

    /// What it has cost by `now`.
    pub fn cost_at(&self, now: Timestamp) -> Usd {
        self.charges_at(now).total()
    }

    /// As EC2 bills it by `now`. Volume and address are charged from launch to end, also where the instance is free.
    pub fn charges_at(&self, now: Timestamp) -> Charges {
        let there = elapsed(self.launched_at, self.gone_by(now)).max(BILLED_AT_LEAST);
        Charges {
            compute: self.compute_at(now),
            volume: self.usage.volume.per_hour_for(there),
            address: self.usage.address.per_hour_for(there),
        }
    }

    /// When its volume and its address went, or `now` if they are still there.
    pub fn gone_by(&self, now: Timestamp) -> Timestamp {
        self.usage.gone_at.unwrap_or(match self.state {
            InstanceState::Gone { .. } => self.billed_to,
            _ => now,
        })
    }

    /// From when to when it was `running`, by `now`; nothing if it never ran.
    pub fn ran_between(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let began = self.usage.began_at.unwrap_or(self.launched_at);
        let ran = self.since_pending(now);
        (!self.never_ran(ran)).then(|| (began, self.end_at(now).max(began)))
    }

    /// What its time as `running` costs before EC2 credits a free first hour.
    pub fn uncredited_at(&self, now: Timestamp) -> Usd {
        if self.never_ran(self.since_pending(now)) {
            return Usd::ZERO;
        }
        let cost = self.metered(self.end_at(now));
        cost.max(self.rate.per_hour_for(BILLED_AT_LEAST))
    }

    /// How long it has been `running`.
    pub fn ran_by(&self, now: Timestamp) -> Duration {
        let ran = self.since_pending(now);
        match self.never_ran(ran) {
            true => Duration::ZERO,
            false => ran,
        }
    }

    fn since_pending(&self, now: Timestamp) -> Duration {
        let began = self.usage.began_at.unwrap_or(self.launched_at);
        elapsed(began, self.end_at(now))
    }

    /// Shown `pending` a moment ago, or ended during its launch by EC2's own reason, without a word of its worker.
    fn never_ran(&self, since_pending: Duration) -> bool {
        let may_still_be_pending = self.usage.left_at.is_some() || since_pending < BILLED_AT_LEAST;
        self.usage.pending && self.ready_at.is_none() && may_still_be_pending
    }

    fn compute_at(&self, now: Timestamp) -> Usd {
        let ran = self.since_pending(now);
        let free =
            self.lifecycle == Lifecycle::Spot && self.usage.taken && ran < FREE_IF_TAKEN_WITHIN;
        match free {
            true => Usd::ZERO,
            false => self.uncredited_at(now),
        }
    }

    /// The booked cost and what has run since; an end that is learnt late takes back what was booked after it.
    fn metered(&self, to: Timestamp) -> Usd {
        let open = self.rate.per_hour_for(elapsed(self.billed_to, to));
        let surplus = self.rate.per_hour_for(elapsed(to, self.billed_to));
        (self.cost + open).saturating_sub(surplus)
    }

    fn end_at(&self, now: Timestamp) -> Timestamp {
        match (self.usage.left_at, &self.state) {
            (Some(left_at), _) => left_at,
            (None, InstanceState::Gone { .. }) => self.billed_to,
            (None, _) => now,
        }
    }
}

impl Charges {
    pub fn total(self) -> Usd {
        self.compute + self.volume + self.address
    }
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
