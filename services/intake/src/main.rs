//! `spotreel-intake`: see the library.

use spotreel_intake::{DEFAULTS, Deps, IntakeConfig, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("intake", DEFAULTS, |config: IntakeConfig, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        start(config, deps, ctx).await?;
        anyhow::Ok(())
    })
}
