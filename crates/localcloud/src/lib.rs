//! A small cloud on one machine, for laptops and tests: S3 over a directory, and EC2 over processes, with faults on
//! order.
//!
//! The product talks to it with the same SDK and the same code as to AWS; only the endpoint differs. What it promises
//! is what the product leans on.
//!
//! **S3**: a write with `If-None-Match: *` has exactly one winner, an object is there whole or not at all (also after
//! `kill -9`), a body that does not match its checksum is refused and leaves nothing, signed links are really verified.
//! What it cannot do it refuses with 501.
//!
//! **EC2** (and two quotas): fleets of type `instant` over a Spot market with prices, capacity and interruptions; client
//! tokens; partial fulfilment with AWS's error codes; an instance is the process group of its user-data script with an
//! instance metadata service of its own, and it really ends. Nothing of it outlives the program, and what a killed
//! program left is ended by the next one over the same directory.
//!
//! **Not modelled**, so trust AWS and not this: other fleet types and RunInstances (refused); attributes instead of
//! types, minimum targets and total Spot prices of a fleet (refused); images, networks, security groups, key pairs and
//! IAM (taken and not looked at: all keys may do all things; each machine has a public address); of volumes all but the
//! size, which is billed; on-demand capacity (endless); the age of a signature (the signature itself is verified);
//! fractional weights are summed as they are. Where AWS's documentation does not say how a bad subnet or template in
//! CreateFleet is told, it is told as an error of the whole call; neither does it say how an on-demand fleet that
//! `MaxTotalPrice` ends early is told (here: `UnfulfillableCapacity`). State lives in memory: a new program starts with
//! no instances, fleets or templates.

mod admin;
mod clock;
mod ec2;
mod faults;
mod s3;
mod server;
mod test_cloud;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ec2::{Ec2, Ec2Config};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use ec2::{
    BillLine, Call, InstanceReport, Interruption, InterruptionKind, MarketConfig, OpenError,
    PoolReport, UnknownPool, Zone, zones_of,
};
pub use faults::{Action, FaultPlan, FaultReport, Faults, Rule};
pub use test_cloud::TestCloud;

/// How long requests under way may take once a stop was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Where the built-in market lies.
pub const REGION: &str = "us-east-2";
/// What AWS's documentation calls an account.
pub const ACCOUNT: &str = "123456789012";
/// Fifty of the largest single-GPU machines; AWS gives new accounts 0.
pub const VCPU_QUOTA: u32 = 800;
/// How long a machine may take from SIGTERM to its end. AWS gives some minutes; tests cannot wait for that.
const MACHINE_GRACE: Duration = Duration::from_secs(10);
/// The machines' directories lie in it, beside S3's `buckets`; what their consoles said stays.
const MACHINES: &str = "machines";

/// Where to listen, where to keep the data, and what cloud to be.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Health and faults; none: only [`LocalCloud::faults`] sets faults.
    pub admin: Option<SocketAddr>,
    pub dir: PathBuf,
    pub access_key: String,
    pub secret_key: String,
    /// The market's zones are told in it; signatures for any region are taken.
    pub region: String,
    pub account_id: String,
    /// How much faster than the real one the cloud's time runs: prices, bill, notices, launch times.
    pub speed: f64,
    /// How far the cloud's clock is ahead of ours at the start: clocks differ.
    pub clock_ahead: jiff::SignedDuration,
    /// How long an instance is `pending`, in real time.
    pub boot: Duration,
    /// From SIGTERM to SIGKILL for a machine, in real time.
    pub machine_grace: Duration,
    /// vCPUs that Spot may hold, and on-demand as many.
    pub vcpu_quota: u32,
    /// Environment of every machine, beside the program's own.
    pub instance_variables: Vec<(String, String)>,
    pub market: MarketConfig,
    /// A file to which the requests of EC2 and Service Quotas are written, a line of JSON each; none: to none.
    pub record: Option<PathBuf>,
}

