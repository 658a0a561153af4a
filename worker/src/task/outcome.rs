//! Writes how an attempt ended, and acks or returns its work item.

use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_bus::{AppendError, Delivery, Lease, Recorded};
use spotreel_domain::chain;
use spotreel_domain::task::{Failure, Refused, StartRuling, State};
use spotreel_domain::{Event, Task};

use crate::Worker;
use crate::task::error::Blame;

impl Worker {
    /// The attempt failed. Whose fault it is decides what becomes of the task.
    pub async fn failed(
        &self,
        started: &Recorded,
        delivery: &Delivery,
        blame: Blame,
        why: Failure,
    ) {
        match blame {
            Blame::Task => self.fail(started, delivery, why).await,
            Blame::Worker => self.decline(started, delivery, why).await,
            Blame::Surroundings => self.hinder(started, delivery, why).await,
        }
    }

    /// The attempt failed: back in the queue after a delay, or the end of the task.
    async fn fail(&self, started: &Recorded, delivery: &Delivery, failure: Failure) {
        tracing::warn!(task = %started.task.id, kind = ?failure.kind, error = failure.message, "attempt failed");
        metrics::counter!("spotreel_worker_attempts_total", "outcome" => "failed").increment(1);
        let now = ambient::now();
        let step = started
            .task
            .attempt_failed(failure, now)
            .map(|(event, task)| (event, self.scaled(task)));
        self.end(started, delivery, step).await;
    }

    /// The log has a newer event of the task: another program has decided.
    pub async fn superseded(&self, started: &Recorded, lease: Lease) {
        let last = self.log.last(&started.task.id).await;
        if let Err(error) = &last {
            tracing::warn!(task = %started.task.id, error = chain(error), "reading the task log failed; the work item keeps its lease");
        }
        let delivery = lease.release().await;
        self.let_go(&delivery, last.ok().flatten().as_ref()).await;
    }

    /// Handed back by order: no failure, and another worker has it at once.
    pub async fn interrupt(&self, started: &Recorded, delivery: &Delivery) {
        tracing::info!(task = %started.task.id, "attempt handed back");
        metrics::counter!("spotreel_worker_attempts_total", "outcome" => "interrupted")
            .increment(1);
        self.end(started, delivery, started.task.interrupted(ambient::now()))
            .await;
    }

    /// Handed back because this worker cannot render it: no failure of the task, but not for ever.
    async fn decline(&self, started: &Recorded, delivery: &Delivery, why: Failure) {
        tracing::warn!(task = %started.task.id, kind = ?why.kind, error = why.message, "task declined");
        metrics::counter!("spotreel_worker_attempts_total", "outcome" => "declined").increment(1);
        let step = started.task.declined(why, ambient::now());
        let step = step.map(|(event, task)| (event, self.scaled(task)));
        self.end(started, delivery, step).await;
    }

    /// Handed back because storage fails: no failure of the task, and no attempt of any worker before storage answers.
    async fn hinder(&self, started: &Recorded, delivery: &Delivery, why: Failure) {
        tracing::warn!(task = %started.task.id, error = why.message, "storage failed; task handed back");
        metrics::counter!("spotreel_worker_attempts_total", "outcome" => "hindered").increment(1);
        let step = started.task.hindered(why, ambient::now());
        let step = step.map(|(event, task)| (event, self.scaled(task)));
        self.end(started, delivery, step).await;
    }

    async fn end(
        &self,
        started: &Recorded,
        delivery: &Delivery,
        step: Result<(Event, Task), Refused>,
    ) {
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                return tracing::error!(%error, task = %started.task.id, "ended attempt was not running");
            }
        };
        let after = step.1.clone();
        match self.log.append(&self.append(step, started.sequence)).await {
            Ok(_) => self.return_item(&after, delivery).await,
            Err(AppendError::Conflict(last)) => self.let_go(delivery, last.as_deref()).await,
            // The lease ends by itself, and the next worker finds out.
            Err(error) => {
                tracing::error!(task = %after.id, error = chain(&error), "writing the end of an attempt failed");
            }
        }
    }

    /// Acks the work item of a task that has ended, hands back that of one that goes on.
    pub async fn return_item(&self, after: &Task, delivery: &Delivery) {
        let said = match &after.state {
            State::Queued { not_before } => {
                let rest = not_before
                    .map(|at| at.duration_since(ambient::now()))
                    .unwrap_or_default();
                let rest = Duration::try_from(rest).unwrap_or_default();
                delivery.nak(rest).await
            }
            _ => delivery.ack().await,
        };
        if let Err(error) = said {
            tracing::warn!(task = %after.id, %error, "nak of the work item failed; its lease will expire");
        }
    }

    /// Somebody else decided. The item is acked only if `last`, the newest event as it was read, proves that nobody needs
    /// it: an ack ends the lease of whoever holds it now. Else it is left alone.
    pub async fn let_go(&self, delivery: &Delivery, last: Option<&Recorded>) {
        let forget = last.is_some_and(|last| is_over(last, delivery.sequence));
        metrics::counter!("spotreel_worker_attempts_total", "outcome" => "superseded").increment(1);
        tracing::info!(
            sequence = delivery.sequence,
            forget,
            "lease lost: the task has a newer event"
        );
        if forget && let Err(error) = delivery.ack().await {
            tracing::debug!(%error, "ack of an obsolete work item failed");
        }
    }

    /// Retry delays, shortened in tests.
    pub fn scaled(&self, mut task: Task) -> Task {
        if let State::Queued {
            not_before: Some(at),
        } = &mut task.state
        {
            let delay = Duration::try_from(at.duration_since(task.at)).unwrap_or_default();
            *at = task
                .at
                .saturating_add(delay.mul_f64(self.config.retry.scale))
                .unwrap_or(*at);
        }
        task
    }
}

/// Whether an event as it was read proves that a work item is needed no more: it is not older than the item, and the
/// task has ended or has another item.
fn is_over(last: &Recorded, item: u64) -> bool {
    last.sequence >= item && last.task.rule_start(item, ambient::now()) == StartRuling::Forget
}
