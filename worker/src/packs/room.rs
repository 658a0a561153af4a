//! Room for a pack on the disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use spotreel_domain::Model;
use spotreel_packs::{Pack, PackError, PullError};

use super::PackCache;

const GIGABYTE: u64 = 1_000_000_000;

impl PackCache {
    /// Whether the pack may be pulled. For one that is wanted, others go: those first that were not used for longest, and
    /// never the one that is loaded.
    pub(super) async fn make_room(&self, pack: &Pack, wanted: bool) -> Result<bool, PullError> {
        let dir = self.dir();
        fs::create_dir_all(dir).map_err(unwritable(dir))?;
        let needed = missing_bytes(dir, pack).saturating_add(self.section.keep_free_gb * GIGABYTE);
        loop {
            let free = free_bytes(dir)?;
            if needed <= free {
                return Ok(true);
            }
            if !wanted {
                return Ok(false);
            }
            let Some(model) = self.least_used(pack.index.model) else {
                let dir = dir.to_owned();
                return Err(PullError::NoRoom { dir, needed, free });
            };
            self.remove(model).await?;
        }
    }

    pub(super) fn least_used(&self, but: Model) -> Option<Model> {
        let state = self.state.borrow();
        let there = |model: &Model| self.dir().join(model.as_str()).exists();
        let may_go = |model: &Model| *model != but && Some(*model) != state.loaded;
        // Of those that were never used, the last in the worker's own order.
        let mut models: Vec<_> = self.models.iter().rev().copied().collect();
        let strangers = Model::ALL
            .into_iter()
            .filter(|model| !self.models.contains(model));
        models.splice(..0, strangers);
        let candidates = models.into_iter().filter(may_go).filter(there);
        candidates.min_by_key(|model| state.used.get(model).copied())
    }

    async fn remove(&self, model: Model) -> Result<(), PackError> {
        let path = self.dir().join(model.as_str());
        tracing::info!(%model, path = %path.display(), "pack deleted to make room");
        self.state.send_modify(|state| {
            state.standing.remove(&model);
        });
        tokio::fs::remove_dir_all(&path)
            .await
            .map_err(unwritable(&path))
    }
}

fn free_bytes(dir: &Path) -> Result<u64, PackError> {
    let found = statvfs(dir).map_err(io::Error::from);
    let found = found.map_err(|source| PackError::Unreadable {
        path: dir.to_owned(),
        source,
    })?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// What a pull would add, but for what it finds of an earlier one's last file.
pub(super) fn missing_bytes(dir: &Path, pack: &Pack) -> u64 {
    let packs = Model::ALL.map(|model| Pack::open(&dir.join(model.as_str())));
    let there = packs.iter().flatten().flat_map(|other| {
        let whole = |file: &&_| other.path(file).exists();
        other.index.files.iter().filter(whole)
    });
    let there: HashSet<_> = there.map(|file| file.sha256.as_str()).collect();
    let missing = pack
        .index
        .files
        .iter()
        .filter(|file| !there.contains(file.sha256.as_str()));
    missing.map(|file| file.bytes).sum()
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    |source| PackError::Unwritable { path, source }
}
