//! A body on its way to disk: counted, hashed, and compared with everything the sender claimed about it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt;
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{self, StreamingBlob};
use s3s::{S3Result, TrailingHeaders, s3_error};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::answer::internal;
use super::blob::{Checksums, TempFile};
use crate::clock;

/// Large enough that a 16 MiB body takes few system calls.
const BUFFER: usize = 256 * 1024;

/// What the sender says about the body; trailers say the rest once it has been read.
pub(crate) struct Claims {
    pub length: Option<i64>,
    pub md5: Option<String>,
    pub algorithm: Option<String>,
    pub checksums: Checksums,
    pub trailers: Option<TrailingHeaders>,
    /// `x-amz-trailer`: which checksum will follow the body.
    pub announced: Option<String>,
}

pub(crate) struct Received {
    pub temp: TempFile,
    pub bytes: u64,
    pub md5: [u8; 16],
    pub checksums: Checksums,
}

impl Received {
    pub fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

pub(crate) fn announced(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-amz-trailer")?.to_str().ok()?;
    Some(value.to_ascii_lowercase())
}

pub(crate) async fn receive(
    incoming: &Path,
    body: Option<StreamingBlob>,
    claims: Claims,
) -> S3Result<Received> {
    let created = TempFile::create(incoming.join(clock::unique())).await;
    let (temp, file) = created.map_err(internal)?;
    let mut writer = BufWriter::with_capacity(BUFFER, file);
    let mut md5 = Md5::new();
    let mut hasher = hasher(&claims)?;
    let mut bytes = 0u64;
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(refused_body)?;
            md5.update(&chunk);
            hasher.update(&chunk);
            bytes += chunk.len() as u64;
            writer.write_all(&chunk).await.map_err(internal)?;
        }
    }
    writer.flush().await.map_err(internal)?;

    if let Some(length) = claims.length
        && u64::try_from(length).ok() != Some(bytes)
    {
        return Err(s3_error!(
            IncompleteBody,
            "{bytes} bytes came, {length} were announced"
        ));
    }
    let md5 = md5.finalize();
    if let Some(claimed) = &claims.md5 {
        let claimed = BASE64
            .decode(claimed)
            .map_err(|_| s3_error!(InvalidDigest))?;
        if claimed != md5 {
            return Err(s3_error!(BadDigest, "Content-MD5 does not match the body"));
        }
    }
    let checksums = from_dto(hasher.finalize());
    compare(&checksums, claims)?;
    Ok(Received {
        temp,
        bytes,
        md5,
        checksums,
    })
}

/// A body that breaks off is the sender's; a signature or length that does not fit has its own words already.
fn refused_body(error: s3s::StdError) -> s3s::S3Error {
    match error.downcast::<s3s::S3Error>() {
        Ok(error) => *error,
        Err(error) => s3s::S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error),
    }
}

fn hasher(claims: &Claims) -> S3Result<ChecksumHasher> {
    let algorithm = claims.algorithm.as_deref().unwrap_or("");
    let announced = claims.announced.as_deref().unwrap_or("");
    let wanted = |name: &str, claimed: &Option<String>| {
        let trailer = announced == format!("x-amz-checksum-{}", name.to_ascii_lowercase());
        claimed.is_some() || algorithm == name || trailer
    };
    if !["", "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"].contains(&algorithm) {
        return Err(s3_error!(NotImplemented, "checksum algorithm {algorithm}"));
    }
    let claimed = &claims.checksums;
    Ok(ChecksumHasher {
        crc32: wanted("CRC32", &claimed.crc32).then(Default::default),
        crc32c: wanted("CRC32C", &claimed.crc32c).then(Default::default),
        crc64nvme: wanted("CRC64NVME", &claimed.crc64nvme).then(Default::default),
        sha1: wanted("SHA1", &claimed.sha1).then(Default::default),
        sha256: wanted("SHA256", &claimed.sha256).then(Default::default),
    })
}

pub(crate) fn from_dto(sums: dto::Checksum) -> Checksums {
    Checksums {
        crc32: sums.checksum_crc32,
        crc32c: sums.checksum_crc32c,
        crc64nvme: sums.checksum_crc64nvme,
        sha1: sums.checksum_sha1,
        sha256: sums.checksum_sha256,
        composite: false,
    }
}

fn compare(computed: &Checksums, claims: Claims) -> S3Result<()> {
    let trailers = claims
        .trailers
        .and_then(|trailers| trailers.take())
        .unwrap_or_default();
    let late = |name: &str| -> Option<String> {
        Some(
            trailers
                .get(name)?
                .to_str()
                .unwrap_or("unreadable")
                .to_owned(),
        )
    };
    if let Some(name) = &claims.announced
        && name.starts_with("x-amz-checksum-")
        && !trailers.contains_key(name.as_str())
    {
        return Err(s3_error!(
            InvalidRequest,
            "{name} was announced and did not come"
        ));
    }
    let claimed = claims.checksums;
    let pairs = [
        ("x-amz-checksum-crc32", claimed.crc32, &computed.crc32),
        ("x-amz-checksum-crc32c", claimed.crc32c, &computed.crc32c),
        (
            "x-amz-checksum-crc64nvme",
            claimed.crc64nvme,
            &computed.crc64nvme,
        ),
        ("x-amz-checksum-sha1", claimed.sha1, &computed.sha1),
        ("x-amz-checksum-sha256", claimed.sha256, &computed.sha256),
    ];
    for (name, claimed, computed) in pairs {
        let Some(claimed) = claimed.or_else(|| late(name)) else {
            continue;
        };
        if Some(&claimed) != computed.as_ref() {
            return Err(s3_error!(
                BadDigest,
                "{name}: {claimed} does not match the body"
            ));
        }
    }
    Ok(())
}
