//! LoRAs in the bucket: added, listed, removed, and found by what renders with them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use spotreel_domain::model::Model;
use spotreel_domain::task::is_lora_name;
use spotreel_s3::{
    DeletePrefixError, GetBytesError, GetFileError, ListError, PutBytesError, PutFileError,
};
use tokio::task::{JoinError, spawn_blocking};

use super::{
    LORA_FORMAT, LORA_INDEX, LoraError, LoraIndex, MAX_LORA_BYTES, MAX_LORA_INDEX_BYTES,
    PublishedLora, Sizes, StoredLora, rewrite,
};
use crate::index::{MAX_INDEX_BYTES, SAFETENSORS, experts};
use crate::{PackError, Remote, RemoteError};

/// What is added: a file for each transformer, or one for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct AddLora {
    pub name: String,
    pub model: Model,
    pub files: LoraFiles,
    /// What the matrices are multiplied by; needed where a file says no alpha.
    pub strength: Option<f64>,
    /// An empty directory with room for the files.
    pub scratch: PathBuf,
    pub source: Option<String>,
    pub license: Option<String>,
}

/// What the bucket has under the name.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedLora {
    pub lora: PublishedLora,
    /// False: the same model and files were there already, and their index is as it was.
    pub is_new: bool,
}

/// Of the transformer that counts first, which is the only one of ti2v-5B, and of the other one.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFiles {
    pub high: Option<PathBuf>,
    pub low: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoraRemoteError {
    #[error(
        "{name:?} is not a valid LoRA name: use 1 to 64 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
    )]
    Name { name: String },
    #[error("{model} has one transformer only: give one file")]
    OneTransformer { model: Model },
    #[error("no file was given: give --file, or --high and --low")]
    NoFile,
    #[error(
        "the LoRA {name} exists already, for {model} and with other files: remove it first, or use another name"
    )]
    Taken { name: String, model: Model },
    #[error(
        "{} has {bytes} bytes, and a file of a LoRA has at most {} (1 GiB): save it in bfloat16, or with a lower rank",
        path.display(), MAX_LORA_BYTES
    )]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("the bucket {bucket} has no LoRA {name}")]
    Missing { bucket: String, name: String },
    #[error(
        "the sizes of {model}'s layers are in its pack, which cannot be read: push the pack first"
    )]
    Sizes { model: Model, source: RemoteError },
    #[error("{key} cannot be read")]
    Get { key: String, source: GetBytesError },
    #[error("{key} could not be downloaded")]
    Fetch { key: String, source: GetFileError },
    #[error("{key} is not the file that the LoRA was added with")]
    OtherFile { key: String },
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Index(#[from] PackError),
    #[error("{} could not be uploaded", path.display())]
    Put { path: PathBuf, source: PutFileError },
    #[error("the files were uploaded, but not {key}: add the LoRA again")]
    Pointer { key: String, source: PutBytesError },
    #[error("the LoRAs cannot be listed")]
    List(#[from] ListError),
    #[error("not all of the LoRA was removed: remove it again")]
    Remove(#[from] DeletePrefixError),
    #[error("an internal task panicked")]
    Task(#[from] JoinError),
}

impl LoraRemoteError {
    /// Whether the same may succeed soon.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Get { source, .. } => source.retryable(),
            Self::Fetch { source, .. } => source.retryable(),
            Self::Sizes { source, .. } => source.retryable(),
            _ => false,
        }
    }
}

impl Remote {
    /// Checks the files against the model's pack, sends them, and then the index that names them. What is there under the
    /// name stays as it is: tasks that wait name its hash.
    pub async fn add_lora(&self, lora: AddLora) -> Result<AddedLora, LoraRemoteError> {
        let AddLora {
            name,
            model,
            files: LoraFiles { high, low },
            ..
        } = lora;
        if !is_lora_name(&name) {
            return Err(LoraRemoteError::Name { name });
        }
        if experts(model).len() == 1 && low.is_some() {
            return Err(LoraRemoteError::OneTransformer { model });
        }
        let mut given = BTreeMap::new();
        for (transformer, path) in experts(model).iter().zip([high, low]) {
            given.extend(path.map(|path| ((*transformer).to_owned(), path)));
        }
        if given.is_empty() {
            return Err(LoraRemoteError::NoFile);
        }
        let sizes = self.sizes(model).await?;
        let strength = lora.strength;
        let scratch = lora.scratch;
        let (mut files, mut rewritten) = (BTreeMap::new(), BTreeMap::new());
        for path in given.values() {
            let about = tokio::fs::metadata(path).await;
            let bytes = about.map_err(PackError::unreadable(path))?.len();
            if bytes > MAX_LORA_BYTES {
                let path = path.clone();
                return Err(LoraRemoteError::TooLarge { path, bytes });
            }
        }
        for (transformer, path) in given {
            let (to, name) = (scratch.clone(), format!("{transformer}.{SAFETENSORS}"));
            let written =
                spawn_blocking(move || rewrite(&path, &sizes, strength, &to, &name, |_| ()));
            let file = written.await??;
            rewritten.insert(transformer.clone(), scratch.join(&file.path));
            let (bytes, sha256) = (file.bytes, file.sha256);
            files.insert(transformer, StoredLora { bytes, sha256 });
        }
        let index = LoraIndex {
            format: LORA_FORMAT.to_owned(),
            name: name.clone(),
            model,
            files,
            source: lora.source,
            license: lora.license,
        };
        let there = match self.lora(&name).await {
            Ok(there) if there.index.model == model && there.index.files == index.files => {
                Some(there)
            }
            Ok(there) => {
                let model = there.index.model;
                return Err(LoraRemoteError::Taken { name, model });
            }
            Err(LoraRemoteError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        for (transformer, path) in rewritten {
            let file = &index.files[&transformer];
            let key = self.lora_file(&name, &file.sha256);
            let put = self
                .store
                .put_file_if_absent(
                    &key,
                    &path,
                    &file.sha256,
                    "application/octet-stream",
                    HashMap::new(),
                )
                .await;
            put.map_err(|source| LoraRemoteError::Put { path, source })?;
        }
        // Its files were sent again all the same: a removal that was cut short takes some and leaves the index.
        if let Some(lora) = there {
            let is_new = false;
            return Ok(AddedLora { lora, is_new });
        }
        let text = serde_json::to_vec_pretty(&index).expect("it has string keys only");
        let key = self.lora_pointer(&name);
        let sha256 = hex::encode(Sha256::digest(&text));
        let put = self.store.put_bytes(
            &key,
            Bytes::from(text),
            "application/json",
            false,
            HashMap::new(),
        );
        put.await
            .map_err(|source| LoraRemoteError::Pointer { key, source })?;
        Ok(AddedLora {
            lora: PublishedLora { index, sha256 },
            is_new: true,
        })
    }

    /// The LoRA of that name, as it is now.
    pub async fn lora(&self, name: &str) -> Result<PublishedLora, LoraRemoteError> {
        if !is_lora_name(name) {
            return Err(LoraRemoteError::Name {
                name: name.to_owned(),
            });
        }
        let key = self.lora_pointer(name);
        let text = match self.store.get_bytes(&key, MAX_LORA_INDEX_BYTES).await {
            Ok(text) => text,
            Err(GetBytesError::Missing { .. }) => {
                return Err(LoraRemoteError::Missing {
                    bucket: self.store.bucket().to_owned(),
                    name: name.to_owned(),
                });
            }
            Err(source) => return Err(LoraRemoteError::Get { key, source }),
        };
        Ok(PublishedLora {
            index: LoraIndex::parse(&text, &key)?,
            sha256: hex::encode(Sha256::digest(&text)),
        })
    }

    /// All of them, by name.
    pub async fn loras(&self) -> Result<Vec<PublishedLora>, LoraRemoteError> {
        let prefix = self.loras_prefix();
        let mut loras = Vec::new();
        for object in self.store.list(&prefix).await? {
            let rest = object.key.strip_prefix(&prefix).unwrap_or_default();
            if let Some((name, LORA_INDEX)) = rest.split_once('/') {
                loras.push(self.lora(name).await?);
            }
        }
        Ok(loras)
    }

    /// Removes it. Tasks that name it and have not ended will fail.
    pub async fn remove_lora(&self, name: &str) -> Result<PublishedLora, LoraRemoteError> {
        let there = self.lora(name).await?;
        let prefix = format!("{}{name}/", self.loras_prefix());
        self.store.delete_prefix(&prefix).await?;
        Ok(there)
    }

    /// Brings one file of a LoRA to `to`, whole and with the right hash.
    pub async fn fetch_lora(
        &self,
        name: &str,
        file: &StoredLora,
        to: &Path,
    ) -> Result<(), LoraRemoteError> {
        let key = self.lora_file(name, &file.sha256);
        match self.store.get_to_file(&key, to).await {
            // Its bytes were held against this hash.
            Ok(got) if got.sha256.as_ref() == Some(&file.sha256) => Ok(()),
            Ok(_) => Err(LoraRemoteError::OtherFile { key }),
            Err(source) => Err(LoraRemoteError::Fetch { key, source }),
        }
    }

    /// Of the layers, by the configuration in the model's pack.
    async fn sizes(&self, model: Model) -> Result<Sizes, LoraRemoteError> {
        let published = self.current(model, Path::new("")).await;
        let published = published.map_err(|source| LoraRemoteError::Sizes { model, source })?;
        let path = "transformer/config.json";
        let files = &published.pack.index.files;
        let config = files.iter().find(|file| file.path == path);
        let config = config.ok_or(PackError::NotListed {
            model,
            path: path.to_owned(),
        })?;
        let key = self.blob(&config.sha256);
        let text = self.store.get_bytes(&key, MAX_INDEX_BYTES).await;
        let text = text.map_err(|source| LoraRemoteError::Get {
            key: key.clone(),
            source,
        })?;
        let sizes = serde_json::from_slice(&text)
            .ok()
            .as_ref()
            .and_then(Sizes::read);
        Ok(sizes.ok_or(LoraError::Config { path: key.into() })?)
    }

    fn loras_prefix(&self) -> String {
        format!("{}loras/", self.prefix())
    }

    fn lora_pointer(&self, name: &str) -> String {
        format!("{}{name}/{LORA_INDEX}", self.loras_prefix())
    }

    fn lora_file(&self, name: &str, sha256: &str) -> String {
        format!("{}{name}/{sha256}.{SAFETENSORS}", self.loras_prefix())
    }
}
