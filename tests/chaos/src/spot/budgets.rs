//! What two pools with one budget spend, and how many machines they buy.

use std::collections::{BTreeMap, BTreeSet};

use spotreel_bus::batches::RecordedBatch;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, InstanceState, Leaving, PoolName};
use spotreel_tests::Verdict;

use super::books::Books;
use super::market::CloudBill;
use super::pools::{self, BUDGET, KINDS};
use super::records::Story;

/// A run moves prices down to this part, and a launch is held against the prices of its moment.
const LEAST_PERCENT: u32 = 60;

/// By the cloud's own bill. A run is shorter than a day.
pub fn spent(stories: &[Story], bill: &CloudBill) -> Verdict {
    let mut verdict = Verdict::new(
        "spent",
        "the bill is within the budgets of batch, day and month",
    );
    let cost: BTreeMap<&str, i64> = bill
        .lines
        .iter()
        .map(|line| (line.instance_id.as_str(), line.micros))
        .collect();
    let mut all = 0;
    for story in stories {
        let instances = story.batch().instances.iter();
        let batch: i64 = instances.filter_map(|i| cost.get(i.id.as_str())).sum();
        all += batch;
        verdict.check(batch <= BUDGET.micros(), || {
            format!("{}: {batch} µ$", story.id)
        });
    }
    verdict.check(all <= BUDGET.micros(), || format!("all batches: {all} µ$"));
    verdict
}

/// At each launch, by what the records of both pools say at that moment. The log forgets the oldest events of a kind: where
/// one is missing since another pool's last, that pool's record is not known, and nothing is said of the launch.
pub fn hourly(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new(
        "hourly",
        "with each launch both pools together stay within their hourly budget",
    );
    let budget = pools::hourly(books.instances);
    let cheapest = KINDS
        .iter()
        .map(|(_, cents)| *cents)
        .min()
        .unwrap_or_default();
    let mut events: Vec<&RecordedBatch> = books.stories.iter().flat_map(|s| &s.events).collect();
    events.sort_by_key(|event| event.sequence);
    let mut newest: BTreeMap<&PoolName, &Batch> = BTreeMap::new();
    let pools: BTreeSet<&PoolName> = books.stories.iter().map(|s| &s.id.pool).collect();
    let (mut read_to, mut known_pools) = (0, BTreeSet::new());
    for event in events {
        let batch = &event.batch;
        let before = newest.insert(&batch.id.pool, batch);
        // Without the open launches: what those will cost is not known yet.
        let instances = newest.values().flat_map(|batch| &batch.instances);
        let runs: Usd = instances.filter(|i| !i.is_gone()).map(|i| i.rate).sum();
        if event.sequence != read_to + 1 {
            known_pools.clear();
        }
        read_to = event.sequence;
        known_pools.insert(&batch.id.pool);
        let before = before.filter(|before| before.id == batch.id);
        let known = |seq| before.is_some_and(|before| before.launch(seq).is_some());
        let fresh = batch
            .launches
            .iter()
            .find(|launch| launch.is_open() && !known(launch.seq));
        let Some(launch) = fresh else { continue };
        if known_pools != pools {
            continue;
        }
        let least = Usd::from_cents(cheapest).percent(LEAST_PERCENT);
        let asked = least.times(launch.units);
        verdict.check(runs + asked <= budget, || {
            format!(
                "launch {} of {} asks for {} machines while all cost {runs}/h of {budget}",
                launch.seq, batch.id, launch.units
            )
        });
    }
    verdict
}

/// What goes wrong with machines costs a bounded number of them.
pub fn bought(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new(
        "bought",
        "machines are bought for tasks, and no number of them for one",
    );
    let attempts: u32 = books
        .evidence
        .tasks
        .values()
        .filter_map(|story| story.last())
        .map(|last| last.task.attempts_total)
        .sum();
    // Each batch may begin with all of them, and what happens to one may call for another.
    let most = attempts as usize
        + books.instances as usize * books.stories.len()
        + books.book.accidents.len();
    let count = books.ours().count();
    verdict.check(count <= most, || format!("{count} machines, {most} may be"));
    verdict
}

/// No budget is used up in a run, also while nobody can read what was spent.
pub fn sent_home(stories: &[Story]) -> Verdict {
    let mut verdict = Verdict::new("home", "a spend that cannot be read sends no machine home");
    let instances = stories
        .iter()
        .flat_map(|story| story.events.iter().map(move |event| (&story.id, event)))
        .flat_map(|(id, event)| event.batch.instances.iter().map(move |i| (id, i)));
    for (id, instance) in instances {
        let for_money = matches!(
            instance.state,
            InstanceState::Draining {
                why: Leaving::Budget,
                ..
            } | InstanceState::Terminating {
                why: Leaving::Budget,
                ..
            }
        );
        verdict.check(!for_money, || {
            format!("{} of {id} leaves for money", instance.id)
        });
    }
    verdict
}
