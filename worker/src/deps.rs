//! What a worker talks to: NATS, storage, the metadata service of its machine.

use async_nats::{Client, ConnectErrorKind};
use futures::future::join3;
use spotreel_bootstrap::Context;
use spotreel_bus::connect::{ConnectError, connect};
use spotreel_packs::Remote;
use spotreel_s3::Store;

use crate::config::WorkerConfig;
use crate::error::StartError;
use crate::machine::cloud::{MetadataMode, WorkerCloud};
use crate::packs;

pub struct Deps {
    pub nats: Client,
    pub store: Store,
    /// None: the machine is no cloud's.
    pub cloud: Option<WorkerCloud>,
    /// Where packs and LoRAs lie.
    pub remote: Remote,
}

impl Deps {
    pub async fn connect(config: &WorkerConfig, ctx: &Context) -> Result<Self, StartError> {
        let nats = reach(config, ctx.name).await?;
        let connecting = join3(
            Store::connect(&config.s3),
            WorkerCloud::find(&config.cloud),
            packs::remote(&config.packs, &config.s3),
        );
        let (store, cloud, remote) = Box::pin(connecting).await;
        Ok(Self {
            nats,
            store,
            cloud,
            remote,
        })
    }
}

/// Connects to NATS. A server that is down is waited for. On a bought machine nobody corrects a setting, so one that cannot be
/// right ends the worker at once; elsewhere names and passwords may still be made while it waits.
async fn reach(config: &WorkerConfig, name: &str) -> Result<Client, StartError> {
    if config.cloud.metadata == MetadataMode::On {
        match connect(&config.nats, name, false).await {
            Ok(client) => return Ok(client),
            Err(source) => {
                if let Some(key) = wrong_key(&source) {
                    return Err(StartError::Parameter { key, source });
                }
            }
        }
    }
    Ok(connect(&config.nats, name, true).await?)
}

/// The key whose value cannot be right, whether the server is up or not.
fn wrong_key(error: &ConnectError) -> Option<&'static str> {
    let ConnectError::Refused { source, .. } = error else {
        return None;
    };
    match source.kind() {
        ConnectErrorKind::Dns | ConnectErrorKind::ServerParse => Some("nats.url"),
        ConnectErrorKind::Tls => Some("the certificate behind nats.url"),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Some("nats.password or nats.user")
        }
        _ => None,
    }
}
