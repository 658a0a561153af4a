//! `.verified`: which files were hashed and found right, and how they looked then.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{INDEX, Pack, PackError, PackFile};

const MARKER: &str = ".verified";

/// Of a file that looks as noted, the hash need not be computed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The hash of pack.json.
    pack: String,
    files: BTreeMap<String, Look>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    bytes: u64,
    modified_ns: i64,
}

impl Look {
    fn at(path: &Path) -> std::io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            bytes: found.len(),
            modified_ns: found.mtime() * 1_000_000_000 + found.mtime_nsec(),
        })
    }
}

impl Marker {
    /// What stands beside the pack; nothing if that is of another pack, or unreadable.
    pub fn of(pack: &Pack) -> Self {
        let text = fs::read(pack.dir.join(MARKER));
        let read = text
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        read.filter(|marker: &Self| marker.pack == pack.sha256)
            .unwrap_or_else(|| Self {
                pack: pack.sha256.clone(),
                files: BTreeMap::new(),
            })
    }

    /// Whether this file was found right and has not changed since.
    pub fn holds(&self, pack: &Pack, file: &PackFile) -> bool {
        let Some(noted) = self.files.get(&file.path) else {
            return false;
        };
        let looks = Look::at(&pack.path(file));
        looks.is_ok_and(|look| look == *noted && look.bytes == file.bytes)
    }

    /// Notes a file whose hash is known to be right.
    pub(crate) fn note(&mut self, pack: &Pack, file: &PackFile) -> Result<(), PackError> {
        let path = pack.path(file);
        let look = Look::at(&path).map_err(PackError::unreadable(path))?;
        self.files.insert(file.path.clone(), look);
        Ok(())
    }

    pub(crate) fn save(&self, pack: &Pack) -> Result<(), PackError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        replace(&pack.dir.join(MARKER), &text)
    }
}

impl Pack {
    /// Whether every file was found right once and has not changed since. Hashes nothing.
    pub fn is_verified(&self) -> bool {
        let marker = Marker::of(self);
        let mut files = self.index.files.iter();
        files.all(|file| marker.holds(self, file))
    }
}

/// Writes a small file as a whole.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), PackError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let written = fs::write(part, text).and_then(|()| fs::rename(part, path));
    written.map_err(PackError::unwritable(path))
}

/// Makes a pack of files that change none.
pub(crate) fn clear(dir: &Path) -> Result<(), PackError> {
    for name in [INDEX, MARKER] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PackError::unwritable(path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
