//! Service Quotas: the two that limit a GPU fleet, over JSON 1.1.

use serde_json::{Value, json};

use super::error::Refusal;
use super::state::Lifecycle;

/// Vcpus of running G and VT instances, and vcpus that Spot requests may hold.
const QUOTAS: [(&str, &str, Lifecycle); 2] = [
    (
        "L-DB2E81BA",
        "Running On-Demand G and VT instances",
        Lifecycle::OnDemand,
    ),
    (
        "L-3819A6DF",
        "All G and VT Spot Instance Requests",
        Lifecycle::Spot,
    ),
];

pub(crate) fn answer(
    operation: &str,
    body: &[u8],
    quota: impl Fn(Lifecycle) -> u32,
) -> Result<Value, Refusal> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::new("SerializationException", error.to_string()))?;
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or("");
    let describe = |(code, name, lifecycle): &(&str, &str, Lifecycle)| {
        json!({
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": f64::from(quota(*lifecycle)),
            "Unit": "None",
            "Adjustable": true,
            "GlobalQuota": false,
        })
    };
    let missing = |what: &str| Refusal::new("NoSuchResourceException", what);
    if text("ServiceCode") != "ec2" {
        return Err(missing("The service does not exist here"));
    }
    match operation {
        "GetServiceQuota" => {
            let found = QUOTAS.iter().find(|(code, ..)| *code == text("QuotaCode"));
            let found = found.ok_or_else(|| missing("The quota does not exist here"))?;
            Ok(json!({ "Quota": describe(found) }))
        }
        "ListServiceQuotas" => {
            let all: Vec<Value> = QUOTAS.iter().map(describe).collect();
            Ok(json!({ "Quotas": all }))
        }
        other => Err(Refusal::new("UnknownOperationException", other)),
    }
}
