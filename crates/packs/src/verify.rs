//! Whether a pack on disk is the one that its index names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::index::{SAFETENSORS, has_suffix, measure};
use crate::marker::Marker;
use crate::{Pack, PackError, PackFile, tensors};

/// Local disks give their best to a few readers.
const READERS: usize = 4;
pub(crate) const READ_SIZE: usize = 1 << 20;

/// Hashes every file, whatever was noted before, and notes what is right. Blocks. `read` hears how many bytes were read.
pub fn verify(dir: &Path, read: impl Fn(u64) + Sync) -> Result<Pack, PackError> {
    let pack = Pack::open(dir)?;
    pack.measure()?;
    let files = &pack.index.files;
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            check(&pack.path(file), file, &read)
                .inspect_err(|_| next.store(files.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers = [(); READERS].map(|()| scope.spawn(work));
        readers
            .into_iter()
            .try_for_each(|reader| match reader.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let mut marker = Marker::of(&pack);
    for file in files {
        marker.note(&pack, file)?;
    }
    if let Err(error) = marker.save(&pack) {
        tracing::warn!(error = %spotreel_domain::chain(&error), "pack is valid, but the marker was not written; it will be hashed again");
    }
    Ok(pack)
}

/// Size, hash and, of weights, the header. What is right is on the disk afterwards: it will be noted, and a note outlives
/// a power cut.
pub(crate) fn check(path: &Path, file: &PackFile, read: impl Fn(u64)) -> Result<(), PackError> {
    measure(path, file)?;
    let unreadable = || PackError::unreadable(path);
    let mut open = File::open(path).map_err(unreadable())?;
    let mut hash = Sha256::new();
    hash_into(&mut hash, &mut open, read).map_err(unreadable())?;
    if hex::encode(hash.finalize()) != file.sha256 {
        return Err(PackError::Sha256Mismatch {
            path: path.to_owned(),
        });
    }
    if has_suffix(&file.path, SAFETENSORS) {
        tensors::read_head(path)?;
    }
    match open.sync_all() {
        // A file system that is read-only may have nothing to flush with.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        flushed => flushed.map_err(unreadable()),
    }
}

pub(crate) fn hash_into(
    hash: &mut Sha256,
    source: &mut impl Read,
    read: impl Fn(u64),
) -> io::Result<u64> {
    let mut buffer = vec![0; READ_SIZE];
    let mut total = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hash.update(&buffer[..count]);
                total += count as u64;
                read(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
