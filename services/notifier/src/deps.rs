//! The servers that notifier talks to.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_s3::Store;

use crate::config::NotifierConfig;
use crate::error::StartError;

pub struct Deps {
    pub nats: Client,
    pub store: Store,
}

impl Deps {
    /// Does not wait for NATS: the connection is made as soon as there is a server.
    pub async fn connect(config: &NotifierConfig, ctx: &Context) -> Result<Self, StartError> {
        Ok(Self {
            nats: spotreel_bus::connect(&config.nats, ctx.name, true).await?,
            store: Store::connect(&config.s3).await,
        })
    }
}
