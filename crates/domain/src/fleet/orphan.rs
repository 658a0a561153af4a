//! Orphans: instances with our tags that have no owner in two listings.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::cloud::{SeenInstance, tag};
use crate::batch::BatchId;
use crate::time::elapsed;

/// When each instance was first seen without an owner. Lost with the process, which only delays the termination.
pub type Marks = BTreeMap<String, Timestamp>;

/// Instances that no active batch has owned for at least `grace`. `active` was read *after* the listing, so the batch of a
/// listed instance is always among them.
pub fn orphans(
    listing: &[SeenInstance],
    env: &str,
    active: &[BatchId],
    marks: &mut Marks,
    now: Timestamp,
    grace: Duration,
) -> Vec<String> {
    let nobodys: Vec<&SeenInstance> = listing
        .iter()
        .filter(|seen| is_ours(seen, env) && seen.is_alive())
        .filter(|seen| seen.batch().is_none_or(|batch| !active.contains(&batch)))
        .collect();
    marks.retain(|id, _| nobodys.iter().any(|seen| seen.id == *id));
    let due = |seen: &&&SeenInstance| {
        let first = *marks.entry(seen.id.clone()).or_insert(now);
        elapsed(first, now) >= grace
    };
    nobodys
        .iter()
        .filter(due)
        .map(|seen| seen.id.clone())
        .collect()
}

/// Instances that have expired by their tag, or that have lost the tag and are older than `life`. Needs neither record nor
/// NATS: the reaper uses nothing else.
pub fn expired(
    listing: &[SeenInstance],
    env: &str,
    cloud_now: Timestamp,
    life: Duration,
) -> Vec<String> {
    let is_over = |seen: &&SeenInstance| match seen.expires_at() {
        Some(at) => at <= cloud_now,
        None => elapsed(seen.launched_at, cloud_now) >= life,
    };
    let ours = listing
        .iter()
        .filter(|seen| is_ours(seen, env) && seen.is_alive());
    ours.filter(is_over).map(|seen| seen.id.clone()).collect()
}

/// Whether it has our tags: no other instance is ever terminated.
pub fn is_ours(seen: &SeenInstance, env: &str) -> bool {
    seen.tag(tag::MANAGED_BY) == Some(tag::MANAGED_BY_FLEET) && seen.tag(tag::ENV) == Some(env)
}
