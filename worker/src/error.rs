//! Why a worker cannot start.

use std::io;
use std::path::PathBuf;

use spotreel_bus::connect::ConnectError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Nats(#[from] ConnectError),
    #[error("{key} is wrong: correct the parameter")]
    Parameter {
        key: &'static str,
        source: ConnectError,
    },
    #[error("cannot create scratch {}", dir.display())]
    Scratch { dir: PathBuf, source: io::Error },
}
