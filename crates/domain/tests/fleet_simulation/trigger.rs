//! Trigger of one pool, as the service is one: read, decide, ask for a batch, write the mode down.

use std::collections::VecDeque;

use jiff::Timestamp;
use spotreel_domain::batch::{Batch, PoolName, Status};
use spotreel_domain::fleet::observation::Quota;
use spotreel_domain::fleet::offers;
use spotreel_domain::spend::{self, Reserved};
use spotreel_domain::trigger::{ModeState, Past, PriceSummary, Prices, Verdict, View, decide};

use super::cloud::seconds;
use super::machine::TASK;
use super::money;
use super::world::World;

#[derive(Default)]
pub struct Trigger {
    /// Within the last hour.
    arrivals: VecDeque<(Timestamp, u64)>,
    oldest: Option<Timestamp>,
    looks_at: Option<Timestamp>,
}

impl Trigger {
    pub fn came(&mut self, now: Timestamp, count: u64) {
        if count > 0 {
            self.arrivals.push_back((now, count));
        }
        let old = |(at, _): &(Timestamp, u64)| *at + seconds(3_600) <= now;
        while self.arrivals.front().is_some_and(old) {
            self.arrivals.pop_front();
        }
    }

    pub fn step(&mut self, world: &mut World, pool: usize) {
        let name = world.pools[pool].policy.pool.to_string();
        let waits = world.cloud.queues[&name].queued > 0;
        self.oldest = waits.then(|| self.oldest.unwrap_or(world.now));
        if self.looks_at.is_some_and(|at| at > world.now) {
            return;
        }
        self.looks_at = Some(world.now + seconds(5));
        // Then a look of it fails.
        if world.blind || world.spend_unread_since.is_some() {
            return;
        }
        let view = self.view(world, pool);
        let decision = decide(&view, &world.pools[pool].rules, world.now);
        let (now, mode) = (world.now, &decision.mode);
        let this = &mut world.pools[pool];
        if mode.changed {
            this.mode = ModeState {
                mode: mode.mode,
                since: Some(now),
            };
        }
        this.keep_changes += u32::from(this.keep != mode.resident_units);
        this.keep = mode.resident_units;
        let Verdict::Launch(fire) = decision.verdict else {
            return;
        };
        world.tell(|| format!("trigger, pool {pool}: {}", fire.why));
        world.request(pool, fire.rule.as_str(), fire.units);
        money::requests_are_paid_for(world, pool);
    }

    fn view(&self, world: &World, pool: usize) -> View {
        let this = &world.pools[pool];
        let name = this.policy.pool.as_str();
        let load = world.workload(pool).map(|(_, load)| load);
        let can = load.as_ref().map_or(u64::MAX, |load| load.tasks);
        let queued = world.cloud.queues[name].queued.min(can);
        let ended = world.pools.iter().flat_map(|pool| &pool.log.ended);
        let all = ended.chain(world.active());
        View {
            queued,
            work: (queued + world.cloud.rendering(name)).min(can),
            oldest_queued_at: self.oldest,
            past: past(&this.log.ended, this.log.newest.as_ref()),
            active_batch: world
                .active()
                .find(|b| b.id.pool == this.policy.pool)
                .map(|b| b.id.to_string()),
            prices: Prices::Known(market(world, pool)),
            spend: spend::spend(all, world.now),
            reserved: reserved(world, pool),
            unrenderable: load.and_then(|load| load.unrenderable),
            seconds_per_task: Some(TASK.as_secs_f64()),
            arrivals_per_hour: self.arrivals.iter().map(|(_, count)| count).sum(),
            mode: this.mode,
            resident_units: this.keep,
            ..View::empty()
        }
    }
}

fn reserved(world: &World, pool: usize) -> Reserved {
    let own = &world.pools[pool].policy.pool;
    let cap = |name: &PoolName| {
        let mut pools = world.pools.iter();
        let kinds = pools.find(|pool| pool.policy.pool == *name);
        let kinds = kinds.map(|pool| &pool.policy.kinds).into_iter().flatten();
        kinds.map(|kind| kind.cap).max().unwrap_or_default()
    };
    spend::reserved(world.active().filter(|batch| batch.id.pool != *own), cap)
}

fn past(ended: &[Batch], newest: Option<&Batch>) -> Past {
    let never_served = |batch: &&Batch| {
        batch.first_ready_at.is_none()
            && batch.stop.is_none()
            && matches!(batch.status, Status::Failed { .. })
    };
    let failed: Vec<_> = ended.iter().rev().take_while(never_served).collect();
    Past {
        requested_at: newest.map(|batch| batch.requested_at),
        served_at: ended.iter().rev().find_map(|batch| batch.first_ready_at),
        failed_in_row: u32::try_from(failed.len()).expect("few"),
        failed_at: failed.first().and_then(|batch| batch.ended_at),
        ..Past::default()
    }
}

fn market(world: &World, pool: usize) -> PriceSummary {
    let this = &world.pools[pool];
    let penalties = this
        .log
        .newest
        .as_ref()
        .map_or(&[][..], |batch| &batch.penalties);
    offers::summary(
        &this.policy,
        penalties,
        &world.cloud.prices,
        &Quota::default(),
        world.now,
        world.now,
    )
}
