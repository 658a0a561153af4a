//! The sections of a configuration that every program has.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The configuration of a program: its own struct, with the sections that [`run`](crate::run) needs.
///
/// Explicit fields rather than `#[serde(flatten)]`, because flatten switches `deny_unknown_fields` off.
pub trait Config: DeserializeOwned + Serialize + Send + 'static {
    fn common(&self) -> Common<'_>;

    /// Checks what serde can't say about the values, and nothing else does: so `--check-config` finds every bad one. The
    /// program exits as for an unknown key, before anything starts.
    ///
    /// # Errors
    /// When a person must change the configuration; the message names the key and the cure.
    fn validate(&self) -> anyhow::Result<()>;

    /// What `--check-config` prints after the configuration: TOML of the files that it names.
    ///
    /// # Errors
    /// As [`Config::validate`].
    fn named_files(&self) -> anyhow::Result<String> {
        Ok(String::new())
    }
}

/// Where [`run`](crate::run) finds its sections in a program's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    pub http: &'a HttpConfig,
    pub telemetry: &'a TelemetryConfig,
    pub shutdown: &'a ShutdownConfig,
}

/// `[http]`: where `/livez`, `/readyz` and `/metrics` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Loopback and any free port by default: nothing is open to the network until somebody says so. The log's
    /// `listening` line has the port.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }
}

/// `[telemetry]`: the log, and where spans go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A filter in `RUST_LOG`'s words: `info`, `warn,spotreel_fleet=debug`.
    pub log: String,
    pub format: LogFormat,
    /// The base address of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`. Without one no spans leave.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            format: LogFormat::Text,
            otlp_endpoint: None,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for collectors.
    Json,
}

/// `[shutdown]`: how long a program may take to leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// From the first signal to the hard stop. The default is what Kubernetes and ECS give, and well inside the two
    /// minutes of a Spot notice.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
        }
    }
}
