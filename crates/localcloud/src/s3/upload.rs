//! Multipart uploads: parts as sealed files of their own, joined into one object at the end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{CompletedPart, ETag};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

use super::answer::internal;
use super::blob::{self, Attributes, Checksums, Meta, TempFile};
use super::incoming::from_dto;
use crate::clock;

/// S3: every part but the last.
pub(crate) const MIN_PART: u64 = 5 * 1024 * 1024;
/// S3: parts are numbered from 1 to this.
pub(crate) const MAX_PARTS: i32 = 10_000;
const COPY_BUFFER: usize = 256 * 1024;

/// What was said when the upload began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub key: String,
    pub attributes: Attributes,
    pub algorithm: Option<String>,
    /// The checksum is to be one over all bytes, not over the parts' checksums.
    pub full_object: bool,
    pub begun_ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub begun: Begun,
    pub parts: BTreeMap<i32, Part>,
}

#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub meta: Arc<Meta>,
    pub path: PathBuf,
}

impl Upload {
    /// The parts' file names are unique: a part that is sent again never writes over one that is being read.
    pub fn part_path(dir: &Path, number: i32) -> PathBuf {
        dir.join(format!("{number:05}.{}", clock::unique()))
    }

    pub fn save(dir: &Path, begun: &Begun) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("upload.json"), serde_json::to_vec(begun)?)
    }

    pub fn load(dir: &Path) -> io::Result<Self> {
        let begun = serde_json::from_slice(&fs::read(dir.join("upload.json"))?)?;
        let mut parts: BTreeMap<i32, Part> = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name
                .split_once('.')
                .and_then(|(number, _)| number.parse().ok());
            let (Some(number), Ok(meta)) = (number, blob::read_meta(&path)) else {
                continue;
            };
            let newer = |old: &Part| old.meta.modified_ms > meta.modified_ms;
            if !parts.get(&number).is_some_and(newer) {
                let meta = Arc::new(meta);
                parts.insert(number, Part { meta, path });
            }
        }
        Ok(Self { begun, parts })
    }

    /// The parts that the client names, if they are what it thinks they are.
    pub fn choose(&self, named: &[CompletedPart]) -> S3Result<Vec<Part>> {
        if named.is_empty() {
            return Err(s3_error!(MalformedXML, "no parts"));
        }
        let mut chosen = Vec::with_capacity(named.len());
        let mut last = 0;
        for named in named {
            let number = named.part_number.unwrap_or(0);
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let part = self
                .parts
                .get(&number)
                .ok_or_else(|| s3_error!(InvalidPart))?;
            if !named
                .e_tag
                .as_ref()
                .is_some_and(|etag| same(etag, &part.meta.etag))
            {
                return Err(s3_error!(InvalidPart, "part {number} has another ETag"));
            }
            let have = &part.meta.checksum;
            let claims = [
                (&named.checksum_crc32, &have.crc32),
                (&named.checksum_crc32c, &have.crc32c),
                (&named.checksum_crc64nvme, &have.crc64nvme),
                (&named.checksum_sha1, &have.sha1),
                (&named.checksum_sha256, &have.sha256),
            ];
            if claims
                .iter()
                .any(|(claim, have)| claim.is_some() && claim != have)
            {
                return Err(s3_error!(InvalidPart, "part {number} has another checksum"));
            }
            chosen.push(part.clone());
        }
        let all_but_last = &chosen[..chosen.len() - 1];
        if all_but_last.iter().any(|part| part.meta.bytes < MIN_PART) {
            return Err(s3_error!(EntityTooSmall));
        }
        Ok(chosen)
    }
}

fn same(claimed: &ETag, have: &str) -> bool {
    claimed.value() == have
}

/// One file of all the parts, sealed, with the metadata of the object to be.
pub(crate) async fn join(
    incoming: &Path,
    begun: &Begun,
    parts: &[Part],
) -> S3Result<(TempFile, Meta)> {
    let created = TempFile::create(incoming.join(clock::unique())).await;
    let (temp, file) = created.map_err(internal)?;
    let mut out = BufWriter::with_capacity(COPY_BUFFER, file);
    let mut hasher = hasher(begun.algorithm.as_deref().filter(|_| begun.full_object));
    let mut buffer = vec![0u8; COPY_BUFFER];
    for part in parts {
        // A part is gone only if the upload was completed or aborted meanwhile.
        let file = File::open(&part.path)
            .await
            .map_err(|_| s3_error!(NoSuchUpload))?;
        let mut file = file.take(part.meta.bytes);
        loop {
            let read = file.read(&mut buffer).await.map_err(internal)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            out.write_all(&buffer[..read]).await.map_err(internal)?;
        }
    }
    out.flush().await.map_err(internal)?;
    drop(out);
    let checksum = if begun.full_object {
        from_dto(hasher.finalize())
    } else {
        composite(begun.algorithm.as_deref(), parts)
    };
    let meta = Meta {
        key: begun.key.clone(),
        bytes: parts.iter().map(|part| part.meta.bytes).sum(),
        etag: joined_etag(parts),
        modified_ms: clock::now_ms(),
        checksum,
        attributes: begun.attributes.clone(),
    };
    blob::seal(temp.path(), &meta).map_err(internal)?;
    Ok((temp, meta))
}

fn hasher(algorithm: Option<&str>) -> ChecksumHasher {
    let is = |name: &str| algorithm == Some(name);
    ChecksumHasher {
        crc32: is("CRC32").then(Default::default),
        crc32c: is("CRC32C").then(Default::default),
        crc64nvme: is("CRC64NVME").then(Default::default),
        sha1: is("SHA1").then(Default::default),
        sha256: is("SHA256").then(Default::default),
    }
}

/// The checksum of the parts' checksums, with the number of parts behind it; none if a part came without one.
fn composite(algorithm: Option<&str>, parts: &[Part]) -> Checksums {
    let mut hasher = hasher(algorithm);
    for part in parts {
        let sums = &part.meta.checksum;
        let sum = match algorithm {
            Some("CRC32") => &sums.crc32,
            Some("CRC32C") => &sums.crc32c,
            Some("CRC64NVME") => &sums.crc64nvme,
            Some("SHA1") => &sums.sha1,
            Some("SHA256") => &sums.sha256,
            _ => &None,
        };
        let Some(raw) = sum.as_deref().and_then(|sum| BASE64.decode(sum).ok()) else {
            return Checksums::default();
        };
        hasher.update(&raw);
    }
    let counted = |sum: Option<String>| sum.map(|sum| format!("{sum}-{}", parts.len()));
    let sums = from_dto(hasher.finalize());
    Checksums {
        crc32: counted(sums.crc32),
        crc32c: counted(sums.crc32c),
        crc64nvme: counted(sums.crc64nvme),
        sha1: counted(sums.sha1),
        sha256: counted(sums.sha256),
        composite: true,
    }
}

/// S3's ETag of a multipart object: the MD5 of the parts' MD5s and their number.
fn joined_etag(parts: &[Part]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        let etag = part.meta.etag.as_bytes();
        let nibble = |c: u8| char::from(c).to_digit(16).unwrap_or(0);
        let raw = etag
            .chunks(2)
            .map(|pair| nibble(pair[0]) * 16 + nibble(pair[1]));
        let raw: Vec<u8> = raw.map(|byte| u8::try_from(byte).unwrap_or(0)).collect();
        md5.update(&raw);
    }
    format!("{}-{}", hex::encode(md5.finalize()), parts.len())
}
