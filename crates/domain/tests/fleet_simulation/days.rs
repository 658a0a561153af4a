//! Days of one or two pools: tasks come, trigger asks for batches, budgets bind, machines stay.

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use spotreel_domain::Usd;
use spotreel_domain::batch::{DrainMode, Status, Stop};
use spotreel_domain::trigger::{Budgets, HybridRule, LengthRule, MaxWaitRule, Mode, Rules, Sizing};

use spotreel_domain::Model;
use spotreel_domain::fleet::cloud::tag;

use super::cloud::{self, Cloud, Habit, seconds};
use super::controller::Controller;
use super::money;
use super::scene::{kind, place_of};
use super::trigger::Trigger;
use super::world::{World, policy};

/// What the days are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// One pool, and a budget that binds.
    Budget,
    /// Two pools that share a budget.
    Shared,
    /// A budget, and a spend that now and then can't be read.
    Unread,
    /// Machines stay by day.
    Resident,
    /// Two pools with tasks that only some of their instance types can render: of one pool, none can.
    Wrong,
}

impl Theme {
    pub fn of(seed: u64) -> Option<Self> {
        match (seed % 100, seed % 400) {
            (1, _) => Some(Self::Budget),
            (5, _) => Some(Self::Shared),
            (13, _) => Some(Self::Unread),
            (17, _) => Some(Self::Wrong),
            (_, 9) => Some(Self::Resident),
            _ => None,
        }
    }
}

/// The one type that can render the larger models.
const LARGE: &str = "g6e.xlarge";
/// From the evening before the last day of a month.
const BEGAN: &str = "2026-03-30T22:00:00Z";
const LENGTH: SignedDuration = SignedDuration::from_hours(30);
const RESIDENT_LENGTH: SignedDuration = SignedDuration::from_hours(48);
/// What is bought may fall short of what stays for so long: its machines are told to leave at the end of their life, and
/// others boot.
const SHORT: SignedDuration = SignedDuration::from_mins(20);

/// The bill is read so often: what it says does not go back.
const BILLED_EVERY: SignedDuration = SignedDuration::from_secs(60);

struct Days {
    world: World,
    theme: Theme,
    triggers: Vec<Trigger>,
    controllers: Vec<Controller>,
    /// When each pool's next tasks come.
    bursts: Vec<Timestamp>,
    /// Tasks of each pool so far.
    came: Vec<u64>,
    /// Since when there are fewer machines than stay.
    short_since: Option<Timestamp>,
    billed_at: Timestamp,
}

pub fn run(seed: u64, theme: Theme) {
    let mut days = Days::new(seed, theme);
    let length = match theme {
        Theme::Resident => RESIDENT_LENGTH,
        _ => LENGTH,
    };
    let ends_at = days.world.began + length;
    while days.world.now < ends_at {
        days.step();
    }
    days.close();
}

impl Days {
    fn new(seed: u64, theme: Theme) -> Self {
        let began = BEGAN.parse().expect("a time");
        let mut world = World::new(seed, began, |rng| {
            Cloud::new(cloud::market(rng), began, Habit::None)
        });
        let names: &[&str] = match theme {
            Theme::Shared | Theme::Wrong => &["default", "large"],
            _ => &["default"],
        };
        let budgets = budgets(&mut world, theme);
        if theme == Theme::Wrong {
            let prices = ["a", "b", "c"].map(|zone| (place_of(LARGE, zone), Usd::from_cents(74)));
            world.cloud.prices.spot.extend(prices);
        }
        for name in names {
            let mut policy = policy(name, world.rng.random_range(2..10));
            policy.budget = budgets;
            policy.most_per_hour = budgets.per_hour;
            if (theme, *name) == (Theme::Wrong, "default") {
                policy.kinds.push(kind(LARGE, 85));
            }
            let rules = rules(theme, budgets, policy.max_units);
            world.add(policy, rules);
            if theme == Theme::Wrong {
                world.pools.last_mut().expect("just added").models = vec![Model::T2vA14b];
            }
        }
        if theme == Theme::Wrong {
            // A person asks for what trigger would not.
            world.request(1, "run_now", 3);
        }
        let count = names.len();
        let controllers = (0..count).flat_map(|pool| {
            let each = 1 + u32::try_from(seed % 2).expect("a bit");
            (0..each).map(move |name| Controller::new(name, pool))
        });
        Self {
            theme,
            triggers: (0..count).map(|_| Trigger::default()).collect(),
            controllers: controllers.collect(),
            bursts: vec![began; count],
            came: vec![0; count],
            short_since: None,
            billed_at: began,
            world,
        }
    }