impl Config {
    /// Free ports on the loopback, fixed keys and a calm market, for tests. Where `SPOTREEL_LOCALCLOUD_RECORD` names a
    /// directory, each process that runs tests records what it sends in a file of its own there.
    pub fn for_tests(dir: impl Into<PathBuf>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            admin: Some(any),
            dir: dir.into(),
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
            region: REGION.to_owned(),
            account_id: ACCOUNT.to_owned(),
            speed: 1.0,
            clock_ahead: jiff::SignedDuration::ZERO,
            boot: Duration::ZERO,
            machine_grace: MACHINE_GRACE,
            vcpu_quota: VCPU_QUOTA,
            instance_variables: Vec::new(),
            market: MarketConfig::calm(),
            record: std::env::var_os("SPOTREEL_LOCALCLOUD_RECORD").map(|dir| {
                let file = format!("requests-{}.jsonl", std::process::id());
                PathBuf::from(dir).join(file)
            }),
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
    #[error("cannot start EC2")]
    Ec2(#[from] OpenError),
}

/// A running cloud. Dropping it stops it at once, `shutdown` politely.
#[derive(Debug)]
pub struct LocalCloud {
    pub s3_addr: SocketAddr,
    pub admin_addr: Option<SocketAddr>,
    faults: Arc<Faults>,
    ec2: Arc<Ec2>,
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

        let faults = Arc::<Faults>::default();
        let ec2 = Ec2::open(
            Ec2Config {
                dir: config.dir.join(MACHINES),
                region: config.region,
                account_id: config.account_id,
                access_key: config.access_key.clone(),
                secret_key: config.secret_key.clone(),
                speed: config.speed,
                clock_ahead: config.clock_ahead,
                boot: config.boot,
                grace: config.machine_grace,
                vcpu_quota: config.vcpu_quota,
                variables: config.instance_variables,
                market: config.market,
                record: config.record,
            },
            Arc::clone(&faults),
        )?;

        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(
            config.access_key,
            config.secret_key,
        ));
        let cloud = Self {
            s3_addr,
            admin_addr: admin.as_ref().map(|(_, address)| *address),
            faults,
            ec2,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let server = server::Server {
            s3: builder.build(),
            ec2: Arc::clone(&cloud.ec2),
            faults: Arc::clone(&cloud.faults),
            stop: cloud.stop.clone(),
            connections: cloud.tasks.clone(),
            kill: cloud.kill.clone(),
        };
        cloud.tasks.spawn(server.run(listener));
        if let Some((listener, _)) = admin {
            let router = admin::router(Arc::clone(&cloud.faults), Arc::clone(&cloud.ec2));
            let stop = cloud.stop.clone().cancelled_owned();
            let kill = cloud.kill.clone();
            cloud.tasks.spawn(async move {
                let serve = axum::serve(listener, router).with_graceful_shutdown(stop);
                if let Some(Err(error)) = kill.run_until_cancelled(serve.into_future()).await {
                    tracing::error!(%error, "admin listener failed");
                }
            });
        }
        Ok(cloud)
    }

    /// The rules in force, for tests in the same process.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// All instances that are still shown, oldest first.
    pub fn instances(&self) -> Vec<InstanceReport> {
        self.ec2.reports()
    }

    /// What each machine has cost, up to now.
    pub fn bill(&self) -> Vec<BillLine> {
        self.ec2.bill()
    }

    /// The calls of EC2 and Service Quotas, oldest first; the newest ten thousand.
    pub fn calls(&self) -> Vec<Call> {
        self.ec2.calls(0)
    }

    /// All pools of the market.
    pub fn pools(&self) -> Vec<PoolReport> {
        self.ec2.pools()
    }

    /// From now on an hour of a pool costs this.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn set_price(&self, kind: &str, zone: &str, micros: i64) -> Result<(), UnknownPool> {
        self.ec2.set_price(kind, zone, micros)
    }

    /// From now on a pool has this many instances.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn set_capacity(&self, kind: &str, zone: &str, n: u32) -> Result<(), UnknownPool> {
        self.ec2.set_capacity(kind, zone, n)
    }

    /// The market takes an instance, or warns it: which one; `None` if there is none to take.
    pub fn interrupt(&self, order: &Interruption) -> Option<String> {
        self.ec2.interrupt(order)
    }

    /// `http://127.0.0.1:PORT`, as the SDK wants it; S3 and EC2 alike.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.s3_addr)
    }

    /// Answers what is under way, then stops; whoever is not done after a few seconds is cut off. No machine is left.
    pub async fn shutdown(self) {
        // Machines first: S3 is still there for what they want to save.
        self.ec2.shutdown().await;
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
        self.ec2.abandon();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
