//! The connection to the NATS server at the worker's start.

use anyhow::Context as _;
use async_nats::{Client, ConnectErrorKind};
use spotreel_bus::connect::{ConnectError, connect};

use crate::config::WorkerConfig;
use crate::machine::cloud::Mode;

/// Connects. A server that is down is waited for. On a bought machine nobody corrects a setting, so one that cannot be
/// right ends the worker at once; elsewhere names and passwords may still be made while it waits.
pub async fn reach(config: &WorkerConfig) -> anyhow::Result<Client> {
    if config.cloud.metadata == Mode::On {
        match connect(&config.nats, "worker", false).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                if let Some(key) = wrong_key(&error) {
                    return Err(error).context(format!("{key} is wrong: correct the parameter"));
                }
            }
        }
    }
    Ok(connect(&config.nats, "worker", true).await?)
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