    fn step(&mut self) {
        let world = &mut self.world;
        let is_active = world.active().next().is_some();
        let pause = match self.theme {
            _ if is_active => world.rng.random_range(1..15),
            Theme::Resident => world.rng.random_range(5..30),
            _ => world.rng.random_range(30..300),
        };
        world.now += seconds(pause);
        self.weather();
        self.tasks_come(pause);
        for (pool, trigger) in self.triggers.iter_mut().enumerate() {
            trigger.step(&mut self.world, pool);
        }
        self.fleet();
        self.machines_stay();
        if self.theme == Theme::Wrong {
            self.machines_are_right();
        }
    }

    fn fleet(&mut self) {
        for controller in &mut self.controllers {
            controller.step(&mut self.world);
        }
        let world = &mut self.world;
        world.limits_hold();
        money::rate_holds(world);
        if self.billed_at + BILLED_EVERY <= world.now {
            self.billed_at = world.now;
            money::budgets_hold(world);
        }
    }

    /// Calm worlds, and worlds in which things go wrong for some hours of each day.
    fn weather(&mut self) {
        let world = &mut self.world;
        let rough = world.seed / 400 % 2 == 1;
        let hour = world.now.duration_since(world.began).as_hours();
        world.cloud.calm = !rough || hour % 6 >= 3;
        if self.theme == Theme::Unread {
            let chance = if world.spend_unread_since.is_some() {
                0.99
            } else {
                0.005
            };
            let unread = world.rng.random_bool(chance);
            let since = world.spend_unread_since.unwrap_or(world.now);
            world.spend_unread_since = unread.then_some(since);
        }
        if world.cloud.calm {
            world.blind = false;
            return;
        }
        if world.rng.random_bool(0.002) {
            world.cloud.interrupt(world.now, &mut world.rng);
        }
        let hourly = world
            .pools
            .iter()
            .any(|p| p.policy.budget.per_hour.is_some());
        if world.rng.random_bool(if hourly { 0.005 } else { 0.001 }) {
            world.reprice();
        }
        world.blind = world.blind && world.rng.random_bool(0.8) || world.rng.random_bool(0.01);
    }

    fn tasks_come(&mut self, pause: i64) {
        for pool in 0..self.triggers.len() {
            let world = &mut self.world;
            let count = match self.theme {
                Theme::Resident => arrivals(world, pause),
                _ if world.now >= self.bursts[pool] => {
                    let next = world.rng.random_range(1_800..5 * 3_600);
                    self.bursts[pool] = world.now + seconds(next);
                    world.rng.random_range(10..100)
                }
                _ => 0,
            };
            let name = world.pools[pool].policy.pool.to_string();
            world.cloud.queue(&name).queued += count;
            self.came[pool] += count;
            self.triggers[pool].came(world.now, count);
        }
    }

    /// I19: a machine is bought only where it can render what waits.
    fn machines_are_right(&self) {
        let bought = self.world.cloud.machines.values();
        let mut bought = bought.filter(|m| !m.tag(tag::POOL).is_empty());
        let wrong = bought.find(|m| m.place.kind != LARGE);
        assert!(
            wrong.is_none(),
            "I19: {:?} is bought; {}",
            wrong.map(|m| &m.place),
            self.world.story()
        );
    }

    /// I18: machines that stay are there, and no deadline ends them.
    fn machines_stay(&mut self) {
        let (world, pool) = (&self.world, &self.world.pools[0]);
        if let Some(Status::Failed { reason }) = pool.log.newest.as_ref().map(|b| &b.status) {
            let resident = pool.mode.mode == Mode::Resident;
            assert!(
                !resident,
                "I18: machines that stay end: {reason}; {}",
                world.story()
            );
        }
        let there = world.cloud.staying(pool.policy.pool.as_str());
        // What stands in the way is told.
        let newest = pool.log.newest.as_ref();
        let explained = newest.is_some_and(|batch| batch.blocked.is_some());
        let short = there < pool.keep as usize && world.cloud.calm && !explained;
        let since = self.short_since.unwrap_or(world.now);
        self.short_since = short.then_some(since);
        assert!(
            !short || world.now.duration_since(since) <= SHORT,
            "I18: {there} of {} that stay since {since}; {}",
            pool.keep,
            world.story()
        );
    }

