//! The smallest whole program, with one way to end for each exit code. `tests/process.rs` runs it.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::{
    Common, Config, Context, HttpConfig, Secret, ShutdownConfig, TelemetryConfig, UnfitMachine,
};

const DEFAULTS: &str = r#"
# What the one task does: "work" until told to stop, "stuck" beyond that, "fail", "panic", "unfit" or "leave".
behaviour = "work"
password = "hunter2"
"#;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramConfig {
    behaviour: Behaviour,
    password: Secret,
    http: HttpConfig,
    telemetry: TelemetryConfig,
    shutdown: ShutdownConfig,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Behaviour {
    Work,
    Stuck,
    Fail,
    Panic,
    Unfit,
    Leave,
}

impl Config for ProgramConfig {
    fn common(&self) -> Common<'_> {
        Common {
            http: &self.http,
            telemetry: &self.telemetry,
            shutdown: &self.shutdown,
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

async fn start(config: ProgramConfig, ctx: Context) -> anyhow::Result<()> {
    metrics::counter!("program_starts_total").increment(1);
    ctx.health.set("engine", Err("loading"));
    ctx.spawn("work", work(config.behaviour, ctx.clone()));
    Ok(())
}

#[tracing::instrument(skip(ctx))]
async fn work(behaviour: Behaviour, ctx: Context) -> anyhow::Result<()> {
    match behaviour {
        Behaviour::Work => ctx.stopping.cancelled().await,
        Behaviour::Stuck => std::future::pending().await,
        Behaviour::Fail => anyhow::bail!("the disk is full"),
        Behaviour::Panic => panic!("a bug"),
        Behaviour::Unfit => return Err(UnfitMachine("no GPU answers".to_owned()).into()),
        Behaviour::Leave => ctx.stopping.cancel(),
    }
    Ok(())
}

fn main() -> ExitCode {
    spotreel_bootstrap::run("program", DEFAULTS, start)
}
