//! What stands at a time: the cloud, the pools with their logs, and what can't be read now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use spotreel_domain::batch::{Batch, Instance, PoolName, Status, Wanted};
use spotreel_domain::fleet::cloud::Template;
use spotreel_domain::fleet::policy::{Patience, Policy};
use spotreel_domain::trigger::{ModeState, Rules, Sizing};

use spotreel_domain::pool::{self as config, PoolConfig};
use spotreel_domain::render_time::Corrections;
use spotreel_domain::workload::{Demand, Workload};
use spotreel_domain::{Model, Usd};

use super::cloud::{Cloud, Habit};
use super::money;
use super::scene::{self, kind, kind_config, wanted};

pub struct World {
    pub seed: u64,
    pub began: Timestamp,
    pub now: Timestamp,
    pub rng: StdRng,
    pub cloud: Cloud,
    pub pools: Vec<Pool>,
    /// Queue, workers and prices can't be read.
    pub blind: bool,
    /// Since when it can't be read what was spent.
    pub spend_unread_since: Option<Timestamp>,
    /// No price has moved yet.
    pub still: bool,
    /// The most that all machines cost an hour.
    pub peak_rate: Usd,
    /// Since when they cost more than the budget of an hour, and no price has moved.
    pub over_since: Option<Timestamp>,
}

pub struct Pool {
    pub policy: Policy,
    pub rules: Rules,
    /// Of its tasks. None: every instance type can render all of them.
    pub models: Vec<Model>,
    pub log: Log,
    /// Frozen requests that were durable at some time.
    pub intents: BTreeSet<String>,
    /// As trigger has marked it.
    pub mode: ModeState,
    pub keep: u32,
    pub keep_changes: u32,
    /// When a controller last decided with everything money hangs on in view, and the longest that none did.
    pub decided_at: Timestamp,
    pub longest_gap: SignedDuration,
    /// The same, with prices in view as well.
    pub priced_at: Timestamp,
    pub longest_unpriced: SignedDuration,
}

/// The pool's log: compare-and-set over all of it.
#[derive(Default)]
pub struct Log {
    pub newest: Option<Batch>,
    pub writes: usize,
    pub ended: Vec<Batch>,
}

