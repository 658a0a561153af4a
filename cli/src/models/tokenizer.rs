//! Whether an engine reads a pack's tokenizer as its file says.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::process::Command;

use crate::print::count;

/// What `spotreel-engine-wan --check-tokenizer` prints.
#[derive(Deserialize)]
struct Compared {
    compared: usize,
    differing: usize,
    differ: Vec<Other>,
}

#[derive(Deserialize)]
struct Other {
    text: String,
}

/// Says how many prompts were compared.
pub async fn check(engine: &str, pack: &Path) -> anyhow::Result<String> {
    let mut words = engine.split_whitespace();
    let program = words.next().context("--engine names no command")?;
    let arguments = words.map(OsStr::new);
    let told = Command::new(program)
        .args(arguments)
        .arg("--check-tokenizer")
        .arg(pack)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("the engine's command {program:?} cannot be run"))?;
    let Ok(compared) = serde_json::from_slice::<Compared>(&told.stdout) else {
        let said = String::from_utf8_lossy(&told.stderr);
        let last = said.lines().last().unwrap_or("it said nothing");
        bail!(
            "bad_tokenizer: the engine cannot load the tokenizer of {}: {last}",
            pack.display()
        );
    };
    if compared.differing > 0 || !told.status.success() {
        let texts: Vec<_> = compared.differ.iter().map(|other| &other.text).collect();
        bail!(
            "bad_tokenizer: the engine gives {} of {} other ids than tokenizer.json, such as {texts:?}: the engine and the \
             pack do not fit, update one of them",
            compared.differing,
            count(compared.compared, "prompt"),
        );
    }
    Ok(count(compared.compared, "prompt"))
}
