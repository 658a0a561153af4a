//! The points at which tests can crash monitor as by `kill -9`; see [`spotreel_bootstrap::crash`].

pub const POINTS: [&str; 3] = [
    "before-alarms-stored",
    "after-alarms-stored",
    "after-alarm-told",
];

/// Dies here, if told to.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name));
    spotreel_bootstrap::crash::point(name);
}
