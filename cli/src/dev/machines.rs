//! The machines of `dev`: instances of the local cloud that fleet buys and ends, as it would on AWS.
//!
//! A machine is a short script that becomes the worker of this build. All that the worker needs to know and nobody else
//! lies in a file of the directory that only its owner can read; the keys for S3 come from the machine's metadata.

use std::time::Duration;

use anyhow::Context;
use spotreel_domain::Model;
use spotreel_domain::pool::{Cloud, KindConfig, PoolConfig, Pools};
use spotreel_ec2::{Ec2, Ec2Config, Keys, TemplateSpec};
use spotreel_programs::{Invocation, quoted};

use super::file::write_atomically;
use super::programs::ProgramsPlan;

const TEMPLATE_LOOK: Duration = Duration::from_secs(2);
const WORKER_ENV: &str = "worker.env";
/// Images are not modelled.
const IMAGE: &str = "ami-0123456789abcdef0";

/// Writes what machines read.
pub fn write_files(plan: &ProgramsPlan<'_>) -> anyhow::Result<()> {
    write_atomically(&plan.dir.join(WORKER_ENV), &worker_env(plan))
}

fn worker_env(plan: &ProgramsPlan<'_>) -> String {
    let variables = plan.site.instance_variables(plan.secrets.of("worker"));
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={}\n", quoted(value)));
    lines.collect()
}

/// What a machine of a pool with these models runs. Its directory bears the instance's id, which is a better name for the
/// worker than this host's.
fn user_data(plan: &ProgramsPlan<'_>, models: &[Model]) -> anyhow::Result<String> {
    let worker = Invocation::new(plan.site.programs.path("worker"))
        // A notice is seen at once, and a machine whose `dev` was killed does not stay for long.
        .set("cloud.poll", "1s")
        .set("idle.orphan_after", "30s")
        .engine(&plan.engine())
        .set("models", &serde_json::to_string(models)?)
        .shell_line();
    Ok(format!(
        "#!/bin/bash
set -eu
unset ${{!SPOTREEL_LOCALCLOUD_@}}
set -a; . {env}; set +a
mkdir -p scratch
exec {worker} --set name=\"${{PWD##*/}}\" --set scratch=\"$PWD/scratch\"
",
        env = quoted(&plan.dir.join(WORKER_ENV).display().to_string()),
    ))
}

/// As one word of a shell, in quotes only where it needs them.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// The templates that fleet launches from, one a pool.
pub struct Templates {
    ec2: Ec2,
    specs: Vec<TemplateSpec>,
}

impl Templates {
    /// Makes them, and tells each pool which is its own.
    pub async fn make(plan: &ProgramsPlan<'_>, pools: &mut Pools) -> anyhow::Result<Self> {
        let cloud = plan.site.cloud.clone();
        let config = Ec2Config {
            region: cloud.region,
            endpoint_url: Some(cloud.endpoint),
        };
        let keys = Keys {
            access_key: cloud.access_key,
            secret_key: cloud.secret_key,
        };
        let ec2 = Box::pin(Ec2::connect_with_keys(&config, keys)).await;
        leave_out_types(&ec2, pools).await?;
        let mut specs = Vec::new();
        for (name, pool) in &mut pools.pool {
            if pool.cloud == Cloud::None {
                continue;
            }
            let name = format!("spotreel-dev-{name}");
            let spec = TemplateSpec {
                // Its role is where the machine's keys for S3 come from.
                instance_profile: Some("spotreel-worker".to_owned()),
                tags: pool.tags.clone(),
                ..TemplateSpec::new(name, IMAGE, user_data(plan, &pool.models)?)
            };
            let made = ec2.ensure_versions(&spec).await;
            pool.template = Some(made.context("the launch template cannot be made")?);
            specs.push(spec);
        }
        Ok(Self { ec2, specs })
    }

    /// Makes them again when a local cloud that was started again has forgotten them: the same name has the same id there.
    pub async fn keep(&self) -> ! {
        loop {
            tokio::time::sleep(TEMPLATE_LOOK).await;
            for spec in &self.specs {
                // A cloud that is down is asked again.
                if let Ok(None) = self.ec2.template(&spec.name).await {
                    let _ = self.ec2.ensure_versions(spec).await;
                }
            }
        }
    }
}

/// Takes those types out of the pools that the local cloud does not have, and says so.
async fn leave_out_types(ec2: &Ec2, pools: &mut Pools) -> anyhow::Result<()> {
    let offered = ec2.offerings(&pools.kinds()).await;
    let offered = offered.context("the instance types cannot be read")?;
    let bought = |(_, pool): &(_, &mut PoolConfig)| pool.cloud == Cloud::Aws;
    for (name, pool) in pools.pool.iter_mut().filter(bought) {
        let has = |kind: &KindConfig| offered.iter().any(|place| place.kind == kind.name);
        let (has, lacks): (Vec<_>, Vec<_>) = pool.kinds.drain(..).partition(has);
        pool.kinds = has;
        if !lacks.is_empty() {
            let lacks: Vec<_> = lacks.iter().map(|kind| kind.name.as_str()).collect();
            eprintln!(
                "pool {name}: left out, since the small cloud does not have them: {}",
                lacks.join(", ")
            );
        }
    }
    Ok(pools.validate()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_them_stands_in_quotes() {
        assert_eq!(word("/tmp/a-b.c"), "/tmp/a-b.c");
        assert_eq!(word("/tmp/a b"), "'/tmp/a b'");
    }
}
