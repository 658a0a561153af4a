//! One file per object: its bytes, then what is known about them, then a footer.
//!
//! Bytes and metadata change in one `rename`, so a `kill -9` leaves the old object or the new one, never a mix. There
//! is no fsync: the promise is about killed processes, not about power cuts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use s3s::dto;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The last bytes of every object file; a file without it was never finished.
const MAGIC: &[u8; 8] = b"SPRTOBJ1";
/// Length of the metadata (u32, big endian) and the magic.
const FOOTER: u64 = 12;
/// S3 itself stops at a few KiB of metadata; this only keeps a damaged file from asking for all memory.
const MAX_META: u32 = 1 << 20;

/// What is known about an object, a part, or an upload's object to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub key: String,
    pub bytes: u64,
    pub etag: String,
    pub modified_ms: u64,
    pub checksum: Checksums,
    pub attributes: Attributes,
}

/// What the writer said about an object, and the reader gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    pub user: BTreeMap<String, String>,
}

/// Base64, as they travel. `composite`: a checksum over the parts' checksums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksums {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    #[serde(default)]
    pub composite: bool,
}

impl Checksums {
    /// `FULL_OBJECT` or `COMPOSITE`, where there is a checksum at all.
    pub fn kind(&self) -> Option<dto::ChecksumType> {
        let any = [
            &self.crc32,
            &self.crc32c,
            &self.crc64nvme,
            &self.sha1,
            &self.sha256,
        ];
        let kind = if self.composite {
            dto::ChecksumType::COMPOSITE
        } else {
            dto::ChecksumType::FULL_OBJECT
        };
        let some = any.iter().any(|sum| sum.is_some());
        some.then(|| dto::ChecksumType::from_static(kind))
    }
}

impl Meta {
    pub fn etag(&self) -> dto::ETag {
        dto::ETag::Strong(self.etag.clone())
    }

    pub fn modified(&self) -> dto::Timestamp {
        timestamp(self.modified_ms)
    }

    pub fn size(&self) -> i64 {
        i64::try_from(self.bytes).unwrap_or(i64::MAX)
    }
}

pub(crate) fn timestamp(ms: u64) -> dto::Timestamp {
    (std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).into()
}

/// The file name of a key: a digest, so that no key escapes its directory or is too long for it.
pub(crate) fn file_name(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// Writes the metadata behind the bytes; after that the file may be renamed into place.
pub(crate) fn seal(path: &Path, meta: &Meta) -> io::Result<()> {
    let json = serde_json::to_vec(meta)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut tail = json;
    tail.extend_from_slice(&length.to_be_bytes());
    tail.extend_from_slice(MAGIC);
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&tail)
}

/// Reads the metadata of a file, and refuses one that was not sealed.
pub(crate) fn read_meta(path: &Path) -> io::Result<Meta> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not a sealed object file");
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let footer_at = length.checked_sub(FOOTER).ok_or_else(damaged)?;
    let mut footer = [0u8; 12];
    file.seek(SeekFrom::Start(footer_at))?;
    file.read_exact(&mut footer)?;
    let [a, b, c, d, magic @ ..] = footer;
    let json_length = u32::from_be_bytes([a, b, c, d]);
    if magic != *MAGIC || json_length > MAX_META {
        return Err(damaged());
    }
    let json_at = footer_at
        .checked_sub(u64::from(json_length))
        .ok_or_else(damaged)?;
    file.seek(SeekFrom::Start(json_at))?;
    let mut json = Vec::new();
    file.take(u64::from(json_length)).read_to_end(&mut json)?;
    let meta: Meta = serde_json::from_slice(&json)?;
    if meta.bytes != json_at {
        return Err(damaged());
    }
    Ok(meta)
}

/// A file that goes away unless it was renamed: whoever fails or is cancelled leaves nothing behind.
#[derive(Debug)]
pub(crate) struct TempFile {
    path: PathBuf,
    kept: bool,
}

impl TempFile {
    /// The file and the way to write it. It is made where nobody can be interrupted: tokio makes a file also for a caller
    /// that has gone meanwhile, and one made after its `TempFile` was dropped would stay.
    pub async fn create(path: PathBuf) -> io::Result<(Self, tokio::fs::File)> {
        let made = tokio::task::spawn_blocking(move || {
            let temp = Self { path, kept: false };
            let file = File::create(temp.path())?;
            Ok::<_, io::Error>((temp, file))
        });
        let (temp, file) = made.await.map_err(io::Error::other)??;
        Ok((temp, tokio::fs::File::from_std(file)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path); // what stays is swept at the next start
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_file_that_its_caller_did_not_wait_for_does_not_stay() {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            // The only thread for files is busy, so the caller goes before the file is there.
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            let given_up = TempFile::create(dir.path().join("1")).now_or_never();
            assert!(given_up.is_none());
            drop(go_on);
            let _ = busy.await;
            // Behind it in the queue of the same thread.
            let _ = tokio::task::spawn_blocking(|| ()).await;
        });
        let left = std::fs::read_dir(dir.path()).expect("it can be read");
        assert_eq!(left.count(), 0);
    }
}
