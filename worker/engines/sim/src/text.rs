//! Encoded text, for the sake of the contract: there is nothing to encode here, but it is given and taken as if.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{EMBEDDINGS_FORMAT, EmbeddingsFile, EmbeddingsInfo, RenderTask};

use crate::checkpoint;
use crate::log::log;

/// What stands for all that decides the bits.
pub const DECIDED_BY: &str = "sim";

/// What an encoder would make of it.
fn encode(task: &RenderTask) -> Vec<u8> {
    let texts = (&task.prompt, &task.negative_prompt);
    format!("{EMBEDDINGS_FORMAT} {texts:?}").into_bytes()
}

/// Whether the file holds this task's text.
pub fn is_at_hand(given: &EmbeddingsFile, task: &RenderTask) -> bool {
    let fits = fs::read(&given.path).is_ok_and(|bytes| {
        bytes == encode(task) && hex::encode(Sha256::digest(&bytes)) == given.sha256
    });
    match fits {
        true => log("the text was encoded before"),
        false => log("what was given is not this text, encoded"),
    }
    fits
}

/// None: it cannot be written, which is no reason to end a render.
pub fn write(id: &str, task: &RenderTask, work_dir: &Path) -> Option<EmbeddingsInfo> {
    let bytes = encode(task);
    let path = work_dir.join("text.safetensors");
    if let Err(error) = checkpoint::write(&path, &path.with_extension("part"), &bytes) {
        log(format_args!("cannot write {}: {error}", path.display()));
        return None;
    }
    Some(EmbeddingsInfo {
        id: id.to_owned(),
        path,
        bytes: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(&bytes)),
    })
}
