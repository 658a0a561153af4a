//! The pools of `dev`: one for all models, or those of a person's own file. Their machines are those of the local cloud.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use spotreel_bootstrap::config::{ConfigError, Sources, as_toml, load_from};
use spotreel_domain::Model;
use spotreel_domain::pool::{Cloud, PoolConfig, PoolTemplate, Pools, SubnetConfig};

use super::file::write_atomically;
use crate::args::DevArgs;

/// What trigger and fleet read. Written by every start.
const FILE: &str = "pools.toml";
/// The pool of which no file tells.
const ONLY: &str = "default";
/// Where the local cloud's market lies.
pub const REGION: &str = "us-east-2";
/// The local cloud's zones, each with one subnet.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// Instance types of a pool's presets, which have their caps. The last one has the memory for the A14B models.
const KINDS: [&str; 4] = ["g6.xlarge", "g5.xlarge", "g6.2xlarge", "g6e.xlarge"];

/// The pools as trigger and fleet get them, but for the launch templates, which do not exist yet.
pub fn load(dir: &Path, args: &DevArgs) -> anyhow::Result<Pools> {
    let Some(path) = &args.pools else {
        return Ok(over(&defaults(ONLY, args), None)?);
    };
    let of_file = || format!("--pools {}", path.display());
    let own = path.canonicalize().with_context(of_file)?;
    if own == dir.join(FILE) {
        bail!(
            "--pools {}: `spotreel dev` writes this file at every start; copy it and name the copy",
            path.display()
        );
    }
    let names = over("", Some(&own)).with_context(of_file)?.pool.into_keys();
    let defaults: String = names.map(|name| defaults(name.as_str(), args)).collect();
    let mut pools = over(&defaults, Some(&own)).with_context(of_file)?;
    for pool in pools.pool.values_mut() {
        pool.subnets = subnets();
        pool.template = None;
    }
    pools.validate().with_context(of_file)?;
    Ok(pools)
}

fn over(defaults: &str, file: Option<&Path>) -> Result<Pools, ConfigError> {
    load_from(&Sources {
        name: "pools",
        defaults,
        file,
        named_by: "--pools",
        ..Sources::default()
    })
}

fn defaults(name: &str, args: &DevArgs) -> String {
    written(name, args, None)
}

/// Small thresholds and short patience: what takes hours on AWS shows within seconds here.
fn written(name: &str, args: &DevArgs, template: Option<&PoolTemplate>) -> String {
    let (at, max) = (args.trigger_at, args.max_instances);
    let wait = humantime::format_duration(args.max_wait);
    let cloud = match args.workers {
        Some(_) => "none",
        None => "aws",
    };
    let template = template.map_or_else(String::new, |made| {
        let PoolTemplate { id, version, .. } = made;
        let on_demand = made.on_demand_version.unwrap_or(*version);
        format!(
            "template = {{ id = \"{id}\", version = {version}, on_demand_version = {on_demand} }}\n"
        )
    });
    let subnets = subnets().into_iter().map(|subnet| {
        let SubnetConfig { id, zone } = subnet;
        format!("  {{ id = \"{id}\", zone = \"{zone}\" }},\n")
    });
    let presets = PoolConfig::default().kinds;
    let kinds = KINDS.iter().map(|name| {
        let preset = presets.iter().find(|kind| kind.name == *name);
        let cap = preset.expect("each type is a preset").cap.to_decimal();
        format!("  {{ name = \"{name}\", cap = {cap} }},\n")
    });
    format!(
        r#"
[pool.{name}]
cloud = "{cloud}"
{template}subnets = [
{subnets}]
kinds = [
{kinds}]

[pool.{name}.rules]
length = {{ at_least = {at} }}
max_wait = {{ after = "{wait}" }}
age = "off"
price = "off"
schedule = "off"

# One instance per task, at most max.
[pool.{name}.rules.sizing]
tasks_per_gpu_hour = 60.0
target = "1m"
min = 1
max = {max}

# If instances end before they serve, several are tried in the first minute, and the batch is given up within three minutes.
[pool.{name}.breaker]
pause = "15s"

[pool.{name}.patience]
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
        subnets = subnets.collect::<String>(),
        kinds = kinds.collect::<String>(),
    )
}

fn subnets() -> Vec<SubnetConfig> {
    let subnet = |(zone, number)| SubnetConfig {
        id: format!("subnet-{number:017x}"),
        zone: format!("{REGION}{zone}"),
    };
    ZONES.iter().zip(1..).map(subnet).collect()
}

/// For trigger and fleet: the one pool as a person would write it, those of a file with every key and its value.
pub fn write(dir: &Path, pools: &Pools, args: &DevArgs) -> anyhow::Result<()> {
    let text = match (&args.pools, pools.pool.values().next()) {
        (None, Some(only)) => written(ONLY, args, only.template.as_ref()),
        _ => as_toml(pools).context("the pools cannot be written as TOML")?,
    };
    let head = "# Written by every start of `spotreel dev`; deploy/pools.toml explains the keys. To change it: copy it,\n\
                # edit the copy, and start `spotreel dev --pools COPY`.\n";
    write_atomically(&dir.join(FILE), &format!("{head}{text}"))
}

pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What a person is told when everything is up.
pub fn greeting(pools: &Pools, args: &DevArgs) -> String {
    let wait = humantime::format_duration(args.max_wait);
    match (&args.pools, args.workers) {
        (_, Some(1)) => "1 permanent worker; no fleet".to_owned(),
        (_, Some(workers)) => format!("{workers} permanent workers; no fleet"),
        (None, None) => format!(
            "no machine yet: {} queued tasks bring up to {} of them, and so does a task that has waited {wait}",
            args.trigger_at, args.max_instances,
        ),
        (Some(path), None) => {
            let pool = |(name, pool): (_, &PoolConfig)| {
                let models: Vec<_> = pool.models.iter().map(|model| model.as_str()).collect();
                let own = match pool.cloud {
                    Cloud::Aws => "",
                    Cloud::None => "; cloud = \"none\", so no machine is bought",
                };
                format!("\n  {name}: {}{own}", models.join(", "))
            };
            let listed: String = pools.pool.iter().map(pool).collect();
            let left = Model::ALL
                .iter()
                .filter(|model| pools.of(**model).is_none());
            let left: Vec<_> = left.map(|model| model.as_str()).collect();
            let left = match left.as_slice() {
                [] => String::new(),
                left => format!("\n  in no pool, so never rendered: {}", left.join(", ")),
            };
            format!("no machine yet; pools of {}:{listed}{left}", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use spotreel_domain::money::Usd;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> DevArgs {
        let words = ["spotreel", "dev"].into_iter();
        let words = words.chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Dev(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// With the text as the person's file, and the flags.
    fn loaded(text: &str, flags: &str) -> anyhow::Result<Pools> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, text).unwrap();
        let loaded = load(
            Path::new("/nowhere"),
            &args(&format!("{flags} --pools {}", file.display())),
        );
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            text,
            "it is only read"
        );
        loaded
    }

    fn pool<'a>(pools: &'a Pools, name: &str) -> &'a PoolConfig {
        let mut all = pools.pool.iter();
        all.find(|(known, _)| known.as_str() == name).unwrap().1
    }

    #[test]
    fn what_the_file_says_goes_before_what_dev_has() {
        let pools = loaded(
            r#"
[pool.small]
models = ["ti2v-5B"]
subnets = [{ id = "subnet-0123456789abcdef0", zone = "eu-west-1a" }]
template = { id = "lt-0123456789abcdef0", version = 7 }
kinds = [{ name = "g6.xlarge", cap = 0.3 }]
[pool.small.rules]
length = { at_least = 9 }
budgets = { per_batch = 0.05 }
[pool.small.patience]
boot = "7m"
[pool.large]
models = ["t2v-A14B", "i2v-A14B"]
"#,
            "--trigger-at 4 --max-instances 2",
        )
        .unwrap();
        let (small, large) = (pool(&pools, "small"), pool(&pools, "large"));
        assert_eq!(small.models, [Model::Ti2v5b]);
        assert_eq!(small.kinds.len(), 1);
        assert_eq!(small.rules.budgets.per_batch, Some(Usd::from_cents(5)));
        assert_eq!(small.rules.length.as_ref().unwrap().at_least, 9);
        assert_eq!(large.rules.length.as_ref().unwrap().at_least, 4);
        assert_eq!(large.rules.sizing.max, 2);
        assert_eq!(small.patience.boot, Duration::from_secs(420));
        assert_eq!(large.patience.boot, Duration::from_secs(60));
        for pool in [small, large] {
            assert_eq!((pool.cloud, &pool.template), (Cloud::Aws, &None));
            assert_eq!(pool.subnets, subnets());
            assert!(pool.rules.age.is_none(), "what is left out is dev's");
        }
    }

    #[test]
    fn a_file_that_cannot_work_is_refused_with_its_key() {
        let told = |text: &str| format!("{:#}", loaded(text, "").unwrap_err());
        let overlap = told("[pool.a]\n[pool.b]\n");
        assert!(
            overlap.contains("--pools ") && overlap.contains("belongs to pool a"),
            "{overlap}"
        );
        let unknown = told("[pool.a]\nbudget = 3\n");
        assert!(
            unknown.contains("mine.toml") && unknown.contains("budget"),
            "{unknown}"
        );
        let missing = load(Path::new("/nowhere"), &args("--pools /nowhere/mine.toml"));
        let missing = format!("{:#}", missing.unwrap_err());
        assert!(
            missing.contains("--pools /nowhere/mine.toml: No such file"),
            "{missing}"
        );
    }

    #[test]
    fn without_a_file_the_one_pool_is_written_as_a_person_would() {
        let dir = tempfile::tempdir().unwrap();
        let args = args("");
        let mut pools = load(dir.path(), &args).unwrap();
        let only = pools.pool.values_mut().next().unwrap();
        only.template = Some(PoolTemplate {
            id: "lt-1".into(),
            version: 1,
            on_demand_version: Some(2),
        });
        write(dir.path(), &pools, &args).unwrap();
        let written = dir.path().join(FILE);
        assert_eq!(over("", Some(&written)).unwrap(), pools);
        let text = std::fs::read_to_string(written).unwrap();
        assert!(text.lines().count() < 60, "{text}");
    }

    #[test]
    fn the_file_that_every_start_writes_is_not_taken_for_a_persons_own() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        write(&dir, &load(&dir, &args("")).unwrap(), &args("")).unwrap();
        let refused = load(&dir, &args(&format!("--pools {}", path(&dir).display()))).unwrap_err();
        assert!(refused.to_string().contains("copy it"), "{refused}");
    }
}
