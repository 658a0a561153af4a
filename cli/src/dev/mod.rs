//! Everything on one machine: a NATS server, the local cloud, the services, and workers that a fleet brings up on
//! machines of that cloud; kept running until Ctrl-C.

pub mod child;
mod children;
mod disk;
mod file;
mod http;
mod leftovers;
mod machines;
mod nats;
mod pools;
mod ports;
mod programs;
mod ready;
mod secrets;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use spotreel_bus::NatsConfig;
use spotreel_bus::provision::{Layout, Mode, ProvisionOutcome};
use spotreel_domain::pool::Pools;
use spotreel_s3::{Keys, Store, StoreConfig};
use tokio::signal::unix::{SignalKind, signal};

use self::children::Children;
use self::file::write_atomically;
use self::machines::Templates;
use self::ports::Ports;
use self::programs::{BUYERS, LOCALCLOUD, NATS, ProgramsPlan, SERVICES, is_worker};
use self::secrets::Secrets;
use crate::args::DevArgs;
use crate::connection::{ENDPOINTS, OPERATOR_PASSWORD, OPERATOR_USER};
use crate::done::Done;
use crate::provision;

/// Runs until SIGINT or SIGTERM.
pub async fn run(dir: Option<PathBuf>, args: DevArgs) -> anyhow::Result<Done> {
    let Some(dir) = dir else {
        bail!("say where to keep everything: spotreel dev --dir .spotreel");
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut told_to_stop = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };

    let nats_server = nats::find()?;
    let dir = open(&dir)?;
    let mut pools = pools::load(&dir, &args)?;
    let _lock = lock(&dir)?;
    remove_endpoints(&dir);
    let left = leftovers::kill_all(&dir).await;
    if left > 0 {
        eprintln!("processes of an earlier run were still there and were killed: {left}");
    }
    let secrets = Secrets::open(&dir)?;
    let fixed = args.nats_port.map(|port| (NATS, port));
    let ports = Ports::settle(&dir, &programs::port_names(&args), fixed)?;
    let nats_conf = nats::write_configuration(&dir)?;
    let site = programs::site(&ports, &secrets)?;
    let plan = ProgramsPlan {
        dir: &dir,
        args: &args,
        ports: &ports,
        secrets: &secrets,
        site,
        nats_server,
        nats_conf,
    };

    let mut children = Children::new(&dir)?;
    let up = tokio::select! {
        up = bring_up(&plan, &mut pools, &mut children) => up.map(Some),
        () = told_to_stop() => Ok(None),
    };
    if let Ok(Some(templates)) = &up {
        greet(&plan, &pools);
        tokio::select! {
            () = told_to_stop() => {}
            never = templates.keep() => never,
        }
    }
    remove_endpoints(&dir);
    eprintln!("stopping (Ctrl-C again: at once)");
    let impatience = children.impatience();
    tokio::select! {
        () = take_down(&mut children) => {}
        () = async { told_to_stop().await; impatience.cancel(); std::future::pending().await } => {}
    }
    // Of a local cloud that was killed itself; most often there are none.
    leftovers::kill_all(&dir).await;
    up.map(|_| Done::Well)
}

async fn bring_up(
    plan: &ProgramsPlan<'_>,
    pools: &mut Pools,
    children: &mut Children,
) -> anyhow::Result<Templates> {
    let others = plan.others()?;
    machines::write_files(plan)?;
    children.start(plan.nats());
    children.start(plan.localcloud());
    let admin = NatsConfig {
        url: plan.site.nats_url.clone(),
        user: Some("provision".into()),
        password: Some(plan.secrets.of("provision").to_owned()),
        creds: None,
    };
    ready::nats(&admin, children).await?;
    ready::all(children).await?;
    provision(plan, &admin).await?;
    let templates = Templates::make(plan, pools).await?;
    pools::write(plan.dir, pools, plan.args)?;
    for spec in others {
        children.start(spec);
    }
    ready::all(children).await?;
    write_atomically(&plan.dir.join(ENDPOINTS), &endpoints(plan))?;
    Ok(templates)
}

