//! Whole objects: put, get, head, copy, delete, list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::answer::{Answer, internal, refuse_unsupported};
use super::blob::{self, Attributes, Checksums, Meta, TempFile};
use super::incoming::{self, Claims};
use super::index::{Condition, Index};
use super::listing::{self, Query};
use crate::clock;

const READ_BUFFER: usize = 256 * 1024;

pub(super) async fn put(index: &Index, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
    let input = req.input;
    refuse_unsupported(&[
        ("tagging", input.tagging.is_some()),
        (
            "customer encryption",
            input.sse_customer_algorithm.is_some(),
        ),
        (
            "server-side encryption",
            input.server_side_encryption.is_some(),
        ),
        ("object lock", input.object_lock_mode.is_some()),
        ("write offset", input.write_offset_bytes.is_some()),
    ])?;
    index.bucket(&input.bucket, |_| ())?; // before the body is read
    let claims = Claims {
        length: input.content_length,
        md5: input.content_md5,
        algorithm: input
            .checksum_algorithm
            .map(|name| name.as_str().to_owned()),
        checksums: Checksums {
            crc32: input.checksum_crc32,
            crc32c: input.checksum_crc32c,
            crc64nvme: input.checksum_crc64nvme,
            sha1: input.checksum_sha1,
            sha256: input.checksum_sha256,
            composite: false,
        },
        trailers: req.trailing_headers,
        announced: incoming::announced(&req.headers),
    };
    let received = incoming::receive(&index.incoming(), input.body, claims).await?;
    let meta = Meta {
        key: input.key,
        bytes: received.bytes,
        etag: received.etag(),
        modified_ms: clock::now_ms(),
        checksum: received.checksums,
        attributes: Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            user: input.metadata.unwrap_or_default().into_iter().collect(),
        },
    };
    blob::seal(received.temp.path(), &meta).map_err(internal)?;
    let condition = Condition {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
    };
    let sums = meta.checksum.clone();
    let output = PutObjectOutput {
        e_tag: Some(meta.etag()),
        checksum_type: sums.kind(),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..Default::default()
    };
    index.commit(&input.bucket, received.temp, meta, &condition)?;
    Ok(S3Response::new(output))
}

pub(super) async fn get(index: &Index, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
    let input = req.input;
    refuse_unsupported(&[
        ("partNumber", input.part_number.is_some()),
        ("versionId", input.version_id.is_some()),
    ])?;
    let (meta, file) = index.open_object(&input.bucket, &input.key)?;
    let reader = ReaderConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    reader.test(&meta)?;
    let whole = 0..meta.bytes;
    let range = match input.range {
        Some(range) => range.check(meta.bytes)?,
        None => whole.clone(),
    };
    let ranged = input.range.is_some();
    let length = range.end - range.start;
    let mut file = tokio::fs::File::from_std(file);
    file.seek(std::io::SeekFrom::Start(range.start))
        .await
        .map_err(internal)?;
    let stream = ReaderStream::with_capacity(file.take(length), READ_BUFFER);
    let last = range.end.saturating_sub(1);
    let head = describe(&meta);
    // A checksum of the whole says nothing about a range, and the client would compare it.
    let sums = if ranged {
        Checksums::default()
    } else {
        meta.checksum.clone()
    };
    let output = GetObjectOutput {
        body: Some(StreamingBlob::wrap(stream)),
        content_length: i64::try_from(length).ok(),
        content_range: ranged.then(|| format!("bytes {}-{last}/{}", range.start, meta.bytes)),
        accept_ranges: head.accept_ranges,
        cache_control: head.cache_control,
        checksum_type: sums.kind(),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        content_disposition: input
            .response_content_disposition
            .or(head.content_disposition),
        content_encoding: head.content_encoding,
        content_language: head.content_language,
        content_type: head.content_type,
        e_tag: head.e_tag,
        last_modified: head.last_modified,
        metadata: head.metadata,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub(super) fn head(index: &Index, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
    let input = req.input;
    let meta = index.head(&input.bucket, &input.key)?;
    let reader = ReaderConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    reader.test(&meta)?;
    Ok(S3Response::new(describe(&meta)))
}

fn describe(meta: &Meta) -> HeadObjectOutput {
    let about = meta.attributes.clone();
    let sums = meta.checksum.clone();
    HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        cache_control: about.cache_control,
        checksum_type: sums.kind(),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        content_disposition: about.content_disposition,
        content_encoding: about.content_encoding,
        content_language: about.content_language,
        content_length: Some(meta.size()),
        content_type: about
            .content_type
            .or(Some("binary/octet-stream".to_owned())),
        e_tag: Some(meta.etag()),
        last_modified: Some(meta.modified()),
        metadata: Some(about.user.into_iter().collect()),
        ..Default::default()
    }
}

/// RFC 9110's order: a strong tag wins over a date.
struct ReaderConditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

impl ReaderConditions {
    fn test(self, meta: &Meta) -> S3Result {
        let etag = meta.etag();
        let seconds = blob::timestamp(meta.modified_ms / 1000 * 1000); // HTTP dates have no more
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(ETagCondition::ETag(wanted)), _) if !etag.strong_cmp(wanted) => {
                return Err(s3_error!(PreconditionFailed));
            }
            (None, Some(since)) if seconds > *since => return Err(s3_error!(PreconditionFailed)),
            _ => {}
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(ETagCondition::Any), _) => true,
            (Some(ETagCondition::ETag(known)), _) => etag.weak_cmp(known),
            (None, Some(since)) => seconds <= *since,
            (None, None) => false,
        };
        if !unchanged {
            return Ok(());
        }
        let mut error = s3_error!(NotModified);
        if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", meta.etag)) {
            error.set_headers(HeaderMap::from_iter([(http::header::ETAG, value)]));
        }
        Err(error)
    }
}

