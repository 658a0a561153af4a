//! One task in this worker: the files follow its path.

pub mod begin;
pub mod checkpoints;
pub mod finish;
pub mod interruption;
mod outcome;
pub mod prepare;
pub mod previews;
pub mod progress;
pub mod render;
pub mod take;
