//! A cloud without sockets: tokens, capacity, late listings, lost answers, machines that boot, render and are taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use spotreel_domain::Usd;
use spotreel_domain::batch::DrainMode;
use spotreel_domain::fleet::cloud::{
    CloudState, ErrorClass, LaunchAnswer, LaunchRequest, Launched, Lifecycle, Place, PlaceError,
    SeenInstance, tag,
};
use spotreel_domain::fleet::learn::DrainAnswer;
use spotreel_domain::fleet::observation::{Market, WorkerSeen, WorkerState};

use super::machine::{self, Machine, TAKEN, Worker};
use super::scene::place_of;

pub const FOREIGN: &str = "i-foreign";

pub struct Cloud {
    pub machines: BTreeMap<String, Machine>,
    /// By pool.
    pub queues: BTreeMap<String, Queue>,
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

/// The tasks of one pool.
#[derive(Default)]
pub struct Queue {
    pub queued: u64,
    pub done: u64,
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

pub fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

impl Cloud {
    pub fn new(prices: Market, now: Timestamp, habit: Habit) -> Self {
        let mut cloud = Self {
            machines: BTreeMap::new(),
            queues: BTreeMap::new(),
            prices: Market {
                volume: machine::VOLUME,
                address: machine::ADDRESS,
                ..prices
            },
            fleets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            drain_orders: BTreeSet::new(),
            next_id: 0,
            calm: false,
            habit,
        };
        let place = place_of("g5.xlarge", "a");
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
            let price = self.prices.price(place, request.lifecycle);
            machine.prices.extend(price.map(|price| (now, price)));
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
        machine.told_to_end_at.get_or_insert(now);
        true
    }

    pub fn drain(&mut self, id: &str, mode: DrainMode, now: Timestamp) -> DrainAnswer {
        let Some(machine) = self.machines.get_mut(id) else {
            return DrainAnswer::NobodyThere;
        };
        let queue = queue_of(&mut self.queues, machine);
        machine.catch_up(queue, &self.drain_orders, id, now);
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
                machine.stops_work(now, false);
                queue.queued += 1;
                DrainAnswer::Drained
            }
            Worker::Busy { .. } => {
                machine.draining = true;
                DrainAnswer::Draining
            }
        }
    }

    pub fn list(&mut self, now: Timestamp, rng: &mut StdRng) -> Vec<SeenInstance> {
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
            .map(|(id, m)| SeenInstance {
                id: id.clone(),
                kind: m.place.kind.clone(),
                zone: m.place.zone.clone(),
                lifecycle: m.lifecycle,
                state: m.state,
                launched_at: m.launched_at,
                tags: m.tags.clone(),
                reason: m.reason.clone(),
                left_at: m.stops_at(),
                has_public_address: true,
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

    /// Machines of this pool that have a task in hand.
    pub fn rendering(&self, pool: &str) -> u64 {
        let busy = |m: &&Machine| matches!(m.worker, Worker::Busy { .. });
        self.of_pool(pool).filter(busy).count() as u64
    }

    fn of_pool<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a Machine> {
        self.machines
            .values()
            .filter(move |m| m.tag(tag::POOL) == pool)
    }

    pub fn queue(&mut self, pool: &str) -> &mut Queue {
        self.queues.get_mut(pool).expect("each pool has a queue")
    }

    pub fn alive_in(&self, pool: &str) -> Vec<&String> {
        let is_of = |id: &&String| self.machines[*id].tag(tag::POOL) == pool;
        self.alive().into_iter().filter(is_of).collect()
    }

    pub fn bought(&self, pool: &str) -> usize {
        self.of_pool(pool).count()
    }

    /// What EC2 charges for all machines within `[from, to)`.
    pub fn bill(&self, from: Timestamp, to: Timestamp) -> Usd {
        self.machines.values().map(|m| m.bill(from, to)).sum()
    }

    /// What EC2 charges for the machines of one batch up to then.
    pub fn bill_of(&self, batch: &str, to: Timestamp) -> Usd {
        let all = self.machines.values();
        let of_batch = all.filter(|m| m.tag(tag::BATCH) == batch);
        of_batch.map(|m| m.bill(Timestamp::MIN, to)).sum()
    }

    /// What an hour of all that runs costs.
    pub fn rate(&self, now: Timestamp) -> Usd {
        self.machines.values().map(|m| m.rate(now)).sum()
    }

    /// The market moves: what runs costs its new price from now on.
    pub fn reprice(&mut self, prices: Market, now: Timestamp) {
        let is_ours = |m: &&mut Machine| m.ended_at.is_none() && !m.prices.is_empty();
        for machine in self.machines.values_mut().filter(is_ours) {
            let price = prices.price(&machine.place, machine.lifecycle);
            machine.prices.extend(price.map(|price| (now, price)));
        }
        self.prices.spot.extend(prices.spot);
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

    /// How many of a pool are alive and have no notice.
    pub fn staying(&self, pool: &str) -> usize {
        let stays = |m: &&Machine| m.state != CloudState::Terminated && m.notice_at.is_none();
        self.of_pool(pool).filter(stays).count()
    }

    pub fn advance(&mut self, now: Timestamp) {
        for (id, machine) in self.machines.iter_mut().filter(|(id, _)| *id != FOREIGN) {
            let queue = queue_of(&mut self.queues, machine);
            machine.catch_up(queue, &self.drain_orders, id, now);
        }
    }

    /// Takes a running Spot machine: with two minutes' notice, or without a word.
    pub fn interrupt(&mut self, now: Timestamp, rng: &mut StdRng) {
        let running: Vec<String> = self.alive().into_iter().cloned().collect();
        let Some(id) = running.get(rng.random_range(0..running.len().max(1))) else {
            return;
        };
        let machine = self.machines.get_mut(id).expect("just listed");
        let queue = queue_of(&mut self.queues, machine);
        match rng.random_range(0..3) {
            0 => machine.end(now, TAKEN, queue),
            1 => machine.silent = true,
            _ => machine.give_notice(now, queue),
        }
    }
}

fn queue_of<'a>(queues: &'a mut BTreeMap<String, Queue>, machine: &Machine) -> &'a mut Queue {
    let pool = machine.tag(tag::POOL);
    queues.get_mut(pool).expect("each pool has a queue")
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
            market.spot.insert(place_of(kind, zone), price);
        }
    }
    market
}
