//! Keeps model packs on this machine's disk: pulls them in the order of the worker's models, a model that a task asks for
//! before all others, and makes room by what was not used for longest.

pub mod embeddings;
pub mod loras;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::Health;
use spotreel_domain::Model;
use spotreel_domain::chain;
use spotreel_packs::{Pack, Progress, PullError, PullOptions, Remote};
use spotreel_s3::{Store, StoreConfig};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::EngineFailure;
use crate::engine::protocol::ErrorKind;
use crate::machine::host::gone;

/// The code of a failure that is the keeper's: it may be over once the pack is here.
pub const CODE: &str = "pack";
/// What may pass by itself is tried again after 1, 2, 4 seconds, at most after a minute.
const AGAIN_AT_FIRST: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);
/// What a person has to mend: a pack that is not there, a full disk.
const AGAIN_AFTER_A_PERSON: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacksSection {
    pub dir: String,
    pub bucket: String,
    pub prefix: String,
    pub connections: usize,
    pub keep_free_gb: u64,
}

/// Cheap to clone; [`Keeper::keep`] does the work for all clones.
#[derive(Clone)]
pub struct Keeper {
    section: Arc<PacksSection>,
    models: Arc<[Model]>,
    remote: Remote,
    shelf: watch::Sender<Shelf>,
    /// The model whose pack is pulled before all others.
    wanted: watch::Sender<Option<Model>>,
}

#[derive(Default)]
struct Shelf {
    standing: BTreeMap<Model, Standing>,
    /// Which the engine has loaded: it reads on in its files.
    loaded: Option<Model>,
    used: BTreeMap<Model, Instant>,
}

/// How it stands with the pack of one model; one that is not mentioned was not begun with.
#[derive(Clone, Debug)]
enum Standing {
    Coming,
    Here(Here),
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
pub struct Here {
    pub pack: Arc<Pack>,
    /// Files that are still on their way, which a render can begin without.
    pub arriving: Vec<PathBuf>,
}

/// What the keeper has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A task waits for it, or nothing else is here: others make room for it.
    Wanted(Model),
    Ahead(Model),
    Nothing,
}

/// Where packs and LoRAs lie.
pub async fn remote(section: &PacksSection, s3: &StoreConfig) -> Remote {
    let mut config = s3.clone();
    if !section.bucket.is_empty() {
        config.bucket.clone_from(&section.bucket);
    }
    Remote::new(Store::connect(&config).await, &section.prefix)
}

impl Keeper {
    /// None: the engine brings its own packs.
    pub fn of(section: &PacksSection, models: &[Model], remote: &Remote) -> Option<Self> {
        if section.dir.is_empty() {
            return None;
        }
        Some(Self {
            section: Arc::new(section.clone()),
            models: models.into(),
            remote: remote.clone(),
            shelf: watch::Sender::default(),
            wanted: watch::Sender::default(),
        })
    }

    pub fn dir(&self) -> &Path {
        Path::new(&self.section.dir)
    }

    pub fn is_here(&self, model: Model) -> bool {
        matches!(
            self.shelf.borrow().standing.get(&model),
            Some(Standing::Here(_))
        )
    }

    fn is_whole(&self, model: Model) -> bool {
        let shelf = self.shelf.borrow();
        let standing = shelf.standing.get(&model);
        matches!(standing, Some(Standing::Here(here)) if here.arriving.is_empty())
    }

    /// A task of a model whose pack does not come would only be held up here.
    pub fn may_come(&self, model: Model) -> bool {
        let shelf = self.shelf.borrow();
        !matches!(shelf.standing.get(&model), Some(Standing::Failing { .. }))
    }

    /// Waits for the pack. It becomes the first in the queue.
    pub async fn ready(&self, model: Model, limit: Duration) -> Result<Here, EngineFailure> {
        if !self.is_whole(model) {
            self.wanted.send_replace(Some(model));
        }
        let mut shelf = self.shelf.subscribe();
        let settled = shelf.wait_for(|shelf| match shelf.standing.get(&model) {
            Some(Standing::Here(_)) => true,
            Some(Standing::Failing { for_good, .. }) => *for_good,
            _ => false,
        });
        let settled = tokio::time::timeout(limit, settled).await;
        match settled
            .ok()
            .and_then(Result::ok)
            .and_then(|shelf| shelf.standing.get(&model).cloned())
        {
            Some(Standing::Here(here)) => Ok(here),
            Some(Standing::Failing { reason, .. }) => Err(failure(&reason)),
            _ => Err(failure(&format!(
                "the pack of {model} did not come within {limit:?}"
            ))),
        }
    }

