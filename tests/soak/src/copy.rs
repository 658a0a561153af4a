//! The clients' copy of EVENTS: whether it has every event, by sequence.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap};
use serde::Deserialize;
use serde_json::json;
use spotreel_bus::connect::REQUEST_TIMEOUT;
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::names::EVENTS;
use spotreel_tests::Verdict;

/// For the last events to cross the border.
const CROSSED_WITHIN: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Info {
    state: Held,
}

/// The sequences that a stream holds.
#[derive(Default, Deserialize)]
struct Held {
    first_seq: u64,
    last_seq: u64,
    /// Between the two, and gone.
    #[serde(default)]
    deleted: Option<BTreeSet<u64>>,
}

impl Held {
    async fn by(client: &Client) -> Result<Self, JetStreamError> {
        let subject = format!("$JS.API.STREAM.INFO.{EVENTS}");
        let body = json!({ "deleted_details": true }).to_string();
        let none = HeaderMap::new();
        let info: Info =
            jetstream::request(client, &subject, none, body.into(), REQUEST_TIMEOUT).await?;
        Ok(info.state)
    }

    fn has(&self, sequence: u64) -> bool {
        let deleted = self.deleted.as_ref();
        (self.first_seq..=self.last_seq).contains(&sequence)
            && !deleted.is_some_and(|deleted| deleted.contains(&sequence))
    }

    fn sequences(&self) -> impl Iterator<Item = u64> {
        // An empty stream begins behind its end.
        (self.first_seq..=self.last_seq).filter(|at| self.has(*at))
    }
}

/// Waits until the copy has come to the end of the original, and compares them.
pub async fn compared(services: &Client, clients: &Client) -> Verdict {
    let began = Instant::now();
    loop {
        let verdict = match tokio::join!(Held::by(services), Held::by(clients)) {
            (Ok(original), Ok(copy)) => judged(&original, &copy),
            (original, copy) => {
                let mut verdict = judged(&Held::default(), &Held::default());
                for error in [original.err(), copy.err()].into_iter().flatten() {
                    verdict.check(false, || format!("{EVENTS} cannot be looked at: {error}"));
                }
                verdict
            }
        };
        if verdict.offences.is_empty() || began.elapsed() > CROSSED_WITHIN {
            return verdict;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

fn judged(original: &Held, copy: &Held) -> Verdict {
    let mut verdict = Verdict::new("copy", "the clients' copy of EVENTS has every event");
    for sequence in original.sequences().filter(|at| *at > 0) {
        verdict.check(copy.has(sequence), || {
            format!("event {sequence} of EVENTS is not in the copy")
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_the_copy_does_not_have_is_found() {
        let held = |json: &str| serde_json::from_str::<Held>(json).unwrap();
        let original = held(r#"{"first_seq":2,"last_seq":9,"deleted":[4]}"#);
        let whole = judged(&original, &original);
        assert_eq!((whole.checked, whole.offences.len()), (7, 0));
        let copy = held(r#"{"first_seq":3,"last_seq":8,"deleted":[4,6]}"#);
        let offences = judged(&original, &copy).offences;
        for (missing, offence) in [2, 6, 9].iter().zip(&offences) {
            assert!(offence.contains(&format!("event {missing} ")), "{offence}");
        }
        assert_eq!(offences.len(), 3, "{offences:?}");
    }
}
