//! What the bucket's packs and LoRAs let a task ask for: `fast` and what it stands for, how long a prompt may be, which LoRA
//! a name is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use spotreel_api::ApiError;
use spotreel_bootstrap::Context;
use spotreel_domain::Model;
use spotreel_domain::quality::Quality;
use spotreel_domain::task::{TaskLora, TaskSpec};
use spotreel_packs::{
    FastSteps, LoraRemoteError, Pack, PublishedLora, Remote, RemoteError, Scheduler,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::QualityConfig;
use crate::error;
use crate::submit::tokens::Vocabulary;

/// Between looks at the packs: they change when an operator pushes one.
const POLL: Duration = Duration::from_secs(60);
/// The same while a pack could not be read yet: tasks of `fast` wait for it.
const POLL_UNREAD: Duration = Duration::from_secs(5);
/// Before requests are taken. A bucket that does not answer must not keep tasks out that ask for nothing of it.
const FIRST_POLL: Duration = Duration::from_secs(5);
/// How long a LoRA's index is taken for the current one: a list may name it ten thousand times.
const LORA_FRESH: Duration = Duration::from_secs(10);
/// How long an index that could not be read is not asked for again: the rest of a list need not wait for the same failure.
const LORA_RETRY: Duration = Duration::from_secs(1);
const LORAS_KEPT: usize = 1_000;
/// LoRA indexes that are read at once, as many as requests for images.
const LORA_REQUESTS: usize = 32;
const TOKENIZER: &str = "tokenizer/tokenizer.json";
/// umT5's has 17 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

#[derive(Clone)]
pub struct Offers {
    remote: Remote,
    quality: QualityConfig,
    /// Of the models whose packs were looked at. A model that is not here could not be asked for yet.
    packs: Arc<Mutex<HashMap<Model, Offer>>>,
    loras: Arc<Mutex<HashMap<String, (Instant, Lookup)>>>,
    lora_requests: Arc<Semaphore>,
}

/// Of one pack; of a model without a pack, the default.
#[derive(Clone, Default)]
struct Offer {
    pack: String,
    fast: Option<FastSteps>,
    /// The hash of its tokenizer once that was read, and its pieces where they are known.
    tokenizer: Option<String>,
    vocabulary: Option<Arc<Vocabulary>>,
}

/// What the bucket said of a LoRA's name.
#[derive(Clone)]
enum Lookup {
    Found(Arc<PublishedLora>),
    Missing,
    Unread,
}

impl Lookup {
    /// How long it is taken for the current answer.
    fn lasts(&self) -> Duration {
        match self {
            Self::Found(_) | Self::Missing => LORA_FRESH,
            Self::Unread => LORA_RETRY,
        }
    }
}

impl Offers {
    pub fn new(remote: Remote, quality: QualityConfig) -> Self {
        Self {
            remote,
            quality,
            packs: Arc::default(),
            loras: Arc::default(),
            lora_requests: Arc::new(Semaphore::new(LORA_REQUESTS)),
        }
    }

    /// Looks at the packs for the first time, for as long as a start may wait for it.
    pub async fn begin(&self) {
        let _ = tokio::time::timeout(FIRST_POLL, self.poll()).await;
        if !self.has_looked() {
            tracing::warn!(
                retry_after_s = POLL_UNREAD.as_secs(),
                "pack indexes could not be read; tasks of quality fast are refused as unavailable until they can"
            );
        }
    }

    pub async fn watch(self, ctx: Context) -> anyhow::Result<()> {
        loop {
            let pause = match self.has_looked() {
                true => POLL,
                false => POLL_UNREAD,
            };
            let poll = async {
                tokio::time::sleep(pause).await;
                self.poll().await;
            };
            if ctx.stopping.run_until_cancelled(poll).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether every model's pack was read, or is known not to be there.
    fn has_looked(&self) -> bool {
        let packs = lock(&self.packs);
        Model::ALL.iter().all(|model| packs.contains_key(model))
    }

    async fn poll(&self) {
        for model in Model::ALL {
            match self.remote.current(model, Path::new("")).await {
                Ok(published) => self.learn(model, &published.pack).await,
                Err(RemoteError::NoPack { .. }) => {
                    lock(&self.packs).insert(model, Offer::default());
                }
                // What was known is still the best guess. Where nothing was, an answer that will stay the same, such as
                // AccessDenied, counts as no pack.
                Err(failure) => {
                    tracing::debug!(%model, error = %spotreel_domain::chain(&failure), "reading a pack index failed");
                    if !failure.retryable() {
                        lock(&self.packs).entry(model).or_default();
                    }
                }
            }
        }
    }

    async fn learn(&self, model: Model, pack: &Pack) {
        let known = lock(&self.packs).clone();
        if known
            .get(&model)
            .is_some_and(|offer| offer.pack == pack.sha256 && offer.tokenizer.is_some())
        {
            return;
        }
        let fast = pack.index.fast.as_ref();
        let mut offer = Offer {
            pack: pack.sha256.clone(),
            fast: fast.map(|fast| fast.recipe.unwrap_or_else(|| usual(model))),
            ..Offer::default()
        };
        let files = &pack.index.files;
        let tokenizer = files.iter().find(|file| file.path == TOKENIZER);
        let tokenizer = tokenizer.map_or(String::new(), |file| file.sha256.clone());
        // The models share one.
        let same = known
            .values()
            .find(|offer| offer.tokenizer.as_ref() == Some(&tokenizer));
        if let Some(same) = same {
            offer.vocabulary.clone_from(&same.vocabulary);
        } else {
            // What the index says holds without the tokenizer, which the next poll asks for again.
            lock(&self.packs).insert(model, offer.clone());
            match self.remote.file(&tokenizer, MAX_TOKENIZER_BYTES).await {
                Ok(file) => {
                    let read = tokio::task::spawn_blocking(move || Vocabulary::read(&file)).await;
                    offer.vocabulary = read.ok().flatten().map(Arc::new);
                }
                Err(failure) => {
                    tracing::debug!(%model, error = %spotreel_domain::chain(&failure), "reading a pack's tokenizer failed");
                    return;
                }
            }
        }
        offer.tokenizer = Some(tokenizer);
        lock(&self.packs).insert(model, offer);
    }

    /// Fills in what `fast` stands for, and refuses what no worker could render.
    pub fn admit(&self, spec: &mut TaskSpec) -> Result<(), ApiError> {
        let offer = lock(&self.packs).get(&spec.model).cloned();
        self.admit_quality(spec, offer.as_ref())?;
        let Some(vocabulary) = offer.and_then(|offer| offer.vocabulary) else {
            return Ok(());
        };
        let negative = spec.negative_prompt.as_deref().unwrap_or_default();
        for (field, text) in [
            ("prompt", spec.prompt.as_str()),
            ("negative_prompt", negative),
        ] {
            if let Some(tokens) = vocabulary.too_many(text) {
                let message = format!(
                    "{field} has {tokens} tokens or more, and the model reads 512: make it shorter"
                );
                return Err(error::broken(field, "tokens", message));
            }
        }
        Ok(())
    }

    fn admit_quality(&self, spec: &mut TaskSpec, offer: Option<&Offer>) -> Result<(), ApiError> {
        let (model, quality) = (spec.model, spec.quality);
        match (
            quality.filter(|quality| quality.needs_distilled_weights()),
            offer.and_then(|offer| offer.fast),
        ) {
            (None, _) => Ok(()),
            (Some(_), Some(fast)) => {
                spec.steps = fast.steps;
                spec.shift = fast.shift;
                spec.guidance = fast.guidance;
                spec.guidance_high_noise = spec.guidance_high_noise.map(|_| fast.guidance);
                Ok(())
            }
            (Some(_), None) if self.quality.fast.contains(&model) => Ok(()),
            (Some(quality), None) if offer.is_none() => {
                let message = format!(
                    "the pack of {model} could not be read yet, and it says whether there are weights for {quality} renders"
                );
                Err(error::unavailable(&message))
            }
            (Some(quality), None) => {
                let message = format!(
                    "no worker here has the weights for {quality} renders of {model}: say standard or best, or leave quality out"
                );
                Err(error::broken("quality", "offered", message))
            }
        }
    }

    /// Says which LoRAs the names are.
    pub async fn settle(&self, model: Model, loras: &mut [TaskLora]) -> Result<(), ApiError> {
        for (index, lora) in loras.iter_mut().enumerate() {
            let field = format!("loras[{index}].name");
            let refuse = |message| error::broken(&field, "offered", message);
            let name = &lora.name;
            let found = match self.lora(name).await {
                Lookup::Found(found) => found,
                Lookup::Missing => {
                    let message = format!(
                        "there is no LoRA {name:?} here: an operator adds one with `spotreel models lora add`"
                    );
                    return Err(refuse(message));
                }
                Lookup::Unread => {
                    return Err(error::unavailable("the object store does not answer now"));
                }
            };
            let of = found.index.model;
            if of != model {
                let message = format!("the LoRA {name:?} is for {of}, not for {model}");
                return Err(refuse(message));
            }
            if !found.index.changes(lora.expert) {
                let expert = lora.expert.map_or("other", |expert| expert.as_str());
                let message =
                    format!("the LoRA {name:?} has no weights for the {expert}-noise expert");
                return Err(refuse(message));
            }
            lora.sha256 = Some(found.sha256.clone());
        }
        Ok(())
    }

    async fn lora(&self, name: &str) -> Lookup {
        let fresh = || {
            let loras = lock(&self.loras);
            let (at, known) = loras.get(name)?;
            (Instant::now().duration_since(*at) < known.lasts()).then(|| known.clone())
        };
        if let Some(known) = fresh() {
            return known;
        }
        let place = self.lora_requests.acquire().await;
        let _place = place.expect("the semaphore is never closed");
        // Another task of the same list may have asked while this one waited.
        if let Some(known) = fresh() {
            return known;
        }
        let asked = Instant::now();
        let (at, found) = match self.remote.lora(name).await {
            Ok(found) => (asked, Lookup::Found(Arc::new(found))),
            Err(LoraRemoteError::Missing { .. }) => (asked, Lookup::Missing),
            Err(failure) => {
                tracing::warn!(name, error = %spotreel_domain::chain(&failure), "reading a LoRA index failed");
                // The request itself may have taken longer than the failure is remembered.
                (Instant::now(), Lookup::Unread)
            }
        };
        let mut loras = lock(&self.loras);
        if loras.len() >= LORAS_KEPT {
            loras.clear();
        }
        loras.insert(name.to_owned(), (at, found.clone()));
        found
    }
}

/// Of packs that do not say it.
fn usual(model: Model) -> FastSteps {
    let recipe = Quality::Fast.recipe(model);
    FastSteps {
        scheduler: Scheduler::Euler,
        steps: recipe.steps,
        shift: recipe.shift,
        guidance: recipe.guidance.0,
    }
}

/// A panic elsewhere leaves the maps whole: every write is one insert.
fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock()
}

#[cfg(test)]
mod tests;
