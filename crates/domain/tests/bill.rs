//! What fleet does so that a batch costs no more than it must, and what it books: refunds, ends, machines that stay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, DrainMode, Ending, InstanceState, Leaving, Receipt, Status};
use spotreel_domain::fleet::cloud::{CloudState, Place, SeenInstance, tag};
use spotreel_domain::fleet::observation::{Market, Work, WorkerSeen, WorkerState};
use spotreel_domain::fleet::policy::Policy;
use spotreel_domain::fleet::{Effect, Observation, idle_that_stay, reconcile};
use spotreel_domain::pool::PoolConfig;

use scene::{ZONES, answered_launch, at, listed, market, requested, serving, start, worker};

/// $0.36 an hour.
const PRICE: Usd = Usd::from_micros(360_000);

fn place() -> Place {
    scene::place(ZONES[0])
}

fn policy() -> Policy {
    scene::policy_of(&PoolConfig::default())
}

/// One machine that serves since the start, in a batch with work for it.
struct Scene {
    batch: Batch,
    listed: SeenInstance,
    worker: Option<WorkerSeen>,
    tasks: u64,
    keep: u32,
    ended: Vec<Effect>,
}

impl Scene {
    fn set() -> Self {
        let mut batch = requested(1, start());
        batch.instances.push(serving("i-1", place(), PRICE));
        batch.status = Status::Running;
        let tags = [
            (tag::BATCH, "default-1"),
            (tag::LAUNCH, "1"),
            (tag::ENV, "prod"),
        ];
        Self {
            batch,
            listed: SeenInstance {
                tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                has_public_address: true,
                ..listed("i-1", &place(), start())
            },
            worker: Some(worker("i-1", WorkerState::Busy)),
            tasks: 1,
            keep: 0,
            ended: Vec::new(),
        }
    }

    fn observation(&self, seconds: i64) -> Observation {
        let workers: Vec<_> = self.worker.iter().cloned().collect();
        let busy = |w: &&WorkerSeen| w.state == WorkerState::Busy;
        Observation {
            listing: vec![self.listed.clone()],
            work: Some(Work {
                runnable: self.tasks,
                rendering: workers.iter().filter(busy).count() as u64,
                sized: 1,
                seconds: self.tasks * 600,
            }),
            workers: Some(workers),
            market: Some(Market {
                volume: Usd::from_micros(11_111),
                address: Usd::from_micros(5_000),
                ..market([(place(), PRICE)])
            }),
            keep: self.keep,
            ..scene::observation(at(seconds))
        }
    }

    fn look(&mut self, seconds: i64) {
        let round = reconcile(&self.batch, &self.observation(seconds), &policy());
        self.batch = round.batch;
        let ends = round.effects.into_iter();
        self.ended
            .extend(ends.filter(|effect| matches!(effect, Effect::Terminate { .. })));
    }

    /// Looks every five seconds, up to and without `to`.
    fn looks(&mut self, from: i64, to: i64) {
        for seconds in (from..to).step_by(5) {
            self.look(seconds);
        }
    }

    fn says(&mut self, state: WorkerState) {
        self.worker.as_mut().unwrap().state = state;
    }

    /// The notice comes, and the worker hands back what it had.
    fn notice(&mut self, seconds: i64) {
        let worker = self.worker.as_mut().unwrap();
        worker.notice_at = Some(at(seconds + 120));
        worker.state = WorkerState::Drained;
        self.look(seconds);
    }

    fn ends(&mut self, reason: &str, left_at: Option<i64>) {
        self.listed.state = CloudState::Terminated;
        self.listed.reason = Some(reason.to_owned());
        self.listed.left_at = left_at.map(at);
        self.worker = None;
    }

    fn receipt(&self, seconds: i64) -> Receipt {
        Receipt::of(&self.batch, at(seconds))
    }
}

const TAKEN: &str = "Server.SpotInstanceTermination: Spot instance termination";
const BY_US: &str = "Client.UserInitiatedShutdown: User initiated shutdown";

#[test]
fn a_machine_that_goes_in_its_first_hour_is_left_to_ec2_and_costs_nothing() {
    let mut scene = Scene::set();
    scene.looks(100, 1_000);
    scene.notice(1_000);
    // Its worker may say nothing more: the machine goes all the same.
    scene.worker = None;
    scene.looks(1_005, 1_130);
    assert_eq!(scene.ended, [], "an end by us would be charged");
    scene.ends(TAKEN, None);
    scene.look(1_130);
    let line = scene.receipt(9_999).lines.remove(0);
    assert_eq!(line.ending, Some(Ending::Interrupted));
    assert_eq!(line.charges.compute, Usd::ZERO);
    assert_eq!(line.cost, line.charges.volume + line.charges.address);
    assert_eq!(line.charges.address.micros(), 5_000 * 1_130 / 3_600);
}

