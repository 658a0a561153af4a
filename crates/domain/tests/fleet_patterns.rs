//! What fleet makes of faults that come again and again: each step of such a night is right, and the whole must be, too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, BlockedBy, Ending, InstanceState, Launch, Leaving, Status};
use spotreel_domain::fleet::cloud::{CloudState, LaunchAnswer, SeenInstance};
use spotreel_domain::fleet::observation::{Market, Observation, Work, WorkerSeen, WorkerState};
use spotreel_domain::fleet::policy::Policy;
use spotreel_domain::fleet::reconcile::holds_its_pool;
use spotreel_domain::fleet::{DrainAnswer, Effect, EffectOutcome, reconcile};

use scene::{ZONES, answer, bought, learned, place, requested, start, wanted};

const STEP: i64 = 5;
const SHUT_DOWN: &str = "Client.InstanceInitiatedShutdown: Instance initiated shutdown";

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

fn policy(max_units: u32) -> Policy {
    scene::policy(&ZONES, max_units)
}

struct Machine {
    seen: SeenInstance,
    worker: Option<WorkerState>,
    notice_at: Option<Timestamp>,
    rebalance: bool,
    /// Listings do not show it, whether it runs or not.
    unlisted: bool,
}

impl Machine {
    fn age(&self, now: Timestamp) -> i64 {
        now.duration_since(self.seen.launched_at).as_secs()
    }

    fn is_alive(&self) -> bool {
        self.seen.state != CloudState::Terminated
    }

    fn end(&mut self, reason: &str) {
        self.seen.state = CloudState::Terminated;
        self.seen.reason = Some(reason.into());
        self.worker = None;
    }
}

/// A batch in virtual time. Every launch is granted as a whole, in the first place that was asked for.
struct Night {
    now: Timestamp,
    policy: Policy,
    batch: Batch,
    machines: Vec<Machine>,
    /// Machines that were told to leave.
    drained: Vec<String>,
    tasks: u64,
}

impl Night {
    fn new(tasks: u32, policy: Policy) -> Self {
        Self {
            now: start(),
            batch: requested(tasks, start()),
            policy,
            machines: Vec::new(),
            drained: Vec::new(),
            tasks: tasks.into(),
        }
    }

    /// So long, or until the batch is over; before each look `fate` has its way with every machine that is alive.
    fn pass(&mut self, span: i64, mut fate: impl FnMut(&mut Machine, Timestamp)) {
        let until = self.now + seconds(span);
        while self.now < until && self.batch.is_active() {
            for machine in self.machines.iter_mut().filter(|m| m.is_alive()) {
                fate(machine, self.now);
                if machine.notice_at.is_some_and(|at| at <= self.now) {
                    machine.end("Server.SpotInstanceTermination: Spot instance termination");
                }
            }
            self.look();
            self.now += seconds(STEP);
        }
    }

    fn look(&mut self) {
        let round = reconcile(&self.batch, &self.observe(), &self.policy);
        self.batch = round.batch;
        for effect in round.effects {
            self.act(effect);
        }
    }

    fn observe(&self) -> Observation {
        let workers = self.machines.iter().filter_map(|machine| {
            Some(WorkerSeen {
                instance: machine.seen.id.clone(),
                state: machine.worker?,
                notice_at: machine.notice_at,
                rebalance: machine.rebalance,
            })
        });
        let workers: Vec<_> = workers.collect();
        let busy = |w: &&WorkerSeen| w.state == WorkerState::Busy;
        Observation {
            listing: self.listing(),
            work: Some(Work {
                runnable: self.tasks,
                rendering: workers.iter().filter(busy).count() as u64,
                sized: u32::try_from(self.tasks).unwrap(),
                seconds: self.tasks * 600,
            }),
            workers: Some(workers),
            market: Some(self.market()),
            ..scene::observation(self.now)
        }
    }

    fn listing(&self) -> Vec<SeenInstance> {
        let listed = self.machines.iter().filter(|machine| !machine.unlisted);
        listed.map(|machine| machine.seen.clone()).collect()
    }

