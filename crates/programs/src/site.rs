//! The programs of one system, and where they find each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{CloudAccess, Invocation, nats};

/// All that a system needs, without their `spotreel-`.
const PROGRAMS: [&str; 8] = [
    "localcloud",
    "intake",
    "notifier",
    "monitor",
    "trigger",
    "fleet",
    "worker",
    "engine-sim",
];
/// Lets prompts order faults of the simulated engine, such as `{{oom@3}}`.
pub const FAULTS: &str = "--allow-faults";

/// The directory with the programs of one build.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

#[derive(Debug, thiserror::Error)]
#[error("{} is missing: `make build` builds all programs", .0.display())]
pub struct Missing(PathBuf);

impl Programs {
    /// # Errors
    /// When one of them is missing.
    pub fn in_dir(dir: &Path) -> Result<Self, Missing> {
        let programs = Self(dir.to_owned());
        let mut paths = PROGRAMS.iter().map(|name| programs.path(name));
        match paths.find(|path| !path.is_file()) {
            Some(path) => Err(Missing(path)),
            None => Ok(programs),
        }
    }

    /// `name` without its `spotreel-`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("spotreel-{name}"))
    }

    /// The local cloud, which keeps everything in `dir`.
    pub fn localcloud(&self, cloud: &CloudAccess, admin: SocketAddr, dir: &Path) -> Invocation {
        let listen = cloud.endpoint.trim_start_matches("http://");
        Invocation::new(self.path("localcloud"))
            .args(["--listen", listen, "--admin", &admin.to_string()])
            .args(["--dir", &dir.display().to_string()])
            .args(["--region", &cloud.region])
            // Other users of this machine see the arguments.
            .env("SPOTREEL_LOCALCLOUD_ACCESS_KEY", &cloud.access_key)
            .env("SPOTREEL_LOCALCLOUD_SECRET_KEY", &cloud.secret_key)
    }

    /// The command of the simulated engine, which needs no GPU; each of its steps takes at least `step_ms` milliseconds.
    pub fn engine(&self, step_ms: Option<u64>) -> Vec<String> {
        let mut command = vec![self.path("engine-sim").display().to_string()];
        if let Some(step_ms) = step_ms {
            command.extend(["--step-ms".to_owned(), step_ms.to_string()]);
        }
        command
    }
}

/// The programs, and where they find NATS and the cloud.
#[derive(Clone)]
pub struct Site {
    pub programs: Programs,
    pub nats_url: String,
    pub cloud: CloudAccess,
}

impl Site {
    /// A service, or the worker; `password` is that of the NATS user with the same name.
    pub fn service(&self, name: &str, password: &str) -> Invocation {
        Invocation::new(self.programs.path(name))
            .envs(nats::login(&self.nats_url, name, password))
            .envs(self.cloud.variables())
    }

    /// A worker that runs on no instance, and keeps its files in `scratch`.
    pub fn worker(&self, name: &str, password: &str, scratch: &Path) -> Invocation {
        self.service("worker", password)
            .set("name", name)
            .set("scratch", &scratch.display().to_string())
    }

    /// What a worker on an instance needs; its keys for S3 come from the instance metadata.
    pub fn instance_variables(&self, password: &str) -> Vec<(String, String)> {
        let mut variables = nats::login(&self.nats_url, "worker", password).to_vec();
        variables.extend(self.cloud.address());
        variables
    }
}
