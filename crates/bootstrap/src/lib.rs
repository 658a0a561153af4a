//! The skeleton that every program of spotreel shares: configuration, telemetry, health, two-stage shutdown and honest
//! exit codes. A program is a name, its default configuration and a `start` function; [`run`] does the rest.
//!
//! ```no_run
//! # use serde::{Deserialize, Serialize};
//! use spotreel_bootstrap::config::require;
//! use spotreel_bootstrap::{Common, Config, Context, HttpConfig, ShutdownConfig, TelemetryConfig};
//!
//! #[derive(Debug, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct IntakeConfig {
//!     largest_batch: u32,
//!     http: HttpConfig,
//!     telemetry: TelemetryConfig,
//!     shutdown: ShutdownConfig,
//! }
//!
//! impl Config for IntakeConfig {
//!     fn common(&self) -> Common<'_> {
//!         Common { http: &self.http, telemetry: &self.telemetry, shutdown: &self.shutdown }
//!     }
//!
//!     fn validate(&self) -> anyhow::Result<()> {
//!         Ok(require(self.largest_batch > 0, "largest_batch", "must be at least 1")?)
//!     }
//! }
//!
//! async fn start(config: IntakeConfig, ctx: Context) -> anyhow::Result<()> {
//!     ctx.health.expect("nats");
//!     let stopping = ctx.stopping.clone();
//!     ctx.spawn("inbox", async move {
//!         stopping.cancelled().await;
//!         Ok(())
//!     });
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     spotreel_bootstrap::run("intake", "largest_batch = 100", start)
//! }
//! ```

pub mod ambient;
pub mod config;
pub mod crash;
pub mod environment;
pub mod health;
mod http;
mod lifecycle;
pub mod metrics;
mod pages;
mod probe;
mod run;
mod secret;
mod sections;
pub mod telemetry;

pub use config::ConfigError;
pub use health::Health;
pub use lifecycle::{Context, UnfitMachine};
pub use pages::Pages;
pub use run::{EXIT_CONFIG, EXIT_FAILED, EXIT_HARD_STOP, EXIT_UNFIT_MACHINE, run};
pub use secret::Secret;
pub use sections::{Common, Config, HttpConfig, LogFormat, ShutdownConfig, TelemetryConfig};
