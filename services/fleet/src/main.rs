//! `spotreel-fleet`: see the library.

use spotreel_fleet::{DEFAULTS, Deps, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("fleet", DEFAULTS, |config, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        Ok(start(config, deps, ctx).await?)
    })
}
