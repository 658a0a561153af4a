//! Numbers at the edges of what JSON, floats and 64 bits hold.

use super::{Case, with};

pub fn cases() -> Vec<Case> {
    let long = "9".repeat(100_000);
    let small = format!("0.{}1", "0".repeat(100_000));
    vec![
        with("guidance", "-0", "guidance", "range"),
        with("guidance", "-0.0", "guidance", "range"),
        with("guidance", "1e308", "guidance", "range"),
        with("guidance", "1e309", "guidance", "range"),
        with("guidance", "-1e999", "guidance", "range"),
        with("guidance", "1e-400", "guidance", "range"),
        with("guidance", "10.000000000000002", "guidance", "range"),
        with("guidance", &long, "guidance", "range"),
        with("guidance", &small, "guidance", "range"),
        with("guidance", "NaN", "guidance", "json"),
        with("guidance", "Infinity", "guidance", "json"),
        with("guidance", "-Infinity", "guidance", "json"),
        with("guidance", "\"NaN\"", "guidance", "type"),
        with("guidance", "0x10", "body", "json"),
        with("guidance", "007", "guidance", "json"),
        with("guidance", "+5", "guidance", "json"),
        with("guidance", ".5", "guidance", "json"),
        with("guidance", "5.", "guidance", "json"),
        with("guidance", "1e", "guidance", "json"),
        with("guidance", "1_0", "body", "json"),
        with("guidance", "true", "guidance", "type"),
        with("shift", "5e-324", "shift", "range"),
        with("shift", "[5]", "shift", "type"),
        with("frames", "-0", "frames", "4n+1"),
        with("frames", "5.5", "frames", "type"),
        with("frames", "1e1", "frames", "4n+1"),
        with("frames", "4294967301", "frames", "range"),
        with("frames", "18446744073709551621", "frames", "range"),
        with("frames", &long, "frames", "range"),
        with("frames", "true", "frames", "type"),
        with("steps", "-9223372036854775808", "steps", "range"),
        with("steps", "4294967296", "steps", "range"),
        with("seed", "18446744073709551615", "seed", "range"),
        with("seed", "18446744073709551616", "seed", "range"),
        with("seed", "-1", "seed", "range"),
        with("seed", "9007199254740993", "seed", "range"),
    ]
}
