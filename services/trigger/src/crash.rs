//! The points at which tests can crash trigger as by `kill -9`; see [`spotreel_bootstrap::crash`].

pub const POINTS: [&str; 2] = ["before-request", "after-request"];

/// Dies here, if told to.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name));
    spotreel_bootstrap::crash::point(name);
}
