//! Every micro-dollar of a batch is in one line of one instance and of one task, whatever happens to its instances.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use spotreel_domain::allocation::{AttemptRecord, BatchLedger, CostLines, NextAttempt, TimeSplit};
use spotreel_domain::batch::{Batch, Ending, Instance, InstanceState, Receipt, Status};
use spotreel_domain::fleet::cloud::Lifecycle;
use spotreel_domain::task::{Attempt, AttemptOutcome, Failure, FailureKind};
use spotreel_domain::{Model, Owner, TaskId, Usd};

use scene::{ZONES, at, requested};

/// $0.36 an hour: 100 micro-dollars a second.
const PRICE: Usd = Usd::from_micros(360_000);
const SECOND: i64 = 100;

/// An instance that ran from second 0 and was ready at second 100.
fn instance(id: &str, ended_at: i64) -> Instance {
    let place = scene::place(ZONES[0]);
    let mut one = Instance::bought(id.to_owned(), place, Lifecycle::Spot, 1, at(0), PRICE);
    one.usage.pending = false;
    one.usage.began_at = Some(at(0));
    one.ready_at = Some(at(100));
    one.usage.left_at = Some(at(ended_at));
    one.usage.gone_at = Some(at(ended_at));
    one.bill(at(ended_at));
    one.state = InstanceState::Gone {
        ending: Ending::Terminated,
        at: at(ended_at),
    };
    one
}

fn settled(instances: Vec<Instance>) -> Batch {
    let mut batch = requested(1, at(0));
    let end = instances.iter().map(|one| one.billed_to).max();
    batch.ended_at = Some(end.unwrap_or(at(0)));
    batch.status = Status::Settled;
    batch.instances = instances;
    batch
}

fn attempt(
    task: &str,
    on: &str,
    from: i64,
    to: Option<i64>,
    outcome: AttemptOutcome,
) -> AttemptRecord {
    AttemptRecord {
        task: TaskId::parse(task).unwrap(),
        born: 1,
        number: 1,
        owner: None,
        model: Model::Ti2v5b,
        steps: 20,
        labels: BTreeMap::new(),
        attempt: Attempt {
            worker: "w".into(),
            instance: on.into(),
            started_at: at(from),
            ended_at: to.map(at),
            outcome,
            from_step: 0,
            rendering_at: None,
            steps_done: None,
            error: None,
        },
        next: None,
    }
}

fn micros(lines: &CostLines) -> Vec<(&'static str, i64)> {
    let each = lines.each().into_iter();
    each.map(|(name, amount)| (name, amount.micros()))
        .filter(|(_, micros)| *micros != 0)
        .collect()
}

#[test]
fn an_instance_is_divided_by_what_it_did() {
    let mut load = attempt("a", "i-1", 110, Some(300), AttemptOutcome::Succeeded);
    load.attempt.rendering_at = Some(at(150));
    let batch = settled(vec![instance("i-1", 400)]);
    let ledger = BatchLedger::of(&batch, vec![load], at(9_999));
    assert_eq!(
        micros(&ledger.instances[0].lines),
        [
            ("boot", 100 * SECOND),
            ("load", 40 * SECOND),
            ("rendering", 150 * SECOND),
            ("idle", 110 * SECOND),
        ]
    );
    assert_eq!(
        ledger.tasks[0].lines, ledger.lines,
        "the only task pays all"
    );
    assert_eq!(ledger.unallocated, CostLines::default());
    let own = &ledger.tasks[0].attempts[0];
    assert_eq!(
        own.total.micros(),
        190 * SECOND,
        "an attempt pays its own time"
    );
}

