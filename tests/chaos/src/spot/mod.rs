//! The Spot side of a run: a cloud with a market, machines that are processes, and the two services that buy and end
//! them.

pub mod books;
pub mod budgets;
pub mod check;
pub mod market;
pub mod money;
pub mod pools;
pub mod records;
pub mod steps;
pub mod watch;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use spotreel_bootstrap::{EXIT_UNFIT_MACHINE, ambient};
use spotreel_domain::Model;
use spotreel_domain::fleet::cloud::{LaunchRequest, Lifecycle, Override, Place, tag};
use spotreel_domain::money::Usd;
use spotreel_ec2::{Ec2, Subnet, SubnetFilter, TemplateSpec};
use spotreel_programs::{FAULTS, Invocation};
use spotreel_tests::harness::cloud::ec2;
use spotreel_tests::harness::nats::password;
use spotreel_tests::harness::program::programs;
use spotreel_tests::harness::{CloudProgram, Program, System};

use self::market::{Admin, CloudInstance};
use self::pools::{KINDS, POOLS, pools_toml};
use crate::settings::{ENV, STEP_MS};

/// Machines of a type in a zone: few, so that they spread over the places.
pub const CAPACITY: u32 = 4;
/// A type that the pool does not buy, for the machines that are none of fleet's business.
const OTHER_KIND: &str = "g5.2xlarge";
const IMAGE: &str = "ami-0abcdef1234567890";
const SCRIPT: &str = "chaos-worker";
/// While this file is there, machines end before they serve.
const BROKEN: &str = "broken";
/// From SIGTERM to SIGKILL. AWS gives minutes, and a task that must be handed back takes a second here.
const MACHINE_GRACE_MS: u32 = 3_000;
const BOOT_MS: u32 = 200;
/// A worker that crashes is started again so often by its machine, as a supervisor does.
const LIVES: u32 = 6;
/// A checkpoint is at most so many steps old.
pub const CHECKPOINT_EVERY: u32 = 2;

pub struct Spot {
    pub cloud: CloudProgram,
    pub ec2: Ec2,
    pub trigger: Program,
    pub fleet: Program,
    pub subnets: Vec<Subnet>,
    /// Somebody else's machines.
    pub foreign: Vec<String>,
    /// It carries our tags and belongs to no batch.
    pub orphan: Vec<String>,
    arms: PathBuf,
}

impl Spot {
    /// The cloud with its strangers, then trigger and fleet.
    pub async fn start(system: &System, instances: u32) -> anyhow::Result<Self> {
        let arms = system.dir().join("arms");
        std::fs::create_dir_all(&arms)?;
        let cloud = CloudProgram::start_with(cloud_arguments(system, &arms)).await;
        let ec2 = ec2(&cloud.access).await;
        let mut templates = Vec::new();
        for pool in &POOLS {
            let name = format!("{SCRIPT}-{}", pool.name);
            let spec = TemplateSpec::new(&name, IMAGE, user_data(pool.models));
            templates.push(ec2.ensure_template(&spec).await?);
        }
        let subnets = ec2.subnets(&SubnetFilter::Default).await?;
        let pools = system.dir().join("pools.toml");
        std::fs::write(&pools, pools_toml(&subnets, &templates, instances))?;

        let program = |name: &str| {
            system
                .spec(name)
                .buying(&pools, &cloud.access)
                .set("prices.every", "2s")
                .set("prices.good_for", "20s")
        };
        let trigger = program("trigger").set("reconcile.every", "1s");
        let fleet = program("fleet")
            .set("env", ENV)
            .set("rounds.idle", "2s")
            .set("rounds.gap", "50ms")
            .set("sweep.every", "2s")
            .set("sweep.orphan_grace", "8s");
        let (foreign, orphan) = strangers(&ec2, &subnets).await?;
        let (trigger, fleet) = tokio::join!(Program::start(trigger), Program::start(fleet));
        let spot = Self {
            cloud,
            ec2,
            trigger,
            fleet,
            subnets,
            foreign,
            orphan,
            arms,
        };
        for (kind, _) in KINDS {
            for zone in spot.zones() {
                spot.capacity(kind, &zone, CAPACITY).await;
            }
        }
        Ok(spot)
    }

