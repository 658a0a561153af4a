//! The local cloud as a program, so that it can be killed like one.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use spotreel_s3::{Keys, Store, StoreConfig};
use tempfile::TempDir;

use super::program::{binary, keep_settings_from};
use super::{Process, eventually, free_port};

pub const BUCKET: &str = "spotreel";
pub const REGION: &str = "eu-central-1";
pub const ACCESS_KEY: &str = "local";
pub const SECRET_KEY: &str = "secret-of-a-test";
const UP_WITHIN: Duration = Duration::from_secs(30);

pub struct Cloud {
    pub endpoint: String,
    /// Where faults are ordered.
    pub admin: String,
    listen: String,
    arguments: Vec<String>,
    dir: TempDir,
    process: Option<Process>,
}

impl Cloud {
    /// Up, with an empty bucket.
    pub async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// As [`Cloud::start`], with more arguments of the program.
    pub async fn start_with(arguments: Vec<String>) -> Self {
        let dir =
            TempDir::with_prefix("spotreel-cloud-").expect("a temporary directory can be made");
        let (listen, admin) = (
            format!("127.0.0.1:{}", free_port()),
            format!("127.0.0.1:{}", free_port()),
        );
        let mut cloud = Self {
            endpoint: format!("http://{listen}"),
            admin: format!("http://{admin}"),
            listen,
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
        let mut command = Command::new(binary("spotreel-localcloud"));
        keep_settings_from(&mut command);
        command
            .args([
                "--listen",
                &self.listen,
                "--admin",
                self.admin.trim_start_matches("http://"),
            ])
            .arg("--dir")
            .arg(self.dir())
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .args(&self.arguments);
        let process = Process::start(command, &self.log()).expect("the local cloud can be started");
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
        let config = StoreConfig::at(&self.endpoint, REGION, BUCKET);
        let keys = Keys::new(ACCESS_KEY, SECRET_KEY);
        Store::connect_with_keys(&config, keys).await
    }

    /// What a program needs in its environment to find it.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("SPOTREEL_S3__BUCKET", BUCKET),
            ("SPOTREEL_S3__REGION", REGION),
            ("SPOTREEL_S3__ENDPOINT_URL", &self.endpoint),
            ("SPOTREEL_S3__FORCE_PATH_STYLE", "true"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }
}
