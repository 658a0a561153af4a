//! A model pack, as far as an engine without weights needs one: its files, of which some may still be on their way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use spotreel_engine_protocol::{ErrorKind, ErrorReport};

use crate::current::Current;
use crate::recipe::report;

const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Pack {
    late: Vec<PathBuf>,
}

impl Pack {
    /// Holds what should be there by now against the pack's index; hashes are left to others.
    pub fn open(packs: &Path, model: &str, arriving: &[PathBuf]) -> Result<Self, ErrorReport> {
        let dir = packs.join(model);
        let index = dir.join("pack.json");
        let text = fs::read(&index).map_err(|error| broken("no_pack", &index, &error))?;
        let index: Value =
            serde_json::from_slice(&text).map_err(|error| broken("bad_index", &index, &error))?;
        for file in index["files"].as_array().into_iter().flatten() {
            let path = Path::new(file["path"].as_str().unwrap_or_default());
            if arriving.iter().any(|late| late == path) {
                continue;
            }
            let path = dir.join(path);
            let found =
                fs::metadata(&path).map_err(|error| broken("missing_file", &path, &error))?;
            if Some(found.len()) != file["bytes"].as_u64() {
                return Err(broken("truncated", &path, &"its length is another"));
            }
        }
        Ok(Self {
            late: arriving.iter().map(|path| dir.join(path)).collect(),
        })
    }

    pub fn is_whole(&self) -> bool {
        self.late.iter().all(|path| path.exists())
    }

    /// Waits for what is late; the worker sees to it that it comes, or ends the render.
    pub fn wait(&self, current: &Current) -> Result<(), ErrorReport> {
        while !self.is_whole() {
            current.wait_until(Instant::now() + LOOK_EVERY)?;
        }
        Ok(())
    }
}

fn broken(code: &str, path: &Path, why: &dyn ToString) -> ErrorReport {
    let message = format!("{}: {}", path.display(), why.to_string());
    report(ErrorKind::Model, code, &message)
}
