//! What lies under `/latest`: a tree of small texts, whose branches list what hangs on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::Truth;
use crate::clock;

const ROLE: &str = "spotreel-local";
/// As long as AWS lends a role's keys.
const KEYS_LAST: Duration = Duration::from_secs(6 * 3600);

/// The text at this path; at a branch, the names below it, one a line, with a slash after those that are branches.
pub(super) fn find(truth: &Truth, path: &str) -> Option<String> {
    let path = path.strip_prefix("/latest/")?;
    let tree = tree(truth);
    if let Some(text) = tree.get(path) {
        return Some(text.clone());
    }
    let branch = match path.strip_suffix('/').unwrap_or(path) {
        "" => String::new(),
        branch => format!("{branch}/"),
    };
    let names: BTreeSet<String> = tree
        .range(branch.clone()..)
        .map_while(|(path, _)| path.strip_prefix(&branch))
        .map(|rest| match rest.split_once('/') {
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        })
        .collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
}

fn tree(truth: &Truth) -> BTreeMap<String, String> {
    let facts = &truth.facts;
    let mut tree = BTreeMap::from(
        [
            ("ami-id", &facts.image_id),
            ("instance-id", &facts.instance_id),
            ("instance-life-cycle", &facts.lifecycle),
            ("instance-type", &facts.instance_type),
            ("local-ipv4", &facts.private_ip),
            ("placement/availability-zone", &facts.zone),
            ("placement/availability-zone-id", &facts.zone_id),
            ("placement/region", &facts.region),
        ]
        .map(|(path, text)| (format!("meta-data/{path}"), text.clone())),
    );
    for (key, value) in &facts.tags {
        // AWS refuses such keys where tags are in the metadata
        if !key.contains(['/', ' ']) {
            tree.insert(format!("meta-data/tags/instance/{key}"), value.clone());
        }
    }
    if let Some((action, time)) = &truth.instance_action {
        let text = json!({"action": action, "time": stamp(*time)}).to_string();
        tree.insert("meta-data/spot/instance-action".to_owned(), text);
        if action == "terminate" {
            tree.insert("meta-data/spot/termination-time".to_owned(), stamp(*time));
        }
    }
    if let Some(noticed) = truth.rebalance {
        let text = json!({"noticeTime": stamp(noticed)}).to_string();
        tree.insert(
            "meta-data/events/recommendations/rebalance".to_owned(),
            text,
        );
    }
    if let Some((access_key, secret_key)) = &facts.keys {
        let text = keys(access_key, secret_key).to_string();
        tree.insert(format!("meta-data/iam/security-credentials/{ROLE}"), text);
    }
    let document = "dynamic/instance-identity/document".to_owned();
    tree.insert(document, identity(truth).to_string());
    tree
}

fn identity(truth: &Truth) -> serde_json::Value {
    let facts = &truth.facts;
    json!({
        "accountId": facts.account_id,
        "architecture": "x86_64",
        "availabilityZone": facts.zone,
        "imageId": facts.image_id,
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "pendingTime": stamp(facts.pending_time),
        "privateIp": facts.private_ip,
        "region": facts.region,
        "version": "2017-09-30",
    })
}

fn keys(access_key: &str, secret_key: &str) -> serde_json::Value {
    let now = i64::try_from(clock::now_ms()).unwrap_or(i64::MAX);
    let now = Timestamp::from_millisecond(now).unwrap_or(Timestamp::MAX);
    let ends = now.checked_add(KEYS_LAST).unwrap_or(Timestamp::MAX);
    json!({
        "Code": "Success",
        "LastUpdated": stamp(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key,
        "SecretAccessKey": secret_key,
        "Token": "local",
        "Expiration": stamp(ends),
    })
}

/// To the second, as AWS writes it.
fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