pub(super) async fn copy(
    index: &Index,
    req: S3Request<CopyObjectInput>,
) -> Answer<CopyObjectOutput> {
    let input = req.input;
    refuse_unsupported(&[
        ("tagging", input.tagging.is_some()),
        (
            "If-Match on the source",
            input.copy_source_if_match.is_some(),
        ),
        (
            "If-None-Match on the source",
            input.copy_source_if_none_match.is_some(),
        ),
    ])?;
    let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
        return Err(s3_error!(NotImplemented, "access points"));
    };
    index.bucket(&input.bucket, |_| ())?;
    let (old, file) = index.open_object(bucket, key)?;
    let mut meta = Meta::clone(&old);
    meta.key = input.key;
    meta.modified_ms = clock::now_ms();
    let replace = input.metadata_directive.as_ref();
    if replace.is_some_and(|it| it.as_str() == MetadataDirective::REPLACE) {
        meta.attributes = Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            user: input.metadata.unwrap_or_default().into_iter().collect(),
        };
    }
    let created = TempFile::create(index.incoming().join(clock::unique())).await;
    let (temp, mut out) = created.map_err(internal)?;
    let mut source = tokio::fs::File::from_std(file).take(meta.bytes);
    tokio::io::copy(&mut source, &mut out)
        .await
        .map_err(internal)?;
    tokio::io::AsyncWriteExt::flush(&mut out)
        .await
        .map_err(internal)?;
    blob::seal(temp.path(), &meta).map_err(internal)?;
    let result = CopyObjectResult {
        e_tag: Some(meta.etag()),
        last_modified: Some(meta.modified()),
        ..Default::default()
    };
    index.commit(&input.bucket, temp, meta, &Condition::default())?;
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        ..Default::default()
    }))
}

pub(super) fn delete_many(
    index: &Index,
    req: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    let input = req.input;
    let mut deleted = Vec::new();
    for object in input.delete.objects {
        index.delete(&input.bucket, &object.key)?;
        deleted.push(DeletedObject {
            key: Some(object.key),
            ..Default::default()
        });
    }
    let quiet = input.delete.quiet.unwrap_or(false);
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!quiet).then_some(deleted),
        ..Default::default()
    }))
}

pub(super) fn list(
    index: &Index,
    req: S3Request<ListObjectsV2Input>,
) -> Answer<ListObjectsV2Output> {
    let input = req.input;
    let asked = input.max_keys.unwrap_or(1000);
    let max = usize::try_from(asked).map_err(|_| s3_error!(InvalidArgument, "max-keys"))?;
    let resume = match &input.continuation_token {
        None => None,
        Some(token) => {
            let bytes = BASE64.decode(token).ok();
            let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            Some(key.ok_or_else(|| s3_error!(InvalidArgument, "continuation-token"))?)
        }
    };
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input.delimiter.as_deref(),
        start_after: input.start_after.as_deref(),
        resume: resume.as_deref(),
        max: max.min(listing::MAX_KEYS),
    };
    let page = index.bucket(&input.bucket, |bucket| {
        listing::page(&bucket.objects, &query)
    })?;
    let count = page.objects.len() + page.prefixes.len();
    let object = |meta: &Meta| Object {
        key: Some(meta.key.clone()),
        size: Some(meta.size()),
        e_tag: Some(meta.etag()),
        last_modified: Some(meta.modified()),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..Default::default()
    };
    let prefixed = |prefix| CommonPrefix {
        prefix: Some(prefix),
    };
    Ok(S3Response::new(ListObjectsV2Output {
        contents: Some(page.objects.iter().map(|meta| object(meta)).collect()),
        common_prefixes: Some(page.prefixes.into_iter().map(prefixed).collect()),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.map(|key| BASE64.encode(key)),
        key_count: i32::try_from(count).ok(),
        max_keys: Some(asked.min(1000)),
        name: Some(input.bucket),
        prefix: input.prefix,
        delimiter: input.delimiter,
        start_after: input.start_after,
        continuation_token: input.continuation_token,
        ..Default::default()
    }))
}
