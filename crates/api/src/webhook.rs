//! What operators order of webhooks, and what they are answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::Owner;
use spotreel_domain::webhook::{
    AllowedHosts, BadTarget, DeliveryRecord, EventFilter, MAX_FILTERS, SigningSecrets, Webhook,
    WebhookId, WebhookSecret, WebhookUrl,
};

use crate::error::Violation;
use crate::whole;

/// As of a key: it is shown in every list.
const MAX_NOTE_BYTES: usize = spotreel_domain::api_key::MAX_NOTE_BYTES;
pub const MAX_DELIVERIES_PER_PAGE: u32 = 1_000;

/// `spotreel.ops.webhook.create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookOrder {
    pub url: String,
    /// Empty: all events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Only events of this owner's tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// `spotreel.ops.webhook.enable`, `.delete` and `.rotate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookRef {
    pub id: String,
}

/// `spotreel.ops.webhook.disable`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisableOrder {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `spotreel.ops.webhook.secret`: the secret of the callbacks of one owner's tasks, or of those that have no owner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretOrder {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Makes a new one first; the former one signs, too, for a day.
    pub rotate: bool,
}

/// `spotreel.ops.webhook.recover`: sends every event since then that has not been delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverOrder {
    pub id: String,
    pub since: Timestamp,
}

/// `spotreel.ops.webhook.deliveries`; `id` is an endpoint's, or `callbacks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveriesQuery {
    pub id: String,
    /// `delivered`, `waiting` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Deliveries that were tried since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub limit: Option<u32>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub cursor: Option<u64>,
}

/// `spotreel.ops.webhook.resend`: one try now, whatever became of the earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResendOrder {
    pub id: String,
    /// As the list of deliveries shows it.
    #[serde(deserialize_with = "whole::required")]
    pub sequence: u64,
}

/// An endpoint as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookView {
    pub id: WebhookId,
    pub url: WebhookUrl,
    pub events: Vec<EventFilter>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// `active`, `failing` or `disabled`.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when no delivery has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Events that were not tried yet; absent: not known now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// Deliveries at work, or between two tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Since when events are sent again by an operator's order, until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovering_since: Option<Timestamp>,
}

/// The data of `webhook.failing` and `webhook.disabled`. Every client sees them: without the URL, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookNotice {
    pub id: WebhookId,
    pub host: String,
    /// `failing` or `disabled`.
    pub state: String,
    pub reason: String,
    pub failing_since: Timestamp,
}

