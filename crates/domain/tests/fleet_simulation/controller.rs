//! A controller as the service is one: list, read, decide, write, act, learn; and it may die between any two of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::RngExt;
use spotreel_domain::batch::{Batch, Instance, InstanceState, Launch, LaunchState, Leaving};
use spotreel_domain::fleet::cloud::{ErrorClass, LaunchAnswer, PlaceError, SeenInstance, tag};
use spotreel_domain::fleet::observation::{Observation, Work, WorkerSeen, WorkerState};
use spotreel_domain::fleet::{
    Effect, EffectOutcome, Round, orphan, reconcile, reconcile::terminations,
};
use spotreel_domain::trigger::{SizeInput, size};

use super::cloud::seconds;
use super::machine::{TASK, Worker};
use super::money;
use super::scene::{self, learned};
use super::world::World;

/// A step is a controller's last one this often.
const DEATH: f64 = 0.01;

pub struct Controller {
    name: u32,
    /// The pool that it looks after.
    pool: usize,
    phase: Phase,
    /// The call under way: which launch, what it brings and when. Lost with the process.
    call: Option<(u32, Timestamp, Result<LaunchAnswer, PlaceError>)>,
    marks: orphan::Marks,
}

enum Phase {
    Waits { until: Timestamp },
    Listed { listing: Vec<SeenInstance> },
    Written { round: Box<Round>, at: usize },
    Dead { until: Timestamp },
}

impl Controller {
    pub fn new(name: u32, pool: usize) -> Self {
        Self {
            name,
            pool,
            phase: Phase::Waits {
                until: Timestamp::MIN,
            },
            call: None,
            marks: BTreeMap::new(),
        }
    }

    pub fn step(&mut self, world: &mut World) {
        if !matches!(self.phase, Phase::Dead { .. })
            && !world.cloud.calm
            && world.rng.random_bool(DEATH)
        {
            let until = world.now + seconds(world.rng.random_range(1..900));
            world.tell(|| format!("controller {} dies", self.name));
            *self = Self {
                phase: Phase::Dead { until },
                ..Self::new(self.name, self.pool)
            };
            return;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Waits { until: world.now });
        self.phase = match phase {
            Phase::Dead { until } if until > world.now => Phase::Dead { until },
            Phase::Waits { until } if until > world.now && !self.call_is_over(world) => {
                Phase::Waits { until }
            }
            Phase::Dead { .. } | Phase::Waits { .. } => {
                self.hear_call(world);
                self.list(world)
            }
            Phase::Listed { listing } => self.decide(world, listing),
            Phase::Written { round, at } => self.act(world, round, at),
        };
    }

    fn list(&mut self, world: &mut World) -> Phase {
        if !world.cloud.calm && world.rng.random_bool(0.03) {
            return Phase::Waits {
                until: world.now + seconds(5),
            };
        }
        let now = world.now;
        Phase::Listed {
            listing: world.cloud.list(now, &mut world.rng),
        }
    }

    fn decide(&mut self, world: &mut World, listing: Vec<SeenInstance>) -> Phase {
        let active: Vec<_> = world.active().map(|batch| batch.id.clone()).collect();
        let grace = std::time::Duration::from_secs(120);
        for id in orphan::orphans(&listing, "prod", &active, &mut self.marks, world.now, grace) {
            self.terminate(world, &id);
        }
        world.decides(self.pool);
        if !world.is_active(self.pool) {
            return Phase::Waits {
                until: world.now + seconds(30),
            };
        }
        let (batch, expected) = world.batch(self.pool);
        let before = batch.clone();
        let seen = self.observe(world, listing);
        let policy = world.pools[self.pool].policy.clone();
        let round = reconcile(&before, &seen, &policy);
        let fresh = round
            .batch
            .launches
            .iter()
            .filter(|l| before.launch(l.seq).is_none())
            .count();
        assert!(
            fresh == 0 || (seen.work.is_some() && seen.market.is_some()),
            "I10: a launch was planned blindly; {}",
            world.story()
        );
        assert!(fresh <= 1, "one launch at a time; {}", world.story());
        self.explains_waiting(world, &round.batch, &seen);
        money::unread_spend_changes_nothing(world, self.pool, &before, &round.batch);
        if round.batch != before && !world.append(self.pool, round.batch.clone(), expected) {
            world.tell(|| format!("controller {} was overtaken", self.name));
            return Phase::Waits { until: world.now };
        }
        world.tell(|| {
            format!(
                "controller {}: {} {:?} {:?}",
                self.name,
                round.batch.status.name(),
                round.effects,
                round.batch.blocked.as_ref().map(|b| &b.sentence)
            )
        });
        Phase::Written {
            round: Box::new(round),
            at: 0,
        }
    }

