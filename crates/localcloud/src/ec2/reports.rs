//! The cloud as its operator sees it: what AWS would never tell, for tests, demos and people.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::market::{ReclaimKind, UnknownPool};
use super::state::{Cause, Lifecycle, Phase, Tags};
use super::{BillLine, Call, Ec2};

/// AWS gives two minutes.
const NOTICE_S: f64 = 120.0;

/// One instance, also one that is over as long as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceReport {
    pub id: String,
    pub state: &'static str,
    pub instance_type: String,
    pub zone: String,
    pub lifecycle: &'static str,
    pub fleet_id: String,
    /// Of the script, while it runs; also its process group.
    pub pid: Option<u32>,
    pub launched_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// When the market takes it, once it has said so.
    pub notice_at: Option<Timestamp>,
    /// AWS's code for why it ends or has ended.
    pub reason: Option<&'static str>,
    /// Micro-dollars an hour, now.
    pub price_micros: i64,
    pub tags: Tags,
}

/// One pool of the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    pub instance_type: String,
    pub zone: String,
    pub price_micros: i64,
    pub on_demand_micros: i64,
    pub capacity: u32,
    pub used: u32,
}

/// What `POST /market/interrupt` takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interruption {
    /// Left out: the oldest Spot instance that runs and was not told to go yet.
    #[serde(default)]
    pub instance: Option<String>,
    #[serde(default)]
    pub kind: InterruptionKind,
    /// From the notice to the end, in cloud time.
    #[serde(default = "two_minutes")]
    pub lead_s: f64,
}

fn two_minutes() -> f64 {
    NOTICE_S
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptionKind {
    #[default]
    Notice,
    Rebalance,
    Silent,
}

impl Ec2 {
    pub fn reports(&self) -> Vec<InstanceReport> {
        let now = self.clock.now();
        let state = self.lock();
        let mut instances: Vec<_> = state.instances.values().collect();
        instances.sort_by_key(|instance| instance.sequence);
        let reports = instances.into_iter().map(|instance| {
            let of = &instance.blueprint;
            let price = match of.lifecycle {
                Lifecycle::Spot => state.market.price(&of.kind, &of.zone, now),
                Lifecycle::OnDemand => state.market.on_demand(&of.kind),
            };
            InstanceReport {
                id: instance.id.clone(),
                state: instance.phase().name(),
                instance_type: of.kind.clone(),
                zone: of.zone.clone(),
                lifecycle: of.lifecycle.name(),
                fleet_id: of.fleet_id.clone(),
                pid: instance.pid,
                launched_at: instance.launched,
                ended_at: instance.ended,
                notice_at: instance.notice,
                reason: instance.cause.map(Cause::code),
                price_micros: price.unwrap_or(0),
                tags: instance.tags.clone(),
            }
        });
        reports.collect()
    }

    pub fn bill(&self) -> Vec<BillLine> {
        let now = self.clock.now();
        self.lock().bill.lines(now)
    }

    pub fn calls(&self, since_us: u64) -> Vec<Call> {
        self.calls.since(since_us)
    }

    pub fn pools(&self) -> Vec<PoolReport> {
        let now = self.clock.now();
        let state = self.lock();
        let (kinds, zones) = (state.market.kinds(), state.market.zones());
        let pairs = kinds
            .iter()
            .flat_map(|kind| zones.iter().map(move |zone| (kind, &zone.name)));
        let pools = pairs.filter_map(|(kind, zone)| {
            Some(PoolReport {
                instance_type: kind.name.clone(),
                zone: zone.clone(),
                price_micros: state.market.price(&kind.name, zone, now)?,
                on_demand_micros: kind.on_demand_micros,
                capacity: state.market.capacity(&kind.name, zone, now),
                used: state.used(&kind.name, zone),
            })
        });
        pools.collect()
    }

    pub fn set_price(&self, kind: &str, zone: &str, micros: i64) -> Result<(), UnknownPool> {
        let now = self.clock.now();
        self.lock().market.set_price(kind, zone, micros, now)
    }

    pub fn set_capacity(&self, kind: &str, zone: &str, instances: u32) -> Result<(), UnknownPool> {
        let now = self.clock.now();
        self.lock().market.set_capacity(kind, zone, instances, now)
    }

    /// The instance that was struck; `None` if there is none to strike.
    pub fn interrupt(&self, order: &Interruption) -> Option<String> {
        let kind = match order.kind {
            InterruptionKind::Notice => ReclaimKind::Notice {
                lead: Duration::try_from_secs_f64(order.lead_s).unwrap_or_default(),
            },
            InterruptionKind::Rebalance => ReclaimKind::Rebalance,
            InterruptionKind::Silent => ReclaimKind::Silent,
        };
        let mut state = self.lock();
        let spot = state.instances.values_mut().filter(|instance| {
            let named = match &order.instance {
                Some(id) => instance.id == *id,
                None => instance.phase() == Phase::Running && instance.notice.is_none(),
            };
            named && instance.blueprint.lifecycle == Lifecycle::Spot
        });
        let struck = spot.min_by_key(|instance| instance.sequence)?;
        self.reclaim(struck, kind).then(|| struck.id.clone())
    }
}
