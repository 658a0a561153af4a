//! One request that must be refused, and how.

use async_nats::HeaderMap;
use serde_json::Value;

use super::stage::Stage;
use super::{first_violation, table};

/// Headers by which a publisher steers JetStream, and ours.
pub const STEERING: [(&str, &str); 14] = [
    ("Nats-Expected-Stream", "NOTHING"),
    ("Nats-Expected-Last-Sequence", "99"),
    ("Nats-Expected-Last-Subject-Sequence", "99"),
    (
        "Nats-Expected-Last-Subject-Sequence-Subject",
        "spotreel.log.>",
    ),
    ("Nats-Expected-Last-Msg-Id", "x"),
    ("Nats-Msg-Id", "x"),
    ("Nats-Rollup", "all"),
    ("Nats-TTL", "1s"),
    ("Nats-Schedule", "@every 1s"),
    (
        "Nats-Schedule-Target",
        "spotreel.log.forged.queued.ti2v-5B.0",
    ),
    ("Nats-Batch-Id", "x"),
    ("Nats-Marker-Reason", "Purge"),
    ("Spotreel-Op", "forged"),
    ("traceparent", "00-ffff-zz-\u{7f}"),
];

pub struct Case {
    pub name: String,
    pub verb: &'static str,
    pub payload: Vec<u8>,
    pub headers: Vec<(&'static str, &'static str)>,
    pub code: &'static str,
    pub field: String,
    pub rule: &'static str,
}

/// A submission that is invalid.
pub fn case(
    name: &str,
    payload: impl Into<Vec<u8>>,
    field: impl Into<String>,
    rule: &'static str,
) -> Case {
    table::case(name, payload, field, rule).into()
}

impl From<table::Case> for Case {
    fn from(case: table::Case) -> Self {
        Self {
            name: case.name,
            verb: "submit",
            payload: case.payload,
            headers: Vec::new(),
            code: "invalid",
            field: case.field,
            rule: case.rule,
        }
    }
}

impl Case {
    pub fn asked(self, verb: &'static str) -> Self {
        Self { verb, ..self }
    }

    pub fn bearing(self, name: &'static str, value: &'static str) -> Self {
        let headers = vec![(name, value)];
        Self { headers, ..self }
    }

    /// None: it was refused as it must be.
    pub async fn try_on(&self, stage: &Stage) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(*name, *value);
        }
        let answer = stage
            .request(self.verb, self.payload.clone(), headers)
            .await;
        let body: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let (code, field, rule) = first_violation(&body["error"]);
        let right =
            (code.as_str(), field.as_str(), rule.as_str()) == (self.code, &self.field, self.rule);
        // Whoever sent a megabyte does not get it back.
        let short = answer.payload.len() < 4_000;
        (!right || !short).then(|| {
            let shown = String::from_utf8_lossy(&answer.payload[..answer.payload.len().min(400)]);
            format!(
                "{} ({}): wanted {} {} {}, got {shown}",
                self.name, self.verb, self.code, self.field, self.rule
            )
        })
    }
}
