//! The servers that intake talks to.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_packs::Remote;
use spotreel_s3::Store;

use crate::config::IntakeConfig;
use crate::error::StartError;

pub struct Deps {
    pub nats: Client,
    /// Pictures and videos.
    pub store: Store,
    /// Model packs and LoRAs.
    pub packs: Remote,
}

impl Deps {
    /// Does not wait for NATS: the connection is made as soon as there is a server.
    pub async fn connect(config: &IntakeConfig, ctx: &Context) -> Result<Self, StartError> {
        let nats = spotreel_bus::connect(&config.nats, ctx.name, true).await?;
        let mut place = config.s3.store();
        let store = Store::connect(&place).await;
        let packs = match config.packs.bucket.as_str() {
            "" => store.clone(),
            bucket => {
                bucket.clone_into(&mut place.bucket);
                Store::connect(&place).await
            }
        };
        let packs = Remote::new(packs, &config.packs.prefix);
        Ok(Self { nats, store, packs })
    }
}
