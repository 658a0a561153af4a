//! Answers to requests and orders.

use std::sync::Arc;

use async_nats::Client;
use futures::future::try_join_all;
use jiff::Timestamp;
use spotreel_api::{
    ApiError, BatchView, BatchesQuery, ErrorCode, HoldOrder, Ordered, Quote, QuoteQuery,
    ResumeOrder, RunOrder, Why, WhyQuery, quote,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::batches::{self, MAX_RECENT};
use spotreel_bus::controls::{self, HoldRecord, RunRecord};
use spotreel_bus::reply::{refuse, unavailable};
use spotreel_bus::{BatchLog, Undecodable};
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use spotreel_domain::pool::{Cloud, Pools};
use spotreel_pool::marks::Marks;

use crate::prices::PoolPrices;
use crate::reconcile::Shown;

/// Of batches, where nobody says how many.
const USUAL_LIMIT: u32 = 20;
/// Of what people write: it is shown in every decision, and longer texts are not read.
const LONGEST_TEXT: usize = 200;

/// What the handlers of requests share.
pub struct Requests {
    pub client: Client,
    pub batches: BatchLog,
    pub pools: Arc<Pools>,
    pub shown: Shown,
    pub prices: Option<Arc<PoolPrices>>,
}

impl Requests {
    pub async fn why(self: Arc<Self>, query: WhyQuery) -> Result<Why, ApiError> {
        let wanted = query.pool.map(|pool| self.named(&pool)).transpose()?;
        let mut why = self.shown.ask().await;
        if let Some(wanted) = wanted {
            why.pools.retain(|pool| pool.pool == wanted);
        }
        Ok(why)
    }

    /// By the pool that the task would wait for.
    pub async fn quote(self: Arc<Self>, query: QuoteQuery) -> Result<Quote, ApiError> {
        let spec = query.spec(ambient::now()).map_err(|violations| ApiError {
            violations,
            ..refuse(ErrorCode::Invalid, "the request breaks a rule")
        })?;
        let mut pools = self.pools.pool.iter();
        let of_model = pools.find(|(_, pool)| pool.models.contains(&spec.model));
        let (name, pool) = of_model.ok_or_else(|| {
            let message = format!("no pool renders {}: add it to `models` of one", spec.model);
            refuse(ErrorCode::NotFound, message)
        })?;
        let (marks, newest) = tokio::join!(Marks::read(&self.client), self.batches.last(name));
        let marks = marks.map_err(|error| unavailable("what was rendered before", &error))?;
        let newest = newest.map_err(|error| unavailable("the batch log", &error))?;
        let newest = newest.as_ref().map(|last| &last.batch);
        let known = self.prices.as_ref();
        let prices = known.and_then(|known| known.by_kind(name, newest));
        let quota = known.map(|known| known.quota([])).unwrap_or_default();
        let (prices, learnt) = (prices.as_ref(), marks.pace(name));
        let pool = (name, pool);
        Ok(quote(&spec, query.tasks, pool, prices, &quota, &learnt))
    }

    pub async fn batches(self: Arc<Self>, query: BatchesQuery) -> Result<Vec<BatchView>, ApiError> {
        let now = ambient::now();
        if let Some(id) = &query.id {
            let message = format!("there is no batch {id}");
            let none = || refuse(ErrorCode::NotFound, message.clone());
            let id = BatchId::parse(id).ok_or_else(none)?;
            let found = self.batches.get(&id).await;
            let found = found.map_err(|error| unavailable("the batch log", &error))?;
            return Ok(vec![self.view(&found.ok_or_else(none)?.batch, now).await?]);
        }
        let limit = query.limit.unwrap_or(USUAL_LIMIT) as usize;
        let most = usize::try_from(MAX_RECENT).unwrap_or(usize::MAX);
        if !(1..=most).contains(&limit) {
            let message = format!("limit is 1 to {MAX_RECENT}");
            return Err(refuse(ErrorCode::Invalid, message));
        }
        // A pool that is configured no more still has its batches.
        let pool = query.pool.as_deref().map(|name| {
            PoolName::parse(name).map_err(|bad| refuse(ErrorCode::Invalid, bad.to_string()))
        });
        let pool = pool.transpose()?;
        let most = if pool.is_some() { most } else { limit };
        let recent = self.batches.recent(most, Undecodable::IsPassedOver).await;
        let recent = recent.map_err(|error| unavailable("the batch log", &error))?;
        let views = recent
            .iter()
            .filter(|one| pool.as_ref().is_none_or(|pool| one.batch.id.pool == *pool))
            .take(limit)
            .map(|one| self.view(&one.batch, now));
        try_join_all(views).await
    }

    /// With the tasks that have ended by now: fleet writes their number down when the batch settles.
    async fn view(&self, batch: &Batch, now: Timestamp) -> Result<BatchView, ApiError> {
        let mut view = BatchView::of(batch, now);
        if batch.is_active() {
            let ended = batches::ended_on(&self.client, batch, batch.requested_at).await;
            let ended = ended.map_err(|error| unavailable("the task log", &error))?;
            view.tasks_done = ended.len() as u64;
        }
        Ok(view)
    }

    pub async fn run(self: Arc<Self>, order: RunOrder) -> Result<Ordered, ApiError> {
        let pool = match (order.pool, self.pools.pool.len()) {
            (Some(pool), _) => self.named(&pool)?,
            (None, 1) => self
                .pools
                .pool
                .keys()
                .next()
                .cloned()
                .ok_or_else(|| self.no_pool(""))?,
            (None, _) => {
                let message = format!("pool is missing: name one of {}", self.names());
                return Err(refuse(ErrorCode::Invalid, message));
            }
        };
        if self
            .pools
            .pool
            .get(&pool)
            .is_some_and(|p| p.cloud == Cloud::None)
        {
            let message = format!(
                "nothing is launched for pool {pool}: cloud = \"none\", your own machines take the tasks"
            );
            return Err(refuse(ErrorCode::Invalid, message));
        }
        if !order.force {
            self.check_hold(&pool).await?;
        }
        let run = RunRecord {
            by: text("by", order.by.as_deref().unwrap_or("somebody"))?,
            at: ambient::now(),
            id: ambient::uuid_v7().to_string(),
            force: order.force,
        };
        let stored = controls::run(&self.client, &pool, &run).await;
        stored.map_err(|error| unavailable("the order", &error))?;
        self.shown.wake.notify_one();
        tracing::info!(%pool, by = run.by, force = run.force, id = run.id, "run ordered");
        Ok(Ordered {
            pools: vec![pool],
            at: run.at,
            id: Some(run.id),
        })
    }

    /// An order that a hold keeps from having any effect is refused.
    async fn check_hold(&self, pool: &PoolName) -> Result<(), ApiError> {
        let controls = controls::all(&self.client).await;
        let controls = controls.map_err(|error| unavailable("the orders", &error))?;
        let Some(held) = controls.holds.get(pool) else {
            return Ok(());
        };
        let controls::HoldRecord {
            by, reason, since, ..
        } = &held.order;
        let message = format!(
            "launches of pool {pool} are held by {by} since {since:.0}, reason \"{reason}\": resume them first, or order it with force"
        );
        Err(refuse(ErrorCode::NotAllowed, message))
    }

    pub async fn hold(self: Arc<Self>, order: HoldOrder) -> Result<Ordered, ApiError> {
        let pools = self.one_or_all(order.pool.as_deref())?;
        if order.reason.trim().is_empty() {
            let message = "reason is missing: say why launches are held; `spotreel why` shows it";
            return Err(refuse(ErrorCode::Invalid, message));
        }
        let hold = HoldRecord {
            by: text("by", order.by.as_deref().unwrap_or("somebody"))?,
            reason: text("reason", &order.reason)?,
            since: ambient::now(),
            config: None,
        };
        for pool in &pools {
            let stored = controls::hold(&self.client, pool, &hold).await;
            stored.map_err(|error| unavailable("the order", &error))?;
            tracing::info!(%pool, by = hold.by, reason = hold.reason, "hold ordered");
        }
        self.shown.wake.notify_one();
        let (at, id) = (hold.since, None);
        Ok(Ordered { pools, at, id })
    }

    pub async fn resume(self: Arc<Self>, order: ResumeOrder) -> Result<Ordered, ApiError> {
        let pools = self.one_or_all(order.pool.as_deref())?;
        for pool in &pools {
            let removed = controls::resume(&self.client, pool).await;
            removed.map_err(|error| unavailable("the order", &error))?;
            tracing::info!(%pool, "hold removed");
        }
        self.shown.wake.notify_one();
        let (at, id) = (ambient::now(), None);
        Ok(Ordered { pools, at, id })
    }

    fn one_or_all(&self, pool: Option<&str>) -> Result<Vec<PoolName>, ApiError> {
        match pool {
            Some(pool) => Ok(vec![self.named(pool)?]),
            None => Ok(self.pools.pool.keys().cloned().collect()),
        }
    }

    fn named(&self, pool: &str) -> Result<PoolName, ApiError> {
        let name = PoolName::parse(pool).ok();
        name.filter(|name| self.pools.pool.contains_key(name))
            .ok_or_else(|| self.no_pool(pool))
    }

    fn no_pool(&self, pool: &str) -> ApiError {
        let shown: String = pool.chars().take(LONGEST_TEXT).collect();
        let message = format!("there is no pool {shown:?}: there are {}", self.names());
        refuse(ErrorCode::NotFound, message)
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.pools.pool.keys().map(PoolName::as_str).collect();
        names.join(", ")
    }
}

fn text(field: &str, value: &str) -> Result<String, ApiError> {
    let value = value.trim();
    if value.is_empty() || value.len() > LONGEST_TEXT || value.contains(char::is_control) {
        let message = format!("{field} is one line of 1 to {LONGEST_TEXT} bytes");
        return Err(refuse(ErrorCode::Invalid, message));
    }
    Ok(value.to_owned())
}
