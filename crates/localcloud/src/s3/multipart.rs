//! The operations of a multipart upload.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::answer::{Answer, internal, refuse_unsupported};
use super::blob::{self, Attributes, Checksums, Meta};
use super::incoming::{self, Claims};
use super::index::{Bucket, Condition, Index};
use super::upload::{self, Begun, MAX_PARTS, Part as StoredPart, Upload};
use crate::clock;

/// S3's own ceiling for a page of parts or uploads.
const MAX_PAGE: usize = 1000;

/// An upload belongs to one bucket and one key.
fn find<'a>(bucket: &'a mut Bucket, key: &str, id: &str) -> S3Result<&'a mut Upload> {
    let found = bucket
        .uploads
        .get_mut(id)
        .filter(|upload| upload.begun.key == key);
    found.ok_or_else(|| s3_error!(NoSuchUpload))
}

pub(super) fn create(
    index: &Index,
    req: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
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
    ])?;
    index.bucket(&input.bucket, |_| ())?;
    let full = |kind: &ChecksumType| kind.as_str() == ChecksumType::FULL_OBJECT;
    let begun = Begun {
        key: input.key,
        attributes: Attributes {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            user: input.metadata.unwrap_or_default().into_iter().collect(),
        },
        algorithm: input
            .checksum_algorithm
            .as_ref()
            .map(|name| name.as_str().to_owned()),
        full_object: input.checksum_type.as_ref().is_some_and(full),
        begun_ms: clock::now_ms(),
    };
    let id = clock::unique();
    Upload::save(&index.upload_dir(&input.bucket, &id), &begun).map_err(internal)?;
    let output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(begun.key.clone()),
        upload_id: Some(id.clone()),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    };
    let parts = Default::default();
    let upload = Upload { begun, parts };
    index.bucket(&input.bucket, |bucket| bucket.uploads.insert(id, upload))?;
    Ok(S3Response::new(output))
}

pub(super) async fn part(
    index: &Index,
    req: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let input = req.input;
    let number = input.part_number;
    if !(1..=MAX_PARTS).contains(&number) {
        return Err(s3_error!(
            InvalidArgument,
            "part numbers go from 1 to {MAX_PARTS}"
        ));
    }
    let begun = index.bucket(&input.bucket, |bucket| {
        find(bucket, &input.key, &input.upload_id).map(|upload| upload.begun.clone())
    })??;
    let algorithm = input
        .checksum_algorithm
        .map(|name| name.as_str().to_owned());
    let claims = Claims {
        length: input.content_length,
        md5: input.content_md5,
        algorithm: algorithm.or(begun.algorithm),
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
        key: begun.key,
        bytes: received.bytes,
        etag: received.etag(),
        modified_ms: clock::now_ms(),
        checksum: received.checksums,
        attributes: Attributes::default(),
    };
    blob::seal(received.temp.path(), &meta).map_err(internal)?;
    let sums = meta.checksum.clone();
    let output = UploadPartOutput {
        e_tag: Some(meta.etag()),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..Default::default()
    };
    let dir = index.upload_dir(&input.bucket, &input.upload_id);
    index.bucket(&input.bucket, |bucket| {
        let upload = find(bucket, &input.key, &input.upload_id)?;
        let path = Upload::part_path(&dir, number);
        received.temp.rename(&path).map_err(internal)?;
        let meta = Arc::new(meta);
        if let Some(old) = upload.parts.insert(number, StoredPart { meta, path }) {
            let _ = std::fs::remove_file(old.path); // a rest goes with the upload
        }
        Ok::<_, s3s::S3Error>(())
    })??;
    Ok(S3Response::new(output))
}

