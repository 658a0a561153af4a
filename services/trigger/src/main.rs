//! `spotreel-trigger`: see the library.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run(
        "trigger",
        spotreel_trigger::DEFAULTS,
        spotreel_trigger::start,
    )
}
