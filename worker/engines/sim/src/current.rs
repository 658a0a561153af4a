//! The render in progress, as both threads see it: the listener cancels and takes checkpoints, the renderer moves on.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{
    CheckpointInfo, ErrorKind, ErrorReport, FromEngine, Phase, RenderRequest,
};

use crate::channel::Outbox;
use crate::checkpoint;
use crate::denoise::Latents;
use crate::recipe::{Recipe, hex, report};

/// At most one render. Its messages are sent under this lock, so nothing is said about it after its end.
#[derive(Default)]
pub struct Current {
    slot: Mutex<Option<Running>>,
    changed: Condvar,
}

struct Running {
    id: String,
    work_dir: PathBuf,
    cancelled: Option<String>,
    /// The last whole step.
    latents: Option<Latents>,
    /// Asked for before there was anything to write.
    checkpoint_due: bool,
    encode: Option<Encode>,
    /// Announce the next checkpoint with a wrong hash.
    spoil: bool,
}

/// Makes a checkpoint's bytes; knows the recipe, which the listener does not.
type Encode = Box<dyn Fn(&Latents) -> (Vec<u8>, Phase) + Send>;

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot; false when a render is in it.
    pub fn expect(&self, request: &RenderRequest) -> bool {
        let mut slot = self.lock();
        let free = slot.is_none();
        if free {
            *slot = Some(Running {
                id: request.id.clone(),
                work_dir: request.work_dir.clone(),
                cancelled: None,
                latents: None,
                checkpoint_due: false,
                encode: None,
                spoil: false,
            });
        }
        free
    }

    /// From here on checkpoints can be made.
    pub fn begin(&self, recipe: &Recipe) {
        let (task_hash, steps) = (recipe.task_hash, recipe.task.steps);
        if let Some(running) = self.lock().as_mut() {
            running.encode = Some(Box::new(move |latents| {
                let phase = if latents.next_step == steps {
                    Phase::Decode
                } else {
                    Phase::Denoise
                };
                (checkpoint::encode(&task_hash, latents), phase)
            }));
        }
    }

    /// A whole step is done.
    pub fn advance(&self, latents: &Latents, outbox: &Outbox) {
        if let Some(running) = self.lock().as_mut() {
            running.latents = Some(latents.clone());
            if running.checkpoint_due {
                running.checkpoint(outbox);
            }
        }
    }

    pub fn checkpoint(&self, outbox: &Outbox) {
        if let Some(running) = self.lock().as_mut() {
            running.checkpoint(outbox);
        }
    }

    /// The listener's way in: another id means that the render has ended, which was the answer.
    pub fn checkpoint_now(&self, id: &str, outbox: &Outbox) {
        if let Some(running) = self.lock().as_mut().filter(|running| running.id == id) {
            running.checkpoint(outbox);
        }
    }

    pub fn spoil_checkpoint(&self) {
        if let Some(running) = self.lock().as_mut() {
            running.spoil = true;
        }
    }

    pub fn cancel(&self, id: &str, reason: String) {
        if let Some(running) = self.lock().as_mut().filter(|running| running.id == id) {
            running.cancelled = Some(reason);
            self.changed.notify_all();
        }
    }

    /// An error once the worker asked to stop.
    pub fn check(&self) -> Result<(), ErrorReport> {
        match self.lock().as_ref().and_then(|r| r.cancelled.as_ref()) {
            Some(reason) => Err(report(ErrorKind::Cancelled, "cancelled", reason)),
            None => Ok(()),
        }
    }

    /// Sleeps, but wakes up for a cancel.
    pub fn wait_until(&self, end: Instant) -> Result<(), ErrorReport> {
        let rest = end.saturating_duration_since(Instant::now());
        if rest > Duration::ZERO {
            let waits = |slot: &mut Option<Running>| {
                slot.as_ref()
                    .is_some_and(|running| running.cancelled.is_none())
            };
            drop(self.changed.wait_timeout_while(self.lock(), rest, waits));
        }
        self.check()
    }

    /// The last word about the render.
    pub fn end(&self, message: &FromEngine, outbox: &Outbox) {
        let mut slot = self.lock();
        *slot = None;
        outbox.send(message);
    }
}

impl Running {
    fn checkpoint(&mut self, outbox: &Outbox) {
        let (Some(latents), Some(encode)) = (&self.latents, &self.encode) else {
            self.checkpoint_due = true;
            return;
        };
        let (bytes, phase) = encode(latents);
        let path = self
            .work_dir
            .join(format!("step-{:04}.ckpt", latents.next_step));
        self.checkpoint_due = false;
        if let Err(error) = checkpoint::write(&path, &path.with_extension("part"), &bytes) {
            // The render can go on without; the worker sees no checkpoint and draws its own conclusions.
            eprintln!("cannot write {}: {error}", path.display());
            return;
        }
        let mut sha256 = hex(&Sha256::digest(&bytes));
        if std::mem::take(&mut self.spoil) {
            sha256 = "0".repeat(sha256.len());
        }
        outbox.send(&FromEngine::Checkpoint(CheckpointInfo {
            id: self.id.clone(),
            path,
            bytes: bytes.len() as u64,
            sha256,
            next_step: latents.next_step,
            phase,
        }));
    }
}
