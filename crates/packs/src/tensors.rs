//! The heads of safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};

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

/// One tensor of a file that is to be written.
pub(crate) struct NewTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

/// Length and header of a file with these tensors, one behind the other.
pub(crate) fn header_of(new: impl Iterator<Item = NewTensor>) -> Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let mut tensors = Vec::new();
    for tensor in new {
        let bytes = usize::try_from(tensor.bytes);
        let start = end;
        end += bytes.map_err(|_| SafeTensorError::ValidationOverflow)?;
        let info = TensorInfo {
            dtype: tensor.dtype,
            shape: tensor.shape,
            data_offsets: (start, end),
        };
        tensors.push((tensor.name, info));
    }
    // transformers opens only files that say so.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), tensors)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut all = (header.len() as u64).to_le_bytes().to_vec();
    all.append(&mut header);
    Ok(all)
}
