//! When a delivery is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of a receiver's `Retry-After`: the day for which a delivery is tried.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Each delay is drawn from this part below it to this part above it, so that the failures of one moment do not come again at
/// one moment.
const JITTER_DIVISOR: u32 = 10;

/// The delays between the tries; after the last one a delivery has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RetrySchedule(#[serde(with = "humantime_serde_list")] Vec<Duration>);

impl RetrySchedule {
    pub fn new(delays: Vec<Duration>) -> Self {
        Self(delays)
    }

    pub fn delays(&self) -> &[Duration] {
        &self.0
    }

    /// How long to wait after this number of failed tries; none: no more tries. Never shorter than the receiver asks for.
    pub fn after(
        &self,
        tries: u32,
        retry_after: Option<Duration>,
        random: u64,
    ) -> Option<Duration> {
        let index = usize::try_from(tries).ok()?.checked_sub(1)?;
        let delay = *self.0.get(index)?;
        let width = delay / JITTER_DIVISOR * 2;
        let share = u32::try_from(random % 1_000).unwrap_or_default();
        let drawn = delay - width / 2 + width * share / 1_000;
        let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        Some(drawn.max(asked))
    }
}

/// Durations as people write them, in a list.
mod humantime_serde_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Delay(#[serde(with = "humantime_serde")] Duration);

    pub fn serialize<S: Serializer>(delays: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(delays.iter().copied().map(Delay))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        let delays = Vec::<Delay>::deserialize(from)?;
        Ok(delays.into_iter().map(|delay| delay.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> RetrySchedule {
        serde_json::from_str(r#"["5s","5m","2h"]"#).expect("it is a list of durations")
    }

    #[test]
    fn each_delay_is_drawn_around_its_own_and_the_last_try_ends_it() {
        for (tries, delay) in [(1, 5), (2, 300), (3, 7_200)] {
            let delay = Duration::from_secs(delay);
            for random in [0, 1, 499, 999, u64::MAX] {
                let drawn = schedule().after(tries, None, random).expect("another try");
                assert!(
                    drawn >= delay * 9 / 10 && drawn <= delay * 11 / 10,
                    "{drawn:?}"
                );
            }
            assert_ne!(
                schedule().after(tries, None, 0),
                schedule().after(tries, None, 999)
            );
        }
        assert_eq!(schedule().after(4, None, 0), None);
        assert_eq!(schedule().after(0, None, 0), None, "nothing was tried yet");
    }

    #[test]
    fn a_receivers_retry_after_lengthens_a_delay_up_to_a_day() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(schedule().after(1, Some(hour), 0), Some(hour));
        assert_eq!(
            schedule().after(1, Some(hour * 90), 0),
            Some(LONGEST_RETRY_AFTER)
        );
        assert!(schedule().after(3, Some(hour), 0) > Some(hour));
    }
}
