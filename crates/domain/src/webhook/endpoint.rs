//! A global endpoint, and how it is given up.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::filter::EventFilter;
use super::signature::SigningSecrets;
use super::target::WebhookUrl;
use crate::api_key::{KEY_ID_CHARS, KeyId, Owner};
use crate::time::{elapsed, later};

/// An endpoint's name: part of its consumer's name and of its deliveries' keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookId(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook's id has {KEY_ID_CHARS} characters out of a-z and 0-9")]
pub struct BadWebhookId;

/// An endpoint as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub id: WebhookId,
    pub url: WebhookUrl,
    /// Empty: all.
    #[serde(default)]
    pub events: Vec<EventFilter>,
    /// Absent: events of everybody's tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    pub secrets: SigningSecrets,
    /// Events from then on are sent.
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// What people are to be told and have perhaps not been told yet, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untold: Vec<Untold>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    pub at: Timestamp,
    pub reason: String,
}

/// No delivery has succeeded since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Timestamp,
    pub reason: String,
    /// When it was decided to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warned_at: Option<Timestamp>,
}

/// What an operator wants to be sent again: every event since then that has not been delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub since: Timestamp,
    pub ordered_at: Timestamp,
    /// The last event of EVENTS at the order: later ones are left to the endpoint's own queue, so that none is in the recovery's
    /// hands when that ends. Absent in the records of older versions: no event is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// A notice with what was known when it was decided. It is stored with that decision and published later, so that a notice
/// that cannot be published hinders nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    pub notice: EndpointNotice,
    pub at: Timestamp,
    pub failing_since: Timestamp,
    pub reason: String,
}

/// After how long without a delivery people are told, and the endpoint is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiveUp {
    pub warn_after: Duration,
    pub disable_after: Duration,
}

/// What clients are told of an endpoint, once for each time that it begins to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointNotice {
    Failing,
    Disabled,
}

impl Webhook {
    /// The endpoint after a delivery; none: nothing about it changes.
    pub fn delivered(&self) -> Option<Self> {
        self.failing.as_ref()?;
        Some(Self {
            failing: None,
            ..self.clone()
        })
    }

    /// The endpoint after the order of a recovery; `until` is the last event of EVENTS. A recovery that runs already becomes a
    /// part of the new one: what only its queue holds is never left without a queue.
    #[must_use]
    pub fn recovering(&self, since: Timestamp, until: u64, now: Timestamp) -> Self {
        let running = self.recovery.as_ref();
        let recovery = Recovery {
            since: running.map_or(since, |running| running.since.min(since)),
            // Its queue is named after it, also if two orders came within a millisecond, or the clock was set back.
            ordered_at: running.map_or(now, |running| {
                now.max(later(running.ordered_at, Duration::from_millis(1)))
            }),
            until: Some(until),
        };
        Self {
            recovery: Some(recovery),
            ..self.clone()
        }
    }

    /// The endpoint once this notice has been told; none: nothing about it changes.
    pub fn told(&self, told: &Untold) -> Option<Self> {
        let untold = self.untold.iter().filter(|untold| *untold != told);
        let untold: Vec<_> = untold.cloned().collect();
        (untold.len() < self.untold.len()).then(|| Self {
            untold,
            ..self.clone()
        })
    }

    /// The endpoint after a failed try, with what people are to be told of it; none: nothing changes.
    pub fn failed(
        &self,
        reason: &str,
        gone: bool,
        give_up: GiveUp,
        now: Timestamp,
    ) -> Option<Self> {
        if self.disabled.is_some() {
            return None;
        }
        let began = self.failing.clone();
        let is_new = began.is_none();
        let began = began.unwrap_or(Failing {
            since: now,
            reason: reason.to_owned(),
            warned_at: None,
        });
        let after =
            |failing: Failing, disabled: Option<Disabled>, notice: Option<EndpointNotice>| {
                let told_reason = disabled.as_ref().map_or(&failing.reason, |it| &it.reason);
                let untold = notice.map(|notice| Untold {
                    notice,
                    at: now,
                    failing_since: failing.since,
                    reason: told_reason.clone(),
                });
                Self {
                    untold: self.untold.iter().cloned().chain(untold).collect(),
                    failing: Some(failing),
                    disabled,
                    ..self.clone()
                }
            };
        // People have the time between the two to repair the receiver, also if nothing was tried for days.
        let last_chance = give_up.disable_after.saturating_sub(give_up.warn_after);
        let is_over = |warned_at| elapsed(warned_at, now) >= last_chance;
        if gone || began.warned_at.is_some_and(is_over) {
            let disabled = Disabled {
                at: now,
                reason: match gone {
                    true => reason.to_owned(),
                    false => format!("no delivery has succeeded since {}: {reason}", began.since),
                },
            };
            return Some(after(began, Some(disabled), Some(EndpointNotice::Disabled)));
        }
        if began.warned_at.is_none() && elapsed(began.since, now) >= give_up.warn_after {
            let warned = Failing {
                warned_at: Some(now),
                reason: reason.to_owned(),
                ..began
            };
            return Some(after(warned, None, Some(EndpointNotice::Failing)));
        }
        is_new.then(|| after(began, None, None))
    }
}

