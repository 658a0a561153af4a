//! `spotreel-worker`: see the library.

use spotreel_worker::{DEFAULTS, Deps, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("worker", DEFAULTS, |config, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        Ok(start(config, deps, ctx).await?)
    })
}
