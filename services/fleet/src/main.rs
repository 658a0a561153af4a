//! `spotreel-fleet`: see the library.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("fleet", spotreel_fleet::DEFAULTS, spotreel_fleet::start)
}
