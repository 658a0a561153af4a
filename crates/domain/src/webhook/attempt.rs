//! What a receiver's answer means.

use std::time::Duration;

/// One request to a receiver, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryAttempt {
    /// Of the answer; none: there was none.
    pub status: Option<u16>,
    /// Why there was none, for people: without URL and without anything that the receiver wrote.
    pub problem: Option<String>,
    pub retry_after: Option<Duration>,
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryVerdict {
    Delivered,
    Failed,
    /// Failed because the receiver, or what stands before it, has too much to do.
    Throttled,
    /// The receiver wants nothing any more.
    Gone,
}

impl DeliveryAttempt {
    pub fn verdict(&self) -> DeliveryVerdict {
        match self.status {
            Some(200..=299) => DeliveryVerdict::Delivered,
            Some(410) => DeliveryVerdict::Gone,
            Some(429 | 502 | 503 | 504) => DeliveryVerdict::Throttled,
            Some(_) | None => DeliveryVerdict::Failed,
        }
    }

    /// Why it is no delivery; none: it is one.
    pub fn reason(&self) -> Option<String> {
        match (self.verdict(), self.status) {
            (DeliveryVerdict::Delivered, _) => None,
            (DeliveryVerdict::Gone, _) => {
                Some("answered 410: it wants no more deliveries".to_owned())
            }
            (_, Some(status @ 300..=399)) => {
                Some(format!("answered {status}: redirects are not followed"))
            }
            (_, Some(status)) => Some(format!("answered {status}")),
            (_, None) => Some(
                self.problem
                    .clone()
                    .unwrap_or_else(|| "no answer".to_owned()),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_a_delivery() {
        let verdict = |status| {
            DeliveryAttempt {
                status,
                problem: None,
                retry_after: None,
                took: Duration::ZERO,
            }
            .verdict()
        };
        for (status, wanted) in [
            (Some(200), DeliveryVerdict::Delivered),
            (Some(204), DeliveryVerdict::Delivered),
            (Some(299), DeliveryVerdict::Delivered),
            (Some(199), DeliveryVerdict::Failed),
            (Some(301), DeliveryVerdict::Failed),
            (Some(304), DeliveryVerdict::Failed),
            (Some(400), DeliveryVerdict::Failed),
            (Some(401), DeliveryVerdict::Failed),
            (Some(404), DeliveryVerdict::Failed),
            (Some(410), DeliveryVerdict::Gone),
            (Some(429), DeliveryVerdict::Throttled),
            (Some(500), DeliveryVerdict::Failed),
            (Some(502), DeliveryVerdict::Throttled),
            (Some(503), DeliveryVerdict::Throttled),
            (Some(504), DeliveryVerdict::Throttled),
            (None, DeliveryVerdict::Failed),
        ] {
            assert_eq!(verdict(status), wanted, "{status:?}");
        }
    }
}
