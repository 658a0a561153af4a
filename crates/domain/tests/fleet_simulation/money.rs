//! Invariants about money, by the cloud's own bill.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::allocation::{AttemptRecord, BatchLedger, CostLines};
use spotreel_domain::batch::{
    Batch, FREE_IF_TAKEN_WITHIN, InstanceState, Leaving, Receipt, ReceiptLine,
};
use spotreel_domain::spend::{self, Periods, Spend};
use spotreel_domain::task::{Attempt, AttemptOutcome};
use spotreel_domain::{Model, TaskId, Usd};

use super::cloud::Habit;
use super::machine::{ADDRESS, PENDING, SHORTEST, VOLUME, Worked};
use super::world::World;

/// The longest step of a schedule while a batch is active: a controller decides so long after its listing.
const STEP: SignedDuration = SignedDuration::from_secs(15);
/// How long money is spent after a budget is used up, while a controller looks: it looks (15 s, and a step), a worker hands
/// its task back (in the simulation at once) or has been silent (three minutes, as patience has it), and the call to end it
/// is made again after half a minute where it was lost.
const REACTION: SignedDuration = SignedDuration::from_secs(5 * 60);

/// The same where prices have risen: a machine that no listing shows yet may be bought up to a minute before it is seen.
const HOURLY_REACTION: SignedDuration = SignedDuration::from_secs(6 * 60);

/// Worlds of which one has its ledgers made, twenty in a row so that all habits are among them: of 10,000, more than 1,000.
const ONE_LEDGER_IN: u64 = 7;

/// What all other batches have cost and cost now, as the service reads it.
pub fn spent(world: &World, pool: usize) -> Option<Spend> {
    if world.spend_unread_since.is_some() {
        return None;
    }
    let ended = world.pools.iter().flat_map(|pool| &pool.log.ended);
    let own = &world.pools[pool].policy.pool;
    let others = world.active().filter(|batch| batch.id.pool != *own);
    Some(spend::spend(ended.chain(others), world.now))
}

/// I15: the rate stays within the budget of an hour; once prices have moved, within the reaction time.
pub fn rate_holds(world: &mut World) {
    let rate = world.cloud.rate(world.now);
    world.peak_rate = world.peak_rate.max(rate);
    let budgets = world.pools.iter().filter_map(|p| p.policy.budget.per_hour);
    let Some(cap) = budgets.min().filter(|cap| rate > *cap) else {
        world.over_since = None;
        return;
    };
    assert!(!world.still, "I15: {rate}/h of {cap}; {}", world.story());
    let since = *world.over_since.get_or_insert(world.now);
    let unwatched = world.pools.iter().map(|pool| {
        let gap = world.now.duration_since(pool.priced_at);
        gap.max(pool.longest_unpriced)
    });
    let late = HOURLY_REACTION + unwatched.max().unwrap_or_default();
    assert!(
        world.now.duration_since(since) <= late,
        "I15: {rate}/h of {cap} since {since}, {late} may be; {}",
        world.story()
    );
}

/// I21: what trigger asks for fits into the budget of an hour, beside what runs and what it has asked for in other pools.
pub fn requests_are_paid_for(world: &World, pool: usize) {
    let budget = &world.pools[pool].policy.budget;
    let least = world.cloud.prices.spot.values().min();
    let (Some(cap), Some(least)) = (budget.per_hour, least) else {
        return;
    };
    let is_next = |batch: &&Batch| batch.launches.is_empty() && batch.blocked.is_none();
    let asked: u32 = world.active().filter(is_next).map(|b| b.units).sum();
    let rate = spend::rate(world.active()) + least.times(asked);
    assert!(
        rate <= cap,
        "I21: {rate}/h of {cap} is asked for; {}",
        world.story()
    );
}

/// I15: the bill stays within the other budgets, within the reaction time.
pub fn budgets_hold(world: &World) {
    let periods = Periods::at(world.now);
    let billed = |since| world.cloud.bill(since, world.now);
    for pool in &world.pools {
        let budget = &pool.policy.budget;
        let newest = pool.log.newest.as_ref();
        let batch = newest.map(|batch| batch.id.to_string());
        let of_batch = || batch.map(|id| world.cloud.bill_of(&id, world.now));
        let unwatched = world.now.duration_since(pool.decided_at);
        let span = REACTION + unwatched.max(pool.longest_gap);
        let late = world.peak_rate.per_hour_for(span.unsigned_abs());
        let spent = [
            ("batch", budget.per_batch, of_batch().unwrap_or_default()),
            ("day", budget.per_day, billed(periods.day)),
            ("month", budget.per_month, billed(periods.month)),
        ];
        for (name, cap, spent) in spent {
            assert!(
                cap.is_none_or(|cap| spent <= cap + late),
                "I15: {spent} in a {name} of {cap:?} and {late}; {}",
                world.story()
            );
        }
    }
}

/// I16: a spend that can't be read blocks launches, and sends nobody home.
pub fn unread_spend_changes_nothing(world: &World, pool: usize, before: &Batch, after: &Batch) {
    let budget = &world.pools[pool].policy.budget;
    if !budget.count_all_pools() || world.spend_unread_since.is_none() {
        return;
    }
    let fresh = after
        .launches
        .iter()
        .find(|l| before.launch(l.seq).is_none());
    assert!(
        fresh.is_none(),
        "I16: {fresh:?} is planned; {}",
        world.story()
    );
    // What this batch alone has cost is known.
    if budget.per_batch.is_some() {
        return;
    }
    let goes = |state: &InstanceState| {
        matches!(
            state,
            InstanceState::Draining {
                why: Leaving::Budget,
                ..
            }
        )
    };
    for instance in after.instances.iter().filter(|i| goes(&i.state)) {
        let went = before
            .instance(&instance.id)
            .is_some_and(|i| goes(&i.state));
        assert!(went, "I16: {} is sent home; {}", instance.id, world.story());
    }
}

