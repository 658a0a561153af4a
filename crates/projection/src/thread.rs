//! The thread that owns the file. SQLite blocks; what waits for it must not.

use std::path::{Path, PathBuf};

use spotreel_api::TaskSearch;
use spotreel_domain::Task;
use spotreel_domain::batch::BatchId;
use tokio::sync::{mpsc, oneshot};

use crate::error::ProjectionError;
use crate::file::Index;
use crate::rows::{LogMark, Size};
use crate::search::Found;

/// Calls that wait for the thread; more wait for a place.
const WAITING: usize = 64;

type Call = Box<dyn FnOnce(&mut Slot) + Send>;

/// The handle. The thread ends with the last one.
#[derive(Clone)]
pub struct Projection {
    calls: mpsc::Sender<Call>,
}

/// The file, once it could be opened.
struct Slot {
    path: PathBuf,
    index: Option<Index>,
}

impl Projection {
    /// Starts the thread. The file is opened by the first call, and again by each call for as long as that fails.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(path: &Path) -> std::io::Result<Self> {
        let (calls, mut waiting) = mpsc::channel::<Call>(WAITING);
        let path = path.to_owned();
        let work = move || {
            let mut slot = Slot { path, index: None };
            while let Some(call) = waiting.blocking_recv() {
                call(&mut slot);
            }
        };
        std::thread::Builder::new()
            .name("search".into())
            .spawn(work)?;
        Ok(Self { calls })
    }

    /// How far the log of this name was read. The file of a log with another identity is thrown away.
    pub async fn mark(
        &self,
        log: &'static str,
        identity: String,
    ) -> Result<LogMark, ProjectionError> {
        self.call(move |slot| {
            if let Some(mark) = slot.run(|index| index.mark(log, &identity))? {
                return Ok(mark);
            }
            slot.anew(&format!("it is of another log {log}"))?;
            let mark = slot.run(|index| index.mark(log, &identity))?;
            Ok(mark.unwrap_or_default())
        })
        .await
    }

    /// Throws the file away.
    pub async fn anew(&self, reason: String) -> Result<(), ProjectionError> {
        self.call(move |slot| slot.anew(&reason)).await
    }

    /// As [`Index::apply_tasks`].
    pub async fn apply_tasks(
        &self,
        log: &'static str,
        states: Vec<(u64, Task)>,
        mark: LogMark,
    ) -> Result<(), ProjectionError> {
        self.call(move |slot| slot.run(|index| index.apply_tasks(log, states, mark)))
            .await
    }

    /// As [`Index::apply_batches`].
    pub async fn apply_batches(
        &self,
        batches: Vec<(BatchId, Vec<String>)>,
        read: Option<(&'static str, LogMark)>,
    ) -> Result<(), ProjectionError> {
        self.call(move |slot| slot.run(|index| index.apply_batches(&batches, read)))
            .await
    }

    /// As [`Index::ended_from`].
    pub async fn ended_from(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<u64>, ProjectionError> {
        self.call(move |slot| slot.run(|index| index.ended_from(sequence, limit)))
            .await
    }

    /// As [`Index::remove`].
    pub async fn remove(&self, ends: Vec<u64>) -> Result<u64, ProjectionError> {
        self.call(move |slot| slot.run(|index| index.remove(&ends)))
            .await
    }

    /// As [`Index::search`].
    pub async fn search(&self, search: TaskSearch) -> Result<Found, ProjectionError> {
        self.call(move |slot| slot.run(|index| index.search(&search)))
            .await
    }

    pub async fn size(&self) -> Result<Size, ProjectionError> {
        self.call(|slot| slot.run(|index| index.size())).await
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Slot) -> Result<T, ProjectionError> + Send + 'static,
    ) -> Result<T, ProjectionError> {
        let (answer, answered) = oneshot::channel();
        // Who asked may have gone away.
        let call = move |slot: &mut Slot| drop(answer.send(work(slot)));
        let sent = self.calls.send(Box::new(call)).await;
        sent.map_err(|_| ProjectionError::Ended)?;
        answered.await.map_err(|_| ProjectionError::Ended)?
    }
}

impl Slot {
    fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Index) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        let index = match &mut self.index {
            Some(index) => index,
            closed => closed.insert(Index::open(&self.path)?),
        };
        let done = work(index);
        if let Err(ProjectionError::Damaged(error)) = &done {
            let reason = format!("it is damaged ({error})");
            self.anew(&reason)?;
        }
        done
    }

    fn anew(&mut self, reason: &str) -> Result<(), ProjectionError> {
        // Closed before it is removed.
        self.index = None;
        self.index = Some(Index::anew(&self.path, reason)?);
        Ok(())
    }
}
