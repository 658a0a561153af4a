//! Parts of large objects.

use std::ops::Range;

use bytes::BytesMut;

use crate::get::BODY_TRIES;
use crate::key::{KeyError, check_key};
use crate::{RequestError, Store};

#[derive(Debug, thiserror::Error)]
pub enum GetRangeError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("object {key} does not exist")]
    Missing { key: String },
    #[error("object {key} ends before byte {end}")]
    Short { key: String, end: u64 },
    #[error("the store did not return the requested bytes of {key}")]
    Unranged { key: String },
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl GetRangeError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

impl Store {
    /// These bytes of an object, in memory. A body that breaks off is gone on with from there. They replace what `bytes`
    /// holds: whoever asks for many ranges has buffers of its own, as a fresh one costs as much as reading into it.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        bytes: &mut BytesMut,
    ) -> Result<(), GetRangeError> {
        check_key(key)?;
        bytes.clear();
        let wanted = range.end.saturating_sub(range.start);
        let mut tries = 1;
        while (bytes.len() as u64) < wanted {
            let rest = range.start + bytes.len() as u64..range.end;
            match self.get_rest(key, rest, bytes).await {
                Err(GetRangeError::Request(error)) if error.retryable() && tries < BODY_TRIES => {
                    tries += 1;
                    tracing::debug!(key, tries, %error, "download of a range interrupted; continuing");
                }
                got => got?,
            }
        }
        Ok(())
    }

    async fn get_rest(
        &self,
        key: &str,
        rest: Range<u64>,
        bytes: &mut BytesMut,
    ) -> Result<(), GetRangeError> {
        let key_of = || key.to_owned();
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let request = request.range(format!("bytes={}-{}", rest.start, rest.end - 1));
        let sent = request.send().await;
        let mut got = sent
            .map_err(|error| RequestError::new("GetObject", error))
            .map_err(|error| match error.status {
                _ if error.is_missing() => GetRangeError::Missing { key: key_of() },
                Some(416) => GetRangeError::Short {
                    key: key_of(),
                    end: rest.end,
                },
                _ => GetRangeError::Request(error),
            })?;
        let answered = got.content_range.as_deref().unwrap_or_default();
        if !answered.starts_with(&format!("bytes {}-", rest.start)) {
            return Err(GetRangeError::Unranged { key: key_of() });
        }
        let mut left = rest.end - rest.start;
        while let Some(chunk) = got.body.next().await {
            let chunk = chunk.map_err(|error| RequestError::body("GetObject", &error))?;
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| GetRangeError::Unranged { key: key_of() })?;
            bytes.extend_from_slice(&chunk);
        }
        match left {
            0 => Ok(()),
            _ => Err(GetRangeError::Short {
                key: key_of(),
                end: rest.end,
            }),
        }
    }
}
