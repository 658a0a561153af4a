//! The pass over all instances with our tags: terminates expired ones in any case, and orphans once they are certain.

use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_bus::log::ReadError;
use spotreel_domain::batch::{Batch, BatchId};
use spotreel_domain::fleet::orphan::{self, Marks};
use spotreel_pool::spend;
use tokio_util::sync::CancellationToken;

use crate::cloud::{Cloud, SharedListing};
use crate::error::RoundError;
use crate::fleet::Fleet;
use crate::metrics;

const EXPIRED: &str = "expired";
const ORPHAN: &str = "orphan";

pub struct Sweep {
    pub fleet: Arc<Fleet>,
    pub cloud: Arc<Cloud>,
    /// The longest that any machine may live; for those that have lost their tag.
    pub life: Duration,
    pub marks: Marks,
}

impl Sweep {
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut tick = tokio::time::interval(self.fleet.config.sweep.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first sweep is made before anything else begins.
        tick.tick().await;
        while stopping.run_until_cancelled(tick.tick()).await.is_some() {
            self.sweep().await;
        }
    }

    pub async fn sweep(&mut self) {
        match self.cloud.list().await {
            Ok(listed) => {
                let ended = self.end_expired(&listed).await;
                if let Err(error) = self.end_orphans(&listed, &ended).await {
                    tracing::debug!(error = %spotreel_domain::chain(&error), "orphan check skipped: records cannot be read");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "listing failed; sweep uses the last one");
                if let Some(listed) = self.cloud.last_listed() {
                    self.end_expired(&listed).await;
                }
            }
        }
    }

    async fn end_expired(&self, listed: &SharedListing) -> Vec<String> {
        let env = &self.fleet.config.env;
        let now = listed.cloud_clock();
        let expired = orphan::expired(listed.instances(), env, now, self.life);
        self.end(&expired, EXPIRED).await;
        expired
    }

    async fn end_orphans(
        &mut self,
        listed: &SharedListing,
        ended: &[String],
    ) -> Result<(), RoundError> {
        // Without the record nobody's cannot be told from somebody's.
        if !self.fleet.is_connected() || !self.fleet.is_leader() {
            return Ok(());
        }
        let active = self.active().await?;
        let mut orphans = orphan::orphans(
            listed.instances(),
            &self.fleet.config.env,
            &active,
            &mut self.marks,
            ambient::now(),
            self.fleet.config.sweep.orphan_grace,
        );
        orphans.retain(|id| !ended.contains(id));
        self.end(&orphans, ORPHAN).await;
        Ok(())
    }

    /// The batches that have not ended, of all pools that there ever were.
    async fn active(&self) -> Result<Vec<BatchId>, ReadError> {
        let newest = spend::newest(&self.fleet.batches, self.fleet.pools.pool.keys()).await?;
        let batches = newest.into_values().map(|record| record.batch);
        Ok(batches.filter(Batch::is_active).map(|b| b.id).collect())
    }

    async fn end(&self, ids: &[String], why: &'static str) {
        if ids.is_empty() {
            return;
        }
        for (instance, result) in self.cloud.ec2.terminate(ids).await {
            match result {
                Ok(()) => {
                    metrics::terminated("", why, 1);
                    tracing::warn!(instance, why, "terminated instance by its tags");
                }
                Err(error) => tracing::warn!(%error, instance, why, "TerminateInstances failed"),
            }
        }
    }
}
