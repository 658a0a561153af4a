//! How far a pull is.

use std::sync::Arc;

use tokio::sync::watch;

use crate::index::is_late;
use crate::{Pack, PackFile};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Known once the bucket's index was read. `dir` is where the pack will lie in the end.
    pub pack: Option<Arc<Pack>>,
    /// Bytes at hand, whether fetched, linked or there before.
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Files that do not lie whole under their final name in `pack.dir` yet, in load order.
    pub missing: Vec<String>,
}

impl Progress {
    /// The pack, and which of its files are still on their way, as soon as an engine can load it.
    pub fn loadable(&self) -> Option<(Arc<Pack>, Vec<String>)> {
        let pack = self.pack.as_ref()?;
        let only_late = self.missing.iter().all(|path| is_late(path));
        only_late.then(|| (Arc::clone(pack), self.missing.clone()))
    }
}

/// The side that tells.
#[derive(Clone)]
pub(crate) struct Teller(pub watch::Sender<Progress>);

impl Teller {
    pub fn begins(&self, pack: &Arc<Pack>) {
        let files = pack.index.load_order();
        self.0.send_replace(Progress {
            pack: Some(Arc::clone(pack)),
            bytes_done: 0,
            bytes_total: pack.index.bytes(),
            missing: files.iter().map(|file| file.path.clone()).collect(),
        });
    }

    pub fn got(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes_done += bytes);
    }

    pub fn lost(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes_done -= bytes);
    }

    pub fn whole(&self, file: &PackFile) {
        let missing = |progress: &mut Progress| progress.missing.retain(|path| *path != file.path);
        self.0.send_modify(missing);
    }

    /// Whatever is missing lay elsewhere until now.
    pub fn ends(&self) {
        self.0.send_modify(|progress| progress.missing.clear());
    }
}
