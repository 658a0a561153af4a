//! The reconcile loop: reads the state, decides for every pool, carries out the decisions, publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_api::{PoolWhy, Why};
use spotreel_bootstrap::{Context, ambient};
use spotreel_domain::batch::PoolName;
use spotreel_domain::pool::{Cloud, PoolConfig, Pools};
use spotreel_domain::spend::{self, Reserved};
use spotreel_domain::trigger::{Decision, Forecast, Prices, Verdict, decide};
use spotreel_pool::arrivals::Arrivals;
use spotreel_pool::spend::Ledger;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::act::{self, RequestOutcome};
use crate::config::ReconcileConfig;
use crate::crash;
use crate::error::{ActError, LookError};
use crate::metrics;
use crate::observe::{PoolFacts, Snapshot, StateReader};
use crate::prices::PoolPrices;

/// The readiness check: the truth can be read.
pub const CHECK: &str = "nats";
/// Longest that a question waits for a look of its own; then it is told what was seen last.
const LONGEST_ANSWER: Duration = Duration::from_secs(3);

pub struct Reconcile {
    pub reader: StateReader,
    pub pools: Arc<Pools>,
    pub prices: Option<Arc<PoolPrices>>,
    pub arrivals: Arc<Arrivals>,
    pub config: ReconcileConfig,
    pub ctx: Context,
    pub shown: Shown,
    pub ledger: Ledger,
    /// What was last said of each pool, so that it is said once.
    pub said: BTreeMap<PoolName, String>,
}

/// The latest decisions, for whoever asks. Clones share them.
#[derive(Clone)]
pub struct Shown {
    pub wake: Arc<Notify>,
    latest: Arc<watch::Sender<Latest>>,
}

#[derive(Clone)]
struct Latest {
    /// When the look at the truth began.
    began: Option<Instant>,
    why: Why,
}

impl Shown {
    pub fn new() -> Self {
        let why = Why {
            pools: Vec::new(),
            gone: Vec::new(),
            error: Some("nothing has been looked at yet".into()),
        };
        Self {
            wake: Arc::default(),
            latest: Arc::new(watch::Sender::new(Latest { began: None, why })),
        }
    }

    /// How things stand now: a look that began after the question.
    pub async fn ask(&self) -> Why {
        let asked = Instant::now();
        let mut latest = self.latest.subscribe();
        self.wake.notify_one();
        let seen = latest.wait_for(|latest| latest.began.is_some_and(|began| began >= asked));
        // Out of time, the last word is still one, and says how old it is.
        let _ = tokio::time::timeout(LONGEST_ANSWER, seen).await;
        self.latest.borrow().why.clone()
    }
}

impl Reconcile {
    pub async fn run(mut self) {
        let stopping = self.ctx.stopping.clone();
        let mut next = Instant::now();
        while !stopping.is_cancelled() {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.shown.wake.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            let began = Instant::now();
            let pause = self.look(began).await;
            next = began + pause.clamp(self.config.gap, self.config.every);
            // Whatever wakes meanwhile is seen by one look.
            let gap = tokio::time::sleep_until(began + self.config.gap);
            stopping.run_until_cancelled(gap).await;
        }
    }

    /// One look; returns how long nothing is expected without an event.
    async fn look(&mut self, began: Instant) -> Duration {
        metrics::looked();
        let now = ambient::now();
        let mut seen = match self.read(now).await {
            Ok(seen) => seen,
            Err(error) => {
                self.blind(began, &error);
                return self.config.every;
            }
        };
        if self
            .ctx
            .health
            .readiness()
            .checks
            .get(CHECK)
            .is_none_or(|check| !check.ok)
        {
            self.ctx.health.set(CHECK, Ok::<(), &str>(()));
        }
        let pools = self.pools.clone();
        let mut why = Vec::with_capacity(pools.pool.len());
        let mut next_look = Timestamp::MAX;
        for (name, pool) in &pools.pool {
            let decided = self.decide(name, pool, &seen);
            if let Err(error) = self.act(name, pool, &mut seen, &decided.decision).await {
                let error = spotreel_domain::chain(&error);
                tracing::warn!(pool = %name, error, "carrying out a decision failed");
                metrics::failed(name);
            }
            self.say(&decided);
            metrics::decided(&decided);
            next_look = next_look.min(decided.decision.next_look);
            why.push(decided);
        }
        let left = seen.newest_batches().into_iter();
        let left = left.filter(|b| b.is_active() && !pools.pool.contains_key(&b.id.pool));
        let why = Why {
            pools: why,
            gone: left.map(|batch| batch.id.to_string()).collect(),
            error: None,
        };
        self.show(began, why);
        Duration::try_from(next_look.duration_since(ambient::now())).unwrap_or_default()
    }

    async fn read(&mut self, now: Timestamp) -> Result<Snapshot, LookError> {
        let seen = self.reader.read(now).await?;
        let newest = seen.newest_batches();
        let updated = self.ledger.update(&self.reader.batches, &newest, now);
        updated.await.map_err(LookError::Batches)?;
        Ok(seen)
    }

