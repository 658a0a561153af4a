//! The one place of this crate that reads the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};

/// Milliseconds since 1970, for `Last-Modified`.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// Microseconds since 1970, for the arrival of calls.
#[expect(
    clippy::disallowed_methods,
    reason = "a cloud stamps its objects itself: nobody hands it the time"
)]
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A name nobody else has, in this process or an earlier one over the same directory.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:011x}-{:x}-{count:x}", now_ms(), std::process::id())
}

/// The cloud's own time: begins at the real one and runs `speed` times as fast, so that a market's hours pass in
/// minutes. Machines are real processes and live in real time: what they are told goes through [`Clock::on_the_wall`].
#[derive(Clone, Debug)]
pub struct Clock {
    speed: f64,
    began: Timestamp,
    /// What a clock on the wall showed then.
    began_on_the_wall: Timestamp,
    since: Instant,
}

impl Clock {
    /// `speed` 1 is real time; what is not a positive number counts as 1.
    #[expect(
        clippy::disallowed_methods,
        reason = "the cloud's time begins somewhere"
    )]
    #[must_use]
    pub fn new(speed: f64) -> Self {
        let usable = speed.is_finite() && speed > 0.0;
        let now = Timestamp::now();
        Self {
            speed: if usable { speed } else { 1.0 },
            began: now,
            began_on_the_wall: now,
            since: Instant::now(),
        }
    }

    /// Starts the clock ahead of the wall clock by `by`, to imitate a wrong clock.
    #[must_use]
    pub fn ahead(self, by: SignedDuration) -> Self {
        let began = self.began_on_the_wall.saturating_add(by);
        Self {
            began: began.unwrap_or(self.began),
            ..self
        }
    }

    /// Now, in the cloud.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        later(self.began, self.since.elapsed(), self.speed)
    }

    /// How long the cloud's `cloud` takes on the wall.
    #[must_use]
    pub fn real(&self, cloud: Duration) -> Duration {
        Duration::try_from_secs_f64(cloud.as_secs_f64() / self.speed).unwrap_or(Duration::MAX)
    }

    /// What a clock on the wall shows when the cloud's shows `cloud`.
    #[must_use]
    pub fn on_the_wall(&self, cloud: Timestamp) -> Timestamp {
        let ahead = cloud.duration_since(self.began);
        if ahead.is_negative() {
            return self
                .began_on_the_wall
                .saturating_add(ahead)
                .unwrap_or(cloud);
        }
        later(
            self.began_on_the_wall,
            ahead.unsigned_abs(),
            1.0 / self.speed,
        )
    }
}

fn later(began: Timestamp, elapsed: Duration, speed: f64) -> Timestamp {
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * speed)
        .ok()
        .and_then(|elapsed| began.checked_add(elapsed).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the wall's clock is what it is held against"
)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_passes_in_a_minute() {
        let clock = Clock::new(60.0);
        assert_eq!(
            clock.real(Duration::from_secs(3600)),
            Duration::from_secs(60)
        );
        let later = clock.began + Duration::from_secs(3600);
        assert_eq!(
            clock.on_the_wall(later),
            clock.began + Duration::from_secs(60)
        );
        assert!(clock.now() >= clock.began);
    }

    #[test]
    fn a_clock_that_is_ahead_is_told_on_the_wall_without_it() {
        let clock = Clock::new(1.0).ahead(SignedDuration::from_mins(10));
        let off = clock.now().duration_since(Timestamp::now());
        assert!(off > SignedDuration::from_secs(599) && off < SignedDuration::from_secs(601));
        let told = clock
            .on_the_wall(clock.now())
            .duration_since(Timestamp::now());
        assert!(told.abs() < SignedDuration::from_secs(1), "{told:?}");
    }

    #[test]
    fn nonsense_is_real_time() {
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let clock = Clock::new(speed);
            assert_eq!(clock.real(Duration::from_secs(7)), Duration::from_secs(7));
        }
    }
}
