//! Who may do what when: each transition takes the state before and gives the event and the state after.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Artifact, Attempt, AttemptOutcome, DECLINED_PER_FAILURE, Event, Failure, FailureKind,
    LONGEST_RETRY_DELAY, LOST_PER_FAILURE, MAX_ATTEMPTS_KEPT, MAX_RETRIES, State, Task, TaskSpec,
    retry_delay,
};
use crate::api_key::Owner;
use crate::id::TaskId;
use crate::model::Lane;
use crate::time::elapsed;

/// A transition that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot be {wanted}")]
pub struct Refused {
    pub state: &'static str,
    pub wanted: &'static str,
}

/// What a worker that was handed a work item has to do with it.
#[derive(Clone, Debug, PartialEq)]
pub enum StartRuling {
    /// The item belongs to no runnable task any more: ack it and forget it.
    Forget,
    /// Too early: hand it back with this delay.
    Wait(Duration),
    /// Free to be started.
    Start,
    /// Another start stands, and its lease has ended: say that it was lost, then look again.
    DeclareLost,
}

pub type Step = (Event, Task);

impl Task {
    pub fn submit(id: TaskId, spec: TaskSpec, content_hash: String, now: Timestamp) -> Step {
        Self::submit_for(None, id, spec, content_hash, now)
    }

    pub fn submit_for(
        owner: Option<Owner>,
        id: TaskId,
        spec: TaskSpec,
        content_hash: String,
        now: Timestamp,
    ) -> Step {
        let task = Self {
            id,
            owner,
            spec,
            content_hash,
            request_digest: None,
            back: false,
            submitted_at: now,
            round: 1,
            entry: 0,
            born: 0,
            previous_entry: 0,
            start: 0,
            failures: 0,
            lost_in_row: 0,
            checkpoints_void_to: 0,
            attempts: Vec::new(),
            attempts_total: 0,
            state: State::Queued { not_before: None },
            at: now,
        };
        (Event::Queued, task)
    }

    pub fn lane(&self) -> Lane {
        Lane {
            priority: self.spec.priority,
            back: self.back,
        }
    }

    /// Only the entry may start its task: anything else that is delivered is a leftover.
    pub fn rule_start(&self, delivered: u64, now: Timestamp) -> StartRuling {
        if self.entry != delivered {
            return StartRuling::Forget;
        }
        match &self.state {
            State::Queued {
                not_before: Some(at),
            } if *at > now => {
                let rest = elapsed(now, *at);
                match rest > LONGEST_RETRY_DELAY {
                    // A clock is wrong, here or where this was written: that is no reason to wait.
                    true => StartRuling::Start,
                    false => StartRuling::Wait(rest),
                }
            }
            State::Queued { .. } => StartRuling::Start,
            State::Started => StartRuling::DeclareLost,
            _ => StartRuling::Forget,
        }
    }

    pub fn started(
        &self,
        worker: &str,
        instance: &str,
        from_step: u32,
        now: Timestamp,
    ) -> Result<Step, Refused> {
        let State::Queued { .. } = self.state else {
            return Err(self.refused("started"));
        };
        let mut task = self.entered(State::Started, now);
        task.attempts.push(Attempt {
            worker: worker.to_owned(),
            instance: instance.to_owned(),
            started_at: now,
            ended_at: None,
            outcome: AttemptOutcome::Running,
            from_step,
            rendering_at: None,
            steps_done: None,
            error: None,
        });
        task.attempts_total = task.attempts_total.saturating_add(1);
        let surplus = task.attempts.len().saturating_sub(MAX_ATTEMPTS_KEPT);
        task.attempts.drain(..surplus);
        Ok((Event::Started, task))
    }

    pub fn succeeded(&self, artifact: Artifact, now: Timestamp) -> Result<Step, Refused> {
        self.end_attempt("succeeded", AttemptOutcome::Succeeded, None, now)
            .map(|task| {
                (
                    Event::Succeeded,
                    Self {
                        state: State::Succeeded { artifact },
                        ..task
                    },
                )
            })
    }