    /// Resolves if what is on its way will not come.
    async fn gives_up(&self, model: Model) -> EngineFailure {
        let mut shelf = self.shelf.subscribe();
        let failing = shelf.wait_for(|shelf| {
            matches!(
                shelf.standing.get(&model),
                Some(Standing::Failing { for_good: true, .. })
            )
        });
        match failing
            .await
            .ok()
            .and_then(|shelf| shelf.standing.get(&model).cloned())
        {
            Some(Standing::Failing { reason, .. }) => failure(&reason),
            _ => failure("the pack is not kept any more"),
        }
    }

    /// What the engine has loaded is not removed.
    pub fn loaded(&self, model: Model) {
        self.shelf.send_modify(|shelf| {
            shelf.loaded = Some(model);
            shelf.used.insert(model, Instant::now());
        });
    }

    /// Pulls until the worker leaves.
    pub async fn keep(self, health: Health, leaving: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        // Of those that nobody waits for: there was no room.
        let mut skipped = BTreeSet::new();
        loop {
            self.tell(&health);
            let next = self.next(&skipped);
            let another = |wanted: &Option<Model>| {
                wanted.is_some_and(|model| next != Next::Wanted(model) && self.is_due(model))
            };
            let work = async {
                match next {
                    Next::Wanted(model) => self.pull(model, true, &health).await,
                    Next::Ahead(model) => self.pull(model, false, &health).await,
                    Next::Nothing => {
                        tokio::time::sleep_until(self.next_retry()).await;
                        true
                    }
                }
            };
            tokio::select! {
                () = leaving.cancelled() => return,
                // A pull that is dropped goes on later from where it was.
                _ = wanted.wait_for(another) => skipped.clear(),
                pulled = work => if let (Next::Ahead(model), false) = (next, pulled) {
                    skipped.insert(model);
                },
            }
        }
    }

    fn next(&self, skipped: &BTreeSet<Model>) -> Next {
        let due = |model: &Model| self.is_due(*model);
        let wanted = *self.wanted.borrow();
        if let Some(model) = wanted.filter(due) {
            return Next::Wanted(model);
        }
        let any_here = self.models.iter().any(|model| self.is_here(*model));
        let mut models = self.models.iter().copied().filter(due);
        match models.find(|model| !skipped.contains(model)) {
            Some(model) if !any_here => Next::Wanted(model),
            Some(model) => Next::Ahead(model),
            None => Next::Nothing,
        }
    }

    /// Whether there is anything to pull, and it is time to.
    fn is_due(&self, model: Model) -> bool {
        match self.shelf.borrow().standing.get(&model) {
            None | Some(Standing::Coming) => true,
            Some(Standing::Here(here)) => !here.arriving.is_empty(),
            Some(Standing::Failing { again, .. }) => *again <= Instant::now(),
        }
    }

    fn next_retry(&self) -> Instant {
        let shelf = self.shelf.borrow();
        let agains = shelf
            .standing
            .values()
            .filter_map(|standing| match standing {
                Standing::Failing { again, .. } => Some(*again),
                _ => None,
            });
        agains
            .min()
            .unwrap_or_else(|| Instant::now() + AGAIN_AT_MOST)
    }

    /// False: there is no room for a pack that nobody waits for.
    async fn pull(&self, model: Model, wanted: bool, health: &Health) -> bool {
        let began = Instant::now();
        match self.bring(model, wanted, health).await {
            Ok(Some(pack)) => {
                let took = began.elapsed();
                metrics::histogram!("spotreel_worker_pack_seconds", "model" => model.as_str())
                    .record(took);
                tracing::info!(%model, bytes = pack.index.bytes(), ?took, "pack complete");
                self.stand(
                    model,
                    Standing::Here(Here {
                        pack,
                        arriving: Vec::new(),
                    }),
                );
                true
            }
            Ok(None) => {
                tracing::info!(%model, "not enough disk space for the pack; it is pulled when a task needs it");
                false
            }
            Err(error) => {
                self.failed(model, &error);
                true
            }
        }
    }