async fn provision(plan: &ProgramsPlan<'_>, admin: &NatsConfig) -> anyhow::Result<()> {
    let clients = NatsConfig {
        user: Some("clients-provision".into()),
        password: Some(plan.secrets.of("clients-provision").to_owned()),
        ..admin.clone()
    };
    let layout = Layout {
        lease: plan.args.lease,
        ..Layout::default()
    };
    for report in provision::streams(admin, Some(&clients), &layout, Mode::Apply).await? {
        if let ProvisionOutcome::Differs { differences } = report.outcome {
            eprintln!(
                "{} is left as it is: {}",
                report.name,
                differences.join("; ")
            );
        }
    }
    let cloud = &plan.site.cloud;
    let store = StoreConfig::at(&cloud.endpoint, &cloud.region, &cloud.bucket);
    let keys = Keys::new(&cloud.access_key, &cloud.secret_key);
    let store = Box::pin(Store::connect_with_keys(&store, keys)).await;
    store
        .create_bucket_if_missing()
        .await
        .context("the bucket cannot be made")
}

/// Those first that need the others to leave well. Nobody launches machines once the others are told to leave; the local
/// cloud ends its machines while NATS and its S3 are still there for what they hand back.
async fn take_down(children: &mut Children) {
    children.stop(|name| BUYERS.contains(&name)).await;
    children.stop(is_worker).await;
    children.stop(|name| name == LOCALCLOUD).await;
    children.stop(|name| SERVICES.contains(&name)).await;
    children.stop(|name| name == NATS).await;
}

fn endpoints(plan: &ProgramsPlan<'_>) -> String {
    let cloud = &plan.site.cloud;
    let values = [
        ("NATS_URL", plan.site.nats_url.clone()),
        ("NATS_USER", "client".to_owned()),
        ("NATS_PASSWORD", plan.secrets.of("client").to_owned()),
        ("SPOTREEL_API", plan.api_url()),
        (OPERATOR_USER, "operator".to_owned()),
        (OPERATOR_PASSWORD, plan.secrets.of("operator").to_owned()),
        ("SPOTREEL_ENV", programs::ENV.to_owned()),
        ("SPOTREEL_CLOUD_ADMIN", plan.admin_url()),
        ("AWS_ENDPOINT_URL", cloud.endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", cloud.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY", cloud.secret_key.clone()),
        ("AWS_REGION", cloud.region.clone()),
        ("SPOTREEL_BUCKET", cloud.bucket.clone()),
    ];
    values
        .map(|(name, value)| format!("{name}={value}\n"))
        .concat()
}

fn greet(plan: &ProgramsPlan<'_>, pools: &Pools) {
    let dir = machines::word(&plan.dir.display().to_string());
    let machines = pools::greeting(pools, plan.args);
    crate::print::line(&format!(
        "ready: NATS at {}, HTTP at {}/v1, S3 and EC2 at {}
page: {}/
logs: {dir}/logs, of machines {dir}/s3/machines/<INSTANCE>/console.log
{machines}

In another terminal:
  export SPOTREEL_DIR={dir}
  spotreel submit --prompt 'a red fox in the snow' --frames 25 --steps 10 --wait
  spotreel why
  spotreel fleet
  spotreel batches

For other programs: set -a; . {dir}/{ENDPOINTS}; set +a
Ctrl-C stops everything; the tasks are kept.",
        plan.site.nats_url,
        plan.api_url(),
        plan.site.cloud.endpoint,
        plan.api_url(),
    ));
}

fn open(dir: &Path) -> anyhow::Result<PathBuf> {
    for part in ["nats", "s3", "logs"] {
        let path = dir.join(part);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    dir.canonicalize()
        .with_context(|| format!("cannot use {}", dir.display()))
}

/// Held as long as the file is open; the kernel lets go of it however this process ends.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!(
                "another `spotreel dev` uses {}: stop it, or choose another --dir",
                dir.display()
            )
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn remove_endpoints(dir: &Path) {
    // Most often it is not there.
    let _ = std::fs::remove_file(dir.join(ENDPOINTS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(
            lock(dir.path())
                .unwrap_err()
                .to_string()
                .contains("another")
        );
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
