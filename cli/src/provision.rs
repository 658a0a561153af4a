//! Makes what is missing: streams, consumers, buckets. What an older version made is widened; other differences are left as
//! they are.

use anyhow::Context;
use serde::Serialize;
use spotreel_bus::NatsConfig;
use spotreel_bus::provision::{Layout, Mode, ProvisionOutcome, Report, provide, provide_clients};
use spotreel_s3::{CheckError, Store, StoreConfig};

use crate::args::ProvisionArgs;
use crate::connection::{Settings, open};
use crate::done::Done;
use crate::print;

#[derive(Serialize)]
struct Summary<'a> {
    as_wanted: bool,
    things: &'a [Report],
}

pub async fn run(settings: &Settings, args: ProvisionArgs) -> anyhow::Result<Done> {
    // The administrators are other users than the client, so no more than the address is taken from its settings.
    let url = settings.nats()?.url;
    let user = |name: &str, password: &String| NatsConfig {
        url: url.clone(),
        user: Some(name.to_owned()),
        password: Some(password.clone()),
        creds: None,
    };
    let password = args.admin_password.as_ref().with_context(|| {
        format!(
            "the password of {:?} is missing: set SPOTREEL_PROVISION_PASSWORD",
            args.admin_user
        )
    })?;
    let admin = user(&args.admin_user, password);
    let clients = args
        .clients_password
        .as_ref()
        .map(|password| user(&args.clients_user, password));
    let layout = Layout {
        replicas: args.replicas,
        lease: args.lease,
        ..Layout::default()
    };

    let mode = match args.check {
        true => Mode::Check,
        false => Mode::Apply,
    };
    let mut reports = streams(&admin, clients.as_ref(), &layout, mode).await?;
    if let Some(bucket) = &args.bucket {
        reports.push(self::bucket(bucket, &args).await?);
    }
    let refused = reports
        .iter()
        .any(|report| matches!(report.outcome, ProvisionOutcome::Differs { .. }));
    let is_missed = |report: &Report| {
        use ProvisionOutcome::{Missing, Outdated};
        matches!(report.outcome, Missing | Outdated { .. })
    };
    if args.json {
        print::json(&Summary {
            as_wanted: !refused && !reports.iter().any(is_missed),
            things: &reports,
        });
    } else {
        show(&reports);
        if clients.is_none() {
            eprintln!(
                "the clients' copy of the events was not made: set SPOTREEL_CLIENTS_PROVISION_PASSWORD"
            );
        }
    }
    Ok(if refused { Done::Failed } else { Done::Well })
}

/// Everything in NATS.
pub async fn streams(
    admin: &NatsConfig,
    clients: Option<&NatsConfig>,
    layout: &Layout,
    mode: Mode,
) -> anyhow::Result<Vec<Report>> {
    let client = open(admin, "provision").await?;
    let mut reports = provide(&client, layout, mode).await?;
    if let Some(clients) = clients {
        let client = open(clients, "provision").await?;
        let mut mirror = provide_clients(&client, layout, mode).await?;
        mirror.name.push_str(" (clients)");
        reports.push(mirror);
    }
    Ok(reports)
}

async fn bucket(name: &str, args: &ProvisionArgs) -> anyhow::Result<Report> {
    let config = StoreConfig {
        bucket: name.to_owned(),
        region: args.region.clone(),
        force_path_style: args.s3_endpoint.is_some(),
        endpoint_url: args.s3_endpoint.clone(),
        public_endpoint_url: None,
    };
    let store = Store::connect(&config).await;
    let outcome = match store.check().await {
        Ok(()) => ProvisionOutcome::AsWanted,
        Err(CheckError::NoBucket { .. }) if args.check => ProvisionOutcome::Missing,
        Err(CheckError::NoBucket { .. }) => {
            store.create_bucket_if_missing().await?;
            ProvisionOutcome::Created
        }
        Err(error) => return Err(error).context("check AWS_ENDPOINT_URL and the AWS credentials"),
    };
    Ok(Report::new(format!("bucket {name}"), outcome))
}

/// A line for each thing, and for each change or difference of one.
fn show(reports: &[Report]) {
    let rows: Vec<[String; 2]> = reports
        .iter()
        .flat_map(|report| outcomes(report).map(|outcome| [report.name.clone(), outcome]))
        .collect();
    print::table(["NAME", "OUTCOME"], &rows);
}

fn outcomes(report: &Report) -> impl Iterator<Item = String> {
    let (prefix, each): (&str, &[String]) = match &report.outcome {
        ProvisionOutcome::Created => ("created", &[]),
        ProvisionOutcome::AsWanted => ("as wanted", &[]),
        ProvisionOutcome::Missing => ("would be created", &[]),
        ProvisionOutcome::Updated { changes } => ("updated: ", changes),
        ProvisionOutcome::Outdated { changes } => ("would be updated: ", changes),
        ProvisionOutcome::Differs { differences } => ("DIFFERS, left as it is: ", differences),
    };
    let alone = each.is_empty().then(|| prefix.to_owned());
    let each = each.iter().map(move |one| format!("{prefix}{one}"));
    let kept = report.kept.iter().map(|kept| format!("kept: {kept}"));
    alone.into_iter().chain(each).chain(kept)
}
