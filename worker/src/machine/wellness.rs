//! Whether this worker can render at all. One that cannot is always free: it would take every task of the queue in turn,
//! so it takes none while its storage or its scratch directory is unwell, and gives itself up when that lasts, or when
//! different tasks fail on it for reasons that are not theirs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use spotreel_bootstrap::Health;
use spotreel_domain::TaskId;
use spotreel_domain::chain;
use spotreel_s3::Store;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Different tasks in a row that were handed back for reasons of this worker or its surroundings. One may be bad luck, two
/// a coincidence.
const HANDED_BACK_AT_MOST: usize = 3;
/// Different tasks in a row whose videos the gate refused. An accelerator that computes wrongly renders black, and so do a
/// few prompts, but hardly this number in a row.
const REFUSED_AT_MOST: usize = 5;
/// Different tasks in a row in the middle of which the engine ended. A task may kill its engine, but hardly this number
/// in a row: host memory is too small, a card has fallen off, a library is broken.
const ENGINES_LOST_AT_MOST: usize = 3;
/// How long the scratch directory may be unusable: longer than a cleaner takes to make room on a full disk.
const SCRATCH_PATIENCE: Duration = Duration::from_secs(30);
/// As much as is written to see whether the scratch directory takes anything: the size of a small checkpoint.
const PROBE_BYTES: usize = 1 << 20;
/// How often storage is asked whether it is there: within the time for which connections to it are kept, so that a task
/// is taken up, and handed back, over one that is open.
const STORE_CHECK: Duration = Duration::from_secs(15);
/// Storage that answers later is as good as away: a checkpoint would take minutes.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How often storage that failed is asked again.
const STORE_CHECK_WHEN_UNWELL: Duration = Duration::from_secs(2);

/// What a look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    Well,
    /// Nothing can be rendered now.
    Unwell,
    /// It has lasted too long.
    GiveUp(&'static str),
}

pub struct Wellness {
    scratch: PathBuf,
    health: Health,
    state: Mutex<WellnessState>,
    /// Storage is to be checked now.
    doubted: Notify,
}

#[derive(Default)]
struct WellnessState {
    storage_fails: bool,
    log_is_full: bool,
    scratch_fails_since: Option<Instant>,
    /// Since a task was last rendered here.
    handed_back: BTreeSet<TaskId>,
    /// Since a video of this worker last passed the gate.
    refused: BTreeSet<TaskId>,
    /// Since a video of this worker last passed the gate.
    engine_lost: BTreeSet<TaskId>,
}

impl Wellness {
    pub fn new(scratch: &Path, health: Health) -> Self {
        Self {
            scratch: scratch.to_owned(),
            health,
            state: Mutex::default(),
            doubted: Notify::new(),
        }
    }

    /// A task was handed back for no reason of its own.
    pub fn handed_back(&self, task: &TaskId) {
        self.state().handed_back.insert(task.clone());
    }

    /// The gate refused the video of a task.
    pub fn refused(&self, task: &TaskId) {
        self.state().refused.insert(task.clone());
    }

    /// The engine ended in the middle of a render.
    pub fn engine_lost(&self, task: &TaskId) {
        self.state().engine_lost.insert(task.clone());
    }

    /// A video passed the gate, and lies in S3.
    pub fn stored(&self) {
        self.rendered();
        let mut state = self.state();
        state.refused.clear();
        state.engine_lost.clear();
    }

    /// Storage did not take or give what a task needed: nothing is taken before a check of it succeeds.
    pub fn doubt_storage(&self) {
        self.state().storage_fails = true;
        self.doubted.notify_one();
    }

    /// What is left of the task log is for the ends of tasks, or is not any more.
    pub fn log_is_full(&self, is_full: bool, percent: u64) {
        let before = std::mem::replace(&mut self.state().log_is_full, is_full);
        match (before, is_full) {
            (false, true) => {
                tracing::warn!(percent, "task log is nearly full: starting no task");
            }
            (true, false) => tracing::info!(percent, "task log has room again"),
            _ => {}
        }
        let checked = match is_full {
            true => Err(format!(
                "{percent} % of the task log is used: no task is started"
            )),
            false => Ok(()),
        };
        self.health.set("task log", checked);
    }

    /// A render has got somewhere: engine, accelerator and scratch directory work.
    pub fn rendered(&self) {
        self.state().handed_back.clear();
    }

