//! Fleet's invariants over thousands of random schedules in virtual time: one or two controllers, each step of which may
//! be the last, over a cloud that loses answers, lists late, gives half of what is asked, and takes machines back.
//!
//! `SPOTREEL_SIMULATE=<seed>` runs one schedule and prints its story; `SPOTREEL_SCHEDULES=<n>` runs so many. A schedule
//! that has ever failed belongs in `seeds.txt`, which is run first.

#![allow(clippy::unwrap_used)] // a test: what cannot be is a failure

mod cloud;
mod controller;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, DrainMode, Instance, PoolName, Status, Stop, Wanted};
use spotreel_domain::fleet::cloud::Template;
use spotreel_domain::fleet::policy::{Bid, BreakerRule, Budget, Kind, Patience, Policy, Subnet};

use cloud::{Cloud, Habit, seconds};
use controller::Controller;

const SCHEDULES: u64 = 10_000;
const SAVED: &str = include_str!("seeds.txt");

/// The pool's log: whole history, compare-and-set.
pub struct Log {
    pub history: Vec<Batch>,
}

pub struct World {
    pub seed: u64,
    pub now: Timestamp,
    pub rng: StdRng,
    pub cloud: Cloud,
    pub log: Log,
    pub policy: Policy,
    /// Frozen requests that were durable at some time.
    pub intents: BTreeSet<String>,
    pub blind: bool,
    pub told: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let now: Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
        let prices = cloud::market(&mut rng);
        let queued = rng.random_range(1..60);
        let units = rng.random_range(1..12);
        let mut world = Self {
            seed,
            now,
            cloud: Cloud::new(queued, prices, now, Habit::of(seed)),
            log: Log {
                history: Vec::new(),
            },
            policy: policy(rng.random_range(1..15)),
            intents: BTreeSet::new(),
            blind: false,
            told: Vec::new(),
            rng,
        };
        let wanted = Wanted {
            rule: "length".into(),
            why: "enough tasks".into(),
            units,
            slot: None,
            deadline: now + seconds(12 * 3600),
        };
        if world.cloud.habit == Habit::Takes {
            world.policy.subnets.truncate(1);
        }
        let pool = PoolName::parse("default").unwrap();
        world
            .log
            .history
            .push(Batch::request(&pool, None, wanted, now).unwrap());
        world
    }

    pub fn batch(&self) -> (&Batch, usize) {
        (
            self.log.history.last().expect("a batch was requested"),
            self.log.history.len(),
        )
    }

    /// Writes if nobody wrote since.
    pub fn append(&mut self, batch: Batch, expected: usize) -> bool {
        if self.log.history.len() != expected {
            return false;
        }
        for launch in &batch.launches {
            self.intents.insert(launch.request.clone());
        }
        if batch.status == Status::Settled || matches!(batch.status, Status::Failed { .. }) {
            self.cloud.advance(self.now);
            assert!(
                self.cloud.alive().is_empty(),
                "I9: {} with {:?} alive; {}",
                batch.status.name(),
                self.cloud.alive(),
                self.story()
            );
        }
        self.log.history.push(batch);
        true
    }

    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if std::env::var_os("SPOTREEL_SIMULATE").is_some() {
            println!("{} {}", self.now, what());
        }
    }

    pub fn story(&self) -> String {
        format!(
            "seed {}: SPOTREEL_SIMULATE={} cargo test -p spotreel-domain --test fleet_simulation one -- --nocapture; then add it to seeds.txt",
            self.seed, self.seed
        )
    }
}

fn policy(max_units: u32) -> Policy {
    let kind = |name: &str, cents| Kind {
        name: name.into(),
        cap: Usd::from_cents(cents),
        on_demand_cap: None,
    };
    Policy {
        env: "prod".into(),
        pool: PoolName::parse("default").unwrap(),
        project: "spotreel".into(),
        template: Template {
            id: "lt-1".into(),
            version: 3,
        },
        on_demand_version: None,
        tags: Default::default(),
        problem: None,
        kinds: vec![kind("g5.xlarge", 45), kind("g6.xlarge", 40)],
        subnets: ["a", "b", "c"]
            .map(|zone| Subnet {
                id: format!("subnet-{zone}"),
                zone: zone.into(),
            })
            .into(),
        bid: Bid::Balanced,
        leave_when_hinted: false,
        max_units,
        target: Duration::from_secs(2 * 3_600),
        budget: Budget::default(),
        on_demand_after: None,
        breaker: BreakerRule::default(),
        patience: Patience {
            blocked: Duration::from_secs(1800),
            ..Patience::default()
        },
    }
}

