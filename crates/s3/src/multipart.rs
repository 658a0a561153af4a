//! Files too large for one request: parts in flight together, one object at the end or none.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use sha2::{Digest, Sha256};

use crate::put::{NewObject, Put, PutFileError};
use crate::{RequestError, Store};

/// Small enough to send again without pain, large enough that 10,000 parts make 80 GB.
const PART_SIZE: u64 = 8 * 1024 * 1024;
/// Enough to fill a 10 Gbit/s line at S3's usual rate per connection; 32 MiB of memory.
const PARTS_IN_FLIGHT: usize = 4;

struct Chunk {
    number: i32,
    bytes: Bytes,
    sha256: String,
}

/// Reads a file part by part and hashes the whole on the way.
struct Reader {
    file: File,
    next: i32,
    whole: Sha256,
}

impl Reader {
    fn read(&mut self) -> io::Result<Option<Chunk>> {
        let mut bytes = Vec::new();
        (&mut self.file).take(PART_SIZE).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.whole.update(&bytes);
        let number = self.next;
        self.next += 1;
        Ok(Some(Chunk {
            number,
            sha256: BASE64.encode(Sha256::digest(&bytes)),
            bytes: bytes.into(),
        }))
    }
}

impl Store {
    pub(crate) async fn put_large_file(
        &self,
        object: &NewObject<'_>,
        path: &Path,
    ) -> Result<Put, PutFileError> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(object.key)
            .content_type(object.content_type)
            .set_metadata(Some(object.metadata.clone()))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_type(ChecksumType::Composite)
            .send()
            .await
            .map_err(|error| RequestError::new("CreateMultipartUpload", error))?;
        let upload_id = begun.upload_id.unwrap_or_default();
        let put = match self.send_parts(object, path, &upload_id).await {
            Ok(parts) => self.complete(object, &upload_id, parts).await,
            Err(error) => Err(error),
        };
        // What this misses, a prune or the bucket's lifecycle rule finds.
        if !matches!(put, Ok(Put::Created))
            && let Err(error) = self.abort(object.key, &upload_id).await
        {
            tracing::warn!(key = object.key, upload_id, %error, "incomplete multipart upload could not be aborted");
        }
        put
    }

    async fn send_parts(
        &self,
        object: &NewObject<'_>,
        path: &Path,
        upload_id: &str,
    ) -> Result<Vec<CompletedPart>, PutFileError> {
        let unreadable = |source| PutFileError::File {
            path: path.to_owned(),
            source,
        };
        let file = tokio::fs::File::open(path)
            .await
            .map_err(unreadable)?
            .into_std()
            .await;
        let mut reader = Reader {
            file,
            next: 1,
            whole: Sha256::new(),
        };
        let mut in_flight = FuturesUnordered::new();
        let mut parts = Vec::new();
        loop {
            let chunk;
            (chunk, reader) = tokio::task::spawn_blocking(move || (reader.read(), reader))
                .await
                .map_err(|error| unreadable(io::Error::other(error)))?;
            let Some(chunk) = chunk.map_err(unreadable)? else {
                break;
            };
            if in_flight.len() >= PARTS_IN_FLIGHT {
                parts.extend(in_flight.try_next().await?);
            }
            in_flight.push(self.send_part(object.key, upload_id, chunk));
        }
        while let Some(part) = in_flight.try_next().await? {
            parts.push(part);
        }
        let read: [u8; 32] = reader.whole.finalize().into();
        if read != object.sha256 {
            return Err(PutFileError::Changed {
                path: path.to_owned(),
                sha256: hex::encode(object.sha256),
            });
        }
        parts.sort_by_key(|part| part.part_number);
        Ok(parts)
    }

    async fn send_part(
        &self,
        key: &str,
        upload_id: &str,
        chunk: Chunk,
    ) -> Result<CompletedPart, RequestError> {
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload_id)
            .part_number(chunk.number)
            .checksum_sha256(&chunk.sha256)
            .body(ByteStream::from(chunk.bytes))
            .send()
            .await
            .map_err(|error| RequestError::new("UploadPart", error))?;
        Ok(CompletedPart::builder()
            .part_number(chunk.number)
            .set_e_tag(sent.e_tag)
            .checksum_sha256(chunk.sha256)
            .build())
    }

    async fn complete(
        &self,
        object: &NewObject<'_>,
        upload_id: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<Put, PutFileError> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(object.key)
            .upload_id(upload_id)
            .multipart_upload(parts)
            .set_if_none_match(object.if_absent.then(|| "*".to_owned()));
        let Err(error) = request.send().await else {
            return Ok(Put::Created);
        };
        let error = RequestError::new("CompleteMultipartUpload", error);
        if error.is_taken() {
            return Ok(Put::Exists);
        }
        // The upload is known to nobody else: if it is gone, a try of ours whose answer was lost has completed it.
        if error.is("NoSuchUpload") && self.is_there(object.key).await? {
            return Ok(Put::Exists);
        }
        Err(PutFileError::Request(error))
    }

    async fn is_there(&self, key: &str) -> Result<bool, RequestError> {
        let head = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await;
        match head.map_err(|error| RequestError::new("HeadObject", error)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