impl EndpointNotice {
    /// The event's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Disabled => "disabled",
        }
    }

    /// What tells this notice from the others of its endpoint, and grows from one to the next.
    pub fn number(self, failing_since: Timestamp) -> u64 {
        let since = u64::try_from(failing_since.as_millisecond()).unwrap_or_default();
        2 * since + u64::from(self == Self::Disabled)
    }
}

impl WebhookId {
    pub fn from_random(bits: u64) -> Self {
        Self(KeyId::from_random(bits).as_str().to_owned())
    }

    pub fn parse(text: &str) -> Result<Self, BadWebhookId> {
        match KeyId::parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(BadWebhookId),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for WebhookId {
    type Error = BadWebhookId;

    fn try_from(text: String) -> Result<Self, BadWebhookId> {
        Self::parse(&text)
    }
}

impl From<WebhookId> for String {
    fn from(id: WebhookId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature::{SECRET_BYTES, WebhookSecret};
    use super::*;

    const GIVE_UP: GiveUp = GiveUp {
        warn_after: Duration::from_secs(300),
        disable_after: Duration::from_secs(500),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    fn webhook() -> Webhook {
        Webhook {
            id: WebhookId::from_random(1),
            url: WebhookUrl::parse("https://example.org/").expect("it is one"),
            events: Vec::new(),
            owner: None,
            note: String::new(),
            secrets: SigningSecrets::new(WebhookSecret::new([1; SECRET_BYTES])),
            created_at: at(0),
            disabled: None,
            failing: None,
            recovery: None,
            untold: Vec::new(),
        }
    }

    fn notices(webhook: &Webhook) -> Vec<EndpointNotice> {
        webhook.untold.iter().map(|untold| untold.notice).collect()
    }

    #[test]
    fn days_of_failure_warn_once_and_then_disable_once() {
        let mut webhook = webhook();
        for second in (100..1_000).step_by(50) {
            if let Some(after) = webhook.failed("answered 500", false, GIVE_UP, at(second)) {
                webhook = after;
            }
        }
        let told = |untold: &Untold| (untold.at, untold.notice, untold.failing_since);
        let decided: Vec<_> = webhook.untold.iter().map(told).collect();
        assert_eq!(
            decided,
            [
                (at(400), EndpointNotice::Failing, at(100)),
                (at(600), EndpointNotice::Disabled, at(100))
            ]
        );
        let reason = webhook.disabled.clone().expect("it is disabled").reason;
        assert_eq!(webhook.untold[1].reason, reason);
        let first = webhook.untold[0].clone();
        let told = webhook.told(&first).expect("it is news");
        assert_eq!(notices(&told), [EndpointNotice::Disabled]);
        assert_eq!(told.told(&first), None);
        assert!(
            reason.contains("1970-01-01T00:01:40Z: answered 500"),
            "{reason}"
        );
    }

    #[test]
    fn one_delivery_forgets_the_failures() {
        let failing = webhook()
            .failed("r", false, GIVE_UP, at(100))
            .expect("it is news");
        let works = failing.delivered().expect("it is news");
        assert_eq!((works.failing.clone(), works.delivered()), (None, None));
        let again = works
            .failed("r", false, GIVE_UP, at(900))
            .expect("it is news");
        assert!(notices(&again).is_empty());
        assert_eq!(again.failing.expect("it fails").since, at(900));
    }

    #[test]
    fn gone_disables_at_once() {
        let gone = webhook()
            .failed("answered 410", true, GIVE_UP, at(9))
            .expect("it is news");
        assert_eq!(notices(&gone), [EndpointNotice::Disabled]);
        let disabled = gone.disabled.clone().expect("it is disabled");
        assert_eq!(disabled.reason, "answered 410");
        assert_eq!(gone.failed("answered 410", true, GIVE_UP, at(9)), None);
    }

    #[test]
    fn each_notice_has_a_number_of_its_own_that_grows() {
        let numbers = [
            EndpointNotice::Failing.number(at(1)),
            EndpointNotice::Disabled.number(at(1)),
            EndpointNotice::Failing.number(at(2)),
            EndpointNotice::Disabled.number(at(2)),
        ];
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[test]
    fn a_second_recovery_covers_what_the_running_one_has_not_finished() {
        let first = webhook().recovering(at(100), 7, at(500));
        for (since, now) in [(at(300), at(600)), (at(50), at(600)), (at(300), at(400))] {
            let second = first.recovering(since, 9, now);
            let (first, second) = (first.recovery, second.recovery);
            let (first, second) = first.zip(second).expect("both run");
            assert_eq!(second.since, since.min(at(100)));
            assert_eq!(second.until, Some(9));
            assert!(second.ordered_at.as_millisecond() > first.ordered_at.as_millisecond());
        }
    }
}
