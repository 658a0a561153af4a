//! Operations on existing tasks: get, list, cancel, retry. The same for NATS and HTTP.

pub mod list;
pub mod progress;

use futures::{StreamExt, TryStreamExt};
use spotreel_api::{ApiError, CancelledMany, ErrorCode, ListQuery, TaskView};
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::{AppendError, Recorded, names};
use spotreel_domain::task::{Event, Refused, State};
use spotreel_domain::{Task, TaskId};

use crate::clock::now;
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

/// Maximum number of lost compare-and-set races in a row; more is no coincidence.
const CAS_TRIES: usize = 16;
/// Tasks that one call cancels at once: enough to keep the log busy, few enough to leave room for others.
const CANCELLED_AT_ONCE: usize = 16;

impl Intake {
    /// The task, with a fresh link to its video.
    pub async fn get(&self, caller: &Caller, id: &TaskId) -> Result<TaskView, ApiError> {
        let last = self.newest(caller, id).await?;
        let view = self.progress.view(&last);
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

    /// Cancels the tasks that the query names and that have not ended: those of one page.
    pub async fn cancel_many(
        &self,
        caller: &Caller,
        query: &ListQuery,
    ) -> Result<CancelledMany, ApiError> {
        let (filter, page) = list::live(self, caller, query).await?;
        let filter = &filter;
        let cancelled = page.tasks.into_iter().map(|found| async move {
            let step = |task: &Task| match filter.fits(task) {
                true => task.cancelled(now()),
                // It has changed since it was found.
                false => Err(Refused {
                    state: task.state.name(),
                    wanted: "cancelled",
                }),
            };
            match self.change(caller, &found.id, None, step).await {
                Ok(task) => {
                    self.forget(&task.id, task.entry).await;
                    Ok(Some(task.id))
                }
                Err(error) if matches!(error.code, ErrorCode::NotAllowed | ErrorCode::NotFound) => {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let cancelled = futures::stream::iter(cancelled).buffered(CANCELLED_AT_ONCE);
        let cancelled: Vec<Option<TaskId>> = cancelled.try_collect().await?;
        let ids: Vec<TaskId> = cancelled.into_iter().flatten().collect();
        Ok(CancelledMany {
            cancelled: ids.len(),
            ids,
            next_cursor: page.next_cursor,
        })
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
        visible(caller, id, last)
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
                // The id may have been freed and taken by another owner meanwhile.
                Err(AppendError::Conflict(newer)) => {
                    last = visible(caller, id, newer.map(|newer| *newer))?;
                }
                Err(failure) => return Err(error::unwritten(&failure)),
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
            tracing::warn!(error = %spotreel_domain::chain(&failure), task = %id, entry, "deleting an old work item failed; the sweeper will delete it");
        }
        let client = self.log.client();
        let _ = client.publish(names::hint(id), "".into()).await;
    }
}

fn visible(caller: &Caller, id: &TaskId, last: Option<Recorded>) -> Result<Recorded, ApiError> {
    last.filter(|last| caller.may_see(&last.task))
        .ok_or_else(|| error::not_found(id))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use spotreel_bus::TaskLog;
    use spotreel_domain::api_key::{Access, KeyId};
    use spotreel_domain::{ApiKey, Model, Owner};
    use spotreel_packs::{PREFIX, Remote};
    use spotreel_s3::{Keys, Store};
    use spotreel_test_kit::{Nats, load_config, tasks};
    use tokio::runtime::Handle;
    use tokio::task::block_in_place;

    use super::progress::Board;
    use super::*;
    use crate::images::Images;
    use crate::submit::commit::Committer;
    use crate::submit::limits::QueueLimits;
    use crate::submit::offers::Offers;
    use crate::{DEFAULTS, IntakeConfig};

    async fn intake(nats: &Nats) -> Intake {
        let config: IntakeConfig = load_config("intake", DEFAULTS, &[]);
        let root = nats.client("provision").await;
        let log = TaskLog::open(&root).await;
        let store = Store::connect_with_keys(&config.s3.store(), Keys::new("a", "b")).await;
        let (committer, committing) = Committer::new(log.clone(), &config.commit);
        tokio::spawn(committing);
        Intake {
            committer,
            offers: Offers::new(Remote::new(store.clone(), PREFIX), config.quality),
            images: Images::new(store, config.s3.link_lasts),
            limits: Arc::new(QueueLimits::new(&root, config.limits).await),
            progress: Board::default(),
            callback_hosts: Default::default(),
            log,
        }
    }

    fn owner(name: &str) -> Owner {
        Owner::parse(name).unwrap()
    }

    /// An owner's first event of the task `t`.
    fn first(name: &str) -> Append {
        let request = tasks::request(Model::Ti2v5b);
        let step = tasks::queued("t", &request, |task| task.owner = Some(owner(name)));
        Append::new(step, 0, ambient::uuid_v4())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_id_that_another_owner_takes_meanwhile_is_not_there_any_more() {
        let nats = Nats::for_services().await;
        let intake = intake(&nats).await;
        let anna = Caller::Key(Arc::new(ApiKey {
            id: KeyId::from_random(1),
            owner: owner("anna"),
            secret_sha256: String::new(),
            access: Access::Own,
            tasks_per_minute: 1,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            note: String::new(),
        }));
        let annas = intake.log.append(&first("anna")).await.unwrap();
        // Between the read and the write the janitor frees the id, and another owner takes it.
        let step = |task: &Task| {
            if task.owner == Some(owner("anna")) {
                block_in_place(|| {
                    Handle::current().block_on(async {
                        intake.log.delete(annas).await.unwrap();
                        intake.log.append(&first("ben")).await.unwrap();
                    });
                });
            }
            task.cancelled(now())
        };
        let id = TaskId::parse("t").unwrap();
        let refused = intake.change(&anna, &id, None, step).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotFound);
        let bens = intake.log.last(&id).await.unwrap().unwrap().task;
        assert_eq!(
            (bens.owner, bens.state.name()),
            (Some(owner("ben")), "queued")
        );
    }
}
