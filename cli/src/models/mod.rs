//! `spotreel models`: the weights, as packs.

mod bar;
mod list;
mod lora;
mod prune;
mod remote;
mod stop;
mod tokenizer;

use anyhow::bail;
use serde_json::{Map, Value, json};
use spotreel_packs::{
    FastRecipe, FastSteps, FastWeights, MakeError, Pack, PackError, PackRecipe, Progress,
    PullOptions, make, verify,
};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use self::remote::{SHORT_HASH, explain, remote};
use self::stop::told_to_end;
use crate::args::{
    ModelsArgs, ModelsCommand, PackModelArgs, PullModelsArgs, PushModelArgs, VerifyModelArgs,
};
use crate::connection::Settings;
use crate::done::Done;
use crate::print::{self, bytes, line};

pub async fn run(settings: &Settings, args: ModelsArgs) -> anyhow::Result<Done> {
    match args.command {
        ModelsCommand::List(args) => list::run(settings, args).await,
        ModelsCommand::Pull(args) => pull(settings, args).await,
        ModelsCommand::Verify(args) => check(args).await,
        ModelsCommand::Pack(args) => pack(*args).await,
        ModelsCommand::Push(args) => push(settings, args).await,
        ModelsCommand::Prune(args) => Box::pin(prune::run(settings, args)).await,
        ModelsCommand::Lora(args) => Box::pin(lora::run(settings, args)).await,
    }
}

async fn pull(settings: &Settings, args: PullModelsArgs) -> anyhow::Result<Done> {
    let remote = remote(settings, &args.store).await?;
    let options = PullOptions {
        window: usize::from(args.connections),
        ..PullOptions::default()
    };
    for model in args.models {
        let (told, progress) = watch::channel(Progress::default());
        let pulled = remote.pull(model, &args.packs, &options, told);
        let name = model.to_string();
        let pulled = tokio::select! {
            pulled = bar::beside(&name, progress, pulled) => pulled,
            () = told_to_end() => bail!("{model}: stopped by a signal; the next pull continues from here"),
        };
        let pack = pulled.map_err(|error| explain(error.code(), error))?;
        show(&pack, "here", args.json);
    }
    Ok(Done::Well)
}

async fn check(args: VerifyModelArgs) -> anyhow::Result<Done> {
    let total = Pack::open(&args.pack).map(|pack| pack.index.bytes());
    let bar = bar::bytes("hashed", total.unwrap_or(0));
    let hashed = bar.clone();
    let verified = spawn_blocking(move || verify(&args.pack, |bytes| hashed.inc(bytes))).await?;
    bar.finish_and_clear();
    let pack = verified.map_err(|error| explain(error.code(), error))?;
    if let Some(engine) = &args.engine {
        let compared = tokenizer::check(engine, &pack.dir).await?;
        if !args.json {
            line(&format!(
                "{compared}: the engine reads the tokenizer as its file says"
            ));
        }
    }
    show(&pack, "verified", args.json);
    Ok(Done::Well)
}

async fn pack(args: PackModelArgs) -> anyhow::Result<Done> {
    let source = |repository: String, revision: Option<String>| {
        let said = [("repository", Some(repository)), ("revision", revision)];
        let said = said
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), Value::from(text?))));
        said.collect::<Map<_, _>>()
    };
    let fast = match (args.fast_from, args.fast_high) {
        (Some(dir), _) => Some(FastWeights::Transformers(dir)),
        (None, Some(high)) => Some(FastWeights::Loras {
            high,
            low: args.fast_low,
            strength: args.fast_strength,
        }),
        (None, None) => None,
    };
    let recipe = PackRecipe {
        model: args.model,
        compute: args.compute.into(),
        source: source(args.source, Some(args.revision)),
        license: args.license,
        fast: fast.map(|weights| FastRecipe {
            weights,
            steps: FastSteps {
                scheduler: args.fast_scheduler.into(),
                steps: args.fast_steps,
                shift: args.fast_shift,
                guidance: args.fast_guidance,
            },
            source: source(args.fast_source.unwrap_or_default(), None),
            license: args.fast_license.unwrap_or_default(),
        }),
    };
    let bar = bar::endless();
    let read = bar.clone();
    let made = spawn_blocking(move || make(&args.from, &args.to, &recipe, |bytes| read.inc(bytes)));
    let made = made.await?;
    bar.finish_and_clear();
    show(&made.map_err(advise)?, "made", args.json);
    Ok(Done::Well)
}

async fn push(settings: &Settings, args: PushModelArgs) -> anyhow::Result<Done> {
    let remote = remote(settings, &args.store).await?;
    let total = Pack::open(&args.pack).map(|pack| pack.index.bytes());
    let bar = bar::bytes("sent", total.unwrap_or(0));
    let pushed = remote.push(&args.pack, |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let pushed = pushed?;
    if args.json {
        let mut told = view(&pushed.pack);
        told["sent"] = pushed.sent.into();
        told["sent_bytes"] = pushed.sent_bytes.into();
        print::json(&told);
        return Ok(Done::Well);
    }
    let sent = match pushed.sent {
        0 => "every file was there".to_owned(),
        count => format!("{count} files sent, {}", bytes(pushed.sent_bytes)),
    };
    line(&format!("{}: {sent}", about(&pushed.pack)));
    Ok(Done::Well)
}

/// The authors publish the weights twice, and only one of the two can be used.
fn advise(error: MakeError) -> anyhow::Error {
    let unlike = matches!(&error, MakeError::Pack(PackError::MissingFile { .. }));
    let error = anyhow::Error::new(error);
    match unlike {
        true => error.context(
            "the weights are wanted as diffusers has them, from a repository such as Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        ),
        false => error,
    }
}

fn view(pack: &Pack) -> Value {
    let index = &pack.index;
    json!({
        "model": index.model,
        "pack": pack.sha256,
        "dir": pack.dir,
        "files": index.files.len(),
        "bytes": index.bytes(),
    })
}

fn about(pack: &Pack) -> String {
    let (model, dir) = (pack.index.model, pack.dir.display());
    format!("{model} {} in {dir}", &pack.sha256[..SHORT_HASH])
}

fn show(pack: &Pack, what: &str, json: bool) {
    match json {
        true => print::json(&view(pack)),
        false => line(&format!(
            "{}: {what}, {} files, {}",
            about(pack),
            pack.index.files.len(),
            bytes(pack.index.bytes())
        )),
    }
}
