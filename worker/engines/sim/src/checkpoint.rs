//! Checkpoint files: a header that names the task, the latents, and a hash over both.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{ErrorKind, ErrorReport, ResumeFrom};

use crate::denoise::Latents;
use crate::recipe::{Recipe, report};

const MAGIC: &[u8; 8] = b"simckpt1";
const HEADER: usize = MAGIC.len() + 32 + 4;
const TRAILER: usize = 32;

/// A checkpoint as bytes.
pub fn encode(task_hash: &[u8; 32], latents: &Latents) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 4 * latents.values.len() + TRAILER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(task_hash);
    bytes.extend_from_slice(&latents.next_step.to_le_bytes());
    for value in latents.values.iter() {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// Writes bytes so that the name never shows half of them, even after a crash.
pub fn write(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Reads a checkpoint and refuses it unless it is whole and of this very task.
pub fn read(from: &ResumeFrom, recipe: &Recipe) -> Result<Latents, ErrorReport> {
    let refuse = |code: &str, message: &str| Err(report(ErrorKind::Checkpoint, code, message));
    let bytes = match fs::read(&from.path) {
        Ok(bytes) => bytes,
        Err(error) => return refuse("unreadable", &format!("cannot be read: {error}")),
    };
    if hex::encode(Sha256::digest(&bytes)) != from.sha256 {
        return refuse(
            "sha256_mismatch",
            "the file is not the one that was asked for",
        );
    }
    if bytes.len() < HEADER + TRAILER || !bytes.starts_with(MAGIC) {
        return refuse("corrupt", "not a checkpoint of this engine");
    }
    let (body, trailer) = bytes.split_at(bytes.len() - TRAILER);
    if Sha256::digest(body).as_slice() != trailer {
        return refuse("corrupt", "the hash inside does not match");
    }
    let (header, values) = body.split_at(HEADER);
    if header[MAGIC.len()..MAGIC.len() + 32] != recipe.task_hash {
        return refuse("other_task", "the checkpoint belongs to another task");
    }
    let mut next_step = [0; 4];
    next_step.copy_from_slice(&header[HEADER - 4..]);
    let next_step = u32::from_le_bytes(next_step);
    if next_step > recipe.task.steps || values.len() != 4 * recipe.shape.volume() {
        return refuse("corrupt", "the checkpoint has a wrong shape");
    }
    let values = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    Ok(Latents {
        next_step,
        values: Arc::new(values),
    })
}
