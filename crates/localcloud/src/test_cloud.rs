//! A local cloud for one test.

use std::ops::Deref;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::{Config, FaultPlan, LocalCloud, Rule};

const DATA: &str = "cloud";

/// A cloud that ends with its test, and with it the directory in which its data lies.
#[derive(Debug)]
pub struct TestCloud {
    cloud: LocalCloud,
    /// The cloud keeps its data in [`TestCloud::data`]; the rest is free for the test.
    pub dir: TempDir,
}

impl TestCloud {
    /// As [`Config::for_tests`] says.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, with some settings changed.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut config = Config::for_tests(dir.path().join(DATA));
        change(&mut config);
        let cloud = LocalCloud::start(config).await.expect("the cloud starts");
        Self { cloud, dir }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join(DATA)
    }

    pub async fn shutdown(self) {
        self.cloud.shutdown().await;
    }

    /// Sets these faults in place of those before.
    pub fn fail(&self, rules: impl IntoIterator<Item = Rule>) {
        let rules = rules.into_iter().collect();
        self.faults().set(FaultPlan { seed: 1, rules });
    }
}

impl Deref for TestCloud {
    type Target = LocalCloud;

    fn deref(&self) -> &LocalCloud {
        &self.cloud
    }
}
