//! One batch from its request to an end that is checked, with one or two controllers.

use rand::RngExt;
use spotreel_domain::batch::{DrainMode, Status, Stop};

use super::cloud::{self, Cloud, Habit, seconds};
use super::controller::Controller;
use super::world::{World, policy, rules};

fn world(seed: u64) -> World {
    let began = "2026-03-01T02:00:00Z".parse().expect("a time");
    let mut world = World::new(seed, began, |rng| {
        Cloud::new(cloud::market(rng), began, Habit::of(seed))
    });
    let queued = world.rng.random_range(1..60);
    let units = world.rng.random_range(1..12);
    let mut policy = policy("default", world.rng.random_range(1..15));
    if world.cloud.habit == Habit::Takes {
        policy.subnets.truncate(1);
    }
    world.add(policy, rules());
    world.cloud.queue("default").queued = queued;
    world.request(0, "length", units);
    world
}

pub fn run(seed: u64) {
    let mut world = world(seed);
    let mut controllers: Vec<Controller> = (0..world.rng.random_range(1..=2))
        .map(|name| Controller::new(name, 0))
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
            && world.batch(0).0.stop.is_none()
            && world.is_active(0)
        {
            let mode = if seed.is_multiple_of(2) {
                DrainMode::Finish
            } else {
                DrainMode::Now
            };
            let (batch, expected) = world.batch(0);
            let stopped = batch.stopped(Stop {
                mode,
                by: "a person".into(),
                reason: None,
                at: world.now,
            });
            world.append(0, stopped, expected);
        }
        let takes = world.cloud.habit != Habit::Hints && !world.cloud.calm;
        if takes && world.rng.random_bool(0.01) {
            world.cloud.interrupt(world.now, &mut world.rng);
            world.tell(|| "the market takes a machine".into());
        }
        if world.rng.random_bool(0.01) {
            world.reprice();
        }
        world.blind = !world.cloud.calm
            && (world.blind && world.rng.random_bool(0.8) || world.rng.random_bool(0.02));
        for controller in &mut controllers {
            controller.step(&mut world);
        }
        world.limits_hold();
        bought_is_bounded(&world);
        if !world.is_active(0) {
            world.at_rest(0);
            return no_task_is_left(&world);
        }
        world.now += seconds(world.rng.random_range(1..15));
    }
    panic!(
        "I11: the batch is still {:?} after its deadline; {}",
        world.batch(0).0,
        world.story()
    );
}

/// What the whole is for.
fn no_task_is_left(world: &World) {
    let (batch, _) = world.batch(0);
    if batch.status == Status::Settled && batch.stop.is_none() {
        assert_eq!(
            world.cloud.queues["default"].queued,
            0,
            "settled with tasks in the queue; {}",
            world.story()
        );
    }
}

/// I13: what goes wrong with every machine costs a bounded number of them.
fn bought_is_bounded(world: &World) {
    let policy = &world.pools[0].policy;
    let (rule, units) = (&policy.breaker, policy.max_units as usize);
    let hours = usize::try_from(world.now.duration_since(world.began).as_hours()).unwrap_or(0);
    let done = usize::try_from(world.cloud.queues["default"].done).unwrap_or(usize::MAX);
    let most = match world.cloud.habit {
        // Those of the first launches, those that replace the first that end, and one after each pause.
        Habit::NeverBoots => units + (rule.failures + rule.pauses) as usize,
        // Two places: after 3, 6, 12, 24 and 48 minutes, and then once an hour.
        Habit::Takes => 2 * units * (6 + hours),
        // As many as are wanted at first, and as many again where some do not come up; no more for a hint.
        Habit::Hints => 2 * units + done,
        // Each serves, but for those that are taken, do not come up, or are not needed after all.
        Habit::None => 2 * units + 2 * done + 20,
        Habit::Unlisted => return,
    };
    let bought = world.cloud.bought("default");
    assert!(
        bought <= most,
        "I13: {bought} were bought, {most} may, and {:?}; {}",
        world.cloud.habit,
        world.story()
    );
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
