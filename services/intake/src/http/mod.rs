//! The HTTP API: what a web developer expects of one, over the same paths as the NATS API.
//!
//! Nothing here may be exhausted by who asks: connections, requests at work, bytes of bodies that have not arrived
//! whole, uploads of lists and followers each have a number, and of that a part for each owner of keys. What comes beyond hears
//! `503`, or `429` where it is the owner's part, and when to come back.

mod alarms;
mod api;
mod ask;
mod auth;
mod body;
mod budget;
mod costs;
mod events;
mod feed;
mod images;
mod jsonl;
mod lines;
mod listen;
mod openapi;
mod page;
mod problem;
mod query;
mod quotes;
mod recent;
mod routes;
mod running;
mod search;
mod shares;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;

use spotreel_bootstrap::Context;
use spotreel_bus::KeyRing;
use tokio::net::TcpListener;

use self::api::Api;
use self::budget::Budget;
use self::feed::Feed;
use self::recent::Recent;
use self::shares::Shares;
use crate::config::{ApiConfig, Auth};
use crate::error::StartError;
use crate::intake::Intake;
use crate::keys::pace::KeyPace;

pub use routes::document;

/// Takes the address, so that a taken one fails at once and tests learn the port.
pub(crate) async fn bind(config: &ApiConfig) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = config.listen;
    let taken = |source| StartError::Listen { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok((listener, address))
}

/// Answers on the listener until the program stops.
pub(crate) fn serve(
    listener: TcpListener,
    address: SocketAddr,
    config: ApiConfig,
    intake: &Arc<Intake>,
    keys: KeyRing,
    ctx: &Context,
) {
    if config.auth == Auth::Off {
        tracing::warn!(
            api = %address,
            "api.auth is off: everyone who can reach this address may submit, read and cancel every task"
        );
    }
    let feed = Feed::new(intake.log.client());
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
        recent: Recent::default(),
        followers: shares("followers of events", config.followers),
        config: Arc::new(config),
        ctx: ctx.clone(),
    };
    let router = routes::router(&api);
    ctx.spawn(
        "api",
        listen::run(listener, router, api.config, ctx.clone()),
    );
    tracing::info!(api = %address, "HTTP API listening");
}