#[test]
fn a_machine_found_while_prices_are_unknown_costs_what_they_say_later() {
    let mut scene = Scene::set();
    scene.batch.instances.clear();
    scene.batch.launches.push(answered_launch(1, &[]));
    let price = PRICE.percent(50);
    let look = |seconds, known: bool, scene: &mut Scene| {
        let seen = Observation {
            market: known.then(|| market([(place(), price)])),
            ..scene.observation(seconds)
        };
        scene.batch = reconcile(&scene.batch, &seen, &policy()).batch;
    };
    look(100, false, &mut scene);
    scene.says(WorkerState::Idle);
    look(200, false, &mut scene);
    look(300, true, &mut scene);
    scene.ends(BY_US, Some(1_000));
    look(1_005, true, &mut scene);
    assert_eq!(
        scene.receipt(9_999).total,
        price.per_hour_for(std::time::Duration::from_secs(1_000))
    );
}

#[test]
fn a_machine_that_goes_after_its_first_hour_is_ended_at_once() {
    let mut scene = Scene::set();
    scene.look(100);
    scene.notice(3_500);
    let instances = vec!["i-1".to_owned()];
    assert_eq!(scene.ended, [Effect::Terminate { instances }]);
}

#[test]
fn a_machine_that_ec2_announces_and_does_not_take_is_ended() {
    let mut scene = Scene::set();
    scene.look(100);
    scene.notice(1_000);
    // The notice's two minutes, and `patience.drain`.
    scene.looks(1_005, 1_300);
    assert_eq!(scene.ended, []);
    scene.look(1_300);
    assert_eq!(scene.ended.len(), 1);
    scene.ends(BY_US, Some(1_301));
    scene.look(1_305);
    let charges = scene.receipt(9_999).lines[0].charges;
    assert_eq!(
        charges.compute,
        PRICE.per_hour_for(std::time::Duration::from_secs(1_301))
    );
}

#[test]
fn the_end_that_ec2_tells_is_the_end_of_the_bill() {
    let mut scene = Scene::set();
    scene.looks(100, 600);
    scene.batch = scene
        .batch
        .ordered_out("i-1", DrainMode::Now, at(600))
        .unwrap();
    scene.says(WorkerState::Drained);
    scene.look(600);
    // It shuts down for a minute, and the listing that shows its end is late.
    scene.listed.state = CloudState::ShuttingDown;
    scene.listed.reason = Some(BY_US.to_owned());
    scene.listed.left_at = Some(at(602));
    scene.worker = None;
    scene.looks(605, 700);
    scene.ends(BY_US, Some(602));
    scene.look(1_000);
    let line = scene.receipt(9_999).lines.remove(0);
    assert_eq!(line.seconds, 602);
    assert_eq!(line.charges.compute.micros(), 60_200);
    // Its address is given back when it is gone.
    assert_eq!(
        line.charges.address.micros(),
        (5_000 * 1_000 + 1_800) / 3_600
    );
    assert_eq!(line.ending, Some(Ending::Terminated));
}

#[test]
fn what_is_pending_is_not_billed() {
    let mut scene = Scene::set();
    scene.batch.instances[0].state = InstanceState::Booting;
    scene.batch.instances[0].ready_at = None;
    scene.worker = None;
    scene.listed.state = CloudState::Pending;
    scene.looks(0, 60);
    assert_eq!(scene.receipt(57).lines[0].charges.compute, Usd::ZERO);
    scene.listed.state = CloudState::Running;
    scene.looks(60, 300);
    scene.ends(BY_US, Some(300));
    scene.look(305);
    let line = scene.receipt(9_999).lines.remove(0);
    // From the last look that showed it pending.
    assert_eq!((line.seconds, line.charges.compute.micros()), (245, 24_500));
}