    fn market(&self) -> Market {
        let places = self.policy.subnets.iter().map(|subnet| place(&subnet.zone));
        scene::market(places.map(|place| (place, Usd::from_cents(26))))
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Launch(launch) => {
                let (seq, result) = (launch.seq, Ok(self.launch(&launch)));
                self.learn(&EffectOutcome::Launched { seq, result });
            }
            Effect::Terminate { instances } => {
                for machine in &mut self.machines {
                    if instances.contains(&machine.seen.id) && machine.is_alive() {
                        machine.end("Client.UserInitiatedShutdown: User initiated shutdown");
                    }
                }
                let accepted = instances;
                self.learn(&EffectOutcome::Terminated { accepted });
            }
            Effect::Drain { instance, .. } => {
                let machine = self.machines.iter_mut().find(|m| m.seen.id == instance);
                let machine = machine.unwrap();
                self.drained.push(instance.clone());
                let answer = match machine.worker {
                    None => DrainAnswer::NobodyThere,
                    Some(WorkerState::Busy) => DrainAnswer::Draining,
                    Some(_) => DrainAnswer::Drained,
                };
                self.learn(&EffectOutcome::Drained { instance, answer });
            }
            Effect::DeleteFleets { launches } => {
                let launches = launches.into_iter().map(|(seq, _)| seq).collect();
                self.learn(&EffectOutcome::FleetsDeleted { launches });
            }
            Effect::ReadConsole { instance } => {
                let tail = "step 1\n\x1b[31mregistry: 429\nToo Many Requests\n".to_owned();
                self.learn(&EffectOutcome::Console { instance, tail });
            }
        }
    }

    fn launch(&mut self, launch: &Launch) -> LaunchAnswer {
        let request = launch.frozen_request().unwrap();
        let before = self.machines.len();
        for number in before + 1..=before + request.units as usize {
            self.machines.push(Machine {
                seen: SeenInstance {
                    has_public_address: true,
                    ..bought(&format!("i-{number}"), &request, self.now)
                },
                worker: None,
                notice_at: None,
                rebalance: false,
                unlisted: false,
            });
        }
        answer(launch.seq, self.machines[before..].iter().map(|m| &m.seen))
    }

    fn learn(&mut self, outcome: &EffectOutcome) {
        let market = self.market();
        let learned = learned(self.now, &self.policy, Some(&market));
        self.batch = learned.apply(&self.batch, outcome);
    }
}

fn never_boots(machine: &mut Machine, now: Timestamp) {
    if machine.age(now) >= 30 {
        machine.end(SHUT_DOWN);
    }
}

#[test]
fn machines_that_never_boot_pause_the_launches_longer_each_time_and_then_the_batch_fails() {
    let mut night = Night::new(3, policy(8));
    night.pass(60, never_boots);
    let blocked = night.batch.blocked.clone().unwrap();
    assert_eq!(blocked.by, BlockedBy::NeverServed);
    for told in [
        "3 machines in a row ended before they served",
        SHUT_DOWN,
        "its console says: step 1 [31mregistry: 429 Too Many Requests",
        "tried at 2026-03-01T02:02:30Z",
    ] {
        assert!(blocked.sentence.contains(told), "{}", blocked.sentence);
    }
    night.pass(12 * 3_600, never_boots);
    let launched: Vec<_> = night
        .machines
        .iter()
        .map(|m| m.seen.launched_at.duration_since(start()).as_secs())
        .collect();
    // Three at once, and then one after 2, 4, 8 and 16 minutes, each of which lives for half a minute.
    assert_eq!(launched, [0, 0, 0, 150, 420, 930, 1_920]);
    let Status::Failed { reason } = &night.batch.status else {
        panic!("{:?}", night.batch.status);
    };
    assert!(reason.contains("7 machines in a row"), "{reason}");
    assert!(reason.contains(SHUT_DOWN), "{reason}");
    let hold = holds_its_pool(&night.batch, &night.policy).unwrap();
    assert!(hold.contains("default-1 failed: 7 machines"), "{hold}");
}

#[test]
fn whatever_ends_a_machine_before_it_serves_counts_but_not_our_own_wish() {
    let reasons = [
        "Server.InternalError: Internal error on launch",
        "Client.UserInitiatedShutdown: User initiated shutdown",
        "Server.SpotInstanceTermination: Spot instance termination",
    ];
    let mut night = Night::new(3, policy(8));
    let mut next = reasons.iter();
    night.pass(60, |machine, now| {
        if machine.age(now) >= 30
            && let Some(reason) = next.next()
        {
            machine.end(reason);
        }
    });
    assert_eq!(night.machines.len(), 3, "paused");
    // Nobody needs machines that boot once the queue is empty.
    let mut night = Night::new(5, policy(8));
    night.pass(20, |_, _| {});
    night.tasks = 0;
    night.pass(60, |_, _| {});
    assert_eq!(night.batch.status, Status::Settled);
    assert_eq!(night.batch.breaker.failures, 0);
}

#[test]
fn a_machine_that_serves_ends_the_doubt() {
    let mut night = Night::new(3, policy(8));
    night.pass(120, never_boots);
    assert_eq!(night.batch.breaker.failures, 3);
    // The one that is tried comes up, and the others are bought.
    night.pass(180, |machine, now| {
        if machine.age(now) >= 30 {
            machine.worker = Some(WorkerState::Busy);
        }
    });
    assert_eq!(night.batch.breaker, Default::default());
    assert_eq!(night.batch.blocked, None);
    let alive = night.machines.iter().filter(|m| m.is_alive()).count();
    assert_eq!(alive, 3);
    assert_eq!(holds_its_pool(&night.batch, &night.policy), None);
}

