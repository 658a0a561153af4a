//! `spotreel fleet reap`: the net under the fleet. It asks EC2 alone: no NATS, no record, no configuration.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use spotreel_bootstrap::ambient;
use spotreel_domain::fleet::cloud::SeenInstance;
use spotreel_domain::fleet::orphan;
use spotreel_ec2::{CallError, Ec2, Ec2Config, Keys};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Ec2Args, ReapArgs};
use crate::connection::{Settings, SettingsError};
use crate::done::Done;
use crate::print::{self, line, relative};

/// As fleet's own defaults are.
const DEFAULT_ENV: &str = "default";
const DEFAULT_REGION: &str = "us-east-2";

/// What becomes of one machine.
#[derive(Debug, Serialize)]
struct ReapFate<'a> {
    instance: &'a str,
    batch: Option<String>,
    launched_at: Timestamp,
    expires_at: Option<Timestamp>,
    /// `ending`, `would end`, or why it could not be ended.
    outcome: String,
}

pub async fn run(settings: &Settings, args: ReapArgs) -> anyhow::Result<Done> {
    let ec2 = connect(settings, &args.ec2).await?;
    let env = env(settings, args.env.as_ref())?;
    let Some(every) = args.every else {
        return look(&ec2, &env, &args).await;
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        // A cloud that does not answer now is asked again in time: to give up would be the one way to fail.
        let done = match look(&ec2, &env, &args).await {
            Ok(done) => done,
            Err(error) => {
                eprintln!("spotreel: {error:#}");
                Done::Failed
            }
        };
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = interrupt.recv() => return Ok(done),
            _ = terminate.recv() => return Ok(done),
        }
    }
}

/// The environment that a flag names, else the variable, else the one that fleet has by default.
pub fn env(settings: &Settings, flag: Option<&String>) -> Result<String, SettingsError> {
    Ok(match flag {
        Some(env) => env.clone(),
        None => {
            let said = settings.variable("SPOTREEL_ENV")?;
            said.unwrap_or_else(|| DEFAULT_ENV.to_owned())
        }
    })
}

/// Where `args` say, else the local cloud of `--dir`, else AWS by its own settings.
pub async fn connect(settings: &Settings, args: &Ec2Args) -> anyhow::Result<Ec2> {
    let said = |flag: &Option<String>, name| match flag {
        Some(value) => Ok(Some(value.clone())),
        None => settings.variable(name),
    };
    let dir = settings.args.dir.as_ref();
    let dir = dir.filter(|_| args.endpoint.is_none());
    let config = Ec2Config {
        region: said(&args.region, "AWS_REGION")?.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        endpoint_url: said(&args.endpoint, "AWS_ENDPOINT_URL")?,
    };
    let Some(dir) = dir else {
        return Ok(Box::pin(Ec2::connect(&config)).await);
    };
    // Whoever meant AWS is to see that this is not it.
    eprintln!("this is the local cloud of {}", dir.display());
    let of_dir = |name| Ok::<_, SettingsError>(settings.variable(name)?.unwrap_or_default());
    let keys = Keys {
        access_key: of_dir("AWS_ACCESS_KEY_ID")?,
        secret_key: of_dir("AWS_SECRET_ACCESS_KEY")?,
    };
    Ok(Box::pin(Ec2::connect_with_keys(&config, keys)).await)
}

/// The SDK's own words for missing credentials fill a screen.
pub fn explain(error: CallError) -> anyhow::Error {
    match error.code() {
        Some("NoCredentials") => anyhow::anyhow!(
            "there are no credentials for EC2: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
             run on a machine with a role"
        ),
        _ => error.into(),
    }
}

async fn look(ec2: &Ec2, env: &str, args: &ReapArgs) -> anyhow::Result<Done> {
    let listing = ec2.list(env).await.map_err(explain)?;
    let ours: Vec<&SeenInstance> = listing
        .instances
        .iter()
        .filter(|seen| orphan::is_ours(seen, env) && seen.is_alive())
        .collect();
    let over: Vec<String> = match args.all {
        true => ours.iter().map(|seen| seen.id.clone()).collect(),
        false => orphan::expired(&listing.instances, env, listing.cloud_now, args.life),
    };
    let mut failed = BTreeSet::new();
    if args.dry_run {
        for id in &over {
            tell(&ours, id, "would end".to_owned(), args.json);
        }
    } else {
        for (id, result) in ec2.terminate(&over).await {
            let outcome = match result {
                // Ended by somebody else meanwhile.
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    failed.insert(id.clone());
                    error.to_string()
                }
                Ok(()) => "ending".to_owned(),
            };
            tell(&ours, &id, outcome, args.json);
        }
    }
    if !args.json {
        let left = ours.len() - over.len();
        let verb = match args.dry_run {
            true => "would be ended",
            false => "told to end",
        };
        line(&format!(
            "{env} in {}: {} {verb}, {left} not expired",
            ec2.region(),
            over.len() - failed.len()
        ));
    }
    Ok(match failed.is_empty() {
        true => Done::Well,
        false => Done::Failed,
    })
}

fn tell(ours: &[&SeenInstance], id: &str, outcome: String, json: bool) {
    let Some(seen) = ours.iter().find(|seen| seen.id == id) else {
        return;
    };
    let fate = ReapFate {
        instance: &seen.id,
        batch: seen.batch().map(|batch| batch.to_string()),
        launched_at: seen.launched_at,
        expires_at: seen.expires_at(),
        outcome,
    };
    if json {
        print::json(&fate);
        return;
    }
    let now = ambient::now();
    let end = fate
        .expires_at
        .map_or("no end".to_owned(), |at| relative(now, at));
    line(&format!(
        "{} of {}, from {}, its end {end}: {}",
        fate.instance,
        fate.batch.as_deref().unwrap_or("no batch"),
        relative(now, fate.launched_at),
        fate.outcome
    ));
}