    /// Whether this worker may take a task. Writes to the scratch directory.
    pub async fn look(&self) -> Fitness {
        let probe = probe(&self.scratch).await;
        let mut state = self.state();
        state.scratch_fails_since = match &probe {
            Ok(()) => None,
            Err(_) => state.scratch_fails_since.or_else(|| Some(Instant::now())),
        };
        let failing = state.scratch_fails_since.map(|since| since.elapsed());
        let fitness = match failing {
            Some(lasted) if lasted >= SCRATCH_PATIENCE => {
                Fitness::GiveUp("the scratch directory cannot be written")
            }
            _ if state.handed_back.len() >= HANDED_BACK_AT_MOST => {
                Fitness::GiveUp("several tasks in a row failed here for no reason of their own")
            }
            _ if state.refused.len() >= REFUSED_AT_MOST => {
                Fitness::GiveUp("the videos of several tasks in a row were refused here")
            }
            _ if state.engine_lost.len() >= ENGINES_LOST_AT_MOST => {
                Fitness::GiveUp("the engine ended here in the middle of several tasks in a row")
            }
            Some(_) => Fitness::Unwell,
            None if state.storage_fails || state.log_is_full => Fitness::Unwell,
            None => Fitness::Well,
        };
        drop(state);
        self.health.set("scratch", probe);
        fitness
    }

    /// Asks storage again and again whether it is there.
    pub async fn watch_store(&self, store: &Store, stopping: &CancellationToken) {
        loop {
            let checked = match tokio::time::timeout(STORE_ANSWERS_WITHIN, store.check()).await {
                Ok(checked) => checked.map_err(|error| chain(&error)),
                Err(_) => Err(format!("no answer within {STORE_ANSWERS_WITHIN:?}")),
            };
            let fails = checked.is_err();
            self.state().storage_fails = fails;
            self.health.set("store", checked);
            let pause = match fails {
                true => STORE_CHECK_WHEN_UNWELL,
                false => STORE_CHECK,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.doubted.notified() => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, WellnessState> {
        self.state.lock()
    }
}

async fn probe(scratch: &Path) -> Result<(), String> {
    let path = scratch.join(".probe");
    let written = async {
        tokio::fs::write(&path, vec![0; PROBE_BYTES]).await?;
        tokio::fs::remove_file(&path).await
    };
    let shown = scratch.display();
    written
        .await
        .map_err(|error| format!("cannot write to {shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: u32) -> TaskId {
        TaskId::parse(&format!("task-{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_without_scratch_takes_nothing_and_gives_itself_up() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        let wellness = Wellness::new(&scratch, Health::new());
        assert_eq!(wellness.look().await, Fitness::Unwell);
        std::fs::create_dir(&scratch).unwrap();
        assert_eq!(wellness.look().await, Fitness::Well);
        std::fs::remove_dir(&scratch).unwrap();
        assert_eq!(wellness.look().await, Fitness::Unwell);
        tokio::time::advance(SCRATCH_PATIENCE).await;
        assert!(matches!(wellness.look().await, Fitness::GiveUp(_)));
    }

    #[tokio::test]
    async fn a_worker_that_fails_different_tasks_in_a_row_gives_itself_up() {
        let dir = tempfile::tempdir().unwrap();
        let wellness = Wellness::new(dir.path(), Health::new());
        for n in [1, 1, 1, 2, 2] {
            wellness.handed_back(&task(n));
            assert_eq!(wellness.look().await, Fitness::Well);
        }
        wellness.rendered();
        for n in [1, 2] {
            wellness.handed_back(&task(n));
        }
        assert_eq!(wellness.look().await, Fitness::Well);
        wellness.handed_back(&task(3));
        assert!(matches!(wellness.look().await, Fitness::GiveUp(_)));
    }

    #[tokio::test]
    async fn a_worker_whose_engine_ends_in_the_middle_of_different_tasks_gives_itself_up() {
        let dir = tempfile::tempdir().unwrap();
        let wellness = Wellness::new(dir.path(), Health::new());
        for n in [1, 1, 1, 2, 2] {
            wellness.engine_lost(&task(n));
            // It had begun to render.
            wellness.rendered();
            assert_eq!(wellness.look().await, Fitness::Well);
        }
        wellness.stored();
        for n in 1..=3 {
            assert_eq!(wellness.look().await, Fitness::Well);
            wellness.engine_lost(&task(n));
        }
        assert!(matches!(wellness.look().await, Fitness::GiveUp(_)));
    }

    #[tokio::test]
    async fn a_worker_whose_videos_are_refused_one_after_the_other_gives_itself_up() {
        let dir = tempfile::tempdir().unwrap();
        let wellness = Wellness::new(dir.path(), Health::new());
        for n in 1..5 {
            wellness.refused(&task(n));
            // Its steps look as well as those of a healthy one.
            wellness.rendered();
        }
        assert_eq!(wellness.look().await, Fitness::Well);
        wellness.stored();
        for n in 1..=5 {
            assert_eq!(wellness.look().await, Fitness::Well);
            wellness.refused(&task(n));
        }
        assert!(matches!(wellness.look().await, Fitness::GiveUp(_)));
    }
}
