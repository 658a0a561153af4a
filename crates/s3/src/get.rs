//! Reading objects.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::key::{KeyError, check_key};
use crate::store::SHA256_METADATA;
use crate::{RequestError, Store};

/// The SDK tries a request again, but not a body that breaks off; that is ours.
pub(crate) const BODY_TRIES: u32 = 3;
const WRITE_BUFFER: usize = 256 * 1024;

/// What a HEAD tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub bytes: u64,
    /// In hex, as the writer recorded it; none if someone else wrote the object.
    pub sha256: Option<String>,
    pub metadata: HashMap<String, String>,
    pub last_modified: Option<SystemTime>,
}

#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Debug, thiserror::Error)]
pub enum GetFileError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("object {key} does not exist")]
    Missing { key: String },
    #[error("object {key} has no SHA-256 in its metadata")]
    Unverifiable { key: String },
    /// The stored bytes are not those that were written: nobody can repair that.
    #[error("object {key} has the SHA-256 {found}, not {expected}")]
    Corrupt {
        key: String,
        expected: String,
        found: String,
    },
    #[error("cannot write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Debug, thiserror::Error)]
pub enum GetBytesError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("object {key} does not exist")]
    Missing { key: String },
    #[error("object {key} is larger than {max} bytes")]
    TooLarge { key: String, max: u64 },
    #[error(transparent)]
    Request(#[from] RequestError),
}

macro_rules! retryable_by_request {
    ($($error:ident),*) => {$(
        impl $error {
            pub fn retryable(&self) -> bool {
                matches!(self, Self::Request(request) if request.retryable())
            }
        }
    )*};
}
retryable_by_request!(HeadError, GetFileError, GetBytesError);

impl Store {
    /// None if there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, HeadError> {
        check_key(key)?;
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        match head.map_err(|error| RequestError::new("HeadObject", error)) {
            Ok(head) => Ok(Some(info(
                head.content_length,
                head.metadata,
                head.last_modified,
            ))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(HeadError::Request(error)),
        }
    }

    /// Downloads into `path`; the file appears there whole and verified, or not at all.
    pub async fn get_to_file(&self, key: &str, path: &Path) -> Result<ObjectInfo, GetFileError> {
        check_key(key)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let mut tries = 1;
        let got = loop {
            match self.get_once(key, &partial).await {
                Err(GetFileError::Request(error)) if error.retryable() && tries < BODY_TRIES => {
                    tries += 1;
                    tracing::debug!(key, tries, %error, "download interrupted; retrying");
                }
                got => break got,
            }
        };
        let got = match got {
            Ok(info) => match tokio::fs::rename(&partial, path).await {
                Ok(()) => return Ok(info),
                Err(source) => Err(file_error(path, source)),
            },
            Err(error) => Err(error),
        };
        let _ = tokio::fs::remove_file(&partial).await; // the error at hand says more
        got
    }

    async fn get_once(&self, key: &str, partial: &Path) -> Result<ObjectInfo, GetFileError> {
        let mut got = self
            .begin_get(key)
            .await
            .map_err(|error| match error.is_missing() {
                true => GetFileError::Missing {
                    key: key.to_owned(),
                },
                false => GetFileError::Request(error),
            })?;
        let info = info(got.content_length, got.metadata.take(), got.last_modified);
        let expected = info
            .sha256
            .clone()
            .ok_or_else(|| GetFileError::Unverifiable {
                key: key.to_owned(),
            })?;
        let failed = |source| file_error(partial, source);
        let file = File::create(partial).await.map_err(failed)?;
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
        let mut hasher = Sha256::new();
        while let Some(chunk) = got.body.next().await {
            let chunk = chunk.map_err(|error| RequestError::body("GetObject", &error))?;
            hasher.update(&chunk);
            out.write_all(&chunk).await.map_err(failed)?;
        }
        out.flush().await.map_err(failed)?;
        let found = hex::encode(hasher.finalize());
        if found != expected {
            return Err(GetFileError::Corrupt {
                key: key.to_owned(),
                expected,
                found,
            });
        }
        Ok(info)
    }

    /// A small object, in memory; more than `max` bytes are refused, whatever the store says the size is.
    pub async fn get_bytes(&self, key: &str, max: u64) -> Result<Bytes, GetBytesError> {
        check_key(key)?;
        let mut tries = 1;
        loop {
            match self.get_bytes_once(key, max).await {
                Err(GetBytesError::Request(error)) if error.retryable() && tries < BODY_TRIES => {
                    tries += 1;
                }
                got => return got,
            }
        }
    }

    async fn get_bytes_once(&self, key: &str, max: u64) -> Result<Bytes, GetBytesError> {
        let mut got = self
            .begin_get(key)
            .await
            .map_err(|error| match error.is_missing() {
                true => GetBytesError::Missing {
                    key: key.to_owned(),
                },
                false => GetBytesError::Request(error),
            })?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = got.body.next().await {
            let chunk = chunk.map_err(|error| RequestError::body("GetObject", &error))?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > max {
                let key = key.to_owned();
                return Err(GetBytesError::TooLarge { key, max });
            }
        }
        Ok(bytes.freeze())
    }

    async fn begin_get(&self, key: &str) -> Result<GetObjectOutput, RequestError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        request
            .send()
            .await
            .map_err(|error| RequestError::new("GetObject", error))
    }
}

fn info(
    bytes: Option<i64>,
    metadata: Option<HashMap<String, String>>,
    last_modified: Option<DateTime>,
) -> ObjectInfo {
    let metadata = metadata.unwrap_or_default();
    ObjectInfo {
        bytes: bytes
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0),
        sha256: metadata.get(SHA256_METADATA).cloned(),
        metadata,
        last_modified: last_modified.and_then(|at| SystemTime::try_from(at).ok()),
    }
}

fn file_error(path: &Path, source: io::Error) -> GetFileError {
    GetFileError::File {
        path: path.to_owned(),
        source,
    }
}
