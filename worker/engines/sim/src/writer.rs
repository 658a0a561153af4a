//! Checkpoints on their way to the disk, beside the steps that go on meanwhile.
//!
//! One is written while one more waits: a disk that is slower than the steps holds them back instead of filling memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{CheckpointInfo, FromEngine, Phase};

use crate::channel::Outbox;
use crate::checkpoint;
use crate::denoise::Latents;
use crate::log::log;

/// Beside the one that is being written.
const WAITING: usize = 1;

pub struct Writer {
    sheets: SyncSender<Sheet>,
    open: Arc<Open>,
}

/// A checkpoint that is to be written.
pub struct Sheet {
    pub id: String,
    pub work_dir: PathBuf,
    pub task_hash: [u8; 32],
    pub latents: Latents,
    pub phase: Phase,
    /// Announce it with a wrong hash.
    pub spoil: bool,
}

#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    none: Condvar,
}

impl Writer {
    /// Announces what it has written to `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        let (sheets, waiting) = mpsc::sync_channel(WAITING);
        let open = Arc::<Open>::default();
        let counted = Arc::clone(&open);
        thread::spawn(move || work(&waiting, &counted, &outbox));
        Self { sheets, open }
    }

    pub fn write(&self, sheet: Sheet) {
        self.open.add();
        if self.sheets.send(sheet).is_err() {
            // The thread ends with the process only.
            self.open.done();
        }
    }

    /// Waits until all is written and announced.
    pub fn flush(&self) {
        let mut count = self.open.count.lock();
        self.open.none.wait_while(&mut count, |count| *count > 0);
    }
}

impl Open {
    fn add(&self) {
        *self.count.lock() += 1;
    }

    fn done(&self) {
        let mut count = self.count.lock();
        *count -= 1;
        if *count == 0 {
            self.none.notify_all();
        }
    }
}

fn work(waiting: &Receiver<Sheet>, open: &Open, outbox: &Outbox) {
    for sheet in waiting {
        sheet.put_down(outbox);
        open.done();
    }
}

impl Sheet {
    fn put_down(self, outbox: &Outbox) {
        let bytes = checkpoint::encode(&self.task_hash, &self.latents);
        let next_step = self.latents.next_step;
        let path = self.work_dir.join(format!("step-{next_step:04}.ckpt"));
        if let Err(error) = checkpoint::write(&path, &path.with_extension("part"), &bytes) {
            // The render can go on without; the worker sees no checkpoint and draws its own conclusions.
            log(format_args!("cannot write {}: {error}", path.display()));
            return;
        }
        let mut sha256 = hex::encode(Sha256::digest(&bytes));
        if self.spoil {
            sha256 = "0".repeat(sha256.len());
        }
        outbox.send(&FromEngine::Checkpoint(CheckpointInfo {
            id: self.id,
            path,
            bytes: bytes.len() as u64,
            sha256,
            next_step,
            phase: self.phase,
        }));
    }
}
