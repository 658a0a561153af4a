//! The pool, the batch and the view of an empty cloud that tests of fleet's decisions begin with.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::Usd;
use spotreel_domain::batch::{
    Batch, Instance, InstanceState, Launch, LaunchState, PoolName, Wanted,
};
use spotreel_domain::fleet::Learned;
use spotreel_domain::fleet::cloud::{
    CloudState, LaunchAnswer, LaunchRequest, Launched, Lifecycle, Place, SeenInstance, Template,
};
use spotreel_domain::fleet::observation::{Market, Observation, Quota, WorkerSeen, WorkerState};
use spotreel_domain::fleet::policy::{Bid, BreakerRule, Budget, Kind, Patience, Policy, Subnet};
use spotreel_domain::pool::{Cloud, KindConfig, PoolConfig, PoolTemplate, SubnetConfig};
use spotreel_domain::spend::Spend;

pub const KIND: &str = "g6.xlarge";
pub const ZONES: [&str; 3] = ["us-east-2a", "us-east-2b", "us-east-2c"];

pub fn start() -> Timestamp {
    "2026-03-01T02:00:00Z".parse().unwrap()
}

/// The time this many seconds after the start.
pub fn at(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

pub fn default_pool() -> PoolName {
    PoolName::parse("default").unwrap()
}

pub fn place_of(kind: &str, zone: &str) -> Place {
    Place {
        kind: kind.into(),
        zone: zone.into(),
    }
}

pub fn place(zone: &str) -> Place {
    place_of(KIND, zone)
}

/// g6.xlarge for up to $0.40 an hour, one subnet in each zone, no budget.
pub fn policy(zones: &[&str], max_units: u32) -> Policy {
    Policy {
        env: "prod".into(),
        pool: default_pool(),
        project: "spotreel".into(),
        template: Template {
            id: "lt-1".into(),
            version: 1,
        },
        on_demand_version: None,
        tags: BTreeMap::new(),
        problem: None,
        kinds: vec![kind(KIND, 40)],
        subnets: subnets(zones),
        bid: Bid::Balanced,
        leave_when_hinted: false,
        max_units,
        target: Duration::from_secs(2 * 3_600),
        budget: Budget::default(),
        most_per_hour: None,
        on_demand_after: None,
        breaker: BreakerRule::default(),
        patience: Patience::default(),
    }
}

pub fn kind(name: &str, cents: i64) -> Kind {
    Kind {
        name: name.into(),
        cap: Usd::from_cents(cents),
        on_demand_cap: None,
    }
}

pub fn subnets(zones: &[&str]) -> Vec<Subnet> {
    let subnet = |zone: &&str| Subnet {
        id: format!("subnet-{zone}"),
        zone: (*zone).into(),
    };
    zones.iter().map(subnet).collect()
}

/// The policy of a configured pool.
pub fn policy_of(pool: &PoolConfig) -> Policy {
    let template = PoolTemplate {
        id: "lt-1".into(),
        version: 1,
        on_demand_version: None,
    };
    pool.policy(&default_pool(), "prod", "spotreel", template)
}

/// These instance types for up to this price an hour, in one zone.
pub fn pool(kinds: &[&str], cents: i64) -> PoolConfig {
    let cap = Usd::from_cents(cents);
    PoolConfig {
        cloud: Cloud::Aws,
        kinds: kinds.iter().map(|name| kind_config(name, cap)).collect(),
        subnets: vec![SubnetConfig {
            id: "subnet-1".into(),
            zone: ZONES[0].into(),
        }],
        ..PoolConfig::default()
    }
}

pub fn kind_config(name: &str, cap: Usd) -> KindConfig {
    KindConfig {
        name: name.into(),
        cap,
        on_demand_cap: None,
        gpu: None,
    }
}

/// A request by the length of the queue; its batch may take 12 hours.
pub fn wanted(units: u32, now: Timestamp) -> Wanted {
    Wanted {
        rule: "length".into(),
        why: "enough tasks".into(),
        units,
        slot: None,
        deadline: now + SignedDuration::from_hours(12),
    }
}

/// The first batch of the default pool.
pub fn requested(units: u32, now: Timestamp) -> Batch {
    Batch::request(&default_pool(), None, wanted(units, now), now).unwrap()
}

/// The batch's first launch, answered at the start.
pub fn answered_launch(units: u32, instances: &[&str]) -> Launch {
    Launch {
        seq: 1,
        lifecycle: Lifecycle::Spot,
        units,
        request: String::new(),
        state: LaunchState::Answered {
            at: start(),
            fleet: None,
            instances: instances.iter().map(|id| (*id).to_owned()).collect(),
            errors: Vec::new(),
        },
    }
}

/// An instance of the first launch that serves since 100 seconds after the start.
pub fn serving(id: &str, place: Place, rate: Usd) -> Instance {
    Instance {
        state: InstanceState::Serving,
        ready_at: Some(at(100)),
        ..Instance::bought(id.to_owned(), place, Lifecycle::Spot, 1, start(), rate)
    }
}

/// No instances, and all could be read but work and prices.
pub fn observation(now: Timestamp) -> Observation {
    Observation {
        now,
        cloud_now: now,
        listing: Vec::new(),
        workers: Some(Vec::new()),
        work: None,
        needs: Vec::new(),
        market: None,
        in_flight: None,
        spent: Some(Spend::default()),
        quota: Quota::default(),
        keep: 0,
        tasks_done: None,
    }
}

pub fn market(spot: impl IntoIterator<Item = (Place, Usd)>) -> Market {
    Market {
        spot: spot.into_iter().collect(),
        ..Market::default()
    }
}

pub fn worker(instance: &str, state: WorkerState) -> WorkerSeen {
    WorkerSeen {
        instance: instance.to_owned(),
        state,
        notice_at: None,
        rebalance: false,
    }
}

/// A running Spot instance without tags.
pub fn listed(id: &str, place: &Place, launched_at: Timestamp) -> SeenInstance {
    SeenInstance {
        id: id.to_owned(),
        kind: place.kind.clone(),
        zone: place.zone.clone(),
        lifecycle: Lifecycle::Spot,
        state: CloudState::Running,
        launched_at,
        tags: BTreeMap::new(),
        reason: None,
        left_at: None,
        has_public_address: false,
    }
}

/// The instance that this launch brings in the first place it asks for.
pub fn bought(id: &str, request: &LaunchRequest, now: Timestamp) -> SeenInstance {
    SeenInstance {
        lifecycle: request.lifecycle,
        tags: request.tags.clone(),
        ..listed(id, &request.overrides[0].place, now)
    }
}

/// The answer to a launch that brought these instances.
pub fn answer<'a>(seq: u32, instances: impl IntoIterator<Item = &'a SeenInstance>) -> LaunchAnswer {
    let instances = instances.into_iter().map(|seen| Launched {
        id: seen.id.clone(),
        kind: seen.kind.clone(),
        zone: seen.zone.clone(),
        lifecycle: seen.lifecycle,
    });
    LaunchAnswer {
        fleet: format!("fleet-{seq}"),
        instances: instances.collect(),
        errors: Vec::new(),
    }
}

pub fn learned<'a>(now: Timestamp, policy: &'a Policy, market: Option<&'a Market>) -> Learned<'a> {
    Learned {
        now,
        cloud_now: now,
        market,
        policy,
    }
}