pub(super) async fn complete(
    index: &Index,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    let input = req.input;
    let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
    let named = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    let (begun, parts) = index.bucket(&bucket, |bucket| {
        let upload = find(bucket, &key, &id)?;
        Ok::<_, s3s::S3Error>((upload.begun.clone(), upload.choose(&named)?))
    })??;
    let (temp, meta) = upload::join(&index.incoming(), &begun, &parts).await?;
    let sums = meta.checksum.clone();
    let claims = [
        (input.checksum_crc32, &sums.crc32),
        (input.checksum_crc32c, &sums.crc32c),
        (input.checksum_crc64nvme, &sums.crc64nvme),
        (input.checksum_sha1, &sums.sha1),
        (input.checksum_sha256, &sums.sha256),
    ];
    if claims
        .iter()
        .any(|(claim, have)| claim.is_some() && claim != *have)
    {
        return Err(s3_error!(
            BadDigest,
            "the checksum of the whole object is another"
        ));
    }
    let output = CompleteMultipartUploadOutput {
        bucket: Some(bucket.clone()),
        key: Some(key.clone()),
        location: Some(format!("/{bucket}/{key}")),
        e_tag: Some(meta.etag()),
        checksum_type: sums.kind(),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..Default::default()
    };
    let condition = Condition {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
    };
    index.commit_upload(&bucket, &id, temp, meta, &condition)?;
    Ok(S3Response::new(output))
}

pub(super) fn abort(
    index: &Index,
    req: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    let input = req.input;
    index.bucket(&input.bucket, |bucket| {
        find(bucket, &input.key, &input.upload_id)?;
        bucket.uploads.remove(&input.upload_id);
        let dir = index.upload_dir(&input.bucket, &input.upload_id);
        std::fs::remove_dir_all(dir).map_err(internal)
    })??;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) fn list_parts(index: &Index, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
    let input = req.input;
    let max = page_size(input.max_parts)?;
    let after = input.part_number_marker.unwrap_or(0);
    let (parts, more) = index.bucket(&input.bucket, |bucket| {
        let upload = find(bucket, &input.key, &input.upload_id)?;
        let rest = upload.parts.range(after.saturating_add(1)..);
        let parts: Vec<Part> = rest
            .clone()
            .take(max)
            .map(|(n, part)| listed(*n, part))
            .collect();
        Ok::<_, s3s::S3Error>((parts, rest.count() > max))
    })??;
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        parts: Some(parts),
        is_truncated: Some(more),
        max_parts: i32::try_from(max).ok(),
        part_number_marker: input.part_number_marker,
        ..Default::default()
    }))
}

fn listed(number: i32, part: &StoredPart) -> Part {
    let sums = part.meta.checksum.clone();
    Part {
        part_number: Some(number),
        size: Some(part.meta.size()),
        e_tag: Some(part.meta.etag()),
        last_modified: Some(part.meta.modified()),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
    }
}

pub(super) fn list_uploads(
    index: &Index,
    req: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    let input = req.input;
    refuse_unsupported(&[("delimiter", input.delimiter.is_some())])?;
    let max = page_size(input.max_uploads)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let marker = input
        .key_marker
        .clone()
        .map(|key| (key, input.upload_id_marker.clone()));
    let mut uploads: Vec<(String, String, u64)> = index.bucket(&input.bucket, |bucket| {
        let entry = |(id, upload): (&String, &Upload)| {
            (upload.begun.key.clone(), id.clone(), upload.begun.begun_ms)
        };
        bucket
            .uploads
            .iter()
            .map(entry)
            .filter(|(key, ..)| key.starts_with(&prefix))
            .collect()
    })?;
    if let Some((after, upload)) = marker {
        uploads.retain(|(key, id, _)| match &upload {
            Some(upload) => (key, id) > (&after, upload),
            None => *key > after,
        });
    }
    uploads.sort();
    let more = uploads.len() > max;
    uploads.truncate(max);
    let last = uploads.last().filter(|_| more).cloned();
    let listed = |(key, id, begun_ms)| MultipartUpload {
        key: Some(key),
        upload_id: Some(id),
        initiated: Some(blob::timestamp(begun_ms)),
        ..Default::default()
    };
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: input.prefix,
        key_marker: input.key_marker,
        upload_id_marker: input.upload_id_marker,
        next_key_marker: last.as_ref().map(|(key, ..)| key.clone()),
        next_upload_id_marker: last.map(|(_, id, _)| id),
        is_truncated: Some(more),
        max_uploads: i32::try_from(max).ok(),
        uploads: Some(uploads.into_iter().map(listed).collect()),
        ..Default::default()
    }))
}

fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = usize::try_from(asked.unwrap_or(1000));
    let asked = asked.map_err(|_| s3_error!(InvalidArgument, "a page has no negative size"))?;
    Ok(asked.clamp(1, MAX_PAGE))
}
