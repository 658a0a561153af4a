//! A real nats-server with the product's accounts, and in it what services find.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

use spotreel_bus::provision::{self, Layout};
pub use spotreel_test_kit::{Nats, until};

pub async fn provisioned() -> Nats {
    let nats = Nats::start().await;
    let admin = nats.client("provision").await;
    provision::apply(&admin, &Layout::default()).await.unwrap();
    nats
}