/// One schedule, from the request to an end that is checked.
fn schedule(seed: u64) {
    let mut world = World::new(seed);
    let mut controllers: Vec<Controller> = (0..world.rng.random_range(1..=2))
        .map(Controller::new)
        .collect();
    let stop_at = world
        .rng
        .random_bool(0.15)
        .then(|| world.now + seconds(world.rng.random_range(0..4000)));
    let dead_at = world
        .rng
        .random_bool(0.1)
        .then(|| world.now + seconds(world.rng.random_range(0..4000)));
    let calm_from = world.now + seconds(3 * 3600);
    let horizon = world.now + seconds(17 * 3600);
    while world.now < horizon {
        world.cloud.calm = world.now >= calm_from;
        if dead_at.is_some_and(|at| world.now >= at) {
            return after_life(world);
        }
        if stop_at.is_some_and(|at| world.now >= at)
            && world.batch().0.stop.is_none()
            && world.batch().0.is_active()
        {
            let mode = if seed.is_multiple_of(2) {
                DrainMode::Finish
            } else {
                DrainMode::Now
            };
            let (batch, expected) = world.batch();
            let stopped = batch.stopped(Stop {
                mode,
                by: "a person".into(),
                reason: None,
                at: world.now,
            });
            world.append(stopped, expected);
        }
        let takes = world.cloud.habit != Habit::Hints && !world.cloud.calm;
        if takes && world.rng.random_bool(0.01) {
            world.cloud.interrupt(world.now, &mut world.rng);
            world.tell(|| "the market takes a machine".into());
        }
        if world.rng.random_bool(0.01) {
            world.cloud.prices = cloud::market(&mut world.rng);
        }
        world.blind = !world.cloud.calm
            && (world.blind && world.rng.random_bool(0.8) || world.rng.random_bool(0.02));
        for controller in &mut controllers {
            controller.step(&mut world);
        }
        limits_hold(&mut world);
        if !world.batch().0.is_active() {
            return at_rest(&world);
        }
        world.now += seconds(world.rng.random_range(1..15));
    }
    panic!(
        "I11: the batch is still {:?} after its deadline; {}",
        world.batch().0,
        world.story()
    );
}

fn limits_hold(world: &mut World) {
    let now = world.now;
    world.cloud.advance(now);
    let alive = world.cloud.staying();
    assert!(
        alive <= world.policy.max_units as usize,
        "I6: {alive} run, {} may; {}",
        world.policy.max_units,
        world.story()
    );
    for (launch, fleets) in &world.cloud.fleets {
        assert!(
            fleets.len() == 1,
            "I3: launch {launch:?} made {fleets:?}; {}",
            world.story()
        );
    }
    bought_is_bounded(world);
    assert!(
        world.cloud.machines[cloud::FOREIGN].ended_at.is_none(),
        "I8: a foreign instance was ended; {}",
        world.story()
    );
}

/// I13: what goes wrong with every machine costs a bounded number of them.
fn bought_is_bounded(world: &World) {
    let rule = &world.policy.breaker;
    let began = world.log.history[0].requested_at;
    let hours = usize::try_from(world.now.duration_since(began).as_hours()).unwrap();
    let units = world.policy.max_units as usize;
    let (bought, most) = match world.cloud.habit {
        // Those of the first launches, those that replace the first that end, and one after each pause.
        Habit::NeverBoots => {
            let most = units + (rule.failures + rule.pauses) as usize;
            (world.cloud.bought(), most)
        }
        // Two places: after 3, 6, 12, 24 and 48 minutes, and then once an hour.
        Habit::Takes => (world.cloud.bought(), 2 * units * (6 + hours)),
        // As many as are wanted at first, and as many again where some do not come up; no more for a hint.
        Habit::Hints => (
            world.cloud.bought(),
            2 * units + usize::try_from(world.cloud.done).unwrap(),
        ),
        // Each serves, but for those that are taken, do not come up, or are not needed after all.
        Habit::None => {
            let done = usize::try_from(world.cloud.done).unwrap();
            (world.cloud.bought(), 2 * units + 2 * done + 20)
        }
        Habit::Unlisted => return,
    };
    assert!(
        bought <= most,
        "I13: {bought} were bought, {most} may, and {:?}; {}",
        world.cloud.habit,
        world.story()
    );
}

/// I2 and I9, and what the whole is for: no task is lost.
fn at_rest(world: &World) {
    let story = world.story();
    let (batch, _) = world.batch();
    assert!(
        world.cloud.alive().is_empty(),
        "I2: {:?} run; {story}",
        world.cloud.alive()
    );
    assert!(
        batch.instances.iter().all(Instance::is_gone),
        "I2: {:?}; {story}",
        batch.instances
    );
    if world.cloud.habit == Habit::NeverBoots && batch.breaker.pauses > 0 {
        let why = match &batch.status {
            Status::Failed { reason } => reason.contains("in a row") || reason.contains("deadline"),
            _ => batch.stop.is_some(),
        };
        assert!(why, "I13: {:?}; {story}", batch.status);
    }
    if batch.status == Status::Settled && batch.stop.is_none() {
        assert_eq!(
            world.cloud.queued, 0,
            "settled with tasks in the queue; {story}"
        );
    }
}

/// I1: with nobody left to look after them, machines end by themselves.
fn after_life(mut world: World) {
    world.now += seconds(4 * 3600 + 60);
    let now = world.now;
    world.cloud.advance(now);
    assert!(
        world.cloud.alive().is_empty(),
        "I1: {:?} outlived their lives; {}",
        world.cloud.alive(),
        world.story()
    );
}

fn run(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        schedule(seed);
    }
}

fn schedules() -> u64 {
    std::env::var("SPOTREEL_SCHEDULES").map_or(SCHEDULES, |text| {
        text.parse().expect("a number of schedules")
    })
}

#[test]
fn i01_to_i11_hold_in_saved_schedules() {
    run(SAVED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.trim().parse().expect("a seed a line")));
}

#[test]
fn i01_to_i11_hold_in_random_schedules() {
    run((0..schedules()).step_by(2));
}

#[test]
fn i01_to_i11_hold_in_other_random_schedules() {
    run((1..schedules()).step_by(2));
}

#[test]
fn one() {
    if let Ok(seed) = std::env::var("SPOTREEL_SIMULATE") {
        schedule(seed.parse().expect("a seed"));
    }
}
