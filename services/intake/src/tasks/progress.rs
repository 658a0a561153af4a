//! The last progress message of each render, for `get` and `list`.
//!
//! Progress is told on core NATS, to every intake, and kept in memory only: after a restart it is unknown until the
//! render's next step. Nothing is decided by it.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::Client;
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use spotreel_api::{Progress, RenderProgress, TaskView};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{Recorded, names};
use spotreel_domain::TaskId;

/// Tasks of one generation, of which two are kept: more than a fleet renders at a time.
const GENERATION: usize = 5_000;
/// Progress has a few short fields, and a link of which the credentials of an instance make 2 kB.
const MAX_BYTES: usize = 8 << 10;

#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Kept>>);

/// Once the newer half is full, the older one goes: those who render tell of it again and stay.
#[derive(Default)]
struct Kept {
    newer: HashMap<TaskId, Heard>,
    older: HashMap<TaskId, Heard>,
}

struct Heard {
    progress: Progress,
    at: Timestamp,
}

impl Board {
    /// Listens until told to stop.
    pub async fn hear(self, client: Client, ctx: Context) -> anyhow::Result<()> {
        let mut told = client.subscribe(names::ALL_PROGRESS).await?;
        while let Some(Some(message)) = ctx.stopping.run_until_cancelled(told.next()).await {
            if message.payload.len() > MAX_BYTES {
                continue;
            }
            if let Ok(progress) = serde_json::from_slice::<Progress>(&message.payload)
                && message.subject.as_str() == names::progress(&progress.id)
            {
                self.keep(progress, ambient::now());
            }
        }
        Ok(())
    }

    fn keep(&self, progress: Progress, at: Timestamp) {
        let mut kept = self.0.lock();
        if kept.newer.len() >= GENERATION && !kept.newer.contains_key(&progress.id) {
            kept.older = std::mem::take(&mut kept.newer);
        }
        kept.newer
            .insert(progress.id.clone(), Heard { progress, at });
    }

    /// The task as it is answered: while it is rendered, with what its worker told of this very attempt.
    pub fn view(&self, newest: &Recorded) -> TaskView {
        let mut view = TaskView::from(&newest.task);
        if view.state == "started" {
            view.progress = Some(self.of(&view, newest.stored_at).unwrap_or_default());
        }
        view
    }

    /// What this worker told last of the task, and of how many steps.
    pub fn told_by(&self, worker: &str, task: &TaskId) -> Option<(RenderProgress, u32)> {
        let kept = self.0.lock();
        let heard = kept.newer.get(task).or(kept.older.get(task))?;
        let told = Some(&heard.progress).filter(|told| told.worker == worker)?;
        Some((told.into(), told.steps))
    }

    fn of(&self, view: &TaskView, started: Timestamp) -> Option<RenderProgress> {
        let kept = self.0.lock();
        let heard = kept.newer.get(&view.id).or(kept.older.get(&view.id))?;
        let told = &heard.progress;
        // A worker that has lost the task and does not know it yet goes on telling; so would an earlier attempt's words.
        if view.worker.as_ref() != Some(&told.worker) || heard.at < started {
            return None;
        }
        Some(told.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(id: usize) -> Progress {
        Progress {
            id: TaskId::parse(&format!("t{id}")).unwrap(),
            worker: "w".into(),
            phase: "denoise".into(),
            step: 1,
            steps: 50,
            eta_s: None,
            preview_image: None,
        }
    }

    #[test]
    fn the_memory_of_progress_is_bounded_and_keeps_those_who_go_on_telling() {
        let board = Board::default();
        for id in 0..5 * GENERATION {
            board.keep(progress(id), Timestamp::UNIX_EPOCH);
            board.keep(progress(0), Timestamp::UNIX_EPOCH);
        }
        let kept = board.0.lock();
        assert!(kept.newer.len() + kept.older.len() <= 2 * GENERATION);
        assert!(kept.newer.contains_key(&progress(0).id));
    }
}
