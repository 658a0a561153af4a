//! `spotreel-notifier`: see the library.

use spotreel_notifier::{DEFAULTS, Deps, start};

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("notifier", DEFAULTS, |config, ctx| async move {
        let deps = Deps::connect(&config, &ctx).await?;
        Ok(start(config, deps, ctx).await?)
    })
}