#[test]
fn machines_that_reach_their_boot_limit_count_once() {
    let mut night = Night::new(1, policy(8));
    night.pass(4 * 3_600, |_, _| {});
    let breaker = &night.batch.breaker;
    assert!(night.machines.len() <= 7, "{}", night.machines.len());
    assert_eq!(
        breaker.failures as usize,
        night.machines.iter().filter(|m| !m.is_alive()).count()
    );
    let last = breaker.last.as_ref().unwrap();
    assert!(last.reason.contains("boot limit of 15m"), "{last:?}");
}

/// Serves after half a minute; in this zone EC2 takes it a minute later.
fn taken_in(zone: &str) -> impl FnMut(&mut Machine, Timestamp) {
    move |machine, now| {
        if machine.age(now) >= 30 {
            machine.worker = Some(WorkerState::Busy);
        }
        if machine.age(now) >= 90 && machine.seen.zone == zone {
            machine.worker = Some(WorkerState::Drained);
            machine.notice_at.get_or_insert(now + seconds(120));
        }
    }
}

#[test]
fn the_only_place_that_takes_each_machine_is_asked_less_and_less() {
    let mut policy = policy(1);
    policy.subnets.truncate(1);
    // Else the batch is given up in the longer pauses.
    policy.patience.blocked = std::time::Duration::MAX;
    let mut night = Night::new(1, policy);
    night.pass(4 * 3_600, taken_in(ZONES[0]));
    let launched = night.machines.iter().map(|m| m.seen.launched_at);
    let launched: Vec<_> = launched.collect();
    let gaps: Vec<_> = launched
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs() / 60)
        .collect();
    // A minute and a half of life, and 3, 6, 12, 24, 48 and 60 minutes after each notice.
    assert_eq!(gaps, [4, 7, 13, 25, 49, 61, 61]);
}

#[test]
fn a_place_that_takes_machines_is_left_for_others() {
    let mut night = Night::new(2, policy(2));
    night.pass(3_600, taken_in(ZONES[0]));
    let zones: Vec<_> = night.machines.iter().map(|m| &m.seen.zone).collect();
    assert_eq!(zones, [ZONES[0], ZONES[0], ZONES[1], ZONES[1]]);
    let penalty = &night.batch.penalties[0];
    assert_eq!(
        penalty.times, 1,
        "two that are taken at once are one reason"
    );
}

#[test]
fn a_machine_that_leaves_at_the_end_of_its_life_was_not_taken() {
    let mut night = Night::new(1, policy(1));
    let life = i64::try_from(night.policy.patience.life.as_secs()).unwrap();
    night.pass(life, |machine, now| {
        if machine.age(now) >= 30 {
            machine.worker.get_or_insert(WorkerState::Busy);
        }
        // The worker says when its time is up as it says when EC2 takes the machine.
        if machine.age(now) >= life - 120 {
            machine.worker = Some(WorkerState::Drained);
            machine.notice_at.get_or_insert(now + seconds(120));
        }
    });
    let zones: Vec<_> = night.machines.iter().map(|m| &m.seen.zone).collect();
    assert_eq!(zones, [ZONES[0], ZONES[0]], "the same place again");
    assert_eq!(night.batch.penalties, []);
}

#[test]
fn a_place_is_forgiven_slowly_and_remembered_by_the_next_batch() {
    let mut policy = policy(1);
    policy.subnets.truncate(1);
    let mut night = Night::new(1, policy);
    // Taken twice; then nobody needs a machine.
    night.pass(10 * 60, taken_in(ZONES[0]));
    assert_eq!(night.batch.penalties[0].times, 2);
    night.tasks = 0;
    night.pass(600, |_, _| {});
    assert_eq!(night.batch.status, Status::Settled);

    let next = |night: &Night, after: i64| {
        let wanted = wanted(1, night.now);
        let now = night.now + seconds(after);
        let batch = Batch::request(&night.policy.pool, Some(&night.batch), wanted, now).unwrap();
        let mut later = Night::new(1, night.policy.clone());
        (later.now, later.batch) = (now, batch);
        later.pass(300, taken_in(ZONES[0]));
        later.batch.penalties[0].times
    };
    for (after, times) in [(600, 3), (70 * 60, 2), (130 * 60, 1)] {
        assert_eq!(next(&night, after), times, "taken again {after} s later");
    }
}

/// Serves after half a minute, and is hinted with its first breath; nothing is ever taken.
fn hinted(machine: &mut Machine, now: Timestamp) {
    if machine.age(now) >= 30 {
        machine.worker.get_or_insert(WorkerState::Busy);
        machine.rebalance = true;
    }
}