    /// The listing and the workers are those of all pools.
    fn observe(&self, world: &mut World, listing: Vec<SeenInstance>) -> Observation {
        let now = world.now;
        let workers = world.cloud.workers(now);
        let pool = &world.pools[self.pool];
        let name = pool.policy.pool.as_str();
        let in_hand = |w: &&WorkerSeen| {
            let machine = &world.cloud.machines[&w.instance];
            matches!(w.state, WorkerState::Busy | WorkerState::Draining)
                && machine.tag(tag::POOL) == name
        };
        let rendering = workers.iter().filter(in_hand).count() as u64;
        let runnable = world.cloud.queues[name].queued + world.cloud.rendering(name);
        let input = SizeInput {
            tasks: runnable,
            seconds_per_task: Some(TASK.as_secs_f64()),
            resident_units: pool.keep,
            ..SizeInput::default()
        };
        let sized = size(&input, &pool.rules.sizing).units;
        let work = Work {
            runnable,
            rendering,
            sized,
            seconds: runnable * 180,
        };
        let (work, needs) = match world.workload(self.pool) {
            Some((config, load)) => {
                let (batch, keep) = (world.batch(self.pool).0, pool.keep);
                load.work(batch, rendering, keep, None, None, &config.rules.sizing)
            }
            None => (work, Vec::new()),
        };
        let own = |seen: &SeenInstance| seen.tag(tag::POOL) == Some(name);
        let (keep, spent) = (pool.keep, money::spent(world, self.pool));
        Observation {
            listing: listing.into_iter().filter(own).collect(),
            workers: (!world.blind).then_some(workers),
            work: (!world.blind).then_some(work),
            needs,
            market: (!world.blind).then(|| world.cloud.prices.clone()),
            in_flight: self.call.as_ref().map(|(seq, ..)| *seq),
            spent,
            keep: if world.blind { 0 } else { keep },
            ..scene::observation(now)
        }
    }

    /// I11: whoever waits says for what.
    fn explains_waiting(&self, world: &World, batch: &Batch, seen: &Observation) {
        let work = seen.work.is_some_and(|work| work.runnable > 0);
        let nothing = batch.instances.iter().all(Instance::is_gone)
            && batch.launches.iter().all(|l| !l.is_open());
        if batch.is_active()
            && work
            && nothing
            && batch.stop.is_none()
            && seen.now < batch.deadline
            && batch.empty_listings == 0
        {
            assert!(
                batch.blocked.is_some(),
                "I11: work waits and nobody says why: {batch:?}; {}",
                world.story()
            );
        }
    }

    fn act(&mut self, world: &mut World, round: Box<Round>, at: usize) -> Phase {
        let Some(effect) = round.effects.get(at) else {
            let pause = i64::try_from(round.look_again.as_secs()).unwrap();
            return Phase::Waits {
                until: world.now + seconds(pause),
            };
        };
        match effect {
            Effect::Terminate { instances } => {
                let accepted: Vec<_> = instances
                    .iter()
                    .filter(|id| self.terminate(world, id))
                    .cloned()
                    .collect();
                self.learn(world, &EffectOutcome::Terminated { accepted });
            }
            Effect::Drain {
                instance,
                mode,
                why,
            } => {
                let now = world.now;
                self.stays_while_it_works(world, instance, *why);
                let answer = world.cloud.drain(instance, *mode, now);
                self.learn(
                    world,
                    &EffectOutcome::Drained {
                        instance: instance.clone(),
                        answer,
                    },
                );
                let (batch, _) = world.batch(self.pool);
                for id in terminations(batch, now, &world.pools[self.pool].policy) {
                    if self.terminate(world, &id) {
                        self.learn(world, &EffectOutcome::Terminated { accepted: vec![id] });
                    }
                }
            }
            Effect::Launch(launch) => self.launch(world, launch),
            Effect::ReadConsole { instance } => {
                let tail = "cloud-init: failed".to_owned();
                let instance = instance.clone();
                self.learn(world, &EffectOutcome::Console { instance, tail });
            }
            Effect::DeleteFleets { launches } => {
                let launches = launches.iter().map(|(seq, _)| *seq).collect();
                self.learn(world, &EffectOutcome::FleetsDeleted { launches });
            }
        }
        Phase::Written { round, at: at + 1 }
    }