#[test]
fn tasks_share_what_belongs_to_none_by_their_rendering_time() {
    let batch = settled(vec![instance("i-1", 400)]);
    let records = vec![
        attempt("a", "i-1", 100, Some(300), AttemptOutcome::Succeeded),
        attempt("b", "i-1", 300, Some(400), AttemptOutcome::Failed),
    ];
    let ledger = BatchLedger::of(&batch, records, at(400));
    let shares: Vec<_> = ledger
        .tasks
        .iter()
        .map(|task| micros(&task.lines))
        .collect();
    // 10,000 micro-dollars of boot, two to one: of equal remainders none, so the larger one is rounded up.
    assert_eq!(shares[0], [("boot", 6_667), ("rendering", 200 * SECOND)]);
    assert_eq!(shares[1], [("boot", 3_333), ("rendering", 100 * SECOND)]);
}

#[test]
fn an_interruption_wastes_what_the_next_attempt_does_again() {
    let next = |from_step| {
        Some(NextAttempt {
            from_step,
            started_at: at(210),
        })
    };
    let error = Some(Failure {
        kind: FailureKind::Storage,
        message: String::new(),
    });
    type Change<'a> = &'a dyn Fn(&mut AttemptRecord);
    // Of 100 seconds of work: what was done, and what was of use.
    let cases: [(&str, AttemptOutcome, Change<'_>, i64); 10] = [
        (
            "ten steps done, all kept",
            AttemptOutcome::Interrupted,
            &|one| {
                (one.attempt.rendering_at, one.attempt.steps_done, one.next) =
                    (Some(at(100)), Some(10), next(10));
            },
            100,
        ),
        (
            "ten steps done, six kept",
            AttemptOutcome::Lost,
            &|one| {
                (one.attempt.rendering_at, one.attempt.steps_done, one.next) =
                    (Some(at(100)), Some(10), next(6));
            },
            60,
        ),
        (
            "nothing kept",
            AttemptOutcome::Interrupted,
            &|one| {
                (one.attempt.rendering_at, one.attempt.steps_done, one.next) =
                    (Some(at(100)), Some(10), next(0));
            },
            0,
        ),
        (
            "how far it came is not known, and the task is not done",
            AttemptOutcome::Lost,
            &|one| {
                one.next = next(6);
            },
            100,
        ),
        (
            "handed back with a checkpoint that nobody has used yet",
            AttemptOutcome::Interrupted,
            &|_| {},
            100,
        ),
        (
            "handed back with an error",
            AttemptOutcome::Interrupted,
            &|one| {
                one.attempt.error.clone_from(&error);
            },
            0,
        ),
        ("lost", AttemptOutcome::Lost, &|_| {}, 0),
        (
            "lost, and nobody has said so yet",
            AttemptOutcome::Running,
            &|one| {
                one.attempt.ended_at = None;
            },
            0,
        ),
        (
            "the next one began after the batch",
            AttemptOutcome::Lost,
            &|one| {
                one.next = Some(NextAttempt {
                    from_step: 6,
                    started_at: at(999),
                });
            },
            0,
        ),
        ("failed", AttemptOutcome::Failed, &|_| {}, 100),
    ];
    for (name, outcome, change, useful) in cases {
        let batch = settled(vec![instance("i-1", 200)]);
        let mut record = attempt("a", "i-1", 100, Some(200), outcome);
        change(&mut record);
        let mut batch = batch;
        batch.ended_at = Some(at(300));
        let ledger = BatchLedger::of(&batch, vec![record], at(300));
        let lines = ledger.instances[0].lines;
        let expected = (useful * SECOND, (100 - useful) * SECOND);
        let found = (lines.rendering.micros(), lines.interrupted.micros());
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn how_far_a_lost_attempt_came_follows_from_the_one_that_finished() {
    let mut lost = attempt("a", "i-1", 100, Some(200), AttemptOutcome::Lost);
    lost.next = Some(NextAttempt {
        from_step: 5,
        started_at: at(200),
    });
    let mut done = attempt("a", "i-2", 200, Some(500), AttemptOutcome::Succeeded);
    (done.number, done.attempt.from_step) = (2, 5);
    let batch = settled(vec![instance("i-1", 200), instance("i-2", 500)]);
    let ledger = BatchLedger::of(&batch, vec![done, lost], at(500));
    // 15 steps in 300 seconds: the five that were kept took 100.
    let lines = ledger.instances[0].lines;
    assert_eq!(
        (lines.rendering.micros(), lines.interrupted.micros()),
        (10_000, 0)
    );
    assert_eq!(ledger.tasks.len(), 1);
    assert_eq!(ledger.tasks[0].attempts.len(), 2);
}

#[test]
fn a_free_first_hour_is_a_credit_that_cancels_each_line() {
    let mut taken = instance("i-1", 400);
    taken.usage.taken = true;
    taken.usage.volume = Usd::from_micros(11_111);
    let batch = settled(vec![taken]);
    let record = attempt("a", "i-1", 100, Some(300), AttemptOutcome::Interrupted);
    let ledger = BatchLedger::of(&batch, vec![record], at(400));
    assert_eq!(
        micros(&ledger.lines),
        [
            ("boot", 100 * SECOND),
            ("rendering", 200 * SECOND),
            ("idle", 100 * SECOND),
            ("volume", 1_235),
            ("credit", -400 * SECOND),
        ]
    );
    assert_eq!(ledger.total, Receipt::of(&batch, at(400)).total);
    assert_eq!(ledger.total.micros(), 1_235);
    let own = &ledger.tasks[0].attempts[0];
    assert_eq!(own.total, Usd::ZERO);
}

#[test]
fn what_no_task_can_pay_is_said() {
    let batch = settled(vec![instance("i-1", 400)]);
    let elsewhere = attempt("a", "i-9", 100, Some(300), AttemptOutcome::Succeeded);
    let ledger = BatchLedger::of(&batch, vec![elsewhere], at(400));
    assert_eq!(ledger.tasks, []);
    assert_eq!(ledger.unallocated, ledger.lines);
    assert_eq!(ledger.total.micros(), 400 * SECOND);
    assert_eq!(ledger.cells.len(), 1);
    assert_eq!(ledger.cells[0].model, None);
}

#[test]
fn the_order_and_the_number_of_records_change_nothing() {
    let batch = settled(vec![instance("i-1", 400)]);
    let ended = attempt("a", "i-1", 100, Some(300), AttemptOutcome::Interrupted);
    let mut started = ended.clone();
    (started.attempt.ended_at, started.attempt.outcome) = (None, AttemptOutcome::Running);
    let mut followed = ended.clone();
    followed.next = Some(NextAttempt {
        from_step: 0,
        started_at: at(310),
    });
    let expected = BatchLedger::of(&batch, vec![followed.clone()], at(400));
    assert!(expected.lines.interrupted.is_positive());
    let records = [started, ended, followed];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let records = order.map(|index: usize| records[index].clone()).to_vec();
        assert_eq!(BatchLedger::of(&batch, records, at(9_999)), expected);
    }
}

// Random batches.

const BATCHES: u64 = 1_000;

/// A random batch, its attempts, and what the cloud charges for each of its instances.
struct Random {
    rng: StdRng,
    batch: Batch,
    records: Vec<AttemptRecord>,
    bill: Usd,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self {
            rng: StdRng::seed_from_u64(seed),
            batch: requested(1, at(0)),
            records: Vec::new(),
            bill: Usd::ZERO,
        };
        let instances = random.rng.random_range(0..12);
        for number in 0..instances {
            random.instance(&format!("i-{number}"));
        }
        random.hand_on();
        if random.rng.random_bool(0.9) {
            let last = random.batch.instances.iter().map(|one| one.billed_to).max();
            random.batch.ended_at = Some(last.unwrap_or(at(0)));
            random.batch.status = Status::Settled;
        }
        random
    }

    fn span(&mut self, seconds: std::ops::Range<i64>) -> SignedDuration {
        SignedDuration::from_millis(
            self.rng
                .random_range(seconds.start * 1_000..seconds.end * 1_000),
        )
    }

    fn instance(&mut self, id: &str) {
        let launched_at = at(0) + self.span(0..200_000);
        let pending = self.span(0..40);
        let began_at = launched_at + pending;
        let lifecycle = match self.rng.random_bool(0.8) {
            true => Lifecycle::Spot,
            false => Lifecycle::OnDemand,
        };
        let ran = self.span(0..9_000);
        let left_at = began_at + ran;
        let gone_at = left_at + self.span(0..90);
        let place = scene::place(ZONES[self.rng.random_range(0..ZONES.len())]);
        let price = Usd::from_micros(self.rng.random_range(1..2_000_000));
        let mut one = Instance::bought(id.to_owned(), place, lifecycle, 1, launched_at, price);
        one.usage.volume = Usd::from_micros(self.rng.random_range(0..50_000));
        one.usage.address = Usd::from_micros(self.rng.random_range(0..6_000));
        one.usage.pending = self.rng.random_bool(0.2);
        one.usage.began_at = Some(began_at);
        one.billed_to = began_at;
        // A price that changes while it runs.
        for _ in 0..self.rng.random_range(0..3) {
            let to = one.billed_to + self.span(0..2_000);
            if to < left_at {
                one.bill(to);
                one.rate = Usd::from_micros(self.rng.random_range(1..2_000_000));
            }
        }
        (one.usage.left_at, one.usage.gone_at) = (Some(left_at), Some(gone_at));
        one.usage.taken = self.rng.random_bool(0.3);
        one.bill(left_at);
        one.state = InstanceState::Gone {
            ending: Ending::Terminated,
            at: gone_at,
        };
        if self.rng.random_bool(0.8) {
            one.ready_at = Some(began_at + self.span(20..900));
            self.work_on(id, began_at, left_at);
        }
        self.bill += charged(&one, ran.unsigned_abs(), gone_at);
        self.batch.instances.push(one);
    }

    /// Attempts one after the other, each of which may overlap the next one and outlive its instance.
    fn work_on(&mut self, id: &str, from: Timestamp, to: Timestamp) {
        let mut now = from + self.span(10..1_000);
        while now < to && self.rng.random_bool(0.95) {
            let ended_at = now + self.span(1..900);
            let outcome = match self.rng.random_range(0..10) {
                0 | 1 => AttemptOutcome::Interrupted,
                2 => AttemptOutcome::Lost,
                3 => AttemptOutcome::Running,
                4 => AttemptOutcome::Failed,
                5 => AttemptOutcome::Cancelled,
                _ => AttemptOutcome::Succeeded,
            };
            let name = format!("t-{}", self.rng.random_range(0..30));
            let mut record = attempt(&name, id, 0, None, outcome);
            record.number = u32::try_from(self.records.len()).unwrap();
            let team = ["films", "ads", ""][self.rng.random_range(0..3)];
            record.owner = Owner::parse(team).ok();
            record.labels = [("team".to_owned(), team.to_owned())].into();
            record.attempt.started_at = now;
            let is_open = outcome == AttemptOutcome::Running;
            record.attempt.ended_at = (!is_open).then_some(ended_at);
            if self.rng.random_bool(0.6) {
                record.attempt.rendering_at = Some(now + self.span(0..200));
                record.attempt.steps_done = Some(self.rng.random_range(0..21));
            }
            record.attempt.from_step = self.rng.random_range(0..10);
            self.records.push(record);
            let overlap = self.span(0..60);
            now = (ended_at - overlap).max(now + SignedDuration::from_millis(1));
        }
    }

    /// Tells of some attempts where the next one went on.
    fn hand_on(&mut self) {
        for index in 0..self.records.len() {
            if self.rng.random_bool(0.7) {
                let attempt = &self.records[index].attempt;
                let started_at = attempt.ended_at.unwrap_or(attempt.started_at);
                self.records[index].next = Some(NextAttempt {
                    from_step: self.rng.random_range(0..21),
                    started_at: started_at + self.span(0..3_000),
                });
            }
        }
    }
}

/// As AWS publishes its rules, from nothing but times and prices.
fn charged(one: &Instance, ran: Duration, gone_at: Timestamp) -> Usd {
    let minute = Duration::from_secs(60);
    let there = Duration::try_from(gone_at.duration_since(one.launched_at)).unwrap();
    let presence = one.usage.volume.per_hour_for(there.max(minute))
        + one.usage.address.per_hour_for(there.max(minute));
    let failed_launch = one.usage.pending && one.ready_at.is_none();
    let is_free =
        one.lifecycle == Lifecycle::Spot && one.usage.taken && ran < Duration::from_secs(3_600);
    if failed_launch || is_free {
        return presence;
    }
    presence + one.cost.max(one.rate.per_hour_for(minute))
}

fn sum(lines: impl Iterator<Item = CostLines>) -> Usd {
    lines.sum::<CostLines>().total()
}

#[test]
fn tasks_instances_and_days_add_up_to_the_bill_in_random_batches() {
    let mut interrupted = 0;
    let mut credited = 0;
    let mut unallocated = 0;
    for seed in 0..BATCHES {
        let Random {
            batch,
            records,
            bill,
            ..
        } = Random::new(seed);
        let now = at(400_000);
        let ledger = BatchLedger::of(&batch, records, now);
        let receipt = Receipt::of(&batch, now);
        assert_eq!(ledger.total, bill, "the bill, seed {seed}");
        assert_eq!(ledger.total, receipt.total, "the receipt, seed {seed}");
        assert_eq!(ledger.lines.total(), ledger.total, "seed {seed}");

        let tasks = sum(ledger.tasks.iter().map(|task| task.lines));
        assert_eq!(
            tasks + ledger.unallocated.total(),
            bill,
            "tasks, seed {seed}"
        );
        let instances = sum(ledger.instances.iter().map(|one| one.lines));
        assert_eq!(instances, bill, "instances, seed {seed}");
        let cells = sum(ledger.cells.iter().map(|cell| cell.lines));
        assert_eq!(cells, bill, "days, seed {seed}");
        for (line, of) in ledger.instances.iter().zip(sorted(&receipt)) {
            assert_eq!((&line.instance, line.total), (&of.0, of.1), "seed {seed}");
            let ran = batch.instance(&line.instance).unwrap().ran_by(now);
            let ran = u64::try_from(ran.as_millis()).unwrap();
            assert!(
                line.time.total_ms().abs_diff(ran) <= 1,
                "seed {seed}: {line:?}"
            );
            let credit = line.lines.credit;
            assert!(!credit.is_positive(), "seed {seed}");
            credited += u32::from(credit != Usd::ZERO);
        }
        let mut attempts = TimeSplit::default();
        for task in &ledger.tasks {
            assert_eq!(task.total, task.lines.total(), "seed {seed}");
            for one in &task.attempts {
                attempts += one.time;
                let own = one.lines.load + one.lines.rendering + one.lines.interrupted;
                assert_eq!(one.total, own + one.lines.credit, "seed {seed}");
            }
        }
        let mut all = TimeSplit::default();
        ledger.instances.iter().for_each(|line| all += line.time);
        assert_eq!(attempts.rendering_ms, all.rendering_ms, "seed {seed}");
        assert_eq!(attempts.interrupted_ms, all.interrupted_ms, "seed {seed}");
        interrupted += u32::from(all.interrupted_ms > 0);
        unallocated += u32::from(ledger.unallocated != CostLines::default());
    }
    assert!(interrupted > 500, "{interrupted} batches with wasted work");
    assert!(credited > 200, "{credited} instances with a credit");
    assert!(unallocated > 10, "{unallocated} batches without a task");
}

fn sorted(receipt: &Receipt) -> Vec<(String, Usd)> {
    let lines = receipt.lines.iter();
    let mut lines: Vec<_> = lines
        .map(|line| (line.instance.clone(), line.cost))
        .collect();
    lines.sort();
    lines
}