/// An answer in which a secret stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookCreated {
    #[serde(flatten)]
    pub webhook: WebhookView,
    pub secret: WebhookSecret,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebhookList {
    pub webhooks: Vec<WebhookView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallbackSecret {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub secret: WebhookSecret,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryView {
    pub sequence: u64,
    #[serde(flatten)]
    pub delivery: DeliveryRecord,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveriesPage {
    pub deliveries: Vec<DeliveryView>,
    /// Absent: there are no more now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<u64>,
}

impl WebhookOrder {
    /// The endpoint, or all broken rules at once.
    pub fn webhook(
        &self,
        id: WebhookId,
        secret: WebhookSecret,
        allowed: &AllowedHosts,
        now: Timestamp,
    ) -> Result<Webhook, Vec<Violation>> {
        let mut broken = Vec::new();
        let mut refuse = |field: &str, rule: &str, message: String| {
            broken.push(Violation::new(field, rule, message));
        };
        let url = WebhookUrl::parse(&self.url).and_then(|url| url.permit(allowed).map(|()| url));
        if let Err(bad) = &url {
            refuse("url", rule_of(bad), bad.to_string());
        }
        if self.events.len() > MAX_FILTERS {
            let message = format!("events has at most {MAX_FILTERS} entries");
            refuse("events", "count", message);
        }
        let mut events = Vec::new();
        for (index, text) in self.events.iter().take(MAX_FILTERS).enumerate() {
            match EventFilter::parse(text) {
                Ok(filter) => events.push(filter),
                Err(bad) => refuse(&format!("events[{index}]"), "known", bad.to_string()),
            }
        }
        let owner = self.owner.as_deref().map(Owner::parse).transpose();
        if let Err(bad) = &owner {
            refuse("owner", "word", bad.to_string());
        }
        let tasks_only = |filter: &EventFilter| filter.parts().0 == "task";
        if self.owner.is_some() && !(events.is_empty() || events.iter().all(tasks_only)) {
            let message = "only tasks have an owner: name task events only, or leave owner out";
            refuse("events", "owner", message.to_owned());
        }
        let note = self.note.trim();
        if note.len() > MAX_NOTE_BYTES || note.contains(char::is_control) {
            let message = format!("note is one line of at most {MAX_NOTE_BYTES} bytes");
            refuse("note", "line", message);
        }
        match (url, owner) {
            (Ok(url), Ok(owner)) if broken.is_empty() => Ok(Webhook {
                id,
                url,
                events,
                owner,
                note: note.to_owned(),
                secrets: SigningSecrets::new(secret),
                created_at: now,
                disabled: None,
                failing: None,
                recovery: None,
                untold: Vec::new(),
            }),
            _ => Err(broken),
        }
    }
}

/// The word for programs.
pub fn rule_of(bad: &BadTarget) -> &'static str {
    match bad {
        BadTarget::Long => "length",
        BadTarget::Syntax | BadTarget::Scheme | BadTarget::Password => "url",
        BadTarget::Port(_) => "port",
        BadTarget::NotPublic(_) | BadTarget::Metadata(_) => "public",
    }
}

impl From<&Webhook> for WebhookView {
    fn from(webhook: &Webhook) -> Self {
        let failing = webhook.failing.as_ref();
        let (state, reason) = match (&webhook.disabled, failing) {
            (Some(disabled), _) => ("disabled", Some(disabled.reason.clone())),
            (None, Some(failing)) => ("failing", Some(failing.reason.clone())),
            (None, None) => ("active", None),
        };
        Self {
            id: webhook.id.clone(),
            url: webhook.url.clone(),
            events: webhook.events.clone(),
            owner: webhook.owner.clone(),
            note: webhook.note.clone(),
            state: state.to_owned(),
            reason,
            failing_since: failing.map(|failing| failing.since),
            created_at: webhook.created_at,
            waiting: None,
            open: None,
            recovering_since: webhook.recovery.map(|recovery| recovery.since),
        }
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::webhook::SECRET_BYTES;

    use super::*;

    fn webhook(order: &str) -> Result<Webhook, Vec<Violation>> {
        let order: WebhookOrder = serde_json::from_str(order).expect("it is an order");
        let allowed = AllowedHosts::default();
        let secret = WebhookSecret::new([1; SECRET_BYTES]);
        order.webhook(
            WebhookId::from_random(7),
            secret,
            &allowed,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_url_is_enough_and_its_secret_is_not_shown() {
        let made = webhook(r#"{"url":"https://example.org/hook"}"#).expect("it is valid");
        assert!(made.events.is_empty() && made.owner.is_none());
        let view = serde_json::to_value(WebhookView::from(&made)).expect("it is JSON");
        assert_eq!(
            (&view["state"], &view["url"]),
            (&"active".into(), &"https://example.org/hook".into())
        );
        assert!(!view.to_string().contains("whsec_"));
    }

    #[test]
    fn every_broken_rule_is_named() {
        let broken = webhook(
            r#"{"url":"http://127.0.0.1/","events":["task.succeeded","x","batch.*"],"owner":"anna","note":"a\nb"}"#,
        );
        let broken = broken.expect_err("it is refused");
        let fields: Vec<_> = broken
            .iter()
            .map(|one| (one.field.as_str(), one.rule.as_str()))
            .collect();
        let wanted = [
            ("url", "public"),
            ("events[1]", "known"),
            ("events", "owner"),
            ("note", "line"),
        ];
        assert_eq!(fields, wanted);
        assert!(serde_json::from_str::<WebhookOrder>(r#"{"uri":"https://example.org"}"#).is_err());
    }
}
