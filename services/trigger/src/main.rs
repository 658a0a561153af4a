//! `spotreel-trigger`: see the library.

use spotreel_trigger::{DEFAULTS, Deps, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("trigger", DEFAULTS, |config, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        Ok(start(config, deps, ctx).await?)
    })
}