#[test]
fn a_rebalance_hint_moves_nothing_and_the_next_machine_is_bought_elsewhere() {
    let mut night = Night::new(2, policy(4));
    night.pass(60, hinted);
    night.tasks = 3;
    night.pass(3_600, hinted);
    let zones: Vec<_> = night.machines.iter().map(|m| &m.seen.zone).collect();
    assert_eq!(zones, [ZONES[0], ZONES[0], ZONES[1]], "one for the task");
    assert!(night.machines.iter().all(Machine::is_alive));
    assert!(night.drained.is_empty());
}

#[test]
fn where_every_place_was_hinted_machines_are_bought_all_the_same() {
    let mut policy = policy(4);
    policy.subnets.truncate(1);
    let mut night = Night::new(1, policy);
    night.pass(120, hinted);
    night.tasks = 2;
    night.pass(60, hinted);
    assert_eq!(night.machines.len(), 2);
}

#[test]
fn a_pool_that_leaves_at_a_hint_drains_the_machine_and_buys_another_elsewhere() {
    let mut night = Night::new(1, policy(4));
    night.policy.leave_when_hinted = true;
    let only_the_first = |machine: &mut Machine, now: Timestamp| {
        hinted(machine, now);
        machine.rebalance &= machine.seen.zone == ZONES[0];
    };
    night.pass(60, only_the_first);
    night.tasks = 2;
    night.pass(60, only_the_first);
    let zones: Vec<_> = night.machines.iter().map(|m| &m.seen.zone).collect();
    assert_eq!(zones, [ZONES[0], ZONES[1]]);
    assert!(night.machines[0].is_alive(), "it ends what it has in hand");
    assert!(night.drained.contains(&"i-1".to_owned()), "it was told");
}

#[test]
fn a_successor_is_bought_at_the_notice_also_at_the_most() {
    let mut night = Night::new(2, policy(2));
    let mut noticed_at = None;
    night.pass(180, |machine, now| {
        if machine.age(now) >= 30 {
            machine.worker.get_or_insert(WorkerState::Busy);
        }
        if machine.seen.id == "i-1" && machine.age(now) >= 60 {
            machine.worker = Some(WorkerState::Drained);
            machine.notice_at.get_or_insert(now + seconds(120));
            noticed_at.get_or_insert(now);
        }
    });
    let successor = &night.machines[2];
    assert_eq!(Some(successor.seen.launched_at), noticed_at);
    assert_eq!(night.machines.len(), 3, "one for the one that goes");
}

#[test]
fn a_machine_that_renders_stays_however_long_listings_lose_it() {
    let mut night = Night::new(1, policy(2));
    night.pass(3_600, |machine, now| {
        if machine.age(now) >= 30 {
            machine.worker = Some(WorkerState::Busy);
        }
        machine.unlisted = machine.age(now) >= 60;
    });
    assert_eq!(night.batch.instances[0].state, InstanceState::Serving);
    assert_eq!(night.machines.len(), 1, "none was bought in its place");
    assert!(night.drained.is_empty());
}

#[test]
fn three_listings_in_a_row_without_a_machine_are_too_few_for_its_end() {
    let mut night = Night::new(1, policy(2));
    // It boots for long, and for a minute and a half no listing shows it.
    night.pass(600, |machine, now| {
        machine.unlisted = (300..390).contains(&machine.age(now));
    });
    assert_eq!(night.batch.instances[0].state, InstanceState::Booting);
    assert_eq!(night.machines.len(), 1);
}

#[test]
fn a_missing_machine_is_ended_by_its_id_before_it_counts_as_gone() {
    let mut night = Night::new(1, policy(1));
    let lost = |machine: &mut Machine, now: Timestamp| {
        machine.unlisted |= machine.seen.id == "i-1" && machine.age(now) >= 300;
    };
    night.pass(300 + 115, lost);
    assert_eq!(night.batch.instances[0].state, InstanceState::Booting);
    night.pass(15, lost);
    assert!(!night.machines[0].is_alive(), "it was ended by its id");
    assert!(matches!(
        night.batch.instances[0].state,
        InstanceState::Terminating {
            why: Leaving::Missing,
            called_at: Some(_),
            ..
        }
    ));
    night.pass(90, lost);
    assert_eq!(
        night.machines.len(),
        1,
        "it may still run: the pool is full"
    );
    night.pass(60, lost);
    assert!(matches!(
        night.batch.instances[0].state,
        InstanceState::Gone {
            ending: Ending::Terminated,
            ..
        }
    ));
    assert_eq!(night.machines.len(), 2);
    let last = night.batch.breaker.last.as_ref().unwrap();
    assert_eq!(last.reason, "no listing shows it any more");
}
