//! What can be done with a task that there is: show it, end it, begin it anew. The same for every door.

use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::{AppendError, Recorded, names};
use spotreel_domain::api::{ApiError, TaskView};
use spotreel_domain::task::{Event, Refused, State};
use spotreel_domain::{Task, TaskId};

use crate::caller::Caller;
use crate::error;
use crate::submit::{Intake, now, unwritten};

/// Somebody else wrote first so many times in a row: more is no coincidence.
const CAS_TRIES: usize = 16;

impl Intake {
    /// The task, with a fresh link to its video.
    pub async fn get(&self, caller: &Caller, id: &TaskId) -> Result<TaskView, ApiError> {
        let last = self.newest(caller, id).await?;
        let view = TaskView::from(&last.task);
        Ok(self.images.link(view, ambient::now()).await)
    }

    pub async fn cancel(&self, caller: &Caller, id: &TaskId) -> Result<TaskView, ApiError> {
        let step = |task: &Task| task.cancelled(now());
        let task = self
            .change(caller, id, Some(State::Cancelled), step)
            .await?;
        self.forget(id, task.entry).await;
        Ok(TaskView::from(&task))
    }

    pub async fn retry(&self, caller: &Caller, id: &TaskId) -> Result<TaskView, ApiError> {
        self.limits.pace(1)?;
        let back = self.limits.admit(caller.owner())?;
        // No task is done already: one that is queued was not ended, so there is nothing to retry.
        let step = |task: &Task| {
            let (event, mut task) = task.requeued(now())?;
            task.back = back;
            Ok((event, task))
        };
        let task = self.change(caller, id, None, step).await?;
        self.forget(id, task.previous_entry).await;
        Ok(TaskView::from(&task))
    }

    /// The task's newest event. Somebody else's task is not there.
    pub async fn newest(&self, caller: &Caller, id: &TaskId) -> Result<Recorded, ApiError> {
        let last = self.log.last(id).await;
        let last = last.map_err(|failure| error::unread(&failure))?;
        last.filter(|last| caller.may_see(&last.task))
            .ok_or_else(|| error::not_found(id))
    }

    /// Takes the step by compare-and-set, until it is taken or the state does not allow it. A task that is in `done`
    /// already stays as it is: the same request again gets the same answer.
    async fn change(
        &self,
        caller: &Caller,
        id: &TaskId,
        done: Option<State>,
        step: impl Fn(&Task) -> Result<(Event, Task), Refused>,
    ) -> Result<Task, ApiError> {
        let mut last = self.newest(caller, id).await?;
        for _ in 0..CAS_TRIES {
            if done.as_ref() == Some(&last.task.state) {
                return Ok(last.task);
            }
            let (event, task) =
                step(&last.task).map_err(|refused| error::not_allowed(id, &refused))?;
            let append = Append::new((event, task.clone()), last.sequence, ambient::uuid_v4());
            match self.log.append(&append).await {
                Ok(sequence) => return Ok(task.placed_at(sequence, event)),
                Err(AppendError::Conflict(Some(newer))) => last = *newer,
                Err(AppendError::Conflict(None)) => return Err(error::not_found(id)),
                Err(failure) => return Err(unwritten(&failure)),
            }
        }
        Err(error::unavailable(
            "others change this task at the same moment",
        ))
    }

    /// Takes an old work item out of the log, and tells whoever renders it. Neither must succeed: monitor's sweeper
    /// removes what stays, and a worker reads the log at its next renewal.
    async fn forget(&self, id: &TaskId, entry: u64) {
        if entry != 0
            && let Err(failure) = self.log.delete(entry).await
        {
            tracing::warn!(error = %failure, task = %id, entry, "an old work item stays until it is swept");
        }
        let client = self.log.client();
        let _ = client.publish(names::hint(id), "".into()).await;
    }
}
