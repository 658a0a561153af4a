//! One machine of the cloud, the worker on it, and what EC2 charges for it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::Usd;
use spotreel_domain::fleet::cloud::{CloudState, Lifecycle, Place, tag};

use super::cloud::{Queue, seconds};

/// What every task takes.
pub const TASK: SignedDuration = SignedDuration::from_secs(180);
/// From the launch to the state `running`, from which on EC2 charges.
pub const PENDING: SignedDuration = SignedDuration::from_secs(10);
/// AWS, "On-Demand Pricing": one second increments, with a minimum of 60 seconds.
pub const SHORTEST: SignedDuration = SignedDuration::from_secs(60);
/// AWS, "Billing for interrupted Spot Instances": one that EC2 takes before that is free.
const FREE_IF_TAKEN: SignedDuration = SignedDuration::from_hours(1);

/// What an hour of 100 GB of gp3 and of a public address costs in us-east-2.
pub const VOLUME: Usd = Usd::from_micros(11_111);
pub const ADDRESS: Usd = Usd::from_micros(5_000);

const ENDED_BY_US: &str = "Client.UserInitiatedShutdown";
/// It never came to run.
const FAILED_LAUNCH: &str = "Server.InternalError";
pub const TAKEN: &str = "Server.SpotInstanceTermination";

pub struct Machine {
    pub place: Place,
    pub lifecycle: Lifecycle,
    pub tags: BTreeMap<String, String>,
    pub launched_at: Timestamp,
    pub visible_at: Timestamp,
    /// No listing shows it until then.
    pub lost_until: Timestamp,
    pub serves_at: Timestamp,
    pub expires_at: Timestamp,
    pub state: CloudState,
    pub ended_at: Option<Timestamp>,
    pub end_due: Option<Timestamp>,
    /// When TerminateInstances was accepted: EC2 charges nothing from then on.
    pub told_to_end_at: Option<Timestamp>,
    /// It switches itself off then; while it is `pending`, its launch fails.
    pub breaks_at: Option<Timestamp>,
    /// EC2 gives notice then.
    pub taken_at: Option<Timestamp>,
    pub reason: Option<String>,
    pub worker: Worker,
    /// The tasks that its worker began, with their ends.
    pub worked: Vec<Worked>,
    pub draining: bool,
    pub notice_at: Option<Timestamp>,
    pub silent: bool,
    /// From when which price per hour, in order of time.
    pub prices: Vec<(Timestamp, Usd)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    Off,
    Idle,
    Busy { until: Timestamp },
    Left,
}

#[derive(Clone, Copy, Debug)]
pub struct Worked {
    pub from: Timestamp,
    pub to: Option<Timestamp>,
    pub done: bool,
}

impl Machine {
    pub fn new(
        place: &Place,
        lifecycle: Lifecycle,
        tags: BTreeMap<String, String>,
        now: Timestamp,
        visible_at: Timestamp,
        serves_at: Timestamp,
    ) -> Self {
        let expires_at = tags
            .get(tag::EXPIRES_AT)
            .and_then(|at| at.parse().ok())
            .unwrap_or(Timestamp::MAX);
        Self {
            place: place.clone(),
            lifecycle,
            tags,
            launched_at: now,
            visible_at,
            lost_until: now,
            serves_at,
            expires_at,
            state: CloudState::Pending,
            ended_at: None,
            end_due: None,
            told_to_end_at: None,
            breaks_at: None,
            taken_at: None,
            reason: None,
            worker: Worker::Off,
            worked: Vec::new(),
            draining: false,
            notice_at: None,
            silent: false,
            prices: Vec::new(),
        }
    }

