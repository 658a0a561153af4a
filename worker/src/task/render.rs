//! Renders a task: prepares it, has the engine render it, and tries again from an older checkpoint or with less memory.

use std::collections::VecDeque;
use std::path::Path;

use spotreel_bus::{Lease, Recorded};

use crate::engine::protocol::ErrorKind;
use crate::machine::host::Host;
use crate::task::checkpoints::{self, Stored};
use crate::task::follow::{End, Told, follow};
use crate::task::prepare::Prepared;
use crate::{Worker, packs};

/// Renders from the newest checkpoint that the engine takes, or from the beginning; with less memory if it runs out.
/// `told`: how far it comes.
pub async fn render(
    worker: &Worker,
    host: &mut Host,
    started: &Recorded,
    checkpoints: Vec<Stored>,
    lease: &Lease,
    dir: &Path,
    told: &mut Told,
) -> End {
    let task = &started.task;
    let hurried = worker.leave.hurried();
    tokio::pin!(hurried);
    let mut checkpoints = VecDeque::from(checkpoints);
    let mut profile = None;
    loop {
        let superseded = lease.superseded();
        let preparing = Prepared::new(
            worker,
            host,
            started,
            &mut checkpoints,
            profile.as_deref(),
            dir,
        );
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            () = superseded.cancelled() => return End::Superseded,
            // Loading takes minutes, and there is nothing of this attempt to save yet.
            () = &mut hurried => return End::Interrupted,
        };
        let Prepared {
            request,
            resumed_from,
            embeddings,
            late,
        } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                host.misfits.remember(&task.spec, error.too_large());
                return End::Failed(error);
            }
        };
        let mut running = match host.begin(request, &task.spec) {
            Ok(running) => running,
            Err(error) => return End::Failed(error.into()),
        };
        let given_up = packs::given_up(worker.packs.as_ref(), late);
        let end = follow(
            worker,
            started,
            &mut running,
            lease,
            given_up,
            embeddings,
            told,
        )
        .await;
        drop(running);
        let End::Failed(error) = &end else {
            return end;
        };
        let Some(failure) = error
            .engine_failure()
            .filter(|failure| failure.engine_alive)
        else {
            return end;
        };
        match (failure.kind, resumed_from) {
            (ErrorKind::Checkpoint, Some(stored)) => {
                tracing::warn!(task = %task.id, key = stored.key, error = failure.message, "engine refused a checkpoint; trying the one before it");
                checkpoints::remove(&worker.store, &stored).await;
            }
            (ErrorKind::Oom, _) => match host.lower_profile() {
                Some(lower) => {
                    tracing::warn!(task = %task.id, profile = lower, error = failure.message, "out of memory; retrying with a profile that needs less");
                    profile = Some(lower);
                    // This attempt may have got further than those before it.
                    if let Ok(newest) = checkpoints::list(&worker.store, task).await {
                        checkpoints = newest.into();
                    }
                }
                None => {
                    host.misfits.remember(&task.spec, error.too_large());
                    return end;
                }
            },
            _ => return end,
        }
    }
}
