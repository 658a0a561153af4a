//! The heads of safetensors files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

use crate::PackError;

/// The crate's own bound.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Before the header: its length.
pub(crate) const LENGTH_BYTES: u64 = 8;

/// A file's header, and where its data begins.
pub struct Head {
    pub metadata: Metadata,
    pub data_at: u64,
}

/// Reads and checks it: the tensors fill the file, without gaps and without a rest.
pub fn read_head(path: &Path) -> Result<Head, PackError> {
    let bad = |reason: String| PackError::NotSafetensors {
        path: path.to_owned(),
        reason,
    };
    let mut file = File::open(path).map_err(PackError::unreadable(path))?;
    let bytes = file.metadata().map_err(PackError::unreadable(path))?.len();
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return Err(bad("it is shorter than a header".to_owned()));
    }
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(bytes - LENGTH_BYTES) {
        return Err(bad(format!("its header would have {length} bytes")));
    }
    let mut header = Vec::new();
    let read = file.take(length).read_to_end(&mut header);
    read.map_err(PackError::unreadable(path))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))?;
    let data_at = LENGTH_BYTES + length;
    // The header may claim any length at all.
    if data_at.checked_add(metadata.data_len() as u64) != Some(bytes) {
        return Err(bad("its tensors do not fill it".to_owned()));
    }
    Ok(Head { metadata, data_at })
}
