//! The servers that fleet talks to.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_ec2::Ec2;

use crate::config::FleetConfig;
use crate::error::StartError;
use crate::fleet::Lead;

pub struct Deps {
    pub nats: Client,
    /// `None` if no pool launches instances.
    pub ec2: Option<Ec2>,
    pub lead: Lead,
}

impl Deps {
    /// Does not wait for NATS: the connection is made as soon as there is a server, and expired instances are terminated
    /// without it.
    pub async fn connect(config: &FleetConfig, ctx: &Context) -> Result<Self, StartError> {
        let nats = spotreel_bus::connect(&config.nats, ctx.name, true).await?;
        let ec2 = match config.load_pools()?.kinds().is_empty() {
            true => None,
            false => Some(Ec2::connect(&config.ec2).await),
        };
        let lead = Lead::ByLease;
        Ok(Self { nats, ec2, lead })
    }
}
