//! Writing objects, at most once each.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::key::{KeyError, check_key};
use crate::store::SHA256_METADATA;
use crate::{RequestError, Store};

/// Up to here one request: cheaper than a multipart upload's three, and still a try of seconds.
const MAX_SINGLE: u64 = 16 * 1024 * 1024;
/// S3 answers 409 when two conditional writes meet; one of them has won by the next try.
const CONFLICT_TRIES: u32 = 5;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Created,
    /// The key was taken. Perhaps by this very call: if the answer to its first try was lost, the second one finds
    /// the object there. Whoever must know compares [`ObjectInfo::sha256`](crate::ObjectInfo).
    Exists,
}

#[derive(Debug, thiserror::Error)]
pub enum PutFileError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{given:?} is not a SHA-256 in hex")]
    NotSha256 { given: String },
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The file is not, or no longer, the one that was hashed; nothing was written.
    #[error("{} does not have the SHA-256 {sha256}", path.display())]
    Changed { path: PathBuf, sha256: String },
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl PutFileError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PutBytesError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl PutBytesError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

/// An object to be, without its bytes.
pub(crate) struct NewObject<'a> {
    pub key: &'a str,
    pub sha256: [u8; 32],
    pub content_type: &'a str,
    pub metadata: HashMap<String, String>,
    pub if_absent: bool,
}

impl<'a> NewObject<'a> {
    fn new(
        key: &'a str,
        sha256: [u8; 32],
        content_type: &'a str,
        mut metadata: HashMap<String, String>,
    ) -> Self {
        metadata.insert(SHA256_METADATA.to_owned(), hex::encode(sha256));
        Self {
            key,
            sha256,
            content_type,
            metadata,
            if_absent: true,
        }
    }
}

impl Store {
    /// Uploads a file unless the key is taken. `sha256_hex` is what the caller knows about the file; the store
    /// compares, so that a file that changed in between is refused.
    ///
    /// Dropping the future leaves no object. It may leave parts of an unfinished upload, which the bucket's
    /// lifecycle rule removes.
    pub async fn put_file_if_absent(
        &self,
        key: &str,
        path: &Path,
        sha256_hex: &str,
        content_type: &str,
        metadata: HashMap<String, String>,
    ) -> Result<Put, PutFileError> {
        check_key(key)?;
        let mut sha256 = [0; 32];
        hex::decode_to_slice(sha256_hex, &mut sha256).map_err(|_| PutFileError::NotSha256 {
            given: sha256_hex.to_owned(),
        })?;
        let object = NewObject::new(key, sha256, content_type, metadata);
        let unreadable = |source| PutFileError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
        let mut tries = 1;
        loop {
            let put = if bytes <= MAX_SINGLE {
                self.put_small_file(&object, path).await
            } else {
                self.put_large_file(&object, path).await
            };
            match put {
                Err(PutFileError::Request(error))
                    if error.is_conflict() && tries < CONFLICT_TRIES =>
                {
                    tries += 1;
                    tracing::debug!(key, tries, "conflicting write; retrying");
                }
                put => return put,
            }
        }
    }

    async fn put_small_file(
        &self,
        object: &NewObject<'_>,
        path: &Path,
    ) -> Result<Put, PutFileError> {
        let read = tokio::fs::read(path).await;
        let bytes = read.map(Bytes::from).map_err(|source| PutFileError::File {
            path: path.to_owned(),
            source,
        })?;
        match self.put_once(object, bytes).await {
            Err(error) if error.is("BadDigest") => Err(PutFileError::Changed {
                path: path.to_owned(),
                sha256: hex::encode(object.sha256),
            }),
            put => Ok(put?),
        }
    }

    /// Writes a few bytes. With `if_absent` as [`Store::put_file_if_absent`]; without, it replaces what is there.
    pub async fn put_bytes(
        &self,
        key: &str,
        bytes: Bytes,
        content_type: &str,
        if_absent: bool,
        metadata: HashMap<String, String>,
    ) -> Result<Put, PutBytesError> {
        check_key(key)?;
        let sha256 = Sha256::digest(&bytes).into();
        let object = NewObject {
            if_absent,
            ..NewObject::new(key, sha256, content_type, metadata)
        };
        let mut tries = 1;
        loop {
            match self.put_once(&object, bytes.clone()).await {
                Err(error) if error.is_conflict() && tries < CONFLICT_TRIES => tries += 1,
                put => return Ok(put?),
            }
        }
    }

    async fn put_once(&self, object: &NewObject<'_>, bytes: Bytes) -> Result<Put, RequestError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(object.key)
            .content_type(object.content_type)
            .set_metadata(Some(object.metadata.clone()))
            .set_if_none_match(object.if_absent.then(|| "*".to_owned()))
            .checksum_sha256(BASE64.encode(object.sha256))
            .body(ByteStream::from(bytes));
        match request.send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) => match RequestError::new("PutObject", error) {
                error if object.if_absent && error.is_taken() => Ok(Put::Exists),
                error => Err(error),
            },
        }
    }
}
