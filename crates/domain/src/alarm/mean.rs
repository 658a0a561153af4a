//! The mean of a number over windows of fixed length.

use std::time::Duration;

use jiff::Timestamp;

use crate::time::elapsed;

/// A mean, weighted by time. Each window begins when the one before has ended.
#[derive(Clone, Debug)]
pub struct Mean {
    over: Duration,
    window: Option<MeanWindow>,
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct MeanWindow {
    began: Timestamp,
    seen_at: Timestamp,
    value: u64,
    /// Sum of value times microseconds.
    sum: u128,
}

impl Mean {
    pub fn over(over: Duration) -> Self {
        Self {
            over,
            window: None,
            last: None,
        }
    }

    /// Takes in what is seen now; gives the mean of the last whole window, once there is one.
    ///
    /// After a gap as long as a window, such as a pause or a jump of the clock, nothing is known.
    pub fn seen(&mut self, now: Timestamp, value: u64) -> Option<u64> {
        let fresh = MeanWindow {
            began: now,
            seen_at: now,
            value,
            sum: 0,
        };
        let window = match self.window {
            Some(window) if now >= window.seen_at && elapsed(window.seen_at, now) < self.over => {
                let passed = elapsed(window.seen_at, now).as_micros();
                MeanWindow {
                    began: window.began,
                    seen_at: now,
                    value,
                    sum: window.sum + u128::from(window.value) * passed,
                }
            }
            _ => {
                self.last = None;
                fresh
            }
        };
        let length = elapsed(window.began, now);
        if length >= self.over {
            // To the nearest: fractions of a microsecond are missing in the sum.
            let length = length.as_micros().max(1);
            self.last = u64::try_from((window.sum + length / 2) / length).ok();
            self.window = Some(fresh);
        } else {
            self.window = Some(window);
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_window_has_a_mean_once_it_is_whole() {
        let mut mean = Mean::over(Duration::from_secs(300));
        for second in (0..300).step_by(10) {
            let value = if second < 150 { 400 } else { 800 };
            assert_eq!(mean.seen(at(second), value), None);
        }
        assert_eq!(mean.seen(at(300), 5), Some(600));
        assert_eq!(mean.seen(at(310), 9_999), Some(600), "the next window runs");
    }

    #[test]
    fn a_steady_number_is_its_own_mean_however_irregular_the_looks_are() {
        let mut mean = Mean::over(Duration::from_secs(300));
        let mut now = at(0);
        let mut known = None;
        for look in 0..4_000_u64 {
            known = mean.seen(now, 501);
            now += Duration::from_nanos(100_000_999 + 7_777_777 * (look % 13));
        }
        assert_eq!(known, Some(501));
    }

    #[test]
    fn nothing_is_known_after_a_gap_or_a_jump_of_the_clock() {
        let mut mean = Mean::over(Duration::from_secs(300));
        mean.seen(at(0), 700);
        for second in (10..=300).step_by(10) {
            mean.seen(at(second), 700);
        }
        assert_eq!(mean.seen(at(310), 700), Some(700));
        assert_eq!(mean.seen(at(10_000), 700), None);
        for second in (10_010..=10_300).step_by(10) {
            mean.seen(at(second), 100);
        }
        assert_eq!(
            mean.seen(at(10_310), 100),
            Some(120),
            "700 for its first 10 s"
        );
        assert_eq!(mean.seen(at(5_000), 100), None, "the clock went back");
    }
}
