//! `spotreel models lora`: the LoRAs that tasks may name.

use anyhow::Context;
use serde_json::{Value, json};
use spotreel_packs::{AddLora, LoraError, LoraFiles, LoraRemoteError, PublishedLora};

use super::remote::{SHORT_HASH, remote};
use crate::args::{AddLoraArgs, ListLorasArgs, LoraArgs, LoraCommand, RemoveLoraArgs};
use crate::connection::Settings;
use crate::done::Done;
use crate::print::{self, bytes, line};

pub async fn run(settings: &Settings, args: LoraArgs) -> anyhow::Result<Done> {
    match args.command {
        LoraCommand::Add(args) => add(settings, args).await,
        LoraCommand::List(args) => list(settings, args).await,
        LoraCommand::Remove(args) => remove(settings, args).await,
    }
}

async fn add(settings: &Settings, args: AddLoraArgs) -> anyhow::Result<Done> {
    let remote = remote(settings, &args.store).await?;
    let scratch = tempfile::tempdir().context("no directory for the LoRA's files")?;
    // One file serves every transformer that the model has.
    let low = args
        .low
        .or(args.file.clone().filter(|_| args.model.has_two_experts()));
    let added = remote.add_lora(AddLora {
        name: args.name,
        model: args.model,
        files: LoraFiles {
            high: args.high.or(args.file),
            low,
        },
        strength: args.strength,
        scratch: scratch.path().to_owned(),
        source: args.source,
        license: args.license,
    });
    let added = added.await.map_err(advise)?;
    if args.json {
        let mut told = view(&added.lora);
        told["added"] = added.is_new.into();
        print::json(&told);
        return Ok(Done::Well);
    }
    let what = match added.is_new {
        true => "added",
        false => "there already, and left as it is",
    };
    show(&added.lora, what, false);
    Ok(Done::Well)
}

async fn list(settings: &Settings, args: ListLorasArgs) -> anyhow::Result<Done> {
    let loras = remote(settings, &args.store).await?.loras().await?;
    if loras.is_empty() && !args.json {
        eprintln!("there are no LoRAs in the bucket: `spotreel models lora add` puts one there");
    }
    for lora in loras {
        show(&lora, "here", args.json);
    }
    Ok(Done::Well)
}

async fn remove(settings: &Settings, args: RemoveLoraArgs) -> anyhow::Result<Done> {
    let remote = remote(settings, &args.store).await?;
    let removed = remote.remove_lora(&args.name).await?;
    show(&removed, "removed", args.json);
    Ok(Done::Well)
}

fn advise(error: LoraRemoteError) -> anyhow::Error {
    let no_alpha = matches!(&error, LoraRemoteError::Lora(LoraError::NoAlpha { .. }));
    let error = anyhow::Error::new(error);
    match no_alpha {
        true => error.context("say --strength"),
        false => error,
    }
}

fn view(lora: &PublishedLora) -> Value {
    let mut view = json!(lora.index);
    view["sha256"] = lora.sha256.clone().into();
    view
}

fn show(lora: &PublishedLora, what: &str, json: bool) {
    let index = &lora.index;
    match json {
        true => print::json(&view(lora)),
        false => {
            let parts: Vec<_> = index.files.keys().map(String::as_str).collect();
            line(&format!(
                "{} {} of {} ({}): {what}, {}",
                index.name,
                &lora.sha256[..SHORT_HASH],
                index.model,
                parts.join(", "),
                bytes(index.bytes())
            ));
        }
    }
}
