//! Three nodes on the loopback, every stream on all of them.

use std::fmt::Write;
use std::time::Duration;

use async_nats::Client;
use spotreel_test_kit::{Server, client, eventually, free_port, layout, provision, root};
use tempfile::TempDir;

pub const NODES: usize = 3;
/// Elections take seconds on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(60);

pub struct NatsCluster {
    /// All nodes, separated by commas.
    pub url: String,
    nodes: [Server; NODES],
    _dir: TempDir,
}

impl NatsCluster {
    pub async fn provisioned(lease: Duration) -> Self {
        let dir =
            TempDir::with_prefix("spotreel-cluster-").expect("a temporary directory can be made");
        let routes = [(); NODES].map(|()| free_port());
        // An include is looked for beside the file that names it.
        let accounts = root().join("deploy/nats/accounts.conf");
        std::fs::copy(&accounts, dir.path().join("accounts.conf"))
            .expect("the accounts can be copied");
        let peers = routes
            .map(|port| format!("nats-route://127.0.0.1:{port}"))
            .join(", ");
        for (node, route) in routes.iter().enumerate() {
            let mut text = String::new();
            write!(
                text,
                "server_name: n{node}\n\
                 jetstream {{ sync_interval: always, max_file: 20GB, max_mem: 256MB }}\n\
                 max_payload: 8MB\nping_interval: 20s\nping_max: 2\n\
                 cluster {{ name: spotreel, listen: \"127.0.0.1:{route}\", routes: [ {peers} ] }}\n\
                 include ./accounts.conf\n",
            )
            .expect("a string can be written to");
            std::fs::write(dir.path().join(format!("n{node}.conf")), text)
                .expect("the configuration can be written");
        }
        let mut nodes = std::array::from_fn(|node| {
            let name = format!("n{node}");
            Server::new(dir.path().join(format!("{name}.conf")), dir.path(), &name)
        });
        nodes.iter_mut().for_each(Server::spawn);
        for node in &mut nodes {
            node.greeted().await;
        }
        let url = nodes.each_ref().map(address).join(",");
        let cluster = Self {
            url,
            nodes,
            _dir: dir,
        };
        cluster.elected().await;
        provision(&cluster.url, &layout(lease, NODES)).await;
        cluster
    }

    pub async fn start_node(&mut self, node: usize) {
        self.nodes[node].spawn();
        self.nodes[node].greeted().await;
    }

    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9();
    }

    pub async fn client(&self, user: &str) -> Client {
        client(&self.url, user).await
    }

    /// A client of one node, so that racers meet at different servers.
    pub async fn client_of(&self, node: usize, user: &str) -> Client {
        client(&address(&self.nodes[node]), user).await
    }

    /// The node that leads `stream` now.
    pub async fn leader(&self, client: &Client, stream: &str) -> Option<usize> {
        let mut stream = async_nats::jetstream::new(client.clone())
            .get_stream(stream)
            .await
            .ok()?;
        let leader = stream.info().await.ok()?.cluster.as_ref()?.leader.clone()?;
        leader.strip_prefix('n')?.parse().ok()
    }

    /// JetStream answers once the nodes have found each other and a leader.
    async fn elected(&self) {
        let client = self.client("provision").await;
        eventually("the cluster has a leader", UP_WITHIN, || {
            let context = async_nats::jetstream::new(client.clone());
            async move { context.query_account().await.ok().map(drop) }
        })
        .await;
    }
}

fn address(node: &Server) -> String {
    format!("nats://127.0.0.1:{}", node.port)
}
