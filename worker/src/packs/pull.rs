//! The loop that pulls packs into the cache.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::Health;
use spotreel_domain::{Model, chain};
use spotreel_packs::{Pack, Progress, PullError, PullOptions};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PackCache, ReadyPack, Standing};

/// What may pass by itself is tried again after 1, 2, 4 seconds, at most after a minute.
const AGAIN_AT_FIRST: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);
/// What a person has to mend: a pack that is not there, a full disk.
const AGAIN_AFTER_A_PERSON: Duration = Duration::from_secs(5 * 60);

/// What the cache has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextPull {
    /// A task waits for it, or nothing else is here: others make room for it.
    Wanted(Model),
    Ahead(Model),
    Nothing,
}

impl PackCache {
    /// Pulls until the worker leaves.
    pub async fn keep(self, health: Health, leaving: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        // Of those that nobody waits for: there was no room.
        let mut skipped = BTreeSet::new();
        loop {
            self.tell(&health);
            let next = self.next(&skipped);
            let another = |wanted: &Option<Model>| {
                wanted.is_some_and(|model| next != NextPull::Wanted(model) && self.is_due(model))
            };
            let work = async {
                match next {
                    NextPull::Wanted(model) => self.pull(model, true, &health).await,
                    NextPull::Ahead(model) => self.pull(model, false, &health).await,
                    NextPull::Nothing => {
                        tokio::time::sleep_until(self.next_retry()).await;
                        true
                    }
                }
            };
            tokio::select! {
                () = leaving.cancelled() => return,
                // A pull that is dropped goes on later from where it was.
                _ = wanted.wait_for(another) => skipped.clear(),
                pulled = work => if let (NextPull::Ahead(model), false) = (next, pulled) {
                    skipped.insert(model);
                },
            }
        }
    }

    pub(super) fn next(&self, skipped: &BTreeSet<Model>) -> NextPull {
        let due = |model: &Model| self.is_due(*model);
        let wanted = *self.wanted.borrow();
        if let Some(model) = wanted.filter(due) {
            return NextPull::Wanted(model);
        }
        let any_here = self.models.iter().any(|model| self.is_here(*model));
        let mut models = self.models.iter().copied().filter(due);
        match models.find(|model| !skipped.contains(model)) {
            Some(model) if !any_here => NextPull::Wanted(model),
            Some(model) => NextPull::Ahead(model),
            None => NextPull::Nothing,
        }
    }

    /// Whether there is anything to pull, and it is time to.
    fn is_due(&self, model: Model) -> bool {
        match self.state.borrow().standing.get(&model) {
            None | Some(Standing::Coming) => true,
            Some(Standing::Ready(here)) => !here.arriving.is_empty(),
            Some(Standing::Failing { again, .. }) => *again <= Instant::now(),
        }
    }

    fn next_retry(&self) -> Instant {
        let state = self.state.borrow();
        let agains = state
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
                    Standing::Ready(ReadyPack {
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
        let loadable = progress.loadable().map(|(pack, arriving)| ReadyPack {
            pack,
            arriving: arriving.into_iter().map(PathBuf::from).collect(),
        });
        self.state.send_if_modified(|state| {
            let standing = state.standing.get(&model);
            let news = match (standing, loadable) {
                (Some(Standing::Ready(before)), Some(here)) if before.arriving == here.arriving => {
                    return false;
                }
                (_, Some(here)) => Standing::Ready(here),
                (Some(Standing::Ready(_) | Standing::Coming), None) => return false,
                (_, None) => Standing::Coming,
            };
            state.standing.insert(model, news);
            true
        });
    }

    pub(super) fn failed(&self, model: Model, error: &PullError) {
        let reason = format!("the pack of {model} cannot be had: {}", chain(error));
        // What was whole once is better than nothing, when the bucket does not answer or has none.
        if let PullError::Remote(_) = error
            && let Ok(pack) = Pack::open(&self.dir().join(model.as_str()))
            && pack.index.model == model
            && pack.is_verified()
        {
            tracing::warn!(%model, reason, "using the local pack");
            let (pack, arriving) = (Arc::new(pack), Vec::new());
            return self.stand(model, Standing::Ready(ReadyPack { pack, arriving }));
        }
        tracing::warn!(%model, code = error.code(), reason, "pack pull failed");
        metrics::counter!("spotreel_worker_pack_failures_total", "code" => error.code())
            .increment(1);
        let for_good = !error.retryable();
        self.state.send_modify(|state| {
            let tries = match state.standing.get(&model) {
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
            state.standing.insert(model, failing);
        });
    }

    /// Ready is who can render anything at all.
    pub(super) fn tell(&self, health: &Health) {
        let state = self.state.borrow();
        let said = state.standing.values().map(|standing| match standing {
            Standing::Ready(_) => Ok(()),
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
