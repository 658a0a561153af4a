//! A cloud without sockets: tokens, capacity, late listings, lost answers, machines that boot, render and are taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use spotreel_domain::Usd;
use spotreel_domain::batch::DrainMode;
use spotreel_domain::fleet::cloud::{
    CloudState, ErrorClass, LaunchAnswer, LaunchRequest, Launched, Lifecycle, Place, PlaceError,
    Seen, tag,
};
use spotreel_domain::fleet::learn::DrainAnswer;
use spotreel_domain::fleet::observation::{Market, WorkerSeen, WorkerState};

pub const FOREIGN: &str = "i-foreign";

pub struct Cloud {
    pub machines: BTreeMap<String, Machine>,
    pub queued: u64,
    pub done: u64,
    pub prices: Market,
    /// Fleets by batch and launch: more than one for a launch is the one thing that must never be.
    pub fleets: BTreeMap<(String, String), BTreeSet<String>>,
    tokens: BTreeMap<String, (LaunchRequest, LaunchAnswer)>,
    /// Orders that a machine reads before it takes its first task.
    drain_orders: BTreeSet<String>,
    next_id: u32,
    pub calm: bool,
    pub habit: Habit,
}

/// What goes wrong with all machines of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    None,
    /// Each ends before it serves: a broken image, a parameter that is not there.
    NeverBoots,
    /// The only zone takes each machine within minutes.
    Takes,
    /// Each gets a rebalance recommendation as it comes up, and none is ever taken.
    Hints,
    /// Listings lose machines that run: now and then all of them, and each for minutes.
    Unlisted,
}

impl Habit {
    /// A few of the worlds each.
    pub fn of(seed: u64) -> Self {
        match seed % 20 {
            3 => Self::NeverBoots,
            7 => Self::Takes,
            11 => Self::Hints,
            15 => Self::Unlisted,
            _ => Self::None,
        }
    }
}

pub struct Machine {
    pub place: Place,
    pub lifecycle: Lifecycle,
    pub tags: BTreeMap<String, String>,
    pub launched_at: Timestamp,
    visible_at: Timestamp,
    /// No listing shows it until then.
    lost_until: Timestamp,
    serves_at: Timestamp,
    pub expires_at: Timestamp,
    pub state: CloudState,
    pub ended_at: Option<Timestamp>,
    end_due: Option<Timestamp>,
    /// It switches itself off then.
    breaks_at: Option<Timestamp>,
    /// EC2 gives notice then.
    taken_at: Option<Timestamp>,
    reason: Option<String>,
    pub worker: Worker,
    draining: bool,
    notice_at: Option<Timestamp>,
    silent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    Off,
    Idle,
    Busy { until: Timestamp },
    Left,
}

pub fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

impl Cloud {
    pub fn new(queued: u64, prices: Market, now: Timestamp, habit: Habit) -> Self {
        let mut cloud = Self {
            machines: BTreeMap::new(),
            queued,
            done: 0,
            prices,
            fleets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            drain_orders: BTreeSet::new(),
            next_id: 0,
            calm: false,
            habit,
        };
        let place = Place {
            kind: "g5.xlarge".into(),
            zone: "a".into(),
        };
        let mut foreign = Machine::new(&place, Lifecycle::Spot, BTreeMap::new(), now, now, now);
        foreign
            .tags
            .insert("Name".into(), "spotreel-default".into());
        foreign.tags.insert(tag::ENV.into(), "somebody-else".into());
        foreign.expires_at = Timestamp::MAX;
        foreign.worker = Worker::Left;
        foreign.state = CloudState::Running;
        cloud.machines.insert(FOREIGN.into(), foreign);
        cloud
    }

    /// What CreateFleet does and says. The caller decides whether the answer arrives.
    pub fn create_fleet(
        &mut self,
        request: &LaunchRequest,
        now: Timestamp,
        rng: &mut StdRng,
    ) -> Result<LaunchAnswer, PlaceError> {
        if let Some((first, answer)) = self.tokens.get(&request.client_token) {
            return match first == request {
                true => Ok(answer.clone()),
                false => Err(error(
                    None,
                    ErrorClass::Configuration,
                    "IdempotentParameterMismatch",
                )),
            };
        }
        if !self.calm && rng.random_bool(0.05) {
            return Err(error(None, ErrorClass::Throttled, "RequestLimitExceeded"));
        }
        let granted = match self.calm || rng.random_bool(0.6) {
            true => request.units,
            false => rng.random_range(0..=request.units),
        };
        let launch = request.tags[tag::LAUNCH].clone();
        let fleet = format!("fleet-{}", self.tokens.len());
        self.fleets
            .entry((request.tags[tag::BATCH].clone(), launch))
            .or_default()
            .insert(fleet.clone());
        let mut instances = Vec::new();
        for _ in 0..granted {
            self.next_id += 1;
            let id = format!("i-{:04}", self.next_id);
            let place = &request.overrides[rng.random_range(0..request.overrides.len())].place;
            let hidden = if self.calm {
                0
            } else {
                rng.random_range(0..60)
            };
            let boots = match !self.calm && rng.random_bool(0.05) {
                true => 1_000_000,
                false => rng.random_range(20..300),
            };
            let mut machine = Machine::new(
                place,
                request.lifecycle,
                request.tags.clone(),
                now,
                now + seconds(hidden),
                now + seconds(boots),
            );
            if self.habit == Habit::NeverBoots {
                machine.serves_at = Timestamp::MAX;
                machine.breaks_at = Some(now + seconds(rng.random_range(5..120)));
            }
            if self.habit == Habit::Takes {
                machine.taken_at = Some(machine.serves_at.min(now + seconds(600)) + seconds(60));
            }
            self.machines.insert(id.clone(), machine);
            instances.push(Launched {
                id,
                kind: place.kind.clone(),
                zone: place.zone.clone(),
                lifecycle: request.lifecycle,
            });
        }
        let missing = request.overrides.iter().filter(|_| granted < request.units);
        let errors = missing.map(|o| {
            error(
                Some(o.place.clone()),
                ErrorClass::Capacity,
                "InsufficientInstanceCapacity",
            )
        });
        let answer = LaunchAnswer {
            fleet,
            instances,
            errors: errors.collect(),
        };
        self.tokens.insert(
            request.client_token.clone(),
            (request.clone(), answer.clone()),
        );
        Ok(answer)
    }

