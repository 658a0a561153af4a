//! The pools held against what the cloud has: templates, zones, types, quotas, prices. What does not fit is left out of
//! the launches, and said where people look.

use std::collections::{BTreeMap, BTreeSet};

use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::cloud::{Lifecycle, Template};
use spotreel_domain::fleet::observation::Market;
use spotreel_domain::fleet::policy::Policy;
use spotreel_ec2::{CallError, Ec2, SubnetFilter, TemplateVersion};

use crate::conditions::Conditions;

/// The checks in `/readyz`.
pub const LISTING: &str = "cloud";
pub const PRICES: &str = "prices";
pub const POOLS: &str = "pools";

/// The template as it is configured: the id or the name, and the version.
pub type TemplateName = Template;

/// What the cloud has of what the pools name.
#[derive(Clone, Debug, Default)]
pub struct CheckFindings {
    templates: BTreeMap<PoolName, Template>,
    subnets: BTreeSet<(String, String)>,
    kinds: BTreeSet<String>,
    /// GiB of the volumes that a machine has, by its launch template.
    volumes: BTreeMap<(String, u64), u32>,
    /// For people.
    pub problems: BTreeMap<PoolName, Vec<String>>,
}

impl CheckFindings {
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

    /// GiB of the volumes that a machine from this template has, as far as it is known.
    pub fn volume_gib(&self, template: &Template) -> Option<u32> {
        let key = (template.id.clone(), template.version);
        self.volumes.get(&key).copied()
    }

    pub fn is_clean(&self) -> bool {
        self.problems.values().all(Vec::is_empty)
    }
}

pub async fn look(
    ec2: &Ec2,
    policies: &BTreeMap<PoolName, (Policy, TemplateName)>,
) -> Result<CheckFindings, CallError> {
    let kinds: BTreeSet<String> = policies
        .values()
        .flat_map(|(policy, _)| policy.kinds.iter().map(|kind| kind.name.clone()))
        .collect();
    let kinds: Vec<_> = kinds.into_iter().collect();
    // Hints: what cannot be read of types and zones EC2 says of each launch.
    let (infos, places) = tokio::join!(ec2.kinds(&kinds), ec2.offerings(&kinds));
    let (infos, unread_kinds) = known_or_said(infos);
    let (places, unread_places) = known_or_said(places);
    let mut findings = CheckFindings::default();
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
                    "{} has no type {}: remove it from pool.{name}.kinds",
                    ec2.region(),
                    kind.name
                )),
                Some(info) if info.gpus != 1 => problems.push(format!(
                    "{} has {} GPUs, but a unit has one: remove it from pool.{name}.kinds",
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
                problems.push(format!("no type of the pool is offered in {}", subnet.zone));
            }
        }
        match check_template(ec2, policy, wanted, &mut findings.volumes).await? {
            Ok(template) => {
                findings.templates.insert(name.clone(), template);
            }
            Err(wrong) => problems.extend(wrong),
        }
        findings.problems.insert(name.clone(), problems);
    }
    Ok(findings)
}

