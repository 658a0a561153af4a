//! What lies in the directory: buckets, objects, unfinished uploads.
//!
//! The files are the truth; the maps are read from them at the start and changed together with them under one lock.
//! Under that lock a condition is tested and the file renamed, which makes `If-None-Match: *` atomic.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use s3s::dto::ETagCondition;
use s3s::{S3Result, s3_error};

use super::answer::internal;
use super::blob::{self, Meta, TempFile, file_name};
use super::upload::Upload;

#[derive(Debug)]
pub(crate) struct Index {
    dir: PathBuf,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    /// Held for as long as this process owns the directory.
    _lock: File,
}

#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub objects: BTreeMap<String, Arc<Meta>>,
    pub uploads: BTreeMap<String, Upload>,
}

/// What must hold for a write to happen.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

impl Condition {
    fn test(&self, old: Option<&Meta>) -> S3Result {
        match (&self.if_none_match, old) {
            (Some(ETagCondition::Any), Some(_)) => {
                return Err(s3_error!(PreconditionFailed, "the key is taken"));
            }
            (Some(ETagCondition::ETag(_)), _) => {
                return Err(s3_error!(
                    NotImplemented,
                    "If-None-Match on a write takes only *"
                ));
            }
            _ => {}
        }
        match (&self.if_match, old) {
            (None, _) | (Some(ETagCondition::Any), Some(_)) => Ok(()),
            (Some(_), None) => Err(s3_error!(NoSuchKey)),
            (Some(ETagCondition::ETag(wanted)), Some(old)) if old.etag().strong_cmp(wanted) => {
                Ok(())
            }
            _ => Err(s3_error!(PreconditionFailed, "the ETag is another")),
        }
    }
}

impl Index {
    /// Takes the directory, sweeps what a killed process left half done, and reads the rest.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = File::create(dir.join("lock"))?;
        lock.try_lock().map_err(|error| {
            io::Error::other(format!(
                "{} is used by another process: {error}",
                dir.display()
            ))
        })?;
        let incoming = dir.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&incoming)?,
        }
        fs::create_dir_all(dir.join("buckets"))?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(dir.join("buckets"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            buckets.insert(name, load(&entry.path())?);
        }
        Ok(Self {
            dir: dir.to_owned(),
            buckets: Mutex::new(buckets),
            _lock: lock,
        })
    }

    /// Where bodies are written until they are whole.
    pub fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    pub fn bucket_dir(&self, bucket: &str) -> PathBuf {
        self.dir.join("buckets").join(bucket)
    }

    pub fn upload_dir(&self, bucket: &str, id: &str) -> PathBuf {
        self.bucket_dir(bucket).join("uploads").join(id)
    }

    fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        self.bucket_dir(bucket).join("objects").join(file_name(key))
    }

    pub fn create_bucket(&self, bucket: &str) -> S3Result {
        let mut buckets = self.lock();
        if buckets.contains_key(bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        fs::create_dir_all(self.bucket_dir(bucket).join("objects")).map_err(internal)?;
        fs::create_dir_all(self.bucket_dir(bucket).join("uploads")).map_err(internal)?;
        buckets.insert(bucket.to_owned(), Bucket::default());
        Ok(())
    }

    pub fn delete_bucket(&self, bucket: &str) -> S3Result {
        let mut buckets = self.lock();
        let found = buckets.get(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        if !found.objects.is_empty() || !found.uploads.is_empty() {
            return Err(s3_error!(BucketNotEmpty));
        }
        fs::remove_dir_all(self.bucket_dir(bucket)).map_err(internal)?;
        buckets.remove(bucket);
        Ok(())
    }

    pub fn bucket_names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Looks at one bucket; `look` runs under the lock and stays short.
    pub fn bucket<T>(&self, bucket: &str, look: impl FnOnce(&mut Bucket) -> T) -> S3Result<T> {
        let mut buckets = self.lock();
        let found = buckets
            .get_mut(bucket)
            .ok_or_else(|| s3_error!(NoSuchBucket))?;
        Ok(look(found))
    }

    pub fn head(&self, bucket: &str, key: &str) -> S3Result<Arc<Meta>> {
        self.bucket(bucket, |found| found.objects.get(key).cloned())?
            .ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// The object and its open file: opened under the lock, so that they belong together, and readable to the end
    /// even if the object is replaced meanwhile.
    pub fn open_object(&self, bucket: &str, key: &str) -> S3Result<(Arc<Meta>, File)> {
        let path = self.object_path(bucket, key);
        self.bucket(bucket, |found| {
            let meta = found.objects.get(key).cloned();
            let meta = meta.ok_or_else(|| s3_error!(NoSuchKey))?;
            Ok((meta, File::open(path).map_err(internal)?))
        })?
    }

    /// Puts a sealed file into place if the condition holds.
    pub fn commit(
        &self,
        bucket: &str,
        temp: TempFile,
        meta: Meta,
        condition: &Condition,
    ) -> S3Result {
        let path = self.object_path(bucket, &meta.key);
        self.bucket(bucket, |found| place(found, temp, &path, meta, condition))?
    }

    /// As `commit`, and the upload ends with it: of two that complete it at once one finds it gone.
    pub fn commit_upload(
        &self,
        bucket: &str,
        id: &str,
        temp: TempFile,
        meta: Meta,
        condition: &Condition,
    ) -> S3Result {
        let path = self.object_path(bucket, &meta.key);
        self.bucket(bucket, |found| {
            if !found.uploads.contains_key(id) {
                return Err(s3_error!(NoSuchUpload));
            }
            place(found, temp, &path, meta, condition)?;
            found.uploads.remove(id);
            Ok(())
        })??;
        let _ = fs::remove_dir_all(self.upload_dir(bucket, id)); // a rest is found as an open upload
        Ok(())
    }

    /// Deleting what is not there is a success, as in S3.
    pub fn delete(&self, bucket: &str, key: &str) -> S3Result {
        let path = self.object_path(bucket, key);
        self.bucket(bucket, |found| {
            if found.objects.contains_key(key) {
                fs::remove_file(path).map_err(internal)?;
                found.objects.remove(key);
            }
            Ok(())
        })?
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock()
    }
}

fn place(
    bucket: &mut Bucket,
    temp: TempFile,
    path: &Path,
    meta: Meta,
    condition: &Condition,
) -> S3Result {
    condition.test(bucket.objects.get(&meta.key).map(Arc::as_ref))?;
    temp.rename(path).map_err(internal)?;
    bucket.objects.insert(meta.key.clone(), Arc::new(meta));
    Ok(())
}

fn load(dir: &Path) -> io::Result<Bucket> {
    let mut bucket = Bucket::default();
    // A kill between the directories of a new bucket leaves one of them out.
    fs::create_dir_all(dir.join("objects"))?;
    fs::create_dir_all(dir.join("uploads"))?;
    for entry in fs::read_dir(dir.join("objects"))? {
        let path = entry?.path();
        match blob::read_meta(&path) {
            Ok(meta) => {
                bucket.objects.insert(meta.key.clone(), Arc::new(meta));
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "object file skipped");
            }
        }
    }
    for entry in fs::read_dir(dir.join("uploads"))? {
        let entry = entry?;
        let id = entry.file_name().to_string_lossy().into_owned();
        match Upload::load(&entry.path()) {
            Ok(upload) => {
                bucket.uploads.insert(id, upload);
            }
            // Killed before the upload had a name to the client: nobody can ask for it.
            Err(_) => fs::remove_dir_all(entry.path())?,
        }
    }
    Ok(bucket)
}