    pub fn zones(&self) -> Vec<String> {
        self.subnets
            .iter()
            .map(|subnet| subnet.zone.clone())
            .collect()
    }

    /// The next machine that starts will die at this point, once.
    pub fn arm(&self, crash_at: &str) {
        let (made, ready) = (self.arms.join("made"), self.arms.join("next"));
        // Whoever looks sees all of it or nothing.
        let armed = std::fs::write(&made, crash_at).and_then(|()| std::fs::rename(&made, &ready));
        armed.expect("the run's own directory can be written");
    }

    pub fn disarm(&self) {
        let _ = std::fs::remove_file(self.arms.join("next"));
    }

    /// Whether machines that start from now on come to a worker.
    pub fn boots(&self, works: bool) {
        let broken = self.arms.join(BROKEN);
        let done = match works {
            true => std::fs::remove_file(&broken).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            false => std::fs::write(&broken, ""),
        };
        done.expect("the run's own directory can be written");
    }

    /// Takes the scratch directory from a machine's worker, and from those that it starts afterwards. A file lies in its
    /// place, as on a disk that is read-only or full nothing can be written there.
    pub fn sicken(&self, machine: &CloudInstance) -> bool {
        let home = self.cloud.dir().join("machines").join(&machine.id);
        (1..=LIVES).all(|life| {
            let scratch = home.join(format!("scratch-{life}"));
            // The first lives may be over, and the next ones have none yet.
            let _ = std::fs::rename(&scratch, home.join(format!("lost-scratch-{life}")));
            std::fs::write(&scratch, "not a directory\n").is_ok()
        })
    }

    pub fn admin(&self) -> Admin {
        Admin::new(&self.cloud.admin)
    }

    pub async fn price(&self, kind: &str, zone: &str, micros: i64) {
        let order = json!({ "instance_type": kind, "zone": zone, "price_micros": micros });
        self.admin().post("/market/price", &order).await;
    }

    pub async fn capacity(&self, kind: &str, zone: &str, capacity: u32) {
        let order = json!({ "instance_type": kind, "zone": zone, "capacity": capacity });
        self.admin().post("/market/capacity", &order).await;
    }

    pub async fn prices(&self) -> anyhow::Result<Vec<Value>> {
        self.admin().get("/market").await
    }

    /// Whether there was somebody to interrupt.
    pub async fn interrupt(&self, instance: &str, kind: &str, lead_s: f64) -> bool {
        let order = json!({ "instance": instance, "kind": kind, "lead_s": lead_s });
        self.admin().post("/market/interrupt", &order).await
    }

    pub async fn faults(&self, seed: u64, rules: &str) {
        let rules: Value = serde_json::from_str(rules).expect("the rules are JSON");
        let order = json!({ "seed": seed, "rules": rules });
        assert!(
            self.admin().post("/faults", &order).await,
            "the local cloud refuses the faults {order}"
        );
    }