    /// A failure: back in the queue after a delay, or the end of the round.
    pub fn attempt_failed(&self, error: Failure, now: Timestamp) -> Result<Step, Refused> {
        let mut task =
            self.end_attempt("failed", AttemptOutcome::Failed, Some(error.clone()), now)?;
        task.failures = task.failures.saturating_add(1);
        task.lost_in_row = 0;
        if error.kind == FailureKind::Gate {
            // The same latents give the same video.
            task.checkpoints_void_to = task.start;
        }
        Ok(task.after_failure(error, now))
    }

    /// The attempt ended by order: no failure, runnable at once.
    pub fn interrupted(&self, now: Timestamp) -> Result<Step, Refused> {
        let mut task = self.end_attempt("interrupted", AttemptOutcome::Interrupted, None, now)?;
        task.state = State::Queued { not_before: None };
        task.lost_in_row = 0;
        Ok((Event::Interrupted, task))
    }

    /// Handed back because the surroundings fail: storage is away. No failure of the task, however often: it waits a while,
    /// and the workers take nothing before the storage answers.
    pub fn hindered(&self, why: Failure, now: Timestamp) -> Result<Step, Refused> {
        let mut task = self.end_attempt("hindered", AttemptOutcome::Interrupted, Some(why), now)?;
        task.lost_in_row = 0;
        let not_before = now.saturating_add(retry_delay(1)).unwrap_or(Timestamp::MAX);
        task.state = State::Queued {
            not_before: Some(not_before),
        };
        Ok((Event::Interrupted, task))
    }

    /// This worker cannot begin with it, which is no fault of the task: its weights are broken there, or the accelerator
    /// is too small. Another worker has it at once; when that one cannot either, it waits longer and longer. A task that
    /// nobody can render must end: a whole row of such workers counts as a failure.
    pub fn declined(&self, why: Failure, now: Timestamp) -> Result<Step, Refused> {
        let error = Some(why.clone());
        let mut task = self.end_attempt("declined", AttemptOutcome::Interrupted, error, now)?;
        task.lost_in_row = 0;
        let row = task.declined_in_row();
        if row.is_multiple_of(DECLINED_PER_FAILURE) {
            task.failures = task.failures.saturating_add(1);
            return Ok(task.after_failure(why, now));
        }
        let delay = match row {
            1 => Duration::ZERO,
            more => retry_delay(more - 1),
        };
        let not_before = now.saturating_add(delay).unwrap_or(Timestamp::MAX);
        task.state = State::Queued {
            not_before: (!delay.is_zero()).then_some(not_before),
        };
        Ok((Event::Interrupted, task))
    }

    /// The attempt ended without a word. A task that kills its workers must end: the third in a row that left no
    /// newer checkpoint counts as a failure.
    pub fn lost(&self, newer_checkpoint: bool, now: Timestamp) -> Result<Step, Refused> {
        let mut task = self.end_attempt("lost", AttemptOutcome::Lost, None, now)?;
        task.lost_in_row = if newer_checkpoint {
            0
        } else {
            task.lost_in_row.saturating_add(1)
        };
        if task.lost_in_row < LOST_PER_FAILURE {
            task.state = State::Queued { not_before: None };
            return Ok((Event::Lost, task));
        }
        task.lost_in_row = 0;
        task.failures = task.failures.saturating_add(1);
        let error = Failure {
            kind: FailureKind::Lost,
            message: format!(
                "{LOST_PER_FAILURE} workers in a row were lost while they rendered this task"
            ),
        };
        if let Some(last) = task.attempts.last_mut() {
            last.error = Some(error.clone());
        }
        Ok(task.after_failure(error, now))
    }

    pub fn cancelled(&self, now: Timestamp) -> Result<Step, Refused> {
        self.end_early(
            "cancelled",
            State::Cancelled,
            AttemptOutcome::Cancelled,
            now,
        )
        .map(|task| (Event::Cancelled, task))
    }

    pub fn expired(&self, now: Timestamp) -> Result<Step, Refused> {
        self.end_early("expired", State::Expired, AttemptOutcome::Expired, now)
            .map(|task| (Event::Expired, task))
    }

