//! `spotreel-worker`.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run(
        "worker",
        spotreel_worker::config::DEFAULTS,
        spotreel_worker::start,
    )
}
