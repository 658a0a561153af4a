//! Looks at everything, again and again: processes, streams, consumers, files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use futures::TryStreamExt;
use spotreel_bus::names::TASKS;
use spotreel_s3::Store;
use spotreel_tests::harness::process::{self, Sample};

use super::system::Soaked;

pub struct Watch {
    began: Instant,
    processes: Vec<(String, u32)>,
    context: Context,
    store: Store,
    files: PathBuf,
    pub looks: Vec<SoakLook>,
    /// Looks made while work went on; those after it are for what is left.
    pub under_load: usize,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct SoakLook {
    /// Seconds since the start.
    pub at: f64,
    /// None: the process is gone.
    pub processes: BTreeMap<String, Option<Sample>>,
    pub streams: BTreeMap<String, StreamSize>,
    pub objects: BTreeMap<&'static str, usize>,
    /// In the store's directory.
    pub files: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSize {
    pub messages: u64,
    pub bytes: u64,
    pub consumers: usize,
}

impl SoakLook {
    pub fn stream(&self, name: &str) -> StreamSize {
        self.streams.get(name).copied().unwrap_or_default()
    }

    pub fn log_messages(&self) -> u64 {
        self.stream(TASKS).messages
    }
}

/// Where objects lie.
pub const PREFIXES: [&str; 3] = ["renders/", "checkpoints/", "images/"];

impl Watch {
    pub async fn new(soaked: &Soaked) -> Self {
        Self {
            began: Instant::now(),
            processes: Vec::new(),
            context: jetstream::new(soaked.observer.clone()),
            store: soaked.system.cloud.store().await,
            files: soaked.system.cloud.dir(),
            looks: Vec::new(),
            under_load: 0,
        }
    }

    pub fn follow(&mut self, processes: Vec<(String, u32)>) {
        self.processes = processes;
    }

    /// While work goes on.
    pub async fn look(&mut self) {
        self.look_afterwards().await;
        self.under_load = self.looks.len();
    }

    pub async fn look_afterwards(&mut self) {
        let processes = self.processes.iter();
        let processes = processes.map(|(name, id)| (name.clone(), process::sample(*id)));
        let mut look = SoakLook {
            at: self.began.elapsed().as_secs_f64(),
            processes: processes.collect(),
            streams: streams(&self.context).await,
            ..SoakLook::default()
        };
        for prefix in PREFIXES {
            let listed = self.store.list(prefix).await;
            let objects = listed.map_or(0, |objects| objects.len());
            look.objects.insert(prefix, objects);
        }
        look.files = count_files(&self.files);
        self.looks.push(look);
    }

    pub fn last(&self) -> &SoakLook {
        self.looks.last().expect("one look was made at the start")
    }

    /// A line for whoever watches.
    pub fn tell(&self, elapsed: Duration, counts: &BTreeMap<String, u64>) {
        const LINE_EVERY: usize = 10;
        if !self.looks.len().is_multiple_of(LINE_EVERY) {
            return;
        }
        let look = self.last();
        let memory = look.processes.iter().filter_map(|(name, sample)| {
            Some(format!("{name} {:.1}", sample.as_ref()?.resident_mb))
        });
        let memory: Vec<_> = memory.collect();
        println!(
            "{:>5} s: log {}, events {}, objects {:?}; MB: {}; {counts:?}",
            elapsed.as_secs(),
            look.log_messages(),
            look.stream("EVENTS").messages,
            look.objects.values().collect::<Vec<_>>(),
            memory.join(", ")
        );
    }
}

async fn streams(context: &Context) -> BTreeMap<String, StreamSize> {
    let mut all = context.streams();
    let mut found = BTreeMap::new();
    // A server that does not answer shows in the verdicts as streams that are gone.
    while let Ok(Some(info)) = all.try_next().await {
        let size = StreamSize {
            messages: info.state.messages,
            bytes: info.state.bytes,
            consumers: info.state.consumer_count,
        };
        found.insert(info.config.name, size);
    }
    found
}

fn count_files(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_files(&entry.path()),
        Ok(_) => 1,
        // It has just been removed.
        Err(_) => 0,
    };
    entries.map(count).sum()
}
