//! A small cloud on one machine, for laptops and tests: S3 over a directory, with faults on order.
//!
//! The product talks to it with the same SDK and the same code as to AWS; only the endpoint differs. What it promises
//! is what the product leans on: a write with `If-None-Match: *` has exactly one winner, an object is there whole or
//! not at all (also after `kill -9`), a body that does not match its checksum is refused and leaves nothing, signed
//! links are really verified. What it cannot do it refuses with 501.

mod admin;
mod clock;
mod ec2;
mod faults;
mod s3;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use faults::{Action, Faults, Plan, Report, Rule};

/// How long requests under way may take once a stop was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Where to listen and where to keep the data.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Health and faults; none: only [`LocalCloud::faults`] sets faults.
    pub admin: Option<SocketAddr>,
    pub dir: PathBuf,
    pub access_key: String,
    pub secret_key: String,
}

impl Config {
    /// Free ports on the loopback and fixed keys, for tests.
    pub fn for_tests(dir: impl Into<PathBuf>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            admin: Some(any),
            dir: dir.into(),
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
        }
    }
}

/// Why the cloud did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
}

/// A running cloud. Dropping it stops it at once, `shutdown` politely.
#[derive(Debug)]
pub struct LocalCloud {
    pub s3_addr: SocketAddr,
    pub admin_addr: Option<SocketAddr>,
    faults: Arc<Faults>,
    stop: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl LocalCloud {
    /// Opens the directory and listens; when this returns, requests are served.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let store = s3::DirectoryS3::open(&config.dir).map_err(|source| StartError::Directory {
            path: config.dir.clone(),
            source,
        })?;
        let (listener, s3_addr) = listen(config.listen).await?;
        let admin = match config.admin {
            Some(address) => Some(listen(address).await?),
            None => None,
        };

        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(
            config.access_key,
            config.secret_key,
        ));
        let cloud = Self {
            s3_addr,
            admin_addr: admin.as_ref().map(|(_, address)| *address),
            faults: Arc::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let server = server::Server {
            s3: builder.build(),
            faults: Arc::clone(&cloud.faults),
            stop: cloud.stop.clone(),
            connections: cloud.tasks.clone(),
            kill: cloud.kill.clone(),
        };
        cloud.tasks.spawn(server.run(listener));
        if let Some((listener, _)) = admin {
            let router = admin::router(Arc::clone(&cloud.faults));
            let stop = cloud.stop.clone().cancelled_owned();
            let kill = cloud.kill.clone();
            cloud.tasks.spawn(async move {
                let serve = axum::serve(listener, router).with_graceful_shutdown(stop);
                if let Some(Err(error)) = kill.run_until_cancelled(serve.into_future()).await {
                    tracing::error!(%error, "the admin listener ended");
                }
            });
        }
        Ok(cloud)
    }

    /// The rules in force, for tests in the same process.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// `http://127.0.0.1:PORT`, as the SDK wants it.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.s3_addr)
    }

    /// Answers what is under way, then stops; whoever is not done after a few seconds is cut off.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            self.kill.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
