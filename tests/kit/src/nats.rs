//! A real nats-server with the product's own configuration.

use std::time::Duration;

use async_nats::Client;
use spotreel_bus::NatsConfig;
use spotreel_bus::provision::{self, Layout};
use tempfile::TempDir;

use super::{Server, client, config, refused_rights, root};

pub struct Nats {
    pub url: String,
    pub port: u16,
    server: Server,
    _dir: TempDir,
}

impl Nats {
    /// Its address is known, and nobody answers there before [`Nats::begin`].
    pub fn idle() -> Self {
        let dir =
            TempDir::with_prefix("spotreel-nats-").expect("a temporary directory can be made");
        let conf = root().join("deploy/nats/nats-server.conf");
        let server = Server::new(conf, dir.path(), "nats");
        let port = server.port;
        Self {
            url: format!("nats://127.0.0.1:{port}"),
            port,
            server,
            _dir: dir,
        }
    }

    /// Up, with nothing in it.
    pub async fn start() -> Self {
        let mut nats = Self::idle();
        nats.begin().await;
        nats
    }

    /// Up, with what services find in their account.
    pub async fn for_services() -> Self {
        let nats = Self::start().await;
        nats.provision(&Layout::default()).await;
        nats
    }

    /// Up and provisioned in both accounts, with leases as short as a test wants them.
    pub async fn provisioned(lease: Duration) -> Self {
        let nats = Self::start().await;
        provision(&nats.url, &layout(lease, 1)).await;
        nats
    }

    /// Streams, consumers and buckets in the services' account.
    pub async fn provision(&self, layout: &Layout) {
        let made = provision::apply(&self.client("provision").await, layout).await;
        made.expect("the services' account can be provisioned");
    }

    /// Starts it over the data that it has, and waits until it takes clients.
    pub async fn begin(&mut self) {
        self.server.spawn();
        self.server.greeted().await;
    }

    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// Stops it politely and starts it over the same data.
    pub async fn restart(&mut self) {
        self.server.stop().await;
        self.begin().await;
    }

    /// `kill -9`, and up again over what lies on the disk.
    pub async fn crash(&mut self) {
        self.kill9();
        self.begin().await;
    }

    /// What the server has refused to programs, line by line of its log.
    pub fn refused_rights(&self) -> Vec<String> {
        let said = self.server.said();
        refused_rights(&said)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    pub fn pause(&self) {
        self.server.freeze();
    }

    pub fn resume(&self) {
        self.server.thaw();
    }

    pub fn config(&self, user: &str) -> NatsConfig {
        config(&self.url, user)
    }

    pub async fn client(&self, user: &str) -> Client {
        client(&self.url, user).await
    }
}

/// The sizes of a test's streams: small, so that many fit one machine.
pub fn layout(lease: Duration, replicas: usize) -> Layout {
    const MIB: i64 = 1 << 20;
    Layout {
        replicas,
        lease,
        tasks_max_bytes: 256 * MIB,
        events_max_bytes: 256 * MIB,
        inbox_max_bytes: 64 * MIB,
        batches_max_bytes: 64 * MIB,
        ledger_max_bytes: 64 * MIB,
    }
}

/// Streams, consumers and buckets in both accounts.
pub async fn provision(url: &str, layout: &Layout) {
    let services = client(url, "provision").await;
    provision::apply(&services, layout)
        .await
        .expect("the services' account can be provisioned");
    let clients = client(url, "clients-provision").await;
    provision::apply_clients(&clients, layout)
        .await
        .expect("the clients' account can be provisioned");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_can_be_killed_and_comes_back_where_it_was() {
        let mut nats = Nats::start().await;
        let client = nats.client("provision").await;
        client.flush().await.unwrap();
        nats.crash().await;
        nats.restart().await;
        let again = nats.client("client").await;
        assert_eq!(again.server_info().port, nats.port);
    }

    #[tokio::test]
    async fn what_a_program_has_no_right_to_fails_its_test() {
        let nats = Nats::start().await;
        let mut wanted = Vec::new();
        for user in ["client", "monitor", "trigger"] {
            let client = nats.client(user).await;
            client.publish("of.nobody", "".into()).await.unwrap();
            client.flush().await.unwrap();
            let _answers = client.subscribe("of.nobody").await.unwrap();
            client.flush().await.unwrap();
            wanted.push(format!("user:{user}\""));
        }
        crate::until("both programs were refused both", async || {
            nats.refused_rights().len() == 4
        })
        .await;
        let refused = nats.refused_rights();
        let of = |user: &String| refused.iter().filter(|line| line.contains(user)).count();
        assert_eq!(wanted.iter().map(of).collect::<Vec<_>>(), [0, 2, 2]);
    }

    #[tokio::test]
    #[should_panic(expected = "rights are missing")]
    async fn a_refused_right_fails_the_test() {
        let nats = Nats::start().await;
        let client = nats.client("monitor").await;
        client.publish("of.nobody", "".into()).await.unwrap();
        crate::until("it was refused", async || !nats.refused_rights().is_empty()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "address already in use")]
    async fn one_that_ends_at_once_says_why() {
        let mut nats = Nats::idle();
        let _taken = std::net::TcpListener::bind(("127.0.0.1", nats.port)).unwrap();
        nats.begin().await;
    }
}
