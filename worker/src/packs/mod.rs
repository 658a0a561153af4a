//! The pack cache: model packs on this machine's disk. It pulls them in the order of the worker's models, a model that a task
//! asks for before all others (`pull.rs`), and makes room by what was not used for longest (`room.rs`).

pub mod embeddings;
pub mod loras;
mod pull;
mod room;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_domain::Model;
use spotreel_packs::{Pack, Remote};
use spotreel_s3::{Store, StoreConfig};
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacksSection {
    pub dir: String,
    pub bucket: String,
    pub prefix: String,
    pub connections: usize,
    pub keep_free_gb: u64,
}

/// Why a model cannot be loaded now; it may be over once its pack is here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PackUnavailable(String);

/// Cheap to clone; [`PackCache::keep`] does the work for all clones.
#[derive(Clone)]
pub struct PackCache {
    section: Arc<PacksSection>,
    models: Arc<[Model]>,
    remote: Remote,
    state: watch::Sender<CacheState>,
    /// The model whose pack is pulled before all others.
    wanted: watch::Sender<Option<Model>>,
}

#[derive(Default)]
struct CacheState {
    standing: BTreeMap<Model, Standing>,
    /// Which the engine has loaded: it reads on in its files.
    loaded: Option<Model>,
    used: BTreeMap<Model, Instant>,
}

/// How it stands with the pack of one model; one that is not mentioned was not begun with.
#[derive(Clone, Debug)]
enum Standing {
    Coming,
    Ready(ReadyPack),
    Failing {
        reason: String,
        /// It does not pass by itself.
        for_good: bool,
        tries: u32,
        again: Instant,
    },
}

/// A pack that an engine can load.
#[derive(Clone, Debug)]
pub struct ReadyPack {
    pub pack: Arc<Pack>,
    /// Files that are still on their way, which a render can begin without.
    pub arriving: Vec<PathBuf>,
}

/// Where packs and LoRAs lie.
pub async fn remote(section: &PacksSection, s3: &StoreConfig) -> Remote {
    let mut config = s3.clone();
    if !section.bucket.is_empty() {
        config.bucket.clone_from(&section.bucket);
    }
    Remote::new(Store::connect(&config).await, &section.prefix)
}

impl PackCache {
    /// None: the engine brings its own packs.
    pub fn of(section: &PacksSection, models: &[Model], remote: &Remote) -> Option<Self> {
        if section.dir.is_empty() {
            return None;
        }
        Some(Self {
            section: Arc::new(section.clone()),
            models: models.into(),
            remote: remote.clone(),
            state: watch::Sender::default(),
            wanted: watch::Sender::default(),
        })
    }

    pub fn dir(&self) -> &Path {
        Path::new(&self.section.dir)
    }

    pub fn is_here(&self, model: Model) -> bool {
        matches!(
            self.state.borrow().standing.get(&model),
            Some(Standing::Ready(_))
        )
    }

    fn is_whole(&self, model: Model) -> bool {
        let state = self.state.borrow();
        let standing = state.standing.get(&model);
        matches!(standing, Some(Standing::Ready(here)) if here.arriving.is_empty())
    }

    /// A task of a model whose pack does not come would only be held up here.
    pub fn may_come(&self, model: Model) -> bool {
        let state = self.state.borrow();
        !matches!(state.standing.get(&model), Some(Standing::Failing { .. }))
    }

    /// Waits for the pack. It becomes the first in the queue.
    pub async fn ready(&self, model: Model, limit: Duration) -> Result<ReadyPack, PackUnavailable> {
        if !self.is_whole(model) {
            self.wanted.send_replace(Some(model));
        }
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state.standing.get(&model) {
            Some(Standing::Ready(_)) => true,
            Some(Standing::Failing { for_good, .. }) => *for_good,
            _ => false,
        });
        let settled = tokio::time::timeout(limit, settled).await;
        match settled
            .ok()
            .and_then(Result::ok)
            .and_then(|state| state.standing.get(&model).cloned())
        {
            Some(Standing::Ready(here)) => Ok(here),
            Some(Standing::Failing { reason, .. }) => Err(PackUnavailable(reason)),
            _ => Err(PackUnavailable(format!(
                "the pack of {model} did not come within {limit:?}"
            ))),
        }
    }

    /// Resolves if what is on its way will not come.
    async fn gives_up(&self, model: Model) -> PackUnavailable {
        let mut state = self.state.subscribe();
        let failing = state.wait_for(|state| {
            matches!(
                state.standing.get(&model),
                Some(Standing::Failing { for_good: true, .. })
            )
        });
        match failing
            .await
            .ok()
            .and_then(|state| state.standing.get(&model).cloned())
        {
            Some(Standing::Failing { reason, .. }) => PackUnavailable(reason),
            _ => PackUnavailable("the pack is not kept any more".into()),
        }
    }

    /// What the engine has loaded is not removed.
    pub fn loaded(&self, model: Model) {
        self.state.send_modify(|state| {
            state.loaded = Some(model);
            state.used.insert(model, Instant::now());
        });
    }

    fn stand(&self, model: Model, standing: Standing) {
        self.state.send_modify(|state| {
            state.standing.insert(model, standing);
        });
    }
}

/// Resolves if a file that a render will need will not come; of a pack that is whole, never.
pub async fn given_up(cache: Option<&PackCache>, late: Option<Model>) -> PackUnavailable {
    match (cache, late) {
        (Some(cache), Some(model)) => cache.gives_up(model).await,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
