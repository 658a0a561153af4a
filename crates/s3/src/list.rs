//! Many objects: list, delete.

use std::time::SystemTime;

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use crate::key::{KeyError, check_key, check_prefix};
use crate::{RequestError, Store};

/// A listing is held in memory: a hundred thousand entries are some 20 MB. More than that is a question too broad.
pub(crate) const MAX_LISTED: usize = 100_000;
/// S3's own limit for one DeleteObjects.
const DELETE_BATCH: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub bytes: u64,
    pub last_modified: Option<SystemTime>,
}

#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("more than {MAX_LISTED} objects under {prefix:?}")]
    TooMany { prefix: String },
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteManyError {
    /// The store took the batch and kept this one (and perhaps others).
    #[error("object {key} was not deleted: {code}")]
    Kept { key: String, code: String },
    #[error(transparent)]
    Request(#[from] RequestError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeletePrefixError {
    #[error(transparent)]
    List(#[from] ListError),
    #[error(transparent)]
    Delete(#[from] DeleteManyError),
}

impl ListError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

impl DeleteError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

impl DeleteManyError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::Kept { code, .. } => code == "InternalError" || code == "SlowDown",
            Self::Request(request) => request.retryable(),
        }
    }
}

impl DeletePrefixError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::List(list) => list.retryable(),
            Self::Delete(delete) => delete.retryable(),
        }
    }
}

impl Store {
    /// All keys under a prefix, in order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, ListError> {
        check_prefix(prefix)?;
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix);
        let mut pages = request.into_paginator().send();
        let mut listed = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| RequestError::new("ListObjectsV2", error))?;
            for object in page.contents.unwrap_or_default() {
                if listed.len() == MAX_LISTED {
                    let prefix = prefix.to_owned();
                    return Err(ListError::TooMany { prefix });
                }
                let bytes = object.size.and_then(|bytes| u64::try_from(bytes).ok());
                let at = object.last_modified;
                listed.push(ListedObject {
                    key: object.key.unwrap_or_default(),
                    bytes: bytes.unwrap_or(0),
                    last_modified: at.and_then(|at| SystemTime::try_from(at).ok()),
                });
            }
        }
        Ok(listed)
    }

    /// Gone afterwards, whether or not it was there.
    pub async fn delete(&self, key: &str) -> Result<(), DeleteError> {
        check_key(key)?;
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        let sent = request.send().await;
        sent.map_err(|error| RequestError::new("DeleteObject", error))?;
        Ok(())
    }

    /// Deletes everything under a prefix and says how many there were. The empty prefix is refused: a bucket is
    /// emptied by a person.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<usize, DeletePrefixError> {
        check_key(prefix).map_err(ListError::from)?;
        let listed = self.list(prefix).await?;
        self.delete_many(&listed).await?;
        Ok(listed.len())
    }

    /// All of them are gone afterwards; after an error some may be.
    pub async fn delete_many(&self, listed: &[ListedObject]) -> Result<(), DeleteManyError> {
        for batch in listed.chunks(DELETE_BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    async fn delete_batch(&self, batch: &[ListedObject]) -> Result<(), DeleteManyError> {
        let named = |listed: &ListedObject| ObjectIdentifier::builder().key(&listed.key).build();
        let objects: Result<Vec<_>, BuildError> = batch.iter().map(named).collect();
        let delete = objects.and_then(|objects| {
            Delete::builder()
                .set_objects(Some(objects))
                .quiet(true)
                .build()
        });
        let delete = delete.map_err(|error| RequestError::build("DeleteObjects", &error))?;
        let request = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(delete);
        let answer = request.send().await;
        let answer = answer.map_err(|error| RequestError::new("DeleteObjects", error))?;
        match answer.errors.unwrap_or_default().into_iter().next() {
            None => Ok(()),
            Some(kept) => Err(DeleteManyError::Kept {
                key: kept.key.unwrap_or_default(),
                code: kept.code.unwrap_or_default(),
            }),
        }
    }
}
