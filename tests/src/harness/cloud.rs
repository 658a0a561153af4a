//! The local cloud as a program, so that it can be killed like one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use spotreel_ec2::{Ec2, Ec2Config};
use spotreel_programs::CloudAccess;
use spotreel_s3::{Keys, Store, StoreConfig};
use tempfile::TempDir;

use super::program::{command, programs};
use super::{Process, eventually, free_port};

/// Where the local cloud's market lies.
const REGION: &str = "us-east-2";
const UP_WITHIN: Duration = Duration::from_secs(30);

pub struct CloudProgram {
    pub access: CloudAccess,
    /// Where faults are ordered.
    pub admin: String,
    admin_address: SocketAddr,
    arguments: Vec<String>,
    dir: TempDir,
    process: Option<Process>,
}

impl CloudProgram {
    /// Up, with an empty bucket.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// As [`CloudProgram::start`], with more arguments of the program.
    pub async fn start_with(arguments: Vec<String>) -> Self {
        let dir =
            TempDir::with_prefix("spotreel-cloud-").expect("a temporary directory can be made");
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut cloud = Self {
            access: CloudAccess {
                endpoint: format!("http://127.0.0.1:{}", free_port()),
                region: REGION.to_owned(),
                bucket: "spotreel".to_owned(),
                access_key: "local".to_owned(),
                secret_key: "secret-of-a-test".to_owned(),
            },
            admin: format!("http://{admin}"),
            admin_address: admin,
            arguments,
            dir,
            process: None,
        };
        cloud.begin().await;
        cloud
            .store()
            .await
            .create_bucket_if_missing()
            .await
            .expect("the bucket can be made");
        cloud
    }

    pub async fn begin(&mut self) {
        let run = programs()
            .localcloud(&self.access, self.admin_address, &self.dir())
            .args(&self.arguments);
        let process = Process::start(command(&run), &self.log());
        let process = process.expect("the local cloud can be started");
        self.process = Some(process);
        eventually("the local cloud answers", UP_WITHIN, || async {
            let answer = reqwest::get(format!("{}/readyz", self.admin)).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("cloud.log")
    }

    /// Where it keeps everything: objects, and the machines' directories with their consoles.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("s3")
    }

    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Politely: its machines end with it.
    pub async fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate();
            eventually("the local cloud has left", UP_WITHIN, || {
                let ended = process.ended().is_some();
                async move { ended.then_some(()) }
            })
            .await;
        }
        self.process = None;
    }

    pub fn pause(&self) {
        self.process.as_ref().expect("the cloud runs").freeze();
    }

    pub fn resume(&self) {
        self.process.as_ref().expect("the cloud runs").thaw();
    }

    /// Orders faults, in the words of the local cloud's admin listener; they replace those before.
    pub async fn faults(&self, plan: &serde_json::Value) {
        let sent = reqwest::Client::new()
            .post(format!("{}/faults", self.admin))
            .header("content-type", "application/json")
            .body(plan.to_string())
            .send()
            .await
            .expect("the local cloud answers");
        assert!(
            sent.status().is_success(),
            "faults {plan} were refused: {}",
            sent.status()
        );
    }

    pub async fn clear_faults(&self) {
        self.faults(&serde_json::json!({ "rules": [] })).await;
    }

    /// The bucket.
    pub async fn store(&self) -> Store {
        store(&self.access).await
    }
}

/// The bucket of a cloud.
pub async fn store(cloud: &CloudAccess) -> Store {
    let config = StoreConfig::at(&cloud.endpoint, &cloud.region, &cloud.bucket);
    let keys = Keys::new(&cloud.access_key, &cloud.secret_key);
    Store::connect_with_keys(&config, keys).await
}

/// The other half of a cloud.
pub async fn ec2(cloud: &CloudAccess) -> Ec2 {
    let config = Ec2Config {
        region: cloud.region.clone(),
        endpoint_url: Some(cloud.endpoint.clone()),
    };
    let keys = spotreel_ec2::Keys {
        access_key: cloud.access_key.clone(),
        secret_key: cloud.secret_key.clone(),
    };
    Ec2::connect_with_keys(&config, keys).await
}
