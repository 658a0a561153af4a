//! The points at which tests can crash a worker as by `kill -9`; see [`spotreel_bootstrap::crash`].

pub const POINTS: [&str; 4] = [
    "after-lease",
    "after-checkpoint",
    "after-upload",
    "after-succeeded",
];

/// Dies here, if told to.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name));
    spotreel_bootstrap::crash::point(name);
}