    /// True: the call was accepted, whatever the listing says for a while.
    pub fn terminate(&mut self, id: &str, now: Timestamp, rng: &mut StdRng) -> bool {
        let calm = self.calm;
        let Some(machine) = self.machines.get_mut(id) else {
            return false;
        };
        if machine.state == CloudState::Terminated {
            return true;
        }
        // A listing that is late has late calls too.
        if now < machine.visible_at || (!calm && rng.random_bool(0.05)) {
            return false;
        }
        // One that no listing shows counts as ended two minutes after the call: it has ended by then.
        let longest = if self.habit == Habit::Unlisted {
            60
        } else {
            120
        };
        let delay = if calm {
            1
        } else {
            rng.random_range(0..longest)
        };
        machine.end_due.get_or_insert(now + seconds(delay));
        true
    }

    pub fn drain(&mut self, id: &str, mode: DrainMode, now: Timestamp) -> DrainAnswer {
        let Some(machine) = self.machines.get_mut(id) else {
            return DrainAnswer::NobodyThere;
        };
        machine.catch_up(
            &mut self.queued,
            &mut self.done,
            &self.drain_orders,
            id,
            now,
        );
        match machine.worker {
            _ if machine.silent => DrainAnswer::Unknown,
            Worker::Off => {
                self.drain_orders.insert(id.to_owned());
                DrainAnswer::NobodyThere
            }
            Worker::Left => DrainAnswer::NobodyThere,
            Worker::Idle => {
                machine.worker = Worker::Left;
                DrainAnswer::Drained
            }
            Worker::Busy { .. } if mode == DrainMode::Now => {
                machine.worker = Worker::Left;
                self.queued += 1;
                DrainAnswer::Drained
            }
            Worker::Busy { .. } => {
                machine.draining = true;
                DrainAnswer::Draining
            }
        }
    }

    pub fn list(&mut self, now: Timestamp, rng: &mut StdRng) -> Vec<Seen> {
        self.advance(now);
        if self.habit == Habit::Unlisted && !self.calm {
            for machine in self.machines.values_mut() {
                if machine.lost_until <= now && rng.random_bool(0.02) {
                    machine.lost_until = now + seconds(rng.random_range(10..300));
                }
            }
            if rng.random_bool(0.3) {
                return Vec::new();
            }
        }
        let is_shown = |m: &Machine| m.visible_at <= now && m.lost_until <= now;
        let shown = self.machines.iter().filter(|(_, m)| is_shown(m));
        shown
            .filter(|(_, m)| m.ended_at.is_none_or(|at| at + seconds(3600) > now))
            .map(|(id, m)| Seen {
                id: id.clone(),
                kind: m.place.kind.clone(),
                zone: m.place.zone.clone(),
                lifecycle: m.lifecycle,
                state: m.state,
                launched_at: m.launched_at,
                tags: m.tags.clone(),
                reason: m.reason.clone(),
                left_at: None,
                has_public_address: false,
            })
            .collect()
    }

    pub fn workers(&mut self, now: Timestamp) -> Vec<WorkerSeen> {
        self.advance(now);
        let seen = self
            .machines
            .iter()
            .filter(|(id, m)| !m.silent && m.ended_at.is_none() && *id != FOREIGN);
        seen.filter_map(|(id, m)| {
            let state = match m.worker {
                // It has handed back what it held, and tells why.
                Worker::Left if m.notice_at.is_some() => WorkerState::Drained,
                Worker::Off | Worker::Left => return None,
                Worker::Idle => WorkerState::Idle,
                Worker::Busy { .. } if m.draining || m.notice_at.is_some() => WorkerState::Draining,
                Worker::Busy { .. } => WorkerState::Busy,
            };
            Some(WorkerSeen {
                instance: id.clone(),
                state,
                notice_at: m.notice_at,
                rebalance: self.habit == Habit::Hints,
            })
        })
        .collect()
    }

