//! Prices that rise above `budgets.per_hour`: who goes, who stays, and when machines are bought again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use spotreel_domain::Usd;
use spotreel_domain::batch::{
    Batch, BlockedBy, DrainMode, Instance, InstanceState, LaunchState, Leaving, Status,
};
use spotreel_domain::fleet::cloud::{SeenInstance, tag};
use spotreel_domain::fleet::observation::{Market, Quota, Work, WorkerState};
use spotreel_domain::fleet::policy::Policy;
use spotreel_domain::fleet::{Observation, offers, reconcile};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::spend::Spend;

use scene::{KIND, ZONES, answered_launch, at, listed, place, requested, serving, start, worker};

/// $1.00 an hour, for machines that may cost as much each.
fn policy() -> Policy {
    let mut policy = scene::policy_of(&PoolConfig::default());
    policy.kinds.retain(|kind| kind.name == KIND);
    policy.kinds[0].cap = Usd::from_cents(100);
    policy.subnets = scene::subnets(&ZONES);
    policy.budget.per_hour = Some(Usd::from_cents(100));
    policy.most_per_hour = policy.budget.per_hour;
    policy
}

/// One machine that serves in each zone, all of them busy, with as many tasks.
struct Scene {
    batch: Batch,
    cents: [i64; 3],
    others: Spend,
    is_priced: bool,
    policy: Policy,
}

impl Scene {
    fn set() -> Self {
        let mut batch = requested(3, start());
        let serving = |zone| serving(zone, place(zone), Usd::from_cents(30));
        batch.instances.extend(ZONES.map(serving));
        batch.launches.push(answered_launch(3, &ZONES));
        batch.status = Status::Running;
        Self {
            batch,
            cents: [30; 3],
            others: Spend::default(),
            is_priced: true,
            policy: policy(),
        }
    }

    fn market(&self) -> Market {
        let prices = ZONES.into_iter().zip(self.cents);
        let prices = prices.map(|(zone, cents)| (place(zone), Usd::from_cents(cents)));
        scene::market(prices)
    }

    fn look(&mut self, seconds: i64) {
        let there = || self.batch.instances.iter().filter(|i| !i.is_gone());
        let tags = [(tag::BATCH, "default-1"), (tag::LAUNCH, "1")];
        let listing = there().map(|instance| SeenInstance {
            tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..listed(&instance.id, &instance.place, start())
        });
        let workers = there().map(|instance| worker(&instance.id, WorkerState::Busy));
        let seen = Observation {
            listing: listing.collect(),
            workers: Some(workers.collect()),
            work: Some(Work {
                runnable: 3,
                rendering: there().count() as u64,
                sized: 3,
                seconds: 1_800,
            }),
            market: self.is_priced.then(|| self.market()),
            spent: Some(self.others),
            ..scene::observation(at(seconds))
        };
        self.batch = reconcile(&self.batch, &seen, &self.policy).batch;
    }

    /// The machines that were told to hand back what they hold, for the budget's sake.
    fn sent_home(&self) -> Vec<&str> {
        let goes = |i: &&Instance| {
            matches!(
                i.state,
                InstanceState::Draining {
                    why: Leaving::Budget,
                    mode: DrainMode::Now,
                    ..
                }
            )
        };
        let all = self.batch.instances.iter().filter(goes);
        all.map(|instance| instance.id.as_str()).collect()
    }

    fn are_gone(&mut self, seconds: i64) {
        for instance in &mut self.batch.instances {
            if !instance.is_active() {
                instance.state = InstanceState::Gone {
                    ending: spotreel_domain::batch::Ending::Terminated,
                    at: at(seconds),
                };
            }
        }
    }

    fn launches(&self) -> usize {
        self.batch.launches.len()
    }
}

#[test]
fn the_dearest_machines_go_until_the_rest_fits_and_no_more() {
    let mut scene = Scene::set();
    scene.cents = [33, 34, 33];
    scene.look(200);
    assert_eq!(scene.sent_home(), [""; 0], "a dollar is within a dollar");
    scene.cents = [33, 30, 38];
    scene.look(210);
    assert_eq!(scene.sent_home(), [ZONES[2]]);
    // It costs money until it is gone, and is not counted twice.
    scene.look(220);
    assert_eq!(scene.sent_home(), [ZONES[2]]);
    scene.cents = [95, 10, 38];
    scene.look(230);
    assert_eq!(scene.sent_home(), [ZONES[0], ZONES[2]]);
}

