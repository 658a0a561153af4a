//! The render in progress, as both threads see it: the listener cancels and takes checkpoints, the renderer moves on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use spotreel_engine_protocol::{ErrorKind, ErrorReport, FromEngine, Phase, RenderRequest};

use crate::channel::Outbox;
use crate::denoise::Latents;
use crate::recipe::{Recipe, report};
use crate::writer::{Sheet, Writer};

/// At most one render. Its last word is sent under this lock, after its last checkpoint, so nothing is said about it after
/// its end.
pub struct Current {
    slot: Mutex<Option<Running>>,
    changed: Condvar,
    writer: Writer,
}

struct Running {
    id: String,
    work_dir: PathBuf,
    cancelled: Option<String>,
    /// The last whole step.
    latents: Option<Latents>,
    /// Asked for before there was anything to write.
    checkpoint_due: bool,
    /// The task's hash and its steps, which the listener does not know.
    recipe: Option<([u8; 32], u32)>,
    /// Announce the next checkpoint with a wrong hash.
    spoil: bool,
}

impl Current {
    pub fn new(outbox: &Outbox) -> Self {
        Self {
            slot: Mutex::default(),
            changed: Condvar::new(),
            writer: Writer::new(outbox.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.slot.lock()
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
                recipe: None,
                spoil: false,
            });
        }
        free
    }

    /// From here on checkpoints can be made.
    pub fn begin(&self, recipe: &Recipe) {
        if let Some(running) = self.lock().as_mut() {
            running.recipe = Some((recipe.task_hash, recipe.task.steps));
        }
    }

    /// A whole step is done.
    pub fn advance(&self, latents: &Latents) {
        if let Some(running) = self.lock().as_mut() {
            running.latents = Some(latents.clone());
            if running.checkpoint_due {
                running.checkpoint(&self.writer);
            }
        }
    }

    pub fn checkpoint(&self) {
        if let Some(running) = self.lock().as_mut() {
            running.checkpoint(&self.writer);
        }
    }

    /// The listener's way in: another id means that the render has ended, which was the answer.
    pub fn checkpoint_now(&self, id: &str) {
        if let Some(running) = self.lock().as_mut().filter(|running| running.id == id) {
            running.checkpoint(&self.writer);
        }
    }

    /// Waits until every checkpoint is written and announced.
    pub fn flush(&self) {
        self.writer.flush();
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
            self.changed.wait_while_for(&mut self.lock(), waits, rest);
        }
        self.check()
    }

    /// The last word about the render.
    pub fn end(&self, message: &FromEngine, outbox: &Outbox) {
        let mut slot = self.lock();
        *slot = None;
        self.writer.flush();
        outbox.send(message);
    }
}

impl Running {
    fn checkpoint(&mut self, writer: &Writer) {
        let (Some(latents), Some((task_hash, steps))) = (&self.latents, self.recipe) else {
            self.checkpoint_due = true;
            return;
        };
        self.checkpoint_due = false;
        writer.write(Sheet {
            id: self.id.clone(),
            work_dir: self.work_dir.clone(),
            task_hash,
            phase: match latents.next_step == steps {
                true => Phase::Decode,
                false => Phase::Denoise,
            },
            latents: latents.clone(),
            spoil: std::mem::take(&mut self.spoil),
        });
    }
}
