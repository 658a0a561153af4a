//! `spotreel-intake`: see the library.

fn main() -> std::process::ExitCode {
    spotreel_bootstrap::run("intake", spotreel_intake::DEFAULTS, spotreel_intake::start)
}