    /// Whom an accident may meet: our running machines, which were not told to go yet, by their ids.
    pub async fn victims(&self) -> Vec<CloudInstance> {
        let mut all = self.admin().machines().await.unwrap_or_default();
        all.retain(|machine| {
            machine.is_ours()
                && machine.state == "running"
                && machine.notice_at.is_none()
                && !self.orphan.contains(&machine.id)
        });
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Ends what is not fleet's to end.
    pub async fn end_strangers(&self) -> anyhow::Result<()> {
        for (id, ended) in self.ec2.terminate(&self.foreign).await {
            ended.with_context(|| format!("the stranger {id} does not end"))?;
        }
        Ok(())
    }
}

fn cloud_arguments(system: &System, arms: &Path) -> Vec<String> {
    let mut variables = system.site.instance_variables(&password("worker"));
    variables.extend(system.site.cloud.keys());
    variables.push(("CHAOS_ARMS".to_owned(), arms.display().to_string()));
    let mut arguments: Vec<String> = [
        ("--grace-ms", MACHINE_GRACE_MS.to_string()),
        ("--boot-ms", BOOT_MS.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    for (key, value) in variables {
        arguments.extend(["--instance-var".to_owned(), format!("{key}={value}")]);
    }
    arguments
}

/// What a machine does: a worker, started again when it crashes; when it leaves, so does the machine.
fn user_data(models: &[Model]) -> String {
    let programs = programs();
    let mut engine = programs.engine(Some(STEP_MS.into()));
    engine.push(FAULTS.to_owned());
    let checkpoint_every = CHECKPOINT_EVERY.to_string();
    let settings = [
        ("models", json!(models).to_string()),
        ("retry.scale", "0.02".to_owned()),
        ("checkpoint.every_steps", checkpoint_every),
        ("stop.finish_within", "1s".to_owned()),
        ("pull_wait", "1s".to_owned()),
        ("cloud.poll", "200ms".to_owned()),
        ("salvage.margin", "2s".to_owned()),
        ("idle.exit_after", "15s".to_owned()),
        ("idle.orphan_after", "20s".to_owned()),
        // A hang ends in seconds, and a busy machine is not taken for one.
        ("engine.deadlines.first_step", "8s".to_owned()),
        ("engine.deadlines.step_floor", "5s".to_owned()),
        ("engine.deadlines.decode", "30s".to_owned()),
        // Which checkpoint was safe when is said there.
        ("telemetry.log", "info,spotreel_worker=debug".to_owned()),
    ];
    let mut script = format!(
        "#!/bin/bash\n\
         trap 'ending=1' TERM\n\
         unset ${{!SPOTREEL_LOCALCLOUD_@}}\n\
         if [ -e \"$CHAOS_ARMS/{BROKEN}\" ]; then echo 'a parameter is missing'; exit 1; fi\n\
         if mv \"$CHAOS_ARMS/next\" armed 2>/dev/null; then export SPOTREEL_CRASH_AT=$(cat armed); fi\n",
    );
    let mut worker = Invocation::new(programs.path("worker")).engine(&engine);
    for (key, value) in settings {
        worker = worker.set(key, &value);
    }
    let worker = worker.shell_line();
    let _ = write!(
        script,
        "for life in $(seq {LIVES}); do\n\
         \x20 {worker} --set scratch=\"$PWD/scratch-$life\"\n\
         \x20 code=$?\n\
         \x20 [ $code = 0 ] || [ $code = {EXIT_UNFIT_MACHINE} ] || [ -n \"$ending\" ] && exit 0\n\
         \x20 unset SPOTREEL_CRASH_AT\n\
         \x20 sleep 0.2\n\
         done\n\
         exit 1\n",
    );
    script
}

/// Two machines that only look like ours, and one of ours that no record knows.
async fn strangers(ec2: &Ec2, subnets: &[Subnet]) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let idle = TemplateSpec::new("stranger", IMAGE, "#!/bin/bash\nexec sleep 100000\n");
    let template = ec2.ensure_template(&idle).await?;
    let subnet = subnets.first().context("the cloud has subnets")?;
    let launch = async |token: &str, tags: &[(&str, &str)]| -> anyhow::Result<String> {
        let request = LaunchRequest {
            client_token: token.to_owned(),
            template: template.clone(),
            lifecycle: Lifecycle::Spot,
            units: 1,
            overrides: vec![Override {
                place: Place {
                    kind: OTHER_KIND.to_owned(),
                    zone: subnet.zone.clone(),
                },
                subnet: subnet.id.clone(),
                max_price: Some(Usd::from_cents(500)),
            }],
            tags: tags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        };
        let answer = ec2.launch(&request).await?;
        let instance = answer.instances.first().context("a stranger is launched")?;
        Ok(instance.id.clone())
    };
    let later = (ambient::now() + Duration::from_secs(3_600)).to_string();
    let long_ago = (ambient::now() - Duration::from_secs(3_600)).to_string();
    let of = |env| {
        [
            (tag::MANAGED_BY, tag::MANAGED_BY_FLEET),
            (tag::ENV, env),
            (tag::POOL, POOLS[0].name),
            (tag::BATCH, "default-999"),
            (tag::LAUNCH, "1"),
            ("Name", "spotreel-default"),
        ]
    };
    let mut other = of("chaos-2").to_vec();
    other.push((tag::EXPIRES_AT, &long_ago));
    let mut ours = of(ENV).to_vec();
    ours.push((tag::EXPIRES_AT, &later));
    let foreign = vec![
        launch("stranger-1", &other).await?,
        launch("stranger-2", &[("Name", "spotreel-default")]).await?,
    ];
    Ok((foreign, vec![launch("stranger-3", &ours).await?]))
}
