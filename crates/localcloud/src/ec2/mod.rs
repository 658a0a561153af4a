//! EC2: a fleet API over a Spot market, whose instances are processes of this machine.
//!
//! The Query protocol of version 2016-11-15 for the calls that a fleet of type `instant` needs, and the two quotas of
//! Service Quotas. Handlers are synchronous functions over one locked [`Ec2State`](state::Ec2State); only the lives of
//! instances and the market's look at them are tasks.

mod allocation;
mod bill;
mod calls;
mod describe;
mod error;
mod filters;
mod fleet;
mod http_api;
mod imds;
mod instances;
mod launcher;
mod lifecycle;
mod machine;
mod market;
mod query;
mod quotas;
mod reports;
mod signature;
mod state;
mod tags;
mod templates;
mod tokens;
mod xml;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use bill::BillLine;
pub use calls::Call;
pub(crate) use http_api::Answered;
pub(crate) use launcher::Launcher;
pub use market::{MarketConfig, MarketError, UnknownPool, Zone};
pub use reports::{InstanceReport, Interruption, InterruptionKind, PoolReport};

use crate::clock::Clock;
use crate::faults::Faults;
use bill::Bill;
use calls::Calls;
use market::Market;
use state::{Ec2State, InstanceOrder};

/// What EC2 needs to know to begin.
#[derive(Debug, Clone)]
pub(crate) struct Ec2Config {
    /// Where machines have their directories.
    pub dir: PathBuf,
    pub region: String,
    pub account_id: String,
    pub access_key: String,
    pub secret_key: String,
    pub speed: f64,
    pub clock_ahead: jiff::SignedDuration,
    /// How long an instance is `pending` (real time).
    pub boot: Duration,
    /// Between SIGTERM and SIGKILL (real time).
    pub grace: Duration,
    /// Of Spot, and of on-demand.
    pub vcpu_quota: u32,
    /// Set for every machine.
    pub variables: Vec<(String, String)>,
    pub market: MarketConfig,
    /// Where requests are written.
    pub record: Option<PathBuf>,
}

pub(crate) struct Ec2 {
    config: Ec2Config,
    clock: Clock,
    faults: Arc<Faults>,
    state: Mutex<Ec2State>,
    calls: Calls,
    /// The lives of instances.
    machines: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Ec2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2").finish_non_exhaustive() // the rest is long, and locked
    }
}

impl Ec2 {
    /// Ends what an earlier process left running, and opens the market.
    pub fn open(config: Ec2Config, faults: Arc<Faults>) -> Result<Arc<Self>, OpenError> {
        let killed = machine::kill_leftovers(&config.dir)?;
        if killed > 0 {
            tracing::warn!(killed, "killed instances of an earlier run");
        }
        let clock = Clock::new(config.speed).ahead(config.clock_ahead);
        let market = Market::new(MarketConfig {
            start: clock.now(),
            ..config.market.clone()
        })?;
        let state = Ec2State {
            market,
            bill: Bill::default(),
            instances: Default::default(),
            fleets: Default::default(),
            templates: Default::default(),
            tokens: Default::default(),
            launched: 0,
        };
        let record = config.record.as_deref();
        let ec2 = Arc::new(Self {
            calls: Calls::recording(record).map_err(OpenError::Record)?,
            config,
            clock,
            faults,
            state: Mutex::new(state),
            machines: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        ec2.machines.spawn(Arc::clone(&ec2).watch_market());
        Ok(ec2)
    }

    /// Ends all machines, and returns when they are gone.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        for instance in self.lock().instances.values() {
            instance.orders.send_replace(InstanceOrder::Stop);
        }
        self.machines.close();
        self.machines.wait().await;
    }

    /// Ends all machines without waiting.
    pub fn abandon(&self) {
        self.stop.cancel();
        for instance in self.lock().instances.values() {
            instance.orders.send_replace(InstanceOrder::Kill);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ec2State> {
        self.state.lock()
    }
}

/// The zones of a region by their letters, or as they are named; ids and subnets follow from their place.
#[must_use]
pub fn zones_of(region: &str, names: &[String]) -> Vec<Zone> {
    let short: String = match region.split('-').collect::<Vec<_>>()[..] {
        [area, direction, number] => {
            let first = direction.chars().take(1);
            [area, &first.collect::<String>(), number].concat()
        }
        _ => region.to_owned(),
    };
    let zone = |(name, number): (&String, u32)| Zone {
        name: if name.len() == 1 {
            format!("{region}{name}")
        } else {
            name.clone()
        },
        id: format!("{short}-az{number}"),
        subnet_id: format!("subnet-{number:017x}"),
    };
    names.iter().zip(1..).map(zone).collect()
}

/// Why there is no EC2.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("instances of an earlier run cannot be ended")]
    Leftovers(#[from] io::Error),
    #[error("requests cannot be recorded")]
    Record(#[source] io::Error),
    #[error("there is no market")]
    Market(#[from] MarketError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_ids_as_on_aws() {
        let names = ["a".to_owned(), "somewhere".to_owned()];
        let zones = zones_of("eu-central-1", &names);
        let told = zones
            .iter()
            .map(|zone| (zone.name.as_str(), zone.id.as_str()));
        let expected = [("eu-central-1a", "euc1-az1"), ("somewhere", "euc1-az2")];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(zones_of("home", &names)[0].id, "home-az1");
        assert_eq!(zones_of("a--b", &names)[0].id, "ab-az1");
    }
}
