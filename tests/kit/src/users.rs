//! The users of deploy/nats/accounts.conf, with passwords for tests.

use async_nats::Client;
use async_nats::connection::State;
use spotreel_bus::{NatsConfig, connect};

use super::until;

pub fn password(user: &str) -> String {
    format!("{user}-of-a-test")
}

pub fn config(url: &str, user: &str) -> NatsConfig {
    NatsConfig {
        url: url.to_owned(),
        user: Some(user.to_owned()),
        password: Some(password(user)),
        creds: None,
    }
}

/// Connected as `user`, with the inbox that its permissions allow.
pub async fn client(url: &str, user: &str) -> Client {
    let program = if user.ends_with("provision") || user == "operator" {
        "client"
    } else {
        user
    };
    // Patient: one try has 5 s, and a machine that does much else may need more.
    let client = connect(&config(url, user), program, true)
        .await
        .expect("the address of a test's server is one");
    until(&format!("{user} is connected"), async || {
        client.connection_state() == State::Connected
    })
    .await;
    client
}
