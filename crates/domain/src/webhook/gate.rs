//! How much of a receiver's failures its next deliveries have to wait for.

use std::time::Duration;

use jiff::Timestamp;

use crate::time::later;

/// Failures in a row after which a receiver is left alone for a while.
const FAILURES_UNTIL_PAUSE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Also what a receiver that works again may have to wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Stops requests to a receiver that fails: each pause is twice as long, and one request at a time finds out whether it works
/// again. Kept in memory, one for each receiver; a restart forgets it, and then finds out anew.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    failures: u32,
    closed_until: Option<Timestamp>,
    at_work: usize,
}

impl Gate {
    /// Takes a place among `most` requests; else how long to wait before the next try to take one.
    pub fn enter(&mut self, most: usize, now: Timestamp) -> Result<(), Duration> {
        self.look(most, now)?;
        self.at_work += 1;
        Ok(())
    }

    /// Whether there is a place now.
    pub fn look(&self, most: usize, now: Timestamp) -> Result<(), Duration> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Err(Duration::try_from(until.duration_since(now)).unwrap_or_default());
        }
        let most = match self.failures < FAILURES_UNTIL_PAUSE {
            true => most,
            false => 1,
        };
        match self.at_work < most {
            true => Ok(()),
            false => Err(FIRST_PAUSE),
        }
    }

    /// Gives the place back without a result.
    pub fn leave(&mut self) {
        self.at_work = self.at_work.saturating_sub(1);
    }

    /// Gives the place back after a delivery.
    pub fn delivered(&mut self) {
        self.leave();
        (self.failures, self.closed_until) = (0, None);
    }

    /// Gives the place back after a failure; `pause` is what the receiver asks for, at least.
    pub fn failed(&mut self, throttled: bool, pause: Option<Duration>, now: Timestamp) {
        self.leave();
        // Those that were at work when it closed are part of the same failure.
        if self.closed_until.is_none_or(|until| until <= now) {
            self.failures = self.failures.saturating_add(1);
        }
        let beyond = self.failures.checked_sub(FAILURES_UNTIL_PAUSE);
        let own = match beyond {
            Some(beyond) => FIRST_PAUSE * 2_u32.saturating_pow(beyond.min(16)),
            None if throttled => FIRST_PAUSE,
            None => Duration::ZERO,
        };
        let pause = own.max(pause.unwrap_or_default()).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            self.closed_until = self.closed_until.max(Some(later(now, pause)));
        }
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.at_work == 0
            && (self.failures == 0 || self.closed_until.is_some_and(|until| until < now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    #[test]
    fn as_many_as_allowed_are_at_work() {
        let mut gate = Gate::default();
        assert!(gate.enter(2, at(0)).is_ok() && gate.enter(2, at(0)).is_ok());
        assert_eq!(gate.enter(2, at(0)), Err(FIRST_PAUSE));
        gate.delivered();
        assert!(gate.enter(2, at(0)).is_ok());
    }

    #[test]
    fn failures_in_a_row_close_it_longer_each_time_and_then_one_at_a_time_tries() {
        let mut gate = Gate::default();
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..16 {
            assert!(gate.enter(4, now).is_ok());
            gate.failed(false, None, now);
            let pause = gate.enter(4, now).err().unwrap_or_default();
            if pause.is_zero() {
                gate.leave();
            }
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses[..7], [0, 0, 0, 0, 1, 2, 4]);
        assert_eq!(pauses[15], LONGEST_PAUSE.as_secs());
        assert!(gate.enter(4, now).is_ok());
        assert!(gate.enter(4, now).is_err(), "one request finds out");
        gate.delivered();
        assert!(gate.enter(4, now).is_ok() && gate.enter(4, now).is_ok());
    }

    #[test]
    fn failures_that_were_at_work_when_it_closed_lengthen_nothing() {
        let mut gate = Gate::default();
        for _ in 0..8 {
            assert!(gate.enter(8, at(0)).is_ok());
        }
        for _ in 0..8 {
            gate.failed(false, None, at(0));
        }
        assert_eq!(gate.look(8, at(0)), Err(FIRST_PAUSE));
        assert_eq!(gate.look(8, at(1)), Ok(()));
        assert!(gate.enter(8, at(1)).is_ok() && gate.look(8, at(1)).is_err());
    }

    #[test]
    fn a_receiver_that_has_too_much_to_do_is_left_alone_at_once() {
        let mut gate = Gate::default();
        assert!(gate.enter(4, at(0)).is_ok());
        gate.failed(true, Some(Duration::from_secs(30)), at(0));
        assert_eq!(gate.enter(4, at(10)), Err(Duration::from_secs(20)));
        assert!(gate.enter(4, at(30)).is_ok());
    }
}