    pub fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }

    pub fn give_notice(&mut self, now: Timestamp, queue: &mut Queue) {
        self.notice_at.get_or_insert(now + seconds(120));
        if let Worker::Busy { .. } = self.worker {
            queue.queued += 1;
            self.stops_work(now, false);
        }
        if self.worker != Worker::Off {
            self.worker = Worker::Left;
        }
    }

    pub fn end(&mut self, now: Timestamp, reason: &str, queue: &mut Queue) {
        if self.ended_at.is_some() {
            return;
        }
        if let Worker::Busy { .. } = self.worker {
            queue.queued += 1;
            self.stops_work(now, false);
        }
        self.worker = Worker::Left;
        self.state = CloudState::Terminated;
        self.ended_at = Some(now);
        let reason = match self.told_to_end_at {
            Some(_) => ENDED_BY_US,
            None => reason,
        };
        self.reason = Some(reason.to_owned());
    }

    /// Its worker ends the task that it has in hand.
    pub fn stops_work(&mut self, at: Timestamp, done: bool) {
        if let Some(last) = self.worked.last_mut() {
            (last.to, last.done) = (Some(at), done);
        }
    }

    pub fn catch_up(
        &mut self,
        queue: &mut Queue,
        orders: &BTreeSet<String>,
        id: &str,
        now: Timestamp,
    ) {
        if self.ended_at.is_some() {
            return;
        }
        self.state = match now >= self.launched_at + PENDING {
            _ if self.told_to_end_at.is_some() => CloudState::ShuttingDown,
            true => CloudState::Running,
            false => CloudState::Pending,
        };
        if self.worker == Worker::Off
            && now >= self.serves_at
            && !self.silent
            && self.notice_at.is_none()
        {
            self.worker = if orders.contains(id) {
                Worker::Left
            } else {
                Worker::Idle
            };
        }
        if let Worker::Busy { until } = self.worker
            && until <= now
        {
            queue.done += 1;
            self.stops_work(until, true);
            self.worker = if self.draining {
                Worker::Left
            } else {
                Worker::Idle
            };
        }
        if self.worker == Worker::Idle && queue.queued > 0 && !self.silent {
            queue.queued -= 1;
            self.worker = Worker::Busy { until: now + TASK };
            self.worked.push(Worked {
                from: now,
                to: None,
                done: false,
            });
        }
        if self.taken_at.is_some_and(|at| at <= now) && self.notice_at.is_none() {
            self.give_notice(now, queue);
        }
        if self.end_due.is_some_and(|at| at <= now) {
            self.end(now, ENDED_BY_US, queue);
        } else if self.notice_at.is_some_and(|at| at <= now) {
            self.end(now, TAKEN, queue);
        } else if self.breaks_at.is_some_and(|at| at <= now) && self.state == CloudState::Pending {
            self.end(now, FAILED_LAUNCH, queue);
        } else if self.expires_at <= now
            || self.breaks_at.is_some_and(|at| at <= now)
            || (self.worker == Worker::Left
                && !self.silent
                && self.notice_at.is_none()
                && self.end_due.is_none())
        {
            self.end(now, "Client.InstanceInitiatedShutdown", queue);
        }
    }

    /// When EC2 stops to charge for it.
    pub fn stops_at(&self) -> Option<Timestamp> {
        let both = self.told_to_end_at.into_iter().chain(self.ended_at);
        both.min()
    }

    /// What an hour of it costs now, if it costs anything.
    pub fn rate(&self, now: Timestamp) -> Usd {
        let is_charged = now >= self.launched_at + PENDING && self.stops_at().is_none();
        let last = self.prices.last().filter(|_| is_charged);
        last.map_or(Usd::ZERO, |(_, price)| *price)
    }

    /// What EC2 charges for it within `[from, to)`, as AWS publishes its rules.
    pub fn bill(&self, from: Timestamp, to: Timestamp) -> Usd {
        if self.prices.is_empty() {
            return Usd::ZERO; // somebody else's
        }
        let ends_at = self
            .ended_at
            .map_or(to, |at| at.max(self.launched_at + SHORTEST));
        let there = ends_at.min(to).duration_since(self.launched_at.max(from));
        let there = std::time::Duration::try_from(there).unwrap_or_default();
        self.compute(from, to) + (VOLUME + ADDRESS).per_hour_for(there)
    }

    /// The instance alone: by the second from `running` to `shutting-down`, a minute at least, and nothing for one that EC2
    /// takes within its first hour.
    fn compute(&self, from: Timestamp, to: Timestamp) -> Usd {
        let runs_at = self.launched_at + PENDING;
        let stops_at = self.stops_at();
        if stops_at.is_some_and(|at| at < runs_at) {
            return Usd::ZERO;
        }
        let is_taken = self.reason.as_deref() == Some(TAKEN) && self.told_to_end_at.is_none();
        if is_taken && stops_at.is_some_and(|at| at < runs_at + FREE_IF_TAKEN) {
            return Usd::ZERO;
        }
        let until = stops_at.map_or(to, |at| at.max(runs_at + SHORTEST)).min(to);
        let ends = self.prices.iter().skip(1).map(|(at, _)| *at);
        let mut sum = 0_i128; // micro-dollars × milliseconds
        for ((begin, price), end) in self.prices.iter().zip(ends.chain([Timestamp::MAX])) {
            let begin = (*begin).max(runs_at).max(from);
            let ms = end.min(until).duration_since(begin).as_millis().max(0);
            sum += i128::from(price.micros()) * ms;
        }
        Usd::from_micros(i64::try_from(sum / 3_600_000).expect("a night's bill is small"))
    }
}