/// The template by its id, or what is wrong with it: from one that is, nothing is launched.
async fn check_template(
    ec2: &Ec2,
    policy: &Policy,
    wanted: &TemplateName,
    volumes: &mut BTreeMap<(String, u64), u32>,
) -> Result<Result<Template, Vec<String>>, CallError> {
    let Some(found) = ec2.template(&wanted.id).await? else {
        let problem = format!(
            "launch template {} does not exist in {}: create it (`spotreel fleet template`), or set template.id",
            wanted.id,
            ec2.region()
        );
        return Ok(Err(vec![problem]));
    };
    let mut problems = Vec::new();
    let markets = [Lifecycle::Spot, Lifecycle::OnDemand];
    let bought = markets
        .into_iter()
        .filter(|market| *market == Lifecycle::Spot || policy.on_demand_after.is_some());
    for lifecycle in bought {
        let template = Template {
            id: found.id.clone(),
            version: policy.template_for(lifecycle).version,
        };
        let version = ec2.template_version(&template).await?;
        if let Some(version) = &version {
            volumes.insert((template.id.clone(), template.version), version.volume_gib);
        }
        for problem in problems_of(&template, lifecycle, version.as_ref(), policy) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    Ok(match problems.is_empty() {
        true => Ok(Template {
            id: found.id,
            version: wanted.version,
        }),
        false => Err(problems),
    })
}

/// What makes this version one that fleet does not launch from, each with its cure.
fn problems_of(
    template: &Template,
    lifecycle: Lifecycle,
    version: Option<&TemplateVersion>,
    policy: &Policy,
) -> Vec<String> {
    let Template {
        id,
        version: number,
    } = template;
    let key = match (lifecycle, policy.on_demand_version) {
        (Lifecycle::OnDemand, Some(_)) => "template.on_demand_version",
        _ => "template.version",
    };
    let Some(version) = version else {
        return vec![format!(
            "launch template {id} has no version {number}: set {key} to one that it has"
        )];
    };
    let mut problems = Vec::new();
    let mut wrong = |is: bool, what: String| {
        if is {
            problems.push(format!("version {number} of launch template {id} {what}"));
        }
    };
    wrong(
        !version.ends_on_shutdown,
        "stops machines that shut down, and a stopped machine's disk goes on costing: make a version with \
         InstanceInitiatedShutdownBehavior terminate"
            .to_owned(),
    );
    wrong(
        !version.metadata_tags,
        "hides their tags from machines, and a worker finds its batch by them: make a version with \
         MetadataOptions.InstanceMetadataTags enabled"
            .to_owned(),
    );
    wrong(
        !version.tokens_required,
        "lets any program on a machine read its credentials without a token (IMDSv1): make a version with \
         MetadataOptions.HttpTokens required"
            .to_owned(),
    );
    let on_requests = &version.spot_request_tags;
    if lifecycle == Lifecycle::OnDemand {
        wrong(
            !on_requests.is_empty(),
            "tags requests for Spot instances, and EC2 refuses to launch on demand from it: set \
             template.on_demand_version (`spotreel fleet template` makes both)"
                .to_owned(),
        );
        return problems;
    }
    let missing = policy
        .tags
        .iter()
        .filter(|(k, v)| on_requests.get(*k) != Some(*v));
    let flags: Vec<_> = missing.map(|(k, v)| format!("--tag \"{k}={v}\"")).collect();
    wrong(
        !flags.is_empty(),
        format!(
            "leaves requests for Spot instances without tags that are configured: make one with `spotreel fleet \
             template {} …`",
            flags.join(" ")
        ),
    );
    problems
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
    findings: &mut CheckFindings,
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
                "subnet {} does not exist: correct pool.{name}.subnets",
                subnet.id
            )),
            Some(there) if there.zone != subnet.zone => problems.push(format!(
                "subnet {} is in {}, not in {}: correct pool.{name}.subnets",
                subnet.id, there.zone, subnet.zone
            )),
            Some(there) => {
                if there.free_addresses == 0 {
                    tracing::warn!(subnet = subnet.id, "subnet has no free IP address");
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
    findings: &CheckFindings,
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
            "all Spot prices are above their caps: the nearest is {place} at {price}/h, its cap is {cap}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotreel_domain::pool::{PoolConfig, PoolTemplate};

    fn policy() -> Policy {
        let template = PoolTemplate {
            id: "lt-1".into(),
            version: 3,
            on_demand_version: None,
        };
        let name = PoolName::parse("default").unwrap();
        PoolConfig::default().policy(&name, "prod", "spotreel", template)
    }

    /// What is said of a version that `change` has made unfit, or fit for something else.
    fn said(
        lifecycle: Lifecycle,
        policy: &Policy,
        change: impl FnOnce(&mut TemplateVersion),
    ) -> Vec<String> {
        let mut version = TemplateVersion {
            ends_on_shutdown: true,
            metadata_tags: true,
            tokens_required: true,
            spot_request_tags: BTreeMap::new(),
            volume_gib: 100,
        };
        change(&mut version);
        let template = policy.template_for(lifecycle);
        problems_of(&template, lifecycle, Some(&version), policy)
    }

    #[test]
    fn each_fault_of_a_template_has_a_sentence_of_its_own_with_the_cure() {
        let policy = policy();
        assert_eq!(said(Lifecycle::Spot, &policy, |_| {}), [""; 0]);
        let of = |change: fn(&mut TemplateVersion)| {
            let said = said(Lifecycle::Spot, &policy, change);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(
                said[0].starts_with("version 3 of launch template lt-1 "),
                "{said:?}"
            );
            said[0].clone()
        };
        assert!(
            of(|v| v.ends_on_shutdown = false)
                .ends_with("InstanceInitiatedShutdownBehavior terminate")
        );
        assert!(
            of(|v| v.metadata_tags = false)
                .ends_with("MetadataOptions.InstanceMetadataTags enabled")
        );
        assert!(of(|v| v.tokens_required = false).ends_with("MetadataOptions.HttpTokens required"));
        let gone = problems_of(&policy.template, Lifecycle::Spot, None, &policy);
        assert_eq!(
            gone,
            ["launch template lt-1 has no version 3: set template.version to one that it has"]
        );
    }

    #[test]
    fn spot_wants_a_persons_tags_on_its_requests_and_on_demand_none() {
        let mut policy = policy();
        policy.tags = BTreeMap::from([("cost-center".to_owned(), "42".to_owned())]);
        let tags = |value: &str| BTreeMap::from([("cost-center".to_owned(), value.to_owned())]);
        for wrong in [BTreeMap::new(), tags("43")] {
            let said = said(Lifecycle::Spot, &policy, |v| v.spot_request_tags = wrong);
            assert!(
                said[0].contains("spotreel fleet template --tag \"cost-center=42\""),
                "{said:?}"
            );
        }
        let right = |v: &mut TemplateVersion| v.spot_request_tags = tags("42");
        assert_eq!(said(Lifecycle::Spot, &policy, right), [""; 0]);
        assert!(said(Lifecycle::OnDemand, &policy, right)[0].contains("on_demand_version"));
        assert_eq!(said(Lifecycle::OnDemand, &policy, |_| {}), [""; 0]);
    }
}
