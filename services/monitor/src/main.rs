//! `spotreel-monitor`: see the library.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run(
        "monitor",
        spotreel_monitor::DEFAULTS,
        spotreel_monitor::start,
    )
}