    /// A person ends it all; then nothing is left.
    fn close(&mut self) {
        let limit = self.world.now + seconds(6 * 3_600);
        self.world.spend_unread_since = None;
        self.world.blind = false;
        self.world.cloud.calm = true;
        for pool in 0..self.triggers.len() {
            if self.world.is_active(pool) {
                let (batch, expected) = self.world.batch(pool);
                let stopped = batch.stopped(Stop {
                    mode: DrainMode::Finish,
                    by: "a person".into(),
                    reason: None,
                    at: self.world.now,
                });
                self.world.append(pool, stopped, expected);
            }
        }
        while self.world.active().next().is_some() {
            self.world.now += seconds(self.world.rng.random_range(1..15));
            self.fleet();
            let at = self.world.now;
            assert!(
                at < limit,
                "I11: it is still active; {}",
                self.world.story()
            );
        }
        for pool in 0..self.triggers.len() {
            if self.world.pools[pool].log.newest.is_some() {
                self.world.at_rest(pool);
            }
            let name = self.world.pools[pool].policy.pool.as_str();
            let queue = &self.world.cloud.queues[name];
            let kept = queue.queued + queue.done;
            assert_eq!(
                self.came[pool],
                kept,
                "a task is lost; {}",
                self.world.story()
            );
            self.bought_is_bounded(pool);
        }
    }

    /// I13: machines are bought for tasks.
    fn bought_is_bounded(&self, pool: usize) {
        let (world, pool) = (&self.world, &self.world.pools[pool]);
        let name = pool.policy.pool.as_str();
        let (bought, done) = (world.cloud.bought(name), world.cloud.queues[name].done);
        let each = pool.policy.max_units as usize;
        let most = match self.theme {
            // Each lives for four hours, and there are as many again for what comes and goes.
            Theme::Resident => 2 * each * 12,
            _ => usize::try_from(done).expect("few") + each * pool.log.ended.len(),
        };
        world.tell(|| {
            format!(
                "{name}: {bought} bought, {done} done, {} batches",
                pool.log.ended.len()
            )
        });
        assert!(
            bought <= most,
            "I13: {bought} were bought for {done} tasks, {most} may; {}",
            world.story()
        );
    }
}

/// 150 an hour by day, 5 by night.
fn arrivals(world: &mut World, pause: i64) -> u64 {
    let hour = world.now.duration_since(world.began).as_hours() % 24;
    let hourly = if hour < 11 { 150.0 } else { 5.0 };
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let mut expected = hourly * pause as f64 / 3_600.0;
    let mut count = 0;
    while expected > 0.0 {
        count += u64::from(world.rng.random_bool(expected.min(1.0)));
        expected -= 1.0;
    }
    count
}

fn budgets(world: &mut World, theme: Theme) -> Budgets {
    let mut draw =
        |cents: std::ops::Range<i64>| Some(Usd::from_cents(world.rng.random_range(cents)));
    let mut budgets = Budgets::default();
    match (world_level(world.seed), theme) {
        (_, Theme::Resident | Theme::Wrong) => {}
        (0, Theme::Budget | Theme::Shared) => budgets.per_hour = draw(50..300),
        (1, Theme::Budget) => budgets.per_batch = draw(100..400),
        (2, _) => budgets.per_month = draw(100..1_200),
        _ => budgets.per_day = draw(100..600),
    }
    budgets
}

/// Each level of budgets in turn.
fn world_level(seed: u64) -> u64 {
    seed / 100 % 4
}

fn rules(theme: Theme, budgets: Budgets, max: u32) -> Rules {
    Rules {
        length: Some(LengthRule { at_least: 10 }),
        age: None,
        price: None,
        schedule: None,
        max_wait: Some(MaxWaitRule {
            after: std::time::Duration::from_secs(1_800),
        }),
        hybrid: (theme == Theme::Resident).then(HybridRule::default),
        budgets,
        sizing: Sizing {
            min: 1,
            max,
            ..Sizing::default()
        },
    }
}
