//! What of a pack is on this disk already, and what is to be fetched.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use spotreel_domain::model::Model;

use crate::index::PART;
use crate::marker::Marker;
use crate::verify::check;
use crate::{Pack, PackError, PackFile};

/// What becomes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Under its final name, with the right hash.
    Whole,
    /// Number of bytes in its part file.
    Part(u64),
}

/// Files of other packs whose hash is known.
pub(crate) struct Siblings(HashMap<String, PathBuf>);

impl Siblings {
    /// Those in `packs`. The pack's own older version counts too.
    pub fn of(packs: &Path, pack: &Pack) -> Self {
        let mut found = HashMap::new();
        for model in Model::ALL {
            let dir = packs.join(model.as_str());
            if dir == pack.dir {
                continue;
            }
            let Ok(other) = Pack::open(&dir) else {
                continue;
            };
            let marker = Marker::of(&other);
            for file in &other.index.files {
                if marker.holds(&other, file) {
                    found.insert(file.sha256.clone(), other.path(file));
                }
            }
        }
        Self(found)
    }

    /// Where disks or file systems cannot link, the file is fetched.
    fn link(&self, file: &PackFile, path: &Path) -> bool {
        let Some(from) = self.0.get(&file.sha256) else {
            return false;
        };
        match fs::hard_link(from, path) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(from = %from.display(), to = %path.display(), %error, "hard link failed");
                false
            }
        }
    }
}

/// Looks for one file, and hashes or links it where that spares the way. Blocks.
pub(crate) fn find(
    pack: &Pack,
    file: &PackFile,
    marker: &Marker,
    siblings: &Siblings,
) -> Result<Found, PackError> {
    if marker.holds(pack, file) {
        return Ok(Found::Whole);
    }
    let path = pack.path(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(PackError::unwritable(folder))?;
    }
    match check(&path, file, |_| ()) {
        Ok(()) => return Ok(Found::Whole),
        Err(PackError::MissingFile { .. }) => {}
        Err(error) => {
            tracing::warn!(error = %spotreel_domain::chain(&error), "file is damaged; downloading it again");
            fs::remove_file(&path).map_err(PackError::unwritable(&path))?;
        }
    }
    if siblings.link(file, &path) {
        return Ok(Found::Whole);
    }
    Ok(Found::Part(part_bytes(&path, file)?))
}

/// What an earlier pull left. More than the file has cannot be a part of it.
fn part_bytes(path: &Path, file: &PackFile) -> Result<u64, PackError> {
    let part = part_of(path);
    match fs::metadata(&part) {
        Ok(found) if found.len() <= file.bytes => Ok(found.len()),
        Ok(_) => {
            fs::remove_file(&part).map_err(PackError::unwritable(&part))?;
            Ok(0)
        }
        Err(_) => Ok(0),
    }
}

pub(crate) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(PART);
    PathBuf::from(name)
}
