//! Things that happen at a moment, counted within a span.

use std::time::Duration;

use jiff::Timestamp;

use crate::time::{elapsed, later};

/// Something that happened, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    pub at: Timestamp,
    pub what: String,
}

/// The largest number of happenings within a span of this length that ends with one which is still recent, or which nobody
/// has looked at: it came after `looked_at`, while nobody watched. With the last of them.
///
/// They are in the order of time.
pub(super) fn largest(
    happenings: &[Happening],
    within: Duration,
    looked_at: Timestamp,
    now: Timestamp,
) -> Option<(u64, &Happening)> {
    let mut first = 0;
    let mut largest: Option<(u64, &Happening)> = None;
    for (index, last) in happenings.iter().enumerate() {
        while elapsed(happenings[first].at, last.at) >= within {
            first += 1;
        }
        let is_recent = last.at > looked_at || later(last.at, within) > now;
        let counts = is_recent && last.at <= now;
        let count = u64::try_from(index - first + 1).unwrap_or(u64::MAX);
        if counts && largest.is_none_or(|(most, _)| count >= most) {
            largest = Some((count, last));
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + 60 * minutes).unwrap()
    }

    fn counted(minutes: &[i64], looked_at: i64, now: i64) -> Option<(u64, i64)> {
        let happenings: Vec<_> = minutes
            .iter()
            .map(|minute| Happening {
                at: at(*minute),
                what: minute.to_string(),
            })
            .collect();
        let within = Duration::from_secs(3_600);
        largest(&happenings, within, at(looked_at), at(now))
            .map(|(count, last)| (count, last.what.parse().unwrap()))
    }

    #[test]
    fn what_is_recent_counts_and_so_does_what_nobody_has_looked_at() {
        assert_eq!(counted(&[], 0, 100), None);
        assert_eq!(counted(&[10, 20, 50], 55, 60), Some((3, 50)));
        assert_eq!(counted(&[10, 20, 50], 55, 109), Some((3, 50)));
        assert_eq!(counted(&[10, 20, 50], 55, 110), None, "over");
        // Nobody watched from minute 5 on, for a day: three within one hour.
        assert_eq!(counted(&[10, 20, 50, 500], 5, 1_500), Some((3, 50)));
        // The same three were looked at before.
        assert_eq!(counted(&[10, 20, 50, 500], 60, 1_500), Some((1, 500)));
        // Far apart they are no burst.
        assert_eq!(counted(&[10, 80, 150], 5, 1_500), Some((1, 150)));
        // The clock went back: what lies ahead counts when its time has come.
        assert_eq!(counted(&[10, 20, 50], 5, 30), Some((2, 20)));
    }
}
