//! The pools of a run: what each buys, what both may cost, and their configuration.

use serde_json::json;
use spotreel_domain::Model;
use spotreel_domain::fleet::cloud::Template;
use spotreel_domain::money::Usd;
use spotreel_ec2::Subnet;
use spotreel_tests::harness::fleet::subnets_of;

pub const POOLS: [ChaosPool; 2] = [
    ChaosPool {
        name: "default",
        models: &[Model::Ti2v5b],
        kinds: &["g5.xlarge", "g6.xlarge"],
        part: 1,
    },
    // Two of three tasks are of its models.
    ChaosPool {
        name: "large",
        models: &[Model::T2vA14b, Model::I2vA14b],
        kinds: &["g6e.xlarge"],
        part: 2,
    },
];
/// What the pools buy, each with its cap in cents.
pub const KINDS: [(&str, i64); 3] = [("g5.xlarge", 45), ("g6.xlarge", 36), ("g6e.xlarge", 85)];
/// The part of what all machines would cost that both pools together may cost an hour: it binds.
const HOURLY_PERCENT: i64 = 70;
/// What a run may cost by its other budgets: far more than it does, since it has to come to its end.
pub const BUDGET: Usd = Usd::from_cents(500);

/// Some models, and what renders them.
pub struct ChaosPool {
    pub name: &'static str,
    pub models: &'static [Model],
    pub kinds: &'static [&'static str],
    /// Of three machines.
    part: u32,
}

impl ChaosPool {
    /// Its most machines, of those of the run.
    fn most(&self, instances: u32) -> u32 {
        match self.part {
            1 => (instances / 3).max(1),
            _ => (instances - instances / 3).max(1),
        }
    }
}

/// What both pools together may cost an hour, where they may have so many machines.
pub fn hourly(instances: u32) -> Usd {
    let dearest = |pool: &ChaosPool| {
        let caps = KINDS.iter().filter(|(kind, _)| pool.kinds.contains(kind));
        caps.map(|(_, cents)| *cents).max().unwrap_or_default()
    };
    let all: i64 = POOLS
        .iter()
        .map(|pool| i64::from(pool.most(instances)) * dearest(pool))
        .sum();
    let one_each: i64 = POOLS.iter().map(dearest).sum();
    Usd::from_cents((all * HOURLY_PERCENT / 100).max(one_each))
}

/// Minutes become seconds.
pub fn pools_toml(subnets: &[Subnet], templates: &[Template], instances: u32) -> String {
    let subnets = subnets_of(subnets);
    let pools = POOLS.iter().zip(templates);
    let pools = pools.map(|(pool, template)| pool_toml(pool, template, &subnets, instances));
    pools.collect()
}

fn pool_toml(pool: &ChaosPool, template: &Template, subnets: &str, instances: u32) -> String {
    let Template { id, version } = template;
    let bought = KINDS.iter().filter(|(kind, _)| pool.kinds.contains(kind));
    let kinds: Vec<_> = bought
        .map(|(kind, cents)| {
            let cap = Usd::from_cents(*cents);
            // The engine without a GPU renders everything on each of them.
            format!(
                "{{ name = \"{kind}\", cap = {}, gpu = \"h200\" }}",
                dollars(cap)
            )
        })
        .collect();
    format!(
        r#"[pool.{name}]
models = {models}
cloud = "aws"
template = {{ id = "{id}", version = {version} }}
subnets = [{subnets}]
kinds = [{}]
batch_deadline = "10m"

[pool.{name}.rules]
length = {{ at_least = 5 }}
max_wait = {{ after = "5s" }}
age = "off"
price = "off"
schedule = "off"
sizing = {{ tasks_per_gpu_hour = 360.0, target = "30s", min = 1, max = {most} }}
budgets = {{ per_hour = {hourly}, per_batch = {budget}, per_day = {budget}, per_month = {budget} }}

[pool.{name}.breaker]
pause = "2s"
longest_pause = "10s"
# The faults would not end, and no person is there to resume.
pauses = 1000

[pool.{name}.patience]
boot = "20s"
life = "20m"
replay = "20s"
unknown_launch = "24s"
listing = "4s"
terminate_again = "1s"
silence = "30s"
drain = "8s"
no_capacity = "3s"
longest_penalty = "1m"
forgiven = "1m"
quota = "3s"
throttled = "1s"
blocked = "20s"
moving = "300ms"
calm = "1s"

"#,
        kinds.join(", "),
        name = pool.name,
        models = json!(pool.models),
        most = pool.most(instances),
        hourly = dollars(hourly(instances)),
        budget = dollars(BUDGET),
    )
}

/// As TOML has it.
fn dollars(amount: Usd) -> String {
    let cents = amount.micros() / 10_000;
    format!("{}.{:02}", cents / 100, cents % 100)
}
