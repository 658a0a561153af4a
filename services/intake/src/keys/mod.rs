//! API keys: the operators' orders, the cache that the HTTP API uses, who calls, and each key's rate.

mod caller;
pub mod pace;

use async_nats::Client;
use spotreel_api::{ApiError, KeyCreated, KeyList, KeyOrder, KeyRef, KeyView};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::keys::{self, MAX_KEYS};
use spotreel_bus::{KeyRing, jetstream};
use spotreel_domain::api_key::{KeyId, SECRET_BYTES, Token};

pub use self::caller::Caller;
use crate::clock::now;
use crate::error;

/// Two keys of one id are drawn once in a thousand years; twice in a row is no coincidence.
const DRAWS: usize = 2;

/// A ring that is kept current until the program stops; whether it is shows in the program's health.
pub fn ring(client: &Client, ctx: &Context) -> KeyRing {
    ctx.health.expect("keys");
    let ring = KeyRing::new(client);
    ctx.spawn("keys", follow(ring.clone(), ctx.clone()));
    ring
}

async fn follow(ring: KeyRing, ctx: Context) -> anyhow::Result<()> {
    let say = |state| ctx.health.set("keys", state);
    ring.run(&ctx.stopping, say).await;
    Ok(())
}

/// The order is checked before anything is read; the token is in this answer and nowhere else.
pub async fn create(client: &Client, order: &KeyOrder) -> Result<KeyCreated, ApiError> {
    let now = now();
    let mut token = draw();
    let mut key = order.key(&token, now).map_err(error::invalid)?;
    let stored = keys::list(client).await;
    let stored = stored.map_err(|failure| unavailable(&failure))?;
    if stored.len() >= MAX_KEYS {
        return Err(error::too_many_keys(MAX_KEYS));
    }
    for _ in 0..DRAWS {
        match keys::put(client, &key).await {
            Ok(()) => {
                tracing::info!(id = %key.id, owner = %key.owner, access = ?key.access, "API key created");
                let key = KeyView::from(&key);
                return Ok(KeyCreated { key, token });
            }
            Err(jetstream::JetStreamError::Conflict) => {
                token = draw();
                key = order.key(&token, now).map_err(error::invalid)?;
            }
            Err(failure) => return Err(unavailable(&failure)),
        }
    }
    Err(error::unavailable("every id that was drawn is taken"))
}

pub async fn list(client: &Client) -> Result<KeyList, ApiError> {
    let keys = keys::list(client).await;
    let keys = keys.map_err(|failure| unavailable(&failure))?;
    let keys = keys.iter().map(KeyView::from).collect();
    Ok(KeyList { keys })
}

pub async fn revoke(client: &Client, named: KeyRef) -> Result<KeyRef, ApiError> {
    let id =
        KeyId::parse(&named.id).map_err(|bad| error::broken("id", "token", bad.to_string()))?;
    match keys::revoke(client, &id).await {
        Ok(()) => {
            tracing::info!(%id, "API key revoked");
            Ok(named)
        }
        Err(jetstream::JetStreamError::NotFound) => Err(error::no_key(&id)),
        Err(failure) => Err(unavailable(&failure)),
    }
}

fn draw() -> Token {
    let mut secret = [0; SECRET_BYTES];
    for part in secret.chunks_exact_mut(size_of::<u64>()) {
        part.copy_from_slice(&ambient::random_u64().to_le_bytes());
    }
    Token::new(KeyId::from_random(ambient::random_u64()), secret)
}

fn unavailable(failure: &jetstream::JetStreamError) -> ApiError {
    tracing::warn!(error = %spotreel_domain::chain(failure), "access to the key bucket failed");
    error::unavailable("the keys cannot be reached now")
}
