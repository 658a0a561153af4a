//! What no pack names any more, out of the bucket.

use std::pin::pin;
use std::time::SystemTime;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use spotreel_bootstrap::ambient;
use spotreel_packs::Unused;
use spotreel_s3::ListedObject;
use tokio_util::sync::CancellationToken;

use super::remote::{SHORT_HASH, remote};
use super::stop::told_to_end;
use crate::args::PruneModelsArgs;
use crate::connection::Settings;
use crate::done::Done;
use crate::print::{self, bytes, line, relative, span, table};

pub async fn run(settings: &Settings, args: PruneModelsArgs) -> anyhow::Result<Done> {
    let remote = remote(settings, &args.store).await?;
    let now = ambient::now();
    let before = SystemTime::from(now).checked_sub(args.older_than);
    let before = before.context("--older-than reaches back before all time")?;
    let unused = match args.dry_run {
        true => remote.unused(before).await?,
        false => {
            let (holder, stop) = (holder(now), CancellationToken::new());
            let mut pruned = pin!(remote.prune(before, &holder, &stop));
            tokio::select! {
                pruned = &mut pruned => pruned,
                // Ended here and now it would leave its lock behind.
                () = told_to_end() => {
                    stop.cancel();
                    pruned.await
                }
            }?
        }
    };
    match args.json {
        true => print::json(&view(&unused, args.dry_run)),
        false => show(&unused, &args, now),
    }
    Ok(Done::Well)
}

/// For whoever finds the lock.
fn holder(now: Timestamp) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let (host, pid) = (host.display(), std::process::id());
    format!(
        "process {pid} on {host}, begun at {now:.0}, {}",
        ambient::uuid_v4()
    )
}

fn size(blobs: &[ListedObject]) -> u64 {
    blobs.iter().map(|blob| blob.bytes).sum()
}

fn name(blob: &ListedObject) -> &str {
    blob.key.rsplit('/').next().unwrap_or(&blob.key)
}

fn view(unused: &Unused, dry_run: bool) -> Value {
    let blobs = unused.blobs.iter();
    json!({
        "dry_run": dry_run,
        "packs": unused.packs,
        "blobs": blobs.map(name).collect::<Vec<_>>(),
        "bytes": size(&unused.blobs),
        "uploads": unused.uploads.len(),
        "waiting": unused.waiting.len(),
        "waiting_bytes": size(&unused.waiting),
    })
}

fn show(unused: &Unused, args: &PruneModelsArgs, now: Timestamp) {
    let age = |blob: &ListedObject| {
        let at = blob
            .last_modified
            .and_then(|at| Timestamp::try_from(at).ok());
        at.map_or_else(|| "?".to_owned(), |at| relative(now, at))
    };
    let row = |blob: &ListedObject| {
        let short = name(blob).chars().take(SHORT_HASH).collect();
        [short, bytes(blob.bytes), age(blob)]
    };
    let rows: Vec<_> = unused.blobs.iter().map(row).collect();
    if !rows.is_empty() {
        table(["BLOB", "SIZE", "WRITTEN"], &rows);
    }
    line(&format!(
        "{} blobs, {}, and {} unfinished uploads {}; {} packs stay",
        unused.blobs.len(),
        bytes(size(&unused.blobs)),
        unused.uploads.len(),
        if args.dry_run { "would go" } else { "removed" },
        unused.packs
    ));
    if !unused.waiting.is_empty() {
        line(&format!(
            "{} more, {}, wait: they, or the newest pack.json, are younger than {}",
            unused.waiting.len(),
            bytes(size(&unused.waiting)),
            span(args.older_than.as_secs())
        ));
    }
}
