//! Which packs there are, and what of them is here.

use std::path::Path;

use serde::Serialize;
use spotreel_domain::model::Model;
use spotreel_packs::{Pack, PackError, Remote, RemoteError};

use super::remote::{SHORT_HASH, explain, remote, said};
use crate::args::ListModelsArgs;
use crate::connection::Settings;
use crate::done::Done;
use crate::print::{self, bytes, line, table};

#[derive(Serialize)]
struct Row {
    model: Model,
    pack: String,
    bytes: u64,
    /// Whether it has the weights for quality `fast`.
    fast: bool,
    license: String,
    /// What a directory has of it; none: no directory was named.
    here: Option<Here>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Here {
    Whole,
    /// Whole, but not what the bucket has now.
    AnotherVersion,
    /// Everything is there in full length, and nobody has hashed it.
    NotVerified,
    Incomplete,
    Broken,
    Nothing,
}

impl Here {
    fn of(dir: &Path, current: &Pack) -> Self {
        match Pack::open(dir) {
            Err(PackError::NoPack { .. }) => Self::Nothing,
            Err(_) => Self::Broken,
            Ok(local) if local.is_verified() => match local.sha256 == current.sha256 {
                true => Self::Whole,
                false => Self::AnotherVersion,
            },
            Ok(local) => match local.measure() {
                Ok(()) => Self::NotVerified,
                Err(_) => Self::Incomplete,
            },
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::AnotherVersion => "another version",
            Self::NotVerified => "not verified",
            Self::Incomplete => "incomplete",
            Self::Broken => "broken",
            Self::Nothing => "-",
        }
    }
}

pub async fn run(settings: &Settings, args: ListModelsArgs) -> anyhow::Result<Done> {
    let bucket = said(settings, args.store.bucket.as_ref(), "SPOTREEL_BUCKET")?;
    let mut rows = Vec::new();
    match (bucket, &args.packs) {
        // Without a bucket, the directory alone.
        (None, Some(packs)) => rows.extend(local(packs)),
        _ => {
            let remote = remote(settings, &args.store).await?;
            for model in Model::ALL {
                rows.extend(published(&remote, model, args.packs.as_deref()).await?);
            }
        }
    }
    if args.json {
        rows.iter().for_each(print::json);
    } else if rows.is_empty() {
        line("no packs");
    } else {
        show(&rows);
    }
    Ok(Done::Well)
}

async fn published(
    remote: &Remote,
    model: Model,
    packs: Option<&Path>,
) -> anyhow::Result<Option<Row>> {
    let dir = packs.unwrap_or_else(|| Path::new("")).join(model.as_str());
    match remote.current(model, &dir).await {
        Ok(found) => {
            let here = packs.map(|_| Here::of(&dir, &found.pack));
            Ok(Some(row(&found.pack, here)))
        }
        Err(RemoteError::NoPack { .. }) => Ok(None),
        Err(error) => Err(explain(error.code(), error)),
    }
}

fn local(packs: &Path) -> impl Iterator<Item = Row> {
    let dirs = Model::ALL.map(|model| packs.join(model.as_str()));
    let found = dirs.into_iter().filter_map(|dir| Pack::open(&dir).ok());
    found.map(|pack| row(&pack, Some(Here::of(&pack.dir, &pack))))
}

fn row(pack: &Pack, here: Option<Here>) -> Row {
    Row {
        model: pack.index.model,
        pack: pack.sha256.clone(),
        bytes: pack.index.bytes(),
        fast: pack.index.fast.is_some(),
        license: pack.index.license.clone(),
        here,
    }
}

fn show(rows: &[Row]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.model.to_string(),
                row.pack[..SHORT_HASH].to_owned(),
                bytes(row.bytes),
                if row.fast { "yes" } else { "-" }.to_owned(),
                row.license.clone(),
                row.here.map_or("?", Here::word).to_owned(),
            ]
        })
        .collect();
    table(["MODEL", "PACK", "SIZE", "FAST", "LICENSE", "HERE"], &rows);
}