#[test]
fn other_pools_count_by_what_runs_on_there() {
    let mut scene = Scene::set();
    // What another pool has sent home for this budget is no reason to send others home as well.
    scene.others = Spend {
        per_hour: Usd::from_cents(70),
        kept_per_hour: Usd::from_cents(10),
        ..Spend::default()
    };
    scene.look(200);
    assert_eq!(scene.sent_home(), [""; 0]);
    scene.others.kept_per_hour = Usd::from_cents(11);
    scene.look(210);
    assert_eq!(scene.sent_home().len(), 1);
}

#[test]
fn what_another_pool_may_buy_sends_nobody_home() {
    let mut scene = Scene::set();
    // The other pool's own budget of an hour is larger, and it has bought for it.
    scene.policy.most_per_hour = Some(Usd::from_cents(1_000));
    scene.others.kept_per_hour = Usd::from_cents(560);
    scene.look(200);
    assert_eq!(scene.sent_home(), [""; 0]);
    // One has none.
    scene.policy.most_per_hour = None;
    scene.look(210);
    assert_eq!(scene.sent_home(), [""; 0]);
}

#[test]
fn a_price_that_is_not_known_sends_nobody_home() {
    let mut scene = Scene::set();
    for instance in &mut scene.batch.instances {
        instance.rate = Usd::from_cents(90);
    }
    scene.is_priced = false;
    scene.look(200);
    assert_eq!(scene.sent_home(), [""; 0]);
}

#[test]
fn a_launch_without_an_answer_sends_nobody_home() {
    let mut scene = Scene::set();
    let mut open = scene.batch.launches[0].clone();
    open.seq = 2;
    open.state = LaunchState::Unanswered {
        at: at(190),
        empty_listings: 0,
        sealed: true,
        sends: 1,
    };
    scene.batch.launches.push(open);
    scene.others.per_hour = Usd::from_cents(500);
    scene.look(200);
    assert_eq!(scene.sent_home(), [""; 0]);
}

#[test]
fn nothing_is_bought_back_while_prices_are_near_the_limit() {
    let mut scene = Scene::set();
    scene.cents = [33, 30, 38];
    scene.look(210);
    assert_eq!(scene.sent_home(), [ZONES[2]]);
    scene.are_gone(220);
    // Back where they were: three fit again, but with no headroom.
    for (seconds, cents) in [(230, 33), (600, 32), (1_200, 31)] {
        scene.cents = [cents; 3];
        scene.look(seconds);
        assert_eq!(scene.launches(), 1, "at {cents} cents");
    }
    let blocked = scene.batch.blocked.as_ref().unwrap();
    assert_eq!(blocked.by, BlockedBy::Budget);
    scene.cents = [30; 3];
    scene.look(1_210);
    assert_eq!(scene.launches(), 2, "nine tenths of a dollar");
}

#[test]
fn a_single_machine_near_the_limit_is_offered_to_nobody_for_a_while() {
    let mut scene = Scene::set();
    scene.batch.instances.truncate(1);
    scene.cents = [101, 95, 95];
    scene.look(200);
    assert_eq!(scene.sent_home(), [ZONES[0]]);
    scene.are_gone(210);
    scene.look(220);
    assert_eq!(scene.launches(), 1);
    let said = &scene.batch.blocked.as_ref().unwrap().sentence;
    assert!(said.contains("above budgets.per_hour"), "{said}");
    // Trigger asks for a batch by the same offers, so it asks for none.
    let offered = |scene: &Scene, seconds| {
        let (penalties, market) = (&scene.batch.penalties, scene.market());
        let now = at(seconds);
        offers::summary(&policy(), penalties, &market, &Quota::default(), now, now).usable_pools
    };
    assert_eq!(offered(&scene, 220), 0);
    assert_eq!(offered(&scene, 3 * 3_600), 2, "it is forgiven");
    scene.cents = [85, 95, 95];
    assert_eq!(offered(&scene, 600), 1);
}
