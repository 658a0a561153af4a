//! The points at which tests can crash fleet as by `kill -9`; see [`spotreel_bootstrap::crash`].

pub const POINTS: [&str; 6] = [
    "before-intent",
    "after-intent",
    "after-call",
    "before-learn",
    "before-terminate",
    "after-terminate",
];

/// Dies here, if told to.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name));
    spotreel_bootstrap::crash::point(name);
}
