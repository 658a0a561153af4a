//! Webhooks: where events may be sent, how a delivery is signed, when it is tried again, and when an endpoint is given up.
//!
//! The signature and the headers are those of Standard Webhooks 1.0.0, the body is the event itself (CloudEvents 1.0). The HTTP
//! client is in `spotreel-webhook`.

mod address;
mod attempt;
mod delivery;
mod endpoint;
mod filter;
mod gate;
mod schedule;
mod signature;
mod target;

pub use address::{is_metadata, is_public};
pub use attempt::{DeliveryAttempt, DeliveryVerdict};
pub use delivery::{DeliveryRecord, DeliveryState};
pub use endpoint::{
    BadWebhookId, Disabled, EndpointNotice, Failing, GiveUp, Recovery, Untold, Webhook, WebhookId,
};
pub use filter::{BadFilter, EventFilter, MAX_FILTERS};
pub use gate::Gate;
pub use schedule::{LONGEST_RETRY_AFTER, RetrySchedule};
pub use signature::{BadSecret, SECRET_BYTES, SigningSecrets, WebhookSecret};
pub use target::{AllowedHosts, BadTarget, MAX_URL_BYTES, PORTS, WebhookUrl};
