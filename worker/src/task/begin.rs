//! From a delivered work item to a started task: whether this worker may start it, and from which checkpoint.

use std::time::Duration;

use futures::future::OptionFuture;
use spotreel_bootstrap::ambient;
use spotreel_bus::{AppendError, Lease, Recorded};
use spotreel_domain::Task;
use spotreel_domain::chain;
use spotreel_domain::task::{Artifact, AttemptOutcome, LONGEST_RETRY_DELAY, StartRuling};

use crate::Worker;
use crate::task::checkpoints::{self, Stored};
use crate::task::finish;

/// Delay before a failed read of the log or of storage is repeated.
const AGAIN: Duration = Duration::from_secs(5);

/// A task that this worker has started.
pub struct Begun {
    pub started: Recorded,
    /// Held from the delivery on; its fence is set.
    pub lease: Lease,
    /// To go on from, newest first.
    pub checkpoints: Vec<Stored>,
    /// A worker before us had finished, and died before it could say so.
    pub finished: Option<Artifact>,
}

/// What becomes of a work item whose task is not started here.
enum Return {
    /// The log proves that nobody needs it any more.
    Ack,
    /// It is runnable, now or later; or nothing is proven.
    Nak(Duration),
    /// Somebody else holds it: whatever we said of it would touch their lease.
    Leave,
}

impl Worker {
    /// Starts the task of a work item, or gives the item its due and returns none.
    pub async fn begin(&self, lease: Lease) -> Option<Begun> {
        let (started, checkpoints, finished) = match self.start(&lease).await {
            Ok(begun) => begun,
            Err(what) => {
                self.give_back(lease, what).await;
                return None;
            }
        };
        lease.fence(started.sequence);
        Some(Begun {
            started,
            lease,
            checkpoints,
            finished,
        })
    }

    async fn give_back(&self, lease: Lease, what: Return) {
        let delivery = lease.release().await;
        let said = match what {
            Return::Ack => delivery.ack().await,
            Return::Nak(delay) => delivery.nak(delay).await,
            Return::Leave => Ok(()),
        };
        if let Err(error) = said {
            tracing::debug!(%error, sequence = delivery.sequence, "nak of a work item failed");
        }
    }