    fn launch(&mut self, world: &mut World, launch: &Launch) {
        let request = launch.frozen_request().expect("frozen by us");
        assert!(
            world.pools[self.pool].intents.contains(&launch.request),
            "I4: called without a durable intent; {}",
            world.story()
        );
        for place in &request.overrides {
            let policy = &world.pools[self.pool].policy;
            let cap = policy
                .kind(&place.place.kind)
                .expect("a kind of the pool")
                .cap;
            assert!(
                place.max_price.is_some_and(|max| max <= cap),
                "I7: {place:?}; {}",
                world.story()
            );
        }
        let lost = || PlaceError {
            place: None,
            class: ErrorClass::Unknown,
            code: "Timeout".into(),
            message: "no answer".into(),
        };
        let answers_at = world.now + seconds(world.rng.random_range(1..60));
        let fate = if world.cloud.calm {
            1.0
        } else {
            world.rng.random_range(0.0..1.0)
        };
        let result = match fate {
            // Lost on its way there.
            f if f < 0.1 => Err(lost()),
            f => {
                let result = world
                    .cloud
                    .create_fleet(&request, world.now, &mut world.rng);
                // Lost on its way back.
                if f < 0.25 { Err(lost()) } else { result }
            }
        };
        self.call = Some((launch.seq, answers_at, result));
    }

    fn call_is_over(&self, world: &World) -> bool {
        self.call
            .as_ref()
            .is_some_and(|(_, at, _)| *at <= world.now)
    }

    fn hear_call(&mut self, world: &mut World) {
        if self.call_is_over(world)
            && let Some((seq, _, result)) = self.call.take()
        {
            self.learn(world, &EffectOutcome::Launched { seq, result });
        }
    }

    fn terminate(&self, world: &mut World, id: &str) -> bool {
        let now = world.now;
        world.cloud.advance(now);
        let machine = &world.cloud.machines[id];
        if let (Worker::Busy { .. }, true) = (machine.worker, machine.ended_at.is_none()) {
            let batches = world.pools.iter().filter_map(|p| p.log.newest.as_ref());
            let why = batches.into_iter().find_map(|batch| batch.instance(id));
            let why = why.map(|i| i.state.clone());
            let allowed =
                matches!(why, Some(InstanceState::Terminating { why, .. }) if why.may_cut_off());
            assert!(
                allowed,
                "I5: {id} is busy and is ended because of {why:?}; {}",
                world.story()
            );
        }
        money::refund_is_kept(world, id);
        world.cloud.terminate(id, now, &mut world.rng)
    }

    /// Writes what an effect brought on top of whatever the record is by now, unless the batch is over.
    fn learn(&self, world: &mut World, outcome: &EffectOutcome) {
        if !world.is_active(self.pool) {
            return;
        }
        let (batch, expected) = world.batch(self.pool);
        let policy = &world.pools[self.pool].policy;
        let learned = learned(world.now, policy, Some(&world.cloud.prices));
        let after = learned.apply(batch, outcome);
        let answered = |b: &Batch| {
            b.launches
                .iter()
                .filter(|l| matches!(l.state, LaunchState::Answered { .. }))
                .count()
        };
        debug_assert!(
            answered(&after) >= answered(batch)
                || matches!(outcome, EffectOutcome::FleetsDeleted { .. })
        );
        world.append(self.pool, after, expected);
    }

    /// I14: what listings lose is not sent away while its worker speaks. One that comes up while it is asked has not served.
    fn stays_while_it_works(&self, world: &mut World, instance: &str, why: Leaving) {
        let now = world.now;
        world.cloud.advance(now);
        let (batch, _) = world.batch(self.pool);
        let served = batch
            .instance(instance)
            .is_some_and(|i| i.ready_at.is_some());
        assert!(
            why != Leaving::Missing || !served || !world.cloud.works(instance),
            "I14: {instance} renders and is sent away since no listing shows it; {}",
            world.story()
        );
    }
}
