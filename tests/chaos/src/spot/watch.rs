//! Eyes on a run: every machine that the cloud ever showed, how many ran at once, and how far each render came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use spotreel_bootstrap::ambient;
use tokio::task::JoinHandle;

use super::market::{Admin, CloudInstance};

const LOOK: Duration = Duration::from_millis(200);

/// What was seen, shared with those who look.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<WatchSeen>>);

#[derive(Clone, Default)]
pub struct WatchSeen {
    pub samples: usize,
    /// As each was seen last.
    pub machines: BTreeMap<String, CloudInstance>,
    /// The most of ours at once that were pending or ran and had no notice, and who they were.
    pub most: (usize, Vec<String>),
    /// By task.
    pub progress: BTreeMap<String, Vec<Said>>,
}

/// A worker's word on its render.
#[derive(Clone, Debug)]
pub struct Said {
    pub at: Timestamp,
    pub worker: String,
    pub step: u32,
}

#[derive(Deserialize)]
struct Progress {
    id: String,
    worker: String,
    step: u32,
}

impl Watch {
    /// Looks until the handles are aborted.
    pub fn begin(&self, admin: Admin, client: Client, orphans: Vec<String>) -> Vec<JoinHandle<()>> {
        let machines = {
            let seen = self.clone();
            async move {
                loop {
                    if let Ok(found) = admin.machines().await {
                        seen.machines(found, &orphans);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        let progress = {
            let seen = self.clone();
            async move {
                let Ok(mut said) = client.subscribe("spotreel.progress.*").await else {
                    return;
                };
                while let Some(message) = said.next().await {
                    if let Ok(progress) = serde_json::from_slice(&message.payload) {
                        seen.progress(progress);
                    }
                }
            }
        };
        vec![tokio::spawn(machines), tokio::spawn(progress)]
    }

    pub fn seen(&self) -> WatchSeen {
        self.lock().clone()
    }

    pub fn machines(&self, found: Vec<CloudInstance>, orphans: &[String]) {
        let mut seen = self.lock();
        seen.samples += 1;
        let counts = |machine: &&CloudInstance| {
            let stays = machine.runs() && machine.notice_at.is_none();
            machine.is_ours() && stays && !orphans.contains(&machine.id)
        };
        let running: Vec<String> = found
            .iter()
            .filter(counts)
            .map(|machine| machine.id.clone())
            .collect();
        if running.len() > seen.most.0 {
            seen.most = (running.len(), running);
        }
        for machine in found {
            seen.machines.insert(machine.id.clone(), machine);
        }
    }

    fn progress(&self, progress: Progress) {
        let Progress { id, worker, step } = progress;
        let at = ambient::now();
        let mut seen = self.lock();
        let said = seen.progress.entry(id).or_default();
        said.push(Said { at, worker, step });
    }

    fn lock(&self) -> MutexGuard<'_, WatchSeen> {
        self.0.lock()
    }
}