    /// A person's retry of a task that ended without a video: a new round, with a new work item.
    pub fn requeued(&self, now: Timestamp) -> Result<Step, Refused> {
        if !matches!(
            self.state,
            State::Failed { .. } | State::Cancelled | State::Expired
        ) {
            return Err(self.refused("retried"));
        }
        let mut task = self.entered(State::Queued { not_before: None }, now);
        task.round = task.round.saturating_add(1);
        task.previous_entry = self.entry;
        (task.entry, task.start, task.failures, task.lost_in_row) = (0, 0, 0, 0);
        // A deadline that has passed would end the new round at once.
        task.spec.expires_at = task.spec.expires_at.filter(|at| *at > now);
        Ok((Event::Queued, task))
    }

    /// The work item is gone from its queue, and the task has not ended: a new item, in the same round. No failure, and
    /// nothing that was counted is forgotten.
    pub fn restored(&self, now: Timestamp) -> Result<Step, Refused> {
        let state = match &self.state {
            State::Queued { not_before } => State::Queued {
                not_before: *not_before,
            },
            State::Started => State::Queued { not_before: None },
            _ => return Err(self.refused("queued again")),
        };
        let mut task =
            self.entered(state, now)
                .with_attempt_closed(AttemptOutcome::Lost, None, now);
        (task.previous_entry, task.entry) = (self.entry, 0);
        Ok((Event::Queued, task))
    }

    /// At most as many as attempts are kept, which is a multiple of those that make a failure.
    fn declined_in_row(&self) -> u32 {
        let newest_first = self.attempts.iter().rev();
        let reasons = newest_first.map_while(|attempt| match attempt.outcome {
            AttemptOutcome::Interrupted => attempt.error.as_ref(),
            _ => None,
        });
        // Storage that is away says nothing of whether a worker can render the task.
        let row = reasons.filter(|why| why.kind != FailureKind::Storage);
        u32::try_from(row.count()).unwrap_or(u32::MAX)
    }

    fn after_failure(self, error: Failure, now: Timestamp) -> Step {
        if self.failures > MAX_RETRIES || !error.kind.may_be_retried() {
            return (
                Event::Failed,
                Self {
                    state: State::Failed { error },
                    ..self
                },
            );
        }
        // Saturates at the end of time, some 8,000 years from now.
        let not_before = now
            .saturating_add(retry_delay(self.failures))
            .unwrap_or(Timestamp::MAX);
        (
            Event::AttemptFailed,
            Self {
                state: State::Queued {
                    not_before: Some(not_before),
                },
                ..self
            },
        )
    }

    fn end_attempt(
        &self,
        wanted: &'static str,
        outcome: AttemptOutcome,
        error: Option<Failure>,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        let State::Started = self.state else {
            return Err(self.refused(wanted));
        };
        Ok(self
            .entered(self.state.clone(), now)
            .with_attempt_closed(outcome, error, now))
    }

    fn end_early(
        &self,
        wanted: &'static str,
        state: State,
        outcome: AttemptOutcome,
        now: Timestamp,
    ) -> Result<Self, Refused> {
        if self.is_terminal() {
            return Err(self.refused(wanted));
        }
        Ok(self
            .entered(state, now)
            .with_attempt_closed(outcome, None, now))
    }

    fn with_attempt_closed(
        mut self,
        outcome: AttemptOutcome,
        error: Option<Failure>,
        now: Timestamp,
    ) -> Self {
        if let Some(last) = self
            .attempts
            .last_mut()
            .filter(|last| last.outcome == AttemptOutcome::Running)
        {
            (last.outcome, last.ended_at, last.error) = (outcome, Some(now), error);
        }
        self
    }

    fn entered(&self, state: State, now: Timestamp) -> Self {
        Self {
            state,
            at: now,
            ..self.clone()
        }
    }

    fn refused(&self, wanted: &'static str) -> Refused {
        Refused {
            state: self.state.name(),
            wanted,
        }
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
