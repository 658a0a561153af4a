//! The servers that trigger talks to, and the pools.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_domain::pool::Pools;
use spotreel_ec2::Ec2;

use crate::config::TriggerConfig;
use crate::error::StartError;

pub struct Deps {
    pub nats: Client,
    /// `None` if no pool launches instances.
    pub ec2: Option<Ec2>,
    /// As they were when the program started.
    pub pools: Pools,
}

impl Deps {
    /// Does not wait for NATS: the connection is made as soon as there is a server.
    pub async fn connect(config: &TriggerConfig, ctx: &Context) -> Result<Self, StartError> {
        let nats = spotreel_bus::connect(&config.nats, ctx.name, true).await?;
        let pools = config.load_pools()?;
        let ec2 = match pools.kinds().is_empty() {
            true => None,
            false => Some(Ec2::connect(&config.ec2).await),
        };
        Ok(Self { nats, ec2, pools })
    }
}
