//! A service within the test's process.

use std::net::{Ipv4Addr, SocketAddr};

use serde::de::DeserializeOwned;
use spotreel_bootstrap::Context;
use spotreel_bootstrap::config::{Sources, load_from};
use tracing_subscriber::EnvFilter;

/// What the service's `start` is handed. What it logs goes to the test's output; `RUST_LOG` says what that is.
pub fn context(name: &'static str) -> Context {
    // The first of several contexts sets it for all.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    Context::new(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// Stops the service, and waits until all its tasks have ended.
pub async fn stop(ctx: &Context) {
    ctx.stopping.cancel();
    ctx.tasks.close();
    ctx.tasks.wait().await;
}

/// What `/readyz` says of a check that fails; none: it does not fail, or is unknown.
pub fn failing(ctx: &Context, check: &str) -> Option<String> {
    let health = ctx.health.readiness();
    let check = health.checks.get(check).filter(|check| !check.ok)?;
    check.reason.clone()
}

/// The service's defaults, with these keys over them.
pub fn load_config<C: DeserializeOwned>(
    name: &str,
    defaults: &str,
    keys: &[(String, String)],
) -> C {
    let sources = Sources {
        name,
        defaults,
        overrides: keys.to_vec(),
        ..Sources::default()
    };
    load_from(&sources).expect("the test's configuration is a valid one")
}
