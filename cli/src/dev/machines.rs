//! The machines of `dev`: instances of the local cloud that fleet buys and ends, as it would on AWS.
//!
//! A machine is a short script that becomes the worker of this build. All that the worker needs to know and nobody else
//! lies in a file of the directory that only its owner can read; the keys for S3 come from the machine's metadata.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use spotreel_domain::money::Usd;
use spotreel_ec2::{Ec2, Ec2Config, Keys, TemplateSpec};

use super::programs::{BUCKET, Plan, REGION, engine_command, sibling};
use super::secrets::S3_ACCESS_KEY;

/// On every machine as a tag, and what `spotreel fleet reap` asks for here.
pub const ENV: &str = "dev";
pub const TEMPLATE: &str = "spotreel-dev";
/// The local cloud forgets templates when it ends, so the first version is always this one's.
pub const TEMPLATE_VERSION: u64 = 1;
const TEMPLATE_LOOK: Duration = Duration::from_secs(2);
const POOLS: &str = "pools.toml";
const WORKER_ENV: &str = "worker.env";
/// Images are not modelled.
const IMAGE: &str = "ami-0123456789abcdef0";
/// The local cloud's subnets, one a zone.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// What is bought, and the most that an hour may cost. As on AWS, the A14B models take the last.
const KINDS: [(&str, i64); 4] = [
    ("g6.xlarge", 36),
    ("g5.xlarge", 45),
    ("g6.2xlarge", 45),
    ("g6e.xlarge", 85),
];

/// Writes what trigger, fleet and machines read.
pub fn write_files(plan: &Plan<'_>) -> anyhow::Result<()> {
    super::write_atomically(&plan.dir.join(POOLS), &pools(plan))?;
    super::write_atomically(&plan.dir.join(WORKER_ENV), &worker_env(plan))
}

pub fn pools_path(dir: &Path) -> String {
    dir.join(POOLS).display().to_string()
}

/// Small thresholds and short patience: everything that takes hours on AWS is to be seen within seconds here.
fn pools(plan: &Plan<'_>) -> String {
    let args = plan.args;
    let (at, max) = (args.trigger_at, args.max_instances);
    let wait = humantime::format_duration(args.max_wait);
    let cloud = if args.workers.is_some() {
        "none"
    } else {
        "aws"
    };
    let subnets: Vec<_> = ZONES
        .iter()
        .zip(1..)
        .map(|(zone, number)| {
            format!("  {{ id = \"subnet-{number:017x}\", zone = \"{REGION}{zone}\" }},\n")
        })
        .collect();
    let kinds: Vec<_> = KINDS
        .iter()
        .map(|(name, cents)| {
            let cap = Usd::from_cents(*cents).to_decimal();
            format!("  {{ name = \"{name}\", cap = {cap} }},\n")
        })
        .collect();
    format!(
        r#"# Written by every start of `spotreel dev`; deploy/pools.toml explains the keys.
[pool.default]
cloud = "{cloud}"
subnets = [
{subnets}]
kinds = [
{kinds}]

[pool.default.rules]
length = {{ at_least = {at} }}
max_wait = {{ after = "{wait}" }}
age = "off"
price = "off"
schedule = "off"

# One machine a task, as far as the most allows.
[pool.default.rules.sizing]
tasks_per_gpu_hour = 60.0
target = "1m"
min = 1
max = {max}

# Machines that end before they serve: a few of them in the first minute, and the batch is given up within three.
[pool.default.breaker]
pause = "15s"

[pool.default.patience]
boot = "1m"
replay = "20s"
unknown_launch = "30s"
listing = "5s"
terminate_again = "5s"
silence = "1m"
drain = "30s"
no_capacity = "10s"
longest_penalty = "1m"
forgiven = "2m"
quota = "10s"
throttled = "2s"
refused = "30s"
blocked = "1m"
moving = "500ms"
calm = "1s"
"#,
        subnets = subnets.concat(),
        kinds = kinds.concat(),
    )
}

fn worker_env(plan: &Plan<'_>) -> String {
    [
        ("SPOTREEL_NATS__URL", plan.nats_url().as_str()),
        ("SPOTREEL_NATS__USER", "worker"),
        ("SPOTREEL_NATS__PASSWORD", plan.secrets.of("worker")),
        ("SPOTREEL_S3__BUCKET", BUCKET),
        ("SPOTREEL_S3__REGION", REGION),
        ("SPOTREEL_S3__ENDPOINT_URL", &plan.s3_url()),
        ("SPOTREEL_S3__FORCE_PATH_STYLE", "true"),
        ("AWS_REGION", REGION),
    ]
    .map(|(name, value)| format!("{name}={}\n", quoted(value)))
    .concat()
}

/// What a machine runs. Its directory bears the instance's id, which is a better name for the worker than this host's.
fn user_data(plan: &Plan<'_>) -> anyhow::Result<String> {
    let engine = serde_json::to_string(&engine_command(plan.args)?)?;
    let settings = [
        // A notice is seen at once, and a machine whose `dev` was killed does not stay for long.
        "cloud.poll=1s".to_owned(),
        "idle.orphan_after=30s".to_owned(),
        format!("engine.command={engine}"),
    ];
    let settings: String = settings
        .iter()
        .map(|setting| format!(" --set {}", quoted(setting)))
        .collect();
    Ok(format!(
        "#!/bin/bash
set -eu
unset ${{!SPOTREEL_LOCALCLOUD_@}}
set -a; . {env}; set +a
mkdir -p scratch
exec {worker} --set name=\"${{PWD##*/}}\" --set scratch=\"$PWD/scratch\"{settings}
",
        env = quoted(&plan.dir.join(WORKER_ENV).display().to_string()),
        worker = quoted(&sibling("spotreel-worker")?.display().to_string()),
    ))
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The same, and as it stands where it needs no quotes.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// The template that fleet launches from.
pub struct Template {
    ec2: Ec2,
    spec: TemplateSpec,
}

impl Template {
    pub async fn make(plan: &Plan<'_>) -> anyhow::Result<Self> {
        let config = Ec2Config {
            region: REGION.to_owned(),
            endpoint_url: Some(plan.s3_url()),
        };
        let keys = Keys {
            access_key: S3_ACCESS_KEY.to_owned(),
            secret_key: plan.secrets.s3().to_owned(),
        };
        let template = Self {
            ec2: Box::pin(Ec2::connect_with_keys(&config, keys)).await,
            spec: TemplateSpec {
                // Its role is where the machine's keys for S3 come from.
                instance_profile: Some("spotreel-worker".to_owned()),
                ..TemplateSpec::new(TEMPLATE, IMAGE, user_data(plan)?)
            },
        };
        let made = template.ec2.ensure_template(&template.spec).await;
        made.context("the launch template cannot be made")?;
        Ok(template)
    }

    /// Makes it again when a local cloud that was started again has forgotten it.
    pub async fn keep(&self) -> ! {
        loop {
            tokio::time::sleep(TEMPLATE_LOOK).await;
            // A cloud that is down is asked again.
            if let Ok(None) = self.ec2.template(TEMPLATE).await {
                let _ = self.ec2.ensure_template(&self.spec).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_quoted() {
        let text = "it's $HOME; `id`";
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(text))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), text);
        assert_eq!(word("/tmp/a-b.c"), "/tmp/a-b.c");
        assert_eq!(word("/tmp/a b"), "'/tmp/a b'");
    }
}