    async fn bring(
        &self,
        model: Model,
        wanted: bool,
        health: &Health,
    ) -> Result<Option<Arc<Pack>>, PullError> {
        let published = self
            .remote
            .current(model, &self.dir().join(model.as_str()))
            .await?;
        if !self.make_room(&published.pack, wanted).await? {
            return Ok(None);
        }
        let options = PullOptions {
            window: self.section.connections,
            ..PullOptions::default()
        };
        let (teller, mut told) = watch::channel(Progress::default());
        let mut pull = std::pin::pin!(self.remote.pull(model, self.dir(), &options, teller));
        loop {
            tokio::select! {
                pulled = &mut pull => return pulled.map(Some),
                Ok(()) = told.changed() => {
                    self.note(model, &told.borrow_and_update());
                    self.tell(health);
                }
            }
        }
    }

    /// Only ever for the better: a pull that begins again finds what it had.
    fn note(&self, model: Model, progress: &Progress) {
        let gauge = |name: &'static str, bytes: u64| {
            #[expect(clippy::cast_precision_loss, reason = "packs are far below 2^53 bytes")]
            metrics::gauge!(name, "model" => model.as_str()).set(bytes as f64);
        };
        gauge("spotreel_worker_pack_bytes_here", progress.bytes_done);
        gauge("spotreel_worker_pack_bytes_total", progress.bytes_total);
        let loadable = progress.loadable().map(|(pack, arriving)| Here {
            pack,
            arriving: arriving.into_iter().map(PathBuf::from).collect(),
        });
        self.shelf.send_if_modified(|shelf| {
            let standing = shelf.standing.get(&model);
            let news = match (standing, loadable) {
                (Some(Standing::Here(before)), Some(here)) if before.arriving == here.arriving => {
                    return false;
                }
                (_, Some(here)) => Standing::Here(here),
                (Some(Standing::Here(_) | Standing::Coming), None) => return false,
                (_, None) => Standing::Coming,
            };
            shelf.standing.insert(model, news);
            true
        });
    }

    fn failed(&self, model: Model, error: &PullError) {
        let reason = format!("the pack of {model} cannot be had: {}", chain(error));
        // What was whole once is better than nothing, when the bucket does not answer or has none.
        if let PullError::Remote(_) = error
            && let Ok(pack) = Pack::open(&self.dir().join(model.as_str()))
            && pack.index.model == model
            && pack.is_verified()
        {
            tracing::warn!(%model, reason, "using the local pack");
            let (pack, arriving) = (Arc::new(pack), Vec::new());
            return self.stand(model, Standing::Here(Here { pack, arriving }));
        }
        tracing::warn!(%model, code = error.code(), reason, "pack pull failed");
        metrics::counter!("spotreel_worker_pack_failures_total", "code" => error.code())
            .increment(1);
        let for_good = !error.retryable();
        self.shelf.send_modify(|shelf| {
            let tries = match shelf.standing.get(&model) {
                Some(Standing::Failing { tries, .. }) => tries.saturating_add(1),
                _ => 0,
            };
            let pause = match for_good {
                true => AGAIN_AFTER_A_PERSON,
                false => AGAIN_AT_MOST.min(AGAIN_AT_FIRST * 2u32.saturating_pow(tries)),
            };
            let failing = Standing::Failing {
                reason,
                for_good,
                tries,
                again: Instant::now() + pause,
            };
            shelf.standing.insert(model, failing);
        });
    }

    fn stand(&self, model: Model, standing: Standing) {
        self.shelf.send_modify(|shelf| {
            shelf.standing.insert(model, standing);
        });
    }

    /// Ready is who can render anything at all.
    fn tell(&self, health: &Health) {
        let shelf = self.shelf.borrow();
        let said = shelf.standing.values().map(|standing| match standing {
            Standing::Here(_) => Ok(()),
            Standing::Coming => Err("a model pack is on its way".to_owned()),
            Standing::Failing { reason, .. } => Err(reason.clone()),
        });
        let best = said.min_by_key(Result::is_err);
        health.set(
            "packs",
            best.unwrap_or_else(|| Err("no model pack is here yet".to_owned())),
        );
    }
}

/// Resolves if a file that a render will need will not come; of a pack that is whole, never.
pub async fn forsaken(keeper: Option<&Keeper>, late: Option<Model>) -> EngineFailure {
    match (keeper, late) {
        (Some(keeper), Some(model)) => keeper.gives_up(model).await,
        _ => std::future::pending().await,
    }
}

fn failure(reason: &str) -> EngineFailure {
    EngineFailure {
        kind: ErrorKind::Model,
        code: CODE.into(),
        ..gone(reason)
    }
}

#[cfg(test)]
mod tests;
