//! Packs in the bucket: a pointer for each model, and blobs by hash.

use std::path::Path;

use spotreel_domain::model::Model;
use spotreel_s3::{GetBytesError, Store};

use crate::index::MAX_INDEX_BYTES;
use crate::{INDEX, Pack, PackError};

/// Where packs lie if nothing else is said.
pub const PREFIX: &str = "models/";

/// The packs of one bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    pub(crate) store: Store,
    prefix: String,
}

/// A pack as the bucket has it now.
#[derive(Clone, Debug)]
pub struct Published {
    /// `dir` is where it was read for; nothing needs to be there.
    pub pack: Pack,
    /// pack.json, byte for byte.
    pub(crate) text: bytes::Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(
        "the bucket {bucket} has no pack of {model}: make one with `spotreel models pack` and `spotreel models push` it"
    )]
    NoPack { bucket: String, model: Model },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("the pack index of {model} cannot be read")]
    Get { model: Model, source: GetBytesError },
}

impl RemoteError {
    /// As of [`PackError`], and `unreachable`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPack { .. } => "no_pack",
            Self::Pack(error) => error.code(),
            Self::Get { .. } => "unreachable",
        }
    }

    /// Whether the same may succeed soon.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Get { source, .. } if source.retryable())
    }
}

impl Remote {
    /// `prefix` ends with a slash; usually [`PREFIX`].
    pub fn new(store: Store, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn pointer(&self, model: Model) -> String {
        format!("{}{model}/{INDEX}", self.prefix)
    }

    pub(crate) fn blob(&self, sha256: &str) -> String {
        format!("{}blobs/{sha256}", self.prefix)
    }

    /// The index that the pointer of the model has now, for a pack that lies or will lie in `dir`.
    pub async fn current(&self, model: Model, dir: &Path) -> Result<Published, RemoteError> {
        let key = self.pointer(model);
        let got = self.store.get_bytes(&key, MAX_INDEX_BYTES).await;
        let text = got.map_err(|source| match source {
            GetBytesError::Missing { .. } => RemoteError::NoPack {
                bucket: self.store.bucket().to_owned(),
                model,
            },
            source => RemoteError::Get { model, source },
        })?;
        let pack = Pack::parse(dir, &text, &key)?.of_model(model)?;
        Ok(Published { pack, text })
    }
    /// A small file of a pack, by its hash.
    pub async fn file(&self, sha256: &str, max: u64) -> Result<bytes::Bytes, GetBytesError> {
        self.store.get_bytes(&self.blob(sha256), max).await
    }
}