    fn decide(&self, name: &PoolName, pool: &PoolConfig, seen: &Snapshot) -> PoolWhy {
        let all = seen.newest_batches();
        let newest = seen.newest.get(name).map(|last| &last.batch);
        let prices = self.prices.as_ref();
        let running = all.iter().copied().filter(|batch| batch.is_active());
        let load = seen.load(name, pool);
        let kinds = load.kinds();
        let quota = prices
            .map(|prices| prices.quota(running))
            .unwrap_or_default();
        let facts = PoolFacts {
            past: self.ledger.past(name, newest),
            prices: prices.map_or(Prices::NoCloud, |prices| {
                prices.of(name, kinds, newest, &quota)
            }),
            quota_units: prices.and_then(|prices| prices.quota_units(name, kinds, newest, &quota)),
            spend: self.ledger.spend(&all, seen.at),
            reserved: self.reserved(name, seen),
            boot: self.ledger.boot(name),
            load,
            seconds_per_task: self.ledger.seconds_per_task(name),
            arrivals_per_hour: self.arrivals.within_the_hour(&pool.models, seen.at),
        };
        let view = seen.view(name, pool, &self.reader, facts);
        let mut decision = decide(&view, &pool.rules, seen.at);
        if pool.cloud == Cloud::None {
            leave_to_workers(&mut decision);
        }
        PoolWhy {
            pool: name.clone(),
            models: pool.models.clone(),
            cloud: pool.cloud,
            budgets: pool.rules.budgets,
            decision,
            view,
        }
    }

    /// What fleet is about to launch for the other pools, with what was asked for a moment ago: two pools may not count on
    /// the same money.
    fn reserved(&self, name: &PoolName, seen: &Snapshot) -> Reserved {
        let batches = seen.newest_batches().into_iter().chain(&seen.requested);
        let cap = |pool: &PoolName| {
            let kinds = self.pools.pool.get(pool).map(|pool| &pool.kinds);
            let caps = kinds.into_iter().flatten().map(|kind| kind.cap);
            caps.max().unwrap_or_default()
        };
        spend::reserved(batches.filter(|batch| batch.id.pool != *name), cap)
    }

    async fn act(
        &self,
        name: &PoolName,
        pool: &PoolConfig,
        seen: &mut Snapshot,
        decision: &Decision,
    ) -> Result<(), ActError> {
        let reader = &self.reader;
        let mut answered = seen.newest.get(name).map(|last| last.batch.requested_at);
        if let Verdict::Launch(fire) = &decision.verdict {
            crash::point("before-request");
            match act::request(reader, seen, name, pool, fire).await? {
                RequestOutcome::Requested(batch) => {
                    tracing::info!(batch = %batch.id, rule = batch.rule, units = batch.units, why = batch.why,
                        size = fire.size.sentence, "batch requested");
                    metrics::requested(name, &batch.rule);
                    answered = Some(batch.requested_at);
                    crash::point("after-request");
                }
                RequestOutcome::Late => {
                    tracing::debug!(pool = %name, "another trigger requested a batch first");
                    self.shown.wake.notify_one();
                }
            }
        }
        let order = seen.controls.runs.get(name);
        if let Some(order) = order.filter(|order| answered.is_some_and(|at| at >= order.order.at)) {
            act::forget_order(reader, name, order).await?;
        }
        act::keep_mode(reader, name, &seen.marks, decision).await
    }

    /// Nothing can be read, so nothing is decided; said once.
    fn blind(&mut self, began: Instant, error: &LookError) {
        let error = spotreel_domain::chain(error);
        let known = self.ctx.health.readiness().checks.get(CHECK).cloned();
        if known.and_then(|check| check.reason).as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "reading the system's state failed; no batch is requested"
            );
        }
        self.ctx.health.set(CHECK, Err(&error));
        let mut why = self.shown.latest.borrow().why.clone();
        why.error = Some(error);
        self.show(began, why);
    }

    fn show(&self, began: Instant, why: Why) {
        let began = Some(began);
        self.shown.latest.send_replace(Latest { began, why });
    }

    /// Each decision once, with all that was found; numbers alone make no new one.
    fn say(&mut self, why: &PoolWhy) {
        let decision = &why.decision;
        let outcomes: Vec<_> = decision.findings.iter().map(|f| f.outcome).collect();
        let blockers: Vec<_> = decision.blockers.iter().map(|b| b.kind).collect();
        let kind = match &decision.verdict {
            Verdict::Launch(fire) => format!("launch by {}", fire.rule),
            Verdict::Wait { .. } => "wait".to_owned(),
            Verdict::Blocked { .. } => "blocked".to_owned(),
        };
        let active = &why.view.active_batch;
        let said = format!("{kind} {outcomes:?} {blockers:?} {active:?}");
        if self.said.get(&why.pool) == Some(&said) {
            return;
        }
        self.said.insert(why.pool.clone(), said);
        let findings: Vec<_> = decision
            .findings
            .iter()
            .map(|finding| format!("{}: {}", finding.rule, finding.sentence))
            .collect();
        let sentence = match &decision.verdict {
            Verdict::Launch(fire) => &fire.why,
            Verdict::Wait { sentence } | Verdict::Blocked { sentence } => sentence,
        };
        let findings = findings.join("; ");
        if matches!(decision.verdict, Verdict::Blocked { .. }) {
            tracing::warn!(pool = %why.pool, decision = kind, findings, "{sentence}");
        } else {
            tracing::info!(pool = %why.pool, decision = kind, findings, "{sentence}");
        }
    }
}

/// Machines of one's own take tasks by themselves: it is told which rule fires, and nothing is asked for.
fn leave_to_workers(decision: &mut Decision) {
    const LEFT: &str = "cloud = \"none\": your own machines take the tasks";
    if let Verdict::Launch(fire) = &decision.verdict {
        let sentence = format!("{}; {LEFT}", fire.why);
        decision.verdict = Verdict::Wait { sentence };
        decision.forecast = Forecast {
            rule: None,
            by: None,
            sentence: LEFT.to_owned(),
        };
    }
}
