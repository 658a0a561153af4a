//! The pools held against what the cloud has: templates, zones, types, quotas, prices. What does not fit is left out of
//! the launches, and said where people look.

use std::collections::{BTreeMap, BTreeSet};

use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::{Lifecycle, Template};
use spotreel_domain::fleet::observation::Market;
use spotreel_domain::fleet::policy::Policy;
use spotreel_ec2::{CallError, Ec2, SubnetFilter};

use crate::conditions::Conditions;

/// The checks in `/readyz`.
pub const LISTING: &str = "cloud";
pub const PRICES: &str = "prices";
pub const POOLS: &str = "pools";

/// The template as it is configured: the id or the name, and the version.
pub type TemplateName = Template;

/// What the cloud has of what the pools name.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    templates: BTreeMap<PoolName, Template>,
    subnets: BTreeSet<(String, String)>,
    kinds: BTreeSet<String>,
    /// For people.
    pub problems: BTreeMap<PoolName, Vec<String>>,
}

impl Findings {
    /// The policy without what the cloud does not have. Before anything was found it has no template, and so launches
    /// nothing.
    pub fn fit(&self, policy: &Policy) -> Policy {
        let mut policy = policy.clone();
        policy.template = self
            .templates
            .get(&policy.pool)
            .cloned()
            .unwrap_or(Template {
                id: String::new(),
                version: 0,
            });
        let problems = self.problems.get(&policy.pool);
        policy.problem = problems
            .filter(|problems| !problems.is_empty())
            .map(|problems| problems.join("; "));
        policy.kinds.retain(|kind| self.kinds.contains(&kind.name));
        policy.subnets.retain(|subnet| {
            self.subnets
                .contains(&(subnet.id.clone(), subnet.zone.clone()))
        });
        policy
    }

    pub fn is_clean(&self) -> bool {
        self.problems.values().all(Vec::is_empty)
    }
}

pub async fn look(
    ec2: &Ec2,
    policies: &BTreeMap<PoolName, (Policy, TemplateName)>,
) -> Result<Findings, CallError> {
    let kinds: BTreeSet<String> = policies
        .values()
        .flat_map(|(policy, _)| policy.kinds.iter().map(|kind| kind.name.clone()))
        .collect();
    let kinds: Vec<_> = kinds.into_iter().collect();
    // Hints: what cannot be read of types and zones EC2 says of each launch.
    let (infos, places) = tokio::join!(ec2.kinds(&kinds), ec2.offerings(&kinds));
    let (infos, unread_kinds) = known_or_said(infos);
    let (places, unread_places) = known_or_said(places);
    let mut findings = Findings::default();
    match &infos {
        Some(infos) => {
            let usable = infos.iter().filter(|info| info.gpus == 1);
            findings.kinds = usable.map(|info| info.kind.clone()).collect();
        }
        None => findings.kinds = kinds.iter().cloned().collect(),
    }
    for (name, (policy, wanted)) in policies {
        let mut problems: Vec<_> = unread_kinds.iter().chain(&unread_places).cloned().collect();
        for kind in &policy.kinds {
            let Some(infos) = &infos else {
                break;
            };
            match infos.iter().find(|info| info.kind == kind.name) {
                None => problems.push(format!(
                    "{} has no type {}: take it out of pool.{name}.kinds",
                    ec2.region(),
                    kind.name
                )),
                Some(info) if info.gpus != 1 => problems.push(format!(
                    "{} has {} GPUs and a unit is one: take it out of pool.{name}.kinds",
                    kind.name, info.gpus
                )),
                Some(_) => {}
            }
        }
        check_subnets(ec2, policy, &mut findings, &mut problems).await?;
        for subnet in &policy.subnets {
            let Some(places) = &places else {
                break;
            };
            if !policy.kinds.iter().any(|kind| {
                places
                    .iter()
                    .any(|p| p.kind == kind.name && p.zone == subnet.zone)
            }) {
                problems.push(format!("no type of the pool can be had in {}", subnet.zone));
            }
        }
        match ec2.template(&wanted.id).await? {
            Some(found) => {
                let template = Template {
                    id: found.id,
                    version: wanted.version,
                };
                findings.templates.insert(name.clone(), template);
            }
            None => problems.push(format!(
                "there is no launch template {} in {}: make it (deploy/), or set template.id",
                wanted.id,
                ec2.region()
            )),
        }
        findings.problems.insert(name.clone(), problems);
    }
    Ok(findings)
}

/// What was read; or for people, why it could not be.
fn known_or_said<T>(read: Result<T, CallError>) -> (Option<T>, Option<String>) {
    match read {
        Ok(read) => (Some(read), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

async fn check_subnets(
    ec2: &Ec2,
    policy: &Policy,
    findings: &mut Findings,
    problems: &mut Vec<String>,
) -> Result<(), CallError> {
    let name = &policy.pool;
    for subnet in &policy.subnets {
        // One by one: a list is refused as a whole for one that does not exist.
        let found = match ec2
            .subnets(&SubnetFilter::Ids(vec![subnet.id.clone()]))
            .await
        {
            Ok(found) => found,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        match found.first() {
            None => problems.push(format!(
                "there is no subnet {}: mend pool.{name}.subnets",
                subnet.id
            )),
            Some(there) if there.zone != subnet.zone => problems.push(format!(
                "subnet {} lies in {}, not in {}: mend pool.{name}.subnets",
                subnet.id, there.zone, subnet.zone
            )),
            Some(there) => {
                if there.free_addresses == 0 {
                    tracing::warn!(subnet = subnet.id, "the subnet has no free address");
                }
                findings
                    .subnets
                    .insert((subnet.id.clone(), subnet.zone.clone()));
            }
        }
    }
    Ok(())
}

/// Says what is wrong, and what will be.
pub fn report(
    findings: &Findings,
    policies: &BTreeMap<PoolName, (Policy, TemplateName)>,
    quotas: &BTreeMap<Lifecycle, u32>,
    market: Option<&Market>,
    conditions: &Conditions,
) {
    for (name, (policy, _)) in policies {
        let mut problems = findings.problems.get(name).cloned().unwrap_or_default();
        if quotas.get(&Lifecycle::Spot) == Some(&0) {
            problems.push(format!(
                "the account's quota {} (all G and VT Spot requests) is 0 vCPUs: ask AWS to raise it",
                Lifecycle::Spot.quota_code()
            ));
        }
        let said = match problems.as_slice() {
            [] => Ok(()),
            problems => Err(problems.join("; ")),
        };
        conditions.set(&format!("pool {name}"), said);
        if let Some(sentence) = market.and_then(|market| above_caps(&findings.fit(policy), market))
        {
            tracing::warn!(pool = %name, "{sentence}");
        }
    }
}

/// The pool's nearest place, if none is under its cap.
fn above_caps(policy: &Policy, market: &Market) -> Option<String> {
    let prices = market.spot.iter().filter_map(|(place, price)| {
        let cap = policy.kind(&place.kind)?.cap;
        let ours = policy
            .subnets
            .iter()
            .any(|subnet| subnet.zone == place.zone);
        ours.then_some((price.micros() - cap.micros(), place, price, cap))
    });
    let (gap, place, price, cap) = prices.min()?;
    (gap > 0).then(|| {
        format!(
            "no place is under its cap now: the nearest is {place} at {price}/h, its cap is {cap}"
        )
    })
}
