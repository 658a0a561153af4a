//! A real nats-server on a free port with the product's accounts, provisioned.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::Client;
use spotreel_bus::NatsConfig;
use spotreel_bus::provision::{self, Layout};
use tempfile::TempDir;

const PASSWORD: &str = "secret";
/// Far more than anything here takes; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Nats {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Nats {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let binary = std::env::var("SPOTREEL_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats");
        let accounts = std::fs::read_to_string(deploy.join("accounts.conf")).unwrap();
        // Every password that the accounts name.
        let passwords = accounts.split("password: $").skip(1).map(|rest| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name: String = rest.chars().take_while(|c| plain(*c)).collect();
            (name, PASSWORD)
        });
        let child = Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"])
            .arg(deploy.join("nats-server.conf"))
            .arg("-sd")
            .arg(dir.path())
            .envs(passwords)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server: set SPOTREEL_NATS_SERVER to its path");
        let nats = Self {
            child,
            port,
            _dir: dir,
        };
        until("the server listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        let admin = nats.client("provision").await;
        provision::apply(&admin, &Layout::default()).await.unwrap();
        nats
    }

    pub async fn client(&self, user: &str) -> Client {
        let config = NatsConfig {
            url: format!("nats://127.0.0.1:{}", self.port),
            user: Some(user.into()),
            password: Some(PASSWORD.into()),
            creds: None,
        };
        let program = match user {
            "client" | "operator" => "client",
            other => other,
        };
        spotreel_bus::connect(&config, program, false)
            .await
            .unwrap()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came true: {what}");
}