impl World {
    pub fn new(seed: u64, began: Timestamp, cloud: impl FnOnce(&mut StdRng) -> Cloud) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            seed,
            began,
            now: began,
            cloud: cloud(&mut rng),
            rng,
            pools: Vec::new(),
            blind: false,
            spend_unread_since: None,
            still: true,
            peak_rate: Usd::ZERO,
            over_since: None,
        }
    }

    pub fn add(&mut self, policy: Policy, rules: Rules) {
        let name = policy.pool.to_string();
        self.cloud.queues.entry(name).or_default();
        self.pools.push(Pool {
            policy,
            rules,
            models: Vec::new(),
            log: Log::default(),
            intents: BTreeSet::new(),
            mode: ModeState::default(),
            keep: 0,
            keep_changes: 0,
            decided_at: self.began,
            longest_gap: SignedDuration::ZERO,
            priced_at: self.began,
            longest_unpriced: SignedDuration::ZERO,
        });
    }

    pub fn is_active(&self, pool: usize) -> bool {
        let newest = self.pools[pool].log.newest.as_ref();
        newest.is_some_and(Batch::is_active)
    }

    /// The batches that have not ended, of all pools.
    pub fn active(&self) -> impl Iterator<Item = &Batch> + Clone {
        let newest = self.pools.iter().filter_map(|p| p.log.newest.as_ref());
        newest.filter(|batch| batch.is_active())
    }

    pub fn batch(&self, pool: usize) -> (&Batch, usize) {
        let log = &self.pools[pool].log;
        let newest = log.newest.as_ref();
        (newest.expect("a batch was requested"), log.writes)
    }

    /// Writes if nobody wrote since.
    pub fn append(&mut self, pool: usize, batch: Batch, expected: usize) -> bool {
        if self.pools[pool].log.writes != expected {
            return false;
        }
        for launch in &batch.launches {
            self.pools[pool].intents.insert(launch.request.clone());
        }
        if batch.status.is_final() {
            self.cloud.advance(self.now);
            let alive = self.cloud.alive_in(batch.id.pool.as_str());
            assert!(
                alive.is_empty(),
                "I9: {} with {alive:?} alive; {}",
                batch.status.name(),
                self.story()
            );
            money::receipt_is_the_bill(self, &batch);
            money::ledger_is_the_receipt(self, &batch);
            self.pools[pool].log.ended.push(batch.clone());
        }
        let log = &mut self.pools[pool].log;
        log.newest = Some(batch);
        log.writes += 1;
        true
    }

    /// A controller decides, with everything in view that money hangs on.
    pub fn decides(&mut self, pool: usize) {
        if self.spend_unread_since.is_some() {
            return;
        }
        let pool = &mut self.pools[pool];
        let gap = self.now.duration_since(pool.decided_at);
        pool.longest_gap = pool.longest_gap.max(gap);
        pool.decided_at = self.now;
        if !self.blind {
            let gap = self.now.duration_since(pool.priced_at);
            pool.longest_unpriced = pool.longest_unpriced.max(gap);
            pool.priced_at = self.now;
        }
    }

    /// A batch is asked for.
    pub fn request(&mut self, pool: usize, rule: &str, units: u32) {
        let wanted = Wanted {
            rule: rule.into(),
            ..wanted(units, self.now)
        };
        let this = &self.pools[pool];
        let (name, last) = (&this.policy.pool, this.log.newest.as_ref());
        let batch = Batch::request(name, last, wanted, self.now).expect("none is active");
        self.append(pool, batch, self.pools[pool].log.writes);
    }

    /// What its tasks ask for, where not every type can render them.
    pub fn workload(&self, pool: usize) -> Option<(PoolConfig, Workload)> {
        let pool = &self.pools[pool];
        let model = *pool.models.first()?;
        let name = pool.policy.pool.as_str();
        let tasks = self.cloud.queues[name].queued + self.cloud.rendering(name);
        let kinds = pool.policy.kinds.iter();
        let kinds = kinds.map(|kind| kind_config(&kind.name, kind.cap));
        let config = PoolConfig {
            models: pool.models.clone(),
            cloud: config::Cloud::Aws,
            kinds: kinds.collect(),
            rules: pool.rules.clone(),
            ..PoolConfig::default()
        };
        let demand = Demand::new(&[(model, tasks)].into(), &BTreeMap::new());
        let load = config.workload(&demand, &Corrections::default());
        Some((config, load))
    }

    pub fn reprice(&mut self) {
        let prices = super::cloud::market(&mut self.rng);
        self.cloud.reprice(prices, self.now);
        self.still = false;
        self.over_since = None;
    }

    pub fn tell(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("SPOTREEL_SIMULATE").is_some() {
            println!("{} {}", self.now, what());
        }
    }

    pub fn story(&self) -> String {
        format!(
            "seed {}: SPOTREEL_SIMULATE={} cargo test -p spotreel-domain --test fleet_simulation one -- --nocapture; then add it to seeds.txt",
            self.seed, self.seed
        )
    }

    /// What holds at every moment.
    pub fn limits_hold(&mut self) {
        let now = self.now;
        self.cloud.advance(now);
        for pool in &self.pools {
            let alive = self.cloud.staying(pool.policy.pool.as_str());
            assert!(
                alive <= pool.policy.max_units as usize,
                "I6: {alive} run, {} may; {}",
                pool.policy.max_units,
                self.story()
            );
        }
        for (launch, fleets) in &self.cloud.fleets {
            assert!(
                fleets.len() == 1,
                "I3: launch {launch:?} made {fleets:?}; {}",
                self.story()
            );
        }
        assert!(
            self.cloud.machines[super::cloud::FOREIGN]
                .ended_at
                .is_none(),
            "I8: a foreign instance was ended; {}",
            self.story()
        );
    }

    /// I2: nothing is left.
    pub fn at_rest(&self, pool: usize) {
        let story = self.story();
        let (batch, _) = self.batch(pool);
        let name = batch.id.pool.as_str();
        let alive = self.cloud.alive_in(name);
        assert!(alive.is_empty(), "I2: {alive:?} run; {story}");
        assert!(
            batch.instances.iter().all(Instance::is_gone),
            "I2: {:?}; {story}",
            batch.instances
        );
        if self.cloud.habit == Habit::NeverBoots && batch.breaker.pauses > 0 {
            let why = match &batch.status {
                Status::Failed { reason } => {
                    reason.contains("in a row") || reason.contains("deadline")
                }
                _ => batch.stop.is_some(),
            };
            assert!(why, "I13: {:?}; {story}", batch.status);
        }
    }
}

pub fn policy(pool: &str, max_units: u32) -> Policy {
    Policy {
        pool: PoolName::parse(pool).expect("a name"),
        template: Template {
            id: "lt-1".into(),
            version: 3,
        },
        kinds: vec![kind("g5.xlarge", 45), kind("g6.xlarge", 40)],
        patience: Patience {
            blocked: Duration::from_secs(1800),
            ..Patience::default()
        },
        ..scene::policy(&["a", "b", "c"], max_units)
    }
}

/// Eight tasks a machine.
pub fn rules() -> Rules {
    Rules {
        sizing: Sizing {
            tasks_per_gpu_hour: None,
            target: Duration::from_secs(8 * 180),
            min: 0,
            max: u32::MAX,
        },
        ..Rules::default()
    }
}