    pub fn rendering(&self) -> u64 {
        self.machines
            .values()
            .filter(|m| matches!(m.worker, Worker::Busy { .. }))
            .count() as u64
    }

    pub fn bought(&self) -> usize {
        self.machines.len() - 1 // the foreign one
    }

    pub fn alive(&self) -> Vec<&String> {
        let alive = self
            .machines
            .iter()
            .filter(|(id, m)| m.state != CloudState::Terminated && *id != FOREIGN);
        alive.map(|(id, _)| id).collect()
    }

    /// Whether its worker has something in hand and can be spoken to.
    pub fn works(&self, id: &str) -> bool {
        let machine = &self.machines[id];
        matches!(machine.worker, Worker::Busy { .. }) && !machine.silent
    }

    /// How many are alive and have no notice.
    pub fn staying(&self) -> usize {
        let stays = |id: &&String| self.machines[*id].notice_at.is_none();
        self.alive().into_iter().filter(stays).count()
    }

    pub fn advance(&mut self, now: Timestamp) {
        for (id, machine) in &mut self.machines {
            machine.catch_up(
                &mut self.queued,
                &mut self.done,
                &self.drain_orders,
                id,
                now,
            );
        }
    }

    /// Takes a running Spot machine: with two minutes' notice, or without a word.
    pub fn interrupt(&mut self, now: Timestamp, rng: &mut StdRng) {
        let running: Vec<String> = self.alive().into_iter().cloned().collect();
        let Some(id) = running.get(rng.random_range(0..running.len().max(1))) else {
            return;
        };
        let machine = self.machines.get_mut(id).expect("just listed");
        match rng.random_range(0..3) {
            0 => machine.end(now, "Server.SpotInstanceTermination", &mut self.queued),
            1 => machine.silent = true,
            _ => machine.give_notice(now, &mut self.queued),
        }
    }
}

impl Machine {
    fn new(
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
            breaks_at: None,
            taken_at: None,
            reason: None,
            worker: Worker::Off,
            draining: false,
            notice_at: None,
            silent: false,
        }
    }

    fn give_notice(&mut self, now: Timestamp, queued: &mut u64) {
        self.notice_at.get_or_insert(now + seconds(120));
        if let Worker::Busy { .. } = self.worker {
            *queued += 1;
        }
        if self.worker != Worker::Off {
            self.worker = Worker::Left;
        }
    }

    fn end(&mut self, now: Timestamp, reason: &str, queued: &mut u64) {
        if self.ended_at.is_some() {
            return;
        }
        if let Worker::Busy { .. } = self.worker {
            *queued += 1;
        }
        self.worker = Worker::Left;
        self.state = CloudState::Terminated;
        self.ended_at = Some(now);
        self.reason = Some(reason.to_owned());
    }

    fn catch_up(
        &mut self,
        queued: &mut u64,
        done: &mut u64,
        orders: &BTreeSet<String>,
        id: &str,
        now: Timestamp,
    ) {
        if self.ended_at.is_some() || id == FOREIGN {
            return;
        }
        self.state = if now >= self.launched_at + seconds(10) {
            CloudState::Running
        } else {
            CloudState::Pending
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
            *done += 1;
            self.worker = if self.draining {
                Worker::Left
            } else {
                Worker::Idle
            };
        }
        if self.worker == Worker::Idle && *queued > 0 && !self.silent {
            *queued -= 1;
            self.worker = Worker::Busy {
                until: now + seconds(180),
            };
        }
        if self.taken_at.is_some_and(|at| at <= now) && self.notice_at.is_none() {
            self.give_notice(now, queued);
        }
        if self.end_due.is_some_and(|at| at <= now) {
            self.end(now, "Client.UserInitiatedShutdown", queued);
        } else if self.notice_at.is_some_and(|at| at <= now) {
            self.end(now, "Server.SpotInstanceTermination", queued);
        } else if self.expires_at <= now
            || self.breaks_at.is_some_and(|at| at <= now)
            || (self.worker == Worker::Left
                && !self.silent
                && self.notice_at.is_none()
                && self.end_due.is_none())
        {
            self.end(now, "Client.InstanceInitiatedShutdown", queued);
        }
    }
}

fn error(place: Option<Place>, class: ErrorClass, code: &str) -> PlaceError {
    PlaceError {
        place,
        class,
        code: code.to_owned(),
        message: format!("{code} on order"),
    }
}

pub fn market(rng: &mut impl Rng) -> Market {
    let mut market = Market::default();
    for kind in ["g5.xlarge", "g6.xlarge"] {
        for zone in ["a", "b", "c"] {
            let price = Usd::from_micros(rng.random_range(200_000..480_000));
            market.spot.insert(
                Place {
                    kind: kind.into(),
                    zone: zone.into(),
                },
                price,
            );
        }
    }
    market
}
