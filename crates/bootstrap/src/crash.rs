//! Named points at which a program can be made to die as if by `kill -9`, to prove that nothing is lost there.
//!
//! `SPOTREEL_CRASH_AT=after-upload:0.2:7` dies there with a probability of 0.2, drawn from the seed 7; several points
//! are separated by commas. Without the variable the points do nothing.

use std::sync::OnceLock;

use parking_lot::Mutex;

struct CrashRule {
    point: String,
    probability: f64,
    state: u64,
}

static RULES: OnceLock<Mutex<Vec<CrashRule>>> = OnceLock::new();

/// Dies here, if told to.
pub fn point(name: &'static str) {
    let rules = RULES.get_or_init(|| {
        Mutex::new(
            std::env::var("SPOTREEL_CRASH_AT")
                .map(|v| parse(&v))
                .unwrap_or_default(),
        )
    });
    let mut rules = rules.lock();
    for rule in rules.iter_mut().filter(|rule| rule.point == name) {
        if rule.draw() < rule.probability {
            tracing::warn!(
                point = name,
                "crashing here: SPOTREEL_CRASH_AT names this point"
            );
            let _ =
                nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn parse(text: &str) -> Vec<CrashRule> {
    text.split(',')
        .filter(|one| !one.is_empty())
        .map(|one| {
            let mut parts = one.split(':');
            CrashRule {
                point: parts.next().unwrap_or_default().to_owned(),
                probability: parts.next().and_then(|p| p.parse().ok()).unwrap_or(1.0),
                state: parts.next().and_then(|s| s.parse().ok()).unwrap_or(1),
            }
        })
        .collect()
}

impl CrashRule {
    /// SplitMix64 (Steele, Lea, Flood 2014), as a fraction of one.
    fn draw(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
