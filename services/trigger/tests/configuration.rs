//! What is wrong is told before anything runs, with its key and its cure, or shown while it lasts; and it costs no more
//! looks than if all were well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spotreel_bootstrap::EXIT_CONFIG;
use spotreel_bootstrap::config::{Sources, load_from};
use spotreel_domain::pool::{Cloud, PoolConfig, Pools, SubnetConfig};
use spotreel_domain::trigger::BlockerKind;
use stage::{Stage, binary, bought, is_blocked, only, until};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/pools.toml");
const ONE: &str = "length = { at_least = 1 }";

/// Starts trigger with these pools and settings until it has refused them.
fn refused(pools: &str, settings: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pools.toml");
    std::fs::write(&path, pools).unwrap();
    let mut all = vec![("pools".to_owned(), path.display().to_string())];
    all.extend(
        settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
    );
    binary(&all).arg("--check-config").output().unwrap()
}

fn says(output: &Output, words: &[&str], what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(EXIT_CONFIG.into()),
        "{what}\n{said}"
    );
    for word in words {
        assert!(said.contains(word), "{what}\nlacks {word:?}: {said}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_wrong_is_told_at_start_with_its_key_and_its_cure() {
    let aws = |rest: &str| format!("[pool.default]\n{}{rest}", bought(0.36, stage::ZONE));
    let rules = |text: &str| aws(&format!("[pool.default.rules]\n{text}\n"));
    let table: &[(&str, String, &[&str])] = &[
        ("no pool", "pool = {}".into(), &["`pool`", "there is none", "[pool.default]"]),
        (
            "no subnet",
            "[pool.default]\ncloud = \"aws\"".into(),
            &["`pool.default.subnets`", "name at least one", "cloud = \"none\""],
        ),
        (
            "no type",
            "[pool.default]\ncloud = \"aws\"\nkinds = []\nsubnets = [{ id = \"s\", zone = \"us-east-2a\" }]".into(),
            &["`pool.default.kinds`", "there is none", "name at least one instance type"],
        ),
        (
            "a cap of nothing",
            format!("[pool.default]\n{}", bought(0.0, stage::ZONE)),
            &["`pool.default.kinds.0`", "the cap of g6.xlarge is $0", "set what an hour may cost"],
        ),
        (
            "a model that no type can render",
            "[pool.default]\nmodels = [\"ti2v-5B\", \"t2v-A14B\"]\ncloud = \"aws\"\nkinds = [{ name = \"g6.xlarge\", cap = 0.36 }]\n\
             subnets = [{ id = \"s\", zone = \"us-east-2a\" }]"
                .into(),
            &["`pool.default.models`", "no type of the pool can render t2v-A14B", "g6e.xlarge has it", "take the model away"],
        ),
        (
            "a card that is not known",
            "[pool.default]\nmodels = [\"ti2v-5B\"]\ncloud = \"aws\"\nkinds = [{ name = \"g4dn.xlarge\", cap = 0.36 }]\n\
             subnets = [{ id = \"s\", zone = \"us-east-2a\" }]"
                .into(),
            &["`pool.default.kinds.0`", "which card g4dn.xlarge has is not known", "set gpu"],
        ),
        (
            "no zone",
            format!("[pool.default]\n{}", bought(0.36, "ohio")),
            &["`pool.default.subnets.0`", "\"ohio\" is not an availability zone", "us-east-2a"],
        ),
        (
            "a zone of another region",
            format!("[pool.default]\n{}", bought(0.36, "eu-west-1a")),
            &["`pool.default.subnets`", "eu-west-1a is not in ec2.region", "set ec2.region"],
        ),
        (
            "thresholds that overlap",
            rules("hybrid = { on_demand_below = 100, resident_above = 100 }"),
            &["`pool.default.rules.hybrid.on_demand_below`", "overlap", "leave room"],
        ),
        (
            "a budget below one machine",
            rules("budgets = { per_hour = 0.1 }"),
            &["`pool.default.rules.budgets.per_hour`", "does not pay one unit", "raise it"],
        ),
        (
            "a budget below one batch",
            rules("budgets = { per_batch = 0.3 }"),
            &["`pool.default.rules.budgets.per_batch`", "does not pay one unit for 2h", "raise it"],
        ),
        (
            "a bad cron",
            rules("schedule = { cron = \"61 2 * * *\" }"),
            &["`pool.default.rules.schedule.cron`", "five fields", "write it as \"0 2 * * *\""],
        ),
        (
            "a cron with seconds",
            rules("schedule = { cron = \"0 0 2 * * *\" }"),
            &["`pool.default.rules.schedule.cron`", "another number of fields", "write it as"],
        ),
        (
            "a day that never comes",
            rules("schedule = { cron = \"0 2 30 2 *\" }"),
            &["`pool.default.rules.schedule.cron`", "never comes"],
        ),
        (
            "a zone of no clock",
            rules("schedule = { zone = \"Ohio\" }"),
            &["`pool.default.rules.schedule.zone`", "time zone database", "America/New_York"],
        ),
        (
            "nothing that could fire",
            rules(&only("")),
            &["every rule is off", "max_wait alone is enough"],
        ),
        (
            "one model in two pools",
            "[pool.a]\nmodels = [\"ti2v-5B\"]\n[pool.b]\nmodels = [\"ti2v-5B\"]".into(),
            &["`pool.b.models`", "belongs to pool a already", "in one pool"],
        ),
        (
            "a key misspelt in a rule",
            rules("length = { atleast = 5 }"),
            &["unknown key", "pool.default.rules.length", "atleast", "at_least"],
        ),
        (
            "a rule misspelt",
            rules("lenght = { at_least = 5 }"),
            &["unknown key", "lenght", "length"],
        ),
        (
            "a word that is not off",
            rules("age = \"of\""),
            &["pool.default.rules.age", "\"of\"", "write \"off\""],
        ),
        (
            "an amount that is none",
            rules("budgets = { per_day = \"ten\" }"),
            &["pool.default.rules.budgets.per_day", "\"ten\"", "0.25"],
        ),
        (
            "a time that is none",
            rules("max_wait = { after = \"six hours\" }"),
            &["pool.default.rules.max_wait.after"],
        ),
        (
            "a key misspelt in a pool",
            aws("batch_dedline = \"1h\""),
            &["unknown key", "batch_dedline", "batch_deadline"],
        ),
    ];
    for (what, pools, words) in table {
        says(&refused(pools, &[]), words, what);
    }
}

#[test]
fn settings_that_would_spin_are_refused() {
    for (key, value) in [
        ("reconcile.every", "0s"),
        ("prices.every", "0s"),
        ("reconcile.gap", "1m"),
        ("prices.good_for", "1s"),
        ("reconcile.evry", "1s"),
    ] {
        says(&refused("[pool.default]\n", &[(key, value)]), &[key], key);
    }
    let missing = binary(&[("pools".to_owned(), "/nowhere/pools.toml".to_owned())]);
    let mut missing = missing;
    let output = missing.arg("--check-config").output().unwrap();
    says(
        &output,
        &["key `pools`", "/nowhere/pools.toml"],
        "no such file",
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !said.contains("--config"),
        "another file is missing: {said}"
    );
}

#[test]
fn the_check_shows_the_pools_as_they_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pools.toml");
    let pools = "[pool.small]\nrules.budgets = { per_day = 7 }\nrules.length = { at_least = 9 }\n";
    std::fs::write(&path, pools).unwrap();
    let mut checked = binary(&[("pools".to_owned(), path.display().to_string())]);
    let output = checked.arg("--check-config").output().unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    let shown: Value = load_from(&Sources {
        name: "shown",
        defaults: &shown,
        ..Sources::default()
    })
    .unwrap();
    let rules = &shown["pool"]["small"]["rules"];
    assert_eq!(rules["length"]["at_least"], 9);
    assert_eq!(rules["budgets"]["per_day"], "7.000000");
    assert_eq!(rules["budgets"]["per_hour"], "off");
    let left_out = &shown["pool"]["small"]["patience"]["boot"];
    assert_eq!(left_out, "15m");
}