/// I20: what EC2 takes within its first hour is free only if EC2 ends it.
pub fn refund_is_kept(world: &World, id: &str) {
    let machine = &world.cloud.machines[id];
    let taken_at = machine.notice_at.filter(|at| *at > world.now);
    let is_free = taken_at.is_some_and(|at| at < machine.launched_at + FREE_IF_TAKEN_WITHIN);
    let batches = world.pools.iter().filter_map(|p| p.log.newest.as_ref());
    let state = batches.into_iter().find_map(|batch| batch.instance(id));
    let for_that = state.is_some_and(|i| {
        matches!(
            i.state,
            InstanceState::Terminating {
                why: Leaving::Interruption,
                ..
            }
        )
    });
    assert!(
        !is_free || !for_that,
        "I20: {id} is ended, and EC2 would take it at {taken_at:?}; {}",
        world.story()
    );
}

/// I17: where prices stand still, a receipt is the cloud's bill to the cent.
pub fn receipt_is_the_bill(world: &World, batch: &Batch) {
    // Of a machine that no listing shows, the end is not known.
    if !world.still || world.cloud.habit == Habit::Unlisted {
        return;
    }
    let receipt = Receipt::of(batch, world.now);
    let bill = world.cloud.bill_of(&batch.id.to_string(), Timestamp::MAX);
    // When a machine left `pending`, and when its volume went, EC2 tells nobody: a listing shows it. Nor does it tell whether
    // one that was ended by a call had run: then the minute is counted, and not billed. A bill is the larger one only by the
    // moment from a listing that shows a machine `pending` to the decision on it.
    let pool = world.pools.iter().find(|p| p.policy.pool == batch.id.pool);
    let gap = pool.map_or(SignedDuration::ZERO, |pool| pool.longest_gap);
    let late = (VOLUME + ADDRESS).per_hour_for(gap.unsigned_abs());
    let unknown = |line: &ReceiptLine| {
        let machine = &world.cloud.machines[&line.instance];
        let runs_at = machine.launched_at + PENDING;
        let counted = match machine.told_to_end_at.is_some_and(|at| at < runs_at) {
            true => PENDING + SHORTEST,
            false => PENDING,
        };
        machine.prices[0].1.per_hour_for(counted.unsigned_abs()) + late
    };
    let unknown: Usd = receipt.lines.iter().map(unknown).sum();
    let pending = |line: &ReceiptLine| {
        let price = world.cloud.machines[&line.instance].prices[0].1;
        price.per_hour_for(STEP.unsigned_abs())
    };
    let pending: Usd = receipt.lines.iter().map(pending).sum();
    let cent = Usd::from_cents(1);
    assert!(
        bill < receipt.total + cent + pending && receipt.total < bill + cent + unknown,
        "I17: a receipt of {} and a bill of {bill}: {}; {}",
        receipt.total,
        lines(world, &receipt),
        world.story()
    );
}

/// I22: what instances and tasks cost adds up to the receipt, to the micro-dollar, whatever became of them.
pub fn ledger_is_the_receipt(world: &World, batch: &Batch) {
    if !(world.seed / 20).is_multiple_of(ONE_LEDGER_IN) {
        return;
    }
    let receipt = Receipt::of(batch, world.now);
    let records = batch.instances.iter().flat_map(|one| {
        let worked = world.cloud.machines[&one.id].worked.iter();
        let record = |(number, worked): (u32, &Worked)| attempt(&one.id, number, *worked);
        (1..).zip(worked).map(record)
    });
    let ledger = BatchLedger::of(batch, records.collect(), world.now);
    let tasks: CostLines = ledger.tasks.iter().map(|task| task.lines).sum();
    let cells: CostLines = ledger.cells.iter().map(|cell| cell.lines).sum();
    let unallocated = ledger.unallocated;
    assert_eq!(
        [ledger.total, (tasks + unallocated).total(), cells.total()],
        [receipt.total; 3],
        "I22: ledger, tasks and days, and the receipt; {}",
        world.story()
    );
    assert!(
        unallocated == CostLines::default() || ledger.tasks.is_empty(),
        "I22: {unallocated:?} is paid by nobody; {}",
        world.story()
    );
    for line in &ledger.instances {
        let of = receipt.lines.iter().find(|of| of.instance == line.instance);
        assert_eq!(of.map(|of| of.cost), Some(line.total), "I22: {line:?}");
    }
}

fn attempt(instance: &str, number: u32, worked: Worked) -> AttemptRecord {
    AttemptRecord {
        task: TaskId::parse(&format!("{instance}-{number}")).expect("it is plain"),
        born: 0,
        number: 1,
        owner: None,
        model: Model::Ti2v5b,
        steps: 20,
        labels: BTreeMap::new(),
        attempt: Attempt {
            worker: "w".into(),
            instance: instance.into(),
            started_at: worked.from,
            ended_at: worked.to,
            outcome: match (worked.to, worked.done) {
                (None, _) => AttemptOutcome::Running,
                (_, true) => AttemptOutcome::Succeeded,
                (_, false) => AttemptOutcome::Lost,
            },
            from_step: 0,
            rendering_at: None,
            steps_done: None,
            error: None,
        },
        next: None,
    }
}

fn lines(world: &World, receipt: &Receipt) -> String {
    let each = receipt.lines.iter().map(|line| {
        let machine = &world.cloud.machines[&line.instance];
        let bill = machine.bill(Timestamp::MIN, Timestamp::MAX);
        format!("{} {} of {bill}", line.instance, line.cost)
    });
    each.collect::<Vec<_>>().join(", ")
}
