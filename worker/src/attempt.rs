//! From a delivered work item to a started task: is it ours to start, and what does it go on from?

use futures::future::OptionFuture;
use spotreel_bootstrap::ambient;
use spotreel_bus::{AppendError, Delivery, Recorded};
use spotreel_domain::Task;
use spotreel_domain::task::{Artifact, Outcome, StartRuling};

use crate::checkpoints::{self, Stored, chain};
use crate::{Worker, finish};

/// Storage that is away is no fault of the task: it is looked at again after so long.
const STORAGE_AWAY: std::time::Duration = std::time::Duration::from_secs(5);

/// A task that this worker has started.
pub struct Begun {
    pub started: Recorded,
    /// To go on from, newest first.
    pub checkpoints: Vec<Stored>,
    /// A worker before us had finished, and died before it could say so.
    pub finished: Option<Artifact>,
}

impl Worker {
    /// Starts the task of a work item, or gives the item its due and returns none.
    pub async fn begin(&self, delivery: &Delivery) -> Option<Begun> {
        let entry = match delivery.recorded() {
            Ok(recorded) => recorded.task,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    sequence = delivery.sequence,
                    "a work item cannot be read; it is left to people"
                );
                let _ = delivery.nak(std::time::Duration::from_secs(3600)).await;
                return None;
            }
        };
        let id = entry.id.clone();
        // Delivered again: somebody has begun before, and may have left checkpoints; the log is read meanwhile.
        let mut again = (delivery.delivered > 1).then_some(&entry);
        loop {
            let looking = again
                .take()
                .map(|entry| checkpoints::list(&self.store, entry));
            let (last, listed) = tokio::join!(self.log.last(&id), OptionFuture::from(looking));
            let last = match last {
                Ok(Some(last)) => last,
                Ok(None) => {
                    self.let_go(delivery, None).await;
                    return None;
                }
                Err(error) => {
                    tracing::warn!(task = %id, error = chain(&error), "the log cannot be read");
                    let _ = delivery.nak(STORAGE_AWAY).await;
                    return None;
                }
            };
            let ruling = last.task.rule_start(delivery.sequence, ambient::now());
            if let StartRuling::Forget | StartRuling::Wait(_) = ruling {
                let said = match ruling {
                    StartRuling::Wait(rest) => delivery.nak(rest).await,
                    _ => delivery.ack().await,
                };
                if let Err(error) = said {
                    tracing::debug!(%error, task = %id, "a work item was not returned");
                }
                return None;
            }
            let listed = listed.filter(|_| last.task.round == entry.round);
            let (checkpoints, finished) = match self.left_behind(&last.task, listed).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(task = %id, error = format!("{error:#}"), "storage cannot be read");
                    let _ = delivery.nak(STORAGE_AWAY).await;
                    return None;
                }
            };
            let newest = checkpoints.first().map_or(0, |stored| stored.next_step);
            if ruling == StartRuling::DeclareLost {
                self.declare_lost(&last, newest).await;
                continue;
            }
            let step = last
                .task
                .started(&self.name, &self.instance, newest, ambient::now())
                .ok()?;
            let append = self.append(step, last.sequence);
            match self.log.append(&append).await {
                Ok(sequence) => {
                    let started = Recorded {
                        sequence,
                        event: append.event,
                        task: append.task.placed_at(sequence, append.event),
                        headers: append.headers,
                        stored_at: ambient::now(),
                    };
                    return Some(Begun {
                        started,
                        checkpoints,
                        finished,
                    });
                }
                Err(AppendError::Conflict(_)) => {}
                Err(error) => {
                    tracing::warn!(task = %id, error = chain(&error), "the task could not be started");
                    let _ = delivery.nak(STORAGE_AWAY).await;
                    return None;
                }
            }
        }
    }

    /// What earlier attempts have put in storage. An engine waits for the answer: a first attempt need not ask, and who
    /// was interrupted has finished nothing.
    async fn left_behind(
        &self,
        task: &Task,
        listed: Option<anyhow::Result<Vec<Stored>>>,
    ) -> anyhow::Result<(Vec<Stored>, Option<Artifact>)> {
        let Some(before) = task.attempts.last() else {
            return Ok((Vec::new(), None));
        };
        let checkpoints = match listed {
            Some(listed) => listed?,
            None => checkpoints::list(&self.store, task).await?,
        };
        let finished = match before.outcome {
            Outcome::Interrupted => None,
            _ => finish::find_artifact(&self.store, task).await?,
        };
        Ok((checkpoints, finished))
    }

    /// The item came to us although a start of it stands: that worker's lease has ended.
    async fn declare_lost(&self, last: &Recorded, newest_checkpoint: u32) {
        let before = last.task.running().map_or(0, |attempt| attempt.from_step);
        let Ok((event, task)) = last.task.lost(newest_checkpoint > before, ambient::now()) else {
            return;
        };
        tracing::warn!(task = %task.id, worker = last.task.running().map(|a| a.worker.as_str()), "a worker was lost with its task");
        let append = self.append((event, self.scaled(task)), last.sequence);
        // Refused: somebody wrote first, and the next look shows what.
        if let Err(error) = self.log.append(&append).await {
            tracing::debug!(task = %append.task.id, error = chain(&error), "the loss was not written");
        }
    }
}
