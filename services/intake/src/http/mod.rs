//! The HTTP API: what a web developer expects of one, over the same paths as the NATS doors.
//!
//! Nothing here may be exhausted by who asks: connections, requests at work, bytes of bodies that have not arrived
//! whole, uploads of lists and followers each have a number, and of that a part for each owner of keys. What comes beyond hears
//! `503`, or `429` where it is the owner's part, and when to come back.

mod auth;
mod body;
mod events;
mod images;
mod jsonl;
mod lines;
mod listen;
mod openapi;
mod problem;
mod query;
mod quotes;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use async_nats::Client;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::KeyRing;
use tokio::net::TcpListener;

use crate::caller::Caller;
use crate::config::{ApiConfig, Auth};
use crate::feed::Feed;
use crate::http::body::Budget;
use crate::pace::KeyPace;
use crate::shares::Shares;
use crate::submit::Intake;

pub use openapi::document;

/// Tells nginx, and those who took the name from it, to pass on a stream as it comes.
const UNBUFFERED: [(&str, &str); 1] = [("x-accel-buffering", "no")];

/// What every route works with.
#[derive(Clone)]
pub(crate) struct Api {
    intake: Arc<Intake>,
    feed: Feed,
    /// None: `api.auth` is off.
    keys: Option<KeyRing>,
    pace: Arc<KeyPace>,
    config: Arc<ApiConfig>,
    budget: Budget,
    /// Requests at work.
    places: Shares,
    /// Bodies that have not arrived whole.
    arriving: Shares,
    uploads: Shares,
    followers: Shares,
    ctx: Context,
}

impl Api {
    /// Whether the caller may still do what it began: its key is neither revoked nor expired.
    fn is_live(&self, caller: &Caller) -> bool {
        match (&self.keys, caller) {
            (Some(keys), Caller::Key(key)) => keys.is_live(key, ambient::now()),
            _ => true,
        }
    }
}

/// Takes the address, so that a taken one fails at once and tests learn the port.
pub(crate) async fn bind(config: &ApiConfig) -> anyhow::Result<TcpListener> {
    let listen = config.listen;
    TcpListener::bind(listen).await.with_context(|| {
        format!("can't listen on {listen}: set api.listen to a free address, or to port 0 for any")
    })
}

/// Answers on the listener until the program stops.
pub(crate) fn serve(
    listener: TcpListener,
    config: ApiConfig,
    intake: &Arc<Intake>,
    keys: KeyRing,
    client: &Client,
    ctx: &Context,
) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr()?;
    if config.auth == Auth::Off {
        tracing::warn!(
            api = %address,
            "api.auth is off: everyone who can reach this address may submit, read and cancel every task"
        );
    }
    let feed = Feed::new(client);
    ctx.spawn("feed", feed.clone().hear(ctx.clone()));
    let shares = |what, bound| Shares::new(what, bound, config.share(bound));
    let api = Api {
        intake: intake.clone(),
        feed,
        keys: (config.auth == Auth::Keys).then_some(keys),
        pace: Arc::new(KeyPace::new()),
        budget: Budget::new(&config),
        places: shares("requests at work", config.concurrent_requests),
        arriving: shares("bodies that have not arrived whole", config.connections),
        uploads: shares("lists that are uploaded", config.uploads),
        followers: shares("followers of events", config.followers),
        config: Arc::new(config),
        ctx: ctx.clone(),
    };
    let router = routes::router(&api)?;
    ctx.spawn(
        "api",
        listen::run(listener, router, api.config, ctx.clone()),
    );
    tracing::info!(api = %address, "HTTP API listening");
    Ok(address)
}