#[test]
fn a_machine_that_no_listing_showed_running_is_free_by_ec2s_own_reason_alone() {
    for (reason, compute) in [
        ("Server.InternalError: Internal error on launch", 0),
        ("Server.InsufficientInstanceCapacity", 0),
        ("Client.InternalError: Client error on launch", 0),
        ("Client.InvalidSnapshot.NotFound: There is none", 0),
        ("Client.VolumeLimitExceeded: The limit is 50 TiB", 0),
        (
            "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
            6_000,
        ),
        (BY_US, 6_000),
    ] {
        let mut scene = Scene::set();
        scene.batch.instances[0].state = InstanceState::Booting;
        scene.batch.instances[0].ready_at = None;
        scene.worker = None;
        scene.listed.state = CloudState::Pending;
        scene.look(3);
        scene.ends(reason, Some(20));
        // Whenever it is looked at.
        scene.look(130);
        let line = scene.receipt(9_999).lines.remove(0);
        assert_eq!(line.charges.compute.micros(), compute, "{reason}");
    }
}

#[test]
fn while_the_queue_cannot_be_counted_nobody_is_told_to_stay_but_in_hybrid_mode() {
    let mut scene = Scene::set();
    scene.tasks = 0;
    scene.says(WorkerState::Idle);
    for (keep, told) in [(0, 0), (1, 1)] {
        scene.keep = keep;
        let counted = scene.observation(100);
        scene.batch = reconcile(&scene.batch, &counted, &policy()).batch;
        scene.batch.instances[0].state = InstanceState::Serving;
        let seen = Observation {
            work: None,
            ..scene.observation(105)
        };
        assert_eq!(idle_that_stay(&scene.batch, &seen).len(), told, "{keep}");
    }
}

/// Two days of a machine that stays: no batch's deadline ends it, and what it cost and saved is in the record.
#[test]
fn a_machine_that_stays_has_no_deadline_and_its_record_says_what_that_cost() {
    const DAY: i64 = 24 * 3_600;
    let mut scene = Scene::set();
    scene.keep = 1;
    scene.tasks = 0;
    scene.says(WorkerState::Idle);
    let patience = std::time::Duration::from_secs(10 * 86_400);
    let mut policy = policy();
    policy.patience.life = patience;
    let look = |scene: &mut Scene, seconds: i64| {
        let seen = scene.observation(seconds);
        let round = reconcile(&scene.batch, &seen, &policy);
        scene.batch = round.batch;
        idle_that_stay(&scene.batch, &seen)
    };
    for hour in 1..48 {
        assert_eq!(
            look(&mut scene, hour * 3_600),
            ["i-1"],
            "it is told to stay"
        );
        assert_eq!(scene.batch.status, Status::Running, "after {hour} hours");
        if hour == 24 {
            // A task comes, and finds a machine.
            scene.tasks = 1;
            scene.says(WorkerState::Busy);
            assert!(look(&mut scene, DAY + 600).is_empty());
            scene.tasks = 0;
            scene.says(WorkerState::Idle);
            look(&mut scene, DAY + 1_200);
        }
    }
    let books = scene.receipt(2 * DAY).residency.unwrap();
    // All but the first hour, when nobody looked, and ten minutes of work.
    assert_eq!(books.idle_seconds, (2 * DAY - 3_600 - 600).unsigned_abs());
    assert_eq!(
        books.idle_cost,
        PRICE.per_hour_for(std::time::Duration::from_secs(books.idle_seconds))
    );
    assert_eq!(
        (books.units, books.boots_saved, books.boot_seconds_saved),
        (1, 1, 100)
    );
    assert_eq!(books.boot_cost_saved.micros(), 10_000);

    // A queue that never empties, once none is to stay: the batch has its whole time again, and no more.
    scene.keep = 0;
    scene.tasks = 1;
    scene.says(WorkerState::Busy);
    look(&mut scene, 2 * DAY);
    look(&mut scene, 2 * DAY + 11 * 3_600);
    assert_eq!(scene.batch.instances[0].state, InstanceState::Serving);
    look(&mut scene, 2 * DAY + 12 * 3_600);
    let leaves = matches!(
        scene.batch.instances[0].state,
        InstanceState::Draining {
            why: Leaving::Deadline,
            mode: DrainMode::Now,
            ..
        }
    );
    assert!(leaves, "{:?}", scene.batch.instances[0].state);
}

#[test]
fn without_word_of_the_mode_nothing_ends() {
    let mut scene = Scene::set();
    scene.keep = 1;
    scene.look(3_600);
    let mut seen = scene.observation(13 * 3_600);
    (seen.work, seen.keep) = (None, 0);
    let mut policy = policy();
    policy.patience.life = std::time::Duration::from_secs(10 * 86_400);
    let batch = reconcile(&scene.batch, &seen, &policy).batch;
    assert_eq!(batch.instances[0].state, InstanceState::Serving);
}
