//! One file on its way to the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::index::{SAFETENSORS, has_suffix};
use crate::lock::Lock;
use crate::plan::part_of;
use crate::verify::hash_into;
use crate::{Pack, PackError, PackFile, tensors};

/// Ranges that wait for the disk or for the hash; more would only be memory.
const WAITING: usize = 2;
/// For large writes the page cache takes memory that nobody used for long; a virtual machine may have to get that from its
/// host, which costs more than the write.
const WRITE_BYTES: usize = 256 << 10;
/// Number of bytes between two flushes. Flushing while more data arrives is faster than one flush at the end; each flush waits for
/// the disk, so there should be few.
const FLUSH_BYTES: usize = 64 << 20;

/// Bytes are written and hashed side by side, each by a thread of its own: one alone would be slower than a fast line.
pub(crate) struct Landing {
    path: PathBuf,
    write: mpsc::Sender<Bytes>,
    hash: mpsc::Sender<Bytes>,
    written: JoinHandle<io::Result<File>>,
    hashed: JoinHandle<io::Result<String>>,
    /// Another puller must find neither a part that still grows nor one that is about to be renamed.
    lock: Lock,
}

impl Landing {
    /// Goes on with the `part` bytes that are there.
    pub fn begin(pack: &Pack, file: &PackFile, part: u64, lock: &Lock) -> Self {
        let path = pack.path(file);
        let (write, to_write) = mpsc::channel(WAITING);
        let (hash, to_hash) = mpsc::channel(WAITING);
        let (held, for_write, for_hash) = (lock.clone(), part_of(&path), part_of(&path));
        Self {
            path,
            write,
            hash,
            written: spawn_blocking(move || {
                let _held = held;
                append(for_write, part, to_write)
            }),
            hashed: spawn_blocking(move || digest(for_hash, part, to_hash)),
            lock: lock.clone(),
        }
    }

    /// False if the disk takes no more; [`Landing::finish`] says why.
    pub async fn take(&self, bytes: Bytes) -> bool {
        let hashed = self.hash.send(bytes.clone()).await;
        hashed.is_ok() && self.write.send(bytes).await.is_ok()
    }

    /// Under its final name, on the disk. If the hash is wrong nothing of it is left.
    pub async fn finish(self, file: PackFile) -> Result<(), PackError> {
        let Self {
            path,
            write,
            hash,
            written,
            hashed,
            lock,
        } = self;
        drop((write, hash));
        let part = part_of(&path);
        let written = joined(written.await);
        let open = written.map_err(PackError::unwritable(&part))?;
        let found = joined(hashed.await).map_err(PackError::unreadable(&part))?;
        let target = path.clone();
        let settled = spawn_blocking(move || {
            let _held = lock;
            if found != file.sha256 {
                fs::remove_file(&part).map_err(PackError::unwritable(&part))?;
                return Err(PackError::Sha256Mismatch { path });
            }
            if has_suffix(&file.path, SAFETENSORS) {
                tensors::read_head(&part)?;
            }
            let kept = open.sync_all().and_then(|()| fs::rename(&part, &path));
            kept.map_err(PackError::unwritable(path))
        });
        let panicked = |error| Err(PackError::unwritable(target)(io::Error::other(error)));
        settled.await.unwrap_or_else(panicked)
    }
}

fn joined<T>(ended: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    ended.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn append(path: PathBuf, part: u64, mut bytes: mpsc::Receiver<Bytes>) -> io::Result<File> {
    let mut file = File::options()
        .create(true)
        .truncate(part == 0)
        .write(true)
        .open(path)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(part))?;
    let disk = &file;
    thread::scope(|scope| {
        let (due, flushes) = sync_channel(1);
        let flushing = scope.spawn(move || flushes.iter().try_for_each(|()| disk.sync_data()));
        let mut unflushed = 0;
        while let Some(bytes) = bytes.blocking_recv() {
            for some in bytes.chunks(WRITE_BYTES) {
                (&file).write_all(some)?;
            }
            unflushed += bytes.len();
            if unflushed >= FLUSH_BYTES && due.try_send(()).is_ok() {
                unflushed = 0;
            }
        }
        drop(due);
        flushing.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    Ok(file)
}

fn digest(path: PathBuf, part: u64, mut bytes: mpsc::Receiver<Bytes>) -> io::Result<String> {
    let mut hash = Sha256::new();
    if part > 0 {
        hash_into(&mut hash, &mut File::open(path)?.take(part), |_| ())?;
    }
    while let Some(bytes) = bytes.blocking_recv() {
        hash.update(&bytes);
    }
    Ok(hex::encode(hash.finalize()))
}
