//! `spotreel-notifier`: see the library.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run(
        "notifier",
        spotreel_notifier::DEFAULTS,
        spotreel_notifier::start,
    )
}