#[test]
fn the_sample_is_the_default_and_names_every_key() {
    let sources = Sources {
        name: "pools",
        file: Some(Path::new(SAMPLE)),
        ..Sources::default()
    };
    let sample: Pools = load_from(&sources).unwrap();
    // Its models and types are two pools that can be bought; all else is the preset, of each key.
    let preset = PoolConfig::default();
    for pool in sample.pool.values() {
        let of_sample = PoolConfig {
            models: pool.models.clone(),
            kinds: pool.kinds.clone(),
            ..preset.clone()
        };
        assert_eq!(*pool, of_sample);
    }
    let mut bought = sample.clone();
    for pool in bought.pool.values_mut() {
        pool.cloud = Cloud::Aws;
        pool.subnets = vec![SubnetConfig {
            id: "subnet-1".into(),
            zone: "us-east-2a".into(),
        }];
    }
    bought.validate().unwrap();
    sample.validate().unwrap();
    let text = std::fs::read_to_string(SAMPLE).unwrap();
    let mut keys = BTreeSet::new();
    collect(&json!(sample), &mut keys);
    keys.extend(
        [
            "template",
            "on_demand_after",
            "on_demand_cap",
            "gpu",
            "hybrid",
            "on_demand_below",
            "resident_above",
            "dwell",
            "resident_units",
        ]
        .map(str::to_owned),
    );
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !text.contains(key.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn collect(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                collect(value, keys);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

/// Three pools, each with a task, each with another fault of its own.
fn three_faults() -> String {
    let pool = |name: &str, model: &str, bought: &str, rules: &str| {
        format!(
            "[pool.{name}]\nmodels = [\"{model}\"]\n{bought}[pool.{name}.rules]\n{}",
            only(rules)
        )
    };
    let budget = format!("{ONE}\nbudgets = {{ per_hour = 0.2 }}");
    [
        pool("dear", "ti2v-5B", &bought(0.05, stage::ZONE), ONE),
        pool("nowhere", "t2v-A14B", &bought(0.36, "us-east-2z"), ONE),
        pool("poor", "i2v-A14B", &bought(0.36, stage::ZONE), &budget),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blocks_a_pool_is_shown_and_is_no_hot_loop() {
    let stage = Stage::set().await;
    stage
        .cloud
        .set_price("g6.xlarge", stage::ZONE, 300_000)
        .unwrap();
    for model in ["ti2v-5B", "t2v-A14B", "i2v-A14B"] {
        stage.submit_for(model, 1).await;
    }
    let program = stage.run(&three_faults(), &[]);
    for (pool, by, words) in [
        (
            "dear",
            BlockerKind::NoPoolUnderCap,
            ["$0.2500 above its cap of $0.0500", "g6.xlarge"],
        ),
        (
            "nowhere",
            BlockerKind::PricesUnknown,
            ["no instance type of the pool has a price", "zones"],
        ),
        (
            "poor",
            BlockerKind::Budget,
            ["budgets.per_hour of $0.2000", "one unit needs $0.3000"],
        ),
    ] {
        let why = stage
            .until_why_of(pool, pool, |why| is_blocked(why, by))
            .await;
        let sentence = json!(why.decision.verdict)["sentence"].to_string();
        for word in words {
            assert!(sentence.contains(word), "{pool} lacks {word:?}: {sentence}");
        }
        let forecast = &why.decision.forecast.sentence;
        assert!(forecast.contains("once it is not blocked"), "{forecast}");
    }
    // The same on HTTP.
    let page: Value = serde_json::from_str(&program.get("/why").await.unwrap()).unwrap();
    let kinds: Vec<_> = page["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| pool["decision"]["verdict"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["blocked"; 3], "{page:#}");
    assert!(page["error"].is_null(), "{page:#}");

    is_calm(&program).await;
    assert!(stage.batches().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_of_nothing_is_shown_and_is_no_hot_loop() {
    let stage = Stage::unswept(|cloud| cloud.vcpu_quota = 0).await;
    stage.swept(jiff::SignedDuration::from_hours(1)).await;
    stage.submit(1).await;
    let program = stage.run(&stage.one_pool(ONE), &[]);
    let why = stage.until_blocked(BlockerKind::Quota).await;
    assert_eq!(why.view.quota_units, Some(0));
    is_calm(&program).await;
    assert!(stage.batches().await.is_empty());
}

/// Without any event the truth is read at each tick of the clock (5 s) and of the prices (0.2 s here): with 20 ms
/// between two looks a loop that runs hot makes fifty a second.
async fn is_calm(program: &stage::Program) {
    const LOOKS: &str = "spotreel_trigger_looks_total";
    let before = program.metric(LOOKS).await.unwrap();
    let began = Instant::now();
    until("time has passed", async || {
        began.elapsed() > Duration::from_secs(2)
    })
    .await;
    let looks = program.metric(LOOKS).await.unwrap() - before;
    let most = 10.0 * began.elapsed().as_secs_f64();
    assert!(looks > 0.0, "it looks still");
    assert!(looks < most, "{looks} looks are more than {most}");
}
