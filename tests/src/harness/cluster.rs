//! Three nodes on the loopback, every stream on all of them.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use tempfile::TempDir;

use super::nats::{answers, client, layout, passwords, provision, server};
use super::{Process, eventually, free_port, root};

pub const NODES: usize = 3;
/// Elections take seconds on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(60);

pub struct NatsCluster {
    /// All nodes, separated by commas.
    pub url: String,
    ports: [u16; NODES],
    dir: TempDir,
    nodes: [Option<Process>; NODES],
}

impl NatsCluster {
    pub async fn provisioned(lease: Duration) -> Self {
        let dir =
            TempDir::with_prefix("spotreel-cluster-").expect("a temporary directory can be made");
        let ports = [(); NODES].map(|()| free_port());
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
        let url = ports
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .join(",");
        let mut cluster = Self {
            url,
            ports,
            dir,
            nodes: [const { None }; NODES],
        };
        for node in 0..NODES {
            cluster.spawn(node);
        }
        for node in 0..NODES {
            cluster.wait(node).await;
        }
        cluster.elected().await;
        provision(&cluster.url, &layout(lease, NODES)).await;
        cluster
    }

    pub async fn start_node(&mut self, node: usize) {
        self.spawn(node);
        self.wait(node).await;
    }

    pub fn kill9(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    pub async fn client(&self, user: &str) -> Client {
        client(&self.url, user).await
    }

    /// A client of one node, so that racers meet at different servers.
    pub async fn client_of(&self, node: usize, user: &str) -> Client {
        client(&format!("nats://127.0.0.1:{}", self.ports[node]), user).await
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

    fn spawn(&mut self, node: usize) {
        let mut command = Command::new(server());
        command
            .arg("-c")
            .arg(self.dir.path().join(format!("n{node}.conf")))
            .args(["-a", "127.0.0.1", "-p", &self.ports[node].to_string()])
            .arg("-sd")
            .arg(self.dir.path().join(format!("data{node}")))
            .envs(passwords());
        let process = Process::start(command, &self.log(node)).expect("nats-server can be started");
        self.nodes[node] = Some(process);
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("n{node}.log"))
    }

    async fn wait(&self, node: usize) {
        let port = self.ports[node];
        eventually("a node answers", UP_WITHIN, || answers(port)).await;
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
