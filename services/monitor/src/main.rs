//! `spotreel-monitor`: see the library.

use spotreel_monitor::{DEFAULTS, Deps, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("monitor", DEFAULTS, |config, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        Ok(start(config, deps, ctx).await?)
    })
}