    async fn start(
        &self,
        lease: &Lease,
    ) -> Result<(Recorded, Vec<Stored>, Option<Artifact>), Return> {
        let delivery = &lease.delivery;
        let entry = match delivery.recorded() {
            Ok(recorded) => recorded.task,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    sequence = delivery.sequence,
                    "work item cannot be decoded; left to workers of a newer version"
                );
                return Err(Return::Nak(LONGEST_RETRY_DELAY));
            }
        };
        let id = entry.id.clone();
        // Delivered again: somebody has begun before, and may have left checkpoints; the log is read meanwhile.
        let mut again = (delivery.delivered > 1).then_some(&entry);
        // The start that stood when we looked first: its lease has ended. Any later one was made behind our back, by
        // somebody who holds the item now.
        let mut lost = None;
        let mut first_look = true;
        loop {
            let looking = again
                .take()
                .map(|entry| checkpoints::list(&self.store, entry));
            let (last, listed) = tokio::join!(self.log.last(&id), OptionFuture::from(looking));
            let last = match last {
                Ok(Some(last)) if last.sequence >= delivery.sequence => last,
                // Older than what was delivered, or nothing: a replica that is behind. It proves nothing.
                Ok(last) => {
                    let read = last.map(|last| last.sequence);
                    tracing::warn!(task = %id, read, delivered = delivery.sequence, "log returned an older event than the delivered one");
                    return Err(Return::Nak(AGAIN));
                }
                Err(error) => {
                    tracing::warn!(task = %id, error = chain(&error), "reading the task log failed");
                    return Err(Return::Nak(AGAIN));
                }
            };
            if std::mem::take(&mut first_look) && last.task.running().is_some() {
                lost = Some(last.task.start);
            }
            let ruling = last.task.rule_start(delivery.sequence, ambient::now());
            match ruling {
                StartRuling::Forget => return Err(Return::Ack),
                StartRuling::Wait(rest) => return Err(Return::Nak(rest)),
                StartRuling::DeclareLost if lost != Some(last.task.start) => {
                    tracing::info!(task = %id, "another worker has started the task");
                    return Err(Return::Leave);
                }
                StartRuling::DeclareLost => {
                    // Whoever renders it has lost the server as we had, and renews its lease once it is back.
                    let settled = lease.renewed_within();
                    let up = self.uptime.look();
                    if up < settled {
                        tracing::info!(task = %id, "reconnected a moment ago; leaving the task to the worker that renders it");
                        return Err(Return::Nak(settled - up));
                    }
                }
                StartRuling::Start => {}
            }
            let listed = listed.filter(|_| last.task.round == entry.round);
            let (checkpoints, finished) = match self.left_behind(&last.task, listed).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(task = %id, error = format!("{error:#}"), "reading from storage failed");
                    self.wellness.doubt_storage();
                    return Err(Return::Nak(AGAIN));
                }
            };
            let newest = checkpoints.first().map_or(0, |stored| stored.next_step);
            if ruling == StartRuling::DeclareLost {
                match finished {
                    Some(artifact) => self.complete_for(&last, artifact).await,
                    None => self.declare_lost(&last, newest).await,
                }
                continue;
            }
            let Ok(step) = last
                .task
                .started(&self.name, &self.instance, newest, ambient::now())
            else {
                return Err(Return::Nak(AGAIN));
            };
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
                    return Ok((started, checkpoints, finished));
                }
                Err(AppendError::Conflict(_)) => {}
                Err(error) => {
                    tracing::warn!(task = %id, error = chain(&error), "writing started failed");
                    return Err(Return::Nak(AGAIN));
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
        let mut checkpoints = match listed {
            Some(listed) => listed?,
            None => checkpoints::list(&self.store, task).await?,
        };
        // What was listed by the work item did not know yet what was refused since.
        checkpoints.retain(|stored| stored.fence > task.checkpoints_void_to);
        // One that storage hindered may have stored it without hearing so.
        let finished = match (before.outcome, &before.error) {
            (AttemptOutcome::Interrupted, None) => None,
            _ => finish::find_artifact(&self.store, task).await?,
        };
        Ok((checkpoints, finished))
    }

    /// The worker whose lease has ended had put its video in storage: it is the task's.
    async fn complete_for(&self, last: &Recorded, artifact: Artifact) {
        let Ok(step) = last.task.succeeded(artifact, ambient::now()) else {
            return;
        };
        tracing::warn!(task = %last.task.id, worker = last.task.running().map(|a| a.worker.as_str()), "previous worker lost after it stored the video; recording success");
        // Refused: somebody wrote first, and the next look shows what.
        if let Err(error) = self.log.append(&self.append(step, last.sequence)).await {
            tracing::debug!(task = %last.task.id, error = chain(&error), "writing succeeded failed");
        }
    }

    /// The item came to us although a start of it stands: that worker's lease has ended.
    async fn declare_lost(&self, last: &Recorded, newest_checkpoint: u32) {
        let before = last.task.running().map_or(0, |attempt| attempt.from_step);
        let Ok((event, task)) = last.task.lost(newest_checkpoint > before, ambient::now()) else {
            return;
        };
        tracing::warn!(task = %task.id, worker = last.task.running().map(|a| a.worker.as_str()), "previous worker lost");
        let append = self.append((event, self.scaled(task)), last.sequence);
        // Refused: somebody wrote first, and the next look shows what.
        if let Err(error) = self.log.append(&append).await {
            tracing::debug!(task = %append.task.id, error = chain(&error), "writing lost failed");
        }
    }
}
