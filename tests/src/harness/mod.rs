//! A whole spotreel on free ports, every piece of which can be killed, frozen and started again.
//!
//! Nothing is left behind: every child leads a process group of its own, which dies with its handle, or with this
//! process, however that ends.

pub mod api;
pub mod cloud;
pub mod cluster;
pub mod fleet;
pub mod nats;
pub mod process;
pub mod program;
pub mod system;
pub mod tasks;

use std::time::{Duration, Instant};

pub use api::Api;
pub use cloud::Cloud;
pub use cluster::NatsCluster;
pub use fleet::{FleetOptions, FleetStage};
pub use nats::Nats;
pub use process::Process;
pub use program::Program;
pub use system::{System, SystemOptions};

const POLL: Duration = Duration::from_millis(50);

/// Waits until the condition gives something, and gives that. Panics, saying what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, timeout: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(
            began.elapsed() < timeout,
            "waited {timeout:?} in vain until {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Checks that the condition stays as it is for the whole time.
pub async fn always<F, Fut>(what: &str, during: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    while began.elapsed() < during {
        assert!(
            condition().await,
            "after {:?} it was no longer so that {what}",
            began.elapsed()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The repository's root.
pub fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the tests are a member of the workspace")
        .to_owned()
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections: a server that is down
/// finds its port free when it comes back.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u64> = 12_000..32_000;
    loop {
        let drawn =
            PORTS.start + spotreel_bootstrap::ambient::random_u64() % (PORTS.end - PORTS.start);
        let port = u16::try_from(drawn).expect("the range ends below 65,536");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
