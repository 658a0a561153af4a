//! A file of the pack as it is written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::plan::part_of;
use crate::{PackError, PackFile};

/// Counted and hashed on the way.
pub(crate) struct Out {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file as `fill` writes it; under its name, and on the disk, when it is whole.
pub(crate) fn write<E: From<PackError>>(
    to: &Path,
    path: String,
    fill: impl FnOnce(&mut Out) -> Result<(), E>,
) -> Result<PackFile, E> {
    let target = to.join(&path);
    let part = part_of(&target);
    let folder = target.parent().map_or(Ok(()), fs::create_dir_all);
    let file = folder.and_then(|()| File::create(&part));
    let mut out = Out {
        file: file.map_err(PackError::unwritable(&part))?,
        hash: Sha256::new(),
        bytes: 0,
    };
    fill(&mut out)?;
    let kept = out
        .file
        .sync_all()
        .and_then(|()| fs::rename(&part, &target));
    kept.map_err(PackError::unwritable(target))?;
    Ok(PackFile {
        path,
        bytes: out.bytes,
        sha256: hex::encode(out.hash.finalize()),
    })
}
