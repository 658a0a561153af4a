//! Carries out what a used-up budget orders.

use async_nats::{Client, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{BatchRef, ErrorCode, ErrorReply, StopOrder, Why, WhyQuery};
use spotreel_bootstrap::ambient;
use spotreel_bus::controls::{self, HoldRecord};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::{BatchLog, names};
use spotreel_domain::alarm::BudgetOrder;
use spotreel_domain::batch::{DrainMode, PoolName};
use spotreel_pool::spend;

use super::ANSWER_WITHIN;
use crate::error::AlarmError;

/// Who orders. A hold of this name is taken back when the budget begins anew.
const BY: &str = "alarm";
/// Of a reason, as fleet and trigger take it.
const LONGEST_REASON: usize = 200;

pub(super) struct Actor {
    pub client: Client,
    pub batches: BatchLog,
}

impl Actor {
    /// Carries out orders, one after the other; gives how many are done, and why the next one is not.
    pub async fn carry_out(&self, orders: &[BudgetOrder]) -> (usize, Option<AlarmError>) {
        for (done, order) in orders.iter().enumerate() {
            let carried_out = match order {
                BudgetOrder::Stop { mode, reason, .. } => self.stop(*mode, reason).await,
                BudgetOrder::Resume => self.resume().await,
            };
            if let Err(error) = carried_out {
                return (done, Some(error));
            }
        }
        (orders.len(), None)
    }

    /// Holds first: no new batch begins while the others are stopped. Trigger is asked last for pools that never had a batch.
    async fn stop(&self, mode: DrainMode, reason: &str) -> Result<(), AlarmError> {
        let reason: String = reason.chars().take(LONGEST_REASON / 2).collect();
        let newest = spend::newest(&self.batches, []).await;
        let newest = newest.map_err(AlarmError::Batches)?;
        self.hold(newest.keys().cloned().collect(), &reason).await?;
        for last in newest.values().filter(|last| last.batch.is_active()) {
            let order = StopOrder {
                pool: None,
                batch: Some(last.batch.id.to_string()),
                mode,
                by: BY.to_owned(),
                reason: Some(reason.clone()),
            };
            match self.ask::<_, BatchRef>(names::OPS_STOP, &order).await {
                Ok(stopped) => {
                    tracing::warn!(
                        batch = stopped.id,
                        ?mode,
                        reason,
                        "budget is used up: batch stopped"
                    );
                }
                // It has ended, or fleet drains it because its pool is gone.
                Err(AlarmError::Refused(refused))
                    if matches!(refused.code, ErrorCode::NotAllowed | ErrorCode::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let why: Why = self.ask(names::WHY, &WhyQuery::default()).await?;
        let pools = why.pools.into_iter().map(|pool| pool.pool);
        self.hold(pools.collect(), &reason).await
    }

    /// A hold that stands already stays as it is, so that a person's outlives the budget's.
    async fn hold(&self, pools: Vec<PoolName>, reason: &str) -> Result<(), AlarmError> {
        for pool in pools {
            let hold = HoldRecord {
                by: BY.to_owned(),
                reason: reason.to_owned(),
                since: ambient::now(),
                config: None,
            };
            let held = controls::hold_if_free(&self.client, &pool, &hold).await;
            if held.map_err(AlarmError::Hold)? {
                tracing::warn!(%pool, reason, "budget is used up: pool held");
            }
        }
        Ok(())
    }

    async fn resume(&self) -> Result<(), AlarmError> {
        let held = controls::all(&self.client).await;
        for (pool, held) in held.map_err(AlarmError::Hold)?.holds {
            if held.order.by != BY || held.order.config.is_some() {
                continue;
            }
            match controls::lift(&self.client, &pool, held.revision).await {
                Ok(()) => tracing::info!(%pool, "budget has room again: hold removed"),
                // A person's order has taken its place.
                Err(JetStreamError::Conflict) => {}
                Err(error) => return Err(AlarmError::Hold(error)),
            }
        }
        Ok(())
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: &'static str,
        question: &Q,
    ) -> Result<A, AlarmError> {
        let question = serde_json::to_vec(question).expect("orders have string keys only");
        let request = Request::new()
            .payload(question.into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self.client.send_request(subject, request).await;
        let answer = answer.map_err(|source| AlarmError::Ask { subject, source })?;
        if let Ok(ErrorReply { error }) = serde_json::from_slice(&answer.payload) {
            return Err(AlarmError::Refused(error));
        }
        serde_json::from_slice(&answer.payload)
            .map_err(|source| AlarmError::Answer { subject, source })
    }
}
