//! Why a pack cannot be used.

use std::io;
use std::path::PathBuf;

use spotreel_domain::model::Model;

/// The codes are those of the engine, which checks the same things.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("no pack found: {} cannot be read", path.display())]
    NoPack { path: PathBuf, source: io::Error },
    #[error("{place} is not a pack index: {reason}")]
    BadIndex { place: String, reason: String },
    #[error("{place} holds {found}, not {wanted}")]
    WrongModel {
        place: String,
        found: Model,
        wanted: Model,
    },
    #[error("the pack of {model} has no {path}")]
    NotListed { model: Model, path: String },
    #[error("{path} is a pickle file: weights must be safetensors")]
    Pickle { path: String },
    #[error("{} is missing", path.display())]
    MissingFile { path: PathBuf },
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} has {found} bytes of {wanted}", path.display())]
    Truncated {
        path: PathBuf,
        found: u64,
        wanted: u64,
    },
    #[error("{} differs from the file in the pack's index", path.display())]
    Sha256Mismatch { path: PathBuf },
    #[error("{} is not a safetensors file: {reason}", path.display())]
    NotSafetensors { path: PathBuf, reason: String },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

impl PackError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPack { .. } => "no_pack",
            Self::BadIndex { .. } => "bad_index",
            Self::WrongModel { .. } => "wrong_model",
            Self::NotListed { .. } | Self::MissingFile { .. } => "missing_file",
            Self::Pickle { .. } | Self::NotSafetensors { .. } => "not_safetensors",
            Self::Unreadable { .. } => "unreadable",
            Self::Truncated { .. } => "truncated",
            Self::Sha256Mismatch { .. } => "sha256_mismatch",
            Self::Unwritable { .. } => "unwritable",
        }
    }

    pub(crate) fn unreadable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| match source.kind() {
            io::ErrorKind::NotFound => Self::MissingFile { path },
            _ => Self::Unreadable { path, source },
        }
    }

    pub(crate) fn unwritable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Unwritable { path, source }
    }
}
