//! What the bucket's packs and LoRAs let a task ask for: `fast` and what it stands for, how long a prompt may be, which LoRA
//! a name is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spotreel_bootstrap::Context;
use spotreel_domain::Model;
use spotreel_domain::api::ApiError;
use spotreel_domain::quality::Quality;
use spotreel_domain::request::{TaskLora, TaskSpec};
use spotreel_packs::{
    FastSteps, LoraRemoteError, Pack, PublishedLora, Remote, RemoteError, Scheduler,
};
use tokio::time::Instant;

use crate::config::QualityConfig;
use crate::error;
use crate::tokens::Vocabulary;

/// Between looks at the packs: they change when an operator pushes one.
const POLL: Duration = Duration::from_secs(60);
/// Before the doors open. A bucket that does not answer must not keep tasks out that ask for nothing of it.
const FIRST_POLL: Duration = Duration::from_secs(5);
/// How long a LoRA's index is taken for the current one: a list may name it ten thousand times.
const LORA_FRESH: Duration = Duration::from_secs(10);
const LORAS_KEPT: usize = 1_000;
const TOKENIZER: &str = "tokenizer/tokenizer.json";
/// umT5's has 17 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

#[derive(Clone)]
pub struct Offers {
    remote: Remote,
    quality: QualityConfig,
    packs: Arc<Mutex<HashMap<Model, Offer>>>,
    loras: Arc<Mutex<HashMap<String, (Instant, PublishedLora)>>>,
}

/// Of one pack.
#[derive(Clone)]
struct Offer {
    pack: String,
    fast: Option<FastSteps>,
    /// The hash of its tokenizer, and its pieces where they are known.
    tokenizer: String,
    vocabulary: Option<Arc<Vocabulary>>,
}

impl Offers {
    pub fn new(remote: Remote, quality: QualityConfig) -> Self {
        Self {
            remote,
            quality,
            packs: Arc::default(),
            loras: Arc::default(),
        }
    }

    /// Looks at the packs for the first time, as long as doors may wait for it.
    pub async fn begin(&self) {
        if tokio::time::timeout(FIRST_POLL, self.poll()).await.is_err() {
            tracing::warn!("the bucket's packs could not be read yet; trying again in a minute");
        }
    }

    pub async fn watch(self, ctx: Context) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first one ends at once.
        tick.tick().await;
        while ctx
            .stopping
            .run_until_cancelled(tick.tick())
            .await
            .is_some()
        {
            ctx.stopping.run_until_cancelled(self.poll()).await;
        }
        Ok(())
    }

    async fn poll(&self) {
        for model in Model::ALL {
            match self.remote.current(model, Path::new("")).await {
                Ok(published) => self.learn(model, &published.pack).await,
                Err(RemoteError::NoPack { .. }) => {
                    lock(&self.packs).remove(&model);
                }
                // What was known is still the best guess.
                Err(failure) => {
                    tracing::debug!(%model, error = %failure, "a pack's index could not be read");
                }
            }
        }
    }

    async fn learn(&self, model: Model, pack: &Pack) {
        let known = lock(&self.packs).clone();
        if known
            .get(&model)
            .is_some_and(|offer| offer.pack == pack.sha256)
        {
            return;
        }
        let files = &pack.index.files;
        let tokenizer = files.iter().find(|file| file.path == TOKENIZER);
        let tokenizer = tokenizer.map_or(String::new(), |file| file.sha256.clone());
        // The models share one.
        let same = known.values().find(|offer| offer.tokenizer == tokenizer);
        let vocabulary = match same {
            Some(offer) => offer.vocabulary.clone(),
            None => match self.remote.file(&tokenizer, MAX_TOKENIZER_BYTES).await {
                Ok(file) => {
                    let read = tokio::task::spawn_blocking(move || Vocabulary::read(&file)).await;
                    read.ok().flatten().map(Arc::new)
                }
                Err(failure) => {
                    tracing::debug!(%model, error = %failure, "a pack's tokenizer could not be read");
                    return;
                }
            },
        };
        let fast = pack.index.fast.as_ref();
        let offer = Offer {
            pack: pack.sha256.clone(),
            fast: fast.map(|fast| fast.recipe.unwrap_or_else(|| usual(model))),
            tokenizer,
            vocabulary,
        };
        lock(&self.packs).insert(model, offer);
    }

    /// Fills in what `fast` stands for, and refuses what no worker could render.
    pub fn admit(&self, spec: &mut TaskSpec) -> Result<(), ApiError> {
        let offer = lock(&self.packs).get(&spec.model).cloned();
        self.admit_quality(spec, offer.as_ref().and_then(|offer| offer.fast))?;
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

    fn admit_quality(&self, spec: &mut TaskSpec, fast: Option<FastSteps>) -> Result<(), ApiError> {
        let (model, quality) = (spec.model, spec.quality);
        match (
            quality.filter(|quality| quality.needs_distilled_weights()),
            fast,
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
                Ok(found) => found,
                Err(LoraRemoteError::Missing { .. }) => {
                    let message = format!(
                        "there is no LoRA {name:?} here: an operator adds one with `spotreel models lora add`"
                    );
                    return Err(refuse(message));
                }
                Err(failure) => {
                    tracing::warn!(name, error = %failure, "a LoRA's index could not be read");
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
            lora.sha256 = Some(found.sha256);
        }
        Ok(())
    }

    async fn lora(&self, name: &str) -> Result<PublishedLora, LoraRemoteError> {
        let now = Instant::now();
        let known = lock(&self.loras).get(name).cloned();
        if let Some((at, lora)) = known
            && now.duration_since(at) < LORA_FRESH
        {
            return Ok(lora);
        }
        let lora = self.remote.lora(name).await?;
        let mut loras = lock(&self.loras);
        if loras.len() >= LORAS_KEPT {
            loras.clear();
        }
        loras.insert(name.to_owned(), (now, lora.clone()));
        Ok(lora)
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
    map.lock().unwrap_or_else(PoisonError::into_inner)
}
